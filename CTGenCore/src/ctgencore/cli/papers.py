"""``ctgencore evaluate --recipe``: a paper's table with our rows beside the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from ..errors import CasesFailed, InputError
from ..jobs import ProgressEvents, parse_options
from .common import print_event, stdout, talk, wide
from .progress import Display

if TYPE_CHECKING:
    from ..tasks.evaluate_papers import PaperTable

COLUMNS = 6  # of a table on the terminal; wider ones are printed in pieces


def fill_table(
    name: str,
    root: Path | None,
    output: Path | None,
    options: dict[str, Any],
    choices: Sequence[str],
    study: Path | None,
    unused: Mapping[str, object],
    *,
    as_json: bool,
    quiet: bool,
) -> None:
    """Fill the table of a recipe, print it, and write it when there is a folder for it.

    Raises:
        InputError: an option that recipes do not take, or no folder to write to.
    """
    from ..metrics.papers import RECIPES
    from ..tasks.evaluate_papers import layout, paper_table
    from ..zoo import lookup

    recipe = lookup(RECIPES, name, "recipe")
    wrong = [flag for flag, value in unused.items() if value]
    if wrong:
        raise InputError(f"A recipe has its own metrics and folders; leave out {', '.join(wrong)}.")
    if root is not None and output is None:
        raise InputError("A folder for the results is missing: -o FOLDER.")
    answers = dict(text.partition("=")[::2] for text in choices)
    with Display(quiet=quiet or as_json, total=1) as display:
        progress = ProgressEvents("J1", print_event if as_json else display)
        table = paper_table(
            name, root, output, parse_options(options, "evaluate"), choices=answers, study=study, progress=progress
        )
    path = table.save(output) if output is not None else None
    if as_json:
        print_event({"event": "table", **table.to_dict()})
    else:
        show(table)
        for note in () if quiet else table.notes:
            talk(note, style="yellow")
        if root is None and study is None and not quiet:
            talk(f"Published rows only. To fill in yours, lay out: {layout(recipe)}")
        if path is not None:
            print(path)
    if table.failures:
        if not as_json:
            lines = "\n  ".join(f"{each.case} {each.metric}: {each.message}" for each in table.failures)
            talk(str(CasesFailed(f"{len(table.failures)} failures:\n  {lines}")), style="red")
        raise typer.Exit(CasesFailed.exit_code)


def show(table: PaperTable) -> None:
    """Print a table; ours in bold below the published row of the same name."""
    from ..tasks.evaluate_papers import cell_text

    stdout.print(f"{table.paper}\n{table.where}: {table.title}", soft_wrap=True, markup=False)
    for start in range(0, len(table.columns), COLUMNS):
        piece = slice(start, start + COLUMNS)
        shown = Table(box=SIMPLE_HEAD, pad_edge=False)
        shown.add_column("")
        for column in table.columns[piece]:
            shown.add_column(escape(column), justify="right")
        for line in table.lines:
            cells = [escape(cell_text(cell)) for cell in line.cells[piece]]
            shown.add_row(escape(f"{line.name} (here)" if line.ours else line.name), *cells, style="bold" * line.ours)
        wide().print(shown)
