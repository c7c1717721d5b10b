"""WAN 2.1 and 2.2 video VAEs (Wan-Video/Wan2.1, Apache-2.0), deterministic, re-entrant and streaming.

Diffusers' ``AutoencoderKLWan`` has the same names and gives the same numbers. It keeps the frames that it has seen on
the module, feeds one latent per step and joins the output by repeated concatenation. Here they are an argument, so
that a volume of any length streams at the memory of one chunk; and on a CPU it is faster (see ``wan_blocks``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from ..checkpoint import check_names
from ..zoo import CodecRow, build_empty
from .wan_blocks import Decoder, Encoder, Pointwise, State, Step

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


# fmt: off
MEANS = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
         0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STDS = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
        3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)
# fmt: on


class Wan(ModelMixin, ConfigMixin):
    """The autoencoder. ``(B, 3, T, H, W)`` in [-1, 1], T = 1 + 4k, to posterior means ``(B, z_dim, 1+k, H/s, W/s)``.

    s is 8 (2.1) or 16 (2.2); H and W are multiples of it. Not for training: it computes no gradients.

    Args:
        base_dim: channels of the encoder's first level.
        decoder_base_dim: channels of the decoder's last; None: the same.
        z_dim: channels of the latents.
        dim_mult: channels of each level, in multiples of ``base_dim``.
        num_res_blocks: blocks of an encoder's level; a decoder's has one more.
        temperal_downsample: which levels halve time, too (the name is the published one).
        latents_mean, latents_std: statistics of the latents' channels.
        is_residual: version 2.2: shortcuts around whole levels.
        in_channels, out_channels: colors, times ``patch_size`` squared.
        patch_size: edge of the pixel squares that are channels inside; None: 1.
    """

    @register_to_config
    def __init__(
        self,
        base_dim: int = 96,
        decoder_base_dim: int | None = None,
        z_dim: int = 16,
        dim_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        temperal_downsample: Sequence[bool] = (False, True, True),
        latents_mean: Sequence[float] = MEANS,
        latents_std: Sequence[float] = STDS,
        is_residual: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int | None = None,
    ) -> None:
        super().__init__()
        down, up = ([dim * n for n in dim_mult] for dim in (base_dim, decoder_base_dim or base_dim))
        times = list(temperal_downsample)
        self.encoder = Encoder(in_channels, 2 * z_dim, down, num_res_blocks, times, residual=is_residual)
        self.quant_conv = Pointwise(2 * z_dim, 2 * z_dim)
        self.post_quant_conv = Pointwise(z_dim, z_dim)
        self.decoder = Decoder(z_dim, out_channels, up[::-1], num_res_blocks, times[::-1], residual=is_residual)
        self.patch = patch_size or 1

    @torch.no_grad()
    def moments(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation. To stream, pass one ``state`` dict through the calls and
        ``first=False`` after the first call (whose T is 1 + 4k; later ones are multiples of 4)."""
        x = rearrange(x_BCTHW, "b c t (h p) (w q) -> t b h w (c q p)", p=self.patch, q=self.patch)
        y = self.quant_conv(_by_steps(self.encoder, x, state, first=first))
        mean, log_variance = rearrange(y, "t b h w c -> b c t h w").contiguous().chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def encode(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Posterior mean; streaming as in :meth:`moments`."""
        return self.moments(x_BCTHW, state, first=first)[0]

    @torch.no_grad()
    def decode(self, z_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Slices from raw latents, not clamped; to stream, any number of latents per call."""
        z = self.post_quant_conv(rearrange(z_BCTHW, "b c t h w -> t b h w c"))
        x = _by_steps(self.decoder, z, state, first=first)
        return rearrange(x, "t b h w (c q p) -> b c t (h p) (w q)", p=self.patch, q=self.patch)


def _by_steps(net: nn.Module, x: Tensor, state: State | None, *, first: bool) -> Tensor:
    """The first frame of a stream goes alone."""
    state = {} if state is None else state
    parts = [net(x[:1], Step(state, first=True))] if first else []
    rest = x[1:] if first else x
    if len(rest):
        parts.append(net(rest, Step(state, first=False)))
    return torch.cat(parts)


def convert(row: CodecRow, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a published file under diffusers' names, all of them checked.

    Both layouts are taken: diffusers' own, and that of the official ``Wan2.1_VAE.pth`` and ``Wan2.2_VAE.pth``.

    Raises:
        WeightsError: a file of the other version, or of something else.
    """
    if "encoder.conv1.weight" in tensors:
        tensors = {diffusers_name(name): tensor for name, tensor in tensors.items()}
    assert row.network is not None
    return check_names(build_empty(row.network), tensors)


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
