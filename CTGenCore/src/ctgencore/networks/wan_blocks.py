"""Layers of the WAN video VAEs, channels-last and streaming; published names.

Inside, tensors are ``(T, B, H, W, C)``, contiguous: a frame of the whole batch is one block of memory, so that frames
are joined, shifted and mixed without a transpose, and a frame is what a 2D convolution wants. Everything is causal
along T. What a layer remembers of the frames before is in a ``State`` that is passed through the calls of one stream;
the first call of a stream has one frame.

Where most of the work is, in the 3x3x3 convolutions, time is done with minimal filtering (Winograd, *Arithmetic
Complexity of Computations*, 1980; Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, 2016): four
frames of output need six 2D convolutions of sums of frames instead of twelve of frames, two need four instead of six.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

State = dict[nn.Module, Tensor]  # per layer that looks back: the last frames that it has seen

EPS = 1e-12
FILTER_CHANNELS = 16  # in and out, from which on minimal filtering pays: its sums must be few beside the products
FILTER_VOXELS = 1024  # of a call: below, the sums of weights outweigh what is saved


# --- convolution over time -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Filter:
    """Minimal filtering F(n, 3): three taps g over n + 2 inputs d give ``outputs @ ((taps @ g) * (inputs @ d))``.

    The second product stands for the point 1, where every output's polynomial has the sum of its coefficients: a
    constant that is added to it alone, is added to every output.
    """

    inputs: Tensor
    taps: Tensor
    outputs: Tensor


def _filter(inputs: list[list[float]], taps: list[list[float]], outputs: list[list[float]]) -> Filter:
    return Filter(*(torch.tensor(matrix, device="cpu") for matrix in (inputs, taps, outputs)))


TWO = _filter(
    [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1.0]],
    [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    [[1, 1, 1, 0], [0, 1, -1, -1.0]],
)
FOUR = _filter(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1.0],
    ],
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1.0]],
)


class Step:
    """One call of a stream.

    Attributes:
        state: see :data:`State`.
        first: nothing was seen before; there is one frame.
    """

    def __init__(self, state: State, *, first: bool) -> None:
        self.state, self.first = state, first
        self._rooms: dict[str, Tensor] = {}

    def room(self, name: str, like: Tensor, *shape: int) -> Tensor:
        """Memory, not cleared, that layer after layer uses for the same purpose: fresh memory costs time."""
        size = math.prod(shape)
        if name not in self._rooms or len(self._rooms[name]) < size:
            self._rooms[name] = like.new_empty(size)
        return self._rooms[name][:size].view(shape)


class RMSNorm(nn.Module):
    """Divide by the root mean square of the channels, times a gain each; then SiLU, if ``silu``."""

    def __init__(self, width: int, trailing: int, *, silu: bool) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width, *(1,) * trailing))
        self.silu = silu

    def forward(self, x: Tensor, out: Tensor) -> Tensor:
        """Of ``(..., C)``; written to ``out``."""
        gain = self.gamma.flatten() * math.sqrt(x.shape[-1])
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).clamp_min_(EPS)
        torch.mul(x, size.reciprocal_(), out=out)
        out.mul_(gain)
        return F.silu(out, inplace=True) if self.silu else out


class CausalConv(nn.Conv3d):
    """3x3x3 convolution of a frame and the two before it; zeros around the plane and before the first frame."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3)
        # In memory tap by tap, each as a channels-last 2D convolution wants it.
        self.weight.data = self.weight.data.permute(2, 0, 3, 4, 1).contiguous().permute(1, 4, 0, 2, 3)

    def forward(self, x: Tensor, step: Step, norm: RMSNorm | None = None, out: Tensor | None = None) -> Tensor:  # type: ignore[override]
        """The convolution of ``norm(x)``; it is added to ``out``, if given."""
        seen = step.room("seen", x, len(x) + 2, *x.shape[1:])
        if norm is None:
            seen[2:] = x
        else:
            norm(x, seen[2:])
        seen[:2] = 0 if step.first else step.state[self]
        step.state[self] = seen[-2:].clone()
        if x.device.type != "cpu":  # a GPU has tensor cores, and rounds more than sums over frames should be
            y = F.conv3d(rearrange(seen, "t b h w c -> b c t h w"), self.weight, self.bias, padding=(0, 1, 1))
            return _added(rearrange(y, "b c t h w -> t b h w c"), out)
        large = x[..., 0].numel() >= FILTER_VOXELS and min(self.weight.shape[:2]) >= FILTER_CHANNELS
        if large and len(x) % 2 == 0 and x.dtype == torch.float32:
            return self._filtered(seen, step, FOUR if len(x) % 4 == 0 else TWO, out)
        y = _conv(seen[2:], self.weight[:, :, 2], self.bias)
        for tap in () if step.first else range(2):
            y += _conv(seen[tap : tap + len(x)], self.weight[:, :, tap])
        return _added(y, out)

    def _filtered(self, seen: Tensor, step: Step, way: Filter, out: Tensor | None) -> Tensor:
        frames, points = way.outputs.shape
        count = (len(seen) - 2) // frames
        outputs, inputs = self.weight.shape[:2]
        taps = rearrange(self.weight, "o i t h w -> t (o h w i)")
        mixed = step.room("weights", taps, 1, taps.shape[1])
        weight = rearrange(mixed, "1 (o h w i) -> o i h w", o=outputs, h=3, w=3)
        sums = step.room("sums", seen, points, count, *seen.shape[1:])
        for i in range(count):
            torch.mm(way.inputs, seen[i * frames : i * frames + points].flatten(1), out=sums[:, i].flatten(1))
        products = sums if inputs == outputs else step.room("products", seen, *sums.shape[:-1], outputs)
        for point in range(points):
            torch.mm(way.taps[point : point + 1], taps, out=mixed)
            products[point] = _conv(sums[point], weight, self.bias if point == 1 else None)
        fresh = out is None
        if out is None:
            out = seen.new_empty(count * frames, *seen.shape[1:-1], outputs)
        for i in range(count):
            part = out[i * frames : (i + 1) * frames].flatten(1)
            torch.addmm(part, way.outputs, products[:, i].flatten(1), beta=0 if fresh else 1, out=part)
        return out


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int = 1) -> Tensor:
    """2D convolution of ``(..., H, W, C)``."""
    y = F.conv2d(x.flatten(0, -4).permute(0, 3, 1, 2), weight, bias, stride, padding)
    return y.permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:-3])


