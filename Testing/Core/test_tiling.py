"""Tiles cover an axis and their weights sum to one, for any sizes."""

from __future__ import annotations

import numpy as np
import pytest
from ctgencore.errors import InputError
from ctgencore.tiling import tile_axis
from hypothesis import given
from hypothesis import strategies as st


@given(size=st.integers(1, 300), tile=st.integers(2, 120), share=st.floats(0, 0.95), blend=st.booleans())
def test_weights_sum_to_one(size: int, tile: int, share: float, blend: bool) -> None:
    overlap = int(share * (tile - 1))
    total = np.zeros(size)
    for t in tile_axis(size, tile, overlap, blend=blend):
        assert t.stop - t.start == min(size, tile)  # no runt tiles
        assert (t.weights >= 0).all()
        total[t.start : t.stop] += t.weights
    np.testing.assert_allclose(total, 1, atol=1e-5)


@given(size=st.integers(20, 300), halo=st.integers(0, 8))
def test_a_cut_keeps_its_distance_from_tile_edges(size: int, halo: int) -> None:
    tile = 2 * halo + 3
    for t in tile_axis(size, tile, 2 * halo, blend=False):
        used = np.flatnonzero(t.weights)
        if t.start > 0:
            assert used[0] >= halo
        if t.stop < size:
            assert used[-1] < len(t.weights) - halo


def test_overlap_must_leave_progress() -> None:
    with pytest.raises(InputError, match="larger than its overlap"):
        tile_axis(100, 10, 10, blend=True)
