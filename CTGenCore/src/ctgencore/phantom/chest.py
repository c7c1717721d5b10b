"""A chest CT out of ellipsoids and tubes: contrast-enhanced, supine, in mm."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from ..errors import InputError
from ..geometry import Geometry
from ..volume import LabelMap, Volume

FIELD_MM = (360.0, 360.0, 260.0)  # (x, y, z) covered when no spacing is given
LABELS = {
    1: "body",
    2: "lung_left",
    3: "lung_right",
    4: "heart",
    5: "aorta",
    6: "spine",
    7: "ribs_and_sternum",
    8: "airway",
    9: "liver",
    10: "lung_vessels",
}
NOISE_HU = 12.0  # standard deviation in soft tissue, as in a routine-dose scan with a smooth kernel

Point = tuple[float, float, float]


def chest(
    shape_zyx: tuple[int, int, int] = (64, 256, 256),
    spacing_mm: tuple[float, float, float] | None = None,
    seed: int = 0,
) -> tuple[Volume, LabelMap]:
    """Draw a chest.

    Args:
        shape_zyx: array shape.
        spacing_mm: (x, y, z); by default the grid covers 360 x 360 x 260 mm.
        seed: varies body size, vessels, ribs and noise; the same seed gives the same voxels.

    Returns:
        The CT (float32 HU, identity direction, centered on the origin) and its labels (:data:`LABELS`).

    Raises:
        InputError: a size below 8.
    """
    if min(shape_zyx) < 8:
        raise InputError(f"A phantom needs at least 8 voxels along each axis; got {shape_zyx} (Z, Y, X).")
    size = shape_zyx[::-1]
    spacing = spacing_mm or tuple(field / n for field, n in zip(FIELD_MM, size, strict=True))
    grid = Geometry(size, spacing, tuple(-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True)))  # type: ignore[arg-type]
    rng = np.random.default_rng(seed)
    canvas = _Canvas(grid, rng.uniform(0.95, 1.05))
    lungs = _trunk(canvas, rng)
    _bones(canvas, rng)
    _great_vessels(canvas)
    _lung_trees(canvas, lungs, rng)
    voxels = canvas.hu + _noise(canvas, lungs, rng)
    return Volume(voxels.clip(-1024, 3071), grid), LabelMap(canvas.labels, grid, dict(LABELS))


class _Canvas:
    """HU and labels being painted, with partial-volume edges one voxel wide; points are LPS mm of a standard body."""

    def __init__(self, grid: Geometry, scale: float) -> None:
        x, y, z = (
            ((np.arange(n) * s + o) / scale).astype(np.float32)
            for n, s, o in zip(grid.size_xyz, grid.spacing_mm, grid.origin_mm, strict=True)
        )
        self.x, self.y, self.z = x[None, None, :], y[None, :, None], z[:, None, None]
        self.edge = float(np.mean(grid.spacing_mm[:2])) / scale
        self.hu = np.full(grid.shape_zyx, -1000, np.float32)
        self.labels = np.zeros(grid.shape_zyx, np.uint8)

    def inside(self, distance: np.ndarray) -> np.ndarray:
        """Signed distance in mm (negative inside) to the covered fraction of each voxel."""
        return (0.5 - distance / self.edge).clip(0, 1)

    def paint(self, cover: np.ndarray, hu: float | np.ndarray, label: int = 0, box: tuple[slice, ...] = ()) -> None:
        """Mix ``hu`` in by coverage; ``label`` 0 leaves the labels."""
        part = self.hu[box]
        part += cover * (hu - part)
        if label:
            self.labels[box][cover > 0.5] = label

    def box(self, low: np.ndarray, high: np.ndarray) -> tuple[slice, ...]:
        """Array slices around a region given in mm (x, y, z)."""
        slices = []
        for axis, start, stop in zip((self.z, self.y, self.x), low[::-1], high[::-1], strict=True):
            first, last = np.searchsorted(axis.ravel(), (start, stop))
            slices.append(slice(max(int(first) - 1, 0), int(last) + 1))
        return tuple(slices)

    def ellipsoid(self, center: Point, radii: Point, hu: float, label: int = 0) -> None:
        """Paint an ellipsoid."""
        middle, reach = np.array(center), np.array(radii) + 2 * self.edge
        box = self.box(middle - reach, middle + reach)
        x, y, z = self.x[..., box[2]], self.y[:, box[1]], self.z[box[0]]
        (cx, cy, cz), (rx, ry, rz) = center, radii
        radius = np.sqrt(((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2)
        self.paint(self.inside((radius - 1) * min(radii)), hu, label, box)

    def tube(
        self, points: np.ndarray, radius: float, hu: float, label: int = 0, within: np.ndarray | None = None
    ) -> None:
        """Paint a rounded tube along a polyline of (n, 3) mm points, optionally only where ``within`` (0..1) covers."""
        for start, stop in pairwise(points):
            reach = radius + 2 * self.edge
            box = self.box(np.minimum(start, stop) - reach, np.maximum(start, stop) + reach)
            x, y, z = self.x[..., box[2]] - start[0], self.y[:, box[1]] - start[1], self.z[box[0]] - start[2]
            along = stop - start
            t = ((x * along[0] + y * along[1] + z * along[2]) / max(float(along @ along), 1e-6)).clip(0, 1)
            distance = np.sqrt((x - t * along[0]) ** 2 + (y - t * along[1]) ** 2 + (z - t * along[2]) ** 2)
            cover = self.inside(distance - radius)
            self.paint(cover if within is None else cover * within[box], hu, label, box)


def _cage(canvas: _Canvas, grow: float) -> np.ndarray:
    """Distance (mm, roughly) to the inner chest wall moved outwards by ``grow``: an oval, narrower towards the apex."""
    taper = np.sqrt((1 - ((canvas.z + 40) / 172).clip(0, 1) ** 2).clip(0.05, 1))
    rx, ry = 122 * taper + grow, 84 * (0.35 + 0.65 * taper) + grow
    radius = ((np.abs(canvas.x) / rx) ** 2.4 + (np.abs(canvas.y) / ry) ** 2.4) ** (1 / 2.4)
    return (radius - 1) * np.minimum(rx, ry)


def _trunk(canvas: _Canvas, rng: np.random.Generator) -> np.ndarray:
    """Skin, fat, muscle, abdomen, lungs and heart. Returns the lungs' coverage."""
    x, y, z = canvas.x, canvas.y, canvas.z
    shoulder = 22 * ((z - 20) / 90).clip(0, 1)
    outline = ((np.abs(x) / (164 + shoulder)) ** 2.6 + (np.abs(y - 4) / 113) ** 2.6) ** (1 / 2.6)
    body = (outline - 1) * 113 + np.zeros_like(z)
    fat = rng.uniform(10, 18)
    canvas.paint(canvas.inside(body), 30, 1)
    canvas.paint(canvas.inside(body + 2.2), -105)
    canvas.paint(canvas.inside(body + fat), 55)
    canvas.paint(canvas.inside(_cage(canvas, 7)), -90)  # fat between chest wall muscles and pleura
    cage = _cage(canvas, 0)
    canvas.paint(canvas.inside(cage), -75)  # mediastinal fat
    dome = {side: -62 + lift - 0.0065 * ((x - side * 62) ** 2 + (y + 5) ** 2) for side, lift in ((-1, 8), (1, 0))}
    below = canvas.inside(np.maximum(cage + 3, z - np.where(x < 0, dome[-1], dome[1])))
    canvas.paint(below, 60)
    liver = canvas.inside(np.maximum(cage + 5, np.maximum(z - dome[-1] + 4, x - 35 + 0.4 * (y + 60))))
    canvas.paint(liver, 105, 9)
    canvas.ellipsoid((75, 30, -118), (30, 42, 38), 115)  # spleen
    canvas.ellipsoid((62, -30, -112), (34, 40, 26), 20)  # stomach, with gas in front
    canvas.ellipsoid((62, -42, -106), (24, 20, 17), -980)
    width = 22 + 17 * np.exp(-(((z + 12) / 30) ** 2)) + 0.16 * (y + 30).clip(0, 60)  # half-width of the mediastinum
    middle = np.where(z < 0, 4, 0) + np.zeros_like(y)
    lung = np.maximum(np.maximum(cage + 2.5, np.where(x < 0, dome[-1], dome[1]) + 3 - z), width - np.abs(x - middle))
    cover = canvas.inside(lung)
    dependent = 0.35 * (y + 10)  # gravity: denser towards the back of a supine patient
    canvas.paint(cover, -868 + dependent)
    canvas.labels[(cover > 0.5) & (x > middle)] = 2
    canvas.labels[(cover > 0.5) & (x <= middle)] = 3
    for center, radii, hu in (
        ((20.0, -26.0, -42.0), (53.0, 46.0, 47.0), -60.0),  # epicardial fat
        ((20.0, -26.0, -42.0), (50.0, 43.0, 44.0), 95.0),  # muscle
        ((-2.0, -38.0, -40.0), (24.0, 22.0, 30.0), 165.0),  # right chambers
        ((36.0, -24.0, -46.0), (20.0, 18.0, 25.0), 205.0),  # left ventricle
        ((14.0, 6.0, -28.0), (26.0, 13.0, 18.0), 195.0),  # left atrium
    ):
        canvas.ellipsoid(center, radii, hu, 4)
    cover[canvas.labels == 4] = 0
    return cover


