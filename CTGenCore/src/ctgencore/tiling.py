"""Cut an axis into overlapping tiles whose weights sum to one everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .errors import InputError


@dataclass(frozen=True, slots=True)
class Tile:
    """Indices ``start:stop`` of an axis, and the weight of each of them in the sum over tiles."""

    start: int
    stop: int
    weights: np.ndarray  # float32, (stop - start,)


def tile_axis(size: int, tile: int, overlap: int, *, blend: bool) -> list[Tile]:
    """Cover ``size`` cells by tiles of ``tile`` cells that share at least ``overlap`` cells with the next.

    The last tile is shifted inward, so that no tile is smaller than the others.

    Args:
        size: cells of the axis.
        tile: cells of a tile; a tile as large as the axis gives one tile of weight 1.
        overlap: cells shared by neighbours.
        blend: True for weights that ramp linearly over the overlap; False for a cut in its middle, which is exact when
            the overlap is at least twice the reach of the operation.

    Raises:
        InputError: the overlap leaves no progress.
    """
    if size <= tile:
        return [Tile(0, size, np.ones(size, dtype=np.float32))]
    if not 0 <= overlap < tile:
        raise InputError(f"A tile must be larger than its overlap; got tile {tile} and overlap {overlap} cells.")
    count = -(-(size - overlap) // (tile - overlap))
    starts = [min(i * (tile - overlap), size - tile) for i in range(count)]
    tiles = []
    for i, start in enumerate(starts):
        weights = np.ones(tile, dtype=np.float32)
        if i > 0:
            weights *= _ramp(starts[i - 1] + tile - start, tile, blend=blend)
        if i < count - 1:
            weights *= 1 - _ramp(start + tile - starts[i + 1], tile, blend=blend, at_end=True)
        tiles.append(Tile(start, start + tile, weights))
    if blend:  # three tiles may meet where the last one was shifted inward
        total = np.zeros(size, dtype=np.float32)
        for t in tiles:
            total[t.start : t.stop] += t.weights
        tiles = [Tile(t.start, t.stop, t.weights / total[t.start : t.stop]) for t in tiles]
    return tiles


def _ramp(shared: int, tile: int, *, blend: bool, at_end: bool = False) -> np.ndarray:
    """0 before the shared cells, 1 after them; across them a straight ramp or one step in the middle."""
    position = np.arange(tile, dtype=np.float32) - (tile - shared if at_end else 0)
    if blend:
        return np.clip((position + 0.5) / max(shared, 1), 0, 1)
    return (position >= shared // 2).astype(np.float32)
