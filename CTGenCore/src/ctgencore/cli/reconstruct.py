"""``ctgencore reconstruct``: CT in, CT out, through a frozen VAE."""

from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CasesFailed, InputError
from ..jobs import Emit, Job, Models, check_output, error_event, exit_code, parse_options
from ..jobs import run as run_job
from .common import (
    AsJson,
    Device,
    Memory,
    Offline,
    Overwrite,
    PrecisionOrAuto,
    Quiet,
    Seed,
    SkipExisting,
    Threads,
    Verbose,
    forbid_network,
    print_event,
    reporting,
    some,
    talk,
    undone,
)
from .compare import compare_codecs
from .progress import Display


def reconstruct(
    input: Annotated[Path, typer.Option("-i", "--input", help="Volume file, DICOM folder, or a folder of either.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Volume file; a folder for a folder, or for several codecs.")
    ],
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A codec of `ctgencore info`; repeat it to compare several.", show_default="embedded"
        ),
    ] = None,
    window: Annotated[str, typer.Option(help="HU that the network sees: wide, soft, lung, or 'LO HI'.")] = "wide",
    dtype: PrecisionOrAuto = "float32",
    device: Device = "auto",
    memory: Memory = None,
    threads: Threads = None,
    triplanar: Annotated[
        bool, typer.Option("--triplanar", help="Average three planes (2D codecs; 3x the time).")
    ] = False,
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Fit gain and offset in HU to the input.")] = False,
    faithful: Annotated[bool, typer.Option("--faithful", help="Exactly as the paper's released code.")] = False,
    sample: Annotated[bool, typer.Option("--sample", help="Draw from the posterior instead of its mean.")] = False,
    latent_noise: Annotated[
        float, typer.Option(metavar="LEVEL", help="Noise on the latents, as a part of their own deviation: 0.1.")
    ] = 0.0,
    residual: Annotated[
        float, typer.Option(metavar="SHARE", help="Add back this share of what the codec took away: 0.5 keeps half.")
    ] = 0.0,
    seed: Seed = 0,
    difference: Annotated[bool, typer.Option("--difference", help="Also write output minus input.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Also write a page to look at (one input).")
    ] = None,
    skip_existing: SkipExisting = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Reconstruct a CT through a frozen VAE, on the input's own grid; several codecs are compared in a table."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        shared = {
            "window": window,
            "dtype": dtype,
            "device": device,
            "memory": memory,
            "threads": threads,
            "calibrate": calibrate,
        }
        if report is not None and not report.parent.is_dir():
            raise InputError(f"Cannot write {report}: the folder {report.parent} does not exist. Make it first.")
        if codec is not None and len(codec) > 1:
            alone = {"--triplanar": triplanar, "--faithful": faithful, "--sample": sample}
            alone |= {"--latent-noise": latent_noise > 0, "--residual": residual > 0}
            for flag in (flag for flag, given in alone.items() if given):
                raise InputError(f"{flag} is for one codec: several are compared alike. Drop it, or give one --codec.")
            compare_codecs(
                only_volume(input),
                output,
                {"codecs": tuple(codec), **shared},
                report,
                skip_existing=skip_existing,
                overwrite=overwrite,
                as_json=as_json,
                quiet=quiet,
                verbose=verbose,
            )
            return
        options = {
            "codec": codec[0] if codec else "embedded",
            **shared,
            "triplanar": triplanar,
            "faithful": faithful,
            "sample": sample,
            "latent_noise": latent_noise,
            "residual": residual,
            "seed": seed,
        }
        planned, several = plan(input, output, options, difference=difference)
        if report is not None and several:
            raise InputError(
                "--report makes a page of one volume, and the input is a folder. Leave it out, or give one volume."
            )
        also = [path for job in planned for path in (job.difference,) if path is not None]
        also += [report] if report is not None else []
        outputs = undone([job.output for job in planned], skip_existing=skip_existing, overwrite=overwrite, alone=also)
        jobs = [job for job in planned if job.output in outputs]
        for job in (job for job in planned if job not in jobs):
            _note(f"{job.output} is there; skipped.", as_json=as_json, quiet=quiet)
        parse_options(options)
        for job in jobs:
            if several:
                job.output.parent.mkdir(parents=True, exist_ok=True)
            check_output(job.output, *job.sources)
        with Display(quiet=quiet or as_json, total=len(jobs)) as display:
            emit: Emit = print_event if as_json else display
            _run_all(jobs, emit, report, several=several, verbose=verbose)


