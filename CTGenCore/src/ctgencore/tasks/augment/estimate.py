"""How long an augmentation will take and how much disk, from headers and a trial of each codec."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...errors import CTGenError
from ...io.inspect import inspect
from ...io.transfer import ending
from ..forecast import forecast
from .layout import common_ending, usable_cases
from .model import DataSet
from .options import AugmentOptions
from .views import Choice

BYTES_PER_VOXEL = 4 / 3  # int16 CT, zipped at level 1: two thirds of its size (see ctgencore.io)


def estimate(dataset: DataSet, options: AugmentOptions, output: Path | None = None) -> dict[str, Any]:
    """What to expect of a run from the start; no voxel is read.

    Args:
        dataset: what was recognized.
        options: see :class:`AugmentOptions`.
        output: folder of the result, if known: on another disk than the data set originals and labels are copied.

    Returns:
        ``seconds`` of one process (None where a codec cannot be tried here) and ``bytes`` of the new files.
    """
    cases = usable_cases(dataset)
    suffix = common_ending(cases, options.layout)
    sizes: list[tuple[int, int, int]] = []
    volume = 0.0
    for case in cases:
        if case.split == "train" and dataset.ct_channels:
            size = inspect(case.images[dataset.ct_channels[0]]).size_xyz
            sizes.append(size)
            volume += BYTES_PER_VOXEL * math.prod(size) * len(dataset.ct_channels) * len(options.views)
        if case.split == "test" or options.mode == "add":
            for path in case.images:
                if not ending(path) or (suffix and ending(path) != suffix):
                    volume += BYTES_PER_VOXEL * math.prod(inspect(path).size_xyz)
                elif not _same_disk(path, output):
                    volume += path.stat().st_size
    return {"seconds": _seconds(dataset, options, sizes), "bytes": round(volume)}


def _seconds(dataset: DataSet, options: AugmentOptions, sizes: list[tuple[int, int, int]]) -> float | None:
    """Each codec's forecast for the case in the middle, by voxels for the others."""
    if not sizes:
        return 0.0
    total = sum(math.prod(size) for size in sizes)
    middle = sorted(sizes, key=math.prod)[len(sizes) // 2]
    each: dict[str, float] = {}
    seconds = 0.0
    for view in options.plan():
        for codec in view.codecs:
            if codec not in each:
                chosen = Choice(codec=codec, window=view.windows[0], latent_noise=0.0, residual=0.0, seed=0)
                try:
                    each[codec] = forecast(middle[::-1], options.of(chosen)).seconds
                except CTGenError:
                    return None
            seconds += each[codec] / len(view.codecs) * total / math.prod(middle)
    return seconds * len(dataset.ct_channels)


def _same_disk(path: Path, output: Path | None) -> bool:
    if output is None:
        return True
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    return there.stat().st_dev == path.stat().st_dev
