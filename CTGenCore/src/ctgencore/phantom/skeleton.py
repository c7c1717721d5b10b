"""Ribs, spine, sternum, shoulder girdle: distances of the whole skeleton in one pass, cortex and marrow after."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Solid, empty, ramp, spline
from .muscles import blade
from .torso import VERTEBRAE, Plan, around_cage, profile

CORTEX_HU, MARROW_HU = 780.0, 210.0
CARTILAGE_HU = 105.0
BODY = 200
VERTEBRA_IDS = {name: 54 - i for i, name in enumerate(VERTEBRAE)}  # C3 = 54 ... L5 = 33
LEFT_RIB, RIGHT_RIB = 63, 75  # of rib 1
# rib: drop from head to front end, azimuth of the front end (0 = front, pi = back), z of the cartilage at the sternum
RIBS = (
    (34, 0.36, 74), (52, 0.52, 42), (64, 0.56, 24), (76, 0.60, 8), (88, 0.66, -8), (100, 0.74, -22),
    (110, 0.84, -34), (112, 1.02, None), (108, 1.20, None), (100, 1.40, None), (72, 1.95, None), (40, 2.45, None),
)  # fmt: skip


class Skeleton:
    """Nearest-bone distances on a canvas.

    Attributes:
        distance: (Z, Y, X) float32 mm, negative inside bone.
        label: (Z, Y, X) uint8, of the nearest bone.
        cortex: (Z, Y, X) uint8, thickness of its cortex in tenths of a millimeter.
    """

    def __init__(self, canvas: Canvas, age: int) -> None:
        self.canvas = canvas
        self.distance = np.full(canvas.shape, 99, np.float32)
        self.label = np.zeros(canvas.shape, np.uint8)
        self.cortex = np.zeros(canvas.shape, np.uint8)
        self.marrow = MARROW_HU + 30 * float(ramp(np.array(age), 75, 30))

    def add(self, solid: Solid, label: int, cortex_mm: float) -> None:
        """Merge one bone."""
        if empty(solid.box):
            return
        part = self.distance[solid.box]
        closer = solid.distance < part
        part[closer] = solid.distance[closer]
        self.label[solid.box][closer] = label
        self.cortex[solid.box][closer] = round(10 * cortex_mm)

    def paint_slice(self, k: int) -> None:
        """Cortex, marrow and labels of one slice."""
        canvas, distance = self.canvas, self.distance[k]
        near = np.nonzero(distance < canvas.edge)
        if len(near[0]) == 0:
            return
        close = distance[near]
        cover = canvas.cover(close)
        inner = canvas.cover(close + self.cortex[k][near] * np.float32(0.1))
        hu = CORTEX_HU + inner * (self.marrow - CORTEX_HU)
        old = canvas.hu[k][near]
        canvas.hu[k][near] = old + cover * (hu - old)
        inside = cover > 0.5
        rows, columns = near[0][inside], near[1][inside]
        canvas.organs[k][rows, columns] = self.label[k][rows, columns]


def rib_course(plan: Plan, rib: int, side: int) -> np.ndarray:
    """Middle line of a rib from its head to its front end: (n, 3) body mm; ``side`` -1 right, +1 left."""
    drop, end, _ = RIBS[rib - 1]
    z0 = plan.levels[f"T{rib}"] + 7
    head = plan.spine(z0)
    start = np.array([head[0] + side * 17, head[1] + 12, z0])
    tubercle = np.array([head[0] + side * 33, head[1] + 27, z0 - 3])
    first = 2.66 if rib > 1 else 2.35
    t = np.linspace(0, 1, 26)
    z = z0 - 6 - (drop - 6) * t
    arc = around_cage(first + (end - first) * t, z, 5.4) * (side, 1, 1)
    return np.vstack([start, tubercle, arc])


def draw_ribs(plan: Plan, canvas: Canvas, bones: Skeleton) -> Solid:
    """Add the 24 ribs; returns the costal cartilages, which are not bone."""
    cartilage = canvas.solid(np.array([-135.0, -135, -240]), np.array([135.0, 30, 110]))
    for side, first in ((-1, RIGHT_RIB), (1, LEFT_RIB)):
        previous = None
        for rib in range(1, 13):
            course = rib_course(plan, rib, side)
            count = len(course)
            radius = np.full(count, 3.9 if rib < 11 else 3.3)
            radius[0] += 0.8
            tall = 1.55 if 1 < rib < 11 else 1.2
            solid = canvas.solid(course.min(0) - 12, course.max(0) + 12)
            solid.tube(course, radius, margin=2 * canvas.edge, stretch=(1.0, 1.0, tall))
            bones.add(solid, first + rib - 1, 1.3)
            level = RIBS[rib - 1][2]
            tip = course[-1]
            if level is not None:
                front = sternum_front(plan, np.array(level))
                stop = np.array([side * (14.0 if rib > 1 else 24), float(front) - 1, level])
                rise = 0.6 * abs(level - tip[2]) ** 0.5
                bend = (tip + stop) / 2 + np.array([side * 3, -4, -rise])
                cartilage.tube(spline(np.array([tip, bend, stop])), 4.6, margin=2 * canvas.edge, stretch=(1, 1, 1.4))
            elif rib < 11 and previous is not None:
                cartilage.tube(
                    spline(np.array([tip, (tip + previous) / 2 + (0, -2, -4), previous])), 4.0, margin=2 * canvas.edge
                )
            previous = (tip + 2 * bend) / 3 if level is not None else tip
    return cartilage


def sternum_front(plan: Plan, z: np.ndarray) -> np.ndarray:
    """y of the sternum's middle plane."""
    return profile("cage", z)[1].astype(float) - 4.0


