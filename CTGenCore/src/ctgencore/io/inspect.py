"""What a header alone tells: grid, modality, whose scan it is. No voxel is read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import SimpleITK as sitk  # noqa: N813  (its documentation's own name)

from ..errors import InputError
from ..geometry import Geometry
from . import dicom
from .dicom_header import require
from .dicom_seg import _numbers as numbers_of
from .files import FORMATS, _geometry, _meta, _suffix

_READERS = {  # asking the right one at once is a quarter faster
    **dict.fromkeys((".nii", ".nii.gz"), "NiftiImageIO"),
    **dict.fromkeys((".nrrd", ".nhdr"), "NrrdImageIO"),
    **dict.fromkeys((".mha", ".mhd"), "MetaImageIO"),
}
_MODALITY, _PATIENT, _STUDY, _SERIES = "0008|0060", "0010|0020", "0020|000d", "0020|000e"


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """Facts of a volume or label file, or of a DICOM series.

    Attributes:
        size_xyz: voxels along i, j, k; of a DICOM series columns, rows and number of files.
        grid: the voxels' grid; None for DICOM, where only :func:`series_grid` knows it.
        modality: ``CT``, ``MR``, ...; empty where the header does not say.
        patient: DICOM's PatientID as it is, which can identify a person; empty elsewhere.
        study, series: DICOM's instance UIDs; empty elsewhere.
    """

    size_xyz: tuple[int, int, int]
    grid: Geometry | None = None
    modality: str = ""
    patient: str = ""
    study: str = ""
    series: str = ""


def inspect(path: Path) -> Header:
    """Read a header; of a DICOM series the first and the last file by name.

    Args:
        path: as for :func:`ctgencore.io.read`; also a DICOM SEG file.

    Raises:
        InputError: missing, unreadable, not one scalar 3D image, or several series in the folder.
    """
    if not path.exists():
        raise InputError(f"{path.name} does not exist. Check the path.")
    if path.is_file() and _suffix(path):
        return _inspect_file(path)
    return _inspect_dicom(path)


def series_grid(path: Path) -> Geometry:
    """The grid of the series in a folder, or of that of one file, from the headers of all its slices.

    Raises:
        InputError: no image, or the slices do not form one regular grid.
    """
    series = dicom.find_series(path)
    return dicom.regular_grid(series.slices, path.name)[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class SegHeader:
    """Facts of a DICOM SEG file.

    Attributes:
        names: label, as :func:`ctgencore.io.read_labels` numbers it, to its segment's name.
        series: SeriesInstanceUID of the images it was drawn on; empty where it does not say.
    """

    names: dict[int, str]
    series: str = ""


def inspect_seg(path: Path) -> SegHeader:
    """Read the header of a DICOM SEG file.

    Raises:
        InputError: pydicom is not installed, or this is not a readable SEG.
    """
    [pydicom] = require("pydicom")
    if not dicom.is_segmentation(path):
        raise InputError(f"{path.name}: labels as DICOM are SEG files; this is none. Give a SEG, NIfTI or NRRD.")
    try:
        header = pydicom.dcmread(path, stop_before_pixels=True)
        items = {int(item.SegmentNumber): item for item in header.SegmentSequence}
        names = {number: str(items[segment].SegmentLabel) for segment, number in numbers_of(items).items()}
    except (AttributeError, EOFError, ValueError) as error:
        raise InputError(f"{path.name}: the segmentation cannot be read ({error}). Export it again.") from None
    sequence = header.get("ReferencedSeriesSequence")
    return SegHeader(names=names, series=str(sequence[0].SeriesInstanceUID) if sequence else "")


def first_image(paths: Iterable[Path]) -> dicom.Series | None:
    """The first file that GDCM finds an image in, as a series of one file; None when there is none."""
    for path in paths:
        if found := dicom.scan([path]):
            return found[0]
    return None


def _inspect_file(path: Path) -> Header:
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[_suffix(path)])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        raise InputError(f"{path.name}: the header cannot be read. Copy or download the file again.") from None
    size = reader.GetSize()
    if len(size) != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path.name}: a volume has 3 dimensions and one number per voxel; this file has sizes {size} with "
            f"{reader.GetNumberOfComponents()}. Give one file for each channel or time point."
        )
    grid = _geometry(reader)
    return Header(size_xyz=grid.size_xyz, grid=grid, modality=_meta(reader).get("modality", ""))


def _inspect_dicom(path: Path) -> Header:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    files = [file for file in files if file.is_file() and not file.name.startswith(".") and not _suffix(file)]
    first, last = first_image(files), first_image(reversed(files))
    if first is None or last is None:
        raise InputError(
            f"{path.name}: neither a volume that CTGen reads ({', '.join(FORMATS)}) nor a DICOM image. Check the path."
        )
    if first.uid != last.uid:
        raise InputError(f"{path.name}: the folder holds several DICOM series. Give each series a folder of its own.")
    tags = first.slices[0].tags
    return Header(
        size_xyz=(int(tags["columns"]), int(tags["rows"]), len(files)),
        modality=tags.get(_MODALITY, ""),
        patient=tags.get(_PATIENT, ""),
        study=tags.get(_STUDY, ""),
        series=tags.get(_SERIES, ""),
    )
