"""One DICOM CT series from a folder, with its grid checked slice by slice."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)

from ..errors import InputError
from ..geometry import Geometry
from ..volume import Volume

_NEVER_DICOM = (
    *(".json", ".txt", ".md", ".csv", ".xml", ".html", ".pdf"),
    *(".png", ".jpg", ".jpeg", ".zip", ".gz", ".raw", ".zraw"),
)
_PLANE_TOLERANCE = 1e-4  # cosines of one series' slices may differ by their printed digits only
_META = {
    "0008|0060": "modality",
    "0008|0070": "manufacturer",
    "0008|1090": "scanner_model",
    "0018|1210": "kernel",
    "0018|0060": "kvp",
    "0018|0050": "slice_thickness_mm",
}
_CT = "1.2.840.10008.5.1.4.1.1.2"
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")  # bits per segment, label map
_CREATOR, _RECORD = "0077|0010", "0077|1001"  # the private block of dicom_export


@dataclass
class _Slice:
    path: Path
    tags: dict[str, str]
    frames: int
    components: int

    def numbers(self, tag: str, count: int) -> np.ndarray | None:
        """The tag's ``count`` finite numbers, or None when it has not that."""
        try:
            values = np.array([float(part) for part in self.tags.get(tag, "").split("\\")])
        except ValueError:
            return None
        return values if len(values) == count and np.isfinite(values).all() else None


@dataclass
class Series:
    """The image files of one series in one folder."""

    uid: str
    slices: list[_Slice] = field(default_factory=list)

    @property
    def modality(self) -> str:
        """CT, MR, ... as the first file has it."""
        return self.slices[0].tags.get("0008|0060", "unknown") or "unknown"

    def describe(self) -> str:
        """One line for a list of series."""
        words = self.slices[0].tags.get("0008|103e", "") or "no description"
        return f"{self.uid or '(no UID)'}: {self.modality}, {words}, {len(self.slices)} slices"


def looks_like_dicom(path: Path) -> bool:
    """Whether the file has the DICOM mark, or could be a bare data set that GDCM reads."""
    return path.suffix.lower() not in _NEVER_DICOM and (_has_mark(path) or _read_header(path) is not None)


def scan(paths: Iterable[Path]) -> list[Series]:
    """Group the DICOM images among ``paths`` by series; RTSTRUCT, SEG and all that is no image is passed over."""
    series: dict[str, Series] = {}
    for path in sorted(paths):
        if path.suffix.lower() in _NEVER_DICOM:
            continue
        header = _read_header(path)
        if header is not None and header.tags.get("0008|0060") != "SEG":
            uid = header.tags.get("0020|000e", "")
            series.setdefault(uid, Series(uid)).slices.append(header)
    return list(series.values())


def read_series(path: Path, uid: str | None = None) -> Volume:
    """Read a series.

    Args:
        path: folder, or one file of the series.
        uid: SeriesInstanceUID to take from a folder.

    Returns:
        The volume, slices in order of position, slope and intercept applied once.

    Raises:
        InputError: no series or several, not CT, or slices that do not form one regular grid.
    """
    series = find_series(path, uid)
    return _build(series, path, path.name if path.is_dir() else path.parent.name)


def find_series(path: Path, uid: str | None = None) -> Series:
    """The one series of a folder, or the series that a file belongs to; see :func:`read_series`.

    Raises:
        InputError: no series or several.
    """
    folder = path if path.is_dir() else path.parent
    if path.is_file():
        if is_segmentation(path):
            raise InputError(f"{path.name} is a DICOM segmentation, not a CT: give it as labels.")
        own = _read_header(path)
        if own is None:
            raise InputError(
                f"{path.name} is DICOM but holds no image (RTSTRUCT, report ...). Give the folder of the CT series."
            )
        uid = own.tags.get("0020|000e", "") if uid is None else uid
    files = [file for file in folder.iterdir() if file.is_file() and not file.name.startswith(".")]
    found = scan(files)
    readable = {item.path for series in found for item in series.slices}
    broken = sorted(file.name for file in files if file not in readable and _storage_class(file) == _CT)
    if broken:
        names = ", ".join(broken[:5])
        raise InputError(f"{folder.name}: {len(broken)} CT slices are damaged ({names}). Copy them again.")
    if not found:
        kinds = sorted({file.suffix.lower() or "no suffix" for file in files}) or ["nothing"]
        raise InputError(
            f"{folder.name}: no DICOM image in this folder (it holds {len(files)} files: {', '.join(kinds)}). "
            "Give the folder that holds the series' slices, or a volume file directly."
        )
    listing = "\n".join("  " + series.describe() for series in found)
    chosen = found if uid is None else [series for series in found if series.uid == uid]
    if not chosen:
        raise InputError(f"{folder.name}: no series {uid}. There is:\n{listing}")
    if len(chosen) > 1:
        raise InputError(
            f"{folder.name}: one series is read at a time; this folder holds {len(chosen)}:\n{listing}\n"
            "Pick one by its UID, read(path, series=UID), or give one of its files as the input."
        )
    return chosen[0]


