"""TAEF2, the tiny FLUX.2 autoencoder: a natural-image VAE applied slice by slice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class TinyFlux2Codec(Codec):
    """Whole slices only: its group norms pool over the plane (tiles of 256 move the result by 6-9 HU RMS)."""

    unit_range = (0.0, 1.0)
    stride_zyx = (1, 8, 8)
    causal = False
    whole_plane = True
    bytes_per_voxel = 850.0  # measured: 789

    def _configure(self, network: Any) -> None:
        network.to(memory_format=torch.channels_last)  # 1.8 times faster on a CPU

    def _grey_weights(self) -> list[GreyWeight]:
        last = f"decoder.{len(self.network.decoder) - 1}"
        output = [GreyWeight(f"{last}.{kind}", axis=0, output=True) for kind in ("weight", "bias")]
        return [GreyWeight("encoder.0.weight", axis=1), *output]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.encode(x_BCZYX)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX)
