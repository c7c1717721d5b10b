"""What a reconstruction will take: memory from measured figures, time from a trial on this machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from .. import hub
from ..codecs.base import Codec
from ..codecs.plan import SlabPlan, budget_of, overlap, slabs
from ..codecs.precision import Rounding, choose_precision, plan_in, rounding
from ..errors import InputError, OutOfMemory
from ..intensity import Window
from ..runtime import DTYPES, PeakMemory, parse_memory, resolve_device
from ..tiling import tile_axis
from .common import cpu_threads
from .reconstruct import ReconstructOptions

TRIAL_EDGE = 64  # voxels in plane of the first trial, more for codecs with large latents
TRIAL_S = 0.3  # a quicker trial is repeated with a larger plane: 0.08 s told twice the true time of the embedded codec
LARGEST_EDGE = 512
LATENTS_ACROSS = 4  # of the trial's plane at least
HU_BYTES = 8  # a voxel of the input and one of the output, float32


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """One number format.

    Attributes:
        dtype: its name.
        plan: how the volume would be cut, None where it cannot run.
        why_not: the reason then.
        weights_bytes: of the network.
        rounding: error of the format itself.
    """

    dtype: str
    plan: SlabPlan | None
    why_not: str
    weights_bytes: int
    rounding: Rounding


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """A small run on this machine.

    Attributes:
        shape_zyx: of a volume of random HU.
        seconds: that it took, after a first run.
        peak_bytes: see :class:`ctgencore.runtime.PeakMemory`.
        random_weights: the codec's own are not here; time and memory do not depend on them.
        threads: of the CPU.
    """

    shape_zyx: tuple[int, int, int]
    seconds: float
    peak_bytes: int
    random_weights: bool
    threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """What to expect of a reconstruction.

    Attributes:
        codec: its name.
        device: where.
        shape_zyx: of the volume.
        budget_bytes: that activations may take.
        bytes_per_voxel: of a slab, float32: the measured figure behind the memory (``Testing/bench/codecs.py --slab``).
        choices: every number format.
        dtype: the one that the options ask for; of ``auto`` the one that is chosen.
        volumes_bytes: of input and output in RAM.
        network_voxels: that pass through the network, overlaps of tiles and windows included.
        seconds: expected.
        trial: what that rests on.
    """

    codec: str
    device: str
    shape_zyx: tuple[int, int, int]
    budget_bytes: int
    bytes_per_voxel: float
    choices: tuple[Choice, ...]
    dtype: str
    volumes_bytes: int
    network_voxels: int
    seconds: float
    trial: Trial

    @property
    def chosen(self) -> Choice:
        """The choice for :attr:`dtype`."""
        return next(choice for choice in self.choices if choice.dtype == self.dtype)


def forecast(shape_zyx: tuple[int, int, int], options: ReconstructOptions) -> Forecast:
    """How a volume would be cut, what memory that takes and about how long.

    Args:
        shape_zyx: of the volume.
        options: codec, dtype, device, memory and threads are read. The codec's weights need not be here.

    Raises:
        InputError: an option that cannot be.
        OutOfMemory: the volume does not fit in the number format asked for.
    """
    device = resolve_device(options.device)
    sizes = Codec.without_weights(options.codec)
    budget = budget_of(device, parse_memory(options.memory) if options.memory else None)
    choices = tuple(_choice(sizes, name, shape_zyx, device, budget) for name in DTYPES)
    dtype = choose_precision(sizes, device, shape_zyx, budget) if options.dtype == "auto" else options.dtype
    plan = plan_in(sizes, dtype, device, shape_zyx, budget)
    with cpu_threads(options.threads):
        trial = _trial(options.codec, dtype, device, sizes)
    voxels = _network_voxels(sizes, shape_zyx, plan)
    tried = _network_voxels(sizes, trial.shape_zyx, SlabPlan(plan.slices, None, 0))
    return Forecast(
        codec=options.codec,
        device=str(device),
        shape_zyx=shape_zyx,
        budget_bytes=budget,
        bytes_per_voxel=sizes.bytes_per_voxel,
        choices=choices,
        dtype=dtype,
        volumes_bytes=HU_BYTES * int(np.prod(shape_zyx)),
        network_voxels=voxels,
        seconds=trial.seconds * voxels / tried,
        trial=trial,
    )


def _choice(sizes: Codec, dtype: str, shape: tuple[int, int, int], device: torch.device, budget: int) -> Choice:
    plan, why_not = None, ""
    try:
        plan = plan_in(sizes, dtype, device, shape, budget)
    except (InputError, OutOfMemory) as error:
        why_not = str(error)
    parameters = sum(p.numel() for p in sizes.network.parameters()) if sizes.network is not None else 0
    kind: torch.dtype = getattr(torch, dtype)
    return Choice(
        dtype=dtype,
        plan=plan,
        why_not=why_not,
        weights_bytes=parameters * kind.itemsize,
        rounding=rounding(kind, sizes.unit_range),
    )


def _trial(name: str, dtype: str, device: torch.device, sizes: Codec) -> Trial:
    """Reconstruct random HU twice, with the codec's weights if they are here; the second time counts.

    Quick codecs get larger planes, until the time is long enough to tell something.
    """
    here = not hub.why_unavailable(sizes.row)
    if here:
        codec = Codec.from_pretrained(name, dtype=dtype, device=str(device))
    else:
        codec = Codec.without_weights(name, random=True).to(device, dtype=dtype)
    edge = max(TRIAL_EDGE, LATENTS_ACROSS * codec.stride_zyx[1])
    lead = 1 if codec.causal else 0
    window = Window.parse("wide")
    while True:
        shape = (codec.plan((10**6, edge, edge)).slices + lead, edge, edge)
        hu = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
        codec.reconstruct_hu(hu, window)
        with PeakMemory(device) as peak:
            started = time.perf_counter()
            codec.reconstruct_hu(hu, window)  # its result is on the CPU, so that it is over when this returns
            seconds = time.perf_counter() - started
        if seconds >= TRIAL_S or 2 * edge > LARGEST_EDGE:
            break
        edge *= 2
    return Trial(
        shape_zyx=shape,
        seconds=seconds,
        peak_bytes=peak.bytes,
        random_weights=not here,
        threads=torch.get_num_threads(),
    )


def _network_voxels(codec: Codec, shape_zyx: tuple[int, int, int], plan: SlabPlan) -> int:
    """Voxels of all slabs and tiles."""
    slices = sum(slab.stop - slab.start for slab in slabs(codec, shape_zyx[0], plan.slices))
    if plan.tile_yx is None:
        return slices * codec.padded_plane(shape_zyx)
    unit = codec.stride_zyx[1]
    edges = [
        sum(
            tile.stop - tile.start
            for tile in tile_axis(-(-n // unit), plan.tile_yx // unit, overlap(codec), blend=True)
        )
        for n in shape_zyx[1:]
    ]
    return slices * edges[0] * edges[1] * unit**2
