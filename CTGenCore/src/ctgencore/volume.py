"""A CT volume and a label map: voxels plus the grid they lie on."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError
from .geometry import Geometry
from .intensity import INT16_MAX, INT16_MIN

if TYPE_CHECKING:
    from .provenance import RunRecord


@dataclass(eq=False)
class Volume:
    """CT in Hounsfield units.

    Attributes:
        voxels: (Z, Y, X) float32 HU; other number types are converted.
        geometry: where the voxels lie.
        record: how this volume was made, for results of a task.
        source: the file or folder it was read from.
        meta: header facts without patient data (modality, manufacturer, kernel, the CTGen tag ...).
        warnings: what reading noticed; :meth:`check_ct` returns them with its own.

    Raises:
        InputError: the voxels are not three-dimensional or do not fit the geometry.
    """

    voxels: np.ndarray
    geometry: Geometry
    record: RunRecord | None = None
    source: Path | None = None
    meta: dict[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Convert to float32 and check the shape."""
        self.voxels = np.ascontiguousarray(self.voxels, dtype=np.float32)
        _check_shape(self.voxels, self.geometry)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.geometry.shape_zyx

    @property
    def is_synthetic(self) -> bool:
        """Whether its record, or the tag of the file it came from, says that the anatomy is invented."""
        tagged = self.meta.get("ctgen_tag", "").startswith("CTGen SYNTHETIC")
        return tagged or (self.record is not None and self.record.synthetic)

    def __repr__(self) -> str:
        """Size, mm, orientation and HU range on one line."""
        lo, hi = float(self.voxels.min()), float(self.voxels.max())
        return f"Volume({_describe(self.geometry)}, HU [{lo:g}, {hi:g}])"

    def with_voxels(self, voxels: np.ndarray, record: RunRecord | None = None) -> Volume:
        """New voxels (Z, Y, X) on the same grid, with the same header facts."""
        return Volume(voxels, self.geometry, record=record, source=self.source, meta=dict(self.meta))

    def save(self, path: str | Path) -> Path:
        """Write the volume (int16, atomically) and its record, if any, as JSON; see :func:`ctgencore.io.write`."""
        from .io import write  # io builds Volumes, so it is imported when needed

        return write(self, path)

    def check_ct(self) -> list[str]:
        """Decide whether this can be CT in Hounsfield units.

        Returns:
            Warnings: things a person should look at.

        Raises:
            InputError: this cannot be CT; the message says why.
        """
        name = f"{self.source.name}: " if self.source else ""
        lo, hi = float(self.voxels.min()), float(self.voxels.max())
        if not math.isfinite(lo) or not math.isfinite(hi):  # NaN and inf both reach the minimum or the maximum
            bad = int(np.count_nonzero(~np.isfinite(self.voxels)))
            raise InputError(
                f"{name}CT voxels must be finite HU; {bad} of {self.voxels.size} are NaN or infinite. Repair them."
            )
        if lo == hi:
            raise InputError(
                f"{name}every voxel is {lo:g}; an empty volume is not CT. Check the export or the download."
            )
        if min(self.shape[1:]) < 8:
            raise InputError(f"{name}CT slices have at least 8x8 pixels; got {self.shape[1]}x{self.shape[2]} (YxX).")
        reason = _why_not_hu(lo, hi)
        if reason:
            raise InputError(
                f"{name}not CT in Hounsfield units: voxels range from {lo:g} to {hi:g}, {reason}. "
                "HU run from about -1024 (air) to about 3071; give the original CT."
            )
        found = list(self.warnings)
        if lo >= 0:
            found.append(
                f"{name}no voxel is below 0 HU (range {lo:g} to {hi:g}), though air is near -1000: the rescale "
                "intercept "
                "(usually -1024) may be missing. Export the CT again with its rescale applied."
            )
        if lo < INT16_MIN or hi > INT16_MAX:
            found.append(
                f"{name}voxels range from {lo:g} to {hi:g}; results are clipped to int16 [{INT16_MIN}, {INT16_MAX}]."
            )
        return found


@dataclass(eq=False)
class LabelMap:
    """Integer labels on a grid.

    Attributes:
        voxels: (Z, Y, X) integers; 0 is background.
        geometry: where the voxels lie.
        names: label to name, as far as known.
        source: the file it was read from.
    """

    voxels: np.ndarray
    geometry: Geometry
    names: dict[int, str] = field(default_factory=dict)
    source: Path | None = None

    def __post_init__(self) -> None:
        """Check type and shape."""
        self.voxels = np.ascontiguousarray(self.voxels)
        if self.voxels.dtype.kind not in "iu":
            raise InputError(
                f"A label map holds integers; got {self.voxels.dtype}. Round the labels and cast them first."
            )
        _check_shape(self.voxels, self.geometry)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(Z, Y, X)."""
        return self.geometry.shape_zyx

    def __repr__(self) -> str:
        """Size, mm, orientation and number of labels on one line."""
        count = np.count_nonzero(np.unique(self.voxels))
        return f"LabelMap({_describe(self.geometry)}, {count} labels)"

    def save(self, path: str | Path) -> Path:
        """Write the labels in their own integer type; see :func:`ctgencore.io.write`."""
        from .io import write  # io builds LabelMaps, so it is imported when needed

        return write(self, path)


def _why_not_hu(lo: float, hi: float) -> str:
    """Why values from ``lo`` to ``hi`` cannot be Hounsfield units, or an empty text."""
    if lo < -33000 or hi > 70000:
        return "which no scanner stores"
    if hi < -900:
        return "so everything would be air"
    if lo > 3000:
        return "so everything would be metal"
    if hi - lo < 50:
        return "as after normalization to unit range or in a label map"
    if lo >= 0 and hi <= 255:
        return "as in a label map or an 8-bit picture"
    return ""


def _check_shape(voxels: np.ndarray, geometry: Geometry) -> None:
    if voxels.ndim != 3:
        raise InputError(
            f"A volume is three-dimensional (Z, Y, X); got shape {voxels.shape}. Pick one channel or time point."
        )
    if voxels.shape != geometry.shape_zyx:
        raise InputError(f"Voxels of shape {voxels.shape} (Z, Y, X) do not fit a grid of {geometry.shape_zyx}.")


def _describe(geometry: Geometry) -> str:
    size = "x".join(str(n) for n in geometry.shape_zyx)
    spacing = "x".join(f"{v:.2f}" for v in geometry.spacing_zyx)
    return f"{size} ZYX, {spacing} mm, {geometry.orientation}"