def _added(y: Tensor, out: Tensor | None) -> Tensor:
    return y.contiguous() if out is None else out.add_(y)


class Pointwise(nn.Conv3d):
    """1x1x1 convolution."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class TimeConv(nn.Conv3d):
    """3x1x1 convolution: of ``stride * k + 2`` or more frames, none added."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__(inputs, outputs, (3, 1, 1), stride=(stride, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        step = self.stride[0]
        last = len(x) - 2
        taps = torch.cat([x[i : i + last : step] for i in range(3)], dim=-1)
        return F.linear(taps, rearrange(self.weight, "o i t 1 1 -> o (t i)"), self.bias)


# --- blocks ----------------------------------------------------------------------------------------------------------


class ResBlock(nn.Module):
    """Twice norm, SiLU and convolution, around a shortcut. Without a projection there, the input is overwritten."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(inputs, 3, silu=True)
        self.conv1 = CausalConv(inputs, outputs)
        self.norm2 = RMSNorm(outputs, 3, silu=True)
        self.conv2 = CausalConv(outputs, outputs)
        self.conv_shortcut = Pointwise(inputs, outputs) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, step: Step) -> Tensor:
        y = self.conv1(x, step, self.norm1)
        return self.conv2(y, step, self.norm2, out=self.conv_shortcut(x))


class Attention(nn.Module):
    """Of one head, within each frame."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width, 2, silu=False)
        self.to_qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x, torch.empty_like(x)).flatten(2, 3)
        q, k, v = F.linear(tokens, self.to_qkv.weight.flatten(1), self.to_qkv.bias).chunk(3, dim=-1)
        y = F.linear(F.scaled_dot_product_attention(q, k, v), self.proj.weight.flatten(1), self.proj.bias)
        return x.add_(y.view_as(x))


class Middle(nn.Module):
    """Block, attention, block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([Attention(width)])
        self.resnets = nn.ModuleList([ResBlock(width, width) for _ in range(2)])

    def forward(self, x: Tensor, step: Step) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x, step)), step)


class Down(nn.Module):
    """Halve the plane, and time if ``time``; the first frame of a stream stays one."""

    def __init__(self, width: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(width, width, 3, stride=2))
        self.time_conv = TimeConv(width, width, stride=2) if time else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        y = _conv(F.pad(x, (0, 0, 0, 1, 0, 1)), conv.weight, conv.bias, stride=2, padding=0)  # right and below only
        if self.time_conv is None:
            return y
        seen = y if step.first else torch.cat((step.state[self], y))
        step.state[self] = y[-1:].clone()
        return y if step.first else self.time_conv(seen)


class Up(nn.Module):
    """Double the plane, and time if ``time``; the first frame of a stream stays one, and those after do not see it."""

    def __init__(self, inputs: int, outputs: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time_conv = TimeConv(inputs, 2 * inputs) if time else None

    def forward(self, x: Tensor, step: Step) -> Tensor:
        if self.time_conv is not None:
            seen = x.new_zeros(2, *x.shape[1:]) if step.first else torch.cat((step.state[self], x))
            step.state[self] = seen[-2:].clone()
            if not step.first:
                x = rearrange(self.time_conv(seen), "t b h w (n c) -> (t n) b h w c", n=2)
        height, width = x.shape[2:4]
        doubled = x[:, :, :, None, :, None].expand(-1, -1, -1, 2, -1, 2, -1)
        conv = self.resample[1]
        assert isinstance(conv, nn.Conv2d)
        return _conv(doubled.reshape(*x.shape[:2], 2 * height, 2 * width, -1), conv.weight, conv.bias)


class DownLevel(nn.Module):
    """A level of version 2.2's encoder: around it, groups of neighboring channels and voxels are averaged."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, down: bool, time: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks)])
        self.downsampler = Down(outputs, time=time) if down else None
        self.outputs, self.factors = outputs, (2 if time else 1, 2 if down else 1)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        t, s = self.factors
        padded = F.pad(x, (0, 0, 0, 0, 0, 0, 0, 0, -len(x) % t, 0))
        groups = rearrange(padded, "(t n) b (h p) (w q) c -> t b h w (c n p q)", n=t, p=s, q=s)
        shortcut = groups.unflatten(-1, (self.outputs, -1)).mean(-1)
        for block in self.resnets:
            x = block(x, step)
        if self.downsampler is not None:
            x = self.downsampler(x, step)
        return x.add_(shortcut)