def draw_sternum(plan: Plan, canvas: Canvas, bones: Skeleton) -> None:
    """Manubrium, body and xiphoid process."""
    solid = canvas.solid(np.array([-45.0, -130, -95]), np.array([45.0, -20, 95]))
    if empty(solid.box):
        return
    x, y, z = canvas.coordinates(solid.box)
    height = np.arange(-100.0, 101.0, 5.0)
    front = np.interp(z, height, sternum_front(plan, height)).astype(np.float32)
    lean = np.gradient(sternum_front(plan, height), 5.0)
    upright = (1 / np.sqrt(1 + np.interp(z, height, lean) ** 2)).astype(np.float32)
    table = np.array(
        [
            (-76, 4, 3),
            (-57, 9, 3.5),
            (-52, 17, 4.8),
            (-20, 18, 5),
            (20, 14, 5),
            (38, 13, 5),
            (46, 19, 5.2),
            (62, 29, 6),
            (80, 25, 5.5),
        ]
    )
    half, thick = (np.interp(z, table[:, 0], table[:, i]).astype(np.float32) for i in (1, 2))
    across = np.abs(x) - half + 3 * (1 - np.abs(np.clip(z - 39, -4, 4)) / 4)
    through = np.abs(y - front) * upright - thick * np.sqrt(np.clip(1 - 0.55 * (x / half) ** 2, 0.2, 1))
    notch = np.where(z > 60, z - 80 + 5 * np.exp(-((x / 10) ** 2)), -9)
    plate = np.maximum(np.maximum(across, through), np.maximum(notch, -78 - z))
    np.minimum(solid.distance, np.maximum(plate, 1.2 - np.abs(z - 39)), out=solid.distance)
    bones.add(solid, 122, 1.2)


def draw_spine(plan: Plan, canvas: Canvas, bones: Skeleton) -> None:
    """Vertebrae one by one."""
    names = list(plan.levels.items())
    for name, level in names:
        size = {"C": 0.72, "T": 0.92, "L": 1.18}[name[0]] + (0.012 * (int(name[1:]) - 1) if name[0] == "T" else 0)
        x, y = plan.spine(level)
        label = VERTEBRA_IDS[name]
        i = VERTEBRAE.index(name)
        above = names[i - 1][1] - level if i else 15.0
        below = level - names[i + 1][1] if i + 1 < len(names) else 33.0
        pitch = (above + below) / 2
        wide = 24 * size + 2 * canvas.edge
        middle, reach = np.array([x, y, level]), np.array([wide, wide, 22.0])
        solid = canvas.solid(middle - reach, middle + reach)
        if not empty(solid.box):
            gx, gy, gz = canvas.coordinates(solid.box)
            tilt = np.float32((plan.spine(level + 5)[1] - plan.spine(level - 5)[1]) / 10)
            dz = gz - level + tilt * (gy - y)
            half = pitch / 2 - 2.3 * (0.7 + 0.5 * size)
            waist = 1.6 * (1 - (dz / half) ** 2)
            u, v = (gx - x) / 1.25, gy - y - tilt * (gz - level)
            around = np.sqrt(u * u + v * v) - 15.5 * size + np.clip(waist, 0, 2)
            around = np.maximum(around, (gy - y) - 11.0 * size)  # flat at the canal
            solid.distance = np.maximum(around, np.abs(dz) - half)
            bones.add(solid, label, 1.1)
        solid = canvas.solid(middle - np.array([44, 4, 48]), middle + np.array([44, 78, 30]))
        if empty(solid.box):
            continue
        arch = y + 12.5 * size + 8.0
        thoracic = name[0] == "T"
        spread, dip = (33 if thoracic else 36) * min(size, 1.1), (26 if thoracic else 8)
        m = 2 * canvas.edge
        for side in (-1, 1):
            at = np.array([x, arch, level]), np.array([side * size, 1.0, 1.0])
            pedicle, root, corner, ridge, top, bottom = (
                at[0] + at[1] * np.array(offset)
                for offset in ((10.5, -10, 4), (12, 2, 3), (8, 9, -2), (0, 13, -6), (13, 4, 10), (13, 6, -12))
            )
            tip = np.array([x + side * spread, arch + (14 if thoracic else 4), level + 4])
            solid.tube(np.array([pedicle, root]), 4.0 * size, m, (1, 1, 1.5))
            solid.tube(np.array([root, corner, ridge]), 3.6 * size, m, (1, 1, 1.9))  # lamina
            solid.tube(np.array([root, tip]), np.array([4.2, 4.0]) * size, m, (1, 1, 1.3))  # transverse process
            solid.tube(np.array([top, bottom]), 3.6 * size, m)  # facets
        solid.tube(
            np.array([(x, arch + 13, level - 6), (x, arch + 32, level - 8 - dip)]),
            np.array([3.4, 3.8]),
            2 * canvas.edge,
            (1, 1, 1.8),
        )
        bones.add(solid, label, 1.1)