def _build(series: Series, source: Path, name: str) -> Volume:
    if series.modality != "CT":
        raise InputError(
            f"{name}: CTGen works on CT; this series is {series.modality} ({series.describe()}). Give a CT series."
        )
    slices, geometry, warnings = regular_grid(series.slices, name)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(item.path) for item in slices])
    reader.SetOutputPixelType(sitk.sitkFloat32)  # after GDCM's rescale, which may be fractional
    try:
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"{name}: the slices' pixels cannot be read ({reason}). Copy or download the series again."
        ) from None
    meta = {word: value for tag, word in _META.items() if (value := slices[0].tags.get(tag))}
    derivation = slices[0].tags.get("0008|2111", "")
    if derivation.startswith("CTGen "):
        meta["ctgen_tag"] = derivation
    return Volume(sitk.GetArrayFromImage(image), geometry, source=source, meta=meta, warnings=tuple(warnings))


def regular_grid(slices: list[_Slice], name: str) -> tuple[list[_Slice], Geometry, list[str]]:
    """Sort slices along their normal and demand one regular, rectangular grid. Returns slices, grid and warnings."""
    first = slices[0]
    if any(item.frames != 1 for item in slices):
        raise InputError(
            f"{name}: multi-frame (enhanced) DICOM is not read yet. Convert it to NRRD or NIfTI first (3D Slicer does)."
        )
    if any(item.components != 1 for item in slices):
        raise InputError(f"{name}: color DICOM (screen captures) is not CT. Give the series of the original slices.")
    planes, positions = [], []
    for item in slices:
        cosines, position = item.numbers("0020|0037", 6), item.numbers("0020|0032", 3)
        pixel = item.numbers("0028|0030", 2)
        if cosines is None or position is None or pixel is None:
            raise InputError(
                f"{name}: slice {item.path.name} lacks its position, orientation or pixel spacing, so the volume has "
                "no "
                "geometry. Export the series again with these tags."
            )
        planes.append(np.concatenate([cosines, pixel, [float(item.tags["rows"]), float(item.tags["columns"])]]))
        positions.append(position)
    plane = np.median(planes, axis=0)  # what most slices have
    odd = np.flatnonzero(np.abs(np.array(planes) - plane).max(axis=1) > _PLANE_TOLERANCE)
    if len(odd):
        raise InputError(
            f"{name}: slices of a volume share orientation, size and pixel spacing; "
            f"{slices[odd[0]].path.name} differs from most ({len(odd)} of {len(slices)} slices do; often a localizer). "
            "Move them to another folder."
        )
    row, column = plane[:3], plane[3:6]
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    normal = np.cross(row, column)
    normal /= np.linalg.norm(normal)
    along = np.array(positions) @ normal
    order = np.argsort(along, kind="stable")
    along, ordered = along[order], np.array(positions)[order]
    slices = [slices[i] for i in order]
    pixel_row, pixel_column = plane[6:8]
    if len(slices) == 1:
        spacing = _positive(first, "0018|0050") or 1.0
        return (
            slices,
            _grid(slices, ordered[0], row, column, normal, (pixel_column, pixel_row, spacing)),
            [f"{name}: a single slice; its thickness {spacing:g} mm is taken as the spacing."],
        )
    warnings = _check_steps(along, name)
    spacing = float((along[-1] - along[0]) / (len(along) - 1))
    sideways = ordered[-1] - ordered[0] - (along[-1] - along[0]) * normal
    drift = float(np.linalg.norm(sideways))
    if drift > 0.5 * min(pixel_row, pixel_column):
        angle = math.degrees(math.atan2(drift, along[-1] - along[0]))
        raise InputError(
            f"{name}: the slices are shifted sideways by {drift:.2f} mm over the scan (gantry tilt of {angle:.2f} "
            "degrees), so the "
            "voxel grid is sheared. Correct the tilt first (3D Slicer: DICOM module, Acquisition geometry "
            "regularization)."
        )
    if drift > 0.01:
        warnings.append(f"{name}: the slices are shifted sideways by {drift:.3f} mm over the scan; neglected.")
    return slices, _grid(slices, ordered[0], row, column, normal, (pixel_column, pixel_row, spacing)), warnings


