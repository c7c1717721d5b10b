"""Volumes and label maps from and to files; atomic writes with a JSON sidecar."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813  (its documentation's own name)

from ..errors import InputError
from ..geometry import Geometry
from ..intensity import round_hu
from ..volume import LabelMap, Volume
from . import dicom
from .dicom_seg import read_seg
from .headers import check_nifti, check_stream

FORMATS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_WRITABLE = (".nii.gz", ".nii", ".nrrd", ".mha")
_NIFTI = (".nii.gz", ".nii")
_WRITE_AS = {".nhdr": ".nrrd", ".mhd": ".mha"}
_MODALITY_KEYS = ("modality", "dicom.modality", "0008|0060", "dicom_0008_0060")
TAG_KEY = "CTGen"
RECORD_SCHEMA = "ctgen-record/"  # how every sidecar of ours starts its "schema"


def read(path: str | Path, series: str | None = None) -> Volume:
    """Read a CT volume.

    Args:
        path: a NIfTI, NRRD or MetaImage file, a folder with a DICOM series, or one file of a series.
        series: SeriesInstanceUID, when a folder holds several.

    Returns:
        The volume on exactly the file's grid, rescale slope and intercept applied once.

    Raises:
        InputError: missing, unreadable, cut off, not one scalar 3D image, not CT by its modality tag,
            or several series.
    """
    path = Path(path)
    if _is_dicom(path):
        return dicom.read_series(path, series)
    if series is not None:
        raise InputError(f"series picks one of several DICOM series; {path.name} is not DICOM. Leave it out.")
    image, warnings = _read_image(path)
    meta = _meta(image)
    modality = meta.get("modality", "CT")
    if modality.upper() != "CT":
        raise InputError(f"{path.name}: CTGen works on CT; the header's modality is {modality}. Give a CT volume.")
    return Volume(_float_voxels(image), _geometry(image), source=path, meta=meta, warnings=tuple(warnings))


def read_labels(path: str | Path) -> LabelMap:
    """Read a label map (NIfTI, NRRD, MetaImage, or a DICOM segmentation on its own grid) in its own integer type.

    Raises:
        InputError: as :func:`read`, or a voxel is not a whole number.
    """
    path = Path(path)
    if _is_dicom(path):
        if path.is_file() and dicom.is_segmentation(path):
            return read_seg(path)
        raise InputError(
            f"{path.name} is DICOM; give labels as NIfTI, NRRD, MetaImage or a DICOM segmentation file (3D Slicer "
            "exports them)."
        )
    image, _ = _read_image(path)
    voxels = sitk.GetArrayFromImage(image)
    if voxels.dtype.kind == "f":
        whole = np.rint(voxels)
        if not np.array_equal(whole, voxels) or np.abs(whole).max() > 2**31 - 1:
            raise InputError(f"{path.name}: labels are whole numbers; this file holds fractions. Is it an image?")
        voxels = whole.astype(np.int32)
    return LabelMap(voxels, _geometry(image), source=path)


def write(volume: Volume | LabelMap, path: str | Path) -> Path:
    """Write a volume (int16, rounded half to even) or a label map (its own type), and the record as JSON beside it.

    The file appears complete or not at all. An older sidecar is removed before the file is replaced and the new one
    comes last, so that a kill at any moment leaves no file with another file's record.

    Args:
        volume: what to write; its record gets the hash of what is written.
        path: ``.nii.gz``, ``.nii``, ``.nrrd`` or ``.mha`` in an existing folder.

    Returns:
        The path.

    Raises:
        InputError: format not writable, folder missing, NaN or infinite voxels, a sheared grid for NIfTI, a JSON
            file of another kind in the sidecar's place, or the disk refused.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix in _WRITE_AS:
        raise InputError(
            f"{path.name}: {suffix} keeps voxels in a second file, and the pair cannot be replaced in one step. "
            f"Write {_WRITE_AS[suffix]} instead."
        )
    if suffix not in _WRITABLE:
        raise InputError(f"Cannot write {path.name}: the name must end in one of {', '.join(_WRITABLE)}.")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path.name}: its folder {path.parent} does not exist. Make the folder first.")
    if suffix in _NIFTI and volume.geometry.is_sheared():
        raise InputError(f"{path.name}: NIfTI cannot hold this sheared grid reliably. Write .nrrd or .mha instead.")
    sidecar = sidecar_path(path)
    foreign = sidecar.exists() and not _is_record(sidecar)
    image = _image(volume, path.name)
    record = volume.record if isinstance(volume, Volume) else None
    if record is not None:
        if foreign:
            raise InputError(
                f"{sidecar.name} exists and is not a CTGen record; refusing to replace it. Choose another output name."
            )
        record = record.with_output(path.name, volume.voxels, volume.geometry)
        image.SetMetaData("ITK_FileNotes" if suffix in _NIFTI else TAG_KEY, record.tag())
    with _temporary(path, suffix) as new_file, _temporary(sidecar, ".json") as new_sidecar:
        _write_image(image, new_file, path.name)
        try:
            if record is not None:
                new_sidecar.write_text(record.to_json(), encoding="utf-8")
            if not foreign:
                sidecar.unlink(missing_ok=True)
            os.replace(new_file, path)
            if record is not None:
                os.replace(new_sidecar, sidecar)
        except OSError as error:
            raise InputError(f"Cannot write {path.name}: {error}. Choose another place or free some space.") from error
    if isinstance(volume, Volume):
        volume.record = record
    return path


