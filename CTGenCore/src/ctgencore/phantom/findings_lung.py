"""Findings that change the density of lung over a region: opacity, consolidation, emphysema, mosaic attenuation."""

from __future__ import annotations

import numpy as np

from .findings_airway import peripheral_bronchi
from .findings_brush import AIRWAY, LOBES, TRACHEA, Box, Brush, lobes_of
from .findings_fields import cells, faded, smoothstep
from .scene import Fact


def opacity(brush: Brush, fact: Fact, look: str) -> bool:
    """Ground glass: part of the air replaced, vessels and bronchi visible through it."""
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    blobs = []
    if fact.lobe:
        blobs += _blobs(brush, lobes, rng, 1, 0.5 * fact.size_mm, 0.5 * fact.size_mm)
        blobs += _beside(blobs, rng)
    else:
        for lobe in lobes:
            blobs += _blobs(brush, (lobe,), rng, 1 + int(rng.integers(2)) + round(fact.severity), 16, 34)
    amount = 0.22 + 0.2 * fact.severity
    return _cloud(brush, fact, lobes, blobs, amount, rim=False)


def consolidation(brush: Brush, fact: Fact, look: str) -> bool:
    """Air replaced by fluid up to the border of the lobe, with open bronchi in it and a hazy margin elsewhere."""
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    blobs = _blobs(brush, lobes, rng, 1, 0.55 * fact.size_mm, 0.55 * fact.size_mm)
    blobs += _beside(blobs, rng)
    if not _cloud(brush, fact, lobes, blobs, 0.97, rim=True):
        return False
    center, radius = blobs[0]
    for points, radii in peripheral_bronchi(brush, lobes, center, 0.9 * radius, 4, rng):
        brush.tube(points, radii, -960, only=(*lobes, AIRWAY))
    return True


def emphysema(brush: Brush, fact: Fact, look: str) -> bool:
    """Holes without walls, most in the upper lobes (centrilobular) or below the pleura (paraseptal)."""
    lobes = lobes_of(fact.side, fact.lobe)
    bounds = brush.bounds(lobes)
    if bounds is None:
        return False
    top, bottom = brush.points(lobes)[:, 2].max(), brush.points(lobes)[:, 2].min()
    reach = 0.3 + 0.5 * fact.severity  # share of the lungs' height that is diseased
    for box in brush.slabs(*bounds):
        z = brush.mm(box)[2]
        height = (z - bottom) / (top - bottom)
        region = (height - (1 - reach)) * 2.2 + 0.35 * brush.noise(box, 26, fact.seed)
        if look == "paraseptal":
            region = np.minimum(
                0.5 * region + 0.5 * brush.noise(box, 16, fact.seed + 3), (12 - brush.sample(brush.depth, box)) / 8
            )
        diseased, marked = faded(region, 0.0, 0.2)
        inside = brush.territory(box, lobes)
        if look == "paraseptal":
            holes = _bullae(brush, box, inside & (diseased > 0), fact.seed + 1)
        else:
            speckle = brush.noise(box, 3.2, fact.seed + 1) + 0.7 * brush.noise(box, 7, fact.seed + 2)
            holes = smoothstep(speckle, -0.3, 0.3)
        _thin(brush, box, inside * diseased * (0.25 + 0.75 * holes), -965 - 15 * fact.severity)
        brush.mark(box, inside & marked & brush.among(box, lobes), fact.disease)
    return True


def mosaic(brush: Brush, fact: Fact, look: str) -> bool:
    """Sharply bordered dark and bright patches of lung (small airways or small vessels)."""
    bounds = brush.bounds(LOBES)
    if bounds is None:
        return False
    contrast = 60 + 60 * fact.severity
    for box in brush.slabs(*bounds):
        field = brush.noise(box, 24, fact.seed) + 0.35 * brush.noise(box, 9, fact.seed + 1)
        dark = smoothstep(field, -0.12, 0.12)
        inside = brush.territory(box, LOBES)
        brush.fill(box, inside * (1 - dark) * (0.55 * contrast / 900))
        _thin(brush, box, inside * dark * (contrast / 150), -945)
    return True


