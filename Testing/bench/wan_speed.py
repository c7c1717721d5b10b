"""WAN as CTGen runs it beside diffusers' ``AutoencoderKLWan``, on the same random weights, at the published size.

    python Testing/bench/wan_speed.py
    python Testing/bench/wan_speed.py wan2.1 --shape 17 128 128 --threads 2 --runs 5

Both get a HU volume and give one back, encode and decode apart. Ours is the codec: slab by slab, grey. Theirs is the
class as it comes: RGB, the whole volume. They take turns in one process, so that what else runs on the machine meets
both; the ratio of the medians is given, of the time on the clock and of the processor's. Differences are the largest,
in parts of the largest value.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ctgencore.codecs.base import Codec
from ctgencore.intensity import WINDOWS
from ctgencore.zoo import NETWORKS
from diffusers import AutoencoderKLWan
from torch import Tensor

WIDE = WINDOWS["wide"]
Ways = dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], np.ndarray]]]


def ways(name: str, hu: np.ndarray) -> Ways:
    """Encode and decode, ours and theirs; theirs in the codec's units of latents."""
    torch.manual_seed(0)
    codec = Codec.without_weights(name, random=True, grey=False)
    for parameter in codec.network.decoder.conv_out.parameters():
        parameter.data /= 10  # to stay within the range: theirs clamps each color, ours their mean
    peer = AutoencoderKLWan(**NETWORKS[name].config).eval()
    peer.load_state_dict(codec.network.state_dict())
    codec.fold_grey()

    def encode() -> Tensor:
        x = (torch.from_numpy(hu) / 1000)[None, None].repeat(1, 3, 1, 1, 1)
        return codec._scale(peer.encode(x).latent_dist.mode())

    def decode(z: Tensor) -> np.ndarray:
        y = peer.decode(codec._unscale(z)).sample
        return (y.mean(dim=1)[0] * 1000).numpy()

    return {
        "ours": (lambda: codec.encode(hu, WIDE), lambda z: codec.decode(z, hu.shape, WIDE)),
        "diffusers": (encode, decode),
    }


def timed(work: Callable[..., Any], *arguments: object) -> tuple[np.ndarray, Any]:
    """Seconds by the clock and of the processor, and the result."""
    started = time.perf_counter(), time.process_time()
    result = work(*arguments)
    return np.array((time.perf_counter() - started[0], time.process_time() - started[1])), result


@torch.inference_mode()
def compare(name: str, shape: tuple[int, ...], runs: int) -> str:
    """A row of the table."""
    hu = np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)
    both = ways(name, hu)
    seconds: dict[tuple[str, str], list[np.ndarray]] = {
        (way, part): [] for way in both for part in ("encode", "decode")
    }
    latents, volumes = {}, {}
    for run in range(runs + 1):
        for way, (encode, decode) in both.items():
            taken, latents[way] = timed(encode)
            taken_too, volumes[way] = timed(decode, latents["ours"])
            if run:  # the first warms up
                seconds[way, "encode"].append(taken)
                seconds[way, "decode"].append(taken_too)
    off = [
        float(np.abs(np.asarray(found["ours"]) - np.asarray(found["diffusers"])).max() / abs(found["diffusers"]).max())
        for found in (latents, volumes)
    ]

    def ratio(clock: int, *parts: str) -> float:
        medians = {
            way: sum(statistics.median(taken[clock] for taken in seconds[way, part]) for part in parts) for way in both
        }
        return medians["diffusers"] / medians["ours"]

    figures = [ratio(0, "encode"), ratio(0, "decode"), ratio(0, "encode", "decode"), ratio(1, "encode", "decode")]
    return f"| {name} | " + " | ".join(f"{figure:.2f}" for figure in figures) + f" | {off[0]:.1e} | {off[1]:.1e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["wan2.1", "wan2.2"])
    parser.add_argument("--shape", type=int, nargs=3, default=[17, 96, 96], metavar=("Z", "Y", "X"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(
        f"{'x'.join(map(str, arguments.shape))}, threads: {arguments.threads}, {arguments.runs} runs each, in turns\n"
    )
    print("| codec | encode x | decode x | both x | both x, processor time | latents differ | volumes differ |")
    print("|---|---|---|---|---|---|---|")
    for name in arguments.names:
        print(compare(name, tuple(arguments.shape), arguments.runs), flush=True)


if __name__ == "__main__":
    main()
