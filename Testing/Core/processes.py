"""The command and the worker as real processes, for tests."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

Command = Callable[..., subprocess.CompletedProcess[str]]
Event = dict[str, Any]


def environment() -> dict[str, str]:
    """The environment for child processes: one thread, plain output, no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}


class Peer:
    """A worker process; every line of its stdout must be an event."""

    def __init__(self) -> None:
        line = [sys.executable, "-m", "ctgencore", "worker"]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=environment())
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)

    def send(self, request: Event | str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write((request if isinstance(request, str) else json.dumps(request)) + "\n")
        self.process.stdin.flush()

    def until(self, kind: str, job: str | None = None, timeout: float = 60) -> list[Event]:
        """Events up to and with the first of this kind (and job)."""
        events: list[Event] = []
        end = time.monotonic() + timeout
        while True:
            events.append(json.loads(self.lines.get(timeout=end - time.monotonic())))
            if events[-1]["event"] == kind and job in (None, events[-1].get("id")):
                return events

    def close(self) -> tuple[int, str]:
        """End of stdin; exit code and stderr."""
        _, text = self.process.communicate(timeout=60) if self.process.stdin else (None, "")
        return self.process.returncode, text
