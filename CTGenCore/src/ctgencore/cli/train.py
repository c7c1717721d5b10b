"""``ctgencore train``: run a training recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Verbose, reporting

Paths = list[Path]


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe, such as foundation.embedded or embedded-codec.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for checkpoints; a run in it is resumed.")],
    data: Annotated[
        Paths | None, typer.Option(help="Folder of pairs, or a CT-RATE list; may be given often. Default: phantoms.")
    ] = None,
    validation: Annotated[Paths | None, typer.Option(help="The same, of other patients.")] = None,
    root: Annotated[Path | None, typer.Option(help="Folder below which a list's volumes lie.")] = None,
    apply_rescale: Annotated[
        bool, typer.Option("--apply-rescale", help="A list's CTs are raw: apply its slope and intercept.")
    ] = False,
    scheme: Annotated[
        str, typer.Option(help="Numbering of a folder's organ masks, such as totalsegmentator.")
    ] = "ctgen",
    cache: Annotated[Path | None, typer.Option(help="Folder of the latents; runs may share it.")] = None,
    cache_only: Annotated[bool, typer.Option("--cache-only", help="Encode the data and stop.")] = False,
    use_cache: Annotated[
        bool, typer.Option("--use-cache", help="Train on what is in the cache, which --cache-only may be filling.")
    ] = False,
    samples: Annotated[int | None, typer.Option(min=1, help="Number of phantoms.")] = None,
    text_encoder: Annotated[Path | None, typer.Option(help="Folder of CXR-BERT: vocab.txt and weights.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of each stage, instead of the recipe's.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that make training data.")] = 1,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    verbose: Verbose = False,
) -> None:
    """Train a codec or a generator from a recipe; prints JSON lines and, last, the folder of the weights.

    Several GPUs: accelerate launch -m ctgencore train ...
    """
    with reporting(verbose=verbose):
        from ..training.run import TrainOptions, run

        options = TrainOptions(
            data=tuple(data or ()),
            validation=tuple(validation or ()),
            root=root,
            apply_rescale=apply_rescale,
            scheme=scheme,
            cache=cache,
            cache_only=cache_only,
            use_cache=use_cache,
            samples=samples,
            text_encoder=text_encoder,
            steps=steps,
            seed=seed,
            workers=workers,
            save_every=save_every,
        )
        print(run(recipe, output, options, _log))


def _log(line: str) -> None:
    print(line, flush=True)
