"""A procedural chest CT with organ ids, findings and report."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..labels import name_of
from ..volume import LabelMap, Volume
from . import anatomy
from .acquire import acquire
from .scene import Patient, Phantom

FIELD_MM = (360.0, 360.0, 260.0)  # (x, y, z) covered when no spacing is given


def chest(
    shape_zyx: tuple[int, int, int] = (64, 256, 256),
    spacing_mm: tuple[float, float, float] | None = None,
    seed: int = 0,
    findings: Sequence[str] | None = (),
    center_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> Phantom:
    """Draw a chest.

    Args:
        shape_zyx: array shape.
        spacing_mm: (x, y, z); by default the grid covers 360 x 360 x 260 mm.
        seed: chooses the patient; the same seed gives the same voxels.
        findings: names of findings (:data:`ctgencore.labels.FINDINGS`); none of them by default, ``None`` = by seed.
        center_mm: where in the world (LPS) the grid's middle lies; 0 is the middle of the standard field.

    Returns:
        CT (float32 HU, identity direction), organ ids, disease classes, facts, report and patient.

    Raises:
        InputError: a size below 8, or an unknown finding.
    """
    if min(shape_zyx) < 8:
        raise InputError(f"A phantom needs at least 8 voxels along each axis; got {shape_zyx} (Z, Y, X).")
    size = shape_zyx[::-1]
    spacing = spacing_mm or tuple(field / n for field, n in zip(FIELD_MM, size, strict=True))
    origin = tuple(c - (n - 1) / 2 * s for c, n, s in zip(center_mm, size, spacing, strict=True))
    grid = Geometry(size, spacing, origin)  # type: ignore[arg-type]
    from . import findings as disease  # loads scipy, which importing the package should not
    from .report import write

    patient = Patient.draw(seed)
    facts = disease.plan(patient, seed, findings)
    patient = disease.adapt(patient, facts)
    scene = anatomy.build(patient, grid)
    facts = disease.apply(scene, facts)
    return Phantom(
        ct=Volume(acquire(scene), grid),
        organs=LabelMap(scene.organs, grid, _names(scene.organs)),
        diseases=LabelMap(scene.diseases, grid, _names(scene.diseases)),
        facts=facts,
        report=write(facts, patient, seed),
        patient=patient,
    )


def _names(voxels: np.ndarray) -> dict[int, str]:
    present = np.zeros(256, bool)
    for plane in voxels:  # bincount widens to 64 bits: not all at once
        present |= np.bincount(plane.ravel(), minlength=256) > 0
    return {int(value): name_of(int(value)) for value in np.flatnonzero(present) if value}
