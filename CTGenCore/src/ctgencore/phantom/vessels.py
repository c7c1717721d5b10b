"""Space-filling trees of bronchi, arteries and veins in the lungs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .canvas import Canvas
from .torso import Plan

LEAF_RADIUS_MM = 0.64
MURRAY = 2.95  # a branch's radius grows with the number of its leaves to the power 1 / MURRAY
BIG_MM = 2.0  # vessels from this radius are labelled
NODES = 8  # points along a branch
# a level of branches: pitch of the points it serves in mm, cosine of the angle at which it leaves its mother
LEVELS = ((78.0, 0.9), (46.0, 0.84), (27.0, 0.72), (16.5, 0.6), (10.5, 0.5))


@dataclass(frozen=True, slots=True)
class Tree:
    """Branches of one tree.

    Attributes:
        points: (n, NODES, 3) body mm along each branch.
        radius: (n, NODES) mm.
        lobe: (n,) lung-lobe id.
        generation: (n,) 1 = stems of the segments.
    """

    points: np.ndarray
    radius: np.ndarray
    lobe: np.ndarray
    generation: np.ndarray


def grow(
    targets: list[np.ndarray], lobe_of: list[np.ndarray], roots: dict[int, np.ndarray], rng: np.random.Generator
) -> Tree:
    """Grow a tree into a lung, level by level: long branches to the rim first, then side branches into the gaps.

    A side branch starts where its length plus ``cosine`` times the way back to the root is shortest, which makes it
    leave at the angle of that cosine (the balance of wiring and path length of Cuntz et al. 2010).

    Args:
        targets: per level, (n, 3) points to be served, body mm.
        lobe_of: per level, (n,) their lobes.
        roots: lobe id to (6,): where its stem starts and where it heads.
        rng: small irregularities.
    """
    pieces: list[tuple[np.ndarray, ...]] = []
    for lobe, root in roots.items():
        heading = root[3:] / np.linalg.norm(root[3:])
        # nodes that can be joined: position, tangent, way to the root, number of branch and of node
        where, tangent, way = root[None, :3], heading[None], np.zeros(1, np.float32)
        branch_of, node_of = np.array([-1]), np.array([0])
        curves: list[np.ndarray] = []
        mothers: list[np.ndarray] = []
        joints: list[np.ndarray] = []
        levels: list[np.ndarray] = []
        for level, (points, ids) in enumerate(zip(targets, lobe_of, strict=True)):
            ends = points[ids == lobe]
            if len(ends) == 0:
                continue
            ends, where = ends.astype(np.float32), where.astype(np.float32)
            gap = np.sqrt(sum((ends[:, None, axis] - where[:, axis]) ** 2 for axis in range(3)))
            start = np.argmin(gap + np.float32(LEVELS[level][1]) * way, axis=1)
            length = gap[np.arange(len(ends)), start]
            lasting = length > 3.0
            ends, start, length = ends[lasting], start[lasting], length[lasting]
            turn = tangent[start] * (0.45 if level else 0.7) + rng.normal(0, 0.10, (len(ends), 3))
            control = where[start] + 0.5 * length[:, None] * turn
            bow = (where[start] + ends) / 2 + rng.normal(0, 0.06, (len(ends), 3)) * length[:, None]
            t = np.linspace(0, 1, NODES)[None, :, None]
            curve = (1 - t) ** 3 * where[start][:, None] + 3 * t * (1 - t) ** 2 * control[:, None]
            curve = curve + 3 * t**2 * (1 - t) * ((bow + 2 * ends) / 3)[:, None] + t**3 * ends[:, None]
            steps = np.diff(curve, axis=1)
            size = np.linalg.norm(steps, axis=2)
            heading_at = steps / np.maximum(size, 1e-6)[..., None]
            count = sum(len(c) for c in curves)
            curves.append(curve)
            mothers.append(branch_of[start])
            joints.append(node_of[start])
            levels.append(np.full(len(ends), level))
            where = np.vstack([where, curve[:, 1:].reshape(-1, 3)])
            tangent = np.vstack([tangent, heading_at.reshape(-1, 3)])
            way = np.concatenate([way, (way[start][:, None] + np.cumsum(size, 1)).ravel()])
            branch_of = np.concatenate([branch_of, np.repeat(count + np.arange(len(ends)), NODES - 1)])
            node_of = np.concatenate([node_of, np.tile(np.arange(1, NODES), len(ends))])
        level_of, mother, joint = (np.concatenate(v) for v in (levels, mothers, joints))
        leaves = np.zeros((len(level_of), NODES))
        leaves[:, -1] = 1
        for level in range(len(LEVELS) - 1, -1, -1):
            rows = np.flatnonzero(level_of == level)
            leaves[rows] = np.cumsum(leaves[rows, ::-1], axis=1)[:, ::-1]
            inner = rows[mother[rows] >= 0]
            np.add.at(leaves, (mother[inner], joint[inner]), leaves[inner, 0])
        pieces.append(
            (np.vstack(curves), LEAF_RADIUS_MM * leaves ** (1 / MURRAY), np.full(len(level_of), lobe), level_of + 1)
        )
    return Tree(*(np.concatenate(column) for column in zip(*pieces, strict=True)))


def beside(tree: Tree, stems: dict[int, np.ndarray], roots: dict[int, np.ndarray], narrowest: float) -> Tree:
    """Bronchi: they run beside the arteries of ``tree`` wherever those are wide.

    Args:
        tree: arteries.
        stems: roots of the bronchi by lobe.
        roots: roots of the arteries by lobe.
        narrowest: radius in mm of the thinnest artery with a bronchus to be seen.
    """
    chosen = tree.radius[:, 2] > narrowest
    points, radius, lobe = tree.points[chosen], tree.radius[chosen], tree.lobe[chosen]
    way = np.gradient(points, axis=1)
    way /= np.maximum(np.linalg.norm(way, axis=2, keepdims=True), 1e-6)
    normal = np.cross(way, (0.25, -0.35, 0.9))
    normal /= np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6)
    lumen = 0.8 * radius
    shift = normal * (radius + 1.3 * lumen + 0.5)[..., None]
    for number in stems:  # the first branches come from the lobe's bronchus
        first = (lobe == number) & (tree.generation[chosen] <= 2)
        fade = np.clip(1 - np.linalg.norm(points - roots[number][:3], axis=2) / 28, 0, 1)[..., None]
        blend = shift + fade * ((stems[number] - roots[number])[:3] - shift)
        shift[first] = blend[first]
    return Tree(points + shift, lumen, lobe, tree.generation[chosen])


def samples(tree: Tree, step: float) -> tuple[np.ndarray, np.ndarray]:
    """Points about every ``step`` mm along all branches: (n, 3) body mm, (n,) radius."""
    last = tree.points.shape[1] - 1
    length = np.linalg.norm(np.diff(tree.points, axis=1), axis=2).sum(1)
    counts = np.maximum(np.ceil(length / step).astype(int), 2)
    branch = np.repeat(np.arange(len(counts)), counts)
    inside = np.arange(branch.size) - np.repeat(np.cumsum(counts) - counts, counts)
    t = (inside + 0.5) / counts[branch] * last
    node = np.minimum(t.astype(int), last - 1)
    t -= node
    start, radius = tree.points[branch, node], tree.radius[branch, node]
    where = start + t[:, None] * (tree.points[branch, node + 1] - start)
    return where, radius + t * (tree.radius[branch, node + 1] - radius)


def splat(canvas: Canvas, points: np.ndarray, radius: np.ndarray, into: np.ndarray) -> None:
    """Raise ``into`` (flat uint8, 255 = full) to the fraction of each voxel that thin tubes through ``points`` cover.

    A tube thinner than a voxel is drawn a voxel wide and fainter, so that its mass stays right on coarse grids.
    """
    index = (canvas.frame.to_world(points) - canvas.origin) / canvas.spacing
    seen = ((index > -4) & (index < np.array(canvas.size) + 3)).all(1)
    index, radius = index[seen].astype(np.float32), radius[seen]
    spacing = canvas.spacing.astype(np.float32)
    wide = np.maximum(radius[:, None], 0.55 * canvas.spacing).astype(np.float32)
    faint = np.clip((radius**2)[:, None] / wide**2, 0, 1)
    weight = (np.sqrt(faint.prod(1) / np.maximum(faint.max(1), 1e-6)) * 0.5 + 0.5 * faint.min(1)).astype(np.float32)
    soft = (wide.mean(1) / canvas.edge).astype(np.float32)
    scale = spacing / wide
    reach = np.ceil((wide + 0.5 * canvas.edge) / spacing).astype(int)
    z, y, x = canvas.shape
    keys = (reach * (1, 64, 4096)).sum(1)
    for key in np.unique(keys).tolist():
        chosen = np.flatnonzero(keys == key)
        grids = np.meshgrid(*(np.arange(-n, n + 1) for n in reach[chosen[0]]), indexing="ij")
        offsets = [grid.ravel().astype(np.int32) for grid in grids]
        batch = max(2_000_000 // len(offsets[0]), 1)
        for start in range(0, len(chosen), batch):
            rows = chosen[start : start + batch]
            base = np.rint(index[rows]).astype(np.int32)
            square: np.ndarray = np.zeros(1, np.float32)
            flat, fits = np.zeros(1, np.int64), np.ones(1, bool)
            for axis, (count, stride) in enumerate(((x, 1), (y, x), (z, x * y))):
                cell = base[:, axis, None] + offsets[axis]
                off = (cell - index[rows, axis, None]) * scale[rows, axis, None]
                square = square + off * off
                flat = flat + cell.astype(np.int64) * stride
                fits = fits & (cell >= 0) & (cell < count)
            cover = np.float32(0.5) + (1 - np.sqrt(square)) * soft[rows, None]
            cover = np.clip(cover, 0, 1) * weight[rows, None]
            fits &= cover > 0.02
            np.maximum.at(into, flat[fits], (255 * cover[fits]).astype(np.uint8))


def roots(plan: Plan) -> dict[str, dict[int, np.ndarray]]:
    """Where the stems of the lobes' trees start and head: kind to lobe id to (6,)."""
    up, low = plan.carina - 33, plan.heart[2] + 30
    shift = np.array([0, 0, up, 0, 0, 0])
    drop = np.array([0, 0, low, 0, 0, 0])
    artery = {
        28: (46, 18, 22, 0.6, -0.7, 0.5), 29: (50, 30, -10, 0.35, 0.3, -1),
        30: (-44, 8, 10, -0.7, -0.2, 0.8), 31: (-46, 14, -8, -0.6, -0.9, -0.4), 32: (-46, 26, -14, -0.35, 0.3, -1),
    }  # fmt: skip
    airway = {
        28: (44, 26, 6, 0.7, -0.6, 0.5), 29: (46, 31, -6, 0.3, 0.3, -1),
        30: (-48, 23, 16, -0.8, 0.0, 0.6), 31: (-42, 23, -18, -0.5, -0.9, -0.4), 32: (-43, 29, -22, -0.3, 0.3, -1),
    }  # fmt: skip
    vein = {
        28: (52, 0, 14, 0.5, -0.5, 0.7), 29: (55, 35, -26, 0.6, 0.6, -0.6),
        30: (-46, -3, 9, -0.6, -0.3, 0.8), 31: (-45, -3, -6, -0.6, -0.7, -0.3), 32: (-48, 35, -28, -0.6, 0.6, -0.6),
    }  # fmt: skip
    return {
        "artery": {k: np.array(v) + shift for k, v in artery.items()},
        "airway": {k: np.array(v) + shift for k, v in airway.items()},
        "vein": {k: np.array(v) + drop for k, v in vein.items()},
    }
