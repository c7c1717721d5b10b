"""Peak memory and time of streaming against a plain whole-volume encode and decode, by number of slices.

    python Testing/bench/stream_memory.py [--slices 33 65 129 257] [--plane 128] [--threads 2]

Each measurement is a process of its own. Ours streams a volume through the codec; the peer is diffusers'
``AutoencoderKLWan.encode`` and ``decode`` of the whole volume (for ``wan2.1``), or the bare network on the whole
volume (for ``embedded``). WAN runs with random weights at a quarter of its width (base_dim 24). Peak is the process's
maximum resident size less that just before the run, so the input is not in it and the output (4 bytes a voxel, shown
beside it) is. The two ways run in turn; the ratio is of the median times.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

SMALL_WAN = {"base_dim": 24}


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(net: str, way: str, slices: int, plane: int, threads: int) -> dict:
    """One measurement, in this process."""
    import numpy as np
    import torch
    from ctgencore.codecs.base import Codec
    from ctgencore.intensity import Window
    from ctgencore.zoo import CODECS, build_network, load_class
    from diffusers import AutoencoderKLWan

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = SMALL_WAN if net == "wan2.1" else {}
    hu = np.random.default_rng(0).uniform(-1000, 1000, (slices, plane, plane)).astype(np.float32)
    network = build_network(net, **config)
    row = CODECS[net]
    codec: Codec = load_class("codecs", row.codec)(row, network)
    warm = hu[:9, :64, :64]
    if way == "stream":
        codec.fold_grey()
        codec.reconstruct_hu(warm, Window.parse("wide"))
        before, started = _peak_mib(), time.perf_counter()
        codec.reconstruct_hu(hu, Window.parse("wide"))
    else:
        if net == "wan2.1":
            peer = AutoencoderKLWan(**config).eval()
            peer.load_state_dict(network.state_dict())

            def run(x: torch.Tensor) -> torch.Tensor:
                return peer.decode(peer.encode(x).latent_dist.mode()).sample.mean(dim=1)
        else:

            def run(x: torch.Tensor) -> torch.Tensor:
                return network.decode(network.encode(x)).mean(dim=1)

        def whole(volume: np.ndarray) -> np.ndarray:
            x = (torch.from_numpy(volume).clamp(-1000, 1000) / 1000)[None, None].repeat(1, codec.channels, 1, 1, 1)
            return (run(x) * 1000).numpy()

        with torch.inference_mode():
            whole(warm)
            before, started = _peak_mib(), time.perf_counter()
            whole(hu)
    seconds = time.perf_counter() - started
    return {"net": net, "way": way, "slices": slices, "peak_mib": _peak_mib() - before, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slices", type=int, nargs="*", default=[33, 65, 129, 257])
    parser.add_argument("--plane", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--nets", nargs="*", default=["wan2.1", "embedded"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(**json.loads(arguments.one))))
        return
    print(
        "| codec | slices | stream MiB | whole MiB | output itself MiB | stream s | whole s | time ratio |\n|"
        + "---|" * 8
    )
    for net in arguments.nets:
        for slices in arguments.slices:
            runs: dict[str, list[dict]] = {"stream": [], "whole": []}
            for _ in range(arguments.repeats):
                for way in runs:
                    one = {
                        "net": net,
                        "way": way,
                        "slices": slices,
                        "plane": arguments.plane,
                        "threads": arguments.threads,
                    }
                    output = subprocess.run(
                        [sys.executable, __file__, "--one", json.dumps(one)], capture_output=True, text=True, check=True
                    ).stdout
                    runs[way].append(json.loads(output.splitlines()[-1]))
            peak = {way: max(r["peak_mib"] for r in rs) for way, rs in runs.items()}
            best = {way: sorted(r["seconds"] for r in rs)[len(rs) // 2] for way, rs in runs.items()}
            volume = slices * arguments.plane**2 * 4 / 2**20
            memory = f"{peak['stream']:.0f} | {peak['whole']:.0f} | {volume:.0f}"
            ratio = best["stream"] / best["whole"]
            print(
                f"| {net} | {slices} | {memory} | {best['stream']:.2f} | {best['whole']:.2f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
