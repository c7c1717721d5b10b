"""Arrays turned to patient axes: whatever the grid's axis order, (S, P, L) with rising coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from ..geometry import Geometry


@dataclass(frozen=True, slots=True)
class Turn:
    """How the array axes of a grid lie in the patient; :meth:`back` is the inverse of :meth:`to_spl`.

    Attributes:
        order: array axis that runs along S, P and L.
        flips: which of the three result axes are reversed.
        spacing: mm along S, P, L.
    """

    order: tuple[int, int, int]
    flips: tuple[int, ...]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> Turn:
        """The turn that brings a grid nearest to patient axes; an oblique grid keeps its tilt."""
        cosines = geometry.direction_matrix[::-1, ::-1]  # rows S, P, L; columns array axes Z, Y, X
        best = max(permutations(range(3)), key=lambda p: sum(abs(cosines[row, axis]) for row, axis in enumerate(p)))
        order = (best[0], best[1], best[2])
        flips = tuple(row for row, axis in enumerate(order) if cosines[row, axis] < 0)
        spacing = tuple(geometry.spacing_zyx[axis] for axis in order)
        return cls(order, flips, (spacing[0], spacing[1], spacing[2]))

    def to_spl(self, array: np.ndarray) -> np.ndarray:
        """A (Z, Y, X) array as a view (S, P, L)."""
        return np.flip(array.transpose(self.order), self.flips)

    def back(self, array: np.ndarray) -> np.ndarray:
        """An (S, P, L) array as (Z, Y, X)."""
        return np.ascontiguousarray(np.flip(array, self.flips).transpose(np.argsort(self.order)))
