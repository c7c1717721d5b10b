"""Time and peak memory of every codec at its published size, with random weights.

    python Testing/bench/codecs.py                       # 65x256x256 on this CPU, those that take less than a minute
    python Testing/bench/codecs.py --slab                # one slab of 64x64: bytes per voxel, for `bytes_per_voxel`
    python Testing/bench/codecs.py --growth              # memory with 257 slices against 65
    python Testing/bench/codecs.py --seams               # a slab of a procedural chest in tiles against the whole plane
    python Testing/bench/codecs.py --device cuda --dtype bfloat16 --shape 129 512 512

Every measurement has a process of its own. Peak is what the process grew by (CPU) or what was allocated, weights
included (GPU). "Plain" is the library's own class in the same run: ``encode`` and ``decode`` of the whole volume, RGB,
for the codecs whose network is diffusers' or MONAI's. A codec whose 17x64x64 trial says that it would take longer than
``--limit`` seconds is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from ctgencore import phantom
from ctgencore.codecs.base import Codec
from ctgencore.codecs.plan import Observed, SlabPlan, overlap, slabs, smallest_tile
from ctgencore.intensity import WINDOWS
from ctgencore.runtime import PeakMemory
from ctgencore.zoo import CODECS, NETWORKS

TRIAL = (17, 64, 64)
FEW, MANY = 65, 257  # slices, of --growth
TURNS = 3  # of --growth: peaks scatter by a tenth from run to run, so both lengths take turns in one process
EDGE = 64  # voxels in plane of --slab, and of --growth by default; at least four latents


def has_peer(name: str) -> bool:
    """Whether the codec's network is a library's class with our names for its methods."""
    network = CODECS[name].network
    return network is not None and NETWORKS[network].cls.startswith("library:")


def timed(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds and bytes of work, after which nothing is pending on the device."""
    with PeakMemory(device) as peak:
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - started
    return {"seconds": seconds, "bytes": peak.bytes}


def random_hu(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)


@torch.inference_mode()
def plain(codec: Codec, hu: np.ndarray) -> np.ndarray:
    """The network on the whole volume, filled up to a length and a size that it takes."""
    stop = slabs(codec, len(hu), codec.stride_zyx[0])[-1].stop
    pad = [(0, stop - len(hu)), *((0, -n % s) for n, s in zip(hu.shape[1:], codec.stride_zyx[1:], strict=True))]
    low, high = codec.unit_range
    x = torch.from_numpy(np.pad(hu, pad, mode="edge")).to(codec.device).clamp(-1000, 1000) / 1000
    x = ((x + 1) / 2 * (high - low) + low).to(codec.dtype)[None, None].expand(-1, codec.channels, -1, -1, -1)
    y = codec.network.decode(codec.network.encode(x))
    return y.float().mean(dim=1)[0].cpu().numpy()


