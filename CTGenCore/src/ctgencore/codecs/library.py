"""Autoencoders from diffusers and MONAI: what differs among them is in their row's ``config``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .base import Codec, GreyWeight, State


class LibraryCodec(Codec):
    """See :mod:`ctgencore.networks.library`.

    None of these streams along Z exactly, as the library runs them, so those of video see blended windows of a fixed
    size. ``row.config`` sets this class's attributes by name, and ``grey``: the first convolution and the last by name,
    and how many values lie side by side before the three colors (see :class:`ctgencore.codecs.base.GreyWeight`).
    """

    def _configure(self, network: Any) -> None:
        self.stride_zyx = self.row.stride_zyx
        for name, value in self.row.config.items():
            if name != "grey":
                setattr(self, name, value)
        if self.row.is_2d:
            network.to(
                memory_format=torch.channels_last
            )  # 1.04 to 1.5 times as fast on a CPU; of the 3D ones some are slower

    def _grey_weights(self) -> list[GreyWeight]:
        if "grey" not in self.row.config:
            return []
        first, last, slow = self.row.config["grey"]
        parameters = dict(self.network.named_parameters())
        output = [f"{last}.{kind}" for kind in ("weight", "bias") if f"{last}.{kind}" in parameters]
        return [
            GreyWeight(f"{first}.weight", axis=1, slow=slow),
            *(GreyWeight(name, axis=0, slow=slow, output=True) for name in output),
        ]

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.encode(x_BCZYX)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network.decode(z_BCZYX)
