"""Focal findings of the lung: nodules, plates of atelectasis, scars and honeycombing."""

from __future__ import annotations

import numpy as np

from .findings_brush import AIRWAY, LOBES, VESSEL, Brush, lobes_of
from .findings_fields import Distance, capsules, cells, ellipsoid, faded, smoothstep
from .scene import Fact

LUNG = (*LOBES, AIRWAY, VESSEL)


def nodule(brush: Brush, fact: Fact, look: str) -> bool:
    """A round lesion, or many tiny ones when the fact has the class of micronodules."""
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    if fact.disease == 157:
        return _micronodules(brush, fact, lobes, rng)
    radius = 0.5 * fact.size_mm
    center = _inside(brush, lobes, rng, radius + 2)
    if center is None:
        return False
    reach = 1.35 * radius + 1
    edges = {"smooth": 0.04, "lobulated": 0.16, "spiculated": 0.1, "subsolid": 0.12, "calcified": 0.04}
    round_ = _bumpy(center, radius, edges[look], rng)
    if look == "subsolid":
        painted = brush.shape(
            center - reach, center + reach, round_, 30, fact.disease, only=LUNG, strength=0.38, air_only=True
        )
        core = 0.45 * radius
        offset = center + rng.normal(size=3) * 0.15 * radius
        brush.shape(
            offset - core,
            offset + core,
            ellipsoid(offset, np.full(3, core)),
            20,
            only=LUNG,
            strength=0.85,
            air_only=True,
        )
    else:
        painted = brush.shape(center - reach, center + reach, round_, 35, fact.disease, only=LUNG, air_only=True)
    if look == "calcified":
        brush.ball(center, 0.62 * radius, 420, only=LUNG)
    if look == "spiculated":
        for _ in range(30):
            heading = rng.normal(size=3)
            heading /= np.linalg.norm(heading)
            tip = center + heading * (radius + rng.uniform(3, 4 + 0.5 * radius))
            spike = np.stack([center + 0.8 * radius * heading, tip])
            box = spike.min(0) - 1, spike.max(0) + 1
            brush.shape(*box, capsules(spike, np.array([1.3, 0.5])), 0, only=LUNG, air_only=True)
    return painted > 0


