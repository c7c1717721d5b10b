"""MedVAE in 3D: latent diffusion's autoencoder with 3D convolutions, one channel in, one latent channel
(Varma et al., *MedVAE: Efficient Automated Interpretation of Medical Images with Large-Scale Generalizable
Autoencoders*, 2025).

Its tensor names are known; the sizes (``widths``) and what stands between the tensors are not published with them and
are taken from latent diffusion: zeros as padding, nearest-neighbor upsampling, attention among all voxels of the
deepest level. Loading is strict, so wrong sizes are refused.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from .ldm import Layers, Names, NormSiLU, ResBlock, attend, decoder, encoder, posterior, without_losses

EPS = 1e-6
HEAD = 64  # channels of `channel_ds`


def _conv(width_in: int, width_out: int, _: int = 0) -> nn.Module:
    return nn.Conv3d(width_in, width_out, 3, padding=1)


class Downsample(nn.Module):
    """Halve every axis. Zeros stand behind the last voxel only."""

    def __init__(self, width: int, _: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double every axis."""

    def __init__(self, width: int, _: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2))


class Attention(nn.Module):
    """Among all voxels."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv3d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        _, _, t, h, w = x.shape
        tokens = rearrange(self.norm(x), "b c t h w -> b (t h w) c")
        tokens = attend(tokens, self.q, self.k, self.v, self.proj_out)
        return x + rearrange(tokens, "b (t h w) c -> b c t h w", t=t, h=h, w=w)


class MedVAE(ModelMixin, ConfigMixin):
    """The autoencoder. ``(B, 1, Z, Y, X)`` in [-1, 1] to posterior means ``(B, 1, z, y, x)``.

    Sizes are multiples of ``2 ** (len(widths) - 1)``.

    ``channel_ds`` and ``channel_proj`` are heads on the latents, there so that published files load strictly; the way
    from latents to voxels does not pass them.

    Args:
        widths: channels of the levels: three for 4x, four for 8x.
        blocks: residual blocks in each.
        norm_groups: groups of the norms.
    """

    @register_to_config
    def __init__(self, widths: Sequence[int] = (128, 256, 512), blocks: int = 2, norm_groups: int = 32) -> None:
        super().__init__()
        sizes = (tuple(widths), blocks, Names())
        self.encoder = encoder(self._layers(Downsample), 1, 2, *sizes)
        self.decoder = decoder(self._layers(Upsample), 1, 1, *sizes)
        self.quant_conv = nn.Conv3d(2, 2, 1)
        self.post_quant_conv = nn.Conv3d(1, 1, 1)
        self.channel_ds = nn.Sequential(
            nn.Conv3d(1, HEAD, 1), nn.Identity(), nn.Conv3d(HEAD, HEAD, 3), nn.Identity(), nn.Conv3d(HEAD, 1, 1)
        )
        self.channel_proj = nn.Conv3d(1, 1, 1)

    def _layers(self, resample: type[Downsample] | type[Upsample]) -> Layers:
        groups = self.config.norm_groups

        def norm(width: int) -> NormSiLU:
            return NormSiLU(groups, width, EPS)

        def block(width_in: int, width_out: int, _: int) -> nn.Module:
            parts = (norm(width_in), _conv(width_in, width_out), norm(width_out), _conv(width_out, width_out))
            if width_in == width_out:
                return ResBlock(*parts)
            return ResBlock(*parts, ("nin_shortcut", nn.Conv3d(width_in, width_out, 1)))

        return Layers(
            conv=_conv, block=block, attention=lambda width: Attention(width, groups), resample=resample, norm=norm
        )

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of the latents."""
        return posterior(self.quant_conv(self.encoder(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean: raw latents."""
        return self.moments(x)[0]

    def decode(self, z: Tensor) -> Tensor:
        """Voxels of raw latents, not clamped."""
        return self.decoder(self.post_quant_conv(z))

    remap_keys = staticmethod(without_losses)
