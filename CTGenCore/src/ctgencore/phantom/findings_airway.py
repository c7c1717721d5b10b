"""Findings of the bronchi: thick walls, widened lumens."""

from __future__ import annotations

import numpy as np

from .findings_brush import AIRWAY, VESSEL, Brush, lobes_of
from .scene import Fact

LUMEN_HU, WALL_HU = -975.0, 10.0

Branch = tuple[np.ndarray, np.ndarray]  # (n, 3) points and (n,) radii in mm


def wall_thickening(brush: Brush, fact: Fact, look: str) -> bool:
    """Cuffs of soft tissue around the segmental bronchi; the lumen stays as wide as it was."""
    extra = 0.9 + 1.2 * fact.severity
    lobes = lobes_of(fact.side, fact.lobe)
    branches = _bronchi(brush, lobes, np.random.default_rng((fact.seed, 2)), 10, 5.0)
    return _draw(brush, lobes, [(points, radii + extra, radii) for points, radii in branches], fact.disease)


def bronchiectasis(brush: Brush, fact: Fact, look: str) -> bool:
    """Bronchi that stay wide (cylindrical), bulge (varicose) or end in sacs (cystic) far out in the lung."""
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    drawn = []
    for points, radii in _bronchi(brush, lobes, rng, 8, 3.2):
        course, width = _resample(points, np.full(len(points), max(radii.max(), 1.4) * (1.4 + 0.9 * fact.severity)))
        along = np.linspace(0, 1, len(width))
        if look == "varicose":
            width = width * (1 + 0.28 * np.sin(along * 2 * np.pi * len(width) / 4 + rng.uniform(0, 6)))
        elif look == "cystic":
            width = width * (0.8 + 0.9 * along**3)
        drawn.append((course, width + 1.4 + 0.8 * fact.severity, width))
    return _draw(brush, lobes, drawn, fact.disease)


def peripheral_bronchi(
    brush: Brush, lobes: tuple[int, ...], center: np.ndarray, reach: float, count: int, rng: np.random.Generator
) -> list[Branch]:
    """Small bronchi that fan out from the hilar side of a region, as they show in consolidated lung."""
    root = _root(brush, lobes, center)
    heading = center - root
    heading /= max(float(np.linalg.norm(heading)), 1e-6)
    start = center - 0.95 * reach * heading
    branches: list[Branch] = []
    for _ in range(count):
        turned = heading + rng.normal(size=3) * 0.55
        turned /= np.linalg.norm(turned)
        length = reach * rng.uniform(0.9, 1.6)
        bend = rng.normal(size=3) * 0.12 * length
        t = np.linspace(0, 1, 5)[:, None]
        points = start + t * length * turned + t * (1 - t) * bend
        branches.append((points, np.linspace(rng.uniform(1.2, 1.7), 0.6, 5)))
        side = turned + rng.normal(size=3) * 0.6
        fork = points[2]
        tip = fork + 0.5 * length * side / np.linalg.norm(side)
        branches.append((np.array([fork, 0.5 * (fork + tip) + 0.3 * bend, tip]), np.array([0.9, 0.8, 0.5])))
    return branches


def _root(brush: Brush, lobes: tuple[int, ...], toward: np.ndarray) -> np.ndarray:
    """Where the bronchi of lobes come from: the hilum of their side."""
    side = "left" if min(lobes) in (28, 29) else "right"
    hilum = brush.scene.landmarks.get(f"{side}_hilum")
    return toward + np.array([-30.0 if side == "left" else 30.0, 0, 0]) if hilum is None else np.asarray(hilum, float)


def _bronchi(brush: Brush, lobes: tuple[int, ...], rng: np.random.Generator, count: int, widest: float) -> list[Branch]:
    """Courses of up to ``count`` bronchi per lobe, none wider than ``widest`` mm, with the radius of their lumen.

    The own tubes come first, so that disease sits on bronchi that the healthy chest shows too.
    """
    found: list[Branch] = []
    for lobe in lobes:
        own = [tube for tube in brush.airways((lobe,)) if tube.radius_mm.max() < widest]
        own.sort(key=lambda tube: -float(tube.radius_mm.max()))
        chosen = own[:count]
        for tube in chosen:
            found.append((np.asarray(tube.points_mm, float), 0.8 * np.asarray(tube.radius_mm, float)))
        for at in rng.uniform((0.15, 0.2, 0.15), (0.85, 0.85, 0.85), (count - len(chosen), 3)):
            place = brush.place((lobe,), at)
            if place is None:
                continue
            root = _root(brush, (lobe,), place)
            start = root + 0.45 * (place - root)
            tip = root + 0.95 * (place - root)
            bend = rng.normal(size=3) * 0.08 * float(np.linalg.norm(tip - start))
            t = np.linspace(0, 1, 5)[:, None]
            found.append((start + t * (tip - start) + 4 * t * (1 - t) * bend, np.linspace(2.2, 1.3, 5)))
    return found


def _resample(points: np.ndarray, radii: np.ndarray, step_mm: float = 3.0) -> Branch:
    """The polyline with a point every few mm."""
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, length[-1], max(3, int(length[-1] / step_mm) + 1))
    return np.stack([np.interp(at, length, points[:, i]) for i in range(3)], axis=1), np.interp(at, length, radii)


def _draw(
    brush: Brush, lobes: tuple[int, ...], tubes: list[tuple[np.ndarray, np.ndarray, np.ndarray]], disease: int
) -> bool:
    """All walls (points, outer, inner radius) before all lumens, so that branches stay open into one another."""
    only = (*lobes, AIRWAY, VESSEL)
    for points, outer, _ in tubes:
        brush.tube(points, outer, WALL_HU, disease, only=only)
    for points, _, inner in tubes:
        brush.tube(points, inner, LUMEN_HU, only=only)
    return any(voxels.size for voxels in brush.marked)
