"""WF-VAE: a causal video autoencoder whose main flow of energy is a three-level Haar wavelet transform.

Li et al., *WF-VAE: Enhancing Video VAE by Wavelet-Driven Energy Flow for Latent Video Diffusion Model* (2024).
Tensor names and shapes are those of the published checkpoints. The wavelets' kernels are among them, and are used as
they are stored.

The encoder works on the sub-bands of a 3D Haar transform. Their low band is transformed again in plane, and that one's
low band again in 3D; each joins the features by a convolution. The decoder makes sub-bands at the same three levels,
adds the inverse of each to the low band of the next, and ends in the last inverse. Convolutions are causal, with
the first frame repeated before the start; norms are per voxel, attention is per frame. So a volume streams exactly,
except that the decoder interpolates features along T and must see one latent ahead: its last two slices wait for the
next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

State = dict[nn.Module, Tensor]  # per layer: of the frames that it has seen, those that it needs again

# Names of the sub-bands in their order, and along which axes they alternate.
BANDS_2D = {"aa": "", "ad": "h", "da": "w", "dd": "hw"}
BANDS_3D = {"h": "", "g": "w", "hh": "h", "gh": "hw", "h_v": "t", "g_v": "tw", "hh_v": "th", "gh_v": "thw"}


def haar(axes: str, alternating: str, scale: float) -> Tensor:
    """A Haar kernel ``(1, 1, 2, ...)`` over ``axes``."""
    kernel = torch.full((1, 1, *(2 for _ in axes)), scale)
    for i, axis in enumerate(axes):
        if axis in alternating:
            kernel.select(2 + i, 1).neg_()
    return kernel


def per_frame(layer: nn.Module, x_BCTHW: Tensor) -> Tensor:
    """Apply a 2D layer to every frame."""
    frames = x_BCTHW.shape[2]
    y = layer(x_BCTHW.transpose(1, 2).flatten(0, 1))
    return y.unflatten(0, (-1, frames)).transpose(1, 2)


class CausalConv3d(nn.Module):
    """A 3D convolution that sees no later frame; before the first, that one is repeated."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, kernel, stride=stride, padding=(0, padding, padding))

    def forward(self, x: Tensor, state: State) -> Tensor:
        kernel, stride = self.conv.kernel_size[0], self.conv.stride[0]
        if kernel > 1:
            past = state.get(self)
            x = torch.cat((x[:, :, :1].expand(-1, -1, kernel - 1, -1, -1) if past is None else past, x), dim=2)
            state[self] = x[:, :, x.shape[2] - (kernel - stride) :].clone()
        return self.conv(x)


class Norm(nn.Module):
    """LayerNorm over the channels of each voxel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def _activated(norm: Norm, x: Tensor) -> Tensor:
    return F.silu(norm(x), inplace=True)


class Residual2d(nn.Module):
    """Norm, SiLU, convolution, twice, around a skip; frame by frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(channels), Norm(channels)
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor, state: State) -> Tensor:
        h = per_frame(self.conv1, _activated(self.norm1, x))
        return x + per_frame(self.conv2, _activated(self.norm2, h))


class Residual3d(nn.Module):
    """The same with causal 3D convolutions, and a 1x1x1 one on the skip where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(inputs), Norm(outputs)
        self.conv1 = CausalConv3d(inputs, outputs, 3, padding=1)
        self.conv2 = CausalConv3d(outputs, outputs, 3, padding=1)
        if inputs != outputs:
            self.nin_shortcut = CausalConv3d(inputs, outputs, 1)

    def forward(self, x: Tensor, state: State) -> Tensor:
        h = self.conv1(_activated(self.norm1, x), state)
        h = self.conv2(_activated(self.norm2, h), state)
        return h + (self.nin_shortcut(x, state) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Single-head self-attention within each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels)
        self.q, self.k, self.v, self.proj_out = (CausalConv3d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor, state: State) -> Tensor:
        normed = self.norm(x)
        q, k, v = (
            layer(normed, state).permute(0, 2, 3, 4, 1).flatten(2, 3).contiguous() for layer in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(y.unflatten(2, x.shape[3:]).permute(0, 4, 1, 2, 3), state)


class Down2d(nn.Module):
    """Half the plane: a convolution of stride 2 that pads after the end only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return per_frame(self.conv, F.pad(x, (0, 1, 0, 1)))