def plan(source: Path, output: Path, options: dict[str, Any], *, difference: bool) -> tuple[list[Job], bool]:
    """The jobs for an input and an output.

    Returns:
        ``(jobs, several)``; several means folder to folder, where a failed case does not stop the others.

    Raises:
        InputError: nothing to do, or two results would get the same name.
    """
    from .. import io

    to_file = output.name.lower().endswith(io.FORMATS)
    several = source.is_dir() and not to_file
    if not several:
        source = only_volume(source)
        target = output / io.output_name(source, "_recon") if output.is_dir() else output
        pairs = [(source, target)]
    else:
        if output.is_file():
            raise InputError(f"The input is a folder, so the output must be one; {output} is a file.")
        inside = output.resolve()
        found = [path for path in io.list_volumes(source) if inside not in (path.resolve(), *path.resolve().parents)]
        if not found:
            raise InputError(f"{source} holds no CT volumes. Readable: {', '.join(io.FORMATS)} and DICOM series.")
        pairs = []
        for path in found:
            below = path.relative_to(source).parent
            pairs.append((path, output / below / io.output_name(path, "_recon")))
        records = Counter(str(io.sidecar_path(target)).lower() for _, target in pairs)
        twice = [str(path) for path, target in pairs if records[str(io.sidecar_path(target)).lower()] > 1]
        if twice:
            raise InputError(
                f"These inputs would get the same result name: {some(twice)}. Rename some, or run them alone."
            )
    jobs = []
    for number, (path, target) in enumerate(pairs, start=1):
        other = target.with_name(io.output_name(target, "_difference")) if difference else None
        name = path.name if several else f"J{number}"
        jobs.append(
            Job(
                id=f"{number}:{name}" if several else name, input=path, output=target, difference=other, options=options
            )
        )
    return jobs, several


def only_volume(source: Path) -> Path:
    """The volume at ``source``: that path, or the one volume in that folder.

    Raises:
        InputError: there is nothing, or a folder with several.
    """
    from .. import io

    if not source.exists():
        raise InputError(f"There is nothing at {source}. Check --input.")
    found = io.list_volumes(source) if source.is_dir() else []
    if len(found) > 1:
        names = some([str(path.relative_to(source)) for path in found])
        raise InputError(
            f"{source} holds {len(found)} volumes ({names}). Choose one, or give one codec and a folder as --output."
        )
    return found[0] if found else source


def _run_all(jobs: list[Job], emit: Emit, report: Path | None, *, several: bool, verbose: bool) -> None:
    models = Models()
    failed = []
    for job in jobs:
        try:
            source, result = run_job(job, emit, models=models)
            if report is not None:
                from ..report import Case, write_page

                assert job.input is not None
                assert source is not None
                write_page(report, [Case.of(job.input, source, result)])
        except (Exception, KeyboardInterrupt) as error:
            if verbose:
                traceback.print_exc()
            emit(error_event(error, job.id))
            if not several or isinstance(error, KeyboardInterrupt):
                raise typer.Exit(exit_code(error)) from None
            failed.append(f"{job.input}: {error}")
    if failed:
        raise CasesFailed(f"{len(failed)} of {len(jobs)} cases failed:\n  " + "\n  ".join(failed))


def _note(message: str, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print_event({"event": "log", "message": message})
    elif not quiet:
        talk(message)
