"""Units on a Ray cluster: one actor per GPU, or several on CPUs, each holding its models loaded.

No code is shipped: the workers import the ctgencore that is installed where they run.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..errors import Cancelled, InputError
from .markers import State
from .perform import Outcome, Performer, option, places
from .work import Unit

if TYPE_CHECKING:
    from .execute import Run

POLL_S = 0.1
GRACE_S = 60.0  # for running units to notice that they are cancelled: a slab of a large network takes that long
PATIENCE_S = 60.0  # before somebody is told that no worker could start yet
CONNECT_S = 10.0
STORE_BYTES = 80 * 2**20  # of a cluster of our own; units and outcomes are small (Ray's least is 75 MiB)


class Worker:
    """What an actor holds. Its methods may run side by side: ``stop`` while ``attempt`` runs.

    Args:
        state: the state folder, as this machine sees it.
        places: see :func:`ctgencore.cluster.perform.places`.

    Raises:
        InputError: this machine does not see the state folder.
    """

    def __init__(self, state: Path, places: tuple[set[Path], set[Path]]) -> None:
        if not state.is_dir():
            raise InputError(f"{socket.gethostname()} does not see the folder {state}. All machines need one disk.")
        kept = State(state)
        self._performer = Performer(kept)
        self._stopped = threading.Event()
        self._at_work = kept.at_work(*places)
        self._at_work.__enter__()

    def hello(self) -> tuple[str, str]:
        """Version of the package and name of the machine."""
        return __version__, socket.gethostname()

    def attempt(self, unit: Unit) -> Outcome:
        """See :meth:`ctgencore.cluster.perform.Performer.attempt`."""
        try:
            return self._performer.attempt(unit, lambda event: None, self._stopped.is_set)
        except Cancelled as error:
            return Outcome(code=error.code, message=str(error))

    def stop(self) -> None:
        """Cancel what runs."""
        self._stopped.set()

    def leave(self) -> None:
        """Sign out."""
        self._at_work.__exit__(None, None, None)


def run_on_ray(run: Run, workers: int | None, address: str | None) -> None:
    """Do all open units of a run on a cluster.

    Args:
        run: what to do.
        workers: actors; None: one per GPU, or as many as the CPUs hold.
        address: ``auto`` or ``host:port`` of a running cluster; None starts one on this machine.

    Raises:
        Cancelled: somebody wants it; running units were told.
        InputError: Ray is not installed, the cluster is not there or has no room, or its workers cannot start.
    """
    threads = max(option(unit, "threads") or 1 for unit in run.units)
    with _cluster(address, threads * workers if workers else None) as ray:
        has = ray.cluster_resources()
        gpus = int(has.get("GPU", 0)) if any(option(unit, "device") != "cpu" for unit in run.units) else 0
        count = workers or gpus or int(has.get("CPU", 0)) // threads
        if not count:
            raise InputError(
                f"No worker fits: a unit takes {threads} CPU threads and the whole cluster has {has.get('CPU', 0):g} "
                "CPUs. Give a smaller number of threads, or start more workers."
            )
        remote = ray.remote(Worker).options(num_cpus=threads, num_gpus=1 if gpus else 0, max_concurrency=2)
        pool = _Pool(ray, run, lambda: remote.remote(run.state.folder.resolve(), places(run.units)))
        try:
            pool.work(min(count, run.open))
        except (Cancelled, KeyboardInterrupt):
            pool.cancel()
            raise
        finally:
            pool.close()


class _Pool:
    """Actors that start, idle or work."""

    def __init__(self, ray: Any, run: Run, new: Any) -> None:
        self.ray, self.run, self.new = ray, run, new
        self.starting: dict[Any, Any] = {}  # reference of its hello -> actor
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, Unit, int, float]] = {}  # reference -> actor, unit, number of the try, began
        self.hosts: dict[Any, str] = {}
        self.false_starts = 0

    def work(self, count: int) -> None:
        """Until every unit has ended."""
        began, warned = time.monotonic(), False
        while self.run.open:
            while len(self.starting) + len(self.idle) + len(self.busy) < count:
                actor = self.new()
                self.starting[actor.hello.remote()] = actor
            while self.idle and (taken := self.run.take()):
                actor = self.idle.pop()
                self.busy[actor.attempt.remote(taken[0])] = (actor, *taken, time.perf_counter())
            self.run.stop_if_cancelled()
            self._listen()
            if not self.hosts and not warned and time.monotonic() - began > PATIENCE_S:
                warned = True
                self.run.emit({"event": "warning", "message": "No worker has started yet; the cluster may be busy."})

    def _listen(self) -> None:
        references = [*self.starting, *self.busy]
        if not references:
            time.sleep(POLL_S)
            return
        ready, _ = self.ray.wait(references, num_returns=1, timeout=POLL_S)
        for reference in ready:
            if reference in self.starting:
                self._started(self.starting.pop(reference), reference)
            else:
                self._ended(reference)

    def _started(self, actor: Any, reference: Any) -> None:
        try:
            version, host = self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            self.false_starts += 1
            if self.false_starts >= self.run.attempts:
                raise InputError(
                    f"Ray's workers cannot start: {_lines(error)[-1].rstrip('.')}. On every machine the Python that "
                    "runs `ray start` needs ctgencore with its extra 'cluster'."
                ) from None
            return
        if version != __version__:
            raise InputError(f"ctgencore is {__version__} here and {version} on {host}. Install the same on all.")
        self.hosts[actor] = host
        self.idle.append(actor)

    def _ended(self, reference: Any) -> None:
        actor, unit, attempt, began = self.busy.pop(reference)
        try:
            outcome = self.ray.get(reference)
            self.idle.append(actor)
        except self.ray.exceptions.RayError as error:  # it died: another one takes its place
            seconds = time.perf_counter() - began
            message = f"The worker process died: {_lines(error)[0]}"
            outcome = Outcome(seconds=seconds, code="worker", message=message, again=True)
        self.run.settle(unit, attempt, outcome, self.hosts[actor])

    def cancel(self) -> None:
        """Ask running units to stop, and wait for them; those that finish all the same count."""
        for actor, *_ in self.busy.values():
            actor.stop.remote()
        if self.busy:
            ready, _ = self.ray.wait(list(self.busy), num_returns=len(self.busy), timeout=GRACE_S)
            for reference in ready:
                actor, unit, attempt, _ = self.busy.pop(reference)
                self.idle.append(actor)
                outcome = self.ray.get(reference)
                if outcome.result is not None:
                    self.run.settle(unit, attempt, outcome, self.hosts[actor])

    def close(self) -> None:
        """End all actors."""
        if self.idle:
            self.ray.wait([actor.leave.remote() for actor in self.idle], num_returns=len(self.idle), timeout=GRACE_S)
        working = [actor for actor, *_ in self.busy.values()]
        for actor in (*self.idle, *self.starting.values(), *working):
            self.ray.kill(actor)


@contextmanager
def _cluster(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Ray, connected: to what this process is connected to already, to a running cluster, or to one of our own.

    Args:
        address: see :func:`run_on_ray`.
        cpus: that a cluster of our own should have; None: those of the machine.

    Raises:
        InputError: not installed, or there is no cluster.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: nothing is told to anybody
        import ray
    except ImportError:
        raise InputError('The executor "ray" needs Ray: pip install "ctgencore[cluster]".') from None
    if ray.is_initialized():
        yield ray
        return
    if address is not None and address != "auto":
        _knock(address)
    own = {"num_cpus": cpus, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "local", logging_level="error", log_to_driver=False, **({} if address else own))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray put its own in place, which ends the process at once
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(
            f"There is no Ray cluster at '{address}' ({_lines(error)[0]}). Start one: ray start --head."
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody answers there: Ray itself tries for minutes.

    Raises:
        InputError: nobody does.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"There is no Ray cluster at '{address}' ({error}). Give 'auto' or the HOST:PORT of `ray start --head`."
        ) from None


def _lines(error: Exception) -> list[str]:
    return [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
