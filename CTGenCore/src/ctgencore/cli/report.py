"""``ctgencore report``: evaluations, or a pair of volumes, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .common import Overwrite, Quiet, Verbose, reporting, talk, undone


def report(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="What `ctgencore evaluate -o FOLDER` wrote.")
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    pair: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="TEST REFERENCE", help="Show two volumes on one grid, without an evaluation."),
    ] = None,
    labels: Annotated[Path | None, typer.Option("-l", "--labels", help="Organ labels to draw over the pair.")] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(metavar="FOLDER", help="Where evaluated images are, if not beside FOLDER; repeat for several."),
    ] = None,
    size: Annotated[int, typer.Option(min=1, metavar="MB", help="About how large the page may get.")] = 39,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Write one HTML file with images, metrics, plots and provenance: it opens offline, in any browser."""
    with reporting(verbose=verbose):
        if bool(folders) == (pair is not None):
            raise InputError("Give folders of evaluations, or --pair TEST REFERENCE; one of the two.")
        if labels is not None and pair is None:
            raise InputError("--labels goes with --pair; an evaluation knows its labels.")
        undone([output], overwrite=overwrite)
        if pair is not None:
            _write_pair(output, *pair, labels, size * 1_000_000)
        else:
            _write_runs(output, folders or [], images or [], size * 1_000_000, quiet=quiet)
        print(output.resolve())


def _write_pair(output: Path, test: Path, reference: Path, labels: Path | None, max_bytes: int) -> None:
    from dataclasses import replace

    from .. import io
    from ..provenance import verify
    from ..report import Case, write_page

    paths = {"reference": reference, "test": test}
    volumes = {name: io.read(path) for name, path in paths.items()}
    origins = {}
    for name, path in paths.items():
        found = verify(path)
        volumes[name].record, origins[name] = found.record, found.message
    organs = io.read_labels(labels) if labels is not None else None
    case = Case.of(test, volumes["reference"], volumes["test"], organs, names=("reference", "test"))
    write_page(output, [replace(case, origins=origins)], max_bytes=max_bytes)


def _write_runs(output: Path, folders: list[Path], images: list[Path], max_bytes: int, *, quiet: bool) -> None:
    from ..report import Page
    from ..report.evaluations import MOST_CASES, choose, find_case, read_runs

    for folder in images:
        if not folder.is_dir():
            raise InputError(f"--images needs folders; {folder} is none.")
    runs = read_runs(folders)
    chosen = {name: choose(content, max(1, MOST_CASES // len(runs))) for name, content in runs.items()}
    count = sum(map(len, chosen.values()))
    page = Page(count, evaluations=runs, max_bytes=max_bytes)
    for folder, (name, cases) in zip(folders, chosen.items(), strict=True):
        left_out = len(runs[name]["inputs"]) - len(cases)
        if left_out:
            page.note(
                name, f"{left_out} more cases are in the tables without images: the page shows the worst {len(cases)}."
            )
        for case in cases:
            try:
                page.add(find_case(runs[name], case, images or [folder.resolve().parent]))
            except InputError as error:
                page.note(name, str(error))
                if not quiet:
                    talk(str(error))
    page.write(output)
