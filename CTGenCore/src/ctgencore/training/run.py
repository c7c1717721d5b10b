"""From a recipe's name and paths to a run: the same way for codecs and generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..zoo import lookup
from .recipes import RECIPES, CodecRecipe

if TYPE_CHECKING:
    from .generator_recipes import GeneratorRecipe
    from .latents import Log
    from .readers import Reader

VALIDATION_PHANTOMS = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainOptions:
    """What the command line may say beside the recipe.

    Attributes:
        data, validation: folders of pairs or lists of CT-RATE volumes; phantoms by default.
        root: folder below which the volumes of a list lie.
        apply_rescale: apply the slope and intercept of the list's metadata table (raw files only).
        scheme: numbering of the organ masks in a folder of pairs.
        cache: folder of the latents; by default in the run's.
        cache_only: fill the cache and stop.
        use_cache: train on what is in the cache, which another process may be filling.
        samples: number of phantoms, instead of the recipe's.
        text_encoder: folder of CXR-BERT, for the recipes that need it.
        steps: of each stage, instead of the recipe's.
        seed: instead of the recipe's.
        workers: processes that make or read training data.
        save_every: steps between checkpoints.
    """

    data: tuple[Path, ...] = ()
    validation: tuple[Path, ...] = ()
    root: Path | None = None
    apply_rescale: bool = False
    scheme: str = "ctgen"
    cache: Path | None = None
    cache_only: bool = False
    use_cache: bool = False
    samples: int | None = None
    text_encoder: Path | None = None
    steps: int | None = None
    seed: int | None = None
    workers: int = 1
    save_every: int = 500


def run(name: str, folder: Path, options: TrainOptions, log: Log) -> Path:
    """Run a recipe; a run found in ``folder`` is resumed.

    Returns:
        The folder of the weights, or of the cache with ``cache_only``.

    Raises:
        InputError: unknown recipe, or options that do not go with it.
    """
    if name in RECIPES:
        return _run_codec(RECIPES[name], folder, options, log)
    from .generator_recipes import GENERATOR_RECIPES

    recipe: GeneratorRecipe = lookup({**RECIPES, **GENERATOR_RECIPES}, name, "recipe")
    return _run_generator(recipe, folder, options, log)


def _run_codec(recipe: CodecRecipe, folder: Path, options: TrainOptions, log: Log) -> Path:
    from .loop import train_codec

    if options.data or options.validation or options.cache_only or options.use_cache:
        raise InputError(
            f"Recipe '{recipe.name}' makes its own clips: leave out --data, --validation, --cache-only and --use-cache."
        )
    return train_codec(
        recipe,
        folder,
        steps=options.steps,
        seed=options.seed or 0,
        workers=options.workers,
        save_every=options.save_every,
        log=log,
    )


def _run_generator(recipe: GeneratorRecipe, folder: Path, options: TrainOptions, log: Log) -> Path:
    from accelerate import PartialState

    from ..codecs.base import Codec
    from .diffusion import VOCABULARY_REPORTS, Data, train_generator
    from .latents import CacheSettings, cache_folder, fill_cache
    from .readers import PhantomReader, check_split
    from .reading import lessons

    if options.seed is not None:
        recipe = replace(recipe, seed=options.seed)
    training, validation = open_readers(recipe, options)
    if validation is not None:
        check_split(training, validation)
    process = PartialState()
    settings = CacheSettings.of(recipe)
    cache = cache_folder(options.cache or folder / "cache", settings)
    data = Data(training=cache / "training", validation=cache / "validation")
    if isinstance(training, PhantomReader):
        learned = lessons(training) if recipe.reading_steps and not options.cache_only else []
        data = replace(data, reports=training.texts(VOCABULARY_REPORTS), lessons=learned)
    if not options.use_cache or options.cache_only:
        for reader, target in ((validation, data.validation), (training, data.training)):
            if reader is None:
                continue
            share = range(process.process_index, len(reader), process.num_processes)
            workers = options.workers if process.device.type == "cpu" else 0
            fill_cache(reader, settings, target, indices=share, workers=workers, device=str(process.device), log=log)
        process.wait_for_everyone()
    if options.cache_only:
        return cache
    return train_generator(
        recipe,
        folder,
        data,
        Codec.from_pretrained(recipe.codec, device=str(process.device)),
        steps=options.steps,
        workers=0 if process.device.type == "cpu" else options.workers,
        save_every=options.save_every,
        text_folder=options.text_encoder,
        log=log,
    )


def open_readers(recipe: GeneratorRecipe, options: TrainOptions) -> tuple[Reader, Reader | None]:
    """Training and validation samples.

    Raises:
        InputError: what is named is neither a folder of pairs nor a list.
    """
    from .latents import voxels_of
    from .readers import VALIDATION_SEEDS, PhantomReader

    if options.data:
        training = open_data(options.data, recipe, options)
        return training, open_data(options.validation, recipe, options) if options.validation else None
    if recipe.codec != "embedded":
        raise InputError(f"Recipe '{recipe.name}' learns from CT: give a folder of pairs or a list with --data.")
    native = voxels_of(recipe.window_zyx)
    larger = (native[0] + 16, native[1] + 16, native[2] + 16)  # windows inside a volume are not like its borders
    phantoms = PhantomReader(
        count=options.samples or recipe.phantoms,
        shapes_zyx=(native, larger),
        plane_mm=recipe.plane_mm,
        slice_mm=recipe.slice_mm,
    )
    held_out = min(VALIDATION_PHANTOMS, len(phantoms))
    return phantoms, replace(phantoms, first_seed=VALIDATION_SEEDS, count=held_out)


def open_data(paths: Sequence[Path], recipe: GeneratorRecipe, options: TrainOptions) -> Reader:
    """Folders of pairs and lists as one reader."""
    from .ctrate import ListReader
    from .readers import FolderReader, JoinedReader

    readers: list[Reader] = []
    lists = [path for path in paths if path.is_file()]
    for path in paths:
        if path.is_dir():
            readers.append(FolderReader(path, options.scheme, recipe.prompt_format))
        elif not path.is_file():
            raise InputError(f"--data is a folder of pairs or a list (.csv, .json, .jsonl); there is no {path}.")
    if lists:
        readers.append(ListReader(lists, options.root, recipe.prompt_format, apply_rescale=options.apply_rescale))
    return readers[0] if len(readers) == 1 else JoinedReader(readers)
