"""``ctgencore plan``: what a reconstruction will take, before it runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import AsJson, Device, Memory, PrecisionOrAuto, Threads, Verbose, print_event, reporting, wide

if TYPE_CHECKING:
    from ..tasks.forecast import Forecast


def plan(
    input: Annotated[Path, typer.Option("-i", "--input", help="Volume file or DICOM folder.")],
    codec: Annotated[str, typer.Option(help="A codec of `ctgencore info`; its weights need not be here.")] = "embedded",
    dtype: PrecisionOrAuto = "auto",
    device: Device = "auto",
    memory: Memory = None,
    threads: Threads = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Say what memory and time a reconstruction will take, and how it will be cut. Runs a trial of some seconds."""
    with reporting(as_json=as_json, verbose=verbose):
        from .. import io
        from ..tasks.forecast import forecast
        from ..tasks.reconstruct import ReconstructOptions

        options = ReconstructOptions(codec=codec, dtype=dtype, device=device, memory=memory, threads=threads)
        found = forecast(io.read(input).shape, options)
        if as_json:
            print_event({**asdict(found), "command": _command(input, found, memory)})
        else:
            _print(input, found, memory)


def _print(input: Path, found: Forecast, memory: str | None) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..codecs.plan import SHARE_OF_FREE

    console = wide()

    def say(line: str) -> None:
        console.print(escape(line), soft_wrap=True)

    z, y, x = found.shape_zyx
    free = "as given" if memory else f"{SHARE_OF_FREE:.0%} of what is free"
    say(f"{x} x {y} x {z} voxels through '{found.codec}' on {found.device}; {_size(found.budget_bytes)} ({free}).")
    table = Table("precision", "weights", "activations", "cut", "rounds by, HU: all (soft tissue)")
    for choice in found.choices:
        need = _size(choice.plan.bytes_needed) if choice.plan else "-"
        cut = str(choice.plan) if choice.plan else choice.why_not
        rounds = f"{choice.rounding.rms:.2f} ({choice.rounding.soft_rms:.2f})"
        mark = "[bold]" if choice.dtype == found.dtype else ""
        table.add_row(f"{mark}{choice.dtype}", _size(choice.weights_bytes), need, escape(cut), rounds)
    console.print(table)
    trial, (tz, ty, tx) = found.trial, found.trial.shape_zyx
    weights = "random weights: its own are not here" if trial.random_weights else "its own weights"
    per_voxel = trial.peak_bytes / (tz * ty * tx)
    say(f"Memory: {found.bytes_per_voxel:.0f} bytes per voxel of a slab in float32, measured for this codec.")
    say(f"The trial took {per_voxel:.0f}. Input and output volume take {_size(found.volumes_bytes)} of RAM besides.")
    say(f"Time: about {_duration(found.seconds)}, from {trial.seconds:.2f} s for {tx} x {ty} x {tz} voxels here")
    often = found.network_voxels / (x * y * z)
    say(f"({trial.threads} CPU threads, {weights}). Each voxel is computed {often:.2f} times.")
    assert found.chosen.plan is not None
    if found.chosen.plan.tile_yx is not None:
        say("Tiles: where the network's reach has no end they are blended, and the result's record says how much")
        say("neighbors disagree (seam_hu). More memory or a lighter number format avoids them.")
    say(_command(input, found, memory))


def _command(input: Path, found: Forecast, memory: str | None) -> str:
    """What to type next."""
    budget = f" --memory {memory}" if memory else ""
    place = f"--dtype {found.dtype} --device {found.device}{budget}"
    return f"ctgencore reconstruct -i {input} -o OUT.nii.gz --codec {found.codec} {place}"


def _size(count: int) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**28 else f"{count / 2**20:.0f} MiB"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
