"""What a run writes beside its weights: the curve, averaged weights, checkpoints that are whole or absent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CTGenError


class NotFinite(CTGenError):
    """A loss or gradient became NaN or infinite; the last checkpoint is from before."""

    exit_code = 5
    code = "not_finite"


def check_finite(value: float, what: str, step: int, checkpoint: int) -> None:
    """Stop a training that has diverged.

    Raises:
        NotFinite: ``value`` is no finite number.
    """
    if not math.isfinite(value):
        raise NotFinite(
            f"The {what} is {value} at step {step}; it must be finite. Nothing was written since step {checkpoint}. "
            "Lower the recipe's rate or set its clip_norm, or look for broken volumes in the cache; the same command "
            "goes on from that step."
        )


class Curve:
    """Numbers by step, as JSON lines and, where TensorBoard is installed, for it too.

    Args:
        path: the JSON lines; those after ``step`` (of a run that was killed after its last checkpoint) are cut off.
        step: of the checkpoint that the run goes on from.
    """

    def __init__(self, path: Path, step: int) -> None:
        kept = []
        if path.is_file():
            kept = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in kept))
        self._stream = path.open("a")
        self._board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=step + 1)

    def add(self, step: int, **values: float) -> None:
        """One line."""
        self._stream.write(json.dumps({"step": step, **values}) + "\n")
        self._stream.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def add_picture(self, step: int, name: str, grey_YX: Tensor) -> None:
        """A picture with values in 0..1, for TensorBoard only."""
        if self._board is not None:
            self._board.add_image(name, grey_YX[None], step)

    def close(self) -> None:
        """Flush and close."""
        self._stream.close()
        if self._board is not None:
            self._board.close()


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):  # the last line of a killed run may be half a line
        return math.inf


def read_curve(path: Path, name: str = "loss") -> list[tuple[int, float]]:
    """``(step, value)`` of one of the numbers."""
    lines = (json.loads(line) for line in path.read_text().splitlines())
    return [(line["step"], line[name]) for line in lines if name in line]


@torch.no_grad()
def update_average(average: Mapping[str, Tensor], current: Mapping[str, Tensor], decay: float, updates: int) -> None:
    """Move the averaged weights towards the current ones; the decay warms up as (1 + n) / (10 + n)."""
    share = 1 - min(decay, (1 + updates) / (10 + updates))
    for name, value in current.items():
        average[name].lerp_(value.to(average[name].device), share)


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; a process killed meanwhile leaves the previous one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    torch.save(dict(state), temporary)
    temporary.replace(path)


def load_state(path: Path) -> dict[str, Any] | None:
    """The checkpoint, or None when there is none yet; its tensors are on the CPU."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.is_file() else None
