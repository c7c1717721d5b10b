"""``ctgencore evaluate``: numbers for volumes against references, masks and reports."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..errors import CasesFailed, InputError
from ..jobs import Job, run_evaluation
from ..jobs.evaluation import OUTPUT
from .common import (
    AsJson,
    Device,
    Offline,
    Quiet,
    Seed,
    Threads,
    Verbose,
    forbid_network,
    number,
    print_event,
    reporting,
    stdout,
    talk,
    wide,
)
from .progress import Display

SHOWN = 60  # lines of the summary on the terminal


def evaluate(
    test: Annotated[
        Path | None, typer.Argument(help="Volume, folder of volumes, or manifest (CSV); with --recipe: its folder.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FOLDER", help="Results; run again to resume or to add metrics."),
    ] = None,
    reference: Annotated[Path | None, typer.Option("-r", "--reference", help="What TEST should be like.")] = None,
    labels: Annotated[Path | None, typer.Option("-l", "--labels", help="Organ labels: a file, or a folder.")] = None,
    test_labels: Annotated[
        Path | None, typer.Option(help="Organ labels of TEST itself, to compare with --labels: a file, or a folder.")
    ] = None,
    diseases: Annotated[Path | None, typer.Option(help="Disease classes: a file, or a folder.")] = None,
    difference: Annotated[Path | None, typer.Option(help="Also write test minus reference, HU (one pair).")] = None,
    metrics: Annotated[
        list[str] | None, typer.Option("-m", "--metrics", metavar="NAME", help="A metric or preset; repeat for more.")
    ] = None,
    window: Annotated[str, typer.Option(help="HU of metrics that name none: wide, soft, lung, or 'LO HI'.")] = "wide",
    tolerance: Annotated[float, typer.Option(metavar="MM", help="Tolerance of the surface Dice.")] = 2.0,
    segmenter: Annotated[str, typer.Option(help="threshold, totalsegmentator or lungmask.")] = "threshold",
    scheme: Annotated[
        str, typer.Option(help="Numbering of the labels: ctgen, totalsegmentator, vista3d, btcv, names, or a CSV file.")
    ] = "ctgen",
    clip_pad: Annotated[str, typer.Option(help="Padding of CT-CLIP's input: air or vlm3d.")] = "air",
    allow_small: Annotated[
        bool, typer.Option("--allow-small", help="Frechet distances of fewer volumes than they need.")
    ] = False,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Two sets: names are not compared.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Slices or patches that a network sees at once.")] = 8,
    device: Device = "auto",
    threads: Threads = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the cases.")] = 1,
    seed: Seed = 0,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", help="Fill a paper's table: table1 to table5, medsyn2-table1, ...")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What the paper leaves open; repeat for several.")
    ] = None,
    study: Annotated[
        Path | None, typer.Option(metavar="CSV", help="summary.csv of `ctgencore study`, for recipes that need it.")
    ] = None,
    list_metrics: Annotated[bool, typer.Option("--list", help="List metrics and presets, and what they need.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Measure volumes against references, masks and reports; a case that fails does not stop the others."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        if list_metrics:
            _list(as_json=as_json)
            return
        options = {
            "metrics": tuple(metrics or ("reconstruction",)),
            "window": window,
            "tolerance_mm": tolerance,
            "segmenter": segmenter,
            "scheme": scheme,
            "clip_pad": clip_pad,
            "allow_small": allow_small,
            "unpaired": unpaired,
            "batch": batch,
            "device": device,
            "threads": threads,
            "workers": workers,
            "seed": seed,
        }
        if recipe is not None:
            from .papers import fill_table

            given: dict[str, object] = {
                "--reference": reference,
                "--labels": labels,
                "--test-labels": test_labels,
                "--diseases": diseases,
            }
            given["--metrics"] = metrics
            fill_table(recipe, test, output, options, choice or [], study, given, as_json=as_json, quiet=quiet)
            return
        if test is None or output is None:
            raise InputError("What to measure and a folder for the results are missing: evaluate TEST -o FOLDER.")
        output.mkdir(parents=True, exist_ok=True)
        job = Job(
            id="J1",
            task="evaluate",
            input=test,
            reference=reference,
            mask=labels,
            test_mask=test_labels,
            disease=diseases,
            output=output / OUTPUT,
            difference=difference,
            options=options,
        )
        traces = sys.stderr.write if verbose else lambda text: None
        last: dict[str, Any] = {}
        with Display(quiet=quiet or as_json, total=1) as display:

            def emit(event: dict[str, Any]) -> None:
                if as_json:
                    print_event(event)
                elif event["event"] == "result":
                    last.update(event)
                elif event["event"] != "warning":  # failures are listed at the end
                    display(event)

            code = run_evaluation(job, emit, traces=traces)
        if last:
            show(last["metrics"], quiet=quiet)
            print(last["outputs"]["evaluation"])
        if code:
            if not as_json:
                failed(last["metrics"])
            raise typer.Exit(code)


def show(metrics: dict[str, Any], *, quiet: bool = False) -> None:
    """Print the summary of a result event as a table, its verdicts and, unless quiet, its notes."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("metric", "region"):
        table.add_column(name)
    for name in ("n", "mean", "sd", "95 % CI"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("unit", "worst"):
        table.add_column(name)
    before = ""
    for line in metrics["summary"][:SHOWN]:
        low, high = line["ci95"]
        interval = "" if low is None else f"{number(low)} .. {number(high)}"
        place = "" if line["slice"] is None else f"slice {line['slice']}"
        table.add_row(
            "" if line["metric"] == before else line["metric"],
            escape(line["region"]),
            *(str(line["n"]), number(line["mean"]), number(line["sd"]), interval),
            *(line["unit"], escape(f"{line['worst']} {place}".strip())),
        )
        before = line["metric"]
    wide().print(table)
    if len(metrics["summary"]) > SHOWN:
        stdout.print(f"{len(metrics['summary']) - SHOWN} more lines are in summary.csv.")
    for each in metrics["verdicts"]:
        where = f" ({each['region']})" if each["region"] not in ("", "all") else ""
        value = f"{each['metric']}{where} = {number(each['value'])}"
        stdout.print(f"{each['verdict']:10} {escape(value)}: {each['limit']}", soft_wrap=True)
    for note in metrics["notes"] if not quiet else ():
        talk(note, style="yellow")


def failed(metrics: dict[str, Any]) -> None:
    """List what failed, on stderr."""
    lines = [
        f"{each['case'] or 'sets'} {each['metric']}".strip() + f": {each['message']}" for each in metrics["failures"]
    ]
    count = f"{metrics['failed']} of {metrics['cases'] + metrics['failed']} cases"
    talk(str(CasesFailed(f"{len(lines)} failures in {count}:\n  " + "\n  ".join(lines))), style="red")


def _list(*, as_json: bool) -> None:
    from ..metrics.presets import PRESETS
    from ..metrics.table import EXTRACTORS, METRICS
    from ..tasks.evaluate import why_missing

    if as_json:
        names = ("title", "unit", "better", "kind", "needs", "source", "version")
        facts = {
            name: {each: getattr(row, each) for each in names} | {"why": why_missing(name)}
            for name, row in METRICS.items()
        }
        print_event({"metrics": facts, "presets": {name: list(members) for name, members in PRESETS.items()}})
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("metric", no_wrap=True)  # a name that is cut in two cannot be searched for
    for name in ("title", "unit", "better", "of", "needs", "weights"):
        table.add_column(name)
    for name, row in METRICS.items():
        weights = EXTRACTORS[row.extractor].weights if row.extractor else ""
        here = "" if not weights else f"{weights} ({'missing' if why_missing(name) else 'here'})"
        table.add_row(name, row.title.split(":")[0], row.unit, row.better, row.kind, ", ".join(row.needs), here)
    wide().print(table)
    for name, members in PRESETS.items():
        stdout.print(f"{name}: {', '.join(members)}", soft_wrap=True)