def _check_steps(along: np.ndarray, name: str) -> list[str]:
    """Demand equal distances between slices, sorted positions in mm given."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    doubled = np.flatnonzero(steps < 1e-3)
    if len(doubled):
        raise InputError(
            f"{name}: one slice per position; {len(doubled) + 1} or more share a position (first at "
            f"{along[doubled[0]]:g} mm): several "
            "phases or a series stored twice. Leave one of them in the folder."
        )
    gaps = np.flatnonzero(steps > 1.5 * usual)
    if len(gaps):
        where = ", ".join(f"{along[i]:g} to {along[i + 1]:g} mm" for i in gaps[:5])
        missing = int(np.rint(steps[gaps] / usual - 1).sum())
        raise InputError(
            f"{name}: about {missing} slices are missing (spacing {usual:g} mm, gaps at {where}). Get the complete "
            "series."
        )
    grid = along[0] + np.arange(len(along)) * (along[-1] - along[0]) / (len(along) - 1)
    off = float(np.abs(along - grid).max())
    if off > 0.05 * usual:
        raise InputError(
            f"{name}: slices must be evenly spaced; distances run from {steps.min():g} to {steps.max():g} mm and a "
            f"slice lies {off:g} mm "
            "off the even grid. Resample to even spacing first (3D Slicer: DICOM module, Acquisition geometry "
            "regularization)."
        )
    if off > 1e-3:
        return [f"{name}: slice positions deviate by up to {off:.3g} mm from even spacing; neglected."]
    return []


def _grid(
    slices: list[_Slice],
    origin: np.ndarray,
    row: np.ndarray,
    column: np.ndarray,
    normal: np.ndarray,
    spacing: tuple[float, float, float],
) -> Geometry:
    size = (int(slices[0].tags["columns"]), int(slices[0].tags["rows"]), len(slices))
    return Geometry(size, spacing, tuple(origin), tuple(np.stack([row, column, normal], axis=1).ravel()))


def _positive(item: _Slice, tag: str) -> float | None:
    values = item.numbers(tag, 1)
    return float(values[0]) if values is not None and values[0] > 0 else None


def is_segmentation(path: Path) -> bool:
    """Whether the file is a DICOM segmentation (SEG)."""
    return _storage_class(path) in _SEGMENTATIONS


def embedded_record(path: Path) -> tuple[Path, str] | None:
    """The record that a series of ours carries: the first image file of the folder (or the file), and its JSON."""
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        tags = _read_tags(file, private=True) if _has_mark(file) else None
        if tags is not None:
            return (file, tags[_RECORD]) if tags.get(_CREATOR) == "CTGen" and _RECORD in tags else None
    return None


def _has_mark(path: Path) -> bool:
    return _start(path)[128:132] == b"DICM"


def _storage_class(path: Path) -> str:
    """The SOP class that the file's first group (0002,0002) names, readable or not; empty where there is none."""
    start = _start(path)
    at = start.find(b"\x02\x00\x02\x00UI")
    if start[128:132] != b"DICM" or at < 0:
        return ""
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].decode("ascii", "replace").strip(" \0")


def _start(path: Path) -> bytes:
    """The first bytes, none of an unreadable file."""
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError:
        return b""


def _read_header(path: Path) -> _Slice | None:
    """The tags of a DICOM image, or None when GDCM finds no image in the file."""
    tags = _read_tags(path)
    return _Slice(path, tags, int(tags["frames"]), int(tags["components"])) if tags is not None else None


def _read_tags(path: Path, *, private: bool = False) -> dict[str, str] | None:
    """Tag ("gggg|eeee") to text, and the image's sizes; None when GDCM finds no image in the file."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetLoadPrivateTags(private)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    tags = {key: reader.GetMetaData(key).strip(" \0") for key in reader.GetMetaDataKeys()}
    columns, rows, *frames = reader.GetSize()
    sizes = {"columns": columns, "rows": rows, "frames": frames[0] if frames else 1}
    sizes["components"] = reader.GetNumberOfComponents()
    return tags | {name: str(size) for name, size in sizes.items()}
