"""Segmenting a volume in order to measure it: by threshold, or by a segmenter that is installed beside CTGen."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..labels import AIRWAY, BODY, LUNG_LOBES, ORGANS, SCHEMES, TRACHEA, body_from_ct, convert, name_of
from ..volume import LabelMap, Volume
from .overlap import count
from .surface import label_surfaces

LUNG_HU, BONE_HU = -500.0, 200.0
LEAST_LUNG = 0.1  # of the largest region of lung density: smaller ones are gas in bowel
LEAST_BONE_ML = 1.0  # smaller regions are calcifications and noise

LUNGS = (*LUNG_LOBES, AIRWAY, TRACHEA)
BONES = tuple(o.index for o in ORGANS.values() if o.group in ("spine", "rib", "bone_cartilage") and o.index != 114)
LUNGS_AS, BONES_AS = LUNG_LOBES[0], 122  # ids that stand for all lungs and all bones in a threshold segmentation


@dataclass(frozen=True, kw_only=True, slots=True)
class Segmenter:
    """One way to segment.

    Attributes:
        name: what users ask for.
        command: program that must be on the PATH, or empty.
        install: how to get it.
        labels: organ ids that it can give.
        run: ``(volume, device) -> LabelMap`` in organ ids.
    """

    name: str
    command: str = ""
    install: str = ""
    labels: tuple[int, ...]
    run: Callable[[Volume, str], LabelMap]


def segment(volume: Volume, segmenter: str, device: str = "cpu") -> LabelMap:
    """Segment a CT.

    Args:
        volume: HU.
        segmenter: a name of :data:`SEGMENTERS`.
        device: of networks, such as ``cpu`` or ``cuda:0``.

    Returns:
        Organ ids with their names. Of ``threshold``: 28 stands for all lungs and airways, 122 for all bones, 200 for
        the rest of the body; its names say so.

    Raises:
        InputError: unknown segmenter, it is not installed or fails, or there is nothing to segment.
    """
    if segmenter not in SEGMENTERS:
        raise InputError(f"A segmenter is one of {', '.join(SEGMENTERS)}; got {segmenter!r}.")
    return SEGMENTERS[segmenter].run(volume, device)


def eps_phi(original: LabelMap, other: LabelMap, tolerance_mm: float) -> dict[int, float]:
    """Instability of a segmenter's answer: 1 - (Dice + surface Dice) / 2 for each label that either map has.

    Foundation VAE, appendix B.1, eq. 26, where ``original`` is of a CT and ``other`` of its reconstruction.

    Args:
        original, other: segmentations on one grid.
        tolerance_mm: of the surface Dice.

    Returns:
        Label to value, 0 (no change) to 1.
    """
    counts = count(original, other)
    dice = dict(zip(counts.labels.tolist(), counts.dice().tolist(), strict=True))
    return {
        label: 1 - (dice[label] + surfaces.nsd(tolerance_mm)) / 2 for label, surfaces in label_surfaces(original, other)
    }


# --- by threshold ----------------------------------------------------------------------------------------------------


def dense(hu: np.ndarray) -> np.ndarray:
    """Bone above 200 HU with its marrow, slice by slice; contrast that is as bright is in it. (Z, Y, X) bool."""
    from scipy import ndimage

    return np.stack([ndimage.binary_fill_holes(slice_YX) for slice_YX in hu > BONE_HU])


def _by_threshold(volume: Volume, device: str) -> LabelMap:
    """Body without its table, lungs with airways (below -500 HU in it), bones (see :func:`dense`)."""
    body = body_from_ct(volume)
    voxels = np.where(body, BODY, 0).astype(np.uint8)
    voxel_ml = float(np.prod(volume.geometry.spacing_mm)) / 1000
    bones, sizes = _regions(body & dense(volume.voxels))
    voxels[(sizes * voxel_ml >= LEAST_BONE_ML)[bones]] = BONES_AS
    lungs, sizes = _regions(body & (volume.voxels < LUNG_HU))
    voxels[((sizes > 0) & (sizes >= LEAST_LUNG * sizes.max()))[lungs]] = LUNGS_AS
    names = {LUNGS_AS: "lungs", BONES_AS: "bones", BODY: "soft tissue"}
    return LabelMap(voxels, volume.geometry, names, volume.source)


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Connected regions (Z, Y, X) and the number of voxels of each; 0 for the background, which has number 0."""
    from scipy import ndimage

    regions, n = ndimage.label(mask)
    sizes = np.bincount(regions.ravel(), minlength=n + 1)
    sizes[0] = 0
    return regions, sizes


# --- by other programs -----------------------------------------------------------------------------------------------


def _by_totalsegmentator(volume: Volume, device: str) -> LabelMap:
    gpu = device.replace("cuda", "gpu")
    return _external("totalsegmentator", volume, lambda ct, out: ["-i", ct, "-o", out, "--ml", "--device", gpu], {})


def _by_lungmask(volume: Volume, device: str) -> LabelMap:
    # Its lobes 1 to 5: left upper and lower, right upper, middle and lower, as ours are ordered.
    names = {number: name_of(index) for number, index in enumerate(LUNG_LOBES, 1)}
    cpu = ["--cpu"] if device == "cpu" else []
    return _external(
        "lungmask", volume, lambda ct, out: [ct, out, "--modelname", "LTRCLobes_R231", "--noprogress", *cpu], names
    )


def _external(
    segmenter: str, volume: Volume, arguments: Callable[[str, str], list[str]], names: dict[int, str]
) -> LabelMap:
    """Run a program on a temporary NIfTI file and read what it wrote; names tell its numbers, else its scheme does."""
    from .. import io  # loads SimpleITK, which listing the metrics should not

    row = SEGMENTERS[segmenter]
    program = shutil.which(row.command)
    if program is None:
        raise InputError(
            f"The segmenter {segmenter} needs the program {row.command}, which is not on the PATH. {row.install}, or "
            "take the segmenter threshold."
        )
    with tempfile.TemporaryDirectory(prefix="ctgen-") as folder:
        ct, out = Path(folder) / "ct.nii.gz", Path(folder) / "labels.nii.gz"
        io.write(Volume(volume.voxels, volume.geometry), ct)
        line = [program, *arguments(str(ct), str(out))]
        done = subprocess.run(line, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
        if done.returncode or not out.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise InputError(
                f"{row.command} ended with code {done.returncode}{'' if out.exists() else ' and wrote no label map'}: "
                f"{' / '.join(last) or 'it said nothing'}. Run {row.command} on the volume by hand to see more."
            )
        found = io.read_labels(out)
    found.geometry.assert_equal(volume.geometry, 1e-2, f"the CT and the labels that {row.command} wrote")
    labels = LabelMap(found.voxels, volume.geometry, names)
    return convert(labels, "names" if names else segmenter).labels if labels.voxels.any() else labels


SEGMENTERS = {
    row.name: row
    for row in (
        Segmenter(name="threshold", labels=(LUNGS_AS, BONES_AS, BODY), run=_by_threshold),
        Segmenter(
            name="totalsegmentator",
            command="TotalSegmentator",
            install="Install it with: pip install TotalSegmentator",
            labels=tuple(SCHEMES["totalsegmentator"].values()),
            run=_by_totalsegmentator,
        ),
        Segmenter(
            name="lungmask",
            command="lungmask",
            install="Install it with: pip install lungmask",
            labels=LUNG_LOBES,
            run=_by_lungmask,
        ),
    )
}
