"""Runs a process without blocking Slicer, and ends it with everything it started.

Threads read its output into a queue; a timer on the GUI thread empties the queue. MRML and widgets are touched only
there.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import qt

POLL_MS = 100
LINES_PER_POLL = 500  # a flood of output must not freeze the GUI
QUEUED_LINES = 5000  # beyond this the reader waits, then the pipe fills, then the process waits
LONGEST_LINE = 1 << 20  # bytes; a longer line arrives in pieces
GRACE_S = 5.0  # from a request to end until the process group gets SIGTERM
TERMINATE_S = 3.0  # from SIGTERM until SIGKILL
DRAIN_S = 1.0  # after the end: a grandchild may hold the pipes open for ever

LineHandler = Callable[[str, str], None]
EndHandler = Callable[[int], None]


class EngineProcess:
    """A running process in a group of its own.

    Args:
        command: program and arguments.
        environment: all variables; None: Slicer's own.
        folder: working folder.
        onLine: called on the GUI thread with ("stdout" | "stderr", text).
        onEnd: called once, on the GUI thread, with the exit code (negative: signal); not called after stopNow().

    Raises:
        OSError: the program cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str] | None,
        folder: str | None,
        onLine: LineHandler,
        onEnd: EndHandler,
    ) -> None:
        options = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        self._process = subprocess.Popen(
            list(command),
            env=None if environment is None else dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        self.pid = self._process.pid
        self._onLine, self._onEnd = onLine, onEnd
        self._lines: queue.Queue[tuple[str, str]] = queue.Queue(QUEUED_LINES)
        self._closed = threading.Event()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("stdout", self._process.stdout), ("stderr", self._process.stderr))
        ]
        for reader in self._readers:
            reader.start()
        self._terminateAt: float | None = None
        self._killAt: float | None = None
        self._endedAt: float | None = None
        self._timer = qt.QTimer()
        self._timer.setInterval(POLL_MS)
        self._timer.connect("timeout()", self._poll)
        self._timer.start()

    @property
    def running(self) -> bool:
        """Whether onEnd is still to come."""
        return not self._closed.is_set()

    def requestEnd(self, graceSeconds: float = GRACE_S) -> None:
        """End the process group unless it ends by itself within the grace."""
        deadline = time.monotonic() + graceSeconds
        if self._terminateAt is None or deadline < self._terminateAt:
            self._terminateAt = deadline

    def stopNow(self, waitSeconds: float = 2.0) -> None:
        """End the process group before returning; onEnd is not called."""
        if not self.running:
            return
        self._close()
        self._signal(terminate=True)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(waitSeconds)
        self._signal(terminate=False)
        self._process.wait()

    def _read(self, name: str, stream) -> None:
        with contextlib.suppress(OSError, ValueError):
            while line := stream.readline(LONGEST_LINE):
                text = line.decode("utf-8", errors="replace").rstrip("\r\n")
                while not self._closed.is_set():
                    with contextlib.suppress(queue.Full):
                        self._lines.put((name, text), timeout=0.2)
                        break
            stream.close()

    def _poll(self) -> None:
        for _ in range(LINES_PER_POLL):
            try:
                name, text = self._lines.get_nowait()
            except queue.Empty:
                break
            self._onLine(name, text)
            if not self.running:  # the handler stopped us
                return
        now = time.monotonic()
        code = self._process.poll()
        if code is None:
            self._pressOn(now)
            return
        if self._endedAt is None:
            self._endedAt = now
        reading = any(reader.is_alive() for reader in self._readers) and now < self._endedAt + DRAIN_S
        if not reading and self._lines.empty():
            self._close()
            self._signal(terminate=False)  # what it left behind
            self._onEnd(code)

    def _pressOn(self, now: float) -> None:
        if self._terminateAt is not None and self._killAt is None and now >= self._terminateAt:
            self._killAt = now + TERMINATE_S
            self._signal(terminate=True)
        elif self._killAt is not None and now >= self._killAt:
            self._signal(terminate=False)

    def _close(self) -> None:
        self._closed.set()
        self._timer.stop()

    def _signal(self, *, terminate: bool) -> None:
        """SIGTERM or SIGKILL to the whole group: killing PythonSlicer alone would leave its Python running."""
        if os.name == "nt":
            if self._process.poll() is None:
                subprocess.run(
                    ["taskkill", "/T", "/F", "/PID", str(self.pid)],
                    capture_output=True,
                    creationflags=subprocess.CREATE_NO_WINDOW,
                    check=False,
                )
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGTERM if terminate else signal.SIGKILL)
