"""The codec base class: everything that is the same for every frozen VAE, written once.

A volume goes slab by slab: clip to the HU window, map to the network's range, pad to its sizes, encode, decode,
unpad, map back. Slabs follow each other along Z with the network's own causal state, so memory does not grow with the
number of slices and the result is that of the whole volume. Networks that cannot do so, because their norms pool over
time, see windows of a fixed number of slices, which overlap and are blended. In plane the slab is one tile unless a
memory budget says otherwise. Subclasses say what their network does in ``_encode`` and ``_decode`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .. import hub
from ..checkpoint import load_published
from ..errors import Cancelled, InputError
from ..intensity import Window
from ..randomness import frame_noise
from ..runtime import resolve_device, resolve_dtype
from ..tiling import Tile, tile_axis
from ..zoo import CODECS, CodecRow, build_empty, build_network, load_class, lookup
from .plan import (
    Observed,
    Passage,
    Slab,
    SlabPlan,
    State,
    States,
    after_out_of_memory,
    budget_of,
    choose,
    gave_out,
    is_out_of_memory,
    overlap,
    slabs,
)
from .precision import refuse_rounding

Progress = Callable[[int, int], None]  # slices done, slices in all
Cancel = Callable[[], bool]


@dataclass(frozen=True, slots=True)
class GreyWeight:
    """A weight that meets RGB: ``axis`` holds ``(slow, 3, fast)``; inputs are summed over RGB, outputs averaged."""

    name: str
    axis: int
    slow: int = 1
    output: bool = False


class Codec:
    """A frozen autoencoder ``T(x) = D(E(x))`` on HU volumes (Foundation VAE, section 2).

    Attributes:
        row: the codec's row in :data:`ctgencore.zoo.CODECS`.
        network: the torch module, or None.
        weights: provenance of the loaded weights, ``[{"name", "sha256", "license"}]``.
    """

    unit_range: ClassVar[tuple[float, float]] = (-1.0, 1.0)  # what the network calls [-1, 1]
    stride_zyx: tuple[int, int, int] = (4, 8, 8)  # voxels per latent
    causal: ClassVar[bool] = True  # the first slice is a latent frame of its own: Z = 1 + stride * k
    window: ClassVar[int | None] = None  # slices that the network must see at once; None: it streams along Z exactly
    window_overlap: ClassVar[int] = 0  # slices that neighboring windows share
    held_back: ClassVar[int] = 0  # slices that decoding keeps until the next slab; _decode then also takes ``last``
    channels: int = 3
    halo: tuple[int, int] | None = None  # latents of in-plane reach of encode, decode; None: not finite
    whole_plane: ClassVar[bool] = False  # tiles would visibly change the result
    bytes_per_voxel: float = 0.0  # peak activation memory per slab voxel in fp32, measured
    clamps_channels: ClassVar[bool] = False  # the paper's code clamps R, G and B before their mean
    has_posterior: ClassVar[bool] = False  # _encode can give moments, so that sampling is possible
    latent_channels: int = 0  # of encode; 0: this codec is not one to generate with
    latent_mean: Sequence[float] = (0.0,)
    latent_std: Sequence[float] = (1.0,)

    def __init__(self, row: CodecRow, network: Any = None, weights: list[dict[str, str]] | None = None) -> None:
        self.row, self.network, self.weights = row, network, weights or []
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.grey = False
        self.sample_seed: int | None = None  # draw from the posterior with this seed instead of taking its mean
        self.latent_noise = 0.0  # deviation of noise on the latents, as a part of their own in each frame and channel
        self.noise_seed = 0  # of that noise
        self.tiles_run = 0  # slabs times tiles since construction: tests use it to see that tiling happened
        self.observed = Observed()
        if network is not None:
            network.eval().requires_grad_(False)
            self._configure(network)

    # --- construction ------------------------------------------------------------------------------------------------

    @staticmethod
    def from_pretrained(name: str, *, dtype: str = "float32", device: str = "auto", grey: bool = True) -> Codec:
        """The codec called ``name`` with its weights, folded to grey where that is exact.

        Args:
            name: a row of :data:`ctgencore.zoo.CODECS`.
            dtype: ``float32``, ``float16`` or ``bfloat16`` (the last two on a GPU only).
            device: ``auto``, ``cpu``, ``cuda:0``, ...
            grey: False keeps the RGB input and output of the published network.

        Raises:
            InputError: unknown name, device or dtype.
            WeightsError: the weights are not here yet; the message holds the command that gets them.
        """
        row: CodecRow = lookup(CODECS, name, "codec")
        target = resolve_device(device)
        resolve_dtype(dtype, target)  # refuse before reading gigabytes
        tensors, weights = hub.load_tensors(row) if row.network is not None else ({}, [])
        return Codec.from_tensors(name, tensors, weights, grey=grey).to(target, dtype=dtype)

    @staticmethod
    def from_tensors(
        name: str, tensors: Mapping[str, Tensor], weights: list[dict[str, str]] | None = None, *, grey: bool = True
    ) -> Codec:
        """The codec called ``name`` with weights that are at hand, on the CPU in float32.

        Args:
            name: a row of :data:`ctgencore.zoo.CODECS`.
            tensors: published names.
            weights: their provenance, for the record.
            grey: as for :meth:`from_pretrained`.

        Raises:
            InputError: unknown name.
            WeightsError: the tensors do not fit.
        """
        row: CodecRow = lookup(CODECS, name, "codec")
        network = None
        if row.network is not None:
            with torch.random.fork_rng(devices=[]):  # start values, overwritten at once: the caller's stream stays
                network = build_network(row.network)
            load_published(network, tensors)
        codec: Codec = load_class("codecs", row.codec)(row, network, weights)
        if grey:
            codec.fold_grey()
        return codec

    @staticmethod
    def without_weights(name: str, *, random: bool = False, grey: bool = True) -> Codec:
        """The codec called ``name`` at its published size: on the ``meta`` device, or with random weights.

        Raises:
            InputError: there is no such codec.
        """
        row: CodecRow = lookup(CODECS, name, "codec")
        network = None
        if row.network is not None:
            with torch.random.fork_rng(devices=[]):
                network = build_network(row.network) if random else build_empty(row.network)
        codec: Codec = load_class("codecs", row.codec)(row, network)
        if grey:
            codec.fold_grey()
        return codec

    def to(self, device: str | torch.device, *, dtype: str | None = None) -> Codec:
        """Move the network; returns self.

        Raises:
            InputError: unknown device or dtype, or one that rounds too much.
        """
        self.device = resolve_device(device) if isinstance(device, str) else device
        if dtype is not None:
            self.dtype = resolve_dtype(dtype, self.device)
            refuse_rounding(self.row.name, self.unit_range, self.dtype)
        if self.network is not None:
            self.network.to(device=self.device)
            if self.dtype != next(self.network.parameters()).dtype:
                self.network.to(dtype=self.dtype)
        return self

    def fold_grey(self) -> None:
        """Replace RGB input and output by one grey channel (exact, the output's clamp apart; a third of the memory)."""
        weights = self._grey_weights()
        if self.grey or self.network is None or not weights:
            return
        tensors = dict(self.network.named_parameters())
        for item in weights:
            parameter = tensors[item.name]
            split = parameter.data.unflatten(item.axis, (item.slow, 3, -1))
            folded = split.mean(item.axis + 1) if item.output else split.sum(item.axis + 1)
            parameter.data = folded.flatten(item.axis, item.axis + 1)
        self.grey = True

    # --- what subclasses say -----------------------------------------------------------------------------------------

    def _configure(self, network: Any) -> None:
        """Read sizes off the network (strides, halo, latent statistics)."""

    def _grey_weights(self) -> list[GreyWeight]:
        return []

    def _prepare(self, hu_ZYX: np.ndarray, window: Window) -> None:
        """Look at the whole volume before its first slab (for codecs that adapt to it)."""

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        """Raw latents of a slab in the network's range; ``state`` is this tile's own and persists along Z.

        With ``sample_seed`` set, a codec that has a posterior returns mean and deviation joined along the channels.
        """
        raise NotImplementedError

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        """Slices of a slab of raw latents, in the network's range, not clamped."""
        raise NotImplementedError

    # --- plan --------------------------------------------------------------------------------------------------------

    def plan(self, shape_zyx: tuple[int, int, int], memory: int | None = None) -> SlabPlan:
        """Slab and tile sizes that keep activations within ``memory`` bytes (None: most of what is free).

        Raises:
            OutOfMemory: not even the smallest slab fits.
        """
        return choose(self, shape_zyx, budget_of(self.device, memory))

    @property
    def forgets(self) -> bool:
        """Whether nothing of a slab is needed for the next: slices, or windows, that are independent of each other."""
        return self.window is not None or self.row.is_2d

    def latent_shape(self, shape_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
        """Size (z, y, x) of the latents of a volume."""
        frames = sum(slab.frames for slab in slabs(self, shape_zyx[0], self.stride_zyx[0]))
        rows, columns = (self._padded(shape_zyx[a], a) // self.stride_zyx[a] for a in (1, 2))
        return (frames, rows, columns)

    def padded_plane(self, shape_zyx: tuple[int, int, int]) -> int:
        """Voxels of a slice as the network sees it."""
        return self._padded(shape_zyx[1], 1) * self._padded(shape_zyx[2], 2)

    def _padded(self, size: int, axis: int) -> int:
        stride = self.stride_zyx[axis]
        return -(-size // stride) * stride

    # --- the way of the data -----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def reconstruct_hu(
        self,
        hu_ZYX: np.ndarray,
        window: Window,
        *,
        memory: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        clamp_channels_first: bool = False,
    ) -> np.ndarray:
        """``D(E(x))`` of a HU volume (Z, Y, X), any size; float32 HU of the same shape, within the window.

        Args:
            hu_ZYX: the volume, or a strided view of one.
            window: HU range that the network sees; voxels outside come back at its ends.
            memory: bytes for activations; see :meth:`plan`.
            progress: called after each slab.
            cancel: asked before each slab.
            clamp_channels_first: clamp R, G and B before their mean, as the paper's code does for some codecs.

        Raises:
            Cancelled: ``cancel`` answered True.
            OutOfMemory: the device gave out.
        """
        shape = hu_ZYX.shape
        self._prepare(hu_ZYX, window)
        out = np.zeros(shape, dtype=np.float32)
        air: dict[int, np.ndarray] = {}  # what so many slices of nothing but air become, where that is always the same

        def one(slab: Slab, at: Passage) -> None:
            if cancel is not None and cancel():
                raise Cancelled(f"Cancelled at slice {slab.start} of {shape[0]}; nothing was written.")
            size = slab.stop - slab.start
            drawn = self.sample_seed is not None or self.latent_noise > 0
            same = self.forgets and not drawn and hu_ZYX[slab.start : slab.stop].max() <= window.lo
            place = slab
            if not same or size not in air:
                z = self._unscale(self._latents(self._input(hu_ZYX, slab, window), slab, at))
                y, place = self._slices(z, slab, at, last=slab.stop >= shape[0])
                hu = self._to_hu(y, window, clamp_channels_first)
                if same:
                    air[size] = hu
            else:
                hu = air[size]
            _put(out, place, hu)
            if progress is not None:
                progress(min(place.stop, shape[0]), shape[0])

        self._walk(shape, memory, one)
        return out

    @torch.inference_mode()
    def encode(self, hu_ZYX: np.ndarray, window: Window, *, memory: int | None = None) -> Tensor:
        """Scaled latents ``(1, C, z, y, x)`` in fp32 on the CPU, mean about 0 and deviation about 1."""
        self._prepare(hu_ZYX, window)
        parts: dict[int, Tensor] = {}  # by first frame

        def one(slab: Slab, at: Passage) -> None:
            parts[at.frame] = self._latents(self._input(hu_ZYX, slab, window), slab, at).cpu()

        self._walk(hu_ZYX.shape, memory, one)
        return torch.cat([parts[frame] for frame in sorted(parts)], dim=2)

    @torch.inference_mode()
    def decode(
        self,
        z_BCZYX: Tensor,
        shape_zyx: tuple[int, int, int],
        window: Window,
        *,
        memory: int | None = None,
        clamp_channels_first: bool = False,
    ) -> np.ndarray:
        """HU volume of ``shape_zyx`` from scaled latents; the inverse walk of :meth:`encode`.

        Raises:
            InputError: the latents are not those of a volume of that shape.
        """
        expected = self.latent_shape(shape_zyx)
        if tuple(z_BCZYX.shape[2:]) != expected:
            raise InputError(
                f"Latents of a {shape_zyx} volume are {expected} (z, y, x); got {tuple(z_BCZYX.shape[2:])}."
            )
        out = np.zeros(shape_zyx, dtype=np.float32)

        def one(slab: Slab, at: Passage) -> None:
            z = self._unscale(z_BCZYX[:, :, at.frame : at.frame + slab.frames].to(self.device))
            y, place = self._slices(z, slab, at, last=slab.stop >= shape_zyx[0])
            _put(out, place, self._to_hu(y, window, clamp_channels_first))

        self._walk(shape_zyx, memory, one)
        return out

    def _walk(self, shape_zyx: tuple[int, int, int], memory: int | None, step: Callable[[Slab, Passage], None]) -> None:
        """Slab after slab; where the device gives out, once with half the memory from the last finished slab on."""
        at = Passage(self.plan(shape_zyx, memory))
        todo = slabs(self, shape_zyx[0], at.plan.slices)
        halved = False
        while todo:
            before = at.copy()
            try:
                step(todo[0], at)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if halved:
                    raise gave_out(self) from error
            else:
                at.frame += todo.pop(0).frames
                continue
            halved = True  # and here, not above: an exception that is being handled holds on to the slab's tensors
            at, todo = after_out_of_memory(self, before, todo[0], shape_zyx)

    def _input(self, hu_ZYX: np.ndarray, slab: Slab, window: Window) -> Tensor:
        """A slab in the network's range, edge-padded to its sizes, ``(1, C, z, y, x)`` on the device."""
        size_z, size_y, size_x = hu_ZYX.shape
        hu = hu_ZYX[slab.start : min(slab.stop, size_z)]
        pad_y, pad_x = self._padded(size_y, 1) - size_y, self._padded(size_x, 2) - size_x
        hu = np.pad(hu, ((0, slab.stop - slab.start - hu.shape[0]), (0, pad_y), (0, pad_x)), mode="edge")
        low, high = self.unit_range
        x = window.to_unit(torch.from_numpy(np.ascontiguousarray(hu, dtype=np.float32)).to(self.device))
        x = x.mul_((high - low) / 2).add_((high + low) / 2).to(self.dtype)[None, None]
        return x if self.grey or self.channels == 1 else x.expand(-1, self.channels, -1, -1, -1)

    def _latents(self, x: Tensor, slab: Slab, at: Passage) -> Tensor:
        """Scaled latents of a slab; a posterior is drawn, and noise added, here, after the tiles are joined."""
        z = self._tiled(self._encode, x, at.encoding, first=slab.first, plan=at.plan, encode=True)
        if self.sample_seed is not None:
            mean, deviation = z.float().chunk(2, dim=1)
            shape = tuple(mean[:, :, 0].shape)
            noise = [frame_noise(self.sample_seed, at.frame + i, shape) for i in range(mean.shape[2])]
            z = mean + deviation * torch.from_numpy(np.stack(noise, axis=2)).to(mean)
        z = self._scale(z)
        if self.latent_noise:
            spread = z.double().std(dim=(3, 4), correction=0).float()  # in float64: whatever the threads, the same
            for i in range(z.shape[2]):
                drawn = torch.from_numpy(frame_noise(self.noise_seed, at.frame + i, tuple(z[:, :, i].shape), stream=1))
                z[:, :, i] += self.latent_noise * spread[:, :, i, None, None] * drawn.to(z)
        return z

    def _slices(self, z: Tensor, slab: Slab, at: Passage, *, last: bool) -> tuple[Tensor, Slab]:
        """Slices that the raw latents of a slab make, and where they lie: earlier, if the network holds some back."""
        decode: Callable[..., Tensor] = self._decode
        if self.held_back:
            decode = partial(decode, last=last)
            start = slab.start if slab.first else slab.start - self.held_back
            slab = replace(slab, start=start, stop=slab.stop if last else slab.stop - self.held_back)
        return self._tiled(decode, z, at.decoding, first=slab.first, plan=at.plan, encode=False), slab

    def _to_hu(self, y_BCZYX: Tensor, window: Window, clamp_channels_first: bool) -> np.ndarray:
        low, high = self.unit_range
        y = y_BCZYX.float()
        if clamp_channels_first:
            y = y.clamp(low, high)
        unit = (y.mean(dim=1)[0] - (high + low) / 2) * (2 / (high - low))
        return window.to_hu(unit.clamp_(-1, 1)).cpu().numpy()

    def _tiled(
        self, function: Callable[..., Tensor], x: Tensor, states: States, *, first: bool, plan: SlabPlan, encode: bool
    ) -> Tensor:
        """Apply ``_encode`` or ``_decode`` tile by tile and add the weighted tiles up."""
        stride = self.stride_zyx[1]
        size = [n // stride for n in x.shape[-2:]] if encode else list(x.shape[-2:])
        tile = max(size) if plan.tile_yx is None else plan.tile_yx // stride
        shared = 0 if tile >= max(size) else overlap(self)
        blend = self.halo is None
        rows, columns = (tile_axis(n, tile, shared, blend=blend) for n in size)
        into, out_of = (stride, 1) if encode else (1, stride)
        if first:
            states.clear()
        if len(rows) == len(columns) == 1:
            self.tiles_run += 1
            return function(x, states.setdefault((0, 0), {}), first=first)
        out: Tensor | None = None
        squares: Tensor | None = None
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                part = x[..., row.start * into : row.stop * into, column.start * into : column.stop * into]
                y = function(part, states.setdefault((i, j), {}), first=first)
                if out is None:
                    out = y.new_zeros(*y.shape[:-2], size[0] * out_of, size[1] * out_of)
                    squares = torch.zeros_like(out, dtype=torch.float32) if blend and not encode else None
                weight = _weights(row, out_of, y)[:, None] * _weights(column, out_of, y)[None, :]
                place = (
                    ...,
                    slice(row.start * out_of, row.stop * out_of),
                    slice(column.start * out_of, column.stop * out_of),
                )
                out[place] += y * weight
                if squares is not None:
                    squares[place] += y.float().square() * weight
                self.tiles_run += 1
        assert out is not None
        if squares is not None:
            self._see_seams(out, squares, rows, columns)
        return out

    def _see_seams(self, out: Tensor, squares: Tensor, rows: list[Tile], columns: list[Tile]) -> None:
        """Take down by how much tiles disagree where more than one has a say."""
        spread = (squares - out.float().square()).clamp_(min=0).sqrt_().mean(dim=(0, 1, 2))
        down, across = (_covered(tiles, self.stride_zyx[1]) for tiles in (rows, columns))
        several = torch.from_numpy(np.outer(down, across) > 1).to(spread.device)
        low, high = self.unit_range
        self.observed.overlap_voxels += int(several.sum())
        self.observed.disagreement += float(spread[several].sum()) / (high - low)

    def _statistics(self, z: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = (
            torch.as_tensor(v, dtype=torch.float32, device=z.device) for v in (self.latent_mean, self.latent_std)
        )
        return mean.reshape(-1, 1, 1, 1), std.reshape(-1, 1, 1, 1)

    def _scale(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (z.float() - mean) / std

    def _unscale(self, z: Tensor) -> Tensor:
        mean, std = self._statistics(z)
        return (z.float() * std + mean).to(self.dtype)


def _put(out_ZYX: np.ndarray, slab: Slab, hu_ZYX: np.ndarray) -> None:
    """Write a slab's slices to the volume, or add their share where windows are blended."""
    size_z, size_y, size_x = out_ZYX.shape
    place = out_ZYX[slab.start : min(slab.stop, size_z)]
    hu = hu_ZYX[: len(place), :size_y, :size_x]
    if slab.weights is None:
        place[...] = hu
    else:
        place += hu * slab.weights[:, None, None]


def _weights(tile: Tile, repeat: int, like: Tensor) -> Tensor:
    return torch.from_numpy(tile.weights).repeat_interleave(repeat).to(like)


def _covered(tiles: list[Tile], repeat: int) -> np.ndarray:
    """How many tiles each voxel of an axis lies in."""
    count = np.zeros(tiles[-1].stop * repeat, dtype=np.int64)
    for tile in tiles:
        count[tile.start * repeat : tile.stop * repeat] += 1
    return count
