"""What lies under the diaphragm."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Grid, Lattice, Solid, ramp, smooth_minimum, spline
from .torso import Plan, dome

# HU by contrast phase
LIVER = {"none": 58.0, "venous": 112.0, "arterial": 80.0}
SPLEEN = {"none": 48.0, "venous": 122.0, "arterial": 140.0}
KIDNEY = {"none": 32.0, "venous": 165.0, "arterial": 135.0}
KIDNEY_MM = np.array([52.0, 27, 25])
GLAND = {"none": 40.0, "venous": 95.0, "arterial": 105.0}
PORTAL = {"none": 40.0, "venous": 162.0, "arterial": 110.0}


def organs_hu(plan: Plan) -> tuple[tuple[str, float, int], ...]:
    """Surface name, HU and organ id, in the order of painting."""
    phase = plan.patient.phase
    return (
        ("stomach", 55.0 if phase == "none" else 85.0, 12),
        ("stomach_content", 22.0, 12),
        ("stomach_gas", -970.0, 12),
        ("spleen", SPLEEN[phase], 3),
        ("liver", LIVER[phase], 1),
    )


def surfaces(plan: Plan, grid: Grid, cage: np.ndarray, wave: np.ndarray, swell: np.ndarray) -> dict[str, np.ndarray]:
    """Signed distances of liver, spleen and stomach on a coarse grid.

    Args:
        plan: whose.
        grid: where.
        cage: distance to the rib cage on the grid.
        wave, swell: smooth noise on the grid, of millimeters and of centimeters.
    """
    x, y, z = grid.x[None], grid.y[None], grid.z[:, None, None]
    under = (z - dome(plan, x, y)) * 0.9 + 1.6
    room = np.maximum(cage + 2.4, under)
    lift = plan.lift
    a, b, c = plan.wobble[4:7]
    # the lower surface rises to the left and falls to the right; the left lobe lies in front and ends in a wedge
    lower = -128 + lift + 8 * a + 0.5 * (x + 45) - 0.22 * (y + 20) - 0.006 * np.maximum(-60 - x, 0) ** 2
    left = x - (62 + 14 * b) + 0.0075 * np.maximum(y + 78, 0) ** 2
    liver = -smooth_minimum(-room, -((lower - z) * 0.8 + 6 * swell), 9)
    liver = -smooth_minimum(-liver, -(left * 0.75 + 6 * swell), 9)
    cleft = np.maximum(np.abs(x - 6 - 0.35 * (y + 60)) - 2.5 * ramp(z, -70, -110), np.maximum(-y - 75, y + 12))
    liver = np.maximum(liver, np.where(z < -75 + lift, -cleft, -9))
    spine = plan.spine(grid.z)
    column = np.sqrt((x - spine[:, 0, None, None]) ** 2 + (y - spine[:, 1, None, None]) ** 2) - 28
    liver = -smooth_minimum(-liver, column, 6) + 0.7 * wave
    kidneys = Solid(grid)
    for side in (-1, 1):
        center, axes = kidney_place(plan, side)
        kidneys.ellipsoid(center, KIDNEY_MM + np.array([6, 5, 5]), axes, 30)
    liver = -smooth_minimum(-liver, kidneys.distance, 4)
    top = plan.dome_left
    solid = Solid(grid)
    turn = np.array([[0.45, 0.85, -0.2], [-0.85, 0.45, 0.0], [0.15, 0.2, 0.95]])
    turn /= np.linalg.norm(turn, axis=1, keepdims=True)
    size = 1 + 0.12 * c
    solid.ellipsoid(np.array([95, 38, top - 46]), size * np.array([56, 33, 48]), turn, 20)
    hollow = np.sqrt(((x - 54) / 40) ** 2 + ((y - 6) / 44) ** 2 + ((z - top + 52) / 60) ** 2)
    spleen = (
        np.maximum(np.maximum(solid.distance, (1 - hollow) * 44) + 2 * swell, np.maximum(cage + 3.8, under))
        + 0.5 * wave
    )
    solid = Solid(grid)
    fundus = np.array([60, 8, top - 40])
    solid.ellipsoid(fundus, np.array([36, 44, 34]), margin=20)
    solid.tube(
        spline(np.array([fundus, (62, -30, top - 66), (44, -58, top - 92), (4, -58, top - 104), (-24, -40, top - 98)])),
        25.0,
        20,
    )  # fmt: skip
    stomach = np.maximum(np.maximum(solid.distance + 4 * swell, cage + 5), under + 1)
    spleen = -smooth_minimum(-spleen, kidneys.distance + 2, 4)
    stomach = -smooth_minimum(-stomach, np.minimum(np.minimum(liver, spleen) - 2.5, kidneys.distance), 6)
    content = stomach + 4.5 + 1.4 * wave
    gas = np.maximum(content, y + 50 + 14 * a)
    found = {"liver": liver, "spleen": spleen, "stomach": stomach, "stomach_content": content, "stomach_gas": gas}
    return {name: np.asarray(value, np.float32) for name, value in found.items()}


def paint(plan: Plan, canvas: Canvas, lattice: Lattice, cage: np.ndarray) -> None:
    """Vessels of the liver, kidneys, adrenal glands, pancreas, gallbladder, colon and the crura of the diaphragm."""
    phase, lift = plan.patient.phase, plan.lift
    rng = np.random.default_rng((plan.patient.seed, 3))

    def tube(
        points: list[tuple[float, ...]], hu: float, label: int, stretch: tuple[float, float, float] = (1, 1, 1)
    ) -> Solid:
        course = spline(np.array(points, float) + np.array([0, 0, lift, 0]), 8.0)
        solid = canvas.solid(course[:, :3].min(0) - 40, course[:, :3].max(0) + 40)
        solid.tube(course[:, :3], course[:, 3], 2 * canvas.edge, stretch)
        canvas.paint(solid.distance, hu, label, solid.box)
        return solid

    for side in (-1, 1):  # crura
        front = [
            (side * 13 + 4, plan.spine(z)[1] - 20, z - lift, r)
            for z, r in ((-76, 4), (-105, 5.5), (-150, 5), (-210, 3))
        ]
        tube([(float(a), float(b), float(c), float(d)) for a, b, c, d in front], 54, 0, (0.7, 1.3, 1))
        psoas = [
            (side * (26 + 0.1 * (-160 - z)), plan.spine(z)[1] + 2, z - lift, r)
            for z, r in ((-165, 6), (-205, 15), (-300, 22))
        ]
        tube([(float(a), float(b), float(c), float(d)) for a, b, c, d in psoas], 56, 106 if side > 0 else 107)
    _liver_vessels(plan, canvas, rng)
    for side, label in ((-1, 5), (1, 14)):
        _kidney(plan, canvas, side, label)
    hu = GLAND[phase]
    for side, label in ((-1, 8), (1, 9)):
        tip = np.array([side * 30 + 3, plan.spine(-118)[1] - 20, -112.0])
        for foot in ((side * 9, 14, -20), (side * 1, 16, -22)):
            tube([(*tip, 2.6), (*(tip + foot), 2.0)], hu - 15, label, (1, 1, 1.5))
    tube([(-26, 2, -168, 11), (-4, -14, -158, 10), (26, -2, -146, 9), (58, 24, -128, 8)], hu, 4)
    tube([(-10, 2, -152, 6), (24, 10, -140, 5), (70, 34, -118, 4.5)], PORTAL[phase], 17)
    bladder = np.array([-48.0, -46, -134 + lift])
    solid = canvas.solid(bladder - 45, bladder + 45)
    solid.ellipsoid(bladder, np.array([15, 27, 17]), np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]]))
    canvas.paint(solid.distance, 8, 10, solid.box)
    _colon(plan, canvas, lattice, cage, rng)
    _bowel(plan, canvas, rng)


def _liver_vessels(plan: Plan, canvas: Canvas, rng: np.random.Generator) -> None:
    """Hepatic veins towards the vena cava, and the portal vein's branches."""
    change = {"none": -14.0, "venous": 48.0, "arterial": 16.0}[plan.patient.phase]
    up = plan.lift
    cava, gate = np.array([-24.0, 13, -76 + up]), np.array([-30.0, -4, -122 + up])
    branches = [
        (cava, (-62, 14, -88), (-104, 10, -112), 5.0), (cava, (-44, -22, -92), (-66, -60, -116), 4.5),
        (cava, (-6, -22, -84), (22, -52, -92), 4.2), (cava, (-50, 40, -92), (-90, 56, -110), 3.6),
        (gate, (-58, -2, -116), (-96, -26, -118), 6.0), (gate, (-60, 10, -112), (-100, 34, -126), 5.0),
        (gate, (-14, -28, -106), (8, -62, -100), 5.0), (gate, (-70, 4, -130), (-94, -6, -156), 4.4),
    ]  # fmt: skip
    solid = canvas.solid(np.array([-130.0, -95, -200]), np.array([60.0, 85, -40]))
    if solid.distance.size == 0:
        return
    for start, middle, end, radius in branches:
        points = np.array([start, middle, end], float)
        points[1:] += rng.normal(0, 3, (2, 3)) + np.array([0, 0, up])
        course = spline(points, 9.0)
        solid.tube(course, np.linspace(radius, 1.4, len(course)), 2 * canvas.edge)
        for start_at in (0.45, 0.65, 0.8):
            root = course[int(start_at * len(course))]
            tip = root + (points[2] - points[0]) * 0.28 + rng.normal(0, 16, 3)
            solid.tube(np.array([root, tip]), np.array([1.7, 0.8]), 2 * canvas.edge)
    liver = canvas.organs[solid.box] == 1
    canvas.hu[solid.box] += canvas.cover(solid.distance) * liver * change


