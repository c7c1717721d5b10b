"""Noise from one seed, the same whatever the slabs, tiles, shards or workers."""

from __future__ import annotations

import numpy as np


def frame_noise(seed: int, frame: int, shape: tuple[int, ...], stream: int = 0) -> np.ndarray:
    """Standard normal float32 noise of latent frame ``frame``: a function of its arguments alone.

    Streams are independent of each other: what one seed draws for two purposes must not be the same numbers.
    """
    return np.random.default_rng((seed, frame, stream)).standard_normal(shape, dtype=np.float32)
