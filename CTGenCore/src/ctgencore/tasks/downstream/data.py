"""What a study learns from and is tested on: phantoms, folders, lists, MSD; findings, targets, patient-safe splits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from ... import io, phantom
from ...diffusion.conditions import AIR_HU
from ...errors import InputError
from ...labels import FINDINGS
from ...text.prompts import prompt
from ...training.ctrate import ListReader
from ...training.readers import (
    TABLE_HU,
    TEST_SEEDS,
    FolderReader,
    JoinedReader,
    Reader,
    Sample,
    check_hu,
    file_hash,
    file_stem,
    read_table,
)
from ...volume import LabelMap
from .options import ClassifyOptions, StudyOptions

TRAINING_SEEDS, CONDITION_SEEDS = 700_000, 750_000  # of phantoms; the embedded generator has seen neither
PHANTOM_ZYX, PHANTOM_MM = (48, 128, 128), (2.8, 2.8, 5.0)
FINDING_RATE = 0.25  # chance of each finding; 0.12 to 0.6 in the paper's test set (Table 6)
SPLIT_SEED = 0

_SCAN = re.compile(r"((?:train|valid)_\d+)_[a-z]+_\d+")  # CT-RATE's names: patient, scan, reconstruction
_NAMES = tuple(finding.name for finding in FINDINGS)


@dataclass(frozen=True, kw_only=True, slots=True)
class StudySample(Sample):
    """A sample with what a study predicts.

    Attributes:
        findings: names of the findings that are there; None when nobody knows.
        targets: labels to segment, with their names, on the grid of the CT; None when organs and diseases hold them.
    """

    findings: frozenset[str] | None = None
    targets: LabelMap | None = None


def _extended(sample: Sample, **more: Any) -> StudySample:
    return StudySample(**{field.name: getattr(sample, field.name) for field in fields(sample)} | more)


# --- readers ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class PhantomCases:
    """Chests over the whole field, each finding with the same chance, without the table, as generators draw them.

    Attributes:
        first_seed, count: seeds follow each other; each is a patient.
    """

    first_seed: int
    count: int

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """``phantom-700000``."""
        return f"phantom-{self.first_seed + index:06d}"

    def patient(self, index: int) -> str:
        """Every seed is a patient."""
        return self.name(index)

    def fingerprint(self, index: int) -> str:
        """Of the simulator, the seed and what is fixed."""
        return file_hash((), _simulator(), self.name(index), repr((PHANTOM_ZYX, PHANTOM_MM, FINDING_RATE)))

    def load(self, index: int) -> StudySample:
        """Draw it."""
        seed = self.first_seed + index
        chances = np.random.default_rng((seed, 2)).random(len(_NAMES))
        wanted = [name for name, chance in zip(_NAMES, chances, strict=True) if chance < FINDING_RATE]
        drawn = phantom.chest(PHANTOM_ZYX, PHANTOM_MM, seed, wanted)
        table = ~ndimage.binary_dilation(drawn.organs.voxels > 0, iterations=2) & (drawn.ct.voxels > TABLE_HU)
        return StudySample(
            name=self.name(index),
            ct=drawn.ct.with_voxels(np.where(table, np.float32(AIR_HU), drawn.ct.voxels)),
            organs=drawn.organs,
            diseases=drawn.diseases,
            report=prompt(drawn.report.text),
            findings=drawn.finding_names,
        )


@cache
def _simulator() -> str:
    return file_hash(sorted(Path(phantom.__file__).parent.glob("*.py")))


class MsdReader:
    """A task of the Medical Segmentation Decathlon, or a dataset of nnU-Net v2.

    Args:
        folder: ``imagesTr/NAME.nii.gz`` (nnU-Net: ``NAME_0000.nii.gz``), ``labelsTr/NAME.nii.gz`` and
            ``dataset.json``, whose ``labels`` give the names.

    Raises:
        InputError: a file is missing, several channels, or labels that are regions.
    """

    def __init__(self, folder: Path) -> None:
        facts = json.loads(_required(folder / "dataset.json").read_text(encoding="utf-8"))
        self.names = _label_names(facts.get("labels", {}), folder)
        self.pairs: list[tuple[str, Path, Path]] = []
        for image in sorted((folder / "imagesTr").iterdir()):
            if image.name.startswith(".") or not image.name.endswith(tuple(io.FORMATS)):
                continue  # MSD's archives hold hidden files of another system
            stem = file_stem(image)
            channel = re.search(r"_(\d{4})$", stem)
            if channel and channel[1] != "0000":
                raise InputError(f"{image} is a second channel; a study reads CT, which has one. Take it out.")
            name = stem.removesuffix("_0000")
            label = folder / "labelsTr" / (name + image.name[len(stem) :])
            self.pairs.append((name, image, _required(label)))
        if not self.pairs:
            raise InputError(f"There is no volume in {folder / 'imagesTr'}.")

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """File name without suffix and channel."""
        return self.pairs[index][0]

    def patient(self, index: int) -> str:
        """Every case is a patient, and so are the views that ``ctgencore augment`` made of it (``CASE__VIEW``)."""
        return self.name(index).partition("__")[0]

    def fingerprint(self, index: int) -> str:
        """Of the files' content and the labels' names."""
        return file_hash(self.pairs[index][1:], repr(self.names))

    def load(self, index: int) -> StudySample:
        """Read and check it."""
        name, image, label = self.pairs[index]
        found = io.read_labels(label)
        strange = sorted({int(value) for value in np.unique(found.voxels)} - {0, *self.names})
        if strange:
            raise InputError(f"{label} holds labels {strange}, which dataset.json does not name. Add their names.")
        sample = StudySample(
            name=name, ct=io.read(image), targets=LabelMap(found.voxels, found.geometry, dict(self.names))
        )
        check_hu(sample)
        sample.ct.geometry.assert_equal(found.geometry, 0.01, f"the CT and the labels of {name}")
        return sample


def _required(path: Path) -> Path:
    if not path.is_file():
        raise InputError(f"There is no {path}. A folder of MSD or nnU-Net has imagesTr, labelsTr and dataset.json.")
    return path


def _label_names(labels: Mapping[str, Any], folder: Path) -> dict[int, str]:
    """``{"1": "cancer"}`` of MSD and ``{"cancer": 1}`` of nnU-Net, without the background."""
    pairs = [(key, value) if str(key).isdigit() else (value, key) for key, value in labels.items()]
    if not pairs or not all(str(value).isdigit() for value, _ in pairs):
        raise InputError(f"{folder / 'dataset.json'} needs labels with a whole number each; got {dict(labels)}.")
    return {int(value): str(name) for value, name in sorted(pairs) if int(value)}


class LabelTable:
    """The volumes of a table of findings, such as CT-RATE's; they have no masks and no reports.

    Args:
        path: CSV with ``VolumeName`` (or ``name``) and a column for each finding.
        root: folder of the volumes, or of CT-RATE's published layout; by default that of the table.

    Raises:
        InputError: a volume is not there.
    """

    def __init__(self, path: Path, root: Path | None) -> None:
        self.files = [(name, _volume(name, root or path.parent)) for name in read_findings(path)]

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """File name without suffix."""
        return self.files[index][0]

    def patient(self, index: int) -> str:
        """See :class:`Cases`, which takes it from CT-RATE's names."""
        return self.name(index)

    def fingerprint(self, index: int) -> str:
        """Of the file's content."""
        return file_hash([self.files[index][1]])

    def load(self, index: int) -> Sample:
        """Read and check it."""
        sample = Sample(name=self.name(index), ct=io.read(self.files[index][1]))
        check_hu(sample)
        return sample


