"""The published lists: CT-RATE tables (CSV) and ReXGroundingCT's findings (JSON lines), with the files they name.

Foundation VAE, released data lists. Findings of one volume stand on lines of their own and are merged. CT-RATE's files
called ``_fixed`` hold HU already: the slope and intercept of its metadata table are left alone unless asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import io
from ..errors import InputError
from ..io.channels import read_channels
from ..labels import DISEASES
from ..text.prompts import PromptFormat, prompt
from ..volume import LabelMap
from .readers import Sample, check_grids, check_hu, file_hash, file_stem, read_table

_NAME = re.compile(r"(train|valid)_(\d+)_([a-z]+)_\d+")
_TABLES = {  # column that tells a table -> columns for name, findings and impression
    "Findings_EN": ("VolumeName", "Findings_EN", "Impressions_EN"),
    "Text_prompts": ("Names", "Text_prompts", ""),
}
_RESCALE = ("VolumeName", "RescaleSlope", "RescaleIntercept")


@dataclass(kw_only=True)
class Case:
    """A volume of the lists, with all the lines about it.

    Attributes:
        volume, organs: files; no organ mask for None.
        masks: file of disease masks, channel in it (None: the only one) and class id, in the order of painting.
        sentences: one per finding of a diseased volume.
        text: the report of a volume without findings of its own.
    """

    volume: Path
    organs: Path | None = None
    masks: list[tuple[Path, int | None, int]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    text: str = ""


class ListReader:
    """Volumes of CT-RATE and ReXGroundingCT.

    Args:
        lists: CSV reports (``VolumeName, Findings_EN, Impressions_EN``), CSV prompts (``Names, Text_prompts``), CSV
            metadata (``VolumeName, RescaleSlope, RescaleIntercept``) and JSON lines, in any mixture.
        root: folder with ``dataset``, ``organ_mask_whole`` and ``seg_rxg``, in which files are looked for that are not
            where a list says; the lists' own folders by default.
        style: of prompts with several findings.
        apply_rescale: multiply by the metadata's slope and add its intercept.

    Raises:
        InputError: a list of unknown form, a wrong line, or a file that is not there.
    """

    def __init__(
        self, lists: Sequence[Path], root: Path | None, style: PromptFormat, *, apply_rescale: bool = False
    ) -> None:
        self.style, self.apply_rescale = style, apply_rescale
        self.rescale: dict[str, tuple[float, float]] = {}
        cases: dict[tuple[Path, Path | None], Case] = {}
        for path in lists:
            where = [path.parent, *([root] if root is not None else [])]
            found = self._table(path, where) if path.suffix == ".csv" else _json_lines(path, where)
            for case in found:
                known = cases.setdefault((case.volume, case.organs), case)
                if known is not case:
                    known.masks += case.masks
                    known.sentences += case.sentences
                    known.text = known.text or case.text
        self.cases = list(cases.values())
        if not self.cases:
            raise InputError(f"There is no volume in {', '.join(map(str, lists))}.")
        names = [file_stem(case.volume) for case in self.cases]
        self.names = [name if names.count(name) == 1 else f"{name}.{i}" for i, name in enumerate(names)]
        missing = [name for name, case in zip(names, self.cases, strict=True) if name not in self.rescale]
        if apply_rescale and missing:
            raise InputError(
                f"To apply slope and intercept, a metadata table must hold each volume; {missing[0]} is not in one. "
                "Give the table with --data, or leave --apply-rescale off."
            )

    def __len__(self) -> int:
        return len(self.cases)

    def name(self, index: int) -> str:
        """File name without suffix."""
        return self.names[index]

    def patient(self, index: int) -> str:
        """``train_428`` of ``train_428_a_2``; other names are patients of their own."""
        match = _NAME.fullmatch(file_stem(self.cases[index].volume))
        return f"{match[1]}_{match[2]}" if match else self.name(index)

    def fingerprint(self, index: int) -> str:
        """Of the files' content, the report, the classes and the rescaling."""
        case = self.cases[index]
        facts = (self._report(case), repr([mask[1:] for mask in case.masks]), repr(self._rescaling(case)))
        return file_hash((case.volume, case.organs, *dict.fromkeys(mask[0] for mask in case.masks)), *facts)

    def load(self, index: int) -> Sample:
        """Read, paint the diseases in order, and check."""
        case = self.cases[index]
        ct = io.read(case.volume)
        slope, intercept = self._rescaling(case)
        if self.apply_rescale:
            ct = ct.with_voxels(ct.voxels * slope + intercept)
        diseases = np.zeros(ct.shape, dtype=np.uint8)
        read: dict[Path, np.ndarray] = {}
        for path, channel, class_id in case.masks:
            if path not in read:
                read[path] = read_channels(path)
            diseases[_channel(read[path], channel, path, ct.shape)] = class_id
        sample = Sample(
            name=self.name(index),
            ct=ct,
            organs=io.read_labels(case.organs) if case.organs is not None else None,
            diseases=LabelMap(diseases, ct.geometry) if case.masks else None,
            report=self._report(case),
        )
        check_hu(sample)
        return check_grids(sample)

    def _report(self, case: Case) -> str:
        return prompt(case.sentences, self.style) if case.sentences else prompt(case.text, "plain")

    def _rescaling(self, case: Case) -> tuple[float, float]:
        return self.rescale[file_stem(case.volume)] if self.apply_rescale else (1.0, 0.0)

    def _table(self, path: Path, where: Sequence[Path]) -> list[Case]:
        rows = read_table(path, ())
        columns = set(rows[0]) if rows else set()
        if set(_RESCALE) <= columns:
            for row in rows:
                self.rescale[file_stem(Path(row["VolumeName"]))] = (
                    float(row["RescaleSlope"]),
                    float(row["RescaleIntercept"]),
                )
            return []
        for key, (name, findings, impression) in _TABLES.items():
            if {key, name} <= columns:
                texts = [(row[name], row[findings], row.get(impression, "")) for row in rows]
                return [
                    Case(
                        volume=_find(volume, where, "dataset"),
                        organs=_find(volume, where, "organ_mask_whole"),
                        text=" ".join(filter(None, words)),
                    )
                    for volume, *words in texts
                ]
        raise InputError(
            f"{path} is a table of unknown form (columns {', '.join(sorted(columns)) or 'none'}). Known: "
            "VolumeName, Findings_EN, Impressions_EN; Names, Text_prompts; VolumeName, RescaleSlope, RescaleIntercept."
        )