def write_all(volumes: Mapping[Path, Volume]) -> None:
    """Write several volumes, or none: when one fails, those written before it are removed.

    Raises:
        InputError: see :func:`write`.
    """
    written: list[Path] = []
    try:
        for path, volume in volumes.items():
            written.append(write(volume, path))
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
            sidecar_path(path).unlink(missing_ok=True)
        raise


def list_volumes(folder: str | Path) -> list[Path]:
    """Find the CT inputs below a folder, sorted: volume files, and folders that hold DICOM CT slices.

    Hidden files, 8-bit files (label maps cannot be HU) and DICOM objects without CT slices are left out.

    Raises:
        InputError: not a folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder. Give a folder, or read the file directly.")
    found: list[Path] = []
    for here, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        paths = [Path(here) / name for name in names if not name.startswith(".")]
        found += [path for path in paths if _suffix(path) in FORMATS and not _is_8bit(path)]
        rest = [path for path in paths if not _suffix(path)]
        if any(series.modality == "CT" for series in dicom.scan(rest)):
            found.append(Path(here))
    return sorted(found)


def output_name(source: str | Path, suffix: str) -> str:
    """File name for a result: ``chest.nii.gz`` and ``_recon`` give ``chest_recon.nii.gz``.

    DICOM becomes NRRD, named after its folder; ``.nhdr`` and ``.mhd`` become their one-file forms.
    """
    source = Path(source)
    kind = _suffix(source)
    if kind:
        return source.name[: -len(kind)] + suffix + _WRITE_AS.get(kind, kind)
    folder = source if source.is_dir() else source.parent
    return folder.resolve().name + suffix + ".nrrd"


def sidecar_path(path: str | Path) -> Path:
    """Where a volume's record lies: ``chest_recon.nii.gz`` has ``chest_recon.json``."""
    path = Path(path)
    return path.with_name(path.name[: -len(_suffix(path))] + ".json" if _suffix(path) else path.name + ".json")


def _suffix(path: Path) -> str:
    """The format's suffix as in :data:`FORMATS` (lower case), or an empty text."""
    return next((suffix for suffix in FORMATS if path.name.lower().endswith(suffix)), "")


