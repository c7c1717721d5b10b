"""Number formats: what they alone take from HU on their way into a network or out of it, and which to use."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..errors import InputError, OutOfMemory
from ..intensity import WINDOWS, Window
from ..runtime import resolve_dtype
from .plan import SlabPlan

if TYPE_CHECKING:
    from .base import Codec

SOFT_TISSUE = (-160.0, 240.0)  # HU
STEP = 0.05  # HU between the values that are tried


@dataclass(frozen=True, slots=True)
class Rounding:
    """Error in HU of one rounding to a number format.

    Attributes:
        rms, largest: over the window.
        soft_rms, soft_largest: over soft tissue, -160..240 HU.
    """

    rms: float
    largest: float
    soft_rms: float
    soft_largest: float


def rounding(
    dtype: torch.dtype, unit_range: tuple[float, float] = (-1.0, 1.0), window: Window = WINDOWS["wide"]
) -> Rounding:
    """Measured on every twentieth of a HU of the window, mapped to the network's range as codecs map it."""
    hu = torch.arange(window.lo, window.hi, STEP, dtype=torch.float64)
    low, high = unit_range
    unit = (hu - window.lo) / (window.hi - window.lo) * (high - low) + low
    back = (unit.to(dtype).double() - low) / (high - low) * (window.hi - window.lo) + window.lo
    error = (back - hu).abs()
    soft = error[(hu >= SOFT_TISSUE[0]) & (hu <= SOFT_TISSUE[1])]
    values = [float(v) for each in (error, soft) for v in (each.square().mean().sqrt(), each.max())]
    return Rounding(*values)


def refuse_rounding(codec: str, unit_range: tuple[float, float], dtype: torch.dtype) -> None:
    """Number formats are finest at zero: below float32, zero must be in the middle of the range, where soft tissue is.

    Raises:
        InputError: it is not.
    """
    if dtype != torch.float32 and sum(unit_range) != 0:
        name, low, high = str(dtype).removeprefix("torch."), *unit_range
        raise InputError(
            f"Codec '{codec}' works on [{low:g}, {high:g}], where {name} rounds soft tissue by up to "
            f"{rounding(dtype, unit_range).soft_largest:.1f} HU. Use --dtype float32."
        )


def plan_in(codec: Codec, dtype: str, device: torch.device, shape_zyx: tuple[int, int, int], budget: int) -> SlabPlan:
    """How a volume would be cut if the codec ran in ``dtype`` on ``device``; the codec stays as it is.

    Raises:
        InputError: it must not run so.
        OutOfMemory: nothing fits the budget.
    """
    before = codec.dtype
    wanted = resolve_dtype(dtype, device)
    refuse_rounding(codec.row.name, codec.unit_range, wanted)
    codec.dtype = wanted
    try:
        return codec.plan(shape_zyx, budget)
    finally:
        codec.dtype = before


def choose_precision(codec: Codec, device: torch.device, shape_zyx: tuple[int, int, int], budget: int) -> str:
    """``float32`` wherever that needs no tiles; else ``bfloat16``, if the codec may and the device can.

    float16 rounds less, but it ends at 65504, which the activations of large networks pass.
    """
    plans = {}
    for dtype in ("float32", "bfloat16"):
        with suppress(InputError, OutOfMemory):
            plans[dtype] = plan_in(codec, dtype, device, shape_zyx, budget)
    whole = [dtype for dtype, plan in plans.items() if plan.tile_yx is None]
    return next(iter([*whole, *reversed(plans)]), "float32")
