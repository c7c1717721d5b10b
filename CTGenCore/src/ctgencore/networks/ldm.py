"""The autoencoder of latent diffusion (Rombach et al. 2022) as a chain of parts under published names.

CV-VAE, OD-VAE and MedVAE are inflations of it: the same tree of residual blocks, attention in the middle, and a
convolution between levels; what a convolution is differs. So a network gives its :class:`Layers` and gets an encoder
or a decoder, which runs its parts one after the other. Tensors are ``(B, C, T, H, W)``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """Where parts stand in the published tree; ``level`` counts from full resolution, ``rise`` from the deepest."""

    down: str = "down.{level}.block.{i}"
    downsample: str = "down.{level}.downsample"
    middle: tuple[str, str, str] = ("mid.block_1", "mid.attn_1", "mid.block_2")
    up: str = "up.{level}.block.{i}"
    upsample: str = "up.{level}.upsample"
    norm: str = "norm_out"


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """What one side of an autoencoder is made of.

    Attributes:
        conv: the first and the last convolution, of (channels in, channels out, level).
        block: a residual block, of the same.
        attention: the middle's, of its channels.
        resample: between two levels, of (channels, level): down from it, or up from it.
        norm: the last norm, of its channels, with its activation.
    """

    conv: Callable[[int, int, int], nn.Module]
    block: Callable[[int, int, int], nn.Module]
    attention: Callable[[int], nn.Module]
    resample: Callable[[int, int], nn.Module]
    norm: Callable[[int], nn.Module]


class Chain(nn.Module):
    """Modules that run one after the other, each under its own dotted name."""

    def __init__(self, parts: dict[str, nn.Module]) -> None:
        super().__init__()
        self.order = tuple(parts)
        for name, part in parts.items():
            place: nn.Module = self
            *path, last = name.split(".")
            for step in path:
                if not hasattr(place, step):
                    place.add_module(step, nn.Module())
                place = getattr(place, step)
            place.add_module(last, part)

    def forward(self, x: Tensor) -> Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def encoder(
    layers: Layers, channels_in: int, channels_out: int, widths: Sequence[int], blocks: int, names: Names
) -> Chain:
    """``widths`` of the levels, ``blocks`` in each."""
    deepest, width = len(widths) - 1, widths[0]
    parts = {"conv_in": layers.conv(channels_in, width, 0)}
    for level, wide in enumerate(widths):
        for i in range(blocks):
            parts[names.down.format(level=level, i=i)] = layers.block(width, wide, level)
            width = wide
        if level < deepest:
            parts[names.downsample.format(level=level)] = layers.resample(width, level)
    parts |= _middle(layers, width, deepest, names)
    return Chain(parts | {names.norm: layers.norm(width), "conv_out": layers.conv(width, channels_out, deepest)})


def decoder(
    layers: Layers, channels_in: int, channels_out: int, widths: Sequence[int], blocks: int, names: Names
) -> Chain:
    """The mirror image of :func:`encoder`, with one more block in each level."""
    deepest, width = len(widths) - 1, widths[-1]
    parts = {"conv_in": layers.conv(channels_in, width, deepest)} | _middle(layers, width, deepest, names)
    for level in range(deepest, -1, -1):
        for i in range(blocks + 1):
            parts[names.up.format(level=level, rise=deepest - level, i=i)] = layers.block(width, widths[level], level)
            width = widths[level]
        if level > 0:
            parts[names.upsample.format(level=level, rise=deepest - level)] = layers.resample(width, level)
    return Chain(parts | {names.norm: layers.norm(width), "conv_out": layers.conv(width, channels_out, 0)})


def _middle(layers: Layers, width: int, level: int, names: Names) -> dict[str, nn.Module]:
    first, attention, second = names.middle
    return {
        first: layers.block(width, width, level),
        attention: layers.attention(width),
        second: layers.block(width, width, level),
    }


class NormSiLU(nn.GroupNorm):
    """Group norm over all of ``(T, H, W)``, which is what makes these networks depend on their window; then SiLU."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(super().forward(x), inplace=True)


class FrameConv(nn.Conv2d):
    """A 2D convolution of every frame."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        pad, stride = (0, *self.padding), (1, *self.stride)
        return F.conv3d(x_BCTHW, self.weight[:, :, None], self.bias, stride=stride, padding=pad)


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice; plus the input, through ``shortcut`` (its name and module) if there is one."""

    def __init__(
        self,
        norm1: NormSiLU,
        conv1: nn.Module,
        norm2: NormSiLU,
        conv2: nn.Module,
        shortcut: tuple[str, nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.norm1, self.conv1, self.norm2, self.conv2 = norm1, conv1, norm2, conv2
        self.shortcut = None if shortcut is None else shortcut[0]
        if shortcut is not None:
            self.add_module(*shortcut)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.norm1(x))
        h = self.conv2(self.norm2(h))
        return h + (x if self.shortcut is None else getattr(self, self.shortcut)(x))


def attend(tokens: Tensor, q: nn.Module, k: nn.Module, v: nn.Module, out: nn.Module) -> Tensor:
    """Single-head self-attention among ``(B, N, C)`` tokens; the projections are linear layers or 1x1 convolutions."""
    query, key, value = (_project(tokens, layer)[:, None] for layer in (q, k, v))
    return _project(F.scaled_dot_product_attention(query, key, value)[:, 0], out)


def _project(tokens: Tensor, layer: nn.Module) -> Tensor:
    weight, bias = layer.get_parameter("weight"), layer.get_parameter("bias")
    return F.linear(tokens, weight.flatten(1), bias)


def posterior(moments: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation from what the encoder says: mean and log variance along the channels."""
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))


def without_losses(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The autoencoder's own tensors of a training checkpoint, which also holds those of its losses."""
    return {name: tensor for name, tensor in tensors.items() if not name.startswith("loss.")}
