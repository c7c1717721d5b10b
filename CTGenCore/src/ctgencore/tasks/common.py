"""What the tasks share: progress, threads, versions."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """``done`` of ``total`` units of a stage."""

    stage: str
    done: int
    total: int
    unit: str = "slices"


Report = Callable[[ProgressEvent], None]


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Use so many CPU threads inside; None keeps torch's choice."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def versions() -> dict[str, str]:
    """Versions for the record."""
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
