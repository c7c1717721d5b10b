"""Smooth random fields that lie still in the world, whatever grid they are seen on."""

from __future__ import annotations

import numpy as np

from .canvas import Grid

LOW_MM, HIGH_MM = np.array([-288.0, -288.0, -432.0]), np.array([288.0, 288.0, 336.0])


def field(grid: Grid, seed: int, stream: int, pitch: float) -> np.ndarray:
    """White noise of unit variance on knots ``pitch`` mm apart in the world, interpolated linearly.

    Args:
        grid: axis-aligned; points outside +-288 mm (z -432..336) repeat the border.
        seed: of the patient.
        stream: number of the field.
        pitch: mm.

    Returns:
        (Z, Y, X) float32.
    """
    count = np.round((HIGH_MM - LOW_MM) / pitch).astype(int) + 1
    rng = np.random.default_rng((seed, stream))
    knots = rng.standard_normal(count[::-1], dtype=np.float32)
    for axis, (n, size) in enumerate(zip(count[::-1], grid.shape, strict=True)):
        world = 2 - axis
        at = (np.arange(size) * grid.spacing[world] + grid.origin[world] - LOW_MM[world]) / pitch
        at = np.clip(at, 0, n - 1.001)
        low = at.astype(int)
        fraction = (at - low).astype(np.float32).reshape([-1 if i == axis else 1 for i in range(3)])
        first = np.take(knots, low, axis)
        knots = first + fraction * (np.take(knots, low + 1, axis) - first)
    return knots
