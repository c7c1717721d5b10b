"""Where training volumes come from: phantoms and folders of pairs; :mod:`.ctrate` reads the published lists."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import ndimage

from .. import io, labels, phantom
from ..diffusion.conditions import AIR_HU
from ..errors import InputError
from ..phantom.scene import Fact, Report
from ..text.prompts import PromptFormat, prompt
from ..volume import LabelMap, Volume

TEST_SEEDS = 900_000  # phantom seeds from here on are for tests and benchmarks: no reader trains on them
VALIDATION_SEEDS = 800_000  # and from here on for validation

BODY_MM = (340.0, 230.0, 320.0)  # (x, y, z) of a phantom, from the lower poles of the kidneys to the shoulders
BODY_CENTER_MM = (0.0, 0.0, -20.0)
TABLE_HU = -900.0  # outside the body, what is denser is the table
MARGIN_MM = 15.0  # how far the middle of a field of view that holds it all may be off

# Lowest and highest HU that a scanner and its reconstruction leave; a CT rescaled twice is far below.
HU_LOWEST, HU_HIGHEST = -4096.0, 32767.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One training volume.

    Attributes:
        name: unique in its reader.
        ct: HU.
        organs: organ ids of :data:`ctgencore.labels.ORGANS` on the grid of the CT, or None.
        diseases: class ids 150..162 on that grid, or None.
        report: as the generator gets it; empty without one.
        impression: its last part alone, if it has one.
    """

    name: str
    ct: Volume
    organs: LabelMap | None = None
    diseases: LabelMap | None = None
    report: str = ""
    impression: str = ""


class Reader(Protocol):
    """A list of samples that are made or read one at a time, in any process."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def name(self, index: int) -> str:
        """The sample's name, without reading it."""
        ...

    def patient(self, index: int) -> str:
        """Whose volume it is: volumes of a patient must not be split over training and validation."""
        ...

    def fingerprint(self, index: int) -> str:
        """Changes when the sample's content does."""
        ...

    def load(self, index: int) -> Sample:
        """Read or make the sample."""
        ...


# --- checks ----------------------------------------------------------------------------------------------------------


def check_split(training: Reader, validation: Reader) -> None:
    """Demand that no patient is in both.

    Raises:
        InputError: some are (as in the published lists); they are named.
    """
    patients = [{reader.patient(i) for i in range(len(reader))} for reader in (training, validation)]
    both = sorted(patients[0] & patients[1])
    if both:
        shown = ", ".join(both[:5]) + (f" and {len(both) - 5} more" if len(both) > 5 else "")
        raise InputError(
            f"A patient belongs to training or to validation, not to both; in both: {shown}. Take these patients out "
            "of one of the lists."
        )


def check_hu(sample: Sample) -> None:
    """Demand Hounsfield units.

    Raises:
        InputError: these are no HU, or were rescaled twice: the lists' slope and intercept had been applied already
            when the published files were written.
    """
    sample.ct.check_ct()
    lo, hi = float(sample.ct.voxels.min()), float(sample.ct.voxels.max())
    soft = float(((sample.ct.voxels > -300) & (sample.ct.voxels < 300)).mean())
    if lo < HU_LOWEST or hi > HU_HIGHEST or soft < 0.01:
        raise InputError(
            f"{sample.name}: CT has air near -1000 HU and soft tissue near 0; got {lo:g} to {hi:g} with {soft:.1%} of "
            "the voxels within 300 HU of 0. It looks rescaled twice, or not at all: leave --apply-rescale off for "
            "files that hold HU (CT-RATE's '_fixed' files do), and give it for raw ones."
        )


def check_grids(sample: Sample) -> Sample:
    """Return the sample if its masks lie on the grid of its CT, else raise InputError."""
    for what, mask in (("organ", sample.organs), ("disease", sample.diseases)):
        if mask is not None:
            sample.ct.geometry.assert_equal(mask.geometry, 0.01, f"the CT and the {what} mask of {sample.name}")
    return sample


def file_hash(paths: Iterable[Path | None], *words: str) -> str:
    """SHA-256 of files' content and some words."""
    digest = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        if path is not None:
            with path.open("rb") as stream:
                while block := stream.read(2**20):
                    digest.update(block)
    return digest.hexdigest()


# --- phantoms --------------------------------------------------------------------------------------------------------


