"""``ctgencore augment``: a data set for segmentation with reconstructed views; and a view again from its record."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import CasesFailed, InputError
from ..jobs import Job
from .batch import Attempts, ExecutorKind, RayAddress, Shard, Workers
from .cases import CasesDisplay, parse_shard
from .common import (
    AsJson,
    Device,
    Offline,
    PrecisionOrAuto,
    Quiet,
    Seed,
    Threads,
    Verbose,
    forbid_network,
    print_event,
    reporting,
    stdout,
    talk,
    wide,
)

SHOWN = 12  # problems before "and N more"


def augment(
    input: Annotated[
        Path | None,
        typer.Option("-i", "--input", help="Data set: nnU-Net, MSD, BIDS, pairs, or a CSV. With --remake: the volume."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder of the new data set; of --remake: where to write.")
    ] = None,
    view: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="A view, such as embedded or grain=embedded,residual=0.5 (docs/augment.md); repeat for several.",
            show_default="embedded",
        ),
    ] = None,
    mode: Annotated[str, typer.Option(help="add views to the originals, or replace these.")] = "add",
    layout: Annotated[str, typer.Option(help="Of the result: nnunet, msd, flat or dicom.")] = "nnunet",
    folds: Annotated[int, typer.Option(help="Folds of the splits, which keep a patient together.")] = 5,
    patient_pattern: Annotated[
        str | None, typer.Option(metavar="REGEX", help="One group finds the patient in a case's name.")
    ] = None,
    window: Annotated[str, typer.Option(help="HU of views that name none: wide, soft, lung, or 'LO HI'.")] = "wide",
    calibrate: Annotated[bool, typer.Option("--calibrate", help="Fit gain and offset in HU to the input.")] = False,
    dtype: PrecisionOrAuto = "float32",
    device: Device = "auto",
    memory: Annotated[str, typer.Option(help="For activations; the same for the same bytes everywhere.")] = "4GiB",
    threads: Threads = None,
    seed: Seed = 0,
    executor: ExecutorKind = "serial",
    shard: Shard = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    attempts: Attempts = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what is there and what it will take.")] = False,
    remake: Annotated[
        Path | None, typer.Option(metavar="RECORD", help="Make one view again from the JSON file beside it.")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Add reconstructed views to a data set, labels untouched. Run it again after any interruption: it goes on."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        if remake is not None:
            _remake(remake, input, output, device, threads, as_json=as_json)
            return
        if input is None or output is None:
            raise InputError("A data set and a folder for the result are missing: augment -i DATASET -o FOLDER.")
        options = {
            "views": tuple(view or ("embedded",)),
            "mode": mode,
            "layout": layout,
            "folds": folds,
            "patient_pattern": patient_pattern,
            "window": window,
            "calibrate": calibrate,
            "dtype": dtype,
            "device": device,
            "memory": memory,
            "threads": threads,
            "seed": seed,
        }
        job = Job(id=input.name or "data set", task="augment", input=input, output=output, options=options)
        if dry_run:
            from ..jobs.augmentation import describe

            plan = describe(job)
            if as_json:
                print_event(plan)
            else:
                _print_plan(plan)
            return
        _run(
            job,
            {"kind": executor, "shard": parse_shard(shard), "workers": workers, "address": ray_address},
            attempts,
            as_json=as_json,
            quiet=quiet,
        )


def _run(job: Job, executor: dict[str, Any], attempts: int, *, as_json: bool, quiet: bool) -> None:
    from ..cluster.execute import Executor
    from ..jobs.augmentation import run_augmentation

    last: dict[str, Any] = {}
    with CasesDisplay(quiet=quiet or as_json) as display:

        def emit(event: dict[str, Any]) -> None:
            if event["event"] == "result":
                last.update(event)
            if as_json:
                print_event(event)
            else:
                display(event)

        code = run_augmentation(job, emit, executor=Executor(**executor), attempts=attempts)
    metrics = last["metrics"]
    if not as_json:
        stdout.print(last["outputs"]["dataset"], markup=False, soft_wrap=True)
    if not quiet and not as_json:
        talk(f"{metrics['cases']} cases ({metrics['skipped']} of them done earlier), {metrics['views']} views.")
        for note in metrics["notes"]:
            talk(note, style="yellow")
    if code:
        if as_json:
            raise typer.Exit(code)
        lines = [f"{each['name']}: {each['message']}" for each in metrics["failed"]]
        raise CasesFailed(f"{len(lines)} cases are not in it:\n  " + "\n  ".join(lines))


def _print_plan(plan: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    train = [case for case in plan["cases"] if case["split"] == "train"]
    patients = len({case["patient"] for case in plan["cases"]})
    stdout.print(
        f"Recognized as {plan['kind']}: {len(train)} training cases, {len(plan['cases']) - len(train)} test cases, "
        f"{patients} patients; channels {', '.join(plan['channels'])}; labels "
        f"{', '.join(name for name in plan['labels']) or 'none'}.",
        markup=False,
        soft_wrap=True,
    )
    table = Table("view", "codec", "window", "noise", "residual")
    for each in plan["views"]:
        levels = (
            f"{low:g} to {high:g}" if low != high else f"{low:g}" for low, high in (each["noise"], each["residual"])
        )
        table.add_row(*map(escape, (each["name"], " or ".join(each["codecs"]), " or ".join(each["windows"]), *levels)))
    wide().print(table)
    time = "unknown time (a codec's weights are not here)"
    if plan["seconds"] is not None:
        time = f"about {plan['seconds'] / 60:.1f} min in one process"
    stdout.print(
        f"{time}, {plan['bytes'] / 2**30:.2f} GiB of disk ({plan['free_bytes'] / 2**30:.1f} free); "
        f"{plan['done']} cases are done.",
        markup=False,
        soft_wrap=True,
    )
    for problem in plan["problems"][:SHOWN]:
        where = f"{problem['case']}: " if problem["case"] else ""
        talk(f"{where}{problem['message']}", style="red" if problem["fatal"] else "yellow")
    if len(plan["problems"]) > SHOWN:
        talk(f"and {len(plan['problems']) - SHOWN} more; --json lists them all.")


def _remake(
    record: Path, source: Path | None, output: Path | None, device: str, threads: int | None, *, as_json: bool
) -> None:
    from ..tasks.augment.remake import remake

    made = remake(record, source, output, device=device, threads=threads)
    if as_json:
        print_event({"event": "result", "task": "remake", "outputs": {"volume": str(made.resolve())}})
    else:
        stdout.print(str(made), markup=False, soft_wrap=True)
