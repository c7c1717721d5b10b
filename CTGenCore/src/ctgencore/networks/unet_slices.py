"""The slice U-Net of Foundation-VAE: a 2D latent-diffusion U-Net whose slices meet in 1D convolutions along Z.

The 2D part is the text-conditioned U-Net of latent diffusion (Rombach et al., *High-Resolution Image Synthesis with
Latent Diffusion Models*, CVPR 2022; Dhariwal & Nichol, NeurIPS 2021): residual blocks, self- and cross-attention at the
coarser levels. Every latent slice of every volume is an item of its batch. A "slice convolution" (Foundation VAE,
section 4) mixes neighboring slices after every 3x3 convolution; it starts as the identity, so that the 3D network at
first equals the 2D one slice by slice. Tensor names and shapes are those of the published checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError

PADDINGS = ("zeros", "reflect")
TIME_FACTOR = 4  # the time embedding is this much wider than the first level


@dataclass(frozen=True, kw_only=True, slots=True)
class SliceUNetSpec:
    """Sizes of a slice U-Net. The defaults are those of both published releases."""

    in_channels: int = 32
    out_channels: int = 16
    channels: int = 224
    multipliers: tuple[int, ...] = (1, 2, 3, 4)
    res_blocks: int = 2
    attention_levels: tuple[int, ...] = (1, 2, 3)
    head_width: int = 32
    context_width: int = 768
    groups: int = 32
    slice_convs: bool = True
    slice_padding: str = "zeros"
    widths: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.channels * factor for factor in self.multipliers))
        if self.slice_padding not in PADDINGS:
            raise InputError(f"slice_padding must be one of {', '.join(PADDINGS)}; got '{self.slice_padding}'.")
        if self.channels % 2 or any(width % self.groups for width in self.widths):
            raise InputError(
                f"Every level's width must be divisible by groups={self.groups}, and channels be even; the widths are "
                f"{self.widths}. Choose another `groups` or `channels`."
            )
        if not set(self.attention_levels) <= set(range(len(self.widths))):
            raise InputError(
                f"attention_levels must be among 0..{len(self.widths) - 1}, one number per multiplier; got "
                f"{self.attention_levels}."
            )
        uneven = [self.widths[level] for level in self.attention_levels if self.widths[level] % self.head_width]
        if uneven or self.widths[-1] % self.head_width:
            raise InputError(
                f"Widths with attention must be divisible by head_width={self.head_width}; the widths are "
                f"{self.widths}, with attention at levels {self.attention_levels} and in the middle. "
                "Choose another `head_width`."
            )


def timestep_embedding(timesteps: Tensor, width: int) -> Tensor:
    """Sinusoids ``[cos | sin]`` of the timestep (0..999), ``(B, width)`` float32; frequencies ``10000^(-2i/width)``."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(10000) / half * steps)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


# --- blocks ----------------------------------------------------------------------------------------------------------


class SliceConv(nn.Module):
    """Convolution of three neighboring slices at every pixel, all channels mixed; starts as the identity.

    It runs as a 2D convolution over (slice, pixel), which is a view, not a copy, of a channels-last batch. With padding
    "reflect" a volume of a single slice has nothing to mirror and counts as its own neighbor.
    """

    def __init__(self, width: int, padding: str) -> None:
        super().__init__()
        self.padding = padding
        self.temporal_conv = nn.Conv1d(width, width, 3)
        nn.init.dirac_(self.temporal_conv.weight)
        nn.init.zeros_(self.temporal_conv.bias)  # type: ignore[arg-type]

    def forward(self, x_NCHW: Tensor, num_slices: int) -> Tensor:
        rows = x_NCHW.shape[-2]
        x = rearrange(x_NCHW, "(v s) c h w -> v c s (h w)", s=num_slices)
        weight, bias = self.temporal_conv.weight[..., None], self.temporal_conv.bias
        if self.padding == "zeros":
            y = F.conv2d(x, weight, bias, padding=(1, 0))
        else:
            near = min(1, num_slices - 1)
            first, last = x[:, :, near : near + 1], x[:, :, num_slices - 1 - near : num_slices - near]
            y = F.conv2d(torch.cat((first, x, last), dim=2), weight, bias)
        return rearrange(y, "v c s (h w) -> (v s) c h w", h=rows)


class NoSliceConv(nn.Module):
    """Stands where the 2D network has no slice convolution."""

    def forward(self, x: Tensor, num_slices: int) -> Tensor:
        return x


def _slice_conv(spec: SliceUNetSpec, width: int) -> nn.Module:
    return SliceConv(width, spec.slice_padding) if spec.slice_convs else NoSliceConv()


