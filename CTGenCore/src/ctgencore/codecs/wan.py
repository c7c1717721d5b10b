"""WAN 2.1 and 2.2 video VAEs: exact streaming along Z; in-plane tiles are blended, for small GPUs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class WanCodec(Codec):
    """See :class:`ctgencore.networks.wan.Wan`. The middle block attends over the whole plane: tiles are not exact."""

    clamps_channels = True
    has_posterior = True

    def _configure(self, network: Any) -> None:
        config = network.config
        stride = 8 * (config.patch_size or 1)
        self.stride_zyx = (4, stride, stride)
        # Measured in slabs of 4 slices, where the remembered frames weigh most: 6971 and 8102 at width 96 (192x192),
        # 2248 at 24 (256x256), 1775 at 16 for every pixel (64 in patches of 2x2, 384x384).
        width = config.decoder_base_dim or config.base_dim
        self.bytes_per_voxel = 700 + 77 * width / (config.patch_size or 1) ** 2
        self.latent_mean, self.latent_std = config.latents_mean, config.latents_std

    def _grey_weights(self) -> list[GreyWeight]:
        output = [GreyWeight(f"decoder.conv_out.{kind}", axis=0, output=True) for kind in ("weight", "bias")]
        return [GreyWeight("encoder.conv_in.weight", axis=1), *output]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        mean, deviation = self.network.moments(x_BCZYX, state, first=first)
        return mean if self.sample_seed is None else torch.cat((mean, deviation), dim=1)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX, state, first=first)
