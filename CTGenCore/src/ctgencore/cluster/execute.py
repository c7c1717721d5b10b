"""Run units of work: one after the other, as one shard of several, or on Ray; resumable at any moment."""

from __future__ import annotations

import heapq
import itertools
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import Cancelled, InputError
from ..jobs import Emit
from .markers import State
from .perform import Cancel, Outcome, Performer, places
from .work import Failed, Summary, Unit

KINDS = ("serial", "shard", "ray")
POLL_S = 0.1  # how often a pause, a cancel or the end of a wait is looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Executor:
    """Who does the work.

    Attributes:
        kind: ``serial`` (this process), ``shard`` (this process does its share) or ``ray`` (actors).
        shard: ``(i, n)``: this is share i of n, from 1; kind ``shard`` only.
        workers: actors; None: one per GPU, or as many as the CPUs hold; kind ``ray`` only.
        address: a Ray cluster to join, ``auto`` or ``host:port``; None starts one on this machine; kind ``ray`` only.
    """

    kind: str = "serial"
    shard: tuple[int, int] | None = None
    workers: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Refuse what does not fit together.

        Raises:
            InputError: unknown kind, a share that is not there, or an attribute of another kind.
        """
        if self.kind not in KINDS:
            raise InputError(f"There is no executor '{self.kind}'. Allowed: {', '.join(KINDS)}.")
        if (self.kind == "shard") != (self.shard is not None):
            raise InputError("The executor 'shard' needs to know which share of how many, such as 1/4; others do not.")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise InputError(f"A shard is i/n with i from 1 to n; got {self.shard[0]}/{self.shard[1]}.")
        if self.kind != "ray" and (self.workers is not None or self.address is not None):
            raise InputError("Workers and an address belong to the executor 'ray'. Leave them out.")
        if self.workers is not None and self.workers < 1:
            raise InputError(f"At least one worker is needed; got {self.workers}.")

    @property
    def log(self) -> str:
        """Name of the log: shards do not know of each other, so each has its own."""
        return f"log-{self.shard[0]}-of-{self.shard[1]}.jsonl" if self.shard else "log.jsonl"


def execute(
    units: Sequence[Unit],
    *,
    state: Path,
    executor: Executor,
    emit: Emit,
    cancel: Cancel | None = None,
    attempts: int = 3,
    backoff_s: float = 1.0,
) -> Summary:
    """Do all units that no earlier run has done.

    A unit that fails does not stop the others. It is tried again, after a wait that doubles, when another try may
    help: the disk or network refused, memory gave out, or its process died.

    Args:
        units: what to do; of equal ones the first counts.
        state: folder of markers and logs, see :mod:`ctgencore.cluster.markers`; the same for all shards.
        executor: who does it.
        emit: receives ``case``, ``paused`` and ``resumed`` events and, unless on Ray, those of the tasks.
        cancel: asked between units and by each running one.
        attempts: how often a unit is tried at most.
        backoff_s: wait before the second try.

    Returns:
        What is done, failed and left to other shards.

    Raises:
        Cancelled: ``cancel`` answered True; finished units stay finished.
        InputError: the executor cannot run.
    """
    unique: dict[str, Unit] = {}
    for unit in units:
        unique.setdefault(unit.key, unit)
    keys = list(unique)
    place, count = executor.shard or (1, 1)
    mine = keys[place - 1 :: count]
    kept = State(state, executor.log)
    run = Run([unique[key] for key in mine], kept, emit, cancel or _never, attempts, backoff_s)
    with kept.at_work(*places(run.units)):
        run.begin()
        if run.open and executor.kind == "ray":
            from .raypool import run_on_ray

            run_on_ray(run, executor.workers, executor.address)
        elif run.open:
            _run_here(run)
    results, others = run.results, set(keys).difference(mine)
    for key in others:
        if (result := kept.result(unique[key])) is not None:
            results[key] = result
    done = tuple(unit for key, unit in unique.items() if key in results)
    return Summary(
        done=done,
        skipped=len(done) - run.done,
        failed=tuple(run.failures),
        left=tuple(unique[key] for key in keys if key in others and key not in results),
        results=results,
    )


def _run_here(run: Run) -> None:
    performer = Performer(run.state)
    while run.open:
        taken = run.take()
        if taken is None:
            time.sleep(POLL_S)
        else:
            run.settle(*taken, performer.attempt(taken[0], run.emit, run.cancel), socket.gethostname())


def _never() -> bool:
    return False


@dataclass(slots=True)
class Run:
    """The units of a run: which come next, which wait for another try, and how it goes.

    Attributes:
        units: all of them.
        state: where markers are.
        emit, cancel, attempts, backoff_s: see :func:`execute`.
        done: how many this run has finished.
        skipped: how many were finished before.
        failures: those that will not be tried again.
        results: key to result of all that is finished.
    """

    units: Sequence[Unit]
    state: State
    emit: Emit
    cancel: Callable[[], bool]
    attempts: int
    backoff_s: float
    done: int = 0
    skipped: int = 0
    failures: list[Failed] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)
    _next: deque[tuple[Unit, int]] = field(default_factory=deque)
    _later: list[tuple[float, int, Unit, int]] = field(default_factory=list)  # a heap by time; the number decides ties
    _number: itertools.count[int] = field(default_factory=itertools.count)
    _paused: bool = False
    _began: float = 0.0

    def begin(self) -> None:
        """Set aside what is done.

        Raises:
            Cancelled: somebody wants it.
        """
        for unit in self.units:
            self.stop_if_cancelled()
            result = self.state.result(unit)
            if result is None:
                self._next.append((unit, 1))
            else:
                self.skipped += 1
                self.results[unit.key] = result
                self._tell(unit, "skipped")
        self._began = time.perf_counter()

    @property
    def open(self) -> int:
        """How many units have not ended yet, those at work included."""
        return len(self.units) - self.done - self.skipped - len(self.failures)

    def take(self) -> tuple[Unit, int] | None:
        """The next unit and the number of its try; None while paused, or when all others wait or are at work.

        Second tries come after all first ones, so that trouble has time to pass.

        Raises:
            Cancelled: somebody wants it.
        """
        self.stop_if_cancelled()
        if self.state.paused != self._paused:
            self._paused = not self._paused
            self.emit({"event": "paused" if self._paused else "resumed"})
        if self._paused:
            return None
        if self._next:
            return self._next.popleft()
        if self._later and self._later[0][0] <= time.monotonic():
            _, _, unit, attempt = heapq.heappop(self._later)
            return unit, attempt
        return None

    def settle(self, unit: Unit, attempt: int, outcome: Outcome, host: str) -> None:
        """Take note of how a try ended, and plan another one where that may help."""
        again = outcome.result is None and outcome.again and attempt < self.attempts
        if outcome.result is not None:
            self.done += 1
            self.results[unit.key] = outcome.result
            ended = "done"
        elif again:
            wait = self.backoff_s * 2 ** (attempt - 1)
            heapq.heappush(self._later, (time.monotonic() + wait, next(self._number), unit, attempt + 1))
            ended = "retry"
        else:
            self.failures.append(Failed(unit=unit, code=outcome.code, message=outcome.message, attempts=attempt))
            ended = "failed"
        facts = {"code": outcome.code, "message": outcome.message, "trace": outcome.trace}
        self.state.log(
            name=unit.name,
            key=unit.key,
            state=ended,
            attempt=attempt,
            seconds=round(outcome.seconds, 3),
            host=host,
            **{name: text for name, text in facts.items() if text},
        )
        self._tell(unit, ended, outcome)

    def stop_if_cancelled(self) -> None:
        """End the run where somebody wants it.

        Raises:
            Cancelled: somebody does.
        """
        if self.cancel():
            raise Cancelled(f"Cancelled; {self.done + self.skipped} finished cases are kept. Run it again to go on.")

    def _tell(self, unit: Unit, ended: str, outcome: Outcome | None = None) -> None:
        settled = self.done + len(self.failures)
        elapsed = time.perf_counter() - self._began
        self.emit(
            {
                "event": "case",
                "name": unit.name,
                "state": ended,
                "done": self.done,
                "failed": len(self.failures),
                "skipped": self.skipped,
                "total": len(self.units),
                "per_minute": round(60 * settled / elapsed, 2) if settled else None,
                "eta_s": round(self.open * elapsed / settled, 1) if settled else None,
                "seconds": round(outcome.seconds, 3) if outcome else None,
                "message": (outcome.message or None) if outcome else None,
            }
        )
