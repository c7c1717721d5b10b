"""``ctgencore generate``: masks and a report in, CT out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..jobs import Job, Models, check_output, parse_options
from ..jobs import run as run_job
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
    print_event,
    reporting,
    talk,
    undone,
)
from .progress import Display


def generate(
    output: Annotated[Path | None, typer.Option("-o", "--output", help="Volume file to write.")] = None,
    mask: Annotated[Path | None, typer.Option("-m", "--mask", help="Label file: organs.")] = None,
    disease: Annotated[Path | None, typer.Option(help="Label file: disease classes 150 to 162.")] = None,
    report: Annotated[str, typer.Option(help="Radiology report; @FILE reads a text file.")] = "",
    draft: Annotated[
        bool,
        typer.Option(
            "--draft/--no-draft",
            help="Draft a disease mask from the report where none is given, or leave the words to the network.",
        ),
    ] = True,
    reference: Annotated[Path | None, typer.Option(help="A volume whose grid the result gets.")] = None,
    scheme: Annotated[
        str, typer.Option(help="Numbering of the mask: ctgen, totalsegmentator, vista3d, btcv, names, or a CSV file.")
    ] = "ctgen",
    model: Model = "foundation-embedded",
    seed: Seed = 0,
    steps: Steps = 20,
    solver: Solver = "ddim",
    guidance: Guidance = 1.0,
    tries: Annotated[int, typer.Option(min=1, help="Draw again until one passes the quality gate, so often.")] = 1,
    twin: Annotated[
        bool, typer.Option("--twin", help="Also draw the healthy twin and check what the disease changed elsewhere.")
    ] = False,
    preview: Annotated[bool, typer.Option("--preview", help="A coarse draft, at most 64x128x128 voxels.")] = False,
    spacing: Annotated[
        tuple[float, float, float] | None, typer.Option(metavar="X Y Z", help="Voxel size of the result in mm.")
    ] = None,
    faithful: Annotated[
        bool, typer.Option("--faithful", help="Exactly as the paper's released code (published models).")
    ] = False,
    check: Annotated[
        Path | None, typer.Option(metavar="JOB.JSON", help="Only look for trouble in a job; nothing is drawn.")
    ] = None,
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
    """Generate a CT that follows organ masks, disease masks and a report. The result is synthetic and says so."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        if check is not None:
            _check(check, as_json=as_json)
            return
        if output is None:
            raise InputError("--output is missing: the volume file to write, such as -o out.nii.gz.")
        options = {
            "model": model,
            "report": _text(report),
            "draft": draft,
            "seed": seed,
            "steps": steps,
            "solver": solver,
            "guidance": guidance,
            "tries": tries,
            "twin": twin,
            "preview": preview,
            "spacing_mm": spacing,
            "scheme": scheme,
            "faithful": faithful,
            "device": device,
            "dtype": dtype,
            "memory": memory,
            "threads": threads,
        }
        job = Job(id="J1", task="generate", input=reference, mask=mask, disease=disease, output=output, options=options)
        run_one(job, skip_existing=skip_existing, overwrite=overwrite, as_json=as_json, quiet=quiet)


def run_one(job: Job, *, skip_existing: bool, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Run one job for a person or a program; an output that is there is left alone or replaced as asked."""
    also = [job.difference] if job.difference is not None else []
    if not undone([job.output], skip_existing=skip_existing, overwrite=overwrite, alone=also):
        message = f"{job.output} is there; skipped."
        if as_json:
            print_event({"event": "log", "message": message})
        elif not quiet:
            talk(message)
        return
    parse_options(job.options, job.task)
    check_output(job.output, *job.sources)
    with Display(quiet=quiet or as_json, total=1) as display:
        run_job(job, print_event if as_json else display, models=Models())


def _text(report: str) -> str:
    """The report; ``@FILE`` stands for the content of a file.

    Raises:
        InputError: the file cannot be read.
    """
    if not report.startswith("@"):
        return report
    try:
        return Path(report[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The report {report[1:]} cannot be read ({error}). Give a text file in UTF-8.") from None


def _check(path: Path, *, as_json: bool) -> None:
    """Print what :func:`ctgencore.tasks.generate.prepare` finds in a job's masks and report."""
    from .. import io
    from ..tasks.generate import prepare

    try:
        request: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable JSON file ({error}).") from None
    job = Job.from_request({"id": path.stem, **request}, path.parent)
    if job.task != "generate":
        raise InputError(f"--check takes a job whose task is generate; got {job.task}.")
    mask, disease = (io.read_labels(file) if file is not None else None for file in (job.mask, job.disease))
    reference = io.read(job.input) if job.input is not None else None
    found = prepare(mask, disease, reference=reference, options=parse_options(job.options, job.task))
    problems = [
        {"code": each.code, "severity": each.severity, "message": each.message, "fix": each.fix}
        for each in found.problems
    ]
    if as_json:
        print_event({"event": "checked", "id": job.id, "problems": problems})
        return
    for each in found.problems:
        talk(f"{each.severity}: {each}".strip(), style="yellow" if each.severity == "warning" else "")
    if not problems:
        talk("No trouble found.")
