"""Hounsfield windows and their unit range [-1, 1]; every function takes NumPy arrays or torch tensors, in float32."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .errors import InputError

INT16_MIN, INT16_MAX = -32768, 32767


@dataclass(frozen=True)
class Window:
    """A range of HU that is mapped linearly onto [-1, 1].

    Attributes:
        name: ``wide``, ``soft``, ``lung`` or ``LO HI``.
        lo, hi: HU that become -1 and +1; values outside are clipped.
    """

    name: str
    lo: float
    hi: float

    def __post_init__(self) -> None:
        """Check the limits."""
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo < self.hi):
            raise InputError(
                f"A window needs two finite HU with LO < HI; got {self.lo} {self.hi}. Example: '-1000 1000'."
            )

    @staticmethod
    def parse(value: str | tuple[float, float] | list[float] | Window) -> Window:
        """Read a window from its name, from ``"LO HI"`` (blank or comma between) or from two numbers.

        Raises:
            InputError: neither a known name nor two numbers with LO < HI.
        """
        if isinstance(value, Window):
            return value
        if isinstance(value, str):
            if value.strip().lower() in WINDOWS:
                return WINDOWS[value.strip().lower()]
            parts: list[Any] = value.replace(",", " ").split()
        else:
            parts = list(value)
        try:
            lo, hi = (float(part) for part in parts)
        except (TypeError, ValueError):
            raise InputError(
                f"A window is one of {', '.join(WINDOWS)} or two HU such as '-1000 400'; got {value!r}."
            ) from None
        return Window(f"{lo:g} {hi:g}", lo, hi)

    def to_unit(self, hu: Any) -> Any:
        """HU to [-1, 1], clipped.

        Args:
            hu: array or tensor of any shape and number type; left unchanged.

        Returns:
            Same shape, float32.
        """
        unit = _float32_copy(hu)
        unit -= self.lo
        unit *= 2.0 / (self.hi - self.lo)
        unit -= 1.0
        return unit.clip(-1.0, 1.0)

    def to_hu(self, unit: Any) -> Any:
        """Inverse of :meth:`to_unit` inside the window; not clipped, not rounded. float32."""
        hu = _float32_copy(unit)
        hu += 1.0
        hu *= (self.hi - self.lo) / 2.0
        hu += self.lo
        return hu


# wide: the Foundation-VAE papers' window. soft: their narrow window, a little tighter than the usual abdomen setting
# (level 40, width 400). lung: level -600, width 1500, the usual reading-room setting.
WINDOWS = {
    "wide": Window("wide", -1000.0, 1000.0),
    "soft": Window("soft", -175.0, 250.0),
    "lung": Window("lung", -1350.0, 150.0),
}


def round_hu(hu: Any) -> Any:
    """Round half to even and clip to int16 (never truncate).

    Args:
        hu: array or tensor of any shape; must be finite (a NaN has no integer).

    Returns:
        Same shape, int16.
    """
    if hasattr(hu, "astype"):
        return hu.astype("float32", copy=False).round().clip(INT16_MIN, INT16_MAX).astype("int16")
    return hu.float().round().clip(INT16_MIN, INT16_MAX).short()


def _float32_copy(values: Any) -> Any:
    """A float32 copy of a NumPy array or torch tensor, free to be changed in place."""
    if hasattr(values, "astype"):
        return values.astype("float32", copy=True)
    return values.detach().float().clone()
