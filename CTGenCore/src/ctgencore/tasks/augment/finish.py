"""What describes a finished data set: dataset.json or a table, folds, and which choice was drawn for what."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

from ... import __version__, io
from ..evaluate_cache import written
from .layout import common_ending, usable_cases
from .model import DataSet
from .options import AugmentOptions
from .splits import FILE, carry_splits, make_splits

Result = Mapping[str, Any]  # of ctgencore.tasks.augment.case.augment_case


def finish(dataset: DataSet, options: AugmentOptions, output: Path, results: Sequence[Result]) -> dict[str, Any]:
    """Write what describes the finished cases; each file whole or not at all.

    Args:
        dataset: what was augmented.
        options: see :class:`AugmentOptions`.
        output: folder of the result.
        results: of the finished cases, in any order.

    Returns:
        ``cases``, ``views`` (how many were made) and ``notes`` (what a person should know).

    Raises:
        InputError: the source's folds cannot be read.
    """
    results = sorted(results, key=lambda result: result["name"])
    labels, notes = _labels(dataset, options.layout, results)
    train = {r["name"]: [e["name"] for e in r["entries"]] for r in results if r["split"] == "train"}
    patients = {case.name: case.patient for case in dataset.cases}
    carried = carry_splits(dataset.root, train, patients)
    folds, more = carried if carried is not None else (make_splits(train, patients, options.folds, options.seed), [])
    notes += more
    if carried is None and len(folds) < options.folds:
        count = len({patients[case] for case in train})
        notes.append(f"{options.folds} folds were asked for; of {count} patients {len(folds) or 'none'} can be made.")
    if options.mode == "replace":
        notes.append("The originals of the training cases are not in it; validation is on reconstructions, too.")
    shown = _shown_patients(dataset)
    content = _dataset_json(dataset, options, output, results, labels)
    if content is not None:
        _write(output / "dataset.json", _json(content))
    else:
        _write(output / "cases.csv", _table(results, len(dataset.channels), shown))
        names = {str(value): name for name, value in labels.items() if isinstance(value, int) and value}
        _write(output / "labels.json", _json(names))
    if folds:
        _write(output / FILE, _json(folds))
    notes += _strays(output, options.layout, results)
    own = sum(1 for result in results if result["notes"])
    if own:
        notes.append(f"{own} of {len(results)} cases have notes of their own in ctgen.json.")
    views = sum(1 for result in results for entry in result["entries"] if entry["view"])
    cases = [
        {
            "case": result["name"],
            "patient": shown[result["name"]],
            "split": result["split"],
            "sources": result["sources"],
            "entries": [{key: entry[key] for key in ("name", "view", "choice")} for entry in result["entries"]],
            "notes": result["notes"],
        }
        for result in results
    ]
    facts = {"version": 1, "ctgencore_version": __version__, "options": _shared(options), "cases": cases}
    _write(output / "ctgen.json", _json({**facts, "notes": notes}))
    return {"cases": len(results), "views": views, "notes": notes}


def _shared(options: AugmentOptions) -> dict[str, Any]:
    """Options without what depends on the machine or names patients."""
    return {**asdict(options.of_volumes()), "folds": options.folds}


def _shown_patients(dataset: DataSet) -> dict[str, str]:
    """Case to patient as the result may show it: what file names say anyway, else a number (headers name people)."""
    numbers = {patient: n for n, patient in enumerate(sorted({case.patient for case in dataset.cases}), 1)}
    shown = {}
    for case in dataset.cases:
        told = [
            case.name,
            *(str(path.relative_to(dataset.root)) for path in case.images if path.is_relative_to(dataset.root)),
        ]
        open_ = dataset.kind == "manifest" or any(case.patient in text for text in told)
        shown[case.name] = case.patient if open_ else f"patient_{numbers[case.patient]:04d}"
    return shown


def _labels(dataset: DataSet, layout: str, results: Sequence[Result]) -> tuple[dict[str, Any], list[str]]:
    """The labels with a name for every value that occurs, for nnU-Net without gaps, and notes where names were made."""
    labels, notes = dict(dataset.labels) or {"background": 0}, []
    named = {n for value in labels.values() for n in (value if isinstance(value, list) else [value])}
    unnamed = sorted({value for result in results for value in result["values"]} - named)
    if unnamed:
        cases = sorted(result["name"] for result in results if set(result["values"]) - named)
        values = ", ".join(map(str, unnamed))
        notes.append(f"Label values without a name were called label_N: {values} (in {_some(cases)}).")
    known = named | set(unnamed)
    unused = sorted(set(range(max(known))) - known) if layout == "nnunet" else []
    if unused:
        notes.append(
            f"nnU-Net wants label values without gaps, and labels are never rewritten: {len(unused)} values that no "
            "case has were called unused_N. Renumber the labels to train without them."
        )
    labels |= {f"label_{value}": value for value in unnamed} | {f"unused_{value}": value for value in unused}
    return labels, notes


def _dataset_json(
    dataset: DataSet, options: AugmentOptions, output: Path, results: Sequence[Result], labels: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The description as nnU-Net or MSD has it; None in other layouts."""
    channels = {str(n): name for n, name in enumerate(dataset.channels)}
    entries = [entry for result in results if result["split"] == "train" for entry in result["entries"]]
    tests = [entry for result in results if result["split"] == "test" for entry in result["entries"]]
    facts = {"name": output.name.partition("_")[2] or output.name, **dataset.facts}
    ctgen = {
        "ctgen": {
            "views": [view.to_dict() for view in options.plan()],
            "mode": options.mode,
            "seed": options.seed,
            "version": __version__,
        }
    }
    if options.layout == "nnunet":
        own = {
            "channel_names": channels,
            "labels": labels,
            "numTraining": len(entries),
            "file_ending": common_ending(usable_cases(dataset), options.layout),
        }
        return {**facts, **own, **ctgen}
    if options.layout == "msd":
        return {
            **facts,
            "tensorImageSize": "3D",
            "modality": channels,
            "labels": {str(value): name for name, value in sorted(labels.items(), key=lambda item: item[1])},
            "numTraining": len(entries),
            "numTest": len(tests),
            "training": [{"image": f"./{e['images'][0]}", "label": f"./{e['label']}"} for e in entries],
            "test": [f"./{e['images'][0]}" for e in tests],
            **ctgen,
        }
    return None


