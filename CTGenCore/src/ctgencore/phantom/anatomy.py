"""The healthy chest: everything drawn in its order, without blur and noise."""

from __future__ import annotations

import numpy as np

from ..geometry import Geometry
from . import abdomen, courses, layers, mediastinum, muscles, skeleton, texture, vessels
from .canvas import LATTICE_MM, Canvas, Frame, Grid, Lattice
from .scene import Patient, Scene, Tube
from .torso import CAGE_FORM, Plan, oval

TREE_MM = 5.0  # pitch of the points that the lungs' trees grow into


def build(patient: Patient, geometry: Geometry) -> Scene:
    """Draw a patient's healthy anatomy.

    Args:
        patient: who.
        geometry: an axis-aligned grid; world 0 is the middle of the standard field.

    Returns:
        HU without blur and noise, organ ids, tubes and landmarks.
    """
    plan = Plan.draw(patient)
    frame = Frame(patient)
    canvas = Canvas(frame, geometry)
    lattice = Lattice(frame, geometry)
    pipes = courses.pipes(plan)
    trees = grow_trees(plan, pipes)
    fields = layers.surfaces(plan, lattice)
    fields["filler"] = mediastinum.filler(plan, lattice, pipes)
    fields["coarse"] = texture.field(lattice, patient.seed, 31, 9.0)
    fields["swell"] = texture.field(lattice, patient.seed, 32, 24.0)
    fields.update(abdomen.surfaces(plan, lattice, fields["cage"], fields["coarse"], fields["swell"]))
    layers.paint_table(plan, canvas)
    layers.paint(plan, canvas, lattice, fields)
    muscles.paint_shoulders(plan, canvas)
    abdomen.paint(plan, canvas, lattice, fields["cage"])
    mediastinum.paint_heart(plan, canvas, mediastinum.heart_solids(plan, canvas, 2 * canvas.edge + 12))
    mediastinum.paint_thyroid(plan, canvas, pipes["trachea"].course)
    coronaries = mediastinum.coronaries(plan)
    mediastinum.paint_coronaries(plan, canvas, coronaries)
    mediastinum.paint_pipes(plan, canvas, pipes)
    paint_trees(plan, canvas, trees)
    bones, cartilage = skeleton.draw(plan, canvas)
    skeleton.paint_soft(plan, canvas, cartilage)
    layers.finish(plan, canvas, lattice, texture.field(lattice, patient.seed, 30, LATTICE_MM), bones)
    return Scene(
        patient=patient,
        geometry=geometry,
        hu=canvas.hu,
        organs=canvas.organs,
        diseases=np.zeros(canvas.shape, np.uint8),
        tubes=tubes(frame, pipes, trees, coronaries),
        landmarks=landmarks(plan, frame),
    )


