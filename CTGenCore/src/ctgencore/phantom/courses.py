"""Where the great vessels, the windpipe and the esophagus run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import spline
from .torso import Plan

WINDPIPE, BRONCHUS, ESOPHAGUS = 57, 132, 11
Points = tuple[tuple[float, float, float, float], ...]


@dataclass(frozen=True, slots=True)
class Pipe:
    """A named tube of the mediastinum.

    Attributes:
        course: (n, 4) body mm: x, y, z, outer radius.
        label: organ id, 0 = none.
        blood: which blood it carries (keys of :data:`ctgencore.phantom.mediastinum.BLOOD`), empty for air and food.
    """

    course: np.ndarray
    label: int
    blood: str = ""


# name: organ id, blood, whether it moves with the carina ("carina"), the heart ("heart") or not, x y z radius in mm
FIXED: dict[str, tuple[int, str, str, Points]] = {
    "inferior_vena_cava": (
        7,
        "cava",
        "",
        ((-24, 2, -62, 12), (-24, 8, -74, 12), (-22, 20, -104, 11.5), (-20, 22, -160, 11), (-18, 14, -290, 11)),
    ),
    "superior_vena_cava": (125, "vein", "carina", ((-25, -14, 66, 8.5), (-27, -10, 36, 9.5), (-28, -8, 0, 10.5))),
    "right_brachiocephalic_vein": (
        111,
        "vein",
        "carina",
        ((-62, 2, 108, 6), (-42, -6, 100, 7), (-34, -13, 84, 7.5), (-25, -14, 64, 8)),
    ),
    "left_brachiocephalic_vein": (
        110,
        "vein",
        "carina",
        ((64, 2, 110, 6), (42, -8, 100, 7), (26, -24, 84, 7), (2, -30, 72, 7), (-24, -15, 64, 7.5)),
    ),
    "pulmonary_trunk": (
        0,
        "lungs",
        "both",
        ((18, -46, -8, 13), (22, -40, 4, 14), (22, -26, 16, 14), (18, -10, 22, 12.5)),
    ),
    "right_pulmonary_artery": (
        0,
        "lungs",
        "carina",
        ((18, -12, 21, 11.5), (2, -2, 17, 11), (-18, 2, 14, 10.5), (-36, 6, 10, 9.5), (-47, 12, -6, 7.5)),
    ),
    "left_pulmonary_artery": (
        0,
        "lungs",
        "carina",
        ((19, -12, 22, 11.5), (30, 2, 27, 11.5), (42, 20, 22, 10.5), (48, 26, 4, 8), (50, 28, -12, 7)),
    ),
    "right_superior_pulmonary_vein": (
        119,
        "left",
        "heart",
        ((-16, 4, -10, 7.5), (-34, -2, -2, 6.5), (-46, -2, 8, 5.5)),
    ),
    "right_inferior_pulmonary_vein": (
        119,
        "left",
        "heart",
        ((-14, 16, -22, 7.5), (-32, 26, -24, 7), (-48, 34, -28, 5.5)),
    ),
    "left_superior_pulmonary_vein": (119, "left", "heart", ((32, 4, -6, 7.5), (42, -2, 4, 6.5), (52, 0, 14, 5.5))),
    "left_inferior_pulmonary_vein": (
        119,
        "left",
        "heart",
        ((32, 16, -20, 7.5), (44, 26, -22, 6.5), (55, 34, -26, 5.5)),
    ),
    "brachiocephalic_trunk": (109, "aorta", "carina", ((-8, -12, 60, 6.2), (-14, -9, 76, 6), (-21, -3, 94, 5.8))),
    "right_common_carotid": (
        113,
        "aorta",
        "carina",
        ((-21, -3, 94, 4.2), (-24, -6, 116, 3.8), (-25, -6, 150, 3.6), (-26, -4, 250, 3.4)),
    ),
    "right_subclavian": (
        124,
        "aorta",
        "carina",
        ((-21, -3, 94, 4.6), (-34, 4, 106, 4.6), (-58, 14, 112, 4.3), (-92, 8, 106, 4), (-135, 2, 112, 3.6)),
    ),
    "left_common_carotid": (
        112,
        "aorta",
        "carina",
        ((2, -2, 62, 4.4), (10, 0, 82, 4), (22, -4, 114, 3.8), (24, -6, 150, 3.6), (26, -4, 250, 3.4)),
    ),
    "left_subclavian": (
        123,
        "aorta",
        "carina",
        (
            (16, 15, 64, 5),
            (23, 17, 84, 4.8),
            (36, 16, 106, 4.6),
            (60, 14, 112, 4.3),
            (94, 8, 106, 4),
            (135, 2, 112, 3.6),
        ),
    ),
    "trachea": (
        WINDPIPE,
        "",
        "carina",
        (
            (0, -16, 250, 8.6),
            (0, -10, 150, 8.8),
            (0, 2, 110, 9),
            (1, 12, 72, 9),
            (1.5, 19, 43, 9.3),
            (1.5, 21, 33, 8.6),
        ),
    ),
    "right_main_bronchus": (BRONCHUS, "", "carina", ((-0.5, 21, 33, 7.6), (-13, 24, 18, 7.2), (-25, 27, 5, 6.6))),
    "left_main_bronchus": (
        BRONCHUS,
        "",
        "carina",
        ((3.5, 21, 33, 6.8), (20, 26, 20, 6.5), (36, 28, 9, 6.2), (44, 27, 2, 6)),
    ),
    "intermediate_bronchus": (BRONCHUS, "", "carina", ((-25, 27, 5, 6), (-33, 28, -9, 5.5), (-41, 28, -23, 5))),
    "right_upper_bronchus": (BRONCHUS, "", "carina", ((-22, 26, 9, 5.4), (-37, 24, 13, 4.8), (-49, 22, 18, 4.2))),
}


def pipes(plan: Plan) -> dict[str, Pipe]:
    """The courses of all large tubes, in the order in which they are painted."""
    rng = np.random.default_rng((plan.patient.seed, 2))
    wide = 1.0 + 0.004 * (plan.patient.age - 60) + rng.uniform(-0.06, 0.06)  # the aorta widens with age
    up, low = plan.carina - 33, plan.heart[2] + 30
    shifts = {"": 0.0, "carina": up, "heart": low, "both": up + 0.5 * low}
    found = {}
    for name, (label, blood, tied, points) in FIXED.items():
        table = np.array(points, float)
        table[:, 2] += shifts[tied]
        table[1:-1, :3] += rng.uniform(-1.2, 1.2, (len(table) - 2, 3))
        found[name] = Pipe(spline(table, 7.0), label, blood)
    found["azygos"] = Pipe(_azygos(plan, up), 0, "vein")
    found["aorta"] = Pipe(_aorta(plan, up, low, 13.0 * wide), 6, "aorta")
    found["esophagus"] = Pipe(_esophagus(plan), ESOPHAGUS)
    return found


def _by_spine(plan: Plan, points: Points) -> np.ndarray:
    """Points whose x and y are given from the middle of the spine at their height."""
    table = np.array(points, float)
    table[:, :2] += plan.spine(table[:, 2])
    return table


def _azygos(plan: Plan, up: float) -> np.ndarray:
    rise = _by_spine(plan, ((-7, -19, -120, 3.2), (-7, -19, -60, 3.2), (-7, -19, 0, 3.3), (-9, -19, 36 + up, 3.5)))
    arch = np.array([(-17, 33, 48 + up, 4), (-24, 14, 50 + up, 4.4), (-26, -4, 44 + up, 4.6)], float)
    return spline(np.vstack([rise, arch]), 7.0)


def _aorta(plan: Plan, up: float, low: float, radius: float) -> np.ndarray:
    """From the left ventricle over the arch to the belly."""
    ascending = [
        (4, -14, low - 12, 1.12),
        (-10, -22, up + 6, 1.12),
        (-17, -24, up + 28, 1.1),
        (-13, -17, up + 48, 1.08),
    ]
    arch = [(0, -3, up + 57, 1.04), (14, 14, up + 58, 1.0), (22, 29, up + 51, 1.0)]
    descending = _by_spine(
        plan,
        (
            (24, -10, 36 + up, 0.98),
            (25, -13, 8, 0.93),
            (23, -17, -30, 0.9),
            (18, -21, -72, 0.86),
            (12, -26, -110, 0.8),
            (8, -29, -170, 0.72),
            (6, -32, -290, 0.62),
        ),
    )
    table = np.vstack([np.array(ascending + arch, float), descending])
    table[:, 3] *= radius
    return spline(table, 7.0)


def _esophagus(plan: Plan) -> np.ndarray:
    neck = _by_spine(plan, ((2, -20, 250, 5.5), (3, -20, 150, 6), (6, -21, 90, 6.5)))
    chest = [(6, 36, 40, 6.5), (4, 35, 8, 6.5), (5, 32, -40, 7), (14, 26, -78, 7.5), (30, 12, plan.dome_left - 24, 8)]
    return spline(np.vstack([neck, np.array(chest, float)]), 7.0)
