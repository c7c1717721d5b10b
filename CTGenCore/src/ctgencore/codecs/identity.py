"""The codec that changes nothing: what remains is the error of the way there and back."""

from __future__ import annotations

from torch import Tensor

from .base import Codec, State


class IdentityCodec(Codec):
    """Latents are the voxels."""

    stride_zyx = (1, 1, 1)
    causal = False
    channels = 1
    halo = (0, 0)
    bytes_per_voxel = 32.0

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return x_BCZYX

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return z_BCZYX
