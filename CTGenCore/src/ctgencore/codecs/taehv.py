"""TAEHV, tiny autoencoders of video latents: exact streaming along Z, exact tiles in plane."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..intensity import Window
from .base import Codec, GreyWeight, Slab, State

BYTES_PER_VOXEL = {1: 2100.0, 2: 900.0, 4: 150.0}  # by patch size; measured: 2051, 870, 138


class TAEHVCodec(Codec):
    """See :class:`ctgencore.networks.taehv.TAEHV`; behind a slab's end its encoder reads ``time_stride - 1`` slices."""

    unit_range = (0.0, 1.0)

    def _configure(self, network: Any) -> None:
        network.to(memory_format=torch.channels_last)
        self.stride_zyx = (network.time_stride, network.space_stride, network.space_stride)
        self.halo = (network.halo, network.halo)
        self.latent_channels = network.config.latent_channels
        self.bytes_per_voxel = BYTES_PER_VOXEL[network.patch_size]

    def _grey_weights(self) -> list[GreyWeight]:
        last = f"decoder.{len(self.network.decoder) - 1}"
        output = [GreyWeight(f"{last}.{kind}", axis=0, output=True) for kind in ("weight", "bias")]
        return [GreyWeight("encoder.0.weight", axis=1), *output]

    def _input(self, hu_ZYX: np.ndarray, slab: Slab, window: Window) -> Tensor:
        """The slices that this slab's latents need beyond earlier ones; behind the volume's end, copies of its last."""
        ahead = self.stride_zyx[0] - 1
        slices = np.arange(slab.start + (0 if slab.first else ahead), slab.stop + ahead)
        hu = hu_ZYX[np.minimum(slices, len(hu_ZYX) - 1)]
        return super()._input(hu, replace(slab, start=0, stop=len(hu)), window)

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.encode(x_BCZYX, state)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX, state, first=first)
