"""A denoiser over a latent volume of any size: overlapping windows of the training size, blended at every step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ..errors import OutOfMemory
from ..tiling import Tile, tile_axis

OVERLAP = 0.25  # of a window along each axis: shared cells over which neighbours are blended
# Peak activation bytes per latent cell and channel of the first level in float32. Measured on a CPU as growth of the
# process, by window and batch: 61 to 85 for the embedded network, 84 to 114 for the published one.
BYTES_PER_CELL = 115.0
MOST_PER_CALL = 8  # windows: beyond this a GPU gains nothing


class Windows:
    """Calls the U-Net window by window and adds the weighted outputs up.

    All windows of a step are at the same noise level, and overlapping cells hold the same noisy values: neighbours
    agree at every step, so that no seam has to be hidden afterwards (Bar-Tal et al., *MultiDiffusion*, ICML 2023).

    Args:
        unet: :class:`ctgencore.networks.unet_slices.SliceUNet`.
        latent_zyx: size of the latent volume.
        window_zyx: latent cells per window; an axis that is shorter is taken whole.
        batch: windows per call.
        tick: told the number of windows done after each call; may raise to stop.
    """

    def __init__(
        self,
        unet: Any,
        latent_zyx: tuple[int, int, int],
        window_zyx: tuple[int, int, int],
        *,
        batch: int,
        tick: Callable[[int], None],
    ) -> None:
        self.unet, self.batch, self.tick = unet, batch, tick
        axes = [
            tile_axis(size, window, max(1, round(window * OVERLAP)), blend=True)
            for size, window in zip(latent_zyx, window_zyx, strict=True)
        ]
        self.tiles = [(z, y, x) for z, y, x in product(*axes)]

    def __call__(self, x_BCZYX: Tensor, t: int, condition_BCZYX: Tensor, context_BLW: Tensor) -> Tensor:
        """The network's output for every cell, float32, on the device of ``x``."""
        parameter = next(self.unet.parameters())
        out = torch.zeros_like(x_BCZYX, dtype=torch.float32)
        jobs = [(b, *tiles) for b in range(len(x_BCZYX)) for tiles in self.tiles]
        for first in range(0, len(jobs), self.batch):
            group = jobs[first : first + self.batch]
            parts = torch.stack([torch.cat((x_BCZYX[_place(*job)], condition_BCZYX[_place(*job)])) for job in group])
            slices = parts.shape[2]
            images = rearrange(parts, "n c z y x -> (n z) c y x").to(parameter)
            context = torch.stack([context_BLW[b] for b, *_ in group]).to(parameter)
            timesteps = torch.full((len(images),), t, device=parameter.device)
            output = self.unet(images, timesteps, context, num_slices=slices)
            for job, part in zip(group, rearrange(output.float(), "(n z) c y x -> n c z y x", z=slices), strict=True):
                out[_place(*job)] += part * _weight(*job[1:]).to(part)
            self.tick(len(group))
        return out


def _place(b: int, z: Tile, y: Tile, x: Tile) -> tuple[int, slice, slice, slice, slice]:
    """Where a window lies in ``(B, C, Z, Y, X)``."""
    return (b, slice(None), slice(z.start, z.stop), slice(y.start, y.stop), slice(x.start, x.stop))


def _weight(z: Tile, y: Tile, x: Tile) -> Tensor:
    weights = z.weights[:, None, None] * y.weights[None, :, None] * x.weights[None, None, :]
    return torch.from_numpy(weights)


def plan_batch(unet: Any, window_zyx: tuple[int, int, int], budget: int, *, element_bytes: int) -> int:
    """Windows per call that keep the U-Net's activations within ``budget`` bytes.

    Raises:
        OutOfMemory: not even one fits.
    """
    z, y, x = window_zyx
    need = int(BYTES_PER_CELL * unet.config.channels * z * y * x * element_bytes / 4)
    if need > budget:
        raise OutOfMemory(
            f"One window of the denoiser needs about {need / 2**30:.2f} GiB; {budget / 2**30:.2f} GiB is allowed. "
            "Raise --memory, or use --device cpu or a GPU with --dtype bfloat16."
        )
    return min(budget // need, MOST_PER_CALL)