def _bones(canvas: _Canvas, rng: np.random.Generator) -> None:
    """Spine, ribs, sternum, shoulder blades and collar bones: a cortical shell around marrow."""

    def shell(points: list[Point] | np.ndarray, radius: float, label: int, cortex: float = 620) -> None:
        canvas.tube(np.array(points, float), radius, cortex, label)
        canvas.tube(np.array(points, float), radius - 1.7, 210, label)

    x, y, z = canvas.x, canvas.y, canvas.z
    pitch, phase = 23.0, rng.uniform(-4, 4)
    level = np.abs((z - phase + pitch / 2) % pitch - pitch / 2)  # 0 mid-vertebra, 11.5 mid-disc
    waist = 0.07 * level
    column = (np.sqrt((x / 18.5) ** 2 + ((y - 60) / 15.5) ** 2) - 1) * 15.5
    canvas.paint(canvas.inside(column + np.zeros_like(z)), 85, 6)  # discs
    canvas.paint(canvas.inside(np.maximum(column + 1 - waist, level - 9)), 560, 6)
    canvas.paint(canvas.inside(np.maximum(column + 2.8 - waist, level - 7.6)), 190, 6)
    heights = np.arange(-7, 8) * pitch + phase
    for h in heights:
        for side in (-1, 1):
            shell([(side * 9, 74, h), (side * 14, 90, h - 2), (side * 34, 96, h + 3)], 5, 6)
            shell([(side * 12, 88, h - 2), (0, 98, h - 8)], 4.5, 6)
        shell([(0, 96, h - 7), (0, 112, h - 20)], 4, 6)
    canvas.tube(np.array([(0, 84, -200), (0, 84, 200)], float), 9.5, 5)
    canvas.tube(np.array([(0, 84, -200), (0, 84, 200)], float), 5.5, 40)
    angles = np.linspace(0.30, 2.62, 30)  # from the spine round to the front
    for h in heights + 14:
        taper = np.sqrt(np.clip(1 - np.clip((h - 22 + 40) / 172, 0, 1) ** 2, 0.05, 1))
        rx, ry = 122 * taper + 5, 84 * (0.35 + 0.65 * taper) + 5
        slope = rng.uniform(58, 66) * (angles - angles[0]) / np.ptp(angles)
        for side in (-1, 1):
            sine, cosine = np.sin(angles) ** (2 / 2.4), np.sign(np.cos(angles)) * np.abs(np.cos(angles)) ** (2 / 2.4)
            rib = np.stack([side * rx * sine, ry * cosine, h - slope], axis=1)
            shell(rib, 4.6, 7)
            canvas.tube(np.array([rib[-1], (side * 9, -0.98 * ry, h - slope[-1] + 6)]), 4.6, 110, 7)  # cartilage
    for h in np.arange(-70, 76, 6.0):
        front = -84 * (0.35 + 0.65 * np.sqrt(np.clip(1 - np.clip((h + 40) / 172, 0, 1) ** 2, 0.05, 1)))
        shell([(-9, front - 4, h), (9, front - 4, h)], 6, 7)
    for side in (-1, 1):
        for t in np.linspace(0, 1, 16):  # shoulder blades: slanting thin plates
            height = 10 + 95 * t
            shell([(side * (72 + 8 * t), 88 - 4 * t, height), (side * (98 + 30 * t), 78 - 12 * t, height)], 3.2, 7)
        shell([(side * 20, -62, 92), (side * 80, -52, 108), (side * 140, -14, 116)], 6, 7)