def _bullae(brush: Brush, box: Box, where: np.ndarray, seed: int) -> np.ndarray:
    """1 in cells of about 11 mm, 0 in the thin septa between them."""
    holes = np.zeros(where.shape, np.float32)
    z, y, x = np.nonzero(where)
    first, second = cells(brush.axes[0][box[2]][x], brush.axes[1][box[1]][y], brush.axes[2][box[0]][z], 11.0, seed)
    holes[z, y, x] = ((second - first) / 2 / max(float(brush.edge), 1.0)).clip(0, 1)
    return holes


def _thin(brush: Brush, box: Box, cover: np.ndarray, hu: float) -> None:
    """Replace lung tissue by air; vessels (denser than -600) stay."""
    part = brush.scene.hu[box]
    weight = cover.clip(0, 1) * smoothstep(part, -600, -720)
    part += weight * (hu - part).clip(None, 0)


def _blobs(
    brush: Brush, lobes: tuple[int, ...], rng: np.random.Generator, count: int, low: float, high: float
) -> list[tuple[np.ndarray, float]]:
    """Centers and radii in mm of round regions that reach the pleura more often than not."""
    blobs = []
    for at in rng.uniform((0.1, 0.2, 0.12), (0.9, 0.95, 0.88), (count, 3)):
        radius = float(rng.uniform(low, high))
        center = brush.place(lobes, at)
        if center is not None:
            blobs.append((_slide(brush, center, lobes, 0.4 * radius), radius))
    return blobs


def _slide(brush: Brush, point: np.ndarray, lobes: tuple[int, ...], depth: float) -> np.ndarray:
    """Move a point away from or towards the middle of its lobe until it lies so deep (mm) below the pleura."""
    middle = brush.points(lobes).mean(axis=0)
    heading = (point - middle) / max(float(np.linalg.norm(point - middle)), 1e-6)
    outwards = brush.depth_at(point) > depth
    for _ in range(30):
        further = point + (2.0 if outwards else -2.0) * heading
        if (brush.depth_at(point) > depth) != outwards or brush.region_at(further) not in lobes:
            break
        point = further
    return point


def _beside(blobs: list[tuple[np.ndarray, float]], rng: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    """Smaller regions that overlap the given ones, so that these are not round."""
    found = []
    for center, radius in blobs:
        for _ in range(3):
            heading = rng.normal(size=3)
            shift = heading / np.linalg.norm(heading) * radius * rng.uniform(0.5, 1.0)
            found.append((center + shift, radius * float(rng.uniform(0.3, 0.55))))
    return found


def _cloud(
    brush: Brush,
    fact: Fact,
    lobes: tuple[int, ...],
    blobs: list[tuple[np.ndarray, float]],
    amount: float,
    *,
    rim: bool,
) -> bool:
    """Fill the air of lobes inside blobs with ragged borders, and mark it."""
    if not blobs:
        return False
    low = np.min([center - 1.45 * radius for center, radius in blobs], axis=0)
    high = np.max([center + 1.45 * radius for center, radius in blobs], axis=0)
    bounds = brush.bounds(lobes)
    if bounds is None:
        return False
    soft = 0.35 if amount < 0.6 else 0.16  # ground glass fades, consolidation ends within a few mm
    touched = False
    for box in brush.slabs(np.maximum(low, bounds[0]), np.minimum(high, bounds[1])):
        x, y, z = brush.mm(box)
        field = np.full(brush.scene.hu[box].shape, -9.0, np.float32)
        for center, radius in blobs:
            gap = np.sqrt((x - center[0]) ** 2 + (y - center[1]) ** 2 + (z - center[2]) ** 2)
            np.maximum(field, 1 - gap / np.float32(radius), out=field)
        near = field > -0.45
        if not near.any():
            continue
        field += 0.16 * brush.noise(box, 14, fact.seed) + 0.07 * brush.noise(box, 5, fact.seed + 1)
        field[~near] = -9
        density, marked = faded(field, -0.05, -0.05 + 2 * soft)
        inside = brush.territory(box, lobes, rim=rim)
        texture = 1 + 0.12 * brush.noise(box, 3.5, fact.seed + 2) if amount < 0.6 else 1.0
        brush.fill(box, inside * density * np.float32(amount) * texture, 35)
        marked &= inside & ~brush.among(box, (TRACHEA, AIRWAY))
        if rim:
            marked &= brush.among(box, (*lobes, 133))
        brush.mark(box, marked, fact.disease)
        touched = touched or bool(marked.any())
    return touched
