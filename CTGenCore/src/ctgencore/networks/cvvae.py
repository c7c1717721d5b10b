"""CV-VAE: Stable Diffusion's autoencoder, inflated to video with a compatible latent space (Zhao et al. 2024).

Two published networks: ``vae3d`` with Stable Diffusion 2's 4 channels, the one that Foundation VAE tried, and
``vae3d_sd3`` with Stable Diffusion 3's 16, under diffusers' names. Residual blocks are half 3D: their second
convolution works frame by frame. The encoder is causal (copies stand before the first frame); the decoder sees ahead.
Group norms pool over time, so what a frame becomes depends on all frames of its window.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from .ldm import FrameConv, Layers, Names, NormSiLU, ResBlock, attend, decoder, encoder, posterior

EPS, EPS_SD3 = 1e-5, 1e-6
HALVES_TIME = (0, 2)  # levels below which the encoder's time is halved; the decoder doubles it above levels 1 and 3
SD3_NAMES = Names(
    down="down_blocks.{level}.resnets.{i}",
    downsample="down_blocks.{level}.downsamplers.0",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    up="up_blocks.{rise}.resnets.{i}",
    upsample="up_blocks.{rise}.upsamplers.0",
    norm="conv_norm_out",
)


class EdgeConv3d(nn.Conv3d):
    """3x3x3. Time is padded with copies of the first and last frames; the plane too if ``plane``, else with zeros."""

    def __init__(
        self,
        width_in: int,
        width_out: int,
        *,
        time: tuple[int, int],
        plane: bool,
        stride: tuple[int, int, int] = (1, 1, 1),
        padding: int = 1,
    ) -> None:
        zeros = 0 if plane else padding
        super().__init__(width_in, width_out, 3, stride, (0, zeros, zeros))
        self.edges = (int(plane),) * 4 + time

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(F.pad(x_BCTHW, self.edges, mode="replicate"))


class Downsample(nn.Module):
    """Halve the plane, and time if ``time``: 1 + 2k frames become 1 + k. Zeros stand right and below only."""

    def __init__(self, width: int, *, time: bool, plane: bool) -> None:
        super().__init__()
        self.plane = plane
        stride = (2 if time else 1, 2, 2)
        self.conv = EdgeConv3d(width, width, time=(2, 0), plane=plane, stride=stride, padding=0)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return self.conv(x_BCTHW if self.plane else F.pad(x_BCTHW, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Double the plane, and time if ``time``: 1 + k frames become 1 + 2k."""

    def __init__(self, width: int, *, time: bool, plane: bool) -> None:
        super().__init__()
        self.time = time
        self.conv = EdgeConv3d(width, 2 * width if time else width, time=(1, 1), plane=plane)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        x = self.conv(F.interpolate(x_BCTHW, scale_factor=(1, 2, 2)))
        return rearrange(x, "b (n c) t h w -> b c (t n) h w", n=2)[:, :, 1:] if self.time else x


class Attention(nn.Module):
    """Of each frame; in the 4-channel decoder then, without a residual connection between, of each pixel over time."""

    def __init__(self, width: int, groups: int, *, time: bool) -> None:
        super().__init__()
        self.time = time
        self.norm = nn.GroupNorm(groups, width, EPS)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))
        if time:
            self.norm_t = nn.LayerNorm(width)
            self.q_t, self.k_t, self.v_t, self.proj_out_t = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        b, _, t, h, w = x_BCTHW.shape
        frames = self.norm(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        tokens = attend(rearrange(frames, "n c h w -> n (h w) c"), self.q, self.k, self.v, self.proj_out)
        if self.time:
            pixels = self.norm_t(rearrange(tokens, "(b t) n c -> (b n) t c", b=b))
            pixels = attend(pixels, self.q_t, self.k_t, self.v_t, self.proj_out_t)
            tokens = rearrange(pixels, "(b n) t c -> (b t) n c", b=b)
        return x_BCTHW + rearrange(tokens, "(b t) (h w) c -> b c t h w", t=t, h=h, w=w)


class AttentionSD3(nn.Module):
    """Of each frame, under diffusers' names."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, width, EPS_SD3)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        _, _, t, h, w = x_BCTHW.shape
        frames = self.group_norm(rearrange(x_BCTHW, "b c t h w -> (b t) c h w"))
        tokens = rearrange(frames, "n c h w -> n (h w) c")
        tokens = attend(tokens, self.to_q, self.to_k, self.to_v, self.to_out[0])
        return x_BCTHW + rearrange(tokens, "(b t) (h w) c -> b c t h w", t=t, h=h, w=w)


class CVVAE(ModelMixin, ConfigMixin):
    """The autoencoder. ``(B, 3, T, H, W)`` in [-1, 1], T = 1 + 4k, H and W multiples of 8, to posterior means
    ``(B, latent_channels, 1 + k, H/8, W/8)``.

    Args:
        latent_channels: 4 or 16.
        sd3: the Stable Diffusion 3 variant: its names, 2D shortcuts, no attention over time.
        widths: channels of the four levels.
        blocks: residual blocks in each.
        norm_groups: groups of the norms.
        latents_std: standard deviation of the latents, one for all channels or one each.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 4,
        sd3: bool = False,
        widths: Sequence[int] = (128, 256, 512, 512),
        blocks: int = 2,
        norm_groups: int = 32,
        latents_std: Sequence[float] = (1 / 0.18215,),
    ) -> None:
        super().__init__()
        sizes = (tuple(widths), blocks, SD3_NAMES if sd3 else Names())
        self.encoder = encoder(self._layers(causal=True), 3, 2 * latent_channels, *sizes)
        self.decoder = decoder(self._layers(causal=False), latent_channels, 3, *sizes)

    def _layers(self, *, causal: bool) -> Layers:
        sd3, groups = self.config.sd3, self.config.norm_groups

        def conv(width_in: int, width_out: int, _: int = 0) -> nn.Module:
            if sd3 or causal:
                return EdgeConv3d(width_in, width_out, time=(2, 0) if causal else (1, 1), plane=sd3)
            return nn.Conv3d(width_in, width_out, 3, padding=1)

        def norm(width: int) -> NormSiLU:
            return NormSiLU(groups, width, EPS_SD3 if sd3 else EPS)

        def block(width_in: int, width_out: int, _: int) -> nn.Module:
            parts = (norm(width_in), conv(width_in, width_out), norm(width_out))
            second = FrameConv(width_out, width_out, 3, padding=1)
            if width_in == width_out:
                return ResBlock(*parts, second)
            if sd3:
                return ResBlock(*parts, second, ("conv_shortcut", FrameConv(width_in, width_out, 1)))
            return ResBlock(*parts, second, ("nin_shortcut", nn.Conv3d(width_in, width_out, 1)))

        def attention(width: int) -> nn.Module:
            return AttentionSD3(width, groups) if sd3 else Attention(width, groups, time=not causal)

        def resample(width: int, level: int) -> nn.Module:
            if causal:
                return Downsample(width, time=level in HALVES_TIME, plane=sd3)
            return Upsample(width, time=level - 1 in HALVES_TIME, plane=sd3)

        return Layers(conv=conv, block=block, attention=attention, resample=resample, norm=norm)

    def moments(self, x_BCTHW: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation of the latents."""
        return posterior(self.encoder(x_BCTHW))

    def encode(self, x_BCTHW: Tensor) -> Tensor:
        """Posterior mean: raw latents."""
        return self.moments(x_BCTHW)[0]

    def decode(self, z_BCTHW: Tensor) -> Tensor:
        """Slices of raw latents, not clamped."""
        return self.decoder(z_BCTHW)
