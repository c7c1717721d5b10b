"""Heart, great vessels, windpipe and esophagus: painting them, and the room they take from the lungs."""

from __future__ import annotations

import numpy as np

from .canvas import Canvas, Grid, Solid, ramp, smooth_minimum, spline
from .courses import BRONCHUS, WINDPIPE, Pipe
from .torso import CAGE, Plan

# HU of blood by contrast phase
BLOOD = {
    "none": {"aorta": 42, "vein": 40, "lungs": 42, "left": 42, "right": 41, "cava": 40, "muscle": 48},
    "venous": {"aorta": 156, "vein": 150, "lungs": 152, "left": 154, "right": 150, "cava": 148, "muscle": 105},
    "arterial": {"aorta": 305, "vein": 190, "lungs": 265, "left": 300, "right": 220, "cava": 95, "muscle": 112},
}
WALL_MM = 1.4  # of the windpipe


def heart_frame(plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the heart and the rows of its axes: towards the apex, across, and up, in body mm."""
    apex = np.array([0.68, -0.56, -0.47])
    apex /= np.linalg.norm(apex)
    across = np.cross(apex, (0.0, 0.0, 1.0))
    across /= np.linalg.norm(across)
    return np.array(plan.heart), np.stack([apex, across, np.cross(across, apex)])


# chamber: its ellipsoids, as offset from the heart's middle, radii, and whether those lie along the heart's own axes
CHAMBERS = {
    "left_muscle": (((24, -6, -9), (47, 32, 32), True),),
    "left_ventricle": (((22, -6, -8), (37, 20.5, 20.5), True),),
    "right_ventricle": (((8, -28, -10), (42, 25, 30), True), ((8, -32, 14), (16, 15, 18), False)),
    "right_atrium": (((-40, -1, -2), (23, 25, 31), False), ((-30, -22, 14), (13, 14, 13), False)),
    "left_atrium": (((-4, 23, 14), (33, 16, 22), False), ((28, -2, 20), (13, 11, 10), False)),
}


def heart_solids(plan: Plan, grid: Grid, margin: float = 30.0) -> dict[str, Solid]:
    """Signed distances of :data:`CHAMBERS` on any grid, all in one box."""
    middle, axes = heart_frame(plan)
    size = plan.patient.heart_scale
    low, high = middle - 75 * size - margin, middle + 75 * size + margin
    found = {}
    for name, pieces in CHAMBERS.items():
        found[name] = Solid(grid, low, high)
        for offset, radii, turned in pieces:
            center = middle + size * np.array(offset)
            found[name].ellipsoid(center, size * np.array(radii), axes if turned else None, margin=margin)
    return found


def paint_heart(plan: Plan, canvas: Canvas, solids: dict[str, Solid]) -> None:
    """Fat, pericardium, muscle and blood of the heart; label 115."""
    blood = BLOOD[plan.patient.phase]
    box = solids["left_muscle"].box
    d = {name: solid.distance for name, solid in solids.items()}
    if d["left_muscle"].size == 0:
        return
    wall = np.minimum(d["left_muscle"], d["right_ventricle"] - 3.5)
    muscle = smooth_minimum(wall, np.minimum(d["right_atrium"] - 2, d["left_atrium"] - 2), 5)
    canvas.paint(muscle, blood["muscle"], 115, box)
    for name, key in (("right_atrium", "right"), ("left_atrium", "left")):
        canvas.paint(np.maximum(d[name], -(d["left_muscle"] - 1)), blood[key], 115, box)
    canvas.paint(np.maximum(d["right_ventricle"], -(d["left_muscle"] - 0.5)), blood["right"], 115, box)
    canvas.paint(d["left_ventricle"], blood["left"], 115, box)


def heart_envelope(solids: dict[str, Solid]) -> np.ndarray:
    """Signed distance of the pericardial sac: the chambers' union with the grooves filled with fat."""
    d = [solids[name].distance for name in ("left_muscle", "right_ventricle", "right_atrium", "left_atrium")]
    sac = d[0] - 2.5
    for other in d[1:]:
        sac = smooth_minimum(sac, other - 3, 11)
    return sac


def paint_thyroid(plan: Plan, canvas: Canvas, windpipe: np.ndarray) -> None:
    """The thyroid gland's two lobes and the isthmus in front of the windpipe."""
    hu = {"none": 95.0, "venous": 150.0, "arterial": 170.0}[plan.patient.phase]
    z = 132.0 + plan.carina - 33
    x, y = (float(np.interp(-z, -windpipe[:, 2], windpipe[:, i])) for i in (0, 1))
    solid = canvas.solid(np.array([x - 40, y - 40, z - 40]), np.array([x + 40, y + 40, z + 40]))
    for side in (-1, 1):
        solid.ellipsoid(np.array([x + side * 17, y - 2, z]), np.array([8.5, 10, 21]))
    solid.tube(np.array([(x - 14, y - 10, z - 6), (x, y - 12.5, z - 6), (x + 14, y - 10, z - 6)]), 3.0)
    canvas.paint(solid.distance, hu, 126, solid.box)


def paint_pipes(plan: Plan, canvas: Canvas, table: dict[str, Pipe]) -> None:
    """Paint blood vessels with thin walls, the esophagus and the windpipe with air."""
    blood = BLOOD[plan.patient.phase]
    for kind in ("", "cava", "vein", "lungs", "left", "aorta"):
        solids = []
        for pipe in table.values():
            if pipe.blood == kind and pipe.label not in (WINDPIPE, BRONCHUS):
                points = pipe.course[:, :3]
                solid = canvas.solid(points.min(0) - 22, points.max(0) + 22)
                solid.tube(points, pipe.course[:, 3], margin=2 * canvas.edge)
                solids.append((pipe, solid))
        for _, solid in solids:  # all walls first, so that vessels of one kind open into one another and the heart
            wall = np.where(canvas.organs[solid.box] == 115, 9, solid.distance)
            canvas.paint(wall, 40, 0, solid.box)
        for pipe, solid in solids:
            canvas.paint(solid.distance + (0.9 if kind else 0), blood.get(kind, 42), pipe.label, solid.box)
    airways = [pipe for pipe in table.values() if pipe.label in (WINDPIPE, BRONCHUS)]
    course = np.vstack([pipe.course for pipe in airways])
    solid = canvas.solid(course[:, :3].min(0) - 14, course[:, :3].max(0) + 14)
    main = canvas.solid(course[:, :3].min(0) - 14, course[:, :3].max(0) + 14)
    for pipe in airways:
        (solid if pipe.label == WINDPIPE else main).tube(pipe.course[:, :3], pipe.course[:, 3], margin=2 * canvas.edge)
    both = np.minimum(solid.distance, main.distance)
    canvas.paint(both - WALL_MM, 35, 0, solid.box)
    lumen = canvas.organs[solid.box]
    canvas.paint(both, -995, WINDPIPE, solid.box)
    lumen[(main.distance < solid.distance) & (both < 0)] = BRONCHUS


def coronaries(plan: Plan) -> list[np.ndarray]:
    """Left anterior descending, circumflex and right coronary artery: (n, 4) body mm and radius.

    They run where rays from the middle of the heart leave its chambers.
    """
    middle, axes = heart_frame(plan)
    size = plan.patient.heart_scale
    shapes: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = [
        (size * np.array(offset), size * np.array(radii), axes if turned else np.eye(3))
        for pieces in CHAMBERS.values()
        for offset, radii, turned in pieces
    ]
    found = []
    for directions in (
        ((0.1, -0.45, 0.85), (0.36, -0.72, 0.6), (0.55, -0.83, 0.2), (0.68, -0.72, -0.15), (0.74, -0.58, -0.42)),
        ((0.1, -0.35, 0.9), (0.55, -0.2, 0.8), (0.85, 0.2, 0.5), (0.75, 0.62, 0.2), (0.4, 0.8, -0.3)),
        ((-0.2, -0.6, 0.75), (-0.5, -0.8, 0.4), (-0.62, -0.78, -0.05), (-0.5, -0.6, -0.6), (-0.15, 0.1, -1.0)),
    ):
        way = spline(np.array(directions), 0.12)
        way /= np.linalg.norm(way, axis=1, keepdims=True)
        along = np.arange(20, 110, 0.5) * size
        points = way[:, None] * along[:, None]
        inside = np.zeros((len(way), len(along)), bool)
        for offset, radii, turn in shapes:
            inside |= ((((points - offset) @ turn.T) / radii) ** 2).sum(-1) < 1
        out = along[len(along) - 1 - np.argmax(inside[:, ::-1], axis=1)] + 2.2
        out = np.convolve(np.pad(out, 2, mode="edge"), np.full(5, 0.2), "valid")
        found.append(np.column_stack([middle + way * out[:, None], np.linspace(1.9, 1.1, len(way))]))
    return found


def paint_coronaries(plan: Plan, canvas: Canvas, courses: list[np.ndarray]) -> None:
    """Coronary arteries in the fat on the heart."""
    for course in courses:
        solid = canvas.solid(course[:, :3].min(0) - 6, course[:, :3].max(0) + 6)
        solid.tube(course[:, :3], course[:, 3], 2 * canvas.edge)
        canvas.paint(solid.distance, BLOOD[plan.patient.phase]["aorta"] - 10, 0, solid.box)


def filler(plan: Plan, grid: Grid, table: dict[str, Pipe]) -> np.ndarray:
    """Signed distance of what keeps the lungs apart: heart, great vessels, fat and spine, on a lattice."""
    field = np.full(grid.shape, 99, np.float32)
    low, high = np.array([-90.0, -130.0, -320.0]), np.array([110.0, 130.0, 280.0])
    solid = Solid(grid, low, high)
    for name, pipe in table.items():
        if "subclavian" not in name:
            coat = 0.6 if "pulmonary" in name or "bronchus" in name else 2.0  # fat round it
            solid.tube(pipe.course[:, :3], pipe.course[:, 3] + coat, margin=16)
    solids = heart_solids(plan, grid)
    box = solids["left_muscle"].box
    field[solid.box] = solid.distance
    if solids["left_muscle"].distance.size:
        field[box] = smooth_minimum(field[box], heart_envelope(solids) - 1.5, 6)
    x, y, z = grid.x[None], grid.y[None], grid.z[:, None, None]
    middle = plan.spine(grid.z)
    sx, sy = (middle[:, i, None, None].astype(np.float32) for i in (0, 1))
    # the spine with its muscles, then the strip of fat in front of and behind heart and vessels
    column = np.sqrt(((x - sx) / 1.12) ** 2 + (y - sy) ** 2) - 17.5
    behind = np.where(y > sy, np.abs(x - sx) - 15.0 - 0.3 * (y - sy), 99)
    neck = 15 + 0.92 * (np.abs(x - sx) - 17) - (y - sy)  # in front of the necks of the ribs
    behind = np.minimum(behind, np.maximum(neck / 1.36, np.abs(x - sx) - 48))
    wall = np.interp(grid.z, CAGE[:, 0], CAGE[:, 2]).astype(np.float32)[:, None, None]
    strip = 2.2 + 3.0 * ramp(z, 20, 60) + 12 * ramp(z, 60, 100) + 13 * np.exp(-np.maximum(y - wall, 0) / 9)
    front = np.abs(x - 3 - 0.06 * (y + 60) - 9 * ramp(z, 0, -60)) - strip
    front = np.maximum(front, y - sy)
    for other, k in ((column, 4), (behind, 4), (front, 8)):
        field = smooth_minimum(field, other.astype(np.float32), k)
    return field
