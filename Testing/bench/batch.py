"""The batch layer: what it costs, what Ray brings, and whether workers grow.

    python Testing/bench/batch.py [--cases 20] [--shape 64 192 192] [--codec embedded] [--workers 2]

Prints a Markdown table. Overhead is the time of a serial batch outside of its tasks (hashes of inputs, markers, log,
events), as a share of the time inside: one run measures both, so that a busy machine slows both alike. For comparison
the same tasks run in a plain loop. Resident memory is looked at after every case, in the process that did it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from ctgencore import jobs, phantom
from ctgencore.cluster import perform
from ctgencore.cluster.execute import Executor, execute
from ctgencore.cluster.work import Unit


def units_of(source: Path, folder: Path, count: int, codec: str) -> list[Unit]:
    folder.mkdir()
    options = {"codec": codec, "device": "cpu", "threads": 1, "memory": "1GiB"}
    return [
        Unit(
            name=f"case{number}",
            call="job",
            payload={
                "task": "reconstruct",
                "input": str(source),
                "output": str(folder / f"{number}.nii.gz"),
                "options": {**options, "seed": number},
            },
            inputs=(source,),
        )
        for number in range(count)
    ]


def loop(units: list[Unit]) -> float:
    models = jobs.Models()
    began = time.perf_counter()
    for unit in units:
        jobs.run(jobs.Job.from_request({**unit.payload, "id": unit.name}), lambda event: None, models=models)
    return time.perf_counter() - began


def serial(units: list[Unit], state: Path) -> tuple[float, float, list[int]]:
    """Seconds of all, seconds inside the tasks, resident bytes after each case."""
    inside, resident = 0.0, []
    plain = perform.CALLS["job"]

    def timed(*arguments: Any) -> Any:
        nonlocal inside
        began = time.perf_counter()
        try:
            return plain(*arguments)
        finally:
            inside += time.perf_counter() - began

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "case":
            resident.append(psutil.Process().memory_info().rss)

    perform.CALLS["job"] = timed
    began = time.perf_counter()
    execute(units, state=state, executor=Executor(), emit=emit)
    perform.CALLS["job"] = plain
    return time.perf_counter() - began, inside, resident


def on_ray(units: list[Unit], state: Path, workers: int) -> tuple[float, float, dict[int, list[int]]]:
    """Seconds of all, seconds from the first finished case to the last, resident bytes of each actor at every case."""
    times: list[float] = []
    resident: dict[int, list[int]] = {}

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "case":
            times.append(time.perf_counter())
            for entry in (state / "running").iterdir():
                pid = int(entry.name.rpartition("@")[2])
                if pid != os.getpid():
                    resident.setdefault(pid, []).append(psutil.Process(pid).memory_info().rss)

    began = time.perf_counter()
    execute(units, state=state, executor=Executor(kind="ray", workers=workers), emit=emit)
    return time.perf_counter() - began, times[-1] - times[0], resident


def growth(resident: list[int]) -> str:
    """Peak of the first and of the second half."""
    half = len(resident) // 2
    first, second = (max(part) / 2**20 for part in (resident[:half], resident[half:]))
    return f"{first:.0f} MiB, then {second:.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--shape", type=int, nargs=3, default=(64, 192, 192), metavar=("Z", "Y", "X"))
    parser.add_argument("--codec", default="embedded")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # of the actors too
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = phantom.chest(tuple(arguments.shape)).ct.save(folder / "ct.nii.gz")

        def fresh(kind: str) -> list[Unit]:
            return units_of(source, folder / kind, arguments.cases, arguments.codec)

        def per_minute(seconds: float, cases: int = arguments.cases) -> str:
            return f"{60 * cases / seconds:.1f}"

        rows: list[tuple[str, str]] = []
        loop(fresh("warm")[:2])
        rows.append(("loop over the task, cases/min", per_minute(loop(fresh("loop")))))
        seconds, inside, resident = serial(fresh("serial"), folder / "state1")
        rows.append(("batch, serial, cases/min", per_minute(seconds)))
        share = 100 * (seconds - inside) / inside
        rows.append(
            (
                "overhead of the batch layer",
                f"{1000 * (seconds - inside) / arguments.cases:.1f} ms a case, {share:.2f} %",
            )
        )
        rows.append(("resident memory, serial", growth(resident)))
        seconds, steady, actors = on_ray(fresh("ray"), folder / "state2", arguments.workers)
        rows.append((f"batch, Ray, {arguments.workers} actors, start included, cases/min", per_minute(seconds)))
        rows.append(("... from the first finished case to the last", per_minute(steady, arguments.cases - 1)))
        for pid in sorted(actors):
            rows.append(("resident memory, an actor", growth(actors[pid])))
    print(f"{arguments.cases} cases of {'x'.join(map(str, arguments.shape))}, {arguments.codec}, one thread each\n")
    print("| what | value |\n|---|---|")
    print("\n".join(f"| {what} | {value} |" for what, value in rows))


if __name__ == "__main__":
    main()
