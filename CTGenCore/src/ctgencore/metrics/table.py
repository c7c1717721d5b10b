"""Every metric by name. Each measuring module holds its own rows; needs no torch."""

from __future__ import annotations

from types import ModuleType

from . import adherence, consistency, extractors, overlap, realism, semantics, surface, texture, voxel
from .base import Extractor, Metric

_MODULES: tuple[ModuleType, ...] = (
    adherence,
    consistency,
    extractors,
    overlap,
    realism,
    semantics,
    surface,
    texture,
    voxel,
)

METRICS: dict[str, Metric] = {row.name: row for module in _MODULES for row in getattr(module, "METRICS", ())}
EXTRACTORS: dict[str, Extractor] = {row.name: row for module in _MODULES for row in getattr(module, "EXTRACTORS", ())}
