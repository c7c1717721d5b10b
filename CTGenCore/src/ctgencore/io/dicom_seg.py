"""Label maps from and to DICOM segmentations (SEG)."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..errors import InputError
from ..geometry import Geometry
from ..volume import LabelMap
from . import dicom
from .dicom_header import NO_DATE, NO_TIME, require, save, sign, uid

_VALUE = "CTGen label "  # begins the description of our segments; the label's number follows
_KEPT = (  # facts of the source that are true of what is derived from it (PS3.3, C.12.1 for the first)
    *("SyntheticData", "PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence"),
    "LongitudinalTemporalInformationModified",
)
# CID 7150's code; 3D Slicer, and so labels.terminology, has 123037004 under the same meaning
_ANATOMY = ("SCT", "91723000", "Anatomical Structure")
_NEEDED = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")
_SURE = 0.8  # confidence of a name from which its code is written
_SAME_PLACE_MM = 0.02  # a label file's float32 grid lies up to 0.01 mm off its CT's
_HIGHEST = 65535  # segment numbers have 16 bits
_CHARACTERS = 64  # of a segment's label


def read_seg(path: str | Path, like: Geometry | None = None) -> LabelMap:
    """Read a DICOM segmentation.

    Args:
        path: the SEG file.
        like: grid to bring the labels to, such as the CT's; it may be turned, and larger than what was segmented.
            Without it they stay on the segmentation's own grid, which often has only the slices that hold something.

    Returns:
        Labels and their names. The numbers are those of the segments, or of the labels that ``write_seg`` was given.

    Raises:
        InputError: not a SEG, segments that overlap, fractional ones, no regular grid, or ``like`` lies elsewhere.
    """
    path = Path(path)
    if not path.is_file() or not dicom.is_segmentation(path):
        raise InputError(f"{path} is not a DICOM segmentation (SEG) file. Give a SEG, or labels as NIfTI or NRRD.")
    [highdicom, pydicom] = require("highdicom", "pydicom")
    try:
        dataset = pydicom.dcmread(path)
        seg = highdicom.seg.Segmentation.from_dataset(dataset, copy=False)
        grid = seg.get_volume_geometry()
    except (AttributeError, KeyError, ValueError, EOFError) as error:
        raise InputError(f"{path.name}: the segmentation cannot be read ({error}). Export it again.") from None
    if grid is None:
        raise InputError(f"{path.name}: the segmentation's frames do not form one regular grid. Resample it first.")
    if seg.segmentation_type == highdicom.seg.SegmentationTypeValues.FRACTIONAL:
        raise InputError(f"{path.name}: a FRACTIONAL segmentation has shares, not labels. Export it as BINARY.")
    items = {int(item.SegmentNumber): item for item in seg.SegmentSequence if int(item.SegmentNumber) > 0}
    try:
        volume = seg.get_volume(combine_segments=True)
    except RuntimeError:
        seg = highdicom.seg.Segmentation.from_dataset(dataset)  # the one that failed keeps its tables locked
        raise InputError(
            f"{path.name}: a label map has one label per voxel; these segments overlap: {_overlaps(seg, items)}. "
            "Remove the overlap (3D Slicer: Segment Editor, masking), or leave one of them out."
        ) from None
    numbers = _numbers(items)
    voxels = np.asarray(volume.array)
    table = np.zeros(max([int(voxels.max()), *items]) + 1, np.min_scalar_type(max(numbers.values())))
    for segment, number in numbers.items():
        table[segment] = number
    geometry = _geometry(volume.affine, voxels.shape)
    labels = table[voxels]
    if geometry.is_left_handed:  # slices in ascending order, as of a CT series
        labels = labels[::-1]
        origin = geometry.affine_lps() @ [0, 0, len(labels) - 1, 1]
        turned = geometry.direction_matrix * [1, 1, -1]
        geometry = Geometry(geometry.size_xyz, geometry.spacing_mm, tuple(origin[:3]), tuple(turned.ravel()))
    names = {numbers[segment]: str(item.get("SegmentLabel", "")) for segment, item in items.items()}
    if like is not None:
        labels, geometry = _placed(labels, geometry, like, path.name), like
    return LabelMap(labels, geometry, names=names, source=path)


def write_seg(labels: LabelMap, names: Mapping[int, str], path: str | Path, series: str | Path) -> Path:
    """Write labels as a binary DICOM segmentation of a CT series; the same input gives the same bytes.

    The segmentation joins the patient and study of ``series``. Names that CTGen knows get DICOM's codes
    (:mod:`ctgencore.labels.terminology`), others the code of tissue; how the labels were made is said to be unknown.

    Args:
        labels: on the grid of the series; the axes may be turned.
        names: label to name; those without one are called "label 5".
        path: file to write, complete or not at all.
        series: the CT's folder, or one of its files.

    Returns:
        The path.

    Raises:
        InputError: no label in the map, another grid, or a series that cannot carry a segmentation.
    """
    path, series = Path(path), Path(series)
    [highdicom, pydicom] = require("highdicom", "pydicom")
    if not path.parent.is_dir():
        raise InputError(f"Cannot write {path.name}: there is no folder {path.parent}. Make it first.")
    values = values_of(labels)
    slices, grid, _ = dicom.regular_grid(dicom.find_series(series).slices, series.name)
    placed = _placed(labels.voxels, labels.geometry, grid, "the label map")
    if np.count_nonzero(placed) != np.count_nonzero(labels.voxels) or placed.shape != grid.shape_zyx:
        raise InputError("The label map reaches beyond the series. Give the series that it was drawn on.")
    numbers = np.zeros(values[-1] + 1, np.min_scalar_type(len(values)))
    numbers[values] = np.arange(1, len(values) + 1)
    segments = numbers[placed]
    sources = [pydicom.dcmread(item.path, stop_before_pixels=True) for item in slices]
    for name in _NEEDED:
        if not all(source.get(name) for source in sources):
            raise InputError(
                f"{series.name}: a segmentation refers to its series, which has no {name}. Write a series that has: "
                "`ctgencore dicom export`, with this one as --like."
            )
    called = {value: (names.get(value) or f"label {value}").strip()[:_CHARACTERS] for value in values}
    digest = hashlib.sha256(segments.tobytes()).hexdigest()
    own = ("segmentation", sources[0].SeriesInstanceUID, sources[0].SOPInstanceUID, called, digest, __version__)
    try:
        with warnings.catch_warnings():  # about the form of a source's names, which stay as they are
            warnings.simplefilter("ignore", UserWarning)
            seg = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=segments,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[_describe(highdicom, n, v, called[v]) for n, v in enumerate(values, 1)],
                series_instance_uid=uid("series", *own),
                series_number=10_000 + int(sources[0].get("SeriesNumber") or 0),
                sop_instance_uid=uid(*own),
                instance_number=1,
                manufacturer="CTGen",
                manufacturer_model_name="CTGen",
                software_versions=__version__,
                device_serial_number="none",
                content_label="SEGMENTATION",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{series.name}: the series cannot carry a segmentation ({error}).") from None
    _settle(seg, sources[0])
    from .files import _temporary

    with _temporary(path, ".dcm") as new_file:
        try:
            save(seg, new_file)
            os.replace(new_file, path)
        except OSError as error:
            raise InputError(f"Cannot write {path.name}: {error}. Choose another place or free some space.") from error
    return path


def values_of(labels: LabelMap) -> list[int]:
    """The labels that occur, in ascending order, without the background.

    Raises:
        InputError: there is none, or one that no segmentation can hold.
    """
    low, high = int(labels.voxels.min()), int(labels.voxels.max())
    if low < 0 or not 0 < high <= _HIGHEST:
        raise InputError(
            f"A segmentation has labels from 1 to {_HIGHEST}; the map's lie between {low} and {high}. Give another map."
        )
    there = np.zeros(high + 1, bool)
    for plane in labels.voxels:
        there[plane] = True
    return [int(value) for value in np.flatnonzero(there) if value]


def _describe(highdicom: Any, segment: int, value: int, name: str) -> Any:
    """One item of the segment sequence."""
    from ..labels import suggest
    from ..labels.terminology import TISSUE, entry

    found = suggest(name)
    known = found is not None and found.confidence >= _SURE
    category, kind, modifier, region, region_modifier = entry(found.id) if found and known else TISSUE
    item = highdicom.seg.SegmentDescription(
        segment_number=segment,
        segment_label=name,
        segmented_property_category=_coded(highdicom, _ANATOMY if category[2] == _ANATOMY[2] else category),
        segmented_property_type=_coded(highdicom, kind),
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.MANUAL,
        anatomic_regions=[_coded(highdicom, region)] if region[0] else None,
    )
    item.SegmentDescription = f"{_VALUE}{value}"
    item.SegmentAlgorithmType, item.SegmentAlgorithmName = "SEMIAUTOMATIC", "not recorded"
    if modifier[0]:
        kinds = item.SegmentedPropertyTypeCodeSequence[0]
        kinds.SegmentedPropertyTypeModifierCodeSequence = [_coded(highdicom, modifier)]
    if region_modifier[0]:
        item.AnatomicRegionSequence[0].AnatomicRegionModifierSequence = [_coded(highdicom, region_modifier)]
    return item


def _coded(highdicom: Any, entry: tuple[str, str, str]) -> Any:
    scheme, value, meaning = entry
    return highdicom.sr.CodedConcept(value=value, scheme_designator=scheme, meaning=meaning)


def _settle(seg: Any, source: Any) -> None:
    """Take out of the data set what changes from run to run: the clock, and UIDs drawn by chance."""
    sign(seg)
    seg.SeriesDescription = "Segmentation"
    seg.ContentDate = str(source.get("StudyDate") or NO_DATE)
    seg.ContentTime = str(source.get("StudyTime") or NO_TIME)
    for name in ("InstanceCreationDate", "InstanceCreationTime"):
        delattr(seg, name)
    for name in _KEPT:
        if name in source:
            seg.add(source[name])
    for item in seg.ContributingEquipmentSequence:
        item.pop("ContributionDateTime", None)
    organization = uid("dimensions", seg.SOPInstanceUID)
    for item in (*seg.DimensionOrganizationSequence, *seg.DimensionIndexSequence):
        item.DimensionOrganizationUID = organization


def _numbers(items: dict[int, Any]) -> dict[int, int]:
    """Segment number to label: what our own description says, if all segments have one, else the same number."""
    found = {n: re.fullmatch(rf"{_VALUE}(\d+)", str(item.get("SegmentDescription", ""))) for n, item in items.items()}
    numbers = {n: int(match[1]) for n, match in found.items() if match}
    whole = len(numbers) == len(items) == len(set(numbers.values())) and 0 not in numbers.values()
    return numbers if whole else {n: n for n in items}


def _overlaps(seg: Any, items: dict[int, Any]) -> str:
    """Which segments share voxels."""
    masks: dict[int, np.ndarray] = {}
    found = []
    for number in items:
        mask = np.packbits(seg.get_volume(segment_numbers=[number]).array.astype(bool))
        found += [(other, number) for other, there in masks.items() if (mask & there).any()]
        masks[number] = mask
    return ", ".join(f"'{items[one].SegmentLabel}' and '{items[two].SegmentLabel}'" for one, two in found)


def _geometry(affine: np.ndarray, shape: tuple[int, ...]) -> Geometry:
    """From an affine of (slice, row, column) indices to LPS mm."""
    columns = np.asarray(affine, np.float64)[:3, 2::-1]
    spacing = np.linalg.norm(columns, axis=0)
    return Geometry(
        (shape[2], shape[1], shape[0]), tuple(spacing), tuple(affine[:3, 3]), tuple((columns / spacing).ravel())
    )


def _placed(voxels: np.ndarray, own: Geometry, target: Geometry, name: str) -> np.ndarray:
    """The labels on another grid whose voxels lie on the same places; 0 beyond the own field.

    Raises:
        InputError: voxels of one grid lie between those of the other, or the fields do not meet.
    """
    matrix = np.linalg.inv(own.affine_lps()) @ target.affine_lps()  # target index -> own index, (i, j, k)
    turn, shift = np.rint(matrix[:3, :3]), np.rint(matrix[:3, 3])
    corners = np.array(list(product((0, 1), repeat=3))) * (np.asarray(target.size_xyz) - 1)
    off = (corners @ turn.T + shift - (corners @ matrix[:3, :3].T + matrix[:3, 3])) * np.asarray(own.spacing_mm)
    one_to_one = bool((np.abs(turn).sum(0) == 1).all() and (np.abs(turn).sum(1) == 1).all())
    distance = float(np.linalg.norm(off, axis=1).max())
    if not one_to_one or distance > _SAME_PLACE_MM:
        raise InputError(
            f"{name}: the labels lie on another grid ({own.size_xyz}, {_mm(own)}) than the CT ({target.size_xyz}, "
            f"{_mm(target)}): their voxels are not in the same places. Resample the labels onto the CT first."
        )
    axes = [int(np.flatnonzero(turn[:, axis])[0]) for axis in range(3)]  # own axis of target's i, j, k
    picks, inside = [], []
    for axis, there in enumerate(axes):
        at = (turn[there, axis] * np.arange(target.size_xyz[axis]) + shift[there]).astype(int)
        inside.append((at >= 0) & (at < own.size_xyz[there]))
        picks.append(at[inside[-1]])
    if not all(len(pick) for pick in picks):
        raise InputError(f"{name}: the labels lie elsewhere than the CT. Give the CT that they belong to.")
    turned = voxels.transpose([2 - there for there in reversed(axes)])
    out = np.zeros(target.shape_zyx, voxels.dtype)
    out[np.ix_(*reversed(inside))] = turned[np.ix_(*reversed(picks))]
    return out


def _mm(grid: Geometry) -> str:
    return "x".join(f"{value:g}" for value in grid.spacing_mm) + " mm"
