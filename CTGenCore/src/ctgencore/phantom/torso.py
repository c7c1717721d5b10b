"""The shape of a trunk: rib cage, skin, diaphragm, fissures, spine, all as functions of body mm."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from .canvas import Grid, ramp, smooth_minimum
from .scene import Patient

if TYPE_CHECKING:
    from scipy.interpolate import PchipInterpolator

# z in mm, then the inner surface of the rib cage: half-width, front, back (carina at z = +33, right dome near -58)
CAGE = np.array(
    [
        (-300, 122, -94, 66),
        (-200, 126, -98, 72),
        (-150, 129, -99, 78),
        (-110, 131, -97, 84),
        (-60, 130, -92, 90),
        (-20, 128, -85, 94),
        (20, 121, -74, 94),
        (50, 109, -60, 88),
        (75, 93, -44, 80),
        (95, 77, -28, 72),
        (115, 66, -16, 64),
        (140, 60, -10, 58),
        (260, 56, -10, 56),
    ],
    float,
)
CAGE_FORM = (9.0, 0.05)  # gutter and squareness, see oval_level
# z, then the outer surface of the muscles: half-width, front, back
MUSCLE = np.array(
    [
        (-300, 142, -106, 108),
        (-200, 146, -110, 112),
        (-150, 148, -112, 114),
        (-110, 149, -110, 115),
        (-60, 149, -106, 117),
        (-20, 150, -101, 119),
        (20, 158, -97, 120),
        (50, 166, -88, 120),
        (75, 171, -76, 116),
        (95, 174, -62, 109),
        (115, 172, -50, 103),
        (130, 146, -42, 97),
        (150, 92, -36, 90),
        (175, 62, -34, 84),
        (260, 58, -34, 82),
    ],
    float,
)
SPINE = np.array(
    [
        (-300, 34),
        (-250, 32),
        (-200, 36),
        (-150, 43),
        (-100, 52),
        (-50, 58),
        (0, 57),
        (40, 52),
        (80, 42),
        (115, 32),
        (150, 27),
        (260, 20),
    ],
    float,
)  # z, y of the middle of the vertebral bodies
# z of the vertebral bodies' middles from C3 down to L5, before the phase
VERTEBRAE = ("C3", "C4", "C5", "C6", "C7", *(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 6)))
TABLES = {"cage": CAGE, "muscle": MUSCLE, "spine": SPINE}
PITCH = (
    *(15.0, 15.0, 15.0, 15.5, 16.0),
    *(17.0, 18.0, 18.5, 19.0, 20.0, 20.5, 21.0, 21.5, 22.5, 24.0, 26.0, 28.0),
    *(30.5, 31.5, 32.0, 32.5),
)  # to the next one below
T1_MM = 107.0


@cache
def _curve(name: str) -> PchipInterpolator:
    from scipy.interpolate import PchipInterpolator

    table = TABLES[name]
    return PchipInterpolator(table[:, 0], table[:, 1:], extrapolate=False)


def profile(name: str, z: float | np.ndarray) -> list[np.ndarray]:
    """Columns of one of :data:`TABLES` at heights ``z``, smoothly interpolated: float32, of the shape of ``z``."""
    table = TABLES[name]
    values = _curve(name)(np.clip(z, table[0, 0], table[-1, 0]))
    return list(np.moveaxis(values.astype(np.float32), -1, 0))


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Everything about a trunk that varies and that no finding changes. Lengths in body mm.

    Attributes:
        patient: whose.
        spine_phase: how far the vertebrae lie above their usual level.
        bend: sideways curve of the spine.
        dome_right, dome_left: z of the tops of the diaphragm.
        apex: z of the tops of the lungs (right, left).
        carina: z of the tracheal bifurcation.
        heart: middle of the heart.
        lift: how far breathing moves what hangs on the diaphragm, upwards.
        oblique: per side (right, left): z at y = 0 and slope of the oblique fissure.
        horizontal: z of the horizontal fissure.
        muscle: thickness of the chest wall's muscles relative to the usual.
        breast: size of the breasts; 0 in males.
        wobble: eight numbers in -1..1 for small free choices.
    """

    patient: Patient
    spine_phase: float
    bend: float
    dome_right: float
    dome_left: float
    apex: tuple[float, float]
    carina: float
    heart: tuple[float, float, float]
    lift: float
    oblique: tuple[tuple[float, float], tuple[float, float]]
    horizontal: float
    muscle: float
    breast: float
    wobble: tuple[float, ...]

    @classmethod
    def draw(cls, patient: Patient) -> Plan:
        """Choose by the patient's seed."""
        rng = np.random.default_rng((patient.seed, 1))
        female = patient.sex == "female"
        lift = 30.0 * (0.8 - patient.breath)
        right = -57.0 + lift + rng.uniform(-5, 5)
        carina = 33.0 + 0.15 * lift + rng.uniform(-3, 3)
        return cls(
            patient=patient,
            spine_phase=rng.uniform(-4, 4),
            bend=rng.uniform(-5, 5),
            dome_right=right,
            dome_left=right - rng.uniform(6, 16),
            apex=(116 + rng.uniform(-4, 4), 117 + rng.uniform(-4, 4)),
            carina=carina,
            heart=(12 + rng.uniform(-4, 4), -16 + rng.uniform(-3, 3), -30 + 0.5 * lift + rng.uniform(-3, 3)),
            lift=lift,
            oblique=(
                (-14 + rng.uniform(-7, 7) + 0.4 * lift, rng.uniform(0.85, 1.0)),
                (-10 + rng.uniform(-7, 7) + 0.4 * lift, rng.uniform(0.92, 1.1)),
            ),
            horizontal=4 + 0.3 * lift + rng.uniform(-6, 6),
            muscle=rng.uniform(0.8, 1.05) * (0.85 if female else 1.1) * (1.0 - 0.003 * max(patient.age - 50, 0)),
            breast=rng.uniform(0.6, 1.25) if female else 0.0,
            wobble=tuple(rng.uniform(-1, 1, 8)),
        )

    @property
    def levels(self) -> dict[str, float]:
        """z of the middle of each vertebral body."""
        z = np.concatenate([[0.0], -np.cumsum(PITCH)])
        z = z - z[VERTEBRAE.index("T1")] + T1_MM + self.spine_phase
        return dict(zip(VERTEBRAE, z.tolist(), strict=True))

    def spine(self, z: float | np.ndarray) -> np.ndarray:
        """Middle of the spine at height ``z``: (..., 2) x and y."""
        z = np.asarray(z, np.float64)
        return np.stack([self.bend * np.sin((z - 20) / 90), profile("spine", z)[0].astype(np.float64)], -1)


