"""What a run over units keeps in its state folder: markers of finished units, a log, who is at work, a wish to pause.

A marker is written after a unit's outputs, by the process that made them, so that a kill at any moment leaves either
both or work to do again. All files appear complete or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import __version__
from ..tasks.evaluate_cache import written
from .work import Unit

VERSION = 1  # of markers
PAUSE = "pause"
STALE_S = 86_400.0  # a temporary file of another machine that is older has no process any more
_TEMPORARY = re.compile(r"\.ctgen-(\d+)-")  # how io and all that write atomically call theirs
_CHUNK = 1 << 20


class State:
    """A state folder; several processes, on several machines, may share it.

    Args:
        folder: is made if it is not there.
        log: name of the log file; processes that do not know of each other need their own.
    """

    def __init__(self, folder: Path, log: str = "log.jsonl") -> None:
        self.folder, self._log = folder, folder / log
        self._done, self._running = folder / "done", folder / "running"
        for each in (self._done, self._running):
            each.mkdir(parents=True, exist_ok=True)

    @property
    def paused(self) -> bool:
        """Whether somebody asks that no new unit begins: a file named ``pause`` is there."""
        return (self.folder / PAUSE).exists()

    def result(self, unit: Unit) -> dict[str, Any] | None:
        """What the unit returned when it was done; None when it is still to do.

        It is done when its marker is there, its inputs are as they were (same size and time, else same content) and
        its outputs are there with their sizes.
        """
        try:
            marker = json.loads(self._marker(unit).read_text(encoding="utf-8"))
            if marker["version"] != VERSION or [each["path"] for each in marker["inputs"]] != _texts(unit.inputs):
                return None
            for each in marker["outputs"]:
                if Path(each["path"]).stat().st_size != each["size"]:
                    return None
            return marker["result"] if all(map(_is_unchanged, marker["inputs"])) else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not ours
            return None

    def finish(self, unit: Unit, inputs: list[dict[str, Any]], outputs: Iterable[Path], result: dict[str, Any]) -> None:
        """Write the marker.

        Args:
            unit: what is done.
            inputs: :func:`fingerprints` of its inputs, taken before it began.
            outputs: its files.
            result: what it returned.

        Raises:
            OSError: an input changed meanwhile, an output is not there, or the disk refused.
        """
        for before in inputs:
            if _look(Path(before["path"])) != {key: before[key] for key in ("path", "size", "mtime_ns")}:
                raise OSError(f"{before['path']} changed while it was read")
        marker = {
            "version": VERSION,
            "name": unit.name,
            "call": unit.call,
            "ctgencore_version": __version__,
            "inputs": inputs,
            "outputs": [{"path": str(path), "size": path.stat().st_size} for path in outputs],
            "result": result,
        }
        with written(self._marker(unit)) as temporary:
            temporary.write_text(json.dumps(marker, indent=1, allow_nan=False) + "\n", encoding="utf-8")

    def log(self, **facts: Any) -> None:
        """Append a line to the log: UTC time and what happened."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with self._log.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"utc": now, **facts}) + "\n")

    @contextmanager
    def at_work(self, folders: Iterable[Path], trees: Iterable[Path]) -> Iterator[None]:
        """While this process works: say so, and first remove what dead processes left half-written.

        Args:
            folders: where outputs are written.
            trees: folders where outputs are written anywhere below.
        """
        self._sweep(folders, trees)
        entry = self._running / f"{socket.gethostname()}@{os.getpid()}"
        entry.touch()
        try:
            yield
        finally:
            entry.unlink(missing_ok=True)

    def _sweep(self, folders: Iterable[Path], trees: Iterable[Path]) -> None:
        """Remove temporaries of processes that said they were at work here and are dead.

        Of those on other machines only the age tells. Temporaries of processes that never signed in are left alone.
        """
        host = socket.gethostname()
        dead: dict[int, Path] = {}
        far: set[int] = set()
        for entry in self._running.iterdir():
            where, _, pid = entry.name.rpartition("@")
            if where != host:
                far.add(int(pid))
            elif not _is_alive(int(pid)):
                dead[int(pid)] = entry
        if not dead and not far:
            return
        below = (Path(here) for tree in trees for here, _, _ in os.walk(tree))
        for folder in {path.resolve() for path in (*folders, *below, self._done)}:
            for path in list(folder.iterdir()) if folder.is_dir() else ():  # one may be a temporary itself
                match = _TEMPORARY.match(path.name)
                if match and (_is_old(path) if int(match[1]) in far else int(match[1]) in dead):
                    _remove(path)
        for entry in dead.values():
            entry.unlink(missing_ok=True)

    def _marker(self, unit: Unit) -> Path:
        return self._done / f"{unit.key}.json"


def fingerprints(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """Path, size, time and sha256 of each file or folder; hidden files do not count.

    A folder's size is the sum over its files, its time the latest of any, its hash one over sorted names, sizes and
    hashes.

    Raises:
        OSError: one cannot be read.
    """
    return [{**_look(path), "sha256": _sha256(path)} for path in paths]


def _is_unchanged(before: dict[str, Any]) -> bool:
    path = Path(before["path"])
    now = _look(path)
    if now["size"] != before["size"]:
        return False
    return now["mtime_ns"] == before["mtime_ns"] or _sha256(path) == before["sha256"]


def _look(path: Path) -> dict[str, Any]:
    """Path, size and time of last change."""
    stats = [path.stat(), *(each.stat() for each in _below(path))]
    size = sum(each.st_size for each in stats if not stat.S_ISDIR(each.st_mode))
    return {"path": str(path), "size": size, "mtime_ns": max(each.st_mtime_ns for each in stats)}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    if path.is_dir():
        for each in _below(path):
            if each.is_file():
                name = each.relative_to(path).as_posix()
                digest.update(f"{name}\0{each.stat().st_size}\0{_sha256(each)}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _below(path: Path) -> list[Path]:
    """All files and folders below a folder, sorted; empty for a file."""
    found = []
    for here, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(here) / name for name in (*folders, *names) if not name.startswith(".")]
    return sorted(found)


def _is_old(path: Path) -> bool:
    try:
        return time.time() - path.stat().st_mtime > STALE_S
    except OSError:  # gone meanwhile
        return False


def _texts(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]


def _is_alive(pid: int) -> bool:
    """Whether another process has this number; a zombie is dead, and one's own number was another's before."""
    import psutil  # accelerate depends on it

    try:
        return pid != os.getpid() and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
