"""``ctgencore train``: run a training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Seed, Verbose, reporting


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as tiny or embedded-codec.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for checkpoints; a run in it is resumed.")],
    steps: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's number of steps.")] = None,
    seed: Seed = 0,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make training clips.")] = 1,
    verbose: Verbose = False,
) -> None:
    """Train a codec from a recipe; prints one JSON line per 50 steps and, last, the folder of the weights."""
    with reporting(verbose=verbose):
        from ..training.recipes import RECIPES
        from ..zoo import lookup

        chosen = lookup(RECIPES, recipe, "recipe")
        from ..training.loop import train_codec

        print(train_codec(chosen, output, steps=steps, seed=seed, workers=workers, log=_log))


def _log(line: str) -> None:
    print(line, flush=True)
