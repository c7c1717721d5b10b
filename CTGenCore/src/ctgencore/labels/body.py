"""The body envelope (label 200): from a CT without its table, or from organ labels alone."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..geometry import AxisPlan
from ..volume import LabelMap, Volume
from .tables import BODY, name_of

BODY_HU = -500.0  # between lung or fat and air; table foam and clothes are below
PADDING_HU = -1100.0  # below air: outside the reconstruction circle
LUNG_HU = -960.0  # an air region that the field's edge cuts open is lung when its median is above
TABLE_MM = 12.0  # a table top is a plate thinner than this; limbs and the chest wall are thicker
COARSE_MM = 3.0  # the grid on which the shape is decided
HEAD = (22, 120, 51, 52, 53, 54, 55, 56)  # brain, skull, C6 to C1: not as wide as the trunk beside them
MARGIN_MM = 20.0  # skin, fat and muscle outside the organs; this and the reach: best Dice on four real CTs
LEAST_BODY = 0.1  # of the labeled volume: fat, skin and whatever has no label of its own are 40 % and more
LEAST_WIDTH_MM = 150.0
REACH_MM = 80.0  # organs of neighboring slices tell how wide the trunk is


def body_from_ct(ct: Volume) -> np.ndarray:
    """Find the patient in a CT: table, clothes and air outside removed, lungs and bowel gas filled.

    The largest region above -500 HU after an opening that no table top survives, filled slice by slice. A lung that
    the field of view cuts open is closed at the field's edge.

    Args:
        ct: HU, any orientation.

    Returns:
        (Z, Y, X) bool.

    Raises:
        InputError: nothing in it is a body.
    """
    plan = AxisPlan.to_lps(ct.geometry)
    spacing = plan.reorder(ct.geometry.spacing_zyx)
    hu = plan.apply(ct.voxels)
    tissue = hu > BODY_HU
    steps = tuple(max(1, round(COARSE_MM / mm)) for mm in spacing)
    coarse_mm = tuple(n * mm for n, mm in zip(steps, spacing, strict=True))
    coarse = _block_mean(tissue, steps) > 0.5
    core = _largest(_opened(coarse, TABLE_MM / 2, coarse_mm))
    if not core.any():
        raise InputError(
            f"A body is more than {TABLE_MM:g} mm of tissue above {BODY_HU:g} HU; this CT has none. Check its HU."
        )
    near = _spread(_dilated(core, 1), steps, tissue.shape)
    return np.ascontiguousarray(plan.undo(_filled(tissue & near, hu)))


def _filled(body: np.ndarray, hu: np.ndarray) -> np.ndarray:
    """Fill, slice by slice, the air that does not reach the outside; lung that the field's edge cuts open is inside.

    Args:
        body: (Z, Y, X) bool, axial slices.
        hu: (Z, Y, X).

    Returns:
        (Z, Y, X) bool.
    """
    from scipy import ndimage

    result = body.copy()
    for index in range(len(body)):
        air, count = ndimage.label(~body[index])
        if not count:
            continue
        field = hu[index] >= PADDING_HU
        border = ~field
        border[[0, -1]] = True
        border[:, [0, -1]] = True
        border = ndimage.binary_dilation(border)
        open_ones = np.unique(air[border])
        inside = np.ones(count + 1, bool)
        inside[0] = False
        inside[open_ones] = False
        for region in open_ones[open_ones > 0]:
            where = (air == region) & field
            if where.any() and np.median(hu[index][where]) > LUNG_HU:  # table foam is that dense too, but not enclosed
                inside[region] = np.mean(_in_hull(body[index], np.argwhere(where))) > 0.9
        result[index] |= inside[air]
    return result


def body_from_labels(organs: LabelMap) -> np.ndarray:
    """Guess the body around organ labels when there is no CT: their hull, slice by slice, and a margin for the wall.

    Dice against the envelope of the CT: 0.95 for a full set of labels, 0.7 to 0.87 for lungs and little else.

    Args:
        organs: organ ids. A map that has an envelope keeps it as it is.

    Returns:
        (Z, Y, X) bool.

    Raises:
        InputError: the map is empty.
    """
    if has_envelope(organs):
        return organs.voxels > 0
    plan = AxisPlan.to_lps(organs.geometry)
    spacing = plan.reorder(organs.geometry.spacing_zyx)
    labels = plan.apply(organs.voxels)
    given = labels > 0
    if not given.any():
        raise InputError("A body envelope needs at least one organ label; the map is empty. Give a CT instead.")
    steps = tuple(max(1, round(COARSE_MM / mm)) for mm in spacing)
    coarse_mm = tuple(n * mm for n, mm in zip(steps, spacing, strict=True))
    coarse = _block_mean(given, steps) > 0
    hull = _hulls(coarse)
    occupied = np.flatnonzero(hull.any((1, 2)))
    head = np.asarray(_block_mean(np.isin(labels, HEAD), steps).any((1, 2)))
    wide = _hulls(_reached(hull, max(1, round(REACH_MM / coarse_mm[0]))))
    hull = _grown(np.where(head[:, None, None], hull, wide), MARGIN_MM, coarse_mm)
    hull[occupied[-1] + 1 :] = False if head.any() else hull[occupied[-1]]
    hull[: occupied[0]] = hull[occupied[0]]
    return np.ascontiguousarray(plan.undo(_spread(hull, steps, labels.shape) | given))


def has_envelope(organs: LabelMap) -> bool:
    """Whether label 200 is there and more than a scrap, such as the voxels of classes that a conversion dropped."""
    body = np.asarray(organs.voxels == BODY)
    if int(np.count_nonzero(body)) < LEAST_BODY * int(np.count_nonzero(organs.voxels)):
        return False
    plan = AxisPlan.to_lps(organs.geometry)
    turned = plan.apply(body)
    step_mm = plan.reorder(organs.geometry.spacing_zyx)[2]
    columns = np.flatnonzero(turned.any((0, 1)))
    least = min(LEAST_WIDTH_MM, 0.5 * turned.shape[2] * step_mm)
    return columns.size > 0 and int(columns[-1] - columns[0]) * step_mm >= least


def with_body(organs: LabelMap, ct: Volume | None = None) -> LabelMap:
    """Add the body (200) behind all organs.

    Args:
        organs: organ ids. A map that has an envelope comes back as it is.
        ct: the CT on the same grid, if there is one; else the envelope is guessed from the labels.

    Returns:
        A map in which organs keep their voxels.

    Raises:
        InputError: the grids differ, or there is nothing to go by.
    """
    if ct is not None:
        ct.geometry.assert_equal(organs.geometry, 1e-2, "the CT and its labels")
    if has_envelope(organs):
        return organs
    body = body_from_ct(ct) if ct is not None else body_from_labels(organs)
    voxels = np.where((organs.voxels == 0) & body, BODY, organs.voxels).astype(np.uint8)
    return LabelMap(voxels, organs.geometry, {**organs.names, BODY: name_of(BODY)}, organs.source)


def _block_mean(mask: np.ndarray, steps: tuple[int, ...]) -> np.ndarray:
    """Share of set voxels per block; the last block of an axis may be smaller."""
    total = mask.astype(np.float32)
    for axis, step in enumerate(steps):
        if step > 1:
            edges = np.arange(0, total.shape[axis], step)
            widths = np.diff(np.append(edges, total.shape[axis]))
            total = np.add.reduceat(total, edges, axis)
            total /= widths.reshape([-1 if a == axis else 1 for a in range(3)])
    return total


def _spread(coarse: np.ndarray, steps: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """Blocks back to voxels."""
    for axis, step in enumerate(steps):
        coarse = np.repeat(coarse, step, axis).take(range(shape[axis]), axis) if step > 1 else coarse
    return coarse


def _opened(mask: np.ndarray, radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    """In-plane opening by a disk; the field's edge does not erode, for a body may be cut there."""
    from scipy import ndimage

    reach = [max(1, int(radius_mm / mm)) for mm in spacing[1:]]
    y, x = np.ogrid[-reach[0] : reach[0] + 1, -reach[1] : reach[1] + 1]
    disk = ((y * spacing[1]) ** 2 + (x * spacing[2]) ** 2 <= (radius_mm + 0.1) ** 2)[None]
    eroded = ndimage.binary_erosion(mask, disk, border_value=1)
    return ndimage.binary_dilation(eroded, disk)