def atelectasis(brush: Brush, fact: Fact, look: str) -> bool:
    """A thin curved plate of airless lung, or a wedge where the lung rests on the chest wall."""
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    if look == "dependent":
        return _dependent(brush, fact, lobes)
    center = brush.place(lobes, rng.uniform((0.3, 0.25, 0.15), (0.7, 0.8, 0.35)))
    if center is None:
        return False
    long_, wide = 0.5 * fact.size_mm, 0.33 * fact.size_mm
    normal = np.array([0.0, 0.0, 1.0]) + rng.normal(size=3) * 0.35
    normal /= np.linalg.norm(normal)
    along = np.cross(normal, rng.normal(size=3))
    along /= np.linalg.norm(along)
    across = np.cross(normal, along)
    thick = 1.6 + 1.6 * fact.severity
    bend = rng.uniform(-0.1, 0.1)

    def plate(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - center[0], y - center[1], z - center[2]
        u, v, w = (dx * a[0] + dy * a[1] + dz * a[2] for a in (along, across, normal))
        radius = np.sqrt((u / long_) ** 2 + (v / wide) ** 2)
        half = thick * np.sqrt((1 - radius**4).clip(0.05, 1))
        return np.maximum(np.abs(w - bend * (u * u / long_)) - half, (radius - 1) * wide)

    reach = long_ + 4.0
    return (
        brush.shape(center - reach, center + reach, plate, 25, fact.disease, only=LUNG, air_only=True, strength=0.95)
        > 0
    )


def fibrosis(brush: Brush, fact: Fact, look: str) -> bool:
    """Scar strands that run from the pleura inwards, or honeycombing when the fact has its class."""
    if fact.disease == 155:
        return _honeycombing(brush, fact)
    rng = np.random.default_rng((fact.seed, 2))
    lobes = lobes_of(fact.side, fact.lobe)
    level = 0.9 if fact.lobe in (28, 30) else 0.2
    painted = 0.0
    core = brush.place(lobes, np.array([0.5, 0.5, 0.45]))
    for _ in range(4 + round(5 * fact.severity)):
        tries = [brush.place(lobes, at) for at in rng.uniform((0, 0.2, level - 0.08), (1, 1, level + 0.08), (5, 3))]
        start = min((point for point in tries if point is not None), key=brush.depth_at, default=None)  # at the pleura
        if start is None or core is None:
            continue
        inward = core - start + rng.normal(size=3) * 12
        inward /= max(float(np.linalg.norm(inward)), 1e-6)
        length = fact.size_mm * rng.uniform(0.6, 1)
        t = np.linspace(-0.3, 1, 6)[:, None]
        points = start + t * length * inward + np.cumsum(rng.normal(size=(6, 3)) * 1.1, axis=0)
        shift = np.cross(inward, rng.normal(size=3))
        shift *= rng.uniform(0.8, 3) / max(float(np.linalg.norm(shift)), 1e-6)
        width = np.linspace(2.2, 0.6, 6) * (0.7 + 0.4 * fact.severity)
        strands = [capsules(points + offset, width) for offset in (-shift, 0 * shift, shift)]  # side by side, a band
        reach = width.max() + 3.5
        painted += brush.shape(
            points.min(0) - reach, points.max(0) + reach, _any_of(strands), 20, fact.disease,
            only=(*lobes, AIRWAY, VESSEL), air_only=True, strength=0.85, margin_mm=1.0,
        )  # fmt: skip
    return painted > 0


def _any_of(shapes: list[Distance]) -> Distance:
    return lambda x, y, z: np.minimum.reduce([shape(x, y, z) for shape in shapes])


def _inside(brush: Brush, lobes: tuple[int, ...], rng: np.random.Generator, depth: float) -> np.ndarray | None:
    """The first of some places that lies deep enough, else the deepest."""
    tries = [brush.place(lobes, at) for at in rng.uniform((0.08, 0.08, 0.1), (0.92, 0.92, 0.9), (8, 3))]
    found = [point for point in tries if point is not None]
    deep = [point for point in found if brush.depth_at(point) >= depth]
    return deep[0] if deep else max(found, key=brush.depth_at, default=None)


def _bumpy(center: np.ndarray, radius: float, rough: float, rng: np.random.Generator) -> Distance:
    """A sphere with smooth bumps of ``rough`` times its radius."""
    bumps = rng.normal(size=(7, 3))
    bumps /= np.linalg.norm(bumps, axis=1, keepdims=True)
    heights = rng.uniform(-1, 1, 7) * rough * 2

    def distance(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        dx, dy, dz = x - np.float32(center[0]), y - np.float32(center[1]), z - np.float32(center[2])
        length = np.sqrt(dx**2 + dy**2 + dz**2)
        scale = 1.0
        for bump, height in zip(bumps, heights, strict=True):
            cosine = (dx * bump[0] + dy * bump[1] + dz * bump[2]) / np.maximum(length, 1e-3)
            scale = scale + height * cosine.clip(0, 1) ** 4
        return length - radius * np.clip(scale, 0.7, 1.3)

    return distance


def _micronodules(brush: Brush, fact: Fact, lobes: tuple[int, ...], rng: np.random.Generator) -> bool:
    """Nodules of about 4 mm; their mask is the spheres around them, which any grid can hold."""
    painted = 0.0
    count = round((12 if len(lobes) > 1 else 28) * (0.6 + fact.severity))
    for lobe in lobes:
        for at in rng.uniform((0.05, 0.05, 0.08), (0.95, 0.95, 0.95), (count, 3)):
            center = brush.place((lobe,), at)
            if center is None:
                continue
            center = center + rng.uniform(-2, 2, 3)
            radius = 0.5 * fact.size_mm * rng.uniform(0.85, 1.15)
            reach = radius + 1.0
            box = brush.box(center - reach - brush.spacing, center + reach + brush.spacing)
            if box is not None and brush.among(box, LOBES).mean() > 0.7:
                painted += brush.ball(center, radius, 20, only=LUNG)
                brush.mark(
                    box, (brush.cover(box, ellipsoid(center, np.full(3, reach))) > 0.5) & brush.among(box, LUNG), 157
                )
    return painted > 0


def _dependent(brush: Brush, fact: Fact, lobes: tuple[int, ...]) -> bool:
    """Airless lung along the back wall, thickest in the middle."""
    center = brush.place(lobes, np.array([0.5, 0.97, 0.3]))
    bounds = brush.bounds(lobes)
    if center is None or bounds is None:
        return False
    half, thick = 0.5 * fact.size_mm + 6, 7 + 9 * fact.severity
    touched = False
    reach = np.array([1.3 * half, 90, 1.3 * half])
    low = np.maximum(center - reach, bounds[0])
    high = np.minimum(center + reach, bounds[1])
    for box in brush.slabs(low, high):
        x, _, z = brush.mm(box)
        wedge = thick * (1 - ((x - center[0]) ** 2 + (z - center[2]) ** 2) / half**2)
        gap = brush.behind(lobes, box)[1] - wedge - 1.2 * brush.noise(box, 7, fact.seed)
        inside = brush.territory(box, lobes, rim=True)
        density = inside * smoothstep(gap, 2, -2)
        brush.fill(box, 0.95 * density, 35)
        marked = (density > 0.5) & brush.among(box, LUNG)
        brush.mark(box, marked, fact.disease)
        touched = touched or bool(marked.any())
    return touched


def _honeycombing(brush: Brush, fact: Fact) -> bool:
    """Stacked cysts with shared walls below the pleura of both bases, in lung that is stiff and dense around them."""
    lobes = lobes_of(fact.side, fact.lobe)
    bounds = brush.bounds(lobes)
    if bounds is None:
        return False
    bottom, top = bounds[0][2] + 6, bounds[1][2] - 6
    back, front = bounds[1][1], bounds[0][1]
    band, size, thick = 8 + 10 * fact.severity, 6.0, 1.5
    edge = float(brush.spacing.mean())
    touched = False
    for box in brush.slabs(bounds[0], np.array([bounds[1][0], bounds[1][1], bottom + 0.55 * (top - bottom)])):
        _, y, z = brush.mm(box)
        weight = 1.1 - 1.7 * (z - bottom) / (top - bottom) - 0.7 * (back - y) / (back - front)
        field = weight - brush.sample(brush.depth, box) / band + 0.25 * brush.noise(box, 12, fact.seed)
        inside = brush.territory(box, lobes)
        density, marked = faded(field, 0.0, 0.3)
        density *= inside
        brush.fill(box, 0.3 * density, 20)
        brush.mark(box, marked & inside & brush.among(box, lobes), fact.disease)
        index = np.nonzero(density > 0.2)
        if len(index[0]):
            place = (brush.axes[0][box[2]][index[2]], brush.axes[1][box[1]][index[1]], brush.axes[2][box[0]][index[0]])
            first, second = cells(*place, size, fact.seed)
            wall = ((thick + edge) / 2 - (second - first) / 2).clip(0, min(thick, edge)) / edge
            part = brush.scene.hu[box]
            there = part[index]
            hu = -955 + wall * 880
            part[index] = there + smoothstep(density[index], 0.2, 0.5) * np.where(there < -200, hu - there, 0)
            touched = True
    return touched
