"""WAN 2.1 and 2.2 video VAEs: diffusers' ``AutoencoderKLWan`` with a deterministic, re-entrant, streaming interface.

Diffusers keeps the causal feature cache on the module, feeds one latent per step and joins the output by repeated
concatenation. Here the cache is an argument, so that a volume of any length streams at the memory of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import WanCausalConv3d, patchify, unpatchify
from torch import Tensor

State = dict[str, list[Any]]


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