def _great_vessels(canvas: _Canvas) -> None:
    """Aorta, pulmonary arteries, superior vena cava, esophagus, trachea and main bronchi."""
    arch = [(8, -12, -30), (-14, -26, 5), (-12, -24, 30), (-2, -12, 48), (14, 12, 52), (24, 34, 42), (24, 42, 20)]
    aorta = np.array([*arch, (20, 42, -60), (12, 40, -200)], float)
    canvas.tube(np.array([(12, 30, 200), (6, 32, 20), (10, 28, -90)], float), 7, 35)  # esophagus
    canvas.tube(np.array([(-24, -16, 110), (-24, -14, 0), (-22, -12, -12)], float), 9.5, 230)  # superior vena cava
    canvas.tube(np.array([(14, -36, -8), (12, -18, 12), (16, -4, 18)], float), 13, 225)  # pulmonary trunk
    canvas.tube(np.array([(14, -8, 17), (-24, -4, 10), (-44, 2, 2)], float), 9.5, 225)
    canvas.tube(np.array([(16, -4, 18), (38, 8, 14), (48, 14, 6)], float), 9.5, 225)
    canvas.tube(aorta, 13.5, 110, 5)
    canvas.tube(aorta, 12.3, 215, 5)
    windpipe = [np.array([(0, 8, 200), (0, 14, 24)], float)]
    windpipe += [np.array([(0, 14, 24), (s * 18, 18, 8), (s * 42, 20, -8)], float) for s in (-1, 1)]
    for widen, hu, label in ((1.6, 30, 0), (0.0, -985, 8)):  # all walls before all lumens, so that junctions are open
        for points, radius in zip(windpipe, (8.5, 6.8, 6.2), strict=True):
            canvas.tube(points, radius + widen, hu, label)