def _table(results: Sequence[Result], channels: int, patients: Mapping[str, str]) -> str:
    """Every entry with its files, as CSV: a manifest."""
    pictures = ["image"] if channels == 1 else [f"image_{n:04d}" for n in range(channels)]
    stream = StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "view", "patient", *pictures, "label", "split"])
    for result in results:
        for e in result["entries"]:
            patient = patients[result["name"]]
            writer.writerow([e["name"], e["view"], patient, *e["images"], e["label"] or "", result["split"]])
    return stream.getvalue()


def _strays(output: Path, layout: str, results: Sequence[Result]) -> list[str]:
    """A note on files that belong to no finished case: what trains on the folder would take them up."""
    entries = [entry for result in results for entry in result["entries"]]
    known = {name for e in entries for name in (*e["images"], *([e["label"]] if e["label"] else []))}
    known |= {str(Path(name).with_name(io.sidecar_path(name).name)) for name in known}
    folders = {Path(name).parent for name in known} if layout != "dicom" else set()
    found = sorted(
        path.relative_to(output).as_posix()
        for folder in folders
        for path in (output / folder).iterdir()
        if not path.name.startswith(".")
    )
    strays = [name for name in found if name not in known]
    if not strays:
        return []
    return [f"Files that belong to no finished case lie in it; remove them before you train: {_some(strays)}."]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"


def _write(path: Path, text: str) -> None:
    with written(path) as temporary:
        temporary.write_bytes(text.encode())
