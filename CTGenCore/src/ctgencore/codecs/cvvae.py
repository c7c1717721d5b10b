"""CV-VAE: blended windows along Z, because its norms pool over time; in-plane tiles are blended too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class CVVAECodec(Codec):
    """See :class:`ctgencore.networks.cvvae.CVVAE`. A window is as long as the chunks of the published code, 17 slices;
    those share one slice and are not blended."""

    window = 17
    window_overlap = 5
    has_posterior = True

    def _configure(self, network: Any) -> None:
        self.bytes_per_voxel = (56.0 if network.config.sd3 else 42.0) * network.config.widths[0]  # measured: 7041, 5300
        self.latent_std = network.config.latents_std

    def _grey_weights(self) -> list[GreyWeight]:
        output = [GreyWeight(f"decoder.conv_out.{kind}", axis=0, output=True) for kind in ("weight", "bias")]
        return [GreyWeight("encoder.conv_in.weight", axis=1), *output]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        mean, deviation = self.network.moments(x_BCZYX)
        return mean if self.sample_seed is None else torch.cat((mean, deviation), dim=1)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX)