def _lung_trees(canvas: _Canvas, lungs: np.ndarray, rng: np.random.Generator) -> None:
    """Branching arteries and veins of both lungs and the larger bronchi beside them."""
    stack = []
    for side in (-1, 1):
        hilum = np.array([side * 44.0, 8.0, -2.0])
        for turn in np.linspace(0, 2 * np.pi, 16, endpoint=False):  # all round, so that no lobe stays empty
            heading = np.array([side * rng.uniform(0.2, 1.2), 0.8 * np.sin(turn), np.cos(turn)])
            stack.append((hilum + rng.normal(size=3) * (3, 7, 9), heading / np.linalg.norm(heading), 4.2, 30.0))
    while stack:
        start, heading, radius, length = stack.pop()
        bend = heading + rng.normal(size=3) * 0.22
        stop = start + length * bend / np.linalg.norm(bend)
        canvas.tube(np.array([start, stop]), radius, 130, 10, lungs)
        if radius > 3:
            shift = rng.normal(size=3) * 0.5 + (0, radius + 3.4, 0)
            canvas.tube(np.array([start, stop]) + shift, 0.75 * radius + 1.2, -20, 0, lungs)
            canvas.tube(np.array([start, stop]) + shift, 0.75 * radius, -975, 8, lungs)
        if radius > 0.75:
            for _ in range(2):
                turned = bend / np.linalg.norm(bend) + rng.normal(size=3) * 0.5
                stack.append((stop, turned / np.linalg.norm(turned), radius * rng.uniform(0.66, 0.84), length * 0.82))


def _noise(canvas: _Canvas, lungs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Correlated quantum noise, and a coarser texture in the lungs."""

    def smooth(field: np.ndarray, times: int) -> np.ndarray:
        for _ in range(times):
            for axis in (1, 2):
                field = 0.5 * field + 0.25 * (np.roll(field, 1, axis) + np.roll(field, -1, axis))
        return field / field.std()

    fine = smooth(rng.standard_normal(canvas.hu.shape, dtype=np.float32), 1)
    coarse = smooth(rng.standard_normal(canvas.hu.shape, dtype=np.float32), 4)
    return NOISE_HU * fine + 22 * lungs * coarse
