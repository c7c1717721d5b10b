"""How a volume is cut for a network: slabs along Z, tiles in plane, and what that takes of memory."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..errors import OutOfMemory
from ..intensity import Window
from ..runtime import free_memory
from ..tiling import tile_axis

if TYPE_CHECKING:
    from .base import Codec

LATENTS_PER_STEP = 2  # more latent frames per slab are no faster on a CPU and cost memory
SLICES_PER_STEP = 8  # of a codec that works slice by slice
SHARE_OF_FREE = 0.6  # of the free memory, when no budget is given
BLENDED_VOXELS = 64  # that tiles share where the network's reach has no end

State = dict[Any, Any]
States = dict[tuple[int, int], State]  # by tile


@dataclass(frozen=True, slots=True)
class Slab:
    """Slices ``start:stop`` that go through the network together; the last may pass the volume's end, up to its rule.

    Attributes:
        start, stop: slices.
        first: nothing was seen before: the state is empty.
        frames: latent frames that it makes.
        weights: (stop - start,) float32 of the slices where windows are blended, else None.
    """

    start: int
    stop: int
    first: bool
    frames: int
    weights: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class SlabPlan:
    """How a volume is cut: slices per slab (a multiple of the time stride), tile edge in voxels (None: whole plane)."""

    slices: int
    tile_yx: int | None
    bytes_needed: int

    def __str__(self) -> str:
        plane = "the whole plane" if self.tile_yx is None else f"tiles of {self.tile_yx} x {self.tile_yx}"
        return f"{self.slices} slices at a time, {plane}"


@dataclass
class Passage:
    """Where a volume's way through the network stands: what the next slab needs of those before it."""

    plan: SlabPlan
    frame: int = 0
    encoding: States = field(default_factory=dict)
    decoding: States = field(default_factory=dict)

    def copy(self) -> Passage:
        """To come back to: networks put new tensors into their states (or lists) and never change those there are."""

        def kept(states: States) -> States:
            def one(value: Any) -> Any:
                return list(value) if isinstance(value, list) else value

            return {tile: {key: one(value) for key, value in state.items()} for tile, state in states.items()}

        return Passage(self.plan, self.frame, kept(self.encoding), kept(self.decoding))


@dataclass
class Observed:
    """What a codec saw of its runs since this was put in place.

    Attributes:
        notes: for people, of what went another way than planned.
        overlap_voxels: of decoded slabs, where blended tiles overlapped.
        disagreement: sum over them of the deviation between the tiles, as a part of the network's range.
    """

    notes: list[str] = field(default_factory=list)
    overlap_voxels: int = 0
    disagreement: float = 0.0

    def seam_hu(self, window: Window) -> float | None:
        """By how much neighboring tiles disagree where they overlap, mean HU; None where nothing was blended."""
        if not self.overlap_voxels:
            return None
        return self.disagreement / self.overlap_voxels * (window.hi - window.lo)


def budget_of(device: torch.device, memory: int | None) -> int:
    """Bytes that activations may take: ``memory``, or most of what is free."""
    return memory if memory is not None else int(free_memory(device) * SHARE_OF_FREE)