def kidney_place(plan: Plan, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Middle of a kidney and the rows of its axes; ``side`` -1 right, +1 left."""
    z = -164.0 + 12 * (side > 0) + 0.4 * plan.lift
    axes = np.array([[side * -0.25, -0.2, 0.95], [side * 0.8, -0.6, 0.0], [0.0, 0.0, 0.0]])
    axes[2] = np.cross(axes[0], axes[1])
    return np.array([side * 60.0, plan.spine(z)[1] + 8, z]), axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _kidney(plan: Plan, canvas: Canvas, side: int, label: int) -> None:
    """A kidney with the fat of its sinus."""
    center, axes = kidney_place(plan, side)
    inner = canvas.solid(center - 75, center + 75)
    if inner.distance.size == 0:
        return
    inner.ellipsoid(center + np.array([-side * 9, -5, 0]), np.array([30, 9, 12]), axes)
    solid = canvas.solid(center - 75, center + 75)
    solid.ellipsoid(center, KIDNEY_MM, axes)
    canvas.paint(np.maximum(solid.distance, -inner.distance), KIDNEY[plan.patient.phase], label, solid.box)


def _colon(plan: Plan, canvas: Canvas, lattice: Lattice, cage: np.ndarray, rng: np.random.Generator) -> None:
    """The transverse colon and its left flexure, with gas in front and stool behind."""
    top = plan.dome_left
    points = np.array(
        [
            (-96, -30, -190, 20),
            (-70, -66, -176, 18),
            (-10, -86, -178, 17),
            (46, -82, -160, 17),
            (88, -52, top - 66, 19),
            (104, -14, top - 52, 19),
            (108, 20, -170, 17),
            (110, 20, -280, 16),
        ],
        float,
    )
    points[1:-1, :3] += rng.normal(0, 5, (len(points) - 2, 3))
    course = spline(points, 9.0)
    bulge = 1 + 0.16 * np.sin(np.arange(len(course)) * 2.1)
    solid = canvas.solid(points[:, :3].min(0) - 30, points[:, :3].max(0) + 30)
    if solid.distance.size == 0:
        return
    solid.tube(course[:, :3], course[:, 3] * bulge, 2 * canvas.edge)
    free = canvas.organs[solid.box] == 200
    distance = np.where(free, np.maximum(solid.distance, lattice.fine_box(cage, solid.box) + 4), 9)
    canvas.paint(distance, 45, 62, solid.box)
    y = canvas.coordinates(solid.box)[1]
    canvas.paint(distance + 2.5, 5, 62, solid.box)
    canvas.paint(np.maximum(distance + 2.5, y + 66 + 14 * rng.uniform(-1, 1)), -960, 62, solid.box)


def _bowel(plan: Plan, canvas: Canvas, rng: np.random.Generator) -> None:
    """Loops of small bowel and their vessels below the stomach."""
    low, high = np.array([-72.0, -78, -300]), np.array([84.0, -6, -152 + 0.5 * plan.lift])
    loops, vessels = (canvas.solid(low - 20, high + np.array([20, 20, 80])) for _ in range(2))
    if loops.distance.size == 0:
        return
    root = np.array([6.0, 10, -190])
    for _ in range(26):  # omentum, in front of everything
        start = np.array([rng.uniform(-10, 70), rng.uniform(-85, -45), rng.uniform(-170, -95)])
        ends = start + rng.normal(0, (26, 10, 16), (3, 3)).cumsum(0)
        vessels.tube(spline(np.vstack([start, ends]), 9.0), rng.uniform(0.8, 1.4), 2 * canvas.edge)
    for _ in range(34):
        middle = rng.uniform(low, high)
        points = middle + rng.normal(0, (20, 12, 16), (4, 3))
        loops.tube(spline(points, 9.0), rng.uniform(8, 13), 2 * canvas.edge)
        vessels.tube(spline(np.array([root, (root + middle) / 2 + rng.normal(0, 8, 3), middle])), 1.4, 2 * canvas.edge)
    free = (canvas.organs[loops.box] == 200) & (canvas.hu[loops.box] < -60)  # in the fat
    canvas.paint(np.where(free, vessels.distance, 9), GLAND[plan.patient.phase], 0, loops.box)
    distance = np.where(free, loops.distance, 9)
    canvas.paint(distance, GLAND[plan.patient.phase] - 5, 19, loops.box)
    canvas.paint(distance + 3, 18, 19, loops.box)
