"""LeanVAE and its small embedded sister: exact streaming along Z, exact tiles in plane."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .base import Codec, GreyWeight, State


class LeanVAECodec(Codec):
    """See :class:`ctgencore.networks.leanvae.LeanVAE`."""

    unit_range = (-0.5, 0.5)
    clamps_channels = True

    def _configure(self, network: Any) -> None:
        spec = network.spec
        self.channels = spec.channels
        self.grey = spec.channels == 1
        self.latent_channels = network.config.latent_dim
        self.halo = (spec.encode_halo, spec.decode_halo)
        self.bytes_per_voxel = 0.9 * spec.width  # measured: 106 at width 128, 364 at 512
        self.latent_mean, self.latent_std = network.config.latents_mean, network.config.latents_std

    def _grey_weights(self) -> list[GreyWeight]:
        bands = {"image_low": 1, "image_high": 3, "video_low": 1, "video_high": 7}
        weights = [GreyWeight(f"encoder.{part}_proj.1.weight", axis=1, slow=n) for part, n in bands.items()]
        for part, n in bands.items():
            name = f"decoder.{part}_proj.0"
            weights += [GreyWeight(f"{name}.{kind}", axis=0, slow=n, output=True) for kind in ("weight", "bias")]
        return weights

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.encode(x_BCZYX, state, first=first)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX, state, first=first)
