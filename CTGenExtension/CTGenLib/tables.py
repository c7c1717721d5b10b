"""Columns of table nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import vtk

DIGITS = 5  # of numbers in tables; the engine's files have all


def number(value: float | str | None) -> float:
    """A number of the engine's JSON: null is nan, infinities are text."""
    return math.nan if value is None else float(value)


def addTexts(node, name: str, title: str, values: Sequence[str]) -> None:
    """Add a column of text."""
    _add(node, vtk.vtkStringArray(), name, title, values)


def addNumbers(node, name: str, title: str, values: Sequence[float | str | None]) -> None:
    """Add a column of numbers."""
    rounded = [float(f"{number(value):.{DIGITS}g}") for value in values]
    _add(node, vtk.vtkDoubleArray(), name, title, rounded)


def _add(node, column, name: str, title: str, values: Sequence) -> None:
    column.SetName(name)
    for value in values:
        column.InsertNextValue(value)
    node.AddColumn(column)
    node.SetColumnTitle(name, title)
