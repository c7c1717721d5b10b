"""Organ, disease and finding labels: tables, other people's numberings, segment names, checks, the body envelope.

The tables and names need no numpy; what works on voxels is loaded when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .naming import Suggestion, suggest, why_not
from .tables import (
    AIRWAY,
    BODY,
    DISEASES,
    FINDINGS,
    LUNG_LOBES,
    MAP_OFFSET,
    ORGANS,
    TRACHEA,
    VESSEL,
    Disease,
    Finding,
    Organ,
    name_of,
    opposite,
)
from .terminology import terminology_for

if TYPE_CHECKING:
    from .body import body_from_ct, body_from_labels, with_body
    from .combine import merge, paint, split
    from .schemes import SCHEMES, Conversion, convert
    from .validate import Problem, check

_HOMES = {
    "Conversion": "schemes",
    "Problem": "validate",
    "SCHEMES": "schemes",
    "body_from_ct": "body",
    "body_from_labels": "body",
    "check": "validate",
    "convert": "schemes",
    "merge": "combine",
    "paint": "combine",
    "split": "combine",
    "with_body": "body",
}

__all__ = [
    "AIRWAY",
    "BODY",
    "DISEASES",
    "FINDINGS",
    "LUNG_LOBES",
    "MAP_OFFSET",
    "ORGANS",
    "SCHEMES",
    "TRACHEA",
    "VESSEL",
    "Conversion",
    "Disease",
    "Finding",
    "Organ",
    "Problem",
    "Suggestion",
    "body_from_ct",
    "body_from_labels",
    "check",
    "convert",
    "merge",
    "name_of",
    "opposite",
    "paint",
    "split",
    "suggest",
    "terminology_for",
    "why_not",
    "with_body",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ctgencore.labels' has no attribute '{name}'; public names: {', '.join(__all__)}")
    value = getattr(import_module(f".{_HOMES[name]}", __name__), name)
    globals()[name] = value
    return value