def _volume(name: str, root: Path) -> Path:
    scan = name.rsplit("_", 1)[0]
    patient = scan.rsplit("_", 1)[0]
    published = root / "dataset" / f"{patient.split('_')[0]}_fixed" / patient / scan
    for folder in (root, published):
        for suffix in io.FORMATS:
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    raise InputError(f"{name} is not in {root}, nor in CT-RATE's layout below it. Name its folder with root.")


def read_findings(path: Path) -> dict[str, frozenset[str]]:
    """A table of findings: volume (without suffix) to the names of what it shows.

    Raises:
        InputError: a column is missing, or a cell is neither 0 nor 1.
    """
    rows = read_table(path, _NAMES)
    key = next((column for column in ("VolumeName", "name") if rows and column in rows[0]), None)
    if key is None:
        raise InputError(f"{path} needs rows, and a column VolumeName or name that tells the volumes.")
    found = {}
    for row in rows:
        wrong = [name for name in _NAMES if row[name] not in ("0", "1", "0.0", "1.0")]
        if wrong:
            raise InputError(f"{path}: findings are 0 or 1; {row[key]} has {row[wrong[0]]!r} for {wrong[0]}.")
        found[_bare(row[key])] = frozenset(name for name in _NAMES if float(row[name]))
    return found


