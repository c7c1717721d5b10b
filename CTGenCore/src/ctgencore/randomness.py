"""Noise from one seed, the same whatever the slabs, tiles, shards or workers."""

from __future__ import annotations

import numpy as np


def frame_noise(seed: int, frame: int, shape: tuple[int, ...]) -> np.ndarray:
    """Standard normal float32 noise of latent frame ``frame``: a function of its arguments alone."""
    return np.random.default_rng((seed, frame)).standard_normal(shape, dtype=np.float32)
