"""A unit of work as plain data, and what became of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WHERE = ("device", "threads")  # options that say where to compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """Something to do once, that any process of ours can do.

    Attributes:
        name: for people: a case's name.
        call: what does it: a key of :data:`ctgencore.cluster.perform.CALLS`.
        payload: its arguments as JSON has them.
        inputs: files and folders that it reads.
    """

    name: str
    call: str
    payload: dict[str, Any]
    inputs: tuple[Path, ...] = ()

    @property
    def key(self) -> str:
        """Hash (32 hex digits) of what is to be done, not of where; units with equal keys are the same work."""
        options = {name: value for name, value in self.payload.get("options", {}).items() if name not in WHERE}
        canonical = json.dumps([self.call, {**self.payload, "options": options}], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """A unit that could not be done.

    Attributes:
        unit: which.
        code: of the error, such as ``input`` or ``memory``.
        message: for people.
        attempts: how often it was tried.
    """

    unit: Unit
    code: str
    message: str
    attempts: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """How a run over units ended.

    Attributes:
        done: units that are finished, now or by an earlier run, in the order given.
        skipped: how many of those an earlier run had finished.
        failed: those that could not be done.
        left: units of other shards that nobody has finished yet.
        results: key to what the call returned (JSON), of every unit in ``done``.
    """

    done: tuple[Unit, ...] = ()
    skipped: int = 0
    failed: tuple[Failed, ...] = ()
    left: tuple[Unit, ...] = ()
    results: dict[str, Any] = field(default_factory=dict)
