"""Autoencoders that a library has, under one interface: ``encode`` gives raw latents (the posterior's mean), ``decode``
slices. Every other name, and so the published tensors, is the library's.

Range is [-1, 1] but for MAISI, [0, 1]. Video: ``(B, 3, T, H, W)``; images: slices go as a batch.
"""

from __future__ import annotations

from typing import Any

import diffusers
from einops import rearrange
from monai.apps.generation.maisi.networks.autoencoderkl_maisi import AutoencoderKlMaisi
from torch import Tensor


def _latents(encoded: Any) -> Tensor:
    """The posterior's mean, or the latents of an autoencoder without one."""
    return encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.get("latent", encoded.get("latents"))


class _Video:
    """diffusers' encode and decode without their wrappings."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        return _latents(super().encode(x_BCTHW))  # type: ignore[misc]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        return super().decode(z_BCTHW).sample  # type: ignore[misc]


class _Image:
    """The same, for slices."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        slices = rearrange(x_BCTHW, "b c t h w -> (b t) c h w")
        return rearrange(_latents(super().encode(slices)), "(b t) c h w -> b c t h w", b=len(x_BCTHW))  # type: ignore[misc]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        slices = rearrange(z_BCTHW, "b c t h w -> (b t) c h w")
        return rearrange(super().decode(slices).sample, "(b t) c h w -> b c t h w", b=len(z_BCTHW))  # type: ignore[misc]


class CogVideoX(_Video, diffusers.AutoencoderKLCogVideoX):
    """4x8x8, T = 1 + 8k."""


class HunyuanVideo(_Video, diffusers.AutoencoderKLHunyuanVideo):
    """4x8x8, T = 1 + 4k."""


class HunyuanVideo15(_Video, diffusers.AutoencoderKLHunyuanVideo15):
    """4x16x16, T = 1 + 4k."""


class LTXVideo(_Video, diffusers.AutoencoderKLLTXVideo):
    """8x32x32, T = 1 + 8k."""


class Mochi(_Video, diffusers.AutoencoderKLMochi):
    """6x8x8, T = 1 + 6k."""


class Cosmos(_Video, diffusers.AutoencoderKLCosmos):
    """8x8x8, T = 1 + 8k."""


class ImageKL(_Image, diffusers.AutoencoderKL):
    """Stable Diffusion 3 and FLUX.1: 8x8."""


class ImageFlux2(_Image, diffusers.AutoencoderKLFlux2):
    """FLUX.2: 8x8."""


class ImageDC(_Image, diffusers.AutoencoderDC):
    """Deep compression: 32x32."""


class ImageTiny(_Image, diffusers.AutoencoderTiny):
    """TAESD and its kin: 8x8."""


class Maisi(AutoencoderKlMaisi):
    """4x4x4, one channel in [0, 1], T a multiple of 4."""

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """The posterior's mean."""
        return super().encode(x_BCTHW)[0]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Slices."""
        return super().decode(z_BCTHW)