def measure(
    name: str, way: str, device: str, dtype: str, shape: tuple[int, int, int], limit: float, threads: int
) -> dict[str, float]:
    """One codec in one way: ``run``, ``plain``, ``slab``, ``seams`` or ``growth``."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    codec = Codec.without_weights(name, random=True, grey=way != "plain").to(device, dtype=dtype)
    if way == "seams":
        return seams(codec)
    if way == "slab":
        slices = codec.window or (2 * codec.stride_zyx[0] + 1 if codec.stride_zyx[0] > 1 else 8)
        edge = max(EDGE, 4 * codec.stride_zyx[1])
        codec.plan = lambda shape, memory=None: SlabPlan(slices, None, 0)  # type: ignore[method-assign]
        hu = random_hu((slices, edge, edge))
        codec.reconstruct_hu(hu, WINDOWS["wide"])
        found = timed(lambda: codec.reconstruct_hu(hu, WINDOWS["wide"]), codec.device)
        return {**found, "per_voxel": found["bytes"] / hu.size}
    work = plain if way == "plain" else lambda codec, hu: codec.reconstruct_hu(hu, WINDOWS["wide"])
    small, whole = random_hu((TRIAL[0], *shape[1:]) if way == "growth" else TRIAL), random_hu(shape)
    work(codec, small)
    expected = timed(lambda: work(codec, small), codec.device)["seconds"] * whole.size / small.size
    if expected > 1.5 * limit:
        return {"expected": expected}
    if way == "growth":
        return growth(codec, whole)
    return timed(lambda: work(codec, whole), codec.device)


def growth(codec: Codec, hu: np.ndarray) -> dict[str, float]:
    """Median peak bytes for few and for many slices, without the output volume, which grows with the scan."""
    peaks: dict[int, list[float]] = {FEW: [], MANY: []}
    codec.reconstruct_hu(hu[:FEW], WINDOWS["wide"])
    for _ in range(TURNS):
        for slices, found in peaks.items():
            work = partial(codec.reconstruct_hu, hu[:slices], WINDOWS["wide"])
            found.append(timed(work, codec.device)["bytes"] - hu[:slices].nbytes)
    return {"few": float(np.median(peaks[FEW])), "many": float(np.median(peaks[MANY]))}


def seams(codec: Codec) -> dict[str, float]:
    """Mean absolute HU between tiles and the whole plane, and what the record would say (0: nothing was blended)."""
    unit = codec.stride_zyx[1]
    tile = smallest_tile(codec) + 2 * unit
    edge = tile + (tile - overlap(codec) * unit)  # two tiles a side
    slices = codec.window or 1 + 2 * codec.stride_zyx[0]
    ct = phantom.chest((slices, edge, edge), seed=1, spacing_mm=(350 / edge, 350 / edge, 3.0)).ct.voxels
    whole = codec.reconstruct_hu(ct, WINDOWS["wide"])
    plan = codec.plan(ct.shape)
    codec.plan = lambda shape, memory=None: SlabPlan(plan.slices, tile, 0)  # type: ignore[method-assign]
    codec.observed = Observed()
    tiled = codec.reconstruct_hu(ct, WINDOWS["wide"])
    said = codec.observed.seam_hu(WINDOWS["wide"]) or 0.0
    return {"edge": edge, "tile": tile, "difference": float(np.abs(tiled - whole).mean()), "seam": said}


def alone(name: str, way: str, shape: tuple[int, ...], options: dict[str, Any]) -> dict[str, float] | str:
    """The measurement in a process of its own; words if there is none."""
    given = json.dumps({"name": name, "way": way, "shape": shape, **options})
    done = subprocess.run([sys.executable, __file__, "--one", given], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return f"failed ({done.returncode})"
    found = json.loads(done.stdout.splitlines()[-1])
    return f"left out: about {found['expected']:.0f} s expected" if "expected" in found else found


def cells(found: dict[str, float] | str) -> str:
    """Seconds and MiB as two cells of a table."""
    return f"{found} | |" if isinstance(found, str) else f"{found['seconds']:.1f} | {found['bytes'] / 2**20:.0f} |"


def grown(name: str, plane: int, options: dict[str, Any]) -> str:
    """The line of --growth."""
    edge = max(plane, 4 * Codec.without_weights(name).stride_zyx[1])
    found = alone(name, "growth", (MANY, edge, edge), options)
    if isinstance(found, str):
        return f"| {name} | {edge} | {found} | | |"
    few, many = found["few"], found["many"]
    return f"| {name} | {edge} | {few / 2**20:.1f} | {many / 2**20:.1f} | {100 * (many / few - 1):+.0f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="codecs; by default all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", type=int, nargs=3, default=[65, 256, 256], metavar=("Z", "Y", "X"))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--slab", action="store_true")
    parser.add_argument("--growth", action="store_true")
    parser.add_argument("--plane", type=int, default=EDGE, help="voxels of --growth in plane")
    parser.add_argument("--seams", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    options = {key: getattr(arguments, key) for key in ("device", "dtype", "limit", "threads")}
    shape = tuple(arguments.shape)
    names = arguments.names or list(CODECS)
    print(f"{arguments.device}, {arguments.dtype}, {arguments.threads} CPU threads\n")
    if arguments.growth:
        print(f"| codec | plane | MiB, {FEW} slices | MiB, {MANY} slices | growth |\n|---|---|---|---|---|")
        for name in names:
            print(grown(name, arguments.plane, options), flush=True)
    elif arguments.seams:
        print("| codec | plane | tile | tiled - whole, HU | neighbors disagree, HU |\n|---|---|---|---|---|")
        for name in (name for name in names if not Codec.without_weights(name).whole_plane):
            found = alone(name, "seams", shape, options)
            told = (
                f"{found} | | | |"
                if isinstance(found, str)
                else f"{found['edge']} | {found['tile']} | {found['difference']:.3f} | {found['seam']:.1f} |"
            )
            print(f"| {name} | {told}", flush=True)
    elif arguments.slab:
        print("| codec | bytes per voxel | declared |\n|---|---|---|")
        for name in names:
            found = alone(name, "slab", shape, options)
            measured = found if isinstance(found, str) else f"{found['per_voxel']:.0f}"
            print(f"| {name} | {measured} | {Codec.without_weights(name).bytes_per_voxel:.0f} |", flush=True)
    else:
        print(f"{'x'.join(map(str, shape))}\n")
        print("| codec | s | peak MiB | plain: s | peak MiB |\n|---|---|---|---|---|")
        for name in names:
            peer = cells(alone(name, "plain", shape, options)) if has_peer(name) else "| |"
            print(f"| {name} | {cells(alone(name, 'run', shape, options))} {peer}", flush=True)


if __name__ == "__main__":
    main()