class ResBlock(nn.Module):
    """Two convolutions with group norm; the time embedding is added between them. The last one starts at zero."""

    def __init__(self, spec: SliceUNetSpec, wide_in: int, wide_out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(spec.groups, wide_in), nn.SiLU(), nn.Conv2d(wide_in, wide_out, 3, padding=1)
        )
        self.in_layers_tem = _slice_conv(spec, wide_out)
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(TIME_FACTOR * spec.channels, wide_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(spec.groups, wide_out),
            nn.SiLU(),
            nn.Identity(),  # the published slot of a dropout that is off
            _zeroed(nn.Conv2d(wide_out, wide_out, 3, padding=1)),
        )
        self.out_layers_tem = _slice_conv(spec, wide_out)
        self.skip_connection = nn.Identity() if wide_in == wide_out else nn.Conv2d(wide_in, wide_out, 1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        h = self.in_layers_tem(self.in_layers(x), num_slices) + self.emb_layers(emb)[:, :, None, None]
        return self.out_layers_tem(self.out_layers(h), num_slices) + self.skip_connection(x)


class Attention(nn.Module):
    """Multi-head attention of tokens to a context (or themselves); memory grows with the tokens, not their square."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width, width, bias=False)
        self.to_v = nn.Linear(context_width, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x_NTD: Tensor, context: Tensor | None = None) -> Tensor:
        """Attend; a context with fewer items than ``x`` is shared by consecutive ones (the slices of a volume)."""
        memory = x_NTD if context is None else context
        share = len(x_NTD) // len(memory)
        q = rearrange(self.to_q(x_NTD), "(v s) t (a d) -> v a (s t) d", s=share, a=self.heads)
        k, v = (rearrange(f(memory), "v l (a d) -> v a l d", a=self.heads) for f in (self.to_k, self.to_v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(rearrange(y, "v a (s t) d -> (v s) t (a d)", s=share))


class GatedGELU(nn.Module):
    """Linear layer to two halves ``(u, g)``, then ``u * gelu(g)``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        u, g = self.proj(x).chunk(2, dim=-1)
        return u * F.gelu(g)


class FeedForward(nn.Module):
    """Gated feed-forward layer, four times as wide inside; the published slots 0 and 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedGELU(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; each after a LayerNorm and added to its input."""

    def __init__(self, width: int, context_width: int, head_width: int) -> None:
        super().__init__()
        self.attn1 = Attention(width, width, head_width)
        self.attn2 = Attention(width, context_width, head_width)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """A transformer block over the pixels of each slice; its output projection starts at zero."""

    def __init__(self, spec: SliceUNetSpec, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(spec.groups, width, eps=1e-6)
        self.proj_in = nn.Conv2d(width, width, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width, spec.context_width, spec.head_width)])
        self.proj_out = _zeroed(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        tokens = rearrange(self.proj_in(self.norm(x)), "n c h w -> n (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[-2])) + x


class FirstConv(nn.Conv2d):
    """The input convolution, called as the other blocks are."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class FirstSliceConv(SliceConv):
    """The slice convolution after the input convolution, called as the other blocks are."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:  # type: ignore[override]
        return super().forward(x, num_slices)


class Down(nn.Module):
    """Half the rows and columns by a strided convolution."""

    def __init__(self, spec: SliceUNetSpec, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.op_tem = _slice_conv(spec, width)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        return self.op_tem(self.op(x), num_slices)


class Up(nn.Module):
    """Twice the rows and columns by repetition, then a convolution."""

    def __init__(self, spec: SliceUNetSpec, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.conv_tem = _slice_conv(spec, width)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        return self.conv_tem(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")), num_slices)


class Block(nn.ModuleList):
    """Layers that run one after the other, all with the same arguments."""

    def forward(self, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        for layer in self:
            x = layer(x, emb, context, num_slices)
        return x


def _zeroed(layer: nn.Module) -> nn.Module:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


# --- the network -----------------------------------------------------------------------------------------------------


class SliceUNet(ModelMixin, ConfigMixin):
    """The denoiser. Keyword arguments are the fields of :class:`SliceUNetSpec`.

    Latents of any size are accepted: rows and columns that are no multiple of ``2 ** (levels - 1)`` are continued by
    repetition at the far side and cut off again, and the slices of a volume may be any number from one.
    """

    _supports_gradient_checkpointing = True
    gradient_checkpointing = False

    @register_to_config
    def __init__(
        self,
        in_channels: int = 32,
        out_channels: int = 16,
        channels: int = 224,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        res_blocks: int = 2,
        attention_levels: Sequence[int] = (1, 2, 3),
        head_width: int = 32,
        context_width: int = 768,
        groups: int = 32,
        slice_convs: bool = True,
        slice_padding: str = "zeros",
    ) -> None:
        super().__init__()
        self.spec = spec = SliceUNetSpec(
            in_channels=in_channels,
            out_channels=out_channels,
            channels=channels,
            multipliers=tuple(multipliers),
            res_blocks=res_blocks,
            attention_levels=tuple(attention_levels),
            head_width=head_width,
            context_width=context_width,
            groups=groups,
            slice_convs=slice_convs,
            slice_padding=slice_padding,
        )
        emb = TIME_FACTOR * channels
        self.time_embed = nn.Sequential(nn.Linear(channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        first: list[nn.Module] = [FirstConv(in_channels, spec.widths[0], 3, padding=1)]
        if slice_convs:
            first.append(FirstSliceConv(spec.widths[0], slice_padding))
        self.input_blocks = nn.ModuleList([Block(first)])
        width = spec.widths[0]
        skips = [width]
        last = len(spec.widths) - 1
        for level, wide in enumerate(spec.widths):
            for _ in range(res_blocks):
                self.input_blocks.append(Block(self._layers(width, wide, level)))
                width = wide
                skips.append(width)
            if level < last:
                self.input_blocks.append(Block([Down(spec, width)]))
                skips.append(width)
        self.middle_block = Block(
            [ResBlock(spec, width, width), SpatialTransformer(spec, width), ResBlock(spec, width, width)]
        )
        self.output_blocks = nn.ModuleList()
        for level in range(last, -1, -1):
            for index in range(res_blocks + 1):
                layers = self._layers(width + skips.pop(), spec.widths[level], level)
                width = spec.widths[level]
                if level and index == res_blocks:
                    layers.append(Up(spec, width))
                self.output_blocks.append(Block(layers))
        self.out = nn.Sequential(
            nn.GroupNorm(groups, width), nn.SiLU(), _zeroed(nn.Conv2d(width, out_channels, 3, padding=1))
        )
        self.out_tem = _slice_conv(spec, out_channels)

    def _layers(self, wide_in: int, wide_out: int, level: int) -> list[nn.Module]:
        layers: list[nn.Module] = [ResBlock(self.spec, wide_in, wide_out)]
        if level in self.spec.attention_levels:
            layers.append(SpatialTransformer(self.spec, wide_out))
        return layers

    def slice_parameters(self) -> Iterator[nn.Parameter]:
        """Weights and biases of the slice convolutions: all that the published second training stage trains."""
        for module in self.modules():
            if isinstance(module, SliceConv):
                yield from module.parameters()

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, num_slices: int = 17) -> Tensor:
        """Predict the noise (or velocity).

        Args:
            x: ``(volumes * slices, in_channels, H, W)``, the slices of a volume consecutive.
            timesteps: 0..999, ``(volumes * slices,)`` or ``(volumes,)``.
            context: ``(volumes * slices, L, context_width)`` or ``(volumes, L, context_width)``; no token is masked.
            num_slices: latent slices per volume; 1 treats every slice as a volume.

        Returns:
            ``(volumes * slices, out_channels, H, W)``.

        Raises:
            InputError: shapes that do not fit each other.
        """
        self._check(x, timesteps, context, num_slices)
        rows, columns = x.shape[-2:]
        unit = 2 ** (len(self.spec.widths) - 1)
        if rows % unit or columns % unit:
            x = F.pad(x, (0, -columns % unit, 0, -rows % unit), mode="replicate")
        emb = self.time_embed(timestep_embedding(timesteps, self.spec.channels).to(x.dtype))
        emb = emb.repeat_interleave(len(x) // len(emb), dim=0)
        skips = []
        for block in self.input_blocks:
            x = self._run(block, x, emb, context, num_slices)
            skips.append(x)
        x = self._run(self.middle_block, x, emb, context, num_slices)
        for block in self.output_blocks:
            x = self._run(block, torch.cat((x, skips.pop()), dim=1), emb, context, num_slices)
        return self.out_tem(self.out(x), num_slices)[..., :rows, :columns]

    def _run(self, block: nn.Module, x: Tensor, emb: Tensor, context: Tensor, num_slices: int) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, x, emb, context, num_slices)
        return block(x, emb, context, num_slices)

    def _check(self, x: Tensor, timesteps: Tensor, context: Tensor, num_slices: int) -> None:
        spec = self.spec
        if x.ndim != 4 or x.shape[1] != spec.in_channels or num_slices < 1 or len(x) % num_slices:
            raise InputError(
                f"x must be (volumes * num_slices, {spec.in_channels}, H, W); got {tuple(x.shape)} with "
                f"num_slices={num_slices}."
            )
        allowed = (len(x), len(x) // num_slices)
        if timesteps.ndim != 1 or len(timesteps) not in allowed:
            raise InputError(f"timesteps must have {allowed[0]} or {allowed[1]} items; got {tuple(timesteps.shape)}.")
        if context.ndim != 3 or len(context) not in allowed or context.shape[-1] != spec.context_width:
            raise InputError(
                f"context must be ({allowed[0]} or {allowed[1]}, L, {spec.context_width}); got {tuple(context.shape)}."
            )
