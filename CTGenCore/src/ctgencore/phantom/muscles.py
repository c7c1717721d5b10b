"""The chest wall: muscles round the shoulders and neck, sheets of muscle over the ribs, breasts."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, ramp, spline
from .torso import Plan

MUSCLE_HU = 56.0
SCAPULA_LOW, SCAPULA_HIGH = -38.0, 102.0  # z of the blade


def blade(t: np.ndarray, u: np.ndarray) -> np.ndarray:
    """A point of the left shoulder blade: ``t`` 0..1 upwards, ``u`` 0..1 from the spine outwards: (..., 3) body mm."""
    t, u = np.broadcast_arrays(np.asarray(t, float), np.asarray(u, float))
    z = SCAPULA_LOW + (SCAPULA_HIGH - SCAPULA_LOW) * t
    inner = np.stack([72 + 14 * (1 - t) ** 2, 101 - 13 * t**2], -1)
    outer = np.stack([88 + 44 * t, 94 - 52 * t**1.4], -1)
    bow = np.stack([3 * t, 9 * t], -1) * (4 * u * (1 - u))[..., None]
    flat = inner + u[..., None] * (outer - inner) + bow
    return np.concatenate([flat, z[..., None]], -1)


def _courses(bulk: float) -> list[tuple[np.ndarray, tuple[float, float, float]]]:
    """Muscles of the left side: (n, 4) courses with radius, and the stretch of their cross-section."""
    found = []

    def add(points: list[tuple[float, ...]], stretch: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> None:
        table = np.array(points, float)
        table[:, 3] *= bulk
        found.append((spline(table, 12.0), stretch))

    for t in np.linspace(0.06, 0.94, 10):  # on both faces of the shoulder blade
        u = np.linspace(0.08, 0.95, 5)
        line = blade(np.full(5, t), u)
        way = line[-1] - line[0]
        normal = np.array([-way[1], way[0], 0.0])
        normal /= -np.linalg.norm(normal)  # away from the ribs is +x +y
        normal = normal if normal[1] > 0 else -normal
        thick = (5.5 + 3.5 * np.sin(np.pi * t)) * (0.75 + 0.5 * u)
        for offset, grow in ((-1.0, 1.05), (1.0, 0.95)):
            radius = grow * thick
            found.append(
                (np.column_stack([line + offset * (radius + 2)[:, None] * normal, radius * bulk]), (1.0, 1.0, 1.5))
            )
    add([(94, 88, -20, 6), (112, 72, 10, 11), (126, 52, 50, 11), (142, 22, 92, 9)])  # teres
    add([(118, 76, -36, 5), (131, 60, 0, 8), (142, 40, 40, 9), (150, 18, 88, 8)], (0.9, 1.7, 1.3))  # latissimus
    add([(116, 40, 16, 6), (126, 30, 50, 8), (142, 12, 92, 8)])  # latissimus' front edge
    add([(86, -68, 30, 6), (104, -40, 62, 7.5), (124, 4, 100, 7)])  # small pectoral
    add([(70, -84, 30, 7), (100, -66, 46, 9), (122, -40, 66, 10), (140, -6, 92, 9)], (1, 1, 1.9))  # large pectoral
    add([(40, -66, 66, 6), (80, -58, 76, 9), (112, -34, 88, 10), (140, -6, 98, 9)], (1, 1, 1.7))
    add([(44, -56, 88, 7), (84, -44, 102, 11), (124, -14, 114, 11)], (1, 1, 1.5))  # large pectoral's upper head
    add([(46, 20, 128, 8), (74, 30, 116, 10), (104, 34, 118, 9)], (1, 1.2, 1))  # omohyoid, plexus, vessels' sheath
    add(
        [(122, -14, 116, 10), (146, -10, 112, 13), (168, 8, 106, 14), (172, 24, 104, 14), (158, 46, 110, 13)],
        (1, 1, 1.8),
    )
    add([(150, -8, 140, 16), (172, 20, 140, 16), (156, 46, 140, 14)], (1, 1, 1.6))  # deltoid
    add([(22, 62, 200, 10), (34, 74, 160, 10), (66, 88, 128, 9), (108, 78, 124, 9), (140, 50, 128, 8)], (1, 1, 1.3))
    add([(14, 92, 118, 7), (48, 104, 98, 8), (90, 106, 88, 7), (124, 84, 104, 7)], (1, 0.9, 2.0))  # trapezius
    add([(12, 106, 70, 5), (50, 112, 52, 6), (78, 112, 40, 5)], (1, 0.8, 3.2))
    add([(22, 98, 96, 6), (70, 104, 60, 6), (76, 104, 30, 5)], (1, 0.8, 2.4))  # rhomboids
    add([(30, 46, 190, 8), (44, 66, 140, 8), (70, 86, 104, 7)])  # levator
    add([(20, -42, 84, 6), (34, -28, 116, 8), (48, 2, 160, 9), (54, 22, 200, 9)])  # sternomastoid
    add([(26, 26, 180, 8), (38, 22, 140, 9), (52, 18, 112, 8), (62, 14, 100, 6)])  # scalenes
    add([(24, 30, 200, 9), (24, 34, 150, 9), (22, 42, 110, 8)])  # longus, intertransverse
    add([(24, 66, 220, 16), (24, 72, 160, 17), (26, 82, 120, 15), (27, 92, 96, 14)])  # deep neck
    add([(8, -24, 96, 3.5), (10, -22, 130, 5), (12, -20, 200, 6)])  # strap muscles
    add([(90, 66, 100, 8), (112, 60, 112, 9), (138, 34, 132, 8)], (1.2, 1, 1))  # supraspinatus
    return found


def paint_shoulders(plan: Plan, canvas: Canvas) -> None:
    """Muscles of shoulders and neck, one by one, so that lines of fat stay between them."""
    bulk = 1.08 + 0.5 * (plan.muscle - 0.9)
    for course, stretch in _courses(bulk):
        for side in (-1, 1):
            points = course[:, :3] * (side, 1, 1)
            reach = course[:, 3].max() * max(stretch) + 2 * canvas.edge
            solid = canvas.solid(points.min(0) - reach, points.max(0) + reach)
            if solid.distance.size == 0:
                continue
            solid.tube(points, course[:, 3], 2 * canvas.edge, stretch)
            part = canvas.hu[solid.box]
            cover = canvas.cover(solid.distance) * (part < 20) * (part > -300)  # never over what lies there already
            part += cover * (MUSCLE_HU - part)


def sheets(plan: Plan, azimuth: np.ndarray) -> dict[str, np.ndarray]:
    """How thick the sheets of muscle over the ribs are round the trunk, (Y, X) mm, before they fade with height."""
    m = plan.muscle
    front = ramp(azimuth, 1.2, 0.8) * ramp(azimuth, 0.1, 0.25)
    lateral = ramp(azimuth, 0.8, 1.25) * ramp(azimuth, 2.6, 2.0)
    flank = ramp(azimuth, 1.35, 1.85) * ramp(azimuth, 2.85, 2.4)
    return {
        "pectoral": 14 * m * front,
        "serratus": 8 * m * lateral,
        "latissimus": 9 * m * flank,
        "back": 9 * m * ramp(azimuth, 2.25, 2.6),
        "oblique": 17 * m * (0.6 + 0.4 * lateral),
    }


def sheet_distance(cage: np.ndarray, low: float, thick: np.ndarray) -> np.ndarray:
    """Signed distance of a sheet that begins ``low`` mm outside the rib cage."""
    return np.where(thick > 0.8, np.maximum(low - cage, cage - low - thick), 9.0)