@cache
def _simulator() -> str:
    """Hash of the simulator's source: another simulator makes other phantoms of the same seeds."""
    return file_hash(sorted(Path(phantom.__file__).parent.glob("*.py")))


@dataclass(frozen=True, kw_only=True)
class PhantomReader:
    """Procedural chests with findings, masks and reports; nothing is read from disk.

    Attributes:
        count: samples; their seeds follow each other from ``first_seed``.
        first_seed: below :data:`TEST_SEEDS`.
        shapes_zyx: array shapes, drawn in equal measure.
        plane_mm, slice_mm: ranges of the spacing in plane and along Z; each sample's is drawn log-uniformly.

    The grid's middle is drawn so that small fields of view show every region of the chest. The table is taken out: no
    condition speaks of it.
    """

    count: int
    first_seed: int = 0
    shapes_zyx: tuple[tuple[int, int, int], ...] = ((65, 128, 128), (81, 144, 144))
    plane_mm: tuple[float, float] = (0.8, 3.0)
    slice_mm: tuple[float, float] = (1.0, 5.0)

    def __post_init__(self) -> None:
        """Keep off the seeds of the tests."""
        if self.first_seed < 0 or self.first_seed + self.count > TEST_SEEDS:
            raise InputError(
                f"Phantoms to train on have seeds 0 to {TEST_SEEDS - 1}, those above are for tests; got seeds "
                f"{self.first_seed} to {self.first_seed + self.count - 1}. Ask for fewer samples."
            )

    def __len__(self) -> int:
        return self.count

    def name(self, index: int) -> str:
        """``phantom-000012``."""
        return f"phantom-{self.first_seed + index:06d}"

    def patient(self, index: int) -> str:
        """Every seed is a patient."""
        return self.name(index)

    def fingerprint(self, index: int) -> str:
        """Of the simulator, the seed and the grid."""
        return file_hash((), _simulator(), self.name(index), repr((self.shapes_zyx, self.plane_mm, self.slice_mm)))

    def load(self, index: int) -> Sample:
        """Draw it."""
        seed = self.first_seed + index
        rng = np.random.default_rng((seed, 1))
        plane, step = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (self.plane_mm, self.slice_mm))
        shape = self.shapes_zyx[int(rng.integers(len(self.shapes_zyx)))]
        spacing = (plane, plane, step)
        fields = [n * mm for n, mm in zip(shape[::-1], spacing, strict=True)]
        x, y, z = (
            middle + float(rng.uniform(-1, 1)) * (max(0.0, body - field) / 2 + MARGIN_MM)
            for middle, body, field in zip(BODY_CENTER_MM, BODY_MM, fields, strict=True)
        )
        drawn = phantom.chest(shape, spacing, seed, findings=None, center_mm=(x, y, z))
        table = ~ndimage.binary_dilation(drawn.organs.voxels > 0, iterations=2) & (drawn.ct.voxels > TABLE_HU)
        return Sample(
            name=self.name(index),
            ct=drawn.ct.with_voxels(np.where(table, np.float32(AIR_HU), drawn.ct.voxels)),
            organs=drawn.organs,
            diseases=drawn.diseases,
            report=prompt(drawn.report.text),
            impression=prompt(drawn.report.impression),
        )

    def reports(self, count: int) -> list[tuple[tuple[Fact, ...], Report]]:
        """Facts and reports of this and as many more seeds as asked for, without drawing the chests."""
        from ..phantom import findings, report

        written = []
        for seed in range(self.first_seed, self.first_seed + count):
            patient = phantom.Patient.draw(seed)
            facts = findings.plan(patient, seed, None)
            written.append((facts, report.write(facts, patient, seed)))
        return written

    def texts(self, count: int) -> list[str]:
        """Such reports as prompts: enough for a vocabulary."""
        return [prompt(report.text) for _, report in self.reports(count)]


class JoinedReader:
    """Readers one after the other; their samples' names must differ.

    Raises:
        InputError: two have the same name.
    """

    def __init__(self, readers: Sequence[Reader]) -> None:
        self.places = [(reader, index) for reader in readers for index in range(len(reader))]
        names = [reader.name(index) for reader, index in self.places]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(
                f"Samples need names of their own; twice in the data: {', '.join(twice[:5])}. Rename them."
            )

    def __len__(self) -> int:
        return len(self.places)

    def name(self, index: int) -> str:
        """As in its reader."""
        reader, place = self.places[index]
        return reader.name(place)

    def patient(self, index: int) -> str:
        """As in its reader."""
        reader, place = self.places[index]
        return reader.patient(place)

    def fingerprint(self, index: int) -> str:
        """As in its reader."""
        reader, place = self.places[index]
        return reader.fingerprint(place)

    def load(self, index: int) -> Sample:
        """As in its reader."""
        reader, place = self.places[index]
        return reader.load(place)


