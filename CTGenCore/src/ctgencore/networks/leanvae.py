"""LeanVAE: a causal video autoencoder on Haar wavelet patches, with an unrolled ISTA bottleneck.

Cheng & Yuan, *LeanVAE: An Ultra-Efficient Reconstruction VAE for Video Diffusion Models* (2025); the VAE of
the Foundation-VAE generator. Tensor names and shapes are those of the published checkpoints, so they load
strictly. Tokens stay channels-last, ``(B, T, H, W, D)``: every linear layer and every depthwise convolution then
runs without a transpose, which on a CPU is what the network spends its time on.

One latent frame is the first slice alone ("image token") or four slices ("video token"); each covers 8x8
voxels in plane. Everything is causal along T: a layer needs its own last two input frames and nothing else, so
a volume can be streamed exactly (:meth:`LeanVAE.encode` and :meth:`LeanVAE.decode` with a ``state``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn

State = dict[nn.Module, Tensor]  # per convolution: the last two token frames it has seen


@dataclass(frozen=True, kw_only=True, slots=True)
class LeanVAESpec:
    """Sizes of a LeanVAE. The defaults are the published ``LeanVAE-dim16``; widths are token features."""

    channels: int = 3
    latent_dim: int = 16
    l_dim: int = 128
    h_dim: int = 384
    sep_num_layer: int = 2
    fusion_num_layer: int = 4
    ista_iter_num: int = 2
    ista_layer_num: int = 2

    @property
    def width(self) -> int:
        """Features of a fused token."""
        return self.l_dim + self.h_dim

    @property
    def encode_halo(self) -> int:
        """Tokens of in-plane context that one latent needs on each side."""
        return self.sep_num_layer + self.fusion_num_layer

    @property
    def decode_halo(self) -> int:
        """Latents of in-plane context that one decoded 8x8 patch needs on each side."""
        return 2 * self.ista_iter_num * self.ista_layer_num + self.fusion_num_layer + self.sep_num_layer


# --- wavelet patches -------------------------------------------------------------------------------------------------


def haar_image(x_BCHW: Tensor) -> Tensor:
    """2D Haar as plain signed sums of 2x2 blocks: ``(B, 4C, H/2, W/2)``, sub-band index ``2*[W high] + [H high]``."""
    top, bottom = x_BCHW[..., 0::2, :], x_BCHW[..., 1::2, :]
    bands = [(h[..., 0::2] + s * h[..., 1::2]) for s in (1, -1) for h in (top + bottom, top - bottom)]
    return torch.cat(bands, dim=1)


def haar_image_inverse(y: Tensor) -> Tensor:
    """Inverse of :func:`haar_image`."""
    ll, hl, lh, hh = y.chunk(4, dim=1)  # (W low, H low), (W low, H high), (W high, H low), (W high, H high)
    left_low, left_high = ll + lh, hl + hh
    right_low, right_high = ll - lh, hl - hh
    top = torch.stack((left_low + left_high, right_low + right_high), dim=-1).flatten(-2)
    bottom = torch.stack((left_low - left_high, right_low - right_high), dim=-1).flatten(-2)
    return torch.stack((top, bottom), dim=-2).flatten(-3, -2) / 4


def haar_video(x_BCTHW: Tensor) -> Tensor:
    """3D Haar as plain signed sums of 2x2x2 blocks: ``(B, 8C, T/2, H/2, W/2)``, sub-band ``4*[T]+2*[H]+[W]``."""
    bands = [x_BCTHW]
    for axis in (-3, -2, -1):
        split = []
        for band in bands:
            a = band.unflatten(axis, (-1, 2))
            first, second = a.unbind(axis)  # the pair axis is the last of the two that replaced `axis`
            split += [first + second, first - second]
        bands = split
    return torch.cat(bands, dim=1)


def haar_video_inverse(y: Tensor) -> Tensor:
    """Inverse of :func:`haar_video`."""
    bands = list(y.chunk(8, dim=1))
    for axis in (-1, -2, -3):
        merged = []
        for low, high in zip(bands[0::2], bands[1::2], strict=True):
            pair = torch.stack((low + high, low - high), dim=axis)
            merged.append(pair.flatten(axis - 1, axis))
        bands = merged
    return bands[0] / 8


# --- blocks ----------------------------------------------------------------------------------------------------------


class CausalDepthwise(nn.Module):
    """Depthwise 3x3x3 convolution, causal along T, on channels-last tokens."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ds_conv = nn.Conv3d(dim, dim, 3, padding=(0, 1, 1), groups=dim)

    def forward(self, x_BTHWD: Tensor, state: State | None = None) -> Tensor:
        """Convolve; with ``state``, continue after the frames of the previous call and remember the last two."""
        past = None if state is None else state.get(self)
        if past is None:
            past = x_BTHWD.new_zeros(x_BTHWD.shape[0], 2, *x_BTHWD.shape[2:])
        x = torch.cat((past, x_BTHWD), dim=1)
        if state is not None:
            state[self] = x[:, -2:].clone()
        return self.ds_conv(x.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)


