"""Folds for cross-validation in which all that is of one patient stays together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError

Fold = dict[str, list[str]]  # "train" and "val" to names
FILE = "splits_final.json"


def make_splits(names: Mapping[str, Sequence[str]], patients: Mapping[str, str], folds: int, seed: int) -> list[Fold]:
    """Deal patients into folds of about equal size.

    Args:
        names: case to its names in the result (the original's, where it is kept, and those of its views).
        patients: case to patient.
        folds: how many; of fewer patients as many as there are.
        seed: of the order.

    Returns:
        nnU-Net's form: for each fold the names to train on and to validate on; empty for a single patient.
    """
    owned: dict[str, list[str]] = {}
    for case in sorted(names):
        owned.setdefault(patients[case], []).extend(names[case])
    if len(owned) < 2:
        return []
    parts: list[list[str]] = [[] for _ in range(min(folds, len(owned)))]
    order = [sorted(owned)[n] for n in np.random.default_rng(seed).permutation(len(owned))]
    for patient in sorted(order, key=lambda one: -len(owned[one])):  # the largest first, so that folds come out even
        min(parts, key=len).extend(owned[patient])
    everything = {name for part in parts for name in part}
    return [{"train": sorted(everything - set(part)), "val": sorted(part)} for part in parts]


def carry_splits(
    root: Path, names: Mapping[str, Sequence[str]], patients: Mapping[str, str]
) -> tuple[list[Fold], list[str]] | None:
    """The source's own folds with its cases' new names, and what is to be said about them; None where it has none.

    Raises:
        InputError: the file is there and is not a list of folds.
    """
    path = root / FILE
    if not path.is_file():
        return None
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        given = [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in content]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is not a list of folds with 'train' and 'val' ({error!r}). Correct or remove it."
        ) from None
    notes = [f"The folds are those of the source's {FILE}."]
    for number, fold in enumerate(given):
        both = {patients[c] for c in fold["train"] if c in names} & {patients[c] for c in fold["val"] if c in names}
        if both:
            cases = sorted(c for part in fold.values() for c in part if c in names and patients[c] in both)
            notes.append(
                f"Fold {number} of the source has patients on both sides, and so has this one: {', '.join(cases)}."
            )
    left = sorted(set(names) - {case for fold in given for part in fold.values() for case in part})
    if left:
        notes.append(f"The source's {FILE} does not know these cases, so no fold has them: {', '.join(left)}.")
    folds = [{part: sorted(n for c in fold[part] for n in names.get(c, ())) for part in fold} for fold in given]
    return folds, notes
