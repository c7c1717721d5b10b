"""Reads headers directly, for what ITK passes over in silence: shear, truncation, damaged zip streams."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from ..geometry import SHEAR_TOLERANCE, Geometry

_CHUNK = 1 << 20


@dataclass(frozen=True)
class NiftiHeader:
    """The fields of a NIfTI-1 header that decide where voxels lie and how many bytes there are.

    Attributes:
        dim: 8 numbers as stored; ``dim[0]`` is the number of dimensions.
        affines_ras: ``qform`` and ``sform`` as (4, 4), those whose code is above 0.
        data_end: byte after the last voxel in the uncompressed file.
        units_mm: False when the header states metres or micrometres.
    """

    dim: tuple[int, ...]
    affines_ras: dict[str, np.ndarray]
    data_end: int
    units_mm: bool


def parse_nifti(path: Path) -> NiftiHeader:
    """Read a NIfTI header (``.nii`` or ``.nii.gz``).

    Raises:
        InputError: not a NIfTI file, or cut off within the header.
    """
    try:
        with _open(path) as file:
            raw = file.read(348)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path.name}: cannot read the NIfTI header ({error}). Copy or download the file again."
        ) from None
    for order in "<>":
        size = struct.unpack(order + "i", raw[:4])[0] if len(raw) >= 4 else 0
        if size == 348 and len(raw) >= 348 and raw[344:348] in (b"n+1\0", b"ni1\0"):
            dim = struct.unpack(order + "8h", raw[40:56])
            bitpix = struct.unpack(order + "h", raw[72:74])[0]
            pixdim = struct.unpack(order + "8f", raw[76:108])
            offset = int(struct.unpack(order + "f", raw[108:112])[0])
            qcode, scode = struct.unpack(order + "2h", raw[252:256])
            quatern = struct.unpack(order + "6f", raw[256:280])
            srow = struct.unpack(order + "12f", raw[280:328])
            units = raw[123]
            break
        if size == 540:
            raise InputError(f"{path.name} is NIfTI-2, which ITK does not read. Convert it to NIfTI-1 or NRRD.")
    else:
        raise InputError(f"{path.name} is not a NIfTI file (no NIfTI-1 header). Copy or download it again.")
    if not 1 <= dim[0] <= 7 or min(dim[1 : dim[0] + 1]) < 1:
        raise InputError(f"{path.name}: damaged NIfTI header, dim = {dim}. Copy or download the file again.")
    affines: dict[str, np.ndarray] = {}
    if scode > 0:
        affines["sform"] = np.vstack([np.reshape(srow, (3, 4)), [0, 0, 0, 1]])
    if qcode > 0:
        affines["qform"] = _qform(quatern, pixdim)
    count = math.prod(dim[1 : dim[0] + 1])
    return NiftiHeader(dim, affines, offset + count * bitpix // 8, units & 7 in (0, 2))


def check_nifti(path: Path, grid: Geometry | None) -> list[str]:
    """Compare a NIfTI header with the grid that ITK made of it, and the file's length with its header.

    Args:
        path: the file.
        grid: what ITK read, or None when ITK refused the file.

    Returns:
        Warnings.

    Raises:
        InputError: sheared affine, affine and voxel size that contradict each other, units other than mm, or missing
            bytes.
    """
    header = parse_nifti(path)
    check_stream(path, header.data_end)
    if not header.units_mm:
        raise InputError(
            f"{path.name}: NIfTI voxel sizes must be in mm; xyzt_units states another unit. Convert the header."
        )
    for name, affine in header.affines_ras.items():
        columns = affine[:3, :3] / np.maximum(np.linalg.norm(affine[:3, :3], axis=0), 1e-12)
        shear = float(np.abs((columns.T @ columns)[np.triu_indices(3, 1)]).max())
        if not shear <= SHEAR_TOLERANCE:
            raise InputError(
                f"{path.name}: the {name} affine is sheared (voxel axes "
                f"{math.degrees(math.acos(min(1.0, shear))):.3f} degrees "
                "apart instead of 90), which NIfTI readers handle differently. Resample it onto a rectangular grid, "
                "or give "
                "the volume as NRRD."
            )
    if grid is None:
        return []
    if not header.affines_ras:
        return [
            f"{path.name}: the NIfTI header states no orientation (qform and sform codes are 0); left and right are "
            "a guess."
        ]
    corner = np.array([*(n - 1 for n in grid.size_xyz), 1])
    reach = {name: _apart(affine, grid.affine_ras(), corner) for name, affine in header.affines_ras.items()}
    # a float32 header, and a quaternion of seven digits whose first number follows from the other three
    tolerance = 1e-3 + 1e-5 * float(np.abs(grid.affine_ras() @ corner).max())
    if min(reach.values()) > tolerance:
        raise InputError(
            f"{path.name}: the header contradicts itself: {' and '.join(reach)} place the volume up to "
            f"{min(reach.values()):.4g} mm away from where pixdim {grid.spacing_mm} and ITK place it. Correct the "
            "header."
        )
    if max(reach.values()) > max(tolerance, 0.1):
        used = min(reach, key=lambda name: reach[name])
        return [
            f"{path.name}: qform and sform differ by up to {max(reach.values()):.4g} mm; the {used} is used, as in ITK."
        ]
    return []


def check_stream(path: Path, data_end: int | None = None) -> None:
    """Make sure that the voxel bytes are all there and, where compressed, undamaged; ITK often reads on.

    Args:
        path: NIfTI, NRRD or MetaImage file.
        data_end: byte after the last voxel of the uncompressed file; for NIfTI.

    Raises:
        InputError: bytes are missing, or the checksum of the compressed stream is wrong.
    """
    try:
        if data_end is not None:
            with _open(path) as file:
                zipped = isinstance(file, gzip.GzipFile)
                length = sum(len(block) for block in _blocks(file)) if zipped else path.stat().st_size
            if length < data_end:
                raise InputError(
                    f"{path.name} is cut off: {data_end} bytes expected, {length} present. Copy or download it again."
                )
            return
        data, start = _compressed_part(path)
        if data is not None:
            with data.open("rb") as raw:
                raw.seek(start)
                _inflate(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path.name}: the compressed data are damaged ({error}). Copy or download the file again."
        ) from None


def _compressed_part(path: Path) -> tuple[Path | None, int]:
    """The file and offset of the zip stream of an NRRD or MetaImage file, or None when it is not zipped."""
    header: dict[str, str] = {}
    with path.open("rb") as file:
        for _ in range(10_000):
            line = file.readline(1 << 16)
            text = line.decode("latin-1").strip()
            if not text and path.suffix in (".nrrd", ".nhdr"):
                break
            if not line:
                return None, 0
            key, _, value = text.partition("=" if path.suffix in (".mha", ".mhd") else ":")
            header[key.strip().lower()] = value.strip()
            if key.strip().lower() == "elementdatafile":
                break
        start = file.tell()
    zipped = header.get("encoding", "").lower() in ("gzip", "gz") or header.get("compresseddata", "").lower() == "true"
    detached = header.get("data file") or header.get("datafile") or header.get("elementdatafile", "LOCAL")
    if not zipped or detached.upper().startswith("LIST") or "%" in detached:
        return None, 0
    return (path, start) if detached.upper() == "LOCAL" else (path.parent / detached, 0)


def _inflate(raw: BinaryIO) -> None:
    """Decompress a gzip or zlib stream to its end, for the checksum."""
    inflater = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, told from the first bytes
    for block in _blocks(raw):
        while block and not inflater.eof:
            inflater.decompress(block, _CHUNK * 8)
            block = inflater.unconsumed_tail
        if inflater.eof:
            return
    raise EOFError("the stream ends early")


def _blocks(file: BinaryIO | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(_CHUNK):
        yield block


def _open(path: Path) -> BinaryIO | gzip.GzipFile:
    with path.open("rb") as file:
        zipped = file.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if zipped else path.open("rb")


def _apart(one: np.ndarray, two: np.ndarray, corner: np.ndarray) -> float:
    """Largest distance in mm between two affines at the first, last and the three axis-end voxels."""
    ends = np.vstack([np.diag(corner[:3]), corner[:3], np.zeros(3)])
    points = np.hstack([ends, np.ones((len(ends), 1))])
    return float(np.linalg.norm(points @ (one - two).T, axis=1).max())


def _qform(quatern: tuple[float, ...], pixdim: tuple[float, ...]) -> np.ndarray:
    """The qform affine (RAS) from quaternion b, c, d, the offsets and pixdim (NIfTI-1 method 2)."""
    b, c, d, *offset = quatern
    a = math.sqrt(max(0.0, 1.0 - (b * b + c * c + d * d)))
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - c * c - b * b],
        ]
    )
    handed = -1.0 if pixdim[0] < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = rotation * [pixdim[1], pixdim[2], pixdim[3] * handed]
    affine[:3, 3] = offset
    return affine
