"""Transform-coding baseline at the rate of a 16-channel 4x8x8 VAE: what a network has to beat."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..intensity import Window
from .base import Codec, State
from .plan import slabs


def dct_matrix(size: int) -> Tensor:
    """Orthonormal DCT-II, ``(frequency, position)``, float32."""
    k, n = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    matrix = torch.cos(math.pi * (2 * n + 1) * k / (2 * size)) * math.sqrt(2 / size)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


class DCTCodec(Codec):
    """Keeps 16 of the 256 DCT coefficients of each 4x8x8 block: the 16 with the most energy in this volume."""

    causal = False
    channels = 1
    halo = (0, 0)
    bytes_per_voxel = 60.0
    kept = 16

    def _prepare(self, hu_ZYX: np.ndarray, window: Window) -> None:
        energy = torch.zeros(256, dtype=torch.float64)
        for slab in slabs(self, hu_ZYX.shape[0], 4):
            energy += (
                self._coefficients(self._input(hu_ZYX, slab, window)).double().square().sum(dim=(0, 2, 3, 4)).cpu()
            )
        self.selected = energy.topk(self.kept).indices.sort().values

    def _coefficients(self, x_BCZYX: Tensor) -> Tensor:
        blocks = x_BCZYX[:, 0].unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).unflatten(1, (-1, 4))  # B z k y i x j
        dct4, dct8 = dct_matrix(4).to(blocks), dct_matrix(8).to(blocks)
        return torch.einsum("bzkyixj,ck,di,ej->bcdezyx", blocks, dct4, dct8, dct8).flatten(1, 3)

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self._coefficients(x_BCZYX)[:, self.selected]

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        full = z_BCZYX.new_zeros(z_BCZYX.shape[0], 256, *z_BCZYX.shape[2:])
        full[:, self.selected] = z_BCZYX
        blocks = full.unflatten(1, (4, 8, 8))
        dct4, dct8 = dct_matrix(4).to(blocks), dct_matrix(8).to(blocks)
        x = torch.einsum("bcdezyx,ck,di,ej->bzkyixj", blocks, dct4, dct8, dct8)
        return x.flatten(5, 6).flatten(3, 4).flatten(1, 2)[:, None]