def _bare(name: str) -> str:
    return file_stem(Path(name)) if name.endswith(tuple(io.FORMATS)) else name


# --- cases -----------------------------------------------------------------------------------------------------------


class Cases:
    """Cases of a reader: some of them, or all, with the findings that tables know.

    Args:
        reader: where they come from.
        indices: which of them; all by default.
        findings: volume to findings, for readers that know none.
    """

    def __init__(
        self,
        reader: Reader,
        indices: Sequence[int] | None = None,
        findings: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.reader, self.findings = reader, findings or {}
        self.indices = list(range(len(reader)) if indices is None else indices)

    def __len__(self) -> int:
        return len(self.indices)

    def name(self, index: int) -> str:
        """As in its reader."""
        return self.reader.name(self.indices[index])

    def patient(self, index: int) -> str:
        """As in its reader; ``train_428`` of every name of CT-RATE's form, whichever reader it comes from."""
        patient = self.reader.patient(self.indices[index])
        match = _SCAN.fullmatch(patient)
        return match[1] if match else patient

    def fingerprint(self, index: int) -> str:
        """As in its reader, with the findings."""
        known = sorted(self.findings.get(self.name(index), ()))
        return file_hash((), self.reader.fingerprint(self.indices[index]), *known)

    def load(self, index: int) -> StudySample:
        """The sample with its findings."""
        sample = self.reader.load(self.indices[index])
        sample = sample if isinstance(sample, StudySample) else _extended(sample)
        known = self.findings.get(sample.name)
        return sample if known is None else _extended(sample, findings=known)


def split(cases: Cases, share: float) -> tuple[Cases, Cases]:
    """Training and test cases, so that nobody is in both; the same for the same patients.

    Raises:
        InputError: there are fewer than two patients.
    """
    patients = sorted({cases.patient(index) for index in range(len(cases))})
    if len(patients) < 2:
        raise InputError(f"To hold out test cases takes two patients at least; there is {len(patients)}. Give test.")
    count = min(max(1, round(share * len(patients))), len(patients) - 1)
    chosen = np.random.default_rng(SPLIT_SEED).permutation(patients)[:count].tolist()
    is_test = [cases.patient(index) in chosen for index in range(len(cases))]
    train, test = (
        Cases(cases.reader, [i for i, held in zip(cases.indices, is_test, strict=True) if held is side], cases.findings)
        for side in (False, True)
    )
    return train, test


def open_cases(options: StudyOptions) -> tuple[Cases, Cases]:
    """Training and test cases of a study.

    Raises:
        InputError: a path that cannot be read, or nobody to test on.
    """
    if not options.data:
        train = PhantomCases(first_seed=TRAINING_SEEDS, count=options.phantoms)
        test = PhantomCases(first_seed=TEST_SEEDS, count=options.test_phantoms)
        return Cases(train), Cases(test)
    everything = open_paths(options.data, options)
    return (everything, open_paths(options.test, options)) if options.test else split(everything, options.held_out)


def open_paths(paths: Sequence[Path], options: StudyOptions) -> Cases:
    """Folders, lists and tables as one.

    Raises:
        InputError: one of them is none of the known kinds.
    """
    readers: list[Reader] = []
    lists: list[Path] = []
    findings: dict[str, frozenset[str]] = {}
    tables = list(options.labels) if isinstance(options, ClassifyOptions) else []
    for path in paths:
        if (path / "imagesTr").is_dir():
            readers.append(MsdReader(path))
        elif path.is_dir():
            readers.append(FolderReader(path, options.scheme))
            tables += [table for table in (path / "labels.csv",) if table.is_file()]
        elif path.is_file() and path.suffix == ".csv" and _is_findings(path):
            readers.append(LabelTable(path, options.root))
            tables.append(path)
        elif path.is_file():
            lists.append(path)
        else:
            raise InputError(
                f"There is no {path}. Give a folder of pairs (with ct), of MSD (with imagesTr), or a list."
            )
    if lists:
        # several findings make a prompt as published
        readers.append(ListReader(lists, options.root, "bracket_list", apply_rescale=options.apply_rescale))
    for table in tables:
        findings |= read_findings(table)
    return Cases(readers[0] if len(readers) == 1 else JoinedReader(readers), findings=findings)


def _is_findings(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as stream:
        return _NAMES[0] in stream.readline()