def grow_trees(plan: Plan, pipes: dict[str, courses.Pipe]) -> dict[str, vessels.Tree]:
    """Bronchi, arteries and veins, grown in the body's own frame so that no grid changes them."""
    still = Frame(Patient(seed=0))
    low, high = np.array([-140.0, -112, -145]), np.array([140.0, 112, 125])
    size = np.ceil((high - low) / TREE_MM).astype(int) + 1
    grid = Grid(still, low + still.shift, np.full(3, TREE_MM), tuple(size.tolist()))
    depth = layers.lung(plan, grid, oval(grid, "cage", *CAGE_FORM), mediastinum.filler(plan, grid, pipes))
    lobe = layers.lobes(plan, grid)
    roots = vessels.roots(plan)
    found = {}
    for number, kind in enumerate(("artery", "vein")):
        rng = np.random.default_rng((plan.patient.seed, 10 + number))
        targets, ids = [], []
        for level, (pitch, _) in enumerate(vessels.LEVELS):
            knots = np.stack(
                np.meshgrid(*(np.arange(a, b, pitch) for a, b in zip(low, high, strict=True)), indexing="ij"), -1
            )
            points = knots.reshape(-1, 3) + rng.uniform(0.1, 0.9, (knots.size // 3, 3)) * pitch
            index = np.clip(np.round((points - low) / TREE_MM).astype(int), 0, size - 1)
            at = (index[:, 2], index[:, 1], index[:, 0])
            inside = (depth[at] < (-6.0 if level < 3 else -2.5)) & (depth[at] > (-30.0 if level < 2 else -99))
            targets.append(points[inside])
            ids.append(lobe[at][inside])
        found[kind] = vessels.grow(targets, ids, roots[kind], rng)
    found["airway"] = vessels.beside(found["artery"], roots["airway"], roots["artery"], 1.6)
    return found


def paint_trees(plan: Plan, canvas: Canvas, trees: dict[str, vessels.Tree]) -> None:
    """Vessels and bronchi inside the lungs."""
    blood = mediastinum.BLOOD[plan.patient.phase]
    lung = (canvas.organs >= 28) & (canvas.organs <= 32)
    flat_hu, flat_id = canvas.hu.reshape(-1), canvas.organs.reshape(-1)
    step = float(min(canvas.spacing)) * 0.8
    thin, thick = np.zeros(canvas.hu.size, np.uint8), np.zeros(canvas.hu.size, np.uint8)
    for kind in ("artery", "vein"):
        points, radius = vessels.samples(trees[kind], step)
        big = radius > vessels.BIG_MM
        vessels.splat(canvas, points[big], radius[big], thick)
        vessels.splat(canvas, points[~big], radius[~big], thin)
    labelled = thick > 140
    np.maximum(thin, thick, out=thin)
    where = np.flatnonzero((thin > 0) & lung.reshape(-1))
    flat_hu[where] += thin[where] / np.float32(255) * (blood["lungs"] - 10 - flat_hu[where])
    flat_id[where[labelled[where]]] = 133
    points, radius = vessels.samples(trees["airway"], step)
    for grow, hu, label in ((0.35 + 0.16 * radius, 10.0, 0), (0 * radius, -985.0, 132)):
        thin[:] = 0
        vessels.splat(canvas, points, radius + grow, thin)
        where = np.flatnonzero((thin > 0) & (lung | (canvas.organs == 133)).reshape(-1))
        flat_hu[where] += thin[where] / np.float32(255) * (hu - flat_hu[where])
        if label:
            flat_id[where[thin[where] > 140]] = label


def tubes(
    frame: Frame, pipes: dict[str, courses.Pipe], trees: dict[str, vessels.Tree], coronaries: list[np.ndarray]
) -> list[Tube]:
    """Airways, arteries, veins and coronary arteries in world mm."""
    kinds = {"lungs": "artery", "left": "vein"}
    found = [Tube("coronary", frame.to_world(course[:, :3]), course[:, 3]) for course in coronaries]
    for name, pipe in pipes.items():
        kind = "airway" if pipe.label in (courses.WINDPIPE, courses.BRONCHUS) else kinds.get(pipe.blood)
        if kind:
            generation = 0 if name in ("trachea", "pulmonary_trunk") else 1
            found.append(Tube(kind, frame.to_world(pipe.course[:, :3]), pipe.course[:, 3], 0, generation))
    for kind, tree in trees.items():
        wide = tree.radius[:, 0] > (0.9 if kind == "airway" else 0.6)
        world = frame.to_world(tree.points[wide])
        found += [
            Tube(kind, points, radius, int(lobe), int(generation) + 1)
            for points, radius, lobe, generation in zip(
                world, tree.radius[wide], tree.lobe[wide], tree.generation[wide], strict=True
            )
        ]
    return found


def landmarks(plan: Plan, frame: Frame) -> dict[str, np.ndarray]:
    """Named points in world mm."""
    up = plan.carina - 33
    spine = plan.spine(-80)
    points = {
        "carina": (1.5, 21, plan.carina),
        "heart_center": plan.heart,
        "aortic_arch": (8, 8, 60 + up),
        "hiatus": (20, 24, plan.dome_left - 10),
        "left_dome": (60, -4, plan.dome_left),
        "right_dome": (-60, -4, plan.dome_right),
        "left_hilum": (47, 22, 6 + up),
        "right_hilum": (-44, 16, 2 + up),
        "left_apex": (44, 34, plan.apex[1]),
        "right_apex": (-44, 34, plan.apex[0]),
        "sternum": (0, float(skeleton.sternum_front(plan, np.array(0.0))), 0),
        "spine": (*spine, -80),
    }
    return {name: frame.to_world(np.array(point)) for name, point in points.items()}