def choose(codec: Codec, shape_zyx: tuple[int, int, int], budget: int) -> SlabPlan:
    """Slab and tile sizes that keep activations within ``budget`` bytes: as few tiles as can be.

    Raises:
        OutOfMemory: not even the smallest slab fits.
    """
    lead = 1 if codec.causal else 0
    need = 0
    for slices in _slab_sizes(codec):
        need = _bytes(codec, codec.padded_plane(shape_zyx), slices + lead)
        if need <= budget:
            return SlabPlan(slices, None, need)
    if not codec.whole_plane:
        slices, unit = _slab_sizes(codec)[-1], codec.stride_zyx[1]
        for tile in range(max(shape_zyx[1:]) // unit * unit, smallest_tile(codec) - 1, -unit):
            need = _bytes(codec, tile * tile, slices + lead)
            if need <= budget:
                return SlabPlan(slices, tile, need)
    raise OutOfMemory(
        f"Codec '{codec.row.name}' needs about {need / 2**30:.2f} GiB for its smallest slab of this volume; "
        f"{budget / 2**30:.2f} GiB is allowed. Raise --memory, use another device, or a lighter codec (embedded)."
    )


def half(codec: Codec, plan: SlabPlan, shape_zyx: tuple[int, int, int]) -> SlabPlan | None:
    """A plan that needs about half as much: thinner slabs, and where there are none, smaller tiles; None if neither."""
    lead, unit = 1 if codec.causal else 0, codec.stride_zyx[1]
    plane = codec.padded_plane(shape_zyx) if plan.tile_yx is None else plan.tile_yx**2
    step = codec.stride_zyx[0]
    if codec.window is None and plan.slices > step:
        slices = max(step, plan.slices // 2 // step * step)
        return SlabPlan(slices, plan.tile_yx, _bytes(codec, plane, slices + lead))
    if codec.whole_plane:
        return None
    edge = max(shape_zyx[1:]) if plan.tile_yx is None else plan.tile_yx
    tile = max(smallest_tile(codec), int(edge / 2**0.5) // unit * unit)
    return SlabPlan(plan.slices, tile, _bytes(codec, tile * tile, plan.slices + lead)) if tile < edge else None


def smallest_tile(codec: Codec) -> int:
    """Edge in voxels of the smallest tile that is worth its overlap."""
    return (overlap(codec) + 2) * codec.stride_zyx[1]


def overlap(codec: Codec) -> int:
    """Latents that in-plane tiles share: twice the reach where it is finite, else 64 voxels, at least 4 latents."""
    return 2 * max(codec.halo) if codec.halo else max(4, BLENDED_VOXELS // codec.stride_zyx[1])


def slabs(codec: Codec, size_z: int, slices: int, start: int = 0) -> list[Slab]:
    """What goes through the network one after the other: slabs of ``slices`` from ``start`` on, or windows.

    A volume that is shorter than a window is filled up: what a slice becomes depends on the window's size.
    """
    if codec.window is not None:
        size, frames = max(size_z, codec.window), frames_of(codec, codec.window)
        tiles = tile_axis(size, codec.window, codec.window_overlap, blend=True)
        return [Slab(t.start, t.stop, True, frames, t.weights if size_z == size else None) for t in tiles]
    lead, stride = 1 if codec.causal else 0, codec.stride_zyx[0]
    whole = lead - (lead - size_z) // stride * stride
    stops = [*range((start or lead) + slices, whole, slices), whole]
    starts = [start, *stops[:-1]]
    return [
        Slab(begin, end, begin == 0, frames_of(codec, end) - frames_of(codec, begin))
        for begin, end in zip(starts, stops, strict=True)
    ]


def frames_of(codec: Codec, slices: int) -> int:
    """Latent frames that so many slices from the start of a volume make."""
    lead = 1 if codec.causal and slices else 0
    return lead + (slices - lead) // codec.stride_zyx[0]


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device, or the CPU's allocator, gave out."""
    words = ("can't allocate memory", "not enough memory")  # DefaultCPUAllocator, on Linux and on Windows
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in words)


def after_out_of_memory(
    codec: Codec, before: Passage, slab: Slab, shape_zyx: tuple[int, int, int]
) -> tuple[Passage, list[Slab]]:
    """How to go on when ``slab`` did not fit: from it on if what the network remembers still holds, else all anew.

    Raises:
        OutOfMemory: there is no smaller plan.
    """
    plan = half(codec, before.plan, shape_zyx)
    if plan is None:
        raise gave_out(codec)
    if codec.device.type == "cuda":
        torch.cuda.empty_cache()
    same_tiles = plan.tile_yx == before.plan.tile_yx
    start = slab.start if same_tiles or codec.forgets else 0
    codec.observed.notes.append(
        f"Out of memory at slice {slab.start}: went on from slice {start} with {plan} (it was {before.plan})."
    )
    todo = slabs(codec, shape_zyx[0], plan.slices, 0 if codec.window else start)
    if start == 0:
        return Passage(plan), todo
    return replace(before, plan=plan), [each for each in todo if each.start >= start]


def gave_out(codec: Codec) -> OutOfMemory:
    """The error for people."""
    return OutOfMemory(
        f"The device ran out of memory in codec '{codec.row.name}'. Try --memory with a smaller size, "
        "--dtype bfloat16 on a GPU, or --device cpu."
    )


def _slab_sizes(codec: Codec) -> list[int]:
    """Slices per slab beyond the leading one, the preferred first."""
    if codec.window is not None:
        return [codec.window - (1 if codec.causal else 0)]
    step = codec.stride_zyx[0]
    return [LATENTS_PER_STEP * step if step > 1 else SLICES_PER_STEP, step]


def _bytes(codec: Codec, plane: int, slices: int) -> int:
    return int(codec.bytes_per_voxel * (1.0 if codec.dtype == torch.float32 else 0.5) * plane * slices)
