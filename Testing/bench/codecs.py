"""Time and peak memory of every codec at its published size, with random weights.

    python Testing/bench/codecs.py                       # 65x256x256 on this CPU, those that take less than a minute
    python Testing/bench/codecs.py --slab                # one slab of 64x64: bytes per voxel, for `bytes_per_voxel`
    python Testing/bench/codecs.py --device cuda --dtype bfloat16 --shape 129 512 512

Every codec runs in a process of its own. Peak is what was added to the process (CPU) or allocated (GPU, with weights).
A codec whose 17x64x64 trial says that it would take longer than ``--limit`` seconds is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from ctgencore.codecs.base import Codec, SlabPlan
from ctgencore.intensity import WINDOWS
from ctgencore.zoo import CODECS, build_network, load_class

TRIAL = (17, 64, 64)


def build(name: str, device: str, dtype: str) -> Codec:
    """The codec at its published size, random weights, grey."""
    row = CODECS[name]
    torch.manual_seed(0)
    network = build_network(row.network) if row.network else None
    codec: Codec = load_class("codecs", row.codec)(row, network)
    codec.fold_grey()
    return codec.to(device, dtype=dtype)


def peak(device: str) -> int:
    """Bytes: of this process so far, or allocated on the GPU since the last reset."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def run(codec: Codec, shape: tuple[int, int, int], device: str) -> tuple[float, int]:
    """Seconds, and bytes that were added."""
    hu = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
    before = 0
    if device.startswith("cuda"):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        before = peak(device)
    started = time.perf_counter()
    codec.reconstruct_hu(hu, WINDOWS["wide"])
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started, peak(device) - before


def measure(
    name: str, device: str, dtype: str, shape: tuple[int, int, int], limit: float, slab: bool
) -> dict[str, float]:
    """One codec."""
    codec = build(name, device, dtype)
    if slab:
        slices = codec.window or (2 * codec.stride_zyx[0] + 1 if codec.stride_zyx[0] > 1 else 8)
        edge = max(64, 4 * codec.stride_zyx[1])
        codec.plan = lambda shape, memory=None: SlabPlan(slices, None, 0)  # type: ignore[method-assign]
        seconds, added = run(codec, (slices, edge, edge), device)
        return {"seconds": seconds, "bytes": added, "per_voxel": added / (slices * edge * edge)}
    trial = run(codec, TRIAL, device)[0]
    scale = np.prod(shape) / np.prod(TRIAL)
    if trial * scale > 1.5 * limit:
        return {"expected": trial * scale}
    seconds, added = run(codec, shape, device)
    return {"seconds": seconds, "bytes": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="codecs; by default all")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--shape", type=int, nargs=3, default=[65, 256, 256], metavar=("Z", "Y", "X"))
    parser.add_argument("--limit", type=float, default=60.0, help="seconds")
    parser.add_argument("--slab", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        given = json.loads(arguments.one)
        print(json.dumps(measure(**given)))
        return
    options = {key: getattr(arguments, key) for key in ("device", "dtype", "shape", "limit", "slab")}
    size = "one slab" if arguments.slab else "x".join(map(str, arguments.shape))
    print(f"{size}, {arguments.device}, {arguments.dtype}, {torch.get_num_threads()} threads\n")
    print("| codec | s | peak MiB | bytes per voxel |\n|---|---|---|---|")
    for name in arguments.names or CODECS:
        line = [sys.executable, __file__, "--one", json.dumps({"name": name, **options})]
        done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            print(f"| {name} | failed ({done.returncode}) | | |", flush=True)
            continue
        row = json.loads(done.stdout.splitlines()[-1])
        if "expected" in row:
            print(f"| {name} | left out: about {row['expected']:.0f} expected | | |", flush=True)
            continue
        per_voxel = f"{row['per_voxel']:.0f}" if "per_voxel" in row else ""
        print(f"| {name} | {row['seconds']:.1f} | {row['bytes'] / 2**20:.0f} | {per_voxel} |", flush=True)


if __name__ == "__main__":
    main()
