"""Findings outside the lungs: calcified arteries, pericardial fluid, hernia, enlarged nodes."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .findings_brush import AIRWAY, LOBES, STEP_MM, TRACHEA, VESSEL, Brush
from .findings_fields import ellipsoid, smoothstep
from .scene import Fact

AORTA, HEART, ESOPHAGUS, STOMACH, VENA_CAVA = 6, 115, 11, 12, 125
VERTEBRAE = tuple(range(33, 57))
RIBS = tuple(range(63, 87))
FIRM = (*VERTEBRAE, *RIBS, 114, 121, 122)  # nothing soft grows into bone, cartilage or the spinal cord
BLOOD = (AORTA, 7, HEART, 108, 109, 110, 111, 112, 113, 119, 123, 124, VENA_CAVA)
# Stations of mediastinal nodes: offset from the carina (or a hilum) in mm, LPS.
STATIONS = {
    "right lower paratracheal": ("carina", (-15.0, -6.0, 17.0)),
    "left lower paratracheal": ("carina", (15.0, -2.0, 15.0)),
    "subcarinal": ("carina", (0.0, 6.0, -20.0)),
    "prevascular": ("carina", (4.0, -44.0, 30.0)),
    "right hilar": ("right_hilum", (-6.0, 4.0, -4.0)),
    "left hilar": ("left_hilum", (6.0, 4.0, -4.0)),
}
SIDE_OF_STATION = {
    "right lower paratracheal": "right",
    "left lower paratracheal": "left",
    "subcarinal": "",
    "prevascular": "",
    "right hilar": "right",
    "left hilar": "left",
}


def arterial_calcification(brush: Brush, fact: Fact, look: str) -> bool:
    """Plaques in the wall of the aorta, HU as of calcium."""
    rng = np.random.default_rng((fact.seed, 2))
    painted = 0.0
    for at, turn in zip(
        rng.uniform(0.03, 0.97, (4 + round(12 * fact.severity), 3)), rng.uniform(0, 2 * np.pi, 64), strict=False
    ):
        inner = brush.place((AORTA,), at)
        if inner is None:
            return False
        heading = np.array([np.cos(turn), np.sin(turn), 0.0])
        wall = brush.march(inner, heading, (AORTA,), leave=True)
        if wall is None or np.linalg.norm(wall - inner) > 30:
            continue
        length, thick = rng.uniform(2, 3 + 4 * fact.severity), rng.uniform(1.0, 1.8)
        tangent = np.array([-heading[1], heading[0], 0.0])
        axes = np.stack([heading, tangent, np.array([0.0, 0.0, 1.0])])
        center = wall - 1.2 * heading
        painted += brush.shape(
            center - length - 1, center + length + 1, ellipsoid(center, np.array([thick, length, length]), axes),
            rng.uniform(600, 1100), never=(*LOBES, TRACHEA, AIRWAY, *FIRM),
        )  # fmt: skip
    return painted > 0


def coronary_calcification(brush: Brush, fact: Fact, look: str) -> bool:
    """Beads of calcium along the coronary arteries, first along the left anterior descending."""
    rng = np.random.default_rng((fact.seed, 2))
    courses = [np.asarray(tube.points_mm, float) for tube in brush.scene.tubes if tube.kind == "coronary"]
    if not courses:
        courses = _grooves(brush)
    painted = 0.0
    for _ in range(4 + round(14 * fact.severity)):
        if not courses:
            return False
        course = courses[int(rng.integers(len(courses)))]
        at = rng.uniform(0.02, 0.6) * (len(course) - 1)
        center = np.array([np.interp(at, np.arange(len(course)), course[:, i]) for i in range(3)])
        step = course[min(int(at) + 1, len(course) - 1)] - course[int(at)]
        axes = _frame(step)
        radii = np.array([rng.uniform(2, 4.5), rng.uniform(1.1, 1.8), rng.uniform(1.1, 1.8)])
        painted += brush.shape(
            center - 6, center + 6, ellipsoid(center, radii, axes), rng.uniform(600, 1200), never=FIRM
        )
    return painted > 0


def pericardial_effusion(brush: Brush, fact: Fact, look: str) -> bool:
    """A sleeve of fluid around the heart, thicker behind and below."""
    points = brush.points((HEART,))
    if not len(points):
        return False
    heart = brush.coarse == HEART
    low, high = points.min(0), points.max(0)
    reach = fact.size_mm + 8
    crop = tuple(
        slice(max(int(np.searchsorted(axis, a - reach)) - 1, 0), int(np.searchsorted(axis, b + reach)) + 1)
        for axis, a, b in zip(brush.lattice[::-1], low[::-1], high[::-1], strict=True)
    )
    gap = np.full(heart.shape, 1e3, np.float32)
    gap[crop] = ndimage.gaussian_filter(
        ndimage.distance_transform_edt(~heart[crop], STEP_MM) - ndimage.distance_transform_edt(heart[crop], STEP_MM),
        0.6,
    )
    size = high - low
    barred = (*FIRM, *BLOOD, TRACHEA, AIRWAY, ESOPHAGUS, STOMACH, 1, 3, 4)
    for box in brush.slabs(low - reach, high + np.array([reach, reach, 0])):
        _, y, z = brush.mm(box)
        lower = 0.5 + 0.5 * smoothstep(z, high[2], low[2] + 0.4 * size[2])
        behind = 0.55 + 0.45 * smoothstep(y, low[1] + 0.2 * size[1], high[1] - 0.2 * size[1])
        thickness = fact.size_mm * lower * behind * smoothstep(z, high[2] - 2, high[2] - 0.25 * size[2])
        field = brush.sample(gap, box)
        cover = smoothstep(thickness - field, -0.8, 0.8) * (thickness > 0.5) * (field > -6)
        brush.mix(box, cover * ~brush.among(box, barred), 12)
    return True


def hiatal_hernia(brush: Brush, fact: Fact, look: str) -> bool:
    """A pouch of stomach behind the heart: wall, fluid, and gas in front of it (the patient lies on the back)."""
    hiatus = brush.scene.landmarks.get("hiatus")
    if hiatus is None:
        return False
    rng = np.random.default_rng((fact.seed, 2))
    radii = 0.5 * fact.size_mm * np.array([1.0, 0.75, 0.9])
    center = np.asarray(hiatus, float) + np.array([rng.uniform(-4, 6), -0.25 * radii[1], 0.75 * radii[2]])
    box = brush.box(center - radii - 2 * brush.spacing, center + radii + 2 * brush.spacing)
    if box is None:
        return False
    free = ~brush.among(box, (*FIRM, AORTA, HEART, 7, TRACHEA, 1))
    outer = brush.cover(box, ellipsoid(center, radii)) * free
    inner = brush.cover(box, ellipsoid(center, radii - 4.5)) * free
    level = center[1] - rng.uniform(0.0, 0.35) * radii[1]
    gas = smoothstep(brush.mm(box)[1], level + 1, level - 1)
    brush.mix(box, outer, 45)
    brush.mix(box, inner, 18 - gas * (960 + 18))
    brush.scene.organs[box][outer > 0.5] = STOMACH
    return bool((outer > 0.5).any())


def lymphadenopathy(brush: Brush, fact: Fact, look: str) -> bool:
    """An oval node of more than 10 mm short axis at a station, with smaller ones beside it."""
    anchor, offset = STATIONS[look]
    landmark = brush.scene.landmarks.get(anchor)
    if landmark is None:
        return False
    rng = np.random.default_rng((fact.seed, 2))
    base = np.asarray(landmark, float) + np.array(offset)
    barred = (*BLOOD, TRACHEA, AIRWAY, VESSEL, ESOPHAGUS, *FIRM)
    radii = 0.5 * fact.size_mm * np.array([1.0, 1.0, 1.35])
    shifts = np.concatenate([np.zeros((1, 3)), rng.normal(size=(12, 3)) * (5, 5, 6)])
    room = [_room(brush, base + shift, radii, barred) - 0.02 * float(np.linalg.norm(shift)) for shift in shifts]
    center = base + shifts[int(np.argmax(room))]
    painted = brush.ball(center, radii, 55, never=barred)
    for _ in range(2):
        small = 0.5 * radii
        brush.ball(center + rng.normal(size=3) * (9, 7, 12), small, 50, never=(*barred, *LOBES))
    return painted > 0


def _room(brush: Brush, center: np.ndarray, radii: np.ndarray, barred: tuple[int, ...]) -> float:
    """Share of a few points of an ellipsoid that organs leave free."""
    offsets = np.array([(a, b, c) for a in (-0.6, 0, 0.6) for b in (-0.6, 0, 0.6) for c in (-0.6, 0, 0.6)])
    return float(np.mean([brush.region_at(center + o * radii) not in (0, *barred, *LOBES) for o in offsets]))


def _frame(heading: np.ndarray) -> np.ndarray:
    """(3, 3) orthonormal rows, the first along ``heading``."""
    length = float(np.linalg.norm(heading))
    first = heading / length if length > 1e-6 else np.array([1.0, 0.0, 0.0])
    helper = np.array([0.0, 0.0, 1.0]) if abs(first[2]) < 0.9 else np.array([1.0, 0.0, 0.0])
    second = np.cross(first, helper)
    second /= np.linalg.norm(second)
    return np.stack([first, second, np.cross(first, second)])


def _grooves(brush: Brush) -> list[np.ndarray]:
    """Courses on the surface of the heart where no coronary artery was drawn: in front and round the right side."""
    center = brush.scene.landmarks.get("heart_center")
    if center is None:
        return []
    courses = []
    for angles, climb in ((np.linspace(-1.2, -0.5, 6), (1.0, -0.6)), (np.linspace(-2.0, -3.0, 6), (0.5, -0.5))):
        course = []
        for angle, rise in zip(angles, np.linspace(*climb, 6), strict=True):
            heading = np.array([np.cos(angle), np.sin(angle), rise])
            wall = brush.march(np.asarray(center, float), heading / np.linalg.norm(heading), (HEART,), leave=True)
            if wall is not None:
                course.append(wall)
        if len(course) > 1:
            courses.append(np.array(course))
    return courses
