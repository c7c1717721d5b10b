"""TAEHV: tiny autoencoders of video latents (madebyollin/taehv, MIT): taew2.1, taew2.2, taeltx.

Tensor names are those of the published files. A flat row of layers on single slices; only a memory block looks along
time, at its own input one step earlier. So a volume streams exactly with one frame of state per memory block, and in
plane everything has a finite reach (no norm, no attention).

A latent frame covers ``time_stride`` slices and the encoder has seen all of them, but the decoder drops its first
``time_stride - 1`` slices: slice ``s`` comes out of latent ``ceil(s / time_stride)``. So the encoder reads
``time_stride - 1`` slices further than the decoder writes.

Inside, slices lie in the batch, time slow and batch fast: the previous step of everything is then a shift by one batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

State = dict[nn.Module, Tensor]  # per memory block: its last input frame

GROWS = {"decoder.7": "encoder.12", "decoder.13": "encoder.7", "decoder.19": "encoder.2"}  # and the pool that it undoes


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


class MemoryBlock(nn.Module):
    """Three convolutions of a frame and the one before it (zeros before the first), around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x_NCHW: Tensor, batch: int, state: State | None) -> Tensor:
        """N is time times batch; with ``state``, go on after the previous call and remember the last frame."""
        before = None if state is None else state.get(self)
        if before is None:
            before = torch.zeros_like(x_NCHW[:batch])
        if state is not None:
            state[self] = x_NCHW[-batch:].clone()
        past = torch.cat((before, x_NCHW[:-batch]))
        return torch.relu(self.conv(torch.cat((x_NCHW, past), dim=1)) + x_NCHW)


class TimePool(nn.Module):
    """``factor`` frames become one."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(factor * width, width, 1, bias=False)

    def forward(self, x_NCHW: Tensor, batch: int, _: State | None) -> Tensor:
        return self.conv(rearrange(x_NCHW, "(t k b) c h w -> (t b) (k c) h w", k=self.factor, b=batch))


class TimeGrow(nn.Module):
    """One frame becomes ``factor``."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__()
        self.factor = factor
        self.conv = nn.Conv2d(width, factor * width, 1, bias=False)

    def forward(self, x_NCHW: Tensor, batch: int, _: State | None) -> Tensor:
        return rearrange(self.conv(x_NCHW), "(t b) (k c) h w -> (t k b) c h w", k=self.factor, b=batch)


class SoftClamp(nn.Module):
    """``3 tanh(x / 3)``: keeps stray latents in the range that the decoder was trained on."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * torch.tanh(x / 3)


class TAEHV(ModelMixin, ConfigMixin):
    """The autoencoder. Input ``(B, 3, T, H, W)`` in [0, 1], output not clamped; latents are deterministic and unscaled.

    Latents are ``(B, latent_channels, t, h, w)`` with ``t = ceil(T / time_stride)``, one per ``space_stride`` pixels.
    They are the scaled latents of the network that it was distilled from (WAN 2.1, WAN 2.2, LTX-2).

    Args:
        latent_channels: channels of a latent.
        patch_size: edge of the pixel squares that are channels outside the network.
        time_pool: frames that each of the three encoder stages joins; the decoder's stages undo them.
        width: features of the encoder and of the decoder's last stage (the others have 2 and 4 times as many).
        blocks: memory blocks per stage.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        patch_size: int = 1,
        time_pool: Sequence[int] = (2, 2, 1),
        width: int = 64,
        blocks: int = 3,
    ) -> None:
        super().__init__()
        pixels = 3 * patch_size**2
        encoder: list[nn.Module] = [_conv(pixels, width), nn.ReLU()]
        decoder: list[nn.Module] = [SoftClamp(), _conv(latent_channels, 4 * width), nn.ReLU()]
        for factor in time_pool:
            encoder += [TimePool(width, factor), _conv(width, width, stride=2, bias=False)]
            encoder += [MemoryBlock(width) for _ in range(blocks)]
        for factor, wide, after in zip(reversed(time_pool), (4, 2, 1), (2, 1, 1), strict=True):
            decoder += [MemoryBlock(wide * width) for _ in range(blocks)]
            decoder += [nn.Upsample(scale_factor=2), TimeGrow(wide * width, factor)]
            decoder += [_conv(wide * width, after * width, bias=False)]
        self.encoder = nn.Sequential(*encoder, _conv(width, latent_channels))
        self.decoder = nn.Sequential(*decoder, nn.ReLU(), _conv(width, pixels))
        self.patch_size = patch_size
        self.time_stride = math.prod(time_pool)
        self.space_stride = 8 * patch_size

    @property
    def halo(self) -> int:
        """Latents of in-plane context on each side that a latent, and likewise a decoded square, needs.

        A stage has three convolutions per block and one more, at half the resolution from stage to stage; the first and
        the last convolution are at the two ends. In pixels that is 1 + (1 + 6n) + (2 + 12n) + (4 + 24n) + 8, n blocks.
        """
        return math.ceil((16 + 42 * self.config.blocks) / 8)

    def encode(self, x_BCTHW: Tensor, state: State | None = None) -> Tensor:
        """Latents of the slices; T is filled up to a multiple of ``time_stride`` with copies of the last one.

        To stream, pass one ``state`` dict through the calls; every T but the last is such a multiple.
        """
        missing = -x_BCTHW.shape[2] % self.time_stride
        if missing:
            x_BCTHW = torch.cat((x_BCTHW, x_BCTHW[:, :, -1:].expand(-1, -1, missing, -1, -1)), dim=2)
        x = F.pixel_unshuffle(rearrange(x_BCTHW, "b c t h w -> (t b) c h w"), self.patch_size)
        z = _walk(self.encoder, x, x_BCTHW.shape[0], state)
        return rearrange(z, "(t b) c h w -> b c t h w", b=x_BCTHW.shape[0])

    def decode(self, z_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Slices of the latents, not clamped: ``time_stride`` of each, but one of the very first.

        To stream, pass one ``state`` dict through the calls and ``first=False`` after the first of them.
        """
        x = _walk(self.decoder, rearrange(z_BCTHW, "b c t h w -> (t b) c h w"), z_BCTHW.shape[0], state)
        x = rearrange(F.pixel_shuffle(x, self.patch_size), "(t b) c h w -> b c t h w", b=z_BCTHW.shape[0])
        return x[:, :, self.time_stride - 1 :] if first else x

    @staticmethod
    def remap_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cut kernels that grow time further than the encoder pools it, as published files may: the last count."""
        kept = dict(tensors)
        for grow, pool in GROWS.items():
            down, up = kept.get(f"{pool}.conv.weight"), kept.get(f"{grow}.conv.weight")
            if down is not None and up is not None:
                kept[f"{grow}.conv.weight"] = up[-up.shape[1] * (down.shape[1] // down.shape[0]) :]
        return kept


def _walk(layers: Iterable[nn.Module], x_NCHW: Tensor, batch: int, state: State | None) -> Tensor:
    for layer in layers:
        timed = isinstance(layer, MemoryBlock | TimePool | TimeGrow)
        x_NCHW = layer(x_NCHW, batch, state) if timed else layer(x_NCHW)
    return x_NCHW