class UpLevel(nn.Module):
    """A level of the decoder. Around that of version 2.2 (``repeats``), channels are repeated as voxels."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, up: int, time: bool, repeats: bool) -> None:
        """``up``: channels after the plane is doubled, or 0."""
        super().__init__()
        self.resnets = nn.ModuleList([ResBlock(outputs if i else inputs, outputs) for i in range(blocks)])
        self.upsampler = self.upsamplers = None
        if up:
            upsampler = Up(outputs, up, time=time)
            if repeats:
                self.upsampler = upsampler
            else:
                self.upsamplers = nn.ModuleList([upsampler])
        self.repeats, self.time = repeats and bool(up), time

    def forward(self, x: Tensor, step: Step) -> Tensor:
        kept = x.clone() if self.repeats else x
        for block in self.resnets:
            x = block(x, step)
        if self.upsampler is not None:
            x = self.upsampler(x, step)
        elif self.upsamplers is not None:
            x = self.upsamplers[0](x, step)
        return x.add_(self._repeated(kept, x.shape[-1], first=step.first)) if self.repeats else x

    def _repeated(self, x: Tensor, outputs: int, *, first: bool) -> Tensor:
        t = 2 if self.time else 1
        y = x.repeat_interleave(outputs * t * 4 // x.shape[-1], dim=-1)
        y = rearrange(y, "t b h w (c n p q) -> (t n) b (h p) (w q) c", n=t, p=2, q=2)
        return y[t - 1 :] if first else y


# --- both sides ------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """``(T, B, H, W, inputs)`` to ``(T', B, H/8, W/8, outputs)``. Under 2.1's names all layers are in one row."""

    def __init__(
        self, inputs: int, outputs: int, widths: list[int], blocks: int, times: list[bool], *, residual: bool
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv(inputs, widths[0])
        layers: list[nn.Module] = []
        for level, (narrow, wide) in enumerate(zip([widths[0], *widths], widths, strict=False)):
            down = level < len(times)
            time = down and times[level]
            if residual:
                layers.append(DownLevel(narrow, wide, blocks, down=down, time=time))
                continue
            layers += [ResBlock(wide if i else narrow, wide) for i in range(blocks)]
            layers += [Down(wide, time=time)] if down else []
        self.down_blocks = nn.ModuleList(layers)
        self.mid_block = Middle(widths[-1])
        self.norm_out = RMSNorm(widths[-1], 3, silu=True)
        self.conv_out = CausalConv(widths[-1], outputs)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = self.conv_in(x, step)
        for layer in self.down_blocks:
            x = layer(x, step)
        return self.conv_out(self.mid_block(x, step), step, self.norm_out)


class Decoder(nn.Module):
    """The way back; ``widths`` and ``times`` from the latents on."""

    def __init__(
        self, inputs: int, outputs: int, widths: list[int], blocks: int, times: list[bool], *, residual: bool
    ) -> None:
        super().__init__()
        self.conv_in = CausalConv(inputs, widths[0])
        self.mid_block = Middle(widths[0])
        self.up_blocks = nn.ModuleList()
        for level, wide in enumerate(widths):
            up = level < len(times)
            before = widths[max(level - 1, 0)]
            self.up_blocks.append(
                UpLevel(
                    before // 2 if level and not residual else before,
                    wide,
                    blocks + 1,
                    up=0 if not up else wide if residual else wide // 2,
                    time=up and times[level],
                    repeats=residual,
                )
            )
        self.norm_out = RMSNorm(widths[-1], 3, silu=True)
        self.conv_out = CausalConv(widths[-1], outputs)

    def forward(self, x: Tensor, step: Step) -> Tensor:
        x = self.mid_block(self.conv_in(x, step), step)
        for level in self.up_blocks:
            x = level(x, step)
        return self.conv_out(x, step, self.norm_out)
