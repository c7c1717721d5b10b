"""OD-VAE of Open-Sora-Plan: blended windows along Z, because its norms pool over time; blended tiles in plane."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class ODVAECodec(Codec):
    """See :class:`ctgencore.networks.osp.ODVAE`."""

    window = 17
    window_overlap = 5
    has_posterior = True

    def _configure(self, network: Any) -> None:
        self.bytes_per_voxel = 47.0 * network.config.widths[0]  # measured: 5894 at width 128
        self.latent_std = network.config.latents_std

    def _grey_weights(self) -> list[GreyWeight]:
        output = [GreyWeight(f"decoder.conv_out.conv.{kind}", axis=0, output=True) for kind in ("weight", "bias")]
        return [GreyWeight("encoder.conv_in.weight", axis=1), *output]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        mean, deviation = self.network.moments(x_BCZYX)
        return mean if self.sample_seed is None else torch.cat((mean, deviation), dim=1)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX)
