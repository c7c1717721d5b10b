"""Codecs that are another program: the user's own copy of a network, in its own Python, behind a pipe.

For networks whose license forbids a port, or whose code needs an environment of its own. The program is asked in the
words of our own event protocol (docs/protocol.md): a request is a line of JSON on its stdin, an answer one on its
stdout, and slabs lie in ``.npy`` files. It is started for the first slab and stays until the codec goes, a run is
cancelled, or anything is wrong with it.
"""

from __future__ import annotations

import itertools
import json
import os
import queue
import subprocess
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from .. import hub
from ..errors import Cancelled, CTGenError, InputError
from ..intensity import Window
from ..zoo import CodecRow
from .base import Cancel, Codec, Progress, State
from .plan import SlabPlan

PROTOCOL = 1
HELLO_S = 300.0  # until a program must have said hello
PATIENCE_S = 3600.0  # of silence while it works on a slab: on a CPU a large network takes many minutes
LOOK_EVERY_S = 0.1  # whether the user cancelled
TAIL = 12  # lines of its stderr that an error shows
SHOWN = 80  # characters of a line that is not understood


class Program:
    """A running program, and a folder for what it gets and gives."""

    def __init__(self, name: str, command: Sequence[str]) -> None:
        self.name = name
        self._folder = tempfile.TemporaryDirectory(prefix="ctgen-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        pipe = subprocess.PIPE
        try:
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, encoding="utf-8", errors="replace"
            )
        except OSError as error:
            self._folder.cleanup()
            raise InputError(
                f"The program of codec '{name}' cannot be started ({error}): {' '.join(command)}"
            ) from None
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._tail: deque[str] = deque(maxlen=TAIL)
        _thread(_pass_on, self._process.stdout, self._lines)
        self._drain = _thread(_keep, self._process.stderr, self._tail)
        self._end = weakref.finalize(self, _end, self._process, self._folder)  # also when Python ends

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._end.alive and self._process.poll() is None

    def close(self) -> None:
        """Kill it and delete its folder."""
        self._end()

    def tell(self, request: dict[str, Any]) -> None:
        """Send a request.

        Raises:
            CTGenError: it is dead.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            error = self._died()
            self.close()
            raise error from None

    def wait_for(self, kind: str, patience_s: float, cancel: Cancel | None = None) -> dict[str, Any]:
        """The next event of this kind; others say that it is alive, and its errors are raised.

        Raises:
            Cancelled: ``cancel`` answered True; it is killed.
            CTGenError: it is dead, silent, or not understood; it is killed.
            torch.OutOfMemoryError: it says so, and lives on.
        """
        try:
            while True:
                event = self._next(patience_s, cancel)
                if event["event"] == kind:
                    return event
                if event["event"] == "error":
                    raise self._told(event)
        except torch.OutOfMemoryError:
            raise
        except BaseException:
            self.close()
            raise

    def _next(self, patience_s: float, cancel: Cancel | None) -> dict[str, Any]:
        end = time.monotonic() + patience_s
        while True:
            if cancel is not None and cancel():
                raise Cancelled("Cancelled; nothing was written.")
            try:
                line = self._lines.get(timeout=min(LOOK_EVERY_S, patience_s))
            except queue.Empty:
                if time.monotonic() > end:
                    raise self.trouble(f"said nothing for {patience_s:g} s") from None
                continue
            if line is None:
                raise self._died()
            if line.strip():
                return self._event(line)

    def _event(self, line: str) -> dict[str, Any]:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            raise self.trouble(f"wrote '{line.strip()[:SHOWN]}' to stdout, where only events in JSON may be")
        return event

    def _told(self, event: dict[str, Any]) -> Exception:
        message = str(event.get("message", "no message"))
        if event.get("code") == "memory":
            return torch.OutOfMemoryError(message)
        return self.trouble(f"failed: {message}")

    def _died(self) -> CTGenError:
        with suppress(subprocess.TimeoutExpired):  # it may have closed its stdout only
            self._process.wait(timeout=5)
        self._process.kill()
        code = self._process.wait()
        self._drain.join(timeout=5)
        return self.trouble(f"ended in the middle of its work (exit code {code})")

    def trouble(self, what: str) -> CTGenError:
        """An error about it, with the end of what it wrote to stderr."""
        tail = "\n".join(self._tail)
        said = f"\nIts last words were:\n{tail}" if tail else "\nIt wrote nothing to stderr."
        return CTGenError(f"The program of codec '{self.name}' {what}.{said}")


class ExternalCodec(Codec):
    """A codec that sends slabs ``(1, 3, z, Y, X)`` to a program and takes what comes back.

    ``row.config`` sets this class's attributes by name. The program gives reconstructions, not latents: here a "latent"
    is all voxels of its place, so that encoding loses nothing and decoding is the program's whole work.

    Attributes:
        command: what to start; empty: the interpreter and the script that the environment variables of the row name.
    """

    def __init__(self, row: CodecRow, network: Any = None, weights: list[dict[str, str]] | None = None) -> None:
        super().__init__(row, network, weights)
        for name, value in row.config.items():
            setattr(self, name, value)
        self.stride_zyx = row.stride_zyx
        self.command: list[str] = []
        self.hello_s, self.patience_s = HELLO_S, PATIENCE_S
        self._program: Program | None = None
        self._cancel: Cancel | None = None
        self._numbers = itertools.count(1)

    def close(self) -> None:
        """End the program; the next slab starts it again."""
        if self._program is not None:
            self._program.close()

    def plan(self, shape_zyx: tuple[int, int, int], memory: int | None = None) -> SlabPlan:
        """As every codec's; in float32 only, for what the program computes in is its own affair.

        Raises:
            InputError: another number format was asked for.
            OutOfMemory: not even the smallest slab fits.
        """
        if self.dtype != torch.float32:
            raise InputError(
                f"Codec '{self.row.name}' takes float32 only: its script chooses how to compute. Use --dtype float32."
            )
        return super().plan(shape_zyx, memory)

    def reconstruct_hu(
        self,
        hu_ZYX: np.ndarray,
        window: Window,
        *,
        memory: int | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
        clamp_channels_first: bool = False,
    ) -> np.ndarray:
        """As every codec's; ``cancel`` is asked while the program works, too, and ends it.

        Raises:
            Cancelled: ``cancel`` answered True.
            OutOfMemory: the program says that its device gave out.
            CTGenError: the program failed.
            WeightsError: the environment does not name a program.
        """
        self._cancel = cancel
        try:
            return super().reconstruct_hu(
                hu_ZYX,
                window,
                memory=memory,
                progress=progress,
                cancel=cancel,
                clamp_channels_first=clamp_channels_first,
            )
        except Cancelled:
            self.close()
            raise
        finally:
            self._cancel = None

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        k, i, j = self.stride_zyx
        blocks = x_BCZYX.unflatten(4, (-1, j)).unflatten(3, (-1, i)).unflatten(2, (-1, k))  # B C z k y i x j
        return blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(1, 4)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        blocks = z_BCZYX.unflatten(1, (self.channels, *self.stride_zyx))  # B C k i j z y x
        x = blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return torch.from_numpy(self._answer(x.cpu().numpy())).to(x)

    def _answer(self, x_BCZYX: np.ndarray) -> np.ndarray:
        program = self._running()
        given, gotten = program.folder / "input.npy", program.folder / "output.npy"
        np.save(given, x_BCZYX)
        gotten.unlink(missing_ok=True)
        number = f"S{next(self._numbers)}"
        program.tell(
            {
                "op": "run",
                "id": number,
                "task": "reconstruct",
                "input": str(given),
                "output": str(gotten),
                "options": {"device": str(self.device)},
            }
        )
        event = program.wait_for("result", self.patience_s, self._cancel)
        try:
            if event.get("id") != number:
                raise program.trouble(f"answered {event.get('id')!r} when asked for {number!r}")
            return _read(program, gotten, x_BCZYX.shape)
        except BaseException:
            program.close()
            raise

    def _running(self) -> Program:
        if self._program is None or not self._program.alive:
            self.close()
            if not self.command:
                hub.locate(self.row.name)
            command = self.command or [os.environ[name] for name in self.row.program]
            self._program = Program(self.row.name, command)
            hello = self._program.wait_for("hello", self.hello_s, self._cancel)
            if hello.get("protocol") != PROTOCOL:
                self._program.close()
                raise self._program.trouble(f"speaks protocol {hello.get('protocol')!r}; this is {PROTOCOL}")
            scripts = [path for path in map(Path, command[1:]) if path.is_file()]
            self.weights = [{"name": p.name, "sha256": hub.sha256(p), "license": self.row.license} for p in scripts]
        return self._program


def _read(program: Program, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """What the program made, float32.

    Raises:
        CTGenError: it is not what it should be.
    """
    try:
        y = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise program.trouble(f"said that it was done, but its {path.name} cannot be read ({error})") from None
    if not isinstance(y, np.ndarray) or y.shape != shape or y.dtype.kind != "f":
        found = f"{y.dtype} of shape {y.shape}" if isinstance(y, np.ndarray) else "several arrays"
        raise program.trouble(f"gave {found}; expected float32 of shape {shape}")
    if not np.isfinite(y).all():
        raise program.trouble("gave numbers that are not finite")
    return y.astype(np.float32, copy=False)


# These hold no reference to a Program, so that one that is forgotten ends.


def _thread(function: Any, *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _pass_on(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _keep(stream: IO[str], tail: deque[str]) -> None:
    with stream:
        for line in stream:
            tail.append(line.rstrip())


def _end(process: subprocess.Popen[str], folder: tempfile.TemporaryDirectory[str]) -> None:
    process.kill()
    process.wait()
    with suppress(OSError):
        process.stdin.close()  # type: ignore[union-attr]
    folder.cleanup()
