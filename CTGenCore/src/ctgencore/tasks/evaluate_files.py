"""Which files are measured together: pairs by name, a manifest, or two sets."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import io
from ..errors import InputError
from ..labels import FINDINGS
from ..zoo import lookup

RECONSTRUCTED, DIFFERENCE = "_recon", "_difference"  # what `ctgencore reconstruct` adds to names
VOLUMES, LABELS = ("test", "reference", "twin"), ("labels", "test_labels", "diseases")
COLUMNS = ("name", *VOLUMES, *LABELS, "report", "findings")


@dataclass(frozen=True, kw_only=True, slots=True)
class CaseFiles:
    """The files of one case; see :class:`ctgencore.metrics.base.Case` for what each part is.

    Attributes:
        name: unique in a run.
        test, reference, twin: volume files or DICOM folders.
        labels, test_labels, diseases: label files.
        report: text.
        findings: names of the findings that are there; None when nobody knows.
        renumber: label in the files of ``labels`` and ``test_labels`` to the id it stands for; others become 0. Empty
            keeps them all.
    """

    name: str
    test: Path
    reference: Path | None = None
    labels: Path | None = None
    test_labels: Path | None = None
    diseases: Path | None = None
    twin: Path | None = None
    report: str = ""
    findings: frozenset[str] | None = None
    renumber: Mapping[int, int] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, Path]:
        """Part to file, of those that are there."""
        parts = {part: getattr(self, part) for part in (*VOLUMES, *LABELS)}
        return {part: path for part, path in parts.items() if path is not None}


@dataclass(frozen=True, slots=True)
class Failure:
    """What could not be measured.

    Attributes:
        case: its name; empty for what concerns the sets.
        metric: its name; empty for the whole case.
        code: as in events: ``input``, ``weights``, ``memory``, ``internal``.
        message: rule, value, next step.
    """

    case: str
    metric: str
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Planned:
    """What to measure.

    Attributes:
        cases: in order.
        failures: files without a partner, rows that say nothing.
        references: volumes that belong to the reference set only.
        is_pair: one case whose files were named; its failure is the caller's.
    """

    cases: list[CaseFiles]
    failures: list[Failure] = field(default_factory=list)
    references: list[Path] = field(default_factory=list)
    is_pair: bool = False


def plan_cases(
    test: Path,
    reference: Path | None = None,
    labels: Path | None = None,
    diseases: Path | None = None,
    test_labels: Path | None = None,
    *,
    unpaired: bool = False,
) -> Planned:
    """Find the cases.

    Args:
        test: a volume, a folder of volumes, or a manifest (``.csv``).
        reference, labels, diseases, test_labels: files beside a volume, folders beside a folder, nothing beside a
            manifest.
        unpaired: two folders are two sets; their names are not compared.

    Raises:
        InputError: nothing there, a file beside a folder, or no two names that fit.
    """
    others = {"reference": reference, "labels": labels, "diseases": diseases, "test_labels": test_labels}
    given = {part: path for part, path in others.items() if path is not None}
    for path in (test, *given.values()):
        if not path.exists():
            raise InputError(f"There is nothing at {path}. Check the path.")
    if test.suffix.lower() == ".csv" and test.is_file():
        if given:
            raise InputError(f"A manifest names all files itself; leave out {', '.join(given)}.")
        return read_manifest(test)
    if not _is_folder_of_volumes(test):
        wrong = [part for part, path in given.items() if path.is_dir() and (part != "reference" or _holds_many(path))]
        if wrong or unpaired:
            parts = " and ".join(wrong) or "the reference"
            raise InputError(f"{test} is one volume, so {parts} must be one too, not a folder of them.")
        return Planned([case_files(volume_name(test), {"test": test, **given})], is_pair=True)
    files = [part for part, path in given.items() if not path.is_dir()]
    if files:
        raise InputError(f"{test} is a folder of volumes, so {' and '.join(files)} must be a folder, not a file.")
    if unpaired:
        return _unpaired(test, reference, given)
    return pair_folders(test, reference, labels, diseases, test_labels=test_labels)


def pair_folders(
    test: Path, reference: Path | None, labels: Path | None = None, diseases: Path | None = None, **more: Path | None
) -> Planned:
    """Pair the volumes of folders by name: path below the folder without extension; a DICOM folder is one volume.

    A test volume called ``NAME_recon``, as ``ctgencore reconstruct`` writes it, fits ``NAME``; volumes called
    ``..._difference`` are left out. Label files that are missing are no failure: metrics that need them are left out
    for that case.

    Args:
        test: folder of volumes.
        reference: folder of volumes, or None.
        labels, diseases: folders of label files, or None.
        more: folders for further parts of :class:`CaseFiles`.

    Raises:
        InputError: there are no volumes, or no name fits.
    """
    tests, failures = _named(test)
    references, more_failures = _named(reference) if reference is not None else ({}, [])
    failures += more_failures
    if not tests:
        raise InputError(f"{test} holds no CT volumes. Readable: {', '.join(io.FORMATS)} and DICOM series.")
    folders = {part: path for part, path in {"labels": labels, "diseases": diseases, **more}.items() if path}
    cases, used = [], set()
    for name, path in tests.items():
        partner = name
        if reference is not None:
            partner = next((key for key in (name, name.removesuffix(RECONSTRUCTED)) if key in references), "")
            if not partner:
                failures.append(Failure(name, "", "input", f"{path.name} has no partner of that name in {reference}."))
                continue
            used.add(partner)
        found = {part: _label_file(folder, name, partner) for part, folder in folders.items()}
        parts = {"test": path, "reference": references.get(partner), **found}
        cases.append(case_files(name, parts))
    if not cases:
        raise InputError(
            f"No volume in {test} has the name of one in {reference} (for example {next(iter(tests))} and "
            f"{next(iter(references), 'none')}). Rename them, write a manifest, or compare the folders as sets: "
            "--unpaired."
        )
    failures += [
        Failure(name, "", "input", f"{path.name} has no partner of that name in {test}.")
        for name, path in references.items()
        if name not in used
    ]
    return Planned(cases, failures)


def read_manifest(path: Path) -> Planned:
    """Read a table of cases: CSV with the columns :data:`COLUMNS`, of which ``test`` must be there.

    Paths start at the table's folder. ``report`` is text, or ``@FILE``. ``findings`` are names separated by ``;``, or
    ``none`` where there are none; an empty cell says that nobody knows.

    Raises:
        InputError: not such a table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines)
            columns, rows = list(table.fieldnames or []), list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The manifest {path} cannot be read ({error}). Give a CSV file in UTF-8.") from None
    for column in columns:
        lookup(dict.fromkeys(COLUMNS), column, "manifest column")
    if "test" not in columns or not rows:
        raise InputError(f"The manifest {path} needs a column 'test' and a row. Known columns: {', '.join(COLUMNS)}.")
    cases: list[CaseFiles] = []
    failures: list[Failure] = []
    for number, row in enumerate(rows, start=2):
        cells = {column: (row.get(column) or "").strip() for column in columns}
        name = cells.get("name") or (volume_name(Path(cells["test"])) if cells["test"] else f"line {number}")
        try:
            if None in row or not cells["test"]:
                raise InputError(f"Line {number} of {path.name} needs 'test' and one cell for each column.")
            if any(case.name == name for case in cases):
                raise InputError(f"Line {number} of {path.name}: there is a case '{name}' already. Names must differ.")
            cases.append(_case(name, cells, path.parent))
        except InputError as error:
            failures.append(Failure(name, "", error.code, str(error)))
    return Planned(cases, failures)