def draw_shoulders(plan: Plan, canvas: Canvas, bones: Skeleton) -> None:
    """Clavicles, scapulae and the heads of the humeri, as with raised arms."""
    m = 2 * canvas.edge
    for side in (-1, 1):
        left = side > 0
        bends = ((22, -50, 79), (48, -50, 88), (82, -28, 101), (118, 0, 116), (138, 20, 124))
        clavicle = spline(np.array(bends, float) * (side, 1, 1))
        solid = canvas.solid(clavicle.min(0) - 14, clavicle.max(0) + 14)
        solid.tube(clavicle, np.linspace(7.2, 5.6, len(clavicle)), m)
        bones.add(solid, 91 if left else 92, 1.8)
        head = np.array([side * 150.0, 20.0, 118.0])
        solid = canvas.solid(head - (40, 60, 40), head + np.array([70, 60, 240]))
        solid.ellipsoid(head, np.array([22.0, 22, 23]), margin=m)
        solid.tube(
            np.array([head, head + np.array([side * 18, 6, 40]), head + np.array([side * 34, 10, 200])]),
            np.array([19, 12, 11]),
            m,
        )
        bones.add(solid, 87 if left else 88, 2.2)
        solid = canvas.solid(
            np.minimum((side * 60, 0, -60), (side * 160, 0, -60)) - 8,
            np.maximum((side * 60, 120, 135), (side * 160, 120, 135)) + 8,
        )
        # blade: a curved plate between the spine side and the lateral border, thicker at its rims
        for t in np.linspace(0, 1, 22):
            u = np.linspace(0, 1, 6)
            radius = np.interp(u, [0, 0.2, 0.8, 1], [2.6, 1.8, 2.0, 4.4])
            solid.tube(blade(np.full(6, t), u) * (side, 1, 1), radius, m, (1, 1, 2.0))
        border = spline(np.array([(side * 132, 40, 104), (side * 128, 42, 92), (side * 118, 56, 60)], float))
        solid.tube(border, np.linspace(8.0, 4.0, len(border)), m)
        ridge = spline(
            np.array([(side * 76, 108, 66), (side * 108, 98, 86), (side * 142, 62, 112), (side * 152, 36, 134)], float)
        )
        solid.tube(ridge, np.linspace(3.2, 5.0, len(ridge)), m, (1, 1.2, 1.6))
        solid.tube(
            spline(np.array([(side * 128, 34, 106), (side * 120, 10, 112), (side * 128, -2, 106)], float)), 5.0, m
        )
        bones.add(solid, 89 if left else 90, 1.1)


def draw(plan: Plan, canvas: Canvas) -> tuple[Skeleton, Solid]:
    """All bones as distances, and the costal cartilages."""
    bones = Skeleton(canvas, plan.patient.age)
    draw_spine(plan, canvas, bones)
    cartilage = draw_ribs(plan, canvas, bones)
    draw_sternum(plan, canvas, bones)
    draw_shoulders(plan, canvas, bones)
    return bones, cartilage


def paint_soft(plan: Plan, canvas: Canvas, cartilage: Solid) -> None:
    """Costal cartilage, spinal canal and cord."""
    canvas.paint(cartilage.distance, CARTILAGE_HU, 114, cartilage.box)
    z = np.arange(-300.0, 261.0, 12.0)
    middle = plan.spine(z)
    size = np.interp(z, [-200, -130, 110, 150], [1.18, 1.03, 0.92, 0.75])
    canal = np.stack([middle[:, 0], middle[:, 1] + 11 * size + 9.5, z], 1)
    solid = canvas.solid(canal.min(0) - 14, canal.max(0) + 14)
    solid.tube(canal, 8.4, 2 * canvas.edge, (1.1, 1, 1))
    canvas.paint(solid.distance, -10, BODY, solid.box)
    cord = canvas.solid(canal.min(0) - 14, canal.max(0) + 14)
    cord.tube(canal, 5.4, 2 * canvas.edge, (1.15, 1, 1))
    canvas.paint(cord.distance, 38, 121, cord.box)
