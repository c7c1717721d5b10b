"""Cases side by side in processes of one thread each, with the same results as one after the other. No torch."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any

from ..errors import Cancelled, OutOfMemory
from .evaluate_cache import Measured, Plan
from .evaluate_cases import measure
from .evaluate_files import CaseFiles

_POLL_S = 0.2
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), "1"
)
_stopped: Any = None  # of a worker process: the event by which it is told to stop


def measure_all(
    work: Sequence[tuple[CaseFiles, Plan]], workers: int, cancel: Callable[[], bool], finished: Callable[[int], None]
) -> list[Measured]:
    """Measure cases in ``workers`` processes.

    Args:
        work: cases with what to compute for each.
        workers: how many processes.
        cancel: asked five times a second; answer True to stop.
        finished: called with the index of each case when it is done.

    Returns:
        Results in the order of ``work``.

    Raises:
        Cancelled: ``cancel`` answered True.
        OutOfMemory: a process died, which the system does to the largest one when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    with _environment(_ONE_THREAD), ProcessPoolExecutor(min(workers, len(work)), context, _begin, (stop,)) as pool:
        futures: dict[Future[Measured], int] = {pool.submit(_measure, *each): n for n, each in enumerate(work)}
        waiting = set(futures)
        try:
            while waiting:
                if cancel():
                    raise Cancelled("Cancelled; finished cases are kept.")
                done, waiting = wait(waiting, _POLL_S, FIRST_COMPLETED)
                for future in done:
                    future.result()
                    finished(futures[future])
            return [future.result() for future in futures]
        except BrokenProcessPool:
            raise OutOfMemory(
                "A worker process died, most likely for want of memory. Finished cases are kept: run again with fewer "
                "--workers."
            ) from None
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _begin(stop: Any) -> None:
    """Make a worker process listen to ``stop``, and end when its parent is gone, however that ended."""
    global _stopped
    _stopped = stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _measure(files: CaseFiles, plan: Plan) -> Measured:
    return measure(files, plan, _stopped.is_set, lambda: None)


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