def volume_name(path: Path) -> str:
    """The name without its extension: ``chest.nii.gz`` is ``chest``."""
    return io.output_name(path, "").removesuffix(".nrrd") if path.is_dir() else _stem(path.name)


def _case(name: str, cells: dict[str, str], base: Path) -> CaseFiles:
    paths = {part: base / cells[part] for part in (*VOLUMES, *LABELS) if cells.get(part)}
    report = cells.get("report", "")
    if report.startswith("@"):
        try:
            report = (base / report[1:]).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"The report {report[1:]} of case '{name}' cannot be read ({error}).") from None
    return case_files(name, paths, report, parse_findings(cells.get("findings", "")))


def case_files(
    name: str, parts: Mapping[str, Path | None], report: str = "", findings: frozenset[str] | None = None
) -> CaseFiles:
    """A case from its parts by name."""
    test = parts["test"]
    assert test is not None
    return CaseFiles(
        name=name,
        test=test,
        reference=parts.get("reference"),
        labels=parts.get("labels"),
        test_labels=parts.get("test_labels"),
        diseases=parts.get("diseases"),
        twin=parts.get("twin"),
        report=report,
        findings=findings,
    )


def parse_findings(text: str) -> frozenset[str] | None:
    """``Atelectasis; Lung nodule`` as a set, ``none`` as an empty one, an empty text as None.

    Raises:
        InputError: a finding that Table 6 does not have.
    """
    if not text.strip():
        return None
    names = [] if text.strip().lower() == "none" else [part.strip() for part in text.split(";") if part.strip()]
    known = {finding.name.lower(): finding.name for finding in FINDINGS}
    return frozenset(lookup(known, name.lower(), "finding") for name in names)


def _unpaired(test: Path, reference: Path | None, given: dict[str, Path]) -> Planned:
    if reference is None or set(given) != {"reference"}:
        raise InputError("--unpaired compares a folder of volumes with a reference folder, and takes no labels.")
    tests, failures = _named(test)
    references, more_failures = _named(reference)
    if not tests or not references:
        raise InputError(f"{reference if tests else test} holds no CT volumes. Readable: {', '.join(io.FORMATS)}.")
    cases = [CaseFiles(name=name, test=path) for name, path in tests.items()]
    return Planned(cases, failures + more_failures, list(references.values()))


def _named(folder: Path) -> tuple[dict[str, Path], list[Failure]]:
    """Volumes below a folder by name, and those that share one."""
    names: dict[str, list[Path]] = {}
    for path in io.list_volumes(folder):
        name = _stem(path.relative_to(folder).as_posix()) if path != folder else folder.resolve().name
        if not name.endswith(DIFFERENCE):
            names.setdefault(name, []).append(path)
    twice = [
        Failure(name, "", "input", f"{', '.join(path.name for path in paths)} in {folder} have one name. Keep one.")
        for name, paths in names.items()
        if len(paths) > 1
    ]
    return {name: paths[0] for name, paths in sorted(names.items()) if len(paths) == 1}, twice


def _label_file(folder: Path, *names: str) -> Path | None:
    candidates = (folder / f"{name}{suffix}" for name in dict.fromkeys(names) for suffix in io.FORMATS)
    return next((path for path in candidates if path.is_file()), None)


def _stem(name: str) -> str:
    suffix = next((suffix for suffix in io.FORMATS if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(suffix)]


def _is_folder_of_volumes(path: Path) -> bool:
    return path.is_dir() and io.list_volumes(path) != [path]


def _holds_many(path: Path) -> bool:
    return len(io.list_volumes(path)) > 1
