"""TAEF2: the tiny autoencoder of FLUX.2's latent space (madebyollin/taesd, MIT), slice by slice.

Tensor names are those of the published ``taef2_encoder.pth`` and ``taef2_decoder.pth`` with ``encoder.`` and
``decoder.`` in front. The pools of the 1/8-scale blocks normalise over the whole plane, so in-plane tiles are
not exact: run whole slices.
"""

from __future__ import annotations

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class Block(nn.Module):
    """Three convolutions around a skip; ``pooled`` adds a normalised wide 1x1 branch before them."""

    def __init__(self, dim: int, *, pooled: bool = False) -> None:
        super().__init__()
        self.conv = nn.Sequential(_conv(dim, dim), nn.ReLU(), _conv(dim, dim), nn.ReLU(), _conv(dim, dim))
        wide = 4 * dim
        branch = (
            nn.Conv2d(dim, wide, 1, bias=False),
            nn.GroupNorm(4, wide),
            nn.ReLU(),
            nn.Conv2d(wide, dim, 1, bias=False),
        )
        self.pool = nn.Sequential(*branch) if pooled else None

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is not None:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


class SoftClamp(nn.Module):
    """``3 tanh(x / 3)``: keeps stray latents in the range that the decoder was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


def _blocks(dim: int, count: int, *, pooled: bool = False) -> list[nn.Module]:
    return [Block(dim, pooled=pooled) for _ in range(count)]


class TinyFlux2(ModelMixin, ConfigMixin):
    """The autoencoder of single slices.

    ``(B, 3, T, H, W)`` in [0, 1], H and W multiples of 8, to ``(B, latent_channels, T, H/8, W/8)``.
    """

    @register_to_config
    def __init__(self, latent_channels: int = 32, dim: int = 64) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            _conv(3, dim),
            *_blocks(dim, 1),
            _conv(dim, dim, stride=2, bias=False),
            *_blocks(dim, 3),
            _conv(dim, dim, stride=2, bias=False),
            *_blocks(dim, 3),
            _conv(dim, dim, stride=2, bias=False),
            *_blocks(dim, 3, pooled=True),
            _conv(dim, latent_channels),
        )
        self.decoder = nn.Sequential(
            SoftClamp(),
            _conv(latent_channels, dim),
            nn.ReLU(),
            *_blocks(dim, 3, pooled=True),
            nn.Upsample(scale_factor=2),
            _conv(dim, dim, bias=False),
            *_blocks(dim, 3),
            nn.Upsample(scale_factor=2),
            _conv(dim, dim, bias=False),
            *_blocks(dim, 3),
            nn.Upsample(scale_factor=2),
            _conv(dim, dim, bias=False),
            *_blocks(dim, 1),
            _conv(dim, 3),
        )

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Deterministic latents of every slice."""
        return _slicewise(self.encoder, x_BCTHW)

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Slices from latents, not clamped."""
        return _slicewise(self.decoder, z_BCTHW)


def _slicewise(net: nn.Module, x_BCTHW: Tensor) -> Tensor:
    slices = rearrange(x_BCTHW, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
    return rearrange(net(slices), "(b t) c h w -> b c t h w", b=x_BCTHW.shape[0])