# --- files -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pair:
    name: str
    patient: str
    ct: Path
    organs: Path | None
    diseases: Path | None
    report: str


class FolderReader:
    """A folder of ``ct/NAME``, and as far as there are any ``organs/NAME``, ``diseases/NAME`` and ``reports.csv``.

    ``reports.csv`` has the columns ``name`` (the CT's file name, with or without its suffix) and ``report``, and
    optionally ``patient`` where one has several volumes.

    Args:
        folder: see above.
        scheme: numbering of the organ masks, see :func:`ctgencore.labels.convert`.
        style: of prompts.

    Raises:
        InputError: no CTs, a mask or a report without a CT, or a table without its columns.
    """

    def __init__(self, folder: Path, scheme: str = "ctgen", style: PromptFormat = "plain") -> None:
        self.scheme = scheme
        if not (folder / "ct").is_dir():
            raise InputError(
                f"A folder of pairs has its CTs in 'ct'; there is no {folder / 'ct'}. See docs/training.md."
            )
        cts = {file_stem(path): path for path in io.list_volumes(folder / "ct")}
        masks = {}
        for kind in ("organs", "diseases"):
            found = [path for path in (folder / kind).glob("*") if path.name.endswith(tuple(io.FORMATS))]
            masks[kind] = {file_stem(path): path for path in found}
            _check_known(masks[kind], cts, f"{folder / kind}")
        reports = _read_reports(folder / "reports.csv", cts)
        _check_known(reports, cts, f"{folder / 'reports.csv'}")
        self.pairs = [
            _Pair(
                name=name,
                patient=reports.get(name, {}).get("patient") or name,
                ct=path,
                organs=masks["organs"].get(name),
                diseases=masks["diseases"].get(name),
                report=prompt(reports.get(name, {}).get("report", ""), style),
            )
            for name, path in sorted(cts.items())
        ]
        if not self.pairs:
            raise InputError(f"There is no volume in {folder / 'ct'}.")

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """File name without suffix."""
        return self.pairs[index].name

    def patient(self, index: int) -> str:
        """The table's, or the name."""
        return self.pairs[index].patient

    def fingerprint(self, index: int) -> str:
        """Of the files' content, the report and the numbering."""
        pair = self.pairs[index]
        return file_hash((pair.ct, pair.organs, pair.diseases), pair.report, self.scheme)

    def load(self, index: int) -> Sample:
        """Read and check it."""
        pair = self.pairs[index]
        converted = labels.convert(io.read_labels(pair.organs), self.scheme) if pair.organs else None
        diseases = io.read_labels(pair.diseases) if pair.diseases else None
        sample = Sample(
            name=pair.name,
            ct=io.read(pair.ct),
            organs=converted.labels if converted else None,
            diseases=converted.diseases if converted and diseases is None else diseases,
            report=pair.report,
        )
        check_hu(sample)
        return check_grids(sample)


def file_stem(path: Path) -> str:
    """File name without its suffix, ``.nii.gz`` as a whole."""
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _check_known(names: Iterable[str], cts: dict[str, Path], where: str) -> None:
    strangers = sorted(set(names) - set(cts))
    if strangers:
        raise InputError(
            f"Everything in {where} belongs to a CT of the same name; there is none for {', '.join(strangers[:5])}. "
            "Rename or remove it."
        )


def _read_reports(path: Path, cts: dict[str, Path]) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    rows = read_table(path, ("name", "report"))
    return {row["name"] if row["name"] in cts else file_stem(Path(row["name"])): row for row in rows}


def read_table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Rows of a CSV file.

    Raises:
        InputError: a column is missing.
    """
    with path.open(newline="", encoding="utf-8-sig") as stream:
        table = csv.DictReader(stream)
        missing = [name for name in columns if name not in (table.fieldnames or [])]
        if missing:
            raise InputError(
                f"{path} needs the columns {', '.join(columns)}; it has {', '.join(table.fieldnames or ['none'])}."
            )
        return [{key: (value or "").strip() for key, value in row.items() if key} for row in table]