def _is_dicom(path: Path) -> bool:
    """Whether to read ``path`` as DICOM: a folder, or a file of no other known kind that has the DICOM mark.

    Raises:
        InputError: missing, or of no known kind.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist. Check the path.")
    if path.is_dir():
        return True
    if _suffix(path):
        return False
    if dicom.looks_like_dicom(path):
        return True
    raise InputError(
        f"{path.name}: not a volume that CTGen reads. It reads {', '.join(FORMATS)} and DICOM series (a folder)."
    )


def _read_image(path: Path) -> tuple[sitk.Image, list[str]]:
    """Read a scalar 3D image; refuse what ITK would take in silence. Returns the image and warnings."""
    nifti = _suffix(path) in _NIFTI
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if nifti:
            check_nifti(path, None)  # a sheared or damaged header has a better explanation than ITK's
        raise InputError(
            f"{path.name}: cannot be read ({_last_line(error)}). Copy or download the file again."
        ) from None
    size = reader.GetSize()
    if len(size) != 3:
        raise InputError(
            f"{path.name}: a CT volume has 3 dimensions; this file has {len(size)}, sizes {size}. Pick one time point."
        )
    if reader.GetNumberOfComponents() != 1:
        raise InputError(
            f"{path.name}: a CT volume has one number per voxel; this file has {reader.GetNumberOfComponents()} "
            "(color or vectors). Export the CT itself."
        )
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(
            f"{path.name}: a CT volume has real numbers; this file has complex ones. Export the CT itself."
        )
    if not nifti:
        check_stream(path)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        if nifti:
            check_nifti(path, None)
        raise InputError(
            f"{path.name}: the voxels cannot be read ({_last_line(error)}). Copy or download the file again."
        ) from None
    if nifti:
        return image, check_nifti(path, _geometry(image))
    if _suffix(path) in (".nrrd", ".nhdr") and not image.HasMetaDataKey("NRRD_space"):
        return image, [f"{path.name}: the NRRD header states no space; left and right are a guess."]
    return image, []


def _write_image(image: sitk.Image, path: Path, name: str) -> None:
    grid = _geometry(image)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(path))
    writer.SetUseCompression(not path.name.endswith(".nii"))
    writer.SetCompressionLevel(1)  # 39 MB of CT as NRRD, one core: 0.24 s and 26 MB; level 6: 0.55 s and 19 MB
    try:
        writer.Execute(image)
        written, _ = _read_image(path)  # a full disk can end in a short file without an error
    except (RuntimeError, InputError) as error:
        reason = _last_line(error)
        raise InputError(f"Cannot write {name}: {reason}. Choose another place or free some space.") from None
    distance = grid.max_corner_distance_mm(_geometry(written))
    reach = float(np.abs(grid.affine_lps() @ [*grid.size_xyz, 1]).max()) + 1000
    if distance > 1e-6 * (reach if path.name.endswith(_NIFTI) else 1):  # NIfTI has float32: seven digits
        raise InputError(
            f"Cannot write {name}: the format would move the grid by up to {distance:.4g} mm (its axes are not exactly "
            "perpendicular). Write .nrrd or .mha instead."
        )


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    """A hidden name beside ``path`` with its suffix; whatever is left there is deleted at the end."""
    temporary = path.with_name(f".ctgen-{os.getpid()}-{secrets.token_hex(4)}{suffix}")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _image(volume: Volume | LabelMap, name: str) -> sitk.Image:
    voxels = volume.voxels
    if isinstance(volume, Volume):
        if not np.isfinite(voxels.min()) or not np.isfinite(voxels.max()):
            raise InputError(
                f"Cannot write {name}: voxels must be finite; some are NaN or infinite. This is a fault upstream."
            )
        voxels = round_hu(voxels)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(volume.geometry.spacing_mm)
    image.SetOrigin(volume.geometry.origin_mm)
    image.SetDirection(volume.geometry.direction)
    return image


def _float_voxels(image: sitk.Image) -> np.ndarray:
    """(Z, Y, X) float32, always a copy: a view would outlive the image's memory."""
    return np.array(sitk.GetArrayViewFromImage(image), dtype=np.float32)


def _geometry(image: sitk.Image) -> Geometry:
    return Geometry(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


def _meta(image: sitk.Image) -> dict[str, str]:
    """Modality and CTGen tag from a file's header."""
    meta = {}
    for key in image.GetMetaDataKeys():
        value = image.GetMetaData(key).strip()
        if key.lower() in _MODALITY_KEYS and value not in ("", "MET_MOD_UNKNOWN"):
            meta["modality"] = value.removeprefix("MET_MOD_")
        if (key == TAG_KEY or key == "descrip") and value.startswith("CTGen "):
            meta["ctgen_tag"] = value
    return meta


def _is_8bit(path: Path) -> bool:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return False  # listed, so that reading it tells what is wrong
    return reader.GetPixelID() in (sitk.sitkUInt8, sitk.sitkInt8)


def _is_record(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and str(content.get("schema", "")).startswith(RECORD_SCHEMA)


def _last_line(error: Exception) -> str:
    """The telling end of ITK's long messages, without its source paths."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].split("ITK ERROR: ")[-1] if lines else type(error).__name__
