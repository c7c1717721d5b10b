"""``ctgencore reconstruct`` with several codecs: a comparison, as a table."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Column, Table

from ..errors import CasesFailed, InputError
from ..jobs import Job, parse_options, run_comparison
from ..jobs.comparison import OUTPUT
from .common import number, print_event, talk, undone, wide
from .progress import Display, reconstruction


def compare_codecs(
    source: Path,
    output: Path,
    options: Mapping[str, Any],
    report: Path | None,
    *,
    skip_existing: bool,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Run a comparison and show it.

    Args:
        source: volume file or DICOM folder.
        output: folder.
        options: fields of ``CompareOptions``.
        report: HTML page to write, or None.
        skip_existing: keep what an earlier run finished in the folder.
        overwrite: replace it.
        as_json, quiet, verbose: as on the command line.

    Raises:
        CTGenError: it cannot run, or every codec failed.
        typer.Exit: some codecs failed.
    """
    from .. import io

    parse_options(options, "compare")
    if output.is_file() or output.name.lower().endswith(io.FORMATS):
        raise InputError(f"Several codecs give several files, so the output must be a folder; got {output}.")
    job = Job(id="J1", task="compare", input=source, output=output / OUTPUT, options=options)
    alone = [report] if report is not None else []
    undone([job.output], skip_existing=skip_existing, overwrite=overwrite, alone=alone)
    output.mkdir(parents=True, exist_ok=True)
    last: dict[str, Any] = {}
    with Display(quiet=quiet or as_json, total=1) as display:

        def emit(event: dict[str, Any]) -> None:
            if as_json:
                print_event(event)
            elif event["event"] == "row":
                row = event["row"]
                if not quiet and row["error"] is None:
                    talk(f"{row['codec']}: {reconstruction(row)}, {row['seconds']:.1f} s")
            elif event["event"] != "result":
                display(event)
            if event["event"] == "result":
                last.update(event)

        traces = sys.stderr.write if verbose else lambda text: None
        code = run_comparison(job, emit, traces=traces, resume=not overwrite)
    rows = last["metrics"]["rows"]
    if report is not None:
        _write_report(report, source, output, rows)
    if not as_json:
        show(rows)
        print(last["outputs"]["comparison"])
    if code:
        failed = [f"{row['codec']}: {row['error']}" for row in rows if row["error"] is not None]
        if not as_json:
            text = f"{len(failed)} of {len(rows)} codecs failed:\n  " + "\n  ".join(failed)
            talk(str(CasesFailed(text)), style="red")
        raise typer.Exit(code)


def show(rows: list[dict[str, Any]]) -> None:
    """Print the rows as a table; a column that no codec has is left out."""
    numbers = {
        "PSNR dB": [math.inf if row["psnr"] is None and row["error"] is None else row["psnr"] for row in rows],
        "MAE HU": [row["mae_hu"] for row in rows],
        "edge shift mm": [row["edge_shift_mm"] for row in rows],
        "time s": [row["seconds"] for row in rows],
        "memory MiB": [row["peak_bytes"] and row["peak_bytes"] / 2**20 for row in rows],
        "seam HU": [row["seam_hu"] for row in rows],
    }
    numbers = {name: values for name, values in numbers.items() if any(value is not None for value in values)}
    table = Table(Column("codec", no_wrap=True), box=SIMPLE_HEAD, pad_edge=False)
    for name in numbers:
        table.add_column(name, justify="right")
    for name in ("license", "weights"):
        table.add_column(name)
    for place, row in enumerate(rows):
        cells = (number(values[place]) for values in numbers.values())
        table.add_row(escape(row["codec"]), *cells, escape(row["license"]), row["weights"])
    wide().print(table)


def _write_report(path: Path, source: Path, folder: Path, rows: list[dict[str, Any]]) -> None:
    """A page with one case per codec, each read back when its turn comes; its differences share one scale."""
    from .. import io
    from ..provenance import RunRecord
    from ..report import Case, Page

    ct = io.read(source)
    done = [row for row in rows if row["volume"] is not None]
    page = Page(len(done))
    for row in done:
        result = io.read(folder / row["volume"])
        result.record = RunRecord.from_json(io.sidecar_path(folder / row["volume"]).read_text(encoding="utf-8"))
        case = Case.of(source, ct, result)
        page.add(replace(case, title=f"{row['codec']}: {case.title}"))
    page.write(path)