def _json_lines(path: Path, where: Sequence[Path]) -> list[Case]:
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            cases.append(_case(row, where))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path}, line {number}: every line is a JSON object with volume_path and organ_mask, and for a "
                "finding disease_mask, disease_mask_channel, disease_class and disease_findings; here: "
                f"{error!r}. Correct the line."
            ) from None
    return cases


def _case(row: dict[str, Any], where: Sequence[Path]) -> Case:
    case = Case(
        volume=_find(row["volume_path"], where, "dataset"), organs=_find(row["organ_mask"], where, "organ_mask_whole")
    )
    if row.get("disease_mask"):
        file = _find(row["disease_mask"], where, "seg_rxg")
        if "disease_mask_channel" in row:
            case.masks.append((file, int(row["disease_mask_channel"]), _class(row["disease_class"])))
            case.sentences.append(row["disease_findings"])
        else:
            case.masks += [(file, channel, _class(c)) for channel, c in enumerate(row.get("disease_class", []))]
    case.text = row.get("findings", "")  # the published healthy training reads the findings only
    return case


def _class(value: Any) -> int:
    if int(value) not in DISEASES:
        raise InputError(
            f"A disease class is one of {min(DISEASES)} to {max(DISEASES)}; got {value}. Correct the list."
        )
    return int(value)


def _channel(masks_CZYX: np.ndarray, channel: int | None, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    if masks_CZYX.shape[1:] != shape:
        raise InputError(
            f"{path.name}: masks of {masks_CZYX.shape[1:]} (Z, Y, X) for a CT of {shape}; sizes must agree."
        )
    if channel is not None and not 0 <= channel < len(masks_CZYX):
        raise InputError(f"{path.name} has channels 0 to {len(masks_CZYX) - 1}; the list asks for {channel}.")
    return masks_CZYX[channel or 0]


def _find(written: str, where: Sequence[Path], kind: str) -> Path:
    """The file a list means: as written, below one of the folders, or in the published layout below one of them."""
    name = Path(written).name
    tails = [Path(written), Path(name)]
    match = _NAME.fullmatch(file_stem(Path(name)))
    if match:
        split, number, scan = match.groups()
        patient = f"{split}_{number}"
        tails += {
            "dataset": [Path("dataset", f"{split}_fixed", patient, f"{patient}_{scan}", name)],
            "organ_mask_whole": [Path("organ_mask_whole", split, name)],
            "seg_rxg": [Path("seg_rxg", name)],
        }[kind]
    for folder in where:
        for tail in tails:
            if tail.name and (folder / tail).is_file() and not (kind != "dataset" and tail == Path(name)):
                return folder / tail
    raise InputError(
        f"{written} is not there, nor in the published layout below {', '.join(map(str, where))}. Name the folder that "
        "holds dataset, organ_mask_whole and seg_rxg with --root, or take the line out of the list."
    )
