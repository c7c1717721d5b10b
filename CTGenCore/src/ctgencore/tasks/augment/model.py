"""What a data set for segmentation is, whatever its layout on disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One study of one patient: its channels and its labels, on one grid.

    Attributes:
        name: unique in the data set, fit for a file name, without ``__``.
        patient: whose it is; views and cases of a patient never part.
        images: one volume file or DICOM folder for each channel of the data set.
        label: label file (also DICOM SEG), or None.
        split: ``train`` or ``test``; test cases are never augmented.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None = None
    split: str = "train"


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """Something amiss that a person should see before a run.

    Attributes:
        case: its name, or empty for the whole data set.
        message: what, and what to do about it.
        fatal: True where this case (or the data set) cannot be used as it is.
    """

    case: str
    message: str
    fatal: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSet:
    """What was recognized at a path.

    Attributes:
        root: the folder, or the manifest's.
        kind: ``nnunet``, ``msd``, ``manifest``, ``bids`` or ``pairs``.
        cases: sorted by name.
        channels: names, such as ``("CT",)`` or ``("CT", "PET")``.
        labels: name to value as in nnU-Net's ``dataset.json`` (a region's value is a list), ``background`` first.
        facts: entries of ``dataset.json`` that are handed on as they are (licence, reference, description, ...).
        problems: what is amiss.
    """

    root: Path
    kind: str
    cases: tuple[Case, ...]
    channels: tuple[str, ...] = ("CT",)
    labels: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def ct_channels(self) -> tuple[int, ...]:
        """Indices of the channels that are CT, by their names; the only channel is CT whatever its name."""
        if len(self.channels) == 1:
            return (0,)
        return tuple(n for n, name in enumerate(self.channels) if "CT" in name.upper().replace("-", " ").split())
