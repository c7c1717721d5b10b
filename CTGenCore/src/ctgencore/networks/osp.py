"""OD-VAE, the causal video autoencoder of Open-Sora-Plan 1.2 (Chen et al. 2024).

Stable Diffusion's autoencoder, inflated: the encoder's first two levels work frame by frame, everything after them is
3D and causal, with copies of the first frame before it. Group norms of the 3D part pool over time, so what a frame
becomes depends on all frames of its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from .ldm import FrameConv, Layers, Names, NormSiLU, ResBlock, attend, decoder, encoder, posterior, without_losses

EPS = 1e-6
FRAME_LEVELS = (0, 1)  # of the encoder
HALVES_TIME = (1, 2)  # levels below which time is halved, and above which the decoder doubles it


class CausalConv3d(nn.Module):
    """Zeros around the plane, copies of the first frame before it."""

    def __init__(
        self, width_in: int, width_out: int, kernel: tuple[int, int, int] = (3, 3, 3), stride: int = 1, pad: int = 1
    ) -> None:
        super().__init__()
        plane = pad * (kernel[1] // 2)
        self.conv = nn.Conv3d(width_in, width_out, kernel, stride, (0, plane, plane))
        self.before = kernel[0] - 1

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCTHW, (0, 0, 0, 0, self.before, 0), mode="replicate"))


class FrameNormSiLU(NormSiLU):
    """Of each frame alone."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames = super().forward(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x_BCTHW))


class Downsample(nn.Module):
    """Halve the plane, and time if ``time``: 1 + 2k frames become 1 + k. Zeros stand right and below only."""

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.conv = CausalConv3d(width, width, stride=2, pad=0) if time else FrameConv(width, width, 3, stride=2)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(F.pad(x_BCTHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the plane, and time if ``time``: 1 + k frames become 1 + 2k, the first by itself."""

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.time = time
        self.conv = CausalConv3d(width, width, (3, 3, 3) if time else (1, 3, 3))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if not self.time:
            return self.conv(F.interpolate(x_BCTHW, scale_factor=(1, 2, 2)))
        x = F.interpolate(x_BCTHW[:, :, :1], scale_factor=(1, 2, 2), mode="trilinear")
        if x_BCTHW.shape[2] > 1:
            rest = F.interpolate(x_BCTHW[:, :, 1:], scale_factor=(2, 2, 2), mode="trilinear")
            x = torch.cat((x, rest), dim=2)
        return self.conv(x)


class Attention(nn.Module):
    """Of each frame."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q, self.k, self.v, self.proj_out = (CausalConv3d(width, width, (1, 1, 1)) for _ in range(4))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        _, _, t, h, w = x_BCTHW.shape
        tokens = rearrange(self.norm(x_BCTHW), "b c t h w -> (b t) (h w) c")
        tokens = attend(tokens, self.q.conv, self.k.conv, self.v.conv, self.proj_out.conv)
        return x_BCTHW + rearrange(tokens, "(b t) (h w) c -> b c t h w", t=t, h=h, w=w)


class ODVAE(ModelMixin, ConfigMixin):
    """The autoencoder. ``(B, 3, T, H, W)`` in [-1, 1], T = 1 + 4k, H and W multiples of 8, to posterior means
    ``(B, latent_channels, 1 + k, H/8, W/8)``.

    Args:
        latent_channels: of the latents.
        widths: channels of the four levels.
        blocks: residual blocks in each.
        norm_groups: groups of the norms.
        latents_std: standard deviation of the latents, one for all channels or one each.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        norm_groups: int = 32,
        latents_std: Sequence[float] = (1 / 0.18215,),
    ) -> None:
        super().__init__()
        sizes = (tuple(widths), blocks, Names())
        self.encoder = encoder(self._layers(FRAME_LEVELS, Downsample), 3, 2 * latent_channels, *sizes)
        self.decoder = decoder(self._layers((), Upsample), latent_channels, 3, *sizes)
        self.quant_conv = CausalConv3d(2 * latent_channels, 2 * latent_channels, (1, 1, 1))
        self.post_quant_conv = CausalConv3d(latent_channels, latent_channels, (1, 1, 1))

    def _layers(self, frame_levels: tuple[int, ...], resample: type[Downsample] | type[Upsample]) -> Layers:
        groups = self.config.norm_groups

        def conv(width_in: int, width_out: int, level: int) -> nn.Module:
            flat = level in frame_levels
            return FrameConv(width_in, width_out, 3, padding=1) if flat else CausalConv3d(width_in, width_out)

        def block(width_in: int, width_out: int, level: int) -> nn.Module:
            flat = level in frame_levels
            norm = FrameNormSiLU if flat else NormSiLU
            parts = (
                norm(groups, width_in, EPS),
                conv(width_in, width_out, level),
                norm(groups, width_out, EPS),
                conv(width_out, width_out, level),
            )
            if width_in == width_out:
                return ResBlock(*parts)
            one = FrameConv(width_in, width_out, 1) if flat else CausalConv3d(width_in, width_out, (1, 1, 1))
            return ResBlock(*parts, ("nin_shortcut", one))

        def between(width: int, level: int) -> nn.Module:
            upper = level if resample is Downsample else level - 1
            return resample(width, time=upper in HALVES_TIME)

        return Layers(
            conv=conv,
            block=block,
            attention=lambda width: Attention(width, groups),
            resample=between,
            norm=lambda width: NormSiLU(groups, width, EPS),
        )

    def moments(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of the latents."""
        return posterior(self.quant_conv(self.encoder(x_BCTHW)))

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Posterior mean: raw latents."""
        return self.moments(x_BCTHW)[0]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Slices of raw latents, not clamped."""
        return self.decoder(self.post_quant_conv(z_BCTHW))

    remap_keys = staticmethod(without_losses)
