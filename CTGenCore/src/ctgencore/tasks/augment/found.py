"""What a layout's reader hands over: cases as their folder names them, before any header is read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...io import FORMATS
from .model import Case, Problem

_FORBIDDEN = re.compile(r'[/\\:*?"<>|\x00-\x1f]|^[.\s]|[.\s]$|^$')


@dataclass(kw_only=True, slots=True)
class Found:
    """Cases of a layout.

    Attributes:
        kind: as :attr:`ctgencore.tasks.augment.model.DataSet.kind`.
        cases: their ``patient`` is empty where the layout does not say.
        channels: names.
        labels: as nnU-Net has them; None where the label files themselves, or tables beside them, have the names.
        facts: entries of ``dataset.json`` to hand on.
        problems: what the layout alone shows.
    """

    kind: str
    cases: list[Case] = field(default_factory=list)
    channels: tuple[str, ...] = ("CT",)
    labels: dict[str, Any] | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def problem(self, case: str, message: str, *, fatal: bool = True) -> None:
        """Take something down."""
        self.problems.append(Problem(case=case, message=message, fatal=fatal))


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, sorted, without hidden files (MSD's archives hold some of another system)."""
    return sorted(path for path in folder.iterdir() if not path.name.startswith(".")) if folder.is_dir() else []


def is_volume(path: Path) -> bool:
    """Whether a name is that of a volume or label file."""
    return path.name.lower().endswith(FORMATS)


def stem_of(path: Path) -> str:
    """File name without the suffix of a volume format, or a folder's name."""
    suffix = next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), "")
    return path.name[: len(path.name) - len(suffix)]


def why_not_name(name: str) -> str:
    """Why a case cannot be called this, or an empty text."""
    if "__" in name:
        return f"The name {name!r} must not hold two underscores in a row: views are named so."
    return f"The name {name!r} is not fit for a file on every system." if _FORBIDDEN.search(name) else ""
