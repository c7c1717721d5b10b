"""What is drawn slice by slice: skin, fat, sheets of muscle, diaphragm, large abdominal organs, lungs with fissures."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import abdomen, muscles
from .canvas import Canvas, Grid, Lattice, Solid, ramp, smooth_minimum
from .skeleton import Skeleton
from .torso import CAGE_FORM, MUSCLE, Plan, cap, dome, horizontal_fissure, oblique_fissure, oval

FAT_HU, SKIN_HU = -104.0, 20.0
BODY = 200
SKIN_MM = 1.8
Mix = Callable[[np.ndarray, "float | np.ndarray"], np.ndarray]


def surfaces(plan: Plan, grid: Grid) -> dict[str, np.ndarray]:
    """Smooth signed distances on a coarse grid: ``skin``, ``muscle`` (outline under the fat), ``cage``, ``gland``."""
    cage = oval(grid, "cage", *CAGE_FORM)
    muscle = oval(grid, "muscle", 0.0, 0.4) - 8.0 * (plan.muscle - 1)
    x, y, z = grid.x[None], grid.y[None], grid.z[:, None, None]
    front = ramp(y, 40, -60)
    belly = ramp(z, -60, -140)
    furrow = 3.5 * np.exp(-((x / 12) ** 2)) * ramp(y, 60, 90) + 2.5 * np.exp(-((x / 16) ** 2)) * ramp(y, -50, -80) * (
        1 - belly
    )
    skin = muscle - plan.patient.fat_mm * (0.75 + 0.2 * front + 0.35 * belly * front) + furrow
    arms = Solid(grid)
    for side in (-1, 1):  # raised
        arms.tube(
            np.array([(side * 146, 24, 96), (side * 150, 22, 122), (side * 186, 30, 330)]), np.array([30.0, 38, 36]), 25
        )
    fields = {
        "skin": smooth_minimum(skin, arms.distance - 0.6 * plan.patient.fat_mm, 18),
        "muscle": smooth_minimum(muscle, arms.distance, 18),
        "cage": cage,
    }
    if plan.breast:
        breasts, glands = Solid(grid), Solid(grid)
        size = plan.breast
        for side in (-1, 1):
            middle = np.array([side * 86, -78, -10])
            breasts.ellipsoid(middle, np.array([64, 34 + 16 * size, 62]) * size**0.3, margin=30)
            glands.ellipsoid(
                middle + np.array([side * 6, -20, 0]), np.array([32, 10 + 12 * size, 34]) * size**0.3, margin=25
            )
        fields["skin"] = smooth_minimum(fields["skin"], breasts.distance, 16)
        fields["gland"] = glands.distance
    return {name: np.asarray(value, np.float32) for name, value in fields.items()}


def lung(plan: Plan, grid: Grid, cage: np.ndarray, filler: np.ndarray) -> np.ndarray:
    """Signed distance of both lungs on a coarse grid."""
    x, y, z = grid.x[None], grid.y[None], grid.z[:, None, None]
    return np.maximum(np.maximum(cage + 0.8, 2 - filler), np.maximum(dome(plan, x, y) - z + 1.5, z - cap(plan, x, y)))


def lobes(plan: Plan, grid: Grid) -> np.ndarray:
    """Lobe id of every point of a grid, whether in the lung or not."""
    x, y, z = grid.x[None], grid.y[None], grid.z[:, None, None]
    right = np.where(z < oblique_fissure(plan, 0, x, y), 32, np.where(z < horizontal_fissure(plan, x, y), 31, 30))
    left = np.where(z < oblique_fissure(plan, 1, x, y), 29, 28)
    return np.where(x < 0, right, left).astype(np.uint8)


def cosine_of(grid: Grid, height: np.ndarray) -> np.ndarray:
    """Cosine between a height map's surface and the horizontal, to turn differences of z into distances."""
    dy, dx = np.gradient(height, grid.spacing[1], grid.spacing[0])
    return (1 / np.sqrt(1 + dx * dx + dy * dy)).astype(np.float32)