def _dilated(mask: np.ndarray, steps: int) -> np.ndarray:
    from scipy import ndimage

    return ndimage.binary_dilation(mask, iterations=steps)


def _reached(mask: np.ndarray, steps: int) -> np.ndarray:
    """Each slice with whatever lies in the slices up to ``steps`` away."""
    from scipy import ndimage

    return ndimage.maximum_filter1d(mask.view(np.uint8), 2 * steps + 1, axis=0, mode="constant").astype(bool)


def _grown(mask: np.ndarray, radius_mm: float, spacing: tuple[float, ...]) -> np.ndarray:
    """In-plane dilation by a disk."""
    from scipy import ndimage

    far = mask.shape[0] * spacing[0] + sum(n * mm for n, mm in zip(mask.shape[1:], spacing[1:], strict=True))
    return ndimage.distance_transform_edt(~mask, sampling=(far, *spacing[1:])) <= radius_mm


def _largest(mask: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    regions, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(regions.ravel())
    sizes[0] = 0
    return regions == sizes.argmax()


def _hulls(mask: np.ndarray) -> np.ndarray:
    """Convex hull of each slice."""
    grid = np.argwhere(np.ones(mask.shape[1:], bool))
    result = mask.copy()
    for index in np.flatnonzero(mask.any((1, 2))):
        result[index] |= _in_hull(mask[index], grid).reshape(mask.shape[1:])
    return result


def _in_hull(mask: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which of the points (n, 2) lie in the convex hull of a slice's mask."""
    from scipy.spatial import ConvexHull, QhullError

    rows = np.flatnonzero(mask.any(1))
    if not rows.size:
        return np.zeros(len(points), bool)
    first, last = mask[rows].argmax(1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    corners = np.concatenate([np.stack([rows, first], 1), np.stack([rows, last], 1)])
    try:
        planes = ConvexHull(corners).equations
    except QhullError:  # fewer than three points, or all on one line
        return mask[tuple(points.T)]
    return np.all(points @ planes[:, :2].T + planes[:, 2] <= 1e-6, axis=1)
