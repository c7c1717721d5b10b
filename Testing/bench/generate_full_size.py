"""Time and peak memory of the published generator at its full size, with random weights: 512x512x128 by default.

    python Testing/bench/generate_full_size.py --device cuda --dtypes bfloat16 float32 --memory all 2GiB
    python Testing/bench/generate_full_size.py --tiny          # small networks and volumes on a CPU: shows that it runs

Prints, ready for BENCHMARKS.md: whole volumes our way (DPM-Solver++, windows blended at every step) by the memory
allowed; windows the released way (20 DDIM steps each, RGB codec); and the planner's constant ``BYTES_PER_CELL``. Beside
them the paper's 190 s and 22 GB on a B200. Each measurement is a process of its own, after a short run that warms up.
Peak is what torch allocated on the GPU, on a CPU all of the process; weights included. In the last table it is what
was added.
"""

from __future__ import annotations

import argparse
import json
import resource
import string
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from ctgencore import phantom
from ctgencore.codecs.base import Codec
from ctgencore.generators import released
from ctgencore.generators.base import Inputs, Sampling
from ctgencore.generators.foundation import FoundationGenerator
from ctgencore.generators.windows import BYTES_PER_CELL, Windows
from ctgencore.intensity import WINDOWS
from ctgencore.runtime import parse_memory
from ctgencore.text.base import SPECIAL
from ctgencore.text.cxrbert import CXRBert, build_bert
from ctgencore.zoo import CODECS, GENERATORS, NETWORKS, build_network, load_class

PRESET = "foundation-multidisease"
PAPER, TARGET = (190, 22), (60, 12)  # seconds and GB (10^9 bytes): Foundation VAE on a B200; ours on an H200
REPORT = "There is a consolidation in the left lower lobe. The heart is not enlarged."
PIECES = (*SPECIAL, ".", *string.ascii_lowercase, *("##" + letter for letter in string.ascii_lowercase))
TINY_TEXT = {"layers": 1, "width": 32, "heads": 2, "max_tokens": 64}
NARROW = 64  # channels of the full network on a CPU: bytes per cell and channel hardly depend on them
SWEEP = {  # network: latent windows and windows per call
    "foundation-unet": [((17, 32, 32), 1), ((17, 64, 64), 1), ((17, 64, 64), 3)],
    "foundation-unet-embedded": [((17, 16, 16), 1), ((17, 16, 16), 8), ((17, 32, 32), 1), ((17, 64, 64), 1)],
}
TINY_SWEEP = {"foundation-unet-embedded": [((17, 16, 16), 1), ((17, 32, 32), 1)]}


# --- parts with random weights ---------------------------------------------------------------------------------------


def build(device: str, dtype: str, *, tiny: bool, grey: bool, plane: int) -> FoundationGenerator:
    """The published generator at the plane's size; ``tiny`` has small networks of the same kind."""
    torch.manual_seed(0)
    row = GENERATORS[PRESET]
    row = replace(row, config={**row.config, "native_yx": plane})
    codec_row = CODECS[row.codec]
    network = build_network(str(codec_row.network), **(NETWORKS["leanvae"].tiny if tiny else {}))
    codec: Codec = load_class("codecs", codec_row.codec)(codec_row, network)
    if grey:
        codec.fold_grey()
    sizes = dict(row.network_config)
    if tiny:
        latents = codec.latent_channels
        sizes |= {**NETWORKS[row.network].tiny, "in_channels": 2 * latents, "out_channels": latents}
    text_sizes = TINY_TEXT if tiny else {}
    text = CXRBert(build_bert(len(PIECES), **text_sizes).state_dict(), PIECES, **text_sizes)
    return FoundationGenerator(row, random_unet(row.network, sizes), text, codec).to(device, dtype=dtype)


def random_unet(name: str, sizes: dict[str, Any]) -> Any:
    """Without the zeros that some layers start from, which would make the output zero."""
    unet = build_network(name, **sizes)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return unet.requires_grad_(False)


