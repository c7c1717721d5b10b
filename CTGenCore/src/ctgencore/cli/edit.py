"""``ctgencore edit``: change a region of a CT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..jobs import Job
from .common import (
    AsJson,
    Device,
    Guidance,
    Memory,
    Model,
    Offline,
    Overwrite,
    Precision,
    Quiet,
    Seed,
    SkipExisting,
    Solver,
    Steps,
    Threads,
    Verbose,
    forbid_network,
    reporting,
)
from .generate import run_one


def edit(
    input: Annotated[Path, typer.Option("-i", "--input", help="The CT: volume file or DICOM folder.")],
    region: Annotated[Path, typer.Option(help="Label file on the CT's grid; voxels that are not 0 may change.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Volume file to write.")],
    report: Annotated[str, typer.Option(help="What the region shall show; empty for healthy tissue.")] = "",
    strength: Annotated[float, typer.Option(help="Share that is drawn anew, above 0 to 1.")] = 0.8,
    feather: Annotated[float, typer.Option(metavar="MM", help="Soft border around the region.")] = 4.0,
    difference: Annotated[Path | None, typer.Option(help="Also write output minus input, HU.")] = None,
    model: Model = "foundation-embedded",
    seed: Seed = 0,
    steps: Steps = 20,
    solver: Solver = "ddim",
    guidance: Guidance = 1.0,
    device: Device = "auto",
    dtype: Precision = "float32",
    memory: Memory = None,
    threads: Threads = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Draw a region of a CT anew, to a report. Voxels beyond its soft border stay as they are, bit for bit."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        options = {
            "model": model,
            "report": report,
            "seed": seed,
            "steps": steps,
            "solver": solver,
            "guidance": guidance,
            "strength": strength,
            "feather_mm": feather,
            "device": device,
            "dtype": dtype,
            "memory": memory,
            "threads": threads,
        }
        job = Job(id="J1", task="edit", input=input, mask=region, output=output, difference=difference, options=options)
        run_one(job, skip_existing=skip_existing, overwrite=overwrite, as_json=as_json, quiet=quiet)
