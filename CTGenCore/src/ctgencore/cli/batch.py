"""``ctgencore batch``: many jobs from a manifest, on one machine, in shards or on a Ray cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from ..errors import CasesFailed, InputError
from .cases import CasesDisplay, parse_shard
from .common import AsJson, Offline, Quiet, Verbose, forbid_network, print_event, reporting, talk

LISTED = 50  # failures in the last message

ExecutorKind = Annotated[str, typer.Option("--executor", metavar="KIND", help="serial, shard or ray.")]
Shard = Annotated[str | None, typer.Option(metavar="I/N", help="Executor shard: which share of how many, from 1.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Executor ray: actors. Default: one per GPU, else as the CPUs hold.")
]
RayAddress = Annotated[
    str | None, typer.Option("--ray-address", metavar="A", help="Executor ray: 'auto' or HOST:PORT to join.")
]
Attempts = Annotated[int, typer.Option(min=1, help="How often a case is tried when disk, memory or a worker fails.")]


def batch(
    task: Annotated[str, typer.Argument(help="reconstruct, generate or edit.")],
    manifest: Annotated[Path, typer.Option(help="CSV or JSON lines: a row per job, a column per file or option.")],
    state: Annotated[Path, typer.Option(metavar="FOLDER", help="Where markers of finished jobs and the log are kept.")],
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="An option of every row; repeat for more.")
    ] = None,
    executor: ExecutorKind = "serial",
    shard: Shard = None,
    workers: Workers = None,
    ray_address: RayAddress = None,
    attempts: Attempts = 3,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    offline: Offline = False,
) -> None:
    """Run the jobs of a manifest. Run it again after any interruption: what is finished is not done twice."""
    with reporting(as_json=as_json, verbose=verbose):
        if offline:
            forbid_network()
        from ..cluster.execute import Executor, execute
        from ..cluster.manifest import read_manifest

        chosen = Executor(kind=executor, shard=parse_shard(shard), workers=workers, address=ray_address)
        units = read_manifest(manifest, task, dict(map(_pair, option or [])))
        for unit in units:
            for key in ("output", "difference"):
                if key in unit.payload:
                    Path(unit.payload[key]).parent.mkdir(parents=True, exist_ok=True)
        began = time.perf_counter()
        with CasesDisplay(quiet=quiet or as_json) as display:
            emit = print_event if as_json else display
            summary = execute(units, state=state, executor=chosen, emit=emit, attempts=attempts)
        counts = {"cases": len(summary.done), "skipped": summary.skipped, "left": len(summary.left)}
        failed = [{"name": each.unit.name, "code": each.code, "message": each.message} for each in summary.failed]
        if as_json:
            print_event(
                {
                    "event": "result",
                    "task": task,
                    "outputs": {"state": str(state.resolve())},
                    "seconds": round(time.perf_counter() - began, 3),
                    "metrics": {**counts, "failed": failed},
                }
            )
        elif not quiet:
            left = f", {len(summary.left)} left to other shards" if summary.left else ""
            talk(f"{len(summary.done)} of {len(units)} cases are done, {summary.skipped} of them earlier{left}.")
        if failed:
            lines = [f"{each['name']}: {each['message']}" for each in failed[:LISTED]]
            lines += [f"and {len(failed) - LISTED} more, see the log"] if len(failed) > LISTED else []
            raise CasesFailed(f"{len(failed)} of {len(units)} cases failed:\n  " + "\n  ".join(lines))


def _pair(text: str) -> tuple[str, str]:
    key, sign, value = text.partition("=")
    if not key or not sign:
        raise InputError(f"--option takes KEY=VALUE, such as codec=embedded; got '{text}'.")
    return key, value