def inputs(slices: int, plane: int) -> Inputs:
    """Masks and report of a phantom; the masks are drawn coarsely and enlarged, for only their size matters."""
    drawn = phantom.chest((32, 64, 64), seed=1, findings=["Consolidation"])
    places = [np.arange(n) * m // n for n, m in zip((slices, plane, plane), (32, 64, 64), strict=True)]
    organs, diseases = (item.voxels[np.ix_(*places)] for item in (drawn.organs, drawn.diseases))
    return Inputs(
        shape_zyx=(slices, plane, plane),
        spacing_zyx=(260 / slices, 360 / plane, 360 / plane),
        organs=organs,
        diseases=diseases,
        report=REPORT,
    )


class Meter:
    """Seconds and peak memory of a block."""

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")

    def __enter__(self) -> Meter:
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        self.before, self.started = self._held(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - self.started
        self.peak = self._peak()
        self.grown = self.peak - self.before
        self.reserved = torch.cuda.max_memory_reserved() if self.cuda else self.peak

    def _held(self) -> int:
        return torch.cuda.memory_allocated() if self.cuda else self._peak()

    def _peak(self) -> int:
        if self.cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- one measurement, in a process of its own ------------------------------------------------------------------------


def measure_ours(
    device: str, dtype: str, slices: int, plane: int, tiny: bool, steps: int, memory: str
) -> dict[str, float]:
    """A whole volume; encoding a mask and decoding also by themselves."""
    generator = build(device, dtype, tiny=tiny, grey=True, plane=plane)
    given = inputs(slices, plane)
    budget = None if memory == "all" else parse_memory(memory)
    generator.sample(given, Sampling(steps=2, memory=budget))
    done = [0]
    with Meter(device) as meter:
        generator.sample(given, Sampling(steps=steps, memory=budget), progress=lambda now, _: done.append(now))
    with Meter(device) as encoding:
        latents = generator.codec.encode(given.organs.astype(np.float32), WINDOWS["wide"], memory=budget)
    with Meter(device) as decoding:
        generator.codec.decode(latents, given.shape_zyx, WINDOWS["wide"], memory=budget)
    return {
        "seconds": meter.seconds,
        "peak": meter.peak,
        "reserved": meter.reserved,
        "encode": encoding.seconds,
        "decode": decoding.seconds,
        "windows": done[-1] / steps,
        "at_once": int(np.diff(done).max()),
    }


def measure_released(device: str, dtype: str, slices: int, plane: int, tiny: bool) -> dict[str, float]:
    """The fewest windows that the released way takes, each with its conditions and its decoding."""
    generator = build(device, dtype, tiny=tiny, grey=False, plane=plane)
    given = inputs(released.WINDOW, plane)
    windows = released.passes_needed(released.WINDOW) / released.STEPS
    generator.sample(given, Sampling(steps=2))
    with Meter(device) as meter:
        generator.sample_as_published(given, 0)
    return {
        "seconds": meter.seconds / windows,
        "peak": meter.peak,
        "reserved": meter.reserved,
        "windows": released.passes_needed(slices) / released.STEPS,
    }


def measure_window(device: str, dtype: str, network: str, window: list[int], batch: int) -> dict[str, float]:
    """Peak bytes per latent cell and channel, as if in float32, of windows in one call."""
    torch.manual_seed(0)
    narrow = {"channels": NARROW} if device == "cpu" and network == "foundation-unet" else {}
    unet = random_unet(network, narrow).to(device=device, dtype=getattr(torch, dtype))
    config = unet.config

    def call(size: tuple[int, ...]) -> None:
        noisy = torch.randn(batch, config.out_channels, *size, device=device)
        condition = torch.randn(batch, config.in_channels - config.out_channels, *size, device=device)
        context = torch.randn(batch, 512, config.context_width, device=device)
        Windows(unet, size, size, batch=batch, tick=lambda _: None)(noisy, 500, condition, context)

    with torch.inference_mode():
        call((2, 8, 8))
        with Meter(device) as meter:
            call(tuple(window))
    cells = int(np.prod(window)) * batch
    return {"bytes": meter.grown / (cells * config.channels) * 4 / unet.dtype.itemsize, "grown": meter.grown}


MEASURES = {"ours": measure_ours, "released": measure_released, "window": measure_window}


def in_own_process(what: str, **arguments: Any) -> dict[str, float] | None:
    """None when it fails, out of memory for example; the reason goes to the error stream."""
    line = [sys.executable, __file__, "--one", json.dumps([what, arguments])]
    done = subprocess.run(line, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else None


# --- tables ----------------------------------------------------------------------------------------------------------


def table_of_volumes(arguments: argparse.Namespace, size: dict[str, Any], name: str) -> None:
    device = {"device": arguments.device}
    print(
        f"{name}, {size['plane']}x{size['plane']}x{size['slices']}, random weights"
        f"{' of TINY networks' if size['tiny'] else ''}, torch {torch.__version__}\n\n"
        "| way | dtype | memory allowed | windows a step, at once | s | a mask, decoding s | peak GB | reserved |\n"
        "|" + "---|" * 8
    )
    for dtype in arguments.dtypes:
        for memory in arguments.memory:
            row = in_own_process("ours", dtype=dtype, memory=memory, steps=arguments.steps, **device, **size)
            way = f"| ours, {arguments.steps} steps | {dtype} | {memory} | "
            if row is None:
                print(way + "failed | | | | |", flush=True)
                continue
            print(
                f"{way}{row['windows']:.0f}, {row['at_once']} | {row['seconds']:.1f} | {row['encode']:.1f}, "
                f"{row['decode']:.1f} | {row['peak'] / 1e9:.2f} | {row['reserved'] / 1e9:.2f} |",
                flush=True,
            )
        row = in_own_process("released", dtype=dtype, **device, **size)
        way = f"| released, one window | {dtype} | | "
        if row is None:
            print(way + "failed | | | | |", flush=True)
            continue
        peak = f"{row['peak'] / 1e9:.2f} | {row['reserved'] / 1e9:.2f} |"
        print(f"{way}1 | {row['seconds']:.1f} | | {peak}")
        whole = f"| released, the volume, from that | {dtype} | | {row['windows']:.0f} in all | "
        print(f"{whole}{row['seconds'] * row['windows']:.1f} | | | |", flush=True)
    print(f"| paper, NVIDIA B200 | | | | {PAPER[0]} | | {PAPER[1]} | |")
    print(f"| target, NVIDIA H200 | | | | <= {TARGET[0]} | | <= {TARGET[1]} | |\n")


def table_of_windows(arguments: argparse.Namespace, sweep: dict[str, Any]) -> None:
    print(
        "| network | dtype | window, latent cells | windows a call | peak growth MiB | bytes per cell and channel, "
        "float32 |\n|" + "---|" * 6
    )
    largest = 0.0
    for dtype in arguments.dtypes:
        for network, cases in sweep.items():
            for window, batch in cases:
                measured = {"device": arguments.device, "dtype": dtype, "network": network, "window": window}
                row = in_own_process("window", batch=batch, **measured)
                where = f"| {network} | {dtype} | {'x'.join(map(str, window))} | {batch} | "
                if row is None:
                    print(where + "failed | |", flush=True)
                    continue
                largest = max(largest, row["bytes"])
                print(f"{where}{row['grown'] / 2**20:.0f} | {row['bytes']:.1f} |", flush=True)
    print(f"\nBYTES_PER_CELL is {BYTES_PER_CELL:g}; the largest measured is {largest:.1f}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--dtypes", nargs="*", help="of the denoiser; by default bfloat16 and float32, on a CPU float32"
    )
    parser.add_argument("--memory", nargs="*", default=["all", "2GiB"], help="budgets; all: most of what is free")
    parser.add_argument("--slices", type=int, default=128)
    parser.add_argument("--plane", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--tiny", action="store_true", help="small networks, 64x64x72, 2 steps")
    parser.add_argument("--only", choices=["volumes", "windows"], help="one of the two tables")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what, given = json.loads(arguments.one)
        print(json.dumps(MEASURES[what](**given)))
        return
    arguments.dtypes = arguments.dtypes or (["float32"] if arguments.device == "cpu" else ["bfloat16", "float32"])
    size = {"slices": arguments.slices, "plane": arguments.plane, "tiny": arguments.tiny}
    if arguments.tiny:
        size |= {"slices": 72, "plane": 64}
        arguments.steps, arguments.memory = 2, ["all"]
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    if arguments.only != "windows":
        table_of_volumes(arguments, size, name)
    if arguments.only != "volumes":
        table_of_windows(arguments, TINY_SWEEP if arguments.tiny else SWEEP)


if __name__ == "__main__":
    main()
