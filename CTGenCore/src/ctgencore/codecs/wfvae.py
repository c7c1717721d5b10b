"""WF-VAE: exact streaming along Z; in-plane tiles are blended, for small GPUs only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class WFVAECodec(Codec):
    """See :class:`ctgencore.networks.wfvae.WFVAE`. The middle attends over the whole plane: tiles are not exact."""

    held_back = 2
    has_posterior = True
    latent_std = (1 / 0.18215,)

    def _configure(self, network: Any) -> None:
        self.bytes_per_voxel = 900 + 21 * network.config.base_channels  # measured: 3509 at width 128, 4830 at 192

    def _grey_weights(self) -> list[GreyWeight]:
        connect = self.network.config.connect_res_layer_num
        inputs = {"encoder.down1.0": 8, "encoder.connect_l1": 4, "encoder.connect_l2": 8}
        outputs = {
            "decoder.conv_out": 8,
            f"decoder.connect_l1.{connect}": 4,
            f"decoder.connect_l2.{connect}": 8,
        }
        return [
            *(GreyWeight(f"{name}.weight", axis=1, slow=bands) for name, bands in inputs.items()),
            *(
                GreyWeight(f"{name}.{kind}", axis=0, slow=bands, output=True)
                for name, bands in outputs.items()
                for kind in ("weight", "bias")
            ),
        ]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        mean, deviation = self.network.moments(x_BCZYX, state, first=first)
        return mean if self.sample_seed is None else torch.cat((mean, deviation), dim=1)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool, last: bool = True) -> Tensor:
        return self.network.decode(z_BCZYX, state, first=first, last=last)
