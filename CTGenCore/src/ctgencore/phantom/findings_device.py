"""Medical material: pacemaker, venous port, sternal wires, electrodes."""

from __future__ import annotations

import numpy as np

from .findings_brush import Brush
from .findings_chest import VENA_CAVA
from .scene import Fact

BODY, STERNUM = 200, 122
METAL_HU, PLASTIC_HU = 2900.0, 900.0
SIDE_OF_DEVICE = {"pacemaker": "left", "port": "right", "wires": "", "electrodes": ""}


def material(brush: Brush, fact: Fact, look: str) -> bool:
    """Paint the device that ``look`` names."""
    rng = np.random.default_rng((fact.seed, 2))
    draw = {"pacemaker": _pacemaker, "port": _port, "wires": _wires, "electrodes": _electrodes}
    return draw[look](brush, rng)


def _skin(brush: Brush, x: float, z: float) -> np.ndarray | None:
    """The front of the body at (x, z)."""
    front = np.array([x, float(brush.axes[1][0]), z])
    tissue = tuple(range(1, 256))
    return brush.march(front, np.array([0.0, 1.0, 0.0]), tissue, leave=False)


def _landmark(brush: Brush, name: str) -> np.ndarray | None:
    found = brush.scene.landmarks.get(name)
    return None if found is None else np.asarray(found, float)


def _pocket(brush: Brush, side: int) -> np.ndarray | None:
    """Under the skin below the collar bone; ``side`` is +1 for the patient's left."""
    carina = _landmark(brush, "carina")
    if carina is None:
        return None
    skin = _skin(brush, carina[0] + side * 78, carina[2] + 38)
    return None if skin is None else skin + np.array([0, 11.0, 0])


def _course(points: list[np.ndarray]) -> np.ndarray:
    """A smooth polyline through points (Catmull-Rom), 8 pieces between neighbors."""
    p = np.stack([points[0], *points, points[-1]])
    t = np.linspace(0, 1, 8, endpoint=False)[:, None]
    pieces = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        pieces.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.concatenate([*pieces, points[-1][None]])


def _line_to_heart(brush: Brush, pocket: np.ndarray, side: int) -> list[np.ndarray] | None:
    """From a pocket over the subclavian vein into the superior vena cava."""
    carina = _landmark(brush, "carina")
    if carina is None:
        return None
    upper = brush.place((VENA_CAVA,), np.array([0.5, 0.5, 0.9]))
    lower = brush.place((VENA_CAVA,), np.array([0.5, 0.5, 0.1]))
    upper = carina + np.array([-22.0, -22.0, 45.0]) if upper is None else upper
    lower = carina + np.array([-22.0, -22.0, -8.0]) if lower is None else lower
    bend = np.array([carina[0] + side * 62, 0.5 * (pocket[1] + upper[1]), carina[2] + 78])
    cross = np.array([carina[0] + side * 24, upper[1] - 6, carina[2] + 66])
    return [pocket, bend, cross, upper, lower]


def _pacemaker(brush: Brush, rng: np.random.Generator) -> bool:
    """A generator below the left collar bone with a lead into the right ventricle."""
    pocket, heart = _pocket(brush, 1), _landmark(brush, "heart_center")
    course = None if pocket is None else _line_to_heart(brush, pocket, 1)
    if pocket is None or heart is None or course is None:
        return False
    half = np.array([21.0, 4.2, 19.0])

    def case(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        sides = [np.abs(v - c) / h for v, c, h in zip((x, y, z), pocket, half, strict=True)]
        return ((sides[0] ** 4 + sides[1] ** 4 + sides[2] ** 4) ** 0.25 - 1) * 4.2

    painted = brush.shape(pocket - half - 1, pocket + half + 1, case, METAL_HU)
    tip = heart + np.array([6.0, -22.0, -26.0])
    brush.tube(_course([*course, heart + np.array([-32.0, -8.0, -8.0]), tip]), 1.1, METAL_HU)
    return painted > 0


def _port(brush: Brush, rng: np.random.Generator) -> bool:
    """A reservoir below the right collar bone and a catheter that ends where the vena cava meets the heart."""
    pocket = _pocket(brush, -1)
    course = None if pocket is None else _line_to_heart(brush, pocket, -1)
    if pocket is None or course is None:
        return False
    painted = brush.ball(pocket, np.array([12.0, 6.0, 12.0]), PLASTIC_HU)
    brush.ball(pocket, np.array([7.5, 4.0, 7.5]), METAL_HU)
    brush.tube(_course(course), 1.3, PLASTIC_HU)
    return painted > 0


def _wires(brush: Brush, rng: np.random.Generator) -> bool:
    """Steel loops around the breastbone after open heart surgery."""
    points = brush.points((STERNUM,))
    if not len(points):
        return False
    painted = 0
    for level in np.quantile(points[:, 2], np.linspace(0.12, 0.88, 5)):
        here = points[np.abs(points[:, 2] - level) <= 6]
        low, high = here.min(0), here.max(0)
        half = np.array([max(0.5 * (high[0] - low[0]), 9.0) * 0.8, 0.5 * (high[1] - low[1]) + 4.0])
        turn = np.linspace(0, 2 * np.pi, 25)
        middle = 0.5 * (low + high)
        loop = np.stack(
            [middle[0] + half[0] * np.cos(turn), middle[1] + half[1] * np.sin(turn), level + 2 * np.sin(2 * turn)],
            axis=1,
        )
        brush.tube(loop, 0.75, METAL_HU)
        painted += 1
    return painted > 0


def _electrodes(brush: Brush, rng: np.random.Generator) -> bool:
    """Buttons of ECG electrodes on the skin with a piece of cable each."""
    carina = _landmark(brush, "carina")
    if carina is None:
        return False
    painted = 0.0
    for x, z in ((-95.0, 30.0), (95.0, 30.0), (105.0, -70.0)):
        skin = _skin(brush, carina[0] + x + rng.uniform(-8, 8), carina[2] + z + rng.uniform(-8, 8))
        if skin is None:
            continue
        painted += brush.ball(skin - np.array([0, 1.0, 0]), np.array([5.0, 1.6, 5.0]), 1800)
        cable = np.stack([skin - np.array([0, 3.0, 0]), skin + np.array([0.3 * x, -6.0, 40.0])])
        brush.tube(cable, 1.0, 700)
    return painted > 0