def paint(plan: Plan, canvas: Canvas, lattice: Lattice, fields: dict[str, np.ndarray]) -> None:
    """Paint all layers; ``fields`` are :func:`surfaces`, ``filler``, ``coarse`` noise and :func:`abdomen.surfaces`."""
    x, y = canvas.x, canvas.y
    azimuth = np.abs(np.arctan2(x, -(y - 5)))
    floor, top = (np.asarray(f(plan, x, y), np.float32) for f in (dome, cap))
    flat, flat_top = cosine_of(canvas, floor), cosine_of(canvas, top)
    seams = [np.asarray(f, np.float32) for f in (oblique_fissure(plan, 0, x, y), oblique_fissure(plan, 1, x, y))]
    seams.append(np.asarray(horizontal_fissure(plan, x, y), np.float32))
    seam_cosine = [cosine_of(canvas, seam) for seam in seams]
    sheets = {name: thick.astype(np.float32) for name, thick in muscles.sheets(plan, azimuth).items()}
    middle = plan.spine(canvas.z)
    right = x < 0
    organs_hu = abdomen.organs_hu(plan)
    for k, height in enumerate(canvas.z):
        z = float(height)
        hu, organs = canvas.hu[k], canvas.organs[k]

        def field(name: str, k: int = k) -> np.ndarray:
            return lattice.fine_slice(fields[name], k)

        def mix(distance: np.ndarray, value: float | np.ndarray, hu: np.ndarray = hu) -> np.ndarray:
            part = canvas.cover(distance)
            hu += part * (value - hu)
            return part

        skin, wall, cage, wave = field("skin"), field("muscle"), field("cage"), field("coarse")
        above = (z - top) * flat_top
        organs[mix(skin, SKIN_HU) > 0.5] = BODY
        mix(skin + SKIN_MM, FAT_HU)
        if "gland" in fields and -80 < z < 70:
            mix(np.maximum(0.4 * field("gland") + 4.4 * wave, skin + 5), 15)
        _wall(plan, mix, sheets, wall, cage, wave, above, z)
        for side, label in ((-1, 105), (1, 104)):
            ex, ey = middle[k, 0] + side * 26, middle[k, 1] + 43
            spinae = (np.sqrt(((x - ex) / 24) ** 2 + ((y - ey) / 17) ** 2) - 1) * 17 + 1.2 * wave
            part = mix(np.maximum(spinae, wall + 2.5), muscles.MUSCLE_HU)
            organs[(part > 0.5) & (cage > 2)] = label
        mix(cage, -98)
        if z > 62:
            mix(_shoulders(plan, canvas, wall, field("swell"), above, middle[k, 1], z), muscles.MUSCLE_HU)
        below = (z - floor) * flat
        if z < plan.dome_right + 8:
            room = np.maximum(cage, below)
            mix(room + 0.5, 52)
            mix(room + 2.6 + 0.3 * wave, -104)
            for name, value, label in organs_hu:
                if name in fields:
                    part = mix(field(name), value)
                    organs[part > 0.5] = label
        air = np.maximum(np.maximum(cage + 0.8, 1.5 - below), np.maximum(above, 2 - field("filler")))
        part = mix(air, (-866 + 0.33 * (y - 10)).astype(np.float32))
        inside = part > 0.5
        if not inside.any():
            continue
        low = np.where(right, z < seams[0], z < seams[1])
        upper = np.where(right, np.where(z < seams[2], 31, 30), 28)
        ids = np.where(low, np.where(right, 32, 29), upper).astype(np.uint8)
        organs[inside] = ids[inside]
        oblique = np.where(right, np.abs(z - seams[0]) * seam_cosine[0], np.abs(z - seams[1]) * seam_cosine[1])
        minor = np.where(right & ~low, np.abs(z - seams[2]) * seam_cosine[2], 99)
        hu += part * _fissure(np.minimum(oblique, minor), canvas.edge) * (-600 - hu)


def _shoulders(
    plan: Plan, canvas: Canvas, wall: np.ndarray, swell: np.ndarray, above: np.ndarray, spine_y: float, z: float
) -> np.ndarray:
    """Neck and shoulders are packed with muscles, thin lines of fat between them; fat stays in the armpits, behind the
    collar bones and around windpipe and great vessels.
    """
    side = np.abs(canvas.x)
    armpit = np.sqrt(((side - 98) / 30) ** 2 + ((canvas.y - 6) / 38) ** 2 + ((z - 70) / 44) ** 2)
    inlet = np.sqrt((canvas.x / 40) ** 2 + ((canvas.y - spine_y + 36) / 32) ** 2)
    hollow = np.sqrt(((side - 66) / 26) ** 2 + ((canvas.y + 2) / 24) ** 2 + ((z - 118) / 16) ** 2)
    open_fat = (1 - np.minimum(np.minimum(armpit, inlet), hollow) * (1 + 0.25 * swell)) * 26
    lines = 1.5 + 0.12 * plan.patient.fat_mm - 26 * np.abs(swell)
    start = 16 * (1 - float(ramp(z, 62, 104)))
    return np.maximum(np.maximum(wall + 2, open_fat), np.maximum(lines + start, 9 - above))


