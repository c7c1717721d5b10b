"""WAN 2.1 and 2.2 video VAEs: diffusers' ``AutoencoderKLWan`` with a deterministic, re-entrant, streaming interface.

Diffusers keeps the causal feature cache on the module, feeds one latent per step and joins the output by repeated
concatenation. Here the cache is an argument, so that a volume of any length streams at the memory of one chunk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor

from ..checkpoint import check_names
from ..zoo import CodecRow, build_network

State = dict[str, list[Any]]

LEVEL = 3  # resnets of a decoder level; what follows them in the official numbering is the upsampler
RENAMED = {
    "middle.0.": "mid_block.resnets.0.",
    "middle.1.": "mid_block.attentions.0.",
    "middle.2.": "mid_block.resnets.1.",
    "residual.0.": "norm1.",
    "residual.2.": "conv1.",
    "residual.3.": "norm2.",
    "residual.6.": "conv2.",
    "shortcut.": "conv_shortcut.",
    "head.0.": "norm_out.",
    "head.2.": "conv_out.",
}


class Wan(AutoencoderKLWan):
    """The autoencoder. ``(B, 3, T, H, W)`` in [-1, 1], T = 1 + 4k, to posterior means ``(B, z_dim, 1+k, H/s, W/s)``.

    s is 8 (2.1) or 16 (2.2); H and W are multiples of it.
    """

    def moments(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation. Stream as with ``LeanVAE.encode``: T is 1 + 4k first, then 4k."""
        if self.config.patch_size is not None:
            x_BCTHW = patchify(x_BCTHW, patch_size=self.config.patch_size)
        steps = (x_BCTHW[:, :, :1], x_BCTHW[:, :, 1:]) if first else (x_BCTHW,)
        cache = _cache(state, "encode", self.encoder)
        parts = [self.encoder(step, feat_cache=cache, feat_idx=[0]) for step in steps if step.shape[2]]
        mean, log_variance = self.quant_conv(torch.cat(parts, dim=2)).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def encode(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Posterior mean; streaming as in :meth:`moments`."""
        return self.moments(x_BCTHW, state, first=first)[0]

    def decode(self, z_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Slices from raw latents, not clamped."""
        z_BCTHW = self.post_quant_conv(z_BCTHW)
        cache = _cache(state, "decode", self.decoder)
        parts = []
        if first:
            parts.append(self.decoder(z_BCTHW[:, :, :1], feat_cache=cache, feat_idx=[0], first_chunk=True))
            z_BCTHW = z_BCTHW[:, :, 1:]
        if z_BCTHW.shape[2]:
            parts.append(self.decoder(z_BCTHW, feat_cache=cache, feat_idx=[0]))
        x = torch.cat(parts, dim=2)
        return x if self.config.patch_size is None else unpatchify(x, patch_size=self.config.patch_size)


def _cache(state: State | None, side: str, net: torch.nn.Module) -> list[Any]:
    """The feature cache of one stream: a slot for every causal convolution."""
    slots: list[Any] = [None] * sum(isinstance(m, WanCausalConv3d) for m in net.modules())
    return slots if state is None else state.setdefault(side, slots)


def convert(row: CodecRow, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file under diffusers' names, all of them checked.

    Both layouts are taken: diffusers' own, and that of the official ``Wan2.1_VAE.pth`` and ``Wan2.2_VAE.pth``.

    Raises:
        WeightsError: a file of the other version, or of something else.
    """
    if "encoder.conv1.weight" in tensors:
        tensors = {diffusers_name(name): tensor for name, tensor in tensors.items()}
    assert row.network is not None
    with torch.device("meta"):
        net = build_network(row.network)
    return check_names(net, tensors)


def diffusers_name(name: str) -> str:
    """Diffusers' name of an official tensor.

    Version 2.1 numbers all layers of a side in one row (``downsamples.5``), version 2.2 by level
    (``downsamples.1.downsamples.2``).
    """
    side, _, rest = name.partition(".")
    if side in ("conv1", "conv2"):
        return f"{'quant_conv' if side == 'conv1' else 'post_quant_conv'}.{rest}"
    rest = re.sub(r"^conv1\.", "conv_in.", rest)
    if by_level := re.match(r"(down|up)samples\.(\d+)\.\1samples\.(\d+)\.(.+)", rest):
        way, level, layer, rest = by_level.groups()
        sampler = rest.startswith(("resample.", "time_conv."))
        rest = f"{way}_blocks.{level}.{f'{way}sampler' if sampler else f'resnets.{layer}'}.{rest}"
    elif in_a_row := re.match(r"(down|up)samples\.(\d+)\.(.+)", rest):
        way, number, rest = in_a_row.groups()
        level, layer = divmod(int(number), LEVEL + 1)
        place = "upsamplers.0" if layer == LEVEL else f"resnets.{layer}"
        rest = f"down_blocks.{number}.{rest}" if way == "down" else f"up_blocks.{level}.{place}.{rest}"
    for theirs, ours in RENAMED.items():
        rest = re.sub(rf"(^|\.){re.escape(theirs)}", rf"\g<1>{ours}", rest)
    return f"{side}.{rest}"
