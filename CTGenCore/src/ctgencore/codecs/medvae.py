"""MedVAE in 3D: blended windows along Z, because its norms and its attention see the whole input."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, State


class MedVAECodec(Codec):
    """See :class:`ctgencore.networks.medvae.MedVAE`. Nothing is cropped: what comes back has the input's grid."""

    causal = False
    channels = 1
    window = 32
    window_overlap = 8
    has_posterior = True

    def _configure(self, network: Any) -> None:
        self.stride_zyx = (2 ** (len(network.config.widths) - 1),) * 3
        self.bytes_per_voxel = 38.0 * network.config.widths[0]  # measured: 4204 (4x), 4759 (8x)

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        mean, deviation = self.network.moments(x_BCZYX)
        return mean if self.sample_seed is None else torch.cat((mean, deviation), dim=1)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX)
