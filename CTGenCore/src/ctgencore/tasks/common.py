"""What the tasks share: progress, threads, versions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from ..volume import Volume


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """``done`` of ``total`` units; ``before`` of them were done when the stage began, where stages count on."""

    stage: str
    done: int
    total: int
    unit: str = "slices"
    before: int = 0


Report = Callable[[ProgressEvent], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecOptions:
    """How any codec is run, whatever for; the options of tasks that run codecs have these fields.

    Attributes:
        window: HU range that the network sees: ``wide`` [-1000, 1000], ``soft``, ``lung``, or ``"LO HI"``.
        dtype: network precision; HU arithmetic is float32 whatever it is. ``auto``: float32 unless that needs tiles.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        memory: bytes for activations, such as ``8GiB``; None takes most of what is free.
        threads: CPU threads; None keeps torch's choice.
        calibrate: fit gain and offset in HU to the input (two numbers, kept in the record).
    """

    window: str = "wide"
    dtype: str = "float32"
    device: str = "auto"
    memory: str | None = None
    threads: int | None = None
    calibrate: bool = False


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads inside; None keeps torch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def difference_of(result: Volume, source: Volume) -> Volume:
    """Result minus source in HU, with the result's record."""
    assert result.record is not None
    record = replace(result.record, notes=[*result.record.notes, "output minus input, HU"])
    return source.with_voxels(result.voxels - source.voxels, record=record)


def versions() -> dict[str, str]:
    """Versions for the record."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