def oval_level(
    x: np.ndarray, y: np.ndarray, sides: list[np.ndarray], gutter: float = 0.0, square: float = 0.75
) -> np.ndarray:
    """1 on the surface of an upright tube whose cross-section is a squarish oval, less inside.

    Args:
        x, y: body mm.
        sides: half-width, front and back at the height of each point (:func:`profile`).
        gutter: how far the back bulges beside the spine, mm; the front bulges beside the sternum a little less.
        square: how much squarer the back is than the front.
    """
    width, front, back = sides
    middle, depth = (front + back) / 2, (back - front) / 2
    side = np.abs(x)
    lobed = np.exp(-(((side - 50) / 27) ** 2)) - 0.6 * np.exp(-((side / 24) ** 2))
    bulge = gutter * lobed * (ramp(y, 0, 60) - 0.6 * ramp(y, 0, -50))
    u, v = side / width, (y - bulge - middle) / depth
    power = 2.15 + square * ramp(v, -0.5, 0.8)  # narrower towards the front, squarer at the back
    return np.maximum(u**power + np.abs(v) ** power, 1e-6) ** (1 / power)


def oval(grid: Grid, table: str, gutter: float = 0.0, square: float = 0.75) -> np.ndarray:
    """Signed distance in mm to the surface of :func:`oval_level` on a grid; ``table`` is of :data:`TABLES`."""
    sides = [np.asarray(v)[:, None, None] for v in profile(table, grid.z)]
    level = oval_level(grid.x[None], grid.y[None], sides, gutter, square)
    steep = np.gradient(level, *np.asarray(grid.spacing[::-1], np.float32))
    slope = np.sqrt(sum(g * g for g in steep))
    return np.clip((level - 1) / np.maximum(slope, 2e-3), -60, 90).astype(np.float32)


def around_cage(angle: np.ndarray, z: np.ndarray, grow: float) -> np.ndarray:
    """Points ``grow`` mm outside the rib cage at an angle from the front: (n, 3) body mm of the left side."""
    sides = [v.astype(np.float64) for v in profile("cage", z)]
    middle = (sides[1] + sides[2]) / 2
    u, v = np.sin(angle), -np.cos(angle)
    low, high = np.full(len(angle), 20.0), np.full(len(angle), 180.0)
    for _ in range(14):
        half = (low + high) / 2
        out = oval_level(half * u, middle + half * v, sides, *CAGE_FORM) > 1
        low, high = np.where(out, low, half), np.where(out, half, high)
    return np.stack([(high + grow) * u, middle + (high + grow) * v, z], 1)


def dome(plan: Plan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the diaphragm's upper surface above a body point; its left and right halves and the tendon between."""
    height = np.full(np.broadcast_shapes(x.shape, y.shape), -400, np.float32)
    slope = 0.92 + 0.22 * np.tanh(y / 35)  # the recess is deeper behind
    for side, top in ((-1, plan.dome_right), (1, plan.dome_left)):
        q = np.sqrt(((x - side * 60) / 66) ** 2 + ((y + 4) / 92) ** 2)
        height = -smooth_minimum(-height, -(top - 52 * slope * q**2.5), 4.0).astype(np.float32)
    tendon = plan.heart[2] - 39 - 9 * ((x - 14) / 50) ** 2 - 14 * ((y + 22) / 45) ** 2
    return -smooth_minimum(-height, -tendon, 6.0)


def cap(plan: Plan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the lungs' tops above a body point."""
    across = (np.abs(x) - 44) / 30
    along = (y - 34) / 40
    drop = 32 * (np.sqrt(1 + across**2 + along**2) - 1)
    return np.where(x < 0, *plan.apex) - drop


def oblique_fissure(plan: Plan, side: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the oblique fissure of the right (``side`` 0) or left (1) lung; the lower lobe lies below."""
    height, slope = plan.oblique[side]
    lateral = (np.abs(x) - 62) / 50
    a, b = plan.wobble[side], plan.wobble[2 + side]
    wave = 3.5 * np.sin(y / 31 + 2 * a) + 4 * b * np.sin(np.abs(x) / 26) + 3 * np.sin((x + y) / 19 + 3 * b)
    return height + slope * y - (11 + 5 * a) * lateral**2 + wave


def horizontal_fissure(plan: Plan, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """z of the right lung's horizontal fissure; the middle lobe lies below."""
    return plan.horizontal + 0.10 * (y + 40) - 0.0016 * (x + 80) ** 2 + 3 * np.sin(y / 24 + 3 * plan.wobble[4])