def paint_table(plan: Plan, canvas: Canvas) -> None:
    """The scanner's table behind the patient: two thin bowed sheets with foam between; no label."""
    rng = np.random.default_rng((plan.patient.seed, 4))
    if rng.uniform() < 0.3:
        return
    gap, deep, bow = rng.uniform(6, 16), rng.uniform(45, 70), rng.uniform(420, 800)
    width = rng.uniform(190, 225)
    lowest = canvas.frame.to_world(np.array([0.0, MUSCLE[:, 3].max() + plan.patient.fat_mm, 0.0]))[1]
    (x0, y0, _), (sx, sy, _) = canvas.origin, canvas.spacing
    x = (np.arange(canvas.size[0]) * sx + x0).astype(np.float32)[None]
    y = (np.arange(canvas.size[1]) * sy + y0).astype(np.float32)[:, None]
    depth = y - (lowest + gap - x**2 / (2 * bow))
    beside = np.abs(x) - width
    foam = np.maximum(np.maximum(-depth, depth - deep), beside)
    sheet = np.maximum(np.minimum(np.abs(depth), np.abs(depth - deep)) - 0.9, beside)
    plane = np.full(canvas.shape[1:], -1000, np.float32)
    for distance, hu in ((foam, -945.0), (sheet, float(rng.uniform(-350, -50)))):
        plane += canvas.cover(distance) * (hu - plane)
    canvas.hu[:] = plane


def _fissure(distance: np.ndarray, edge: float) -> np.ndarray:
    """How much of a fissure 0.8 mm thick a voxel shows."""
    return np.clip(1 - (distance - 0.35) / edge, 0, 1) * min(1.0, 0.5 / edge)


def _wall(
    plan: Plan,
    mix: Mix,
    sheets: dict[str, np.ndarray],
    wall: np.ndarray,
    cage: np.ndarray,
    wave: np.ndarray,
    above: np.ndarray,
    z: float,
) -> None:
    """Muscles between and over the ribs, of back and belly, on one slice."""

    def fade(*pairs: tuple[float, float]) -> float:
        value = 1.0
        for low, high in pairs:
            value *= float(ramp(z, low, high))
        return value

    depth = cage + 1.3 * wave
    mix(np.maximum(np.maximum(np.abs(cage - 4.6) - 3.0 - 0.9 * wave, wall), above - 9), muscles.MUSCLE_HU)
    for name, low, weight in (
        ("pectoral", 11.0, fade((-40, 10), (100, 75))),
        ("serratus", 10.5, fade((-100, -50), (80, 50))),
        ("latissimus", 20.0, fade((-150, -110), (30, 0))),
        ("oblique", 0.5, fade((-90, -140))),
    ):
        if weight > 0.05:
            mix(np.maximum(muscles.sheet_distance(depth, low, sheets[name] * weight), wall), muscles.MUSCLE_HU)
    thick = sheets["back"] * fade((150, 120))
    mix(np.where(thick > 0.8, np.maximum(wall + 0.8 * wave, -thick - wall), 9.0), muscles.MUSCLE_HU)


# standard deviation in HU of the slow texture of organs, by id; 8 for what is not listed
TEXTURE_HU = {0: 0.0, 1: 5.0, 3: 5.0, 6: 2.0, 7: 3.0, 12: 9.0, 57: 0.0, 132: 4.0, 133: 5.0, 115: 6.0, 62: 60.0}
TEXTURE_HU |= dict.fromkeys(range(28, 33), 17.0) | dict.fromkeys(range(33, 57), 34.0)
TEXTURE_HU |= dict.fromkeys(range(63, 93), 26.0) | {122: 26.0}


def finish(plan: Plan, canvas: Canvas, lattice: Lattice, fine: np.ndarray, bones: Skeleton) -> None:
    """Bones over everything else, then the texture of all tissues."""
    strength = np.full(256, 8.0, np.float32)
    for label, value in TEXTURE_HU.items():
        strength[label] = value
    for k in range(canvas.shape[0]):
        bones.paint_slice(k)
        canvas.hu[k] += strength[canvas.organs[k]] * lattice.fine_slice(fine, k)