class Down3d(nn.Module):
    """Half the plane and half the frames, the first apart."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)), state)


class Up2d(nn.Module):
    """Twice the plane: nearest neighbor, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, state: State) -> Tensor:
        return per_frame(self.conv, F.interpolate(x, scale_factor=(1.0, 2.0, 2.0)))


class Up3d(nn.Module):
    """Twice the plane, and twice the frames but the very first: linear interpolation, then a causal convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, state: State, *, first: bool, last: bool) -> Tensor:
        parts, seen = [], state.get(self)
        if first:
            parts.append(F.interpolate(x[:, :, :1], scale_factor=(1.0, 2.0, 2.0), mode="trilinear"))
            x = x[:, :, 1:]
        if x.shape[2]:
            y = x if seen is None else torch.cat((seen, x), dim=2)
            state[self] = x[:, :, -1:].clone()
            y = F.interpolate(y, scale_factor=2.0, mode="trilinear")
            # Ends know no neighbor. Of the frame seen before, the second half is right only now; of the last, later.
            parts.append(y[:, :, 0 if seen is None else 1 : None if last else -1])
        return self.conv(torch.cat(parts, dim=2), state)


class Wavelet3d(nn.Module):
    """Causal 3D Haar transform: ``(B, C, 1+2t, H, W)`` to ``(B, 8C, 1+t, H/2, W/2)``, band by band."""

    def __init__(self) -> None:
        super().__init__()
        for name, alternating in BANDS_3D.items():
            conv = nn.Conv3d(1, 1, 2, bias=False)
            conv.weight = nn.Parameter(haar("thw", alternating, 0.3536), requires_grad=False)
            setattr(self, f"{name}_conv", nn.ModuleDict({"conv": conv}))

    def forward(self, x: Tensor, *, first: bool) -> Tensor:
        kernels = torch.cat([self.get_parameter(f"{name}_conv.conv.weight") for name in BANDS_3D])
        if first:
            x = torch.cat((x[:, :, :1], x), dim=2)
        return _by_color(F.conv3d, x, 1, kernels, 2)


class Inverse3d(nn.Module):
    """Inverse of :class:`Wavelet3d`."""

    def __init__(self) -> None:
        super().__init__()
        for name, alternating in BANDS_3D.items():
            self.register_buffer(name, haar("thw", alternating, 0.3536))

    def forward(self, x: Tensor, *, first: bool) -> Tensor:
        kernels = torch.cat([self.get_buffer(name) for name in BANDS_3D])
        y = _by_color(F.conv_transpose3d, x, 8, kernels, 2)
        return y[:, :, 1:] if first else y


class Wavelet2d(nn.Module):
    """Haar transform of each frame: ``(B, C, T, H, W)`` to ``(B, 4C, T, H/2, W/2)``, band by band; and back."""

    def __init__(self, *, inverse: bool = False) -> None:
        super().__init__()
        self.inverse = inverse
        for name, alternating in BANDS_2D.items():
            self.register_buffer(name, haar("hw", alternating, 0.5))

    def forward(self, x: Tensor) -> Tensor:
        kernels = torch.cat([self.get_buffer(name) for name in BANDS_2D]).unsqueeze(2)
        if self.inverse:
            return _by_color(F.conv_transpose3d, x, 4, kernels, (1, 2, 2))
        return _by_color(F.conv3d, x, 1, kernels, (1, 2, 2))


def _by_color(
    convolve: Callable[..., Tensor], x: Tensor, bands: int, kernels: Tensor, stride: int | tuple[int, ...]
) -> Tensor:
    """Convolve every color alike: ``(B, bands * C, ...)`` to ``(B, bands' * C, ...)``."""
    colors = x.unflatten(1, (bands, -1)).transpose(1, 2)
    y = convolve(colors.flatten(0, 1), kernels, stride=stride)
    return y.unflatten(0, colors.shape[:2]).transpose(1, 2).flatten(1, 2)


def _through(layers: Iterable[nn.Module], x: Tensor, state: State) -> Tensor:
    """One layer after the other, 2D convolutions frame by frame."""
    for layer in layers:
        x = per_frame(layer, x) if isinstance(layer, nn.Conv2d) else layer(x, state)
    return x


class Encoder(nn.Module):
    """Slices to moments; see :class:`WFVAE`."""

    def __init__(self, channels: int, latent_dim: int, base: int, blocks: int, energy: int) -> None:
        super().__init__()
        self.down1 = nn.Sequential(
            nn.Conv2d(8 * channels, base, 3, padding=1), *(Residual2d(base) for _ in range(blocks)), Down2d(base)
        )
        self.down2 = nn.Sequential(
            nn.Conv2d(base + energy, 2 * base, 3, padding=1),
            *(Residual3d(2 * base, 2 * base) for _ in range(blocks)),
            Down3d(2 * base),
        )
        self.connect_l1 = nn.Conv2d(4 * channels, energy, 3, padding=1)
        self.connect_l2 = nn.Conv2d(8 * channels, energy, 3, padding=1)
        wide = 4 * base
        self.mid = nn.Sequential(Residual3d(2 * base + energy, wide), Attention(wide), Residual3d(wide, wide))
        self.norm_out = Norm(wide)
        self.conv_out = CausalConv3d(wide, 2 * latent_dim, 3, padding=1)
        self.wavelet_transform_in = Wavelet3d()
        self.wavelet_transform_l1 = Wavelet2d()
        self.wavelet_transform_l2 = Wavelet3d()

    def forward(self, x: Tensor, state: State, *, first: bool) -> Tensor:
        bands = self.wavelet_transform_in(x, first=first)
        bands1 = self.wavelet_transform_l1(bands[:, : x.shape[1]])
        bands2 = self.wavelet_transform_l2(bands1[:, : x.shape[1]], first=first)
        h = _through(self.down1, bands, state)
        h = torch.cat((h, per_frame(self.connect_l1, bands1)), dim=1)
        h = _through(self.down2, h, state)
        h = torch.cat((h, per_frame(self.connect_l2, bands2)), dim=1)
        h = _through(self.mid, h, state)
        return self.conv_out(_activated(self.norm_out, h), state)


class Decoder(nn.Module):
    """Latents to slices; see :class:`WFVAE`."""

    def __init__(self, channels: int, latent_dim: int, base: int, blocks: int, energy: int, connects: int) -> None:
        super().__init__()
        wide = 4 * base
        self.energy = energy
        self.conv_in = CausalConv3d(latent_dim, wide, 3, padding=1)
        self.mid = nn.Sequential(Residual3d(wide, wide), Attention(wide), Residual3d(wide, wide + energy))
        self.up2 = nn.Sequential(
            *(Residual3d(wide, wide) for _ in range(blocks)), Up3d(wide), Residual3d(wide, wide + energy)
        )
        self.up1 = nn.Sequential(
            *(Residual3d(wide if i == 0 else 2 * base, 2 * base) for i in range(blocks)),
            Up2d(2 * base),
            Residual3d(2 * base, 2 * base),
        )
        self.layer = nn.Sequential(*(Residual3d(2 * base if i == 0 else base, base) for i in range(2)))
        self.connect_l1, self.connect_l2 = (
            nn.Sequential(
                *(Residual3d(energy, energy) for _ in range(connects)),
                nn.Conv2d(energy, bands * channels, 3, padding=1),
            )
            for bands in (4, 8)
        )
        self.norm_out = Norm(base)
        self.conv_out = nn.Conv2d(base, 8 * channels, 3, padding=1)
        self.inverse_wavelet_transform_out = Inverse3d()
        self.inverse_wavelet_transform_l1 = Wavelet2d(inverse=True)
        self.inverse_wavelet_transform_l2 = Inverse3d()

    def forward(self, z: Tensor, state: State, *, first: bool, last: bool) -> Tensor:
        h = _through(self.mid, self.conv_in(z, state), state)
        low = self.inverse_wavelet_transform_l2(_through(self.connect_l2, h[:, -self.energy :], state), first=first)
        h = h[:, : -self.energy]
        for layer in self.up2:
            h = layer(h, state, first=first, last=last) if isinstance(layer, Up3d) else layer(h, state)
        bands = _through(self.connect_l1, h[:, -self.energy :], state)
        if self in state:
            low = torch.cat((state[self], low), dim=2)
        frames = bands.shape[2]
        state[self] = low[:, :, frames:].clone()  # waits for its features, which wait for their neighbor
        low = self.inverse_wavelet_transform_l1(_add_low(bands, low[:, :, :frames]))
        h = _through(self.layer, _through(self.up1, h[:, : -self.energy], state), state)
        bands = _add_low(per_frame(self.conv_out, _activated(self.norm_out, h)), low)
        return self.inverse_wavelet_transform_out(bands, first=first)


def _add_low(bands: Tensor, low: Tensor) -> Tensor:
    """Bands with ``low`` added to the lowest."""
    c = low.shape[1]
    return torch.cat((bands[:, :c] + low, bands[:, c:]), dim=1)


class WFVAE(ModelMixin, ConfigMixin):
    """The autoencoder. ``(B, channels, T, H, W)`` in [-1, 1], T = 1 + 4k, H and W multiples of 8.

    Latents are the posterior's, ``(B, latent_dim, 1+k, H/8, W/8)``, unscaled. Keyword arguments have their published
    names; the defaults are WF-VAE-L with 16 channels.
    """

    @register_to_config
    def __init__(
        self,
        channels: int = 3,
        latent_dim: int = 16,
        base_channels: int = 192,
        encoder_num_resblocks: int = 2,
        encoder_energy_flow_hidden_size: int = 128,
        decoder_num_resblocks: int = 2,
        decoder_energy_flow_hidden_size: int = 128,
        connect_res_layer_num: int = 1,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(
            channels, latent_dim, base_channels, encoder_num_resblocks, encoder_energy_flow_hidden_size
        )
        self.decoder = Decoder(
            channels,
            latent_dim,
            base_channels,
            decoder_num_resblocks,
            decoder_energy_flow_hidden_size,
            connect_res_layer_num,
        )

    def moments(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> tuple[Tensor, Tensor]:
        """Posterior mean and standard deviation. To stream, pass one ``state`` dict through the calls and
        ``first=False`` after the first call (whose T is 1 + 4k; later ones are multiples of 4)."""
        mean, log_variance = self.encoder(x_BCTHW, {} if state is None else state, first=first).chunk(2, dim=1)
        return mean, torch.exp(0.5 * log_variance.clamp(-30, 20))

    def encode(self, x_BCTHW: Tensor, state: State | None = None, *, first: bool = True) -> Tensor:
        """Posterior mean; streaming as in :meth:`moments`."""
        return self.moments(x_BCTHW, state, first=first)[0]

    def decode(self, z_BCTHW: Tensor, state: State | None = None, *, first: bool = True, last: bool = True) -> Tensor:
        """Slices of the latents, not clamped. A stream has ``last=False`` but for its last call: then the last two
        slices wait for the latent after them, and come with the next call."""
        return self.decoder(z_BCTHW, {} if state is None else state, first=first, last=last)