class FeedForward(nn.Sequential):
    """LayerNorm, gated GELU, linear; the published slots 0, 1, 4 (2 and 3 hold no parameters)."""

    def __init__(self, dim: int) -> None:
        hidden = int(8 / 3 * dim)
        super().__init__(
            nn.LayerNorm(dim),
            nn.Linear(dim, 2 * hidden, bias=False),
            GatedGELU(),
            nn.Identity(),
            nn.Linear(hidden, dim, bias=False),
        )


class GatedGELU(nn.Module):
    """Split the features in two halves ``(a, g)`` and return ``gelu(g) * a``."""

    def forward(self, x: Tensor) -> Tensor:
        a, g = x.chunk(2, dim=-1)
        return F.gelu(g) * a


class Stack(nn.Module):
    """``depth`` blocks of depthwise convolution and feed-forward, with or without residual connections."""

    def __init__(self, dim: int, depth: int, *, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.dconv_layer = nn.ModuleList(CausalDepthwise(dim) for _ in range(depth))
        self.ffd_layer = nn.ModuleList(FeedForward(dim) for _ in range(depth))

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        for dconv, ffd in zip(self.dconv_layer, self.ffd_layer, strict=True):
            if self.residual:
                x = x + dconv(x, state)
                x = x + ffd(x)
            else:
                x = ffd(dconv(x, state))
        return x


def _patch_sizes(spec: LeanVAESpec) -> dict[str, tuple[int, int]]:
    """Linear sizes (wavelet features, token features) of the four patch projections."""
    c = spec.channels
    return {
        "image_low": (c * 16, spec.l_dim),
        "image_high": (3 * c * 16, spec.h_dim),
        "video_low": (c * 32, spec.l_dim),
        "video_high": (7 * c * 32, spec.h_dim),
    }


class Encoder(nn.Module):
    """Slices to tokens; see :class:`LeanVAE`."""

    image_low_proj: nn.Module
    image_high_proj: nn.Module
    video_low_proj: nn.Module
    video_high_proj: nn.Module

    def __init__(self, spec: LeanVAESpec) -> None:
        super().__init__()
        for name, (features, dim) in _patch_sizes(spec).items():
            setattr(self, f"{name}_proj", nn.Sequential(nn.Identity(), nn.Linear(features, dim)))
        self.low_layer = Stack(spec.l_dim, spec.sep_num_layer, residual=True)
        self.high_layer = Stack(spec.h_dim, spec.sep_num_layer, residual=True)
        self.fusion_layer = Stack(spec.width, spec.fusion_num_layer, residual=True)

    def tokens(self, x_BCTHW: Tensor, *, first: bool) -> tuple[Tensor, Tensor]:
        """Low-band and high-band tokens ``(B, t, h, w, d)``; ``first``: frame 0 is an image of its own."""
        low, high = [], []
        c = x_BCTHW.shape[1]
        if first:
            bands = haar_image(x_BCTHW[:, :, 0])
            patches = [
                rearrange(b, "b c (h i) (w j) -> b 1 h w (c i j)", i=4, j=4) for b in (bands[:, :c], bands[:, c:])
            ]
            low.append(self.image_low_proj(patches[0]))
            high.append(self.image_high_proj(patches[1]))
            x_BCTHW = x_BCTHW[:, :, 1:]
        if x_BCTHW.shape[2]:
            bands = haar_video(x_BCTHW)
            pattern = "b c (t k) (h i) (w j) -> b t h w (c k i j)"
            patches = [rearrange(b, pattern, k=2, i=4, j=4) for b in (bands[:, :c], bands[:, c:])]
            low.append(self.video_low_proj(patches[0]))
            high.append(self.video_high_proj(patches[1]))
        return torch.cat(low, dim=1), torch.cat(high, dim=1)

    def forward(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        low, high = self.tokens(x_BCTHW, first=first)
        tokens = torch.cat((self.low_layer(low, state), self.high_layer(high, state)), dim=-1)
        return self.fusion_layer(tokens, state)


class Decoder(nn.Module):
    """Tokens to slices; see :class:`LeanVAE`."""

    image_low_proj: nn.Module
    image_high_proj: nn.Module
    video_low_proj: nn.Module
    video_high_proj: nn.Module

    def __init__(self, spec: LeanVAESpec) -> None:
        super().__init__()
        for name, (features, dim) in _patch_sizes(spec).items():
            setattr(self, f"{name}_proj", nn.Sequential(nn.Linear(dim, features)))
        self.fusion_layer = Stack(spec.width, spec.fusion_num_layer, residual=True)
        self.low_layer = Stack(spec.l_dim, spec.sep_num_layer, residual=True)
        self.high_layer = Stack(spec.h_dim, spec.sep_num_layer, residual=True)
        self.l_dim = spec.l_dim

    def forward(self, tokens: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        tokens = self.fusion_layer(tokens, state)
        low = self.low_layer(tokens[..., : self.l_dim], state)
        high = self.high_layer(tokens[..., self.l_dim :], state)
        frames = []
        if first:
            features = (self.image_low_proj(low[:, 0]), self.image_high_proj(high[:, 0]))
            bands = [rearrange(f, "b h w (c i j) -> b c (h i) (w j)", i=4, j=4) for f in features]
            frames.append(haar_image_inverse(torch.cat(bands, dim=1)).unsqueeze(2))
            low, high = low[:, 1:], high[:, 1:]
        if low.shape[1]:
            pattern = "b t h w (c k i j) -> b c (t k) (h i) (w j)"
            features = (self.video_low_proj(low), self.video_high_proj(high))
            bands = [rearrange(f, pattern, k=2, i=4, j=4) for f in features]
            frames.append(haar_video_inverse(torch.cat(bands, dim=1)))
        return torch.cat(frames, dim=2)


class Bottleneck(nn.Module):
    """Linear measurement ``z = phi x`` and its inversion by unrolled iterative soft thresholding."""

    def __init__(self, spec: LeanVAESpec) -> None:
        super().__init__()
        iterations, depth = spec.ista_iter_num, spec.ista_layer_num
        self.phi = nn.Parameter(torch.randn(spec.latent_dim, spec.width) / spec.width**0.5)
        self.Q = nn.Parameter(torch.randn(spec.width, spec.latent_dim) / spec.width**0.5)
        self.forward_l = nn.ModuleList(Stack(spec.width, depth, residual=False) for _ in range(iterations))
        self.backward_l = nn.ModuleList(Stack(spec.width, depth, residual=False) for _ in range(iterations))
        self.weights = nn.ParameterList(nn.Parameter(torch.tensor(0.5)) for _ in range(iterations))
        self.threshold = nn.ParameterList(nn.Parameter(torch.tensor([0.01])) for _ in range(iterations))

    def measure(self, tokens: Tensor) -> Tensor:
        """Latents ``(B, T, H, W, latent_dim)`` of tokens."""
        return tokens @ self.phi.T

    def forward(self, z_BTHWC: Tensor, state: State | None = None) -> Tensor:
        r = z_BTHWC @ self.Q.T
        for forward, backward, weight, threshold in zip(
            self.forward_l, self.backward_l, self.weights, self.threshold, strict=True
        ):
            b = r - weight * ((r @ self.phi.T - z_BTHWC) @ self.phi)
            h = forward(b, state)
            h = torch.sign(h) * torch.relu(h.abs() - threshold)
            r = b + backward(h, state)
        return r


class LeanVAE(ModelMixin, ConfigMixin):
    """The autoencoder. Input and output ``(B, channels, T, H, W)`` in [-0.5, 0.5]; T = 1 + 4k, H and W multiples of 8.

    Latents are ``(B, latent_dim, 1 + (T-1)/4, H/8, W/8)``, deterministic and unscaled. Keyword arguments are the
    fields of :class:`LeanVAESpec`, and the statistics that scale latents for diffusion, one for all channels or one
    each (the default is the factor 1.52 of the Foundation-VAE generator).
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        latent_dim: int = 16,
        l_dim: int = 128,
        h_dim: int = 384,
        sep_num_layer: int = 2,
        fusion_num_layer: int = 4,
        ista_iter_num: int = 2,
        ista_layer_num: int = 2,
        latents_mean: Sequence[float] = (0.0,),
        latents_std: Sequence[float] = (1 / 1.52,),
    ) -> None:
        super().__init__()
        self.spec = spec = LeanVAESpec(
            channels=channels,
            latent_dim=latent_dim,
            l_dim=l_dim,
            h_dim=h_dim,
            sep_num_layer=sep_num_layer,
            fusion_num_layer=fusion_num_layer,
            ista_iter_num=ista_iter_num,
            ista_layer_num=ista_layer_num,
        )
        self.latent_bottleneck = Bottleneck(spec)
        self.encoder = Encoder(spec)
        self.decoder = Decoder(spec)
        self.std_layer = nn.Linear(spec.width, spec.latent_dim)  # log-deviation head, used by the authors in training

    def encode(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Latents of the slices. To stream, pass one ``state`` dict through the calls and ``first=False`` after the
        first call (whose T is 1 + 4k; later ones are multiples of 4)."""
        tokens = self.encoder(x_BCTHW, state, first=first)
        return self.latent_bottleneck.measure(tokens).permute(0, 4, 1, 2, 3)

    def decode(self, z_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Slices of the latents, not clamped; streaming as in :meth:`encode`."""
        tokens = self.latent_bottleneck(z_BCTHW.permute(0, 2, 3, 4, 1), state)
        return self.decoder(tokens, state, first=first)

    @staticmethod
    def remap_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the network out of a training checkpoint: no losses, no discriminator, no ``first_stage_model.``."""
        inside = {k.removeprefix("first_stage_model."): v for k, v in tensors.items()}
        own = ("latent_bottleneck", "encoder", "decoder", "std_layer")
        return {k: v for k, v in inside.items() if "." not in k or k.split(".")[0] in own}

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """``decode(encode(x))``, for training."""
        return self.decode(self.encode(x_BCTHW))
