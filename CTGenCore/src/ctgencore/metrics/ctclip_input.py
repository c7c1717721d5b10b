"""What CT-CLIP reads: a CT of one size, spacing and orientation, and the text of a report."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..geometry import AxisPlan
from ..volume import Volume

SIZE_ZXY = (240, 480, 480)
SPACING_ZXY = (1.5, 0.75, 0.75)  # mm
WINDOW_HU = 1000.0
PADS = ("air", "vlm3d")

_NOT_GIVEN = "Not given."
_DELETED = str.maketrans("", "", "\"'()")


def prepare(volume: Volume, pad: str = "air", size_zxy: tuple[int, int, int] = SIZE_ZXY) -> np.ndarray:
    """A CT as CT-CLIP version 2 reads it: HU / 1000, clipped to [-1, 1], 1.5 x 0.75 x 0.75 mm, middle cut or padded.

    Args:
        volume: any orientation (an oblique grid keeps its own axes, named after the nearest ones) and spacing.
        pad: ``air``: as CT-CLIP was trained, -1 (air) where the volume ends. ``vlm3d``: as the evaluation of the VLM3D
            challenge does it. There, padding ends as -0.001 (water), sizes are rounded rather than cut, an odd
            surplus loses its first rather than its last voxel, and x and y swap their spacings.
        size_zxy: of the result; other than the published one only for other networks.

    Returns:
        ``(z, x, y)`` float32, x before y: z runs from feet to head, x from right to left, y from front to back.

    Raises:
        InputError: unknown ``pad``, or voxels that are not finite.

    The original has one number for the in-plane spacing; here x and y have their own, which is the same for square
    pixels. Spacings are read to six digits, as tables have them: 0.9 from a float32 header is 0.89999998, and the size
    that is cut to a whole number would be one less.
    """
    import torch
    import torch.nn.functional as F

    if pad not in PADS:
        raise InputError(f"clip_pad must be one of {', '.join(PADS)}; got '{pad}'.")
    if not np.isfinite(volume.voxels).all():
        raise InputError("CT-CLIP needs finite HU, and some voxels are NaN or infinite. Repair them first.")
    vlm3d = pad == "vlm3d"
    plan = AxisPlan.to_lps(volume.geometry)
    z, y, x = (round(mm, 6) for mm in plan.reorder(volume.geometry.spacing_zyx))
    spacings = (z, y, x) if vlm3d else (z, x, y)
    hu = plan.apply(volume.voxels).swapaxes(1, 2).clip(-WINDOW_HU, WINDOW_HU)
    ratios = [mm / target for mm, target in zip(spacings, SPACING_ZXY, strict=True)]
    sizes = [(round if vlm3d else int)(n * ratio) for n, ratio in zip(hu.shape, ratios, strict=True)]
    given = torch.from_numpy(np.array(hu, dtype=np.float32 if vlm3d else np.float64))
    size = [max(n, 1) for n in sizes]
    resized = F.interpolate(given[None, None], size=size, mode="trilinear", align_corners=False)[0, 0].numpy()
    out = np.full(size_zxy, (-1.0 if vlm3d else -WINDOW_HU) / WINDOW_HU, dtype=np.float32)
    taken, filled = [], []
    for have, want in zip(size, size_zxy, strict=True):
        length = min(have, want)
        surplus = max(have - want, 0)
        start, before = (surplus + vlm3d) // 2, (want - length) // 2
        taken.append(slice(start, start + length))
        filled.append(slice(before, before + length))
    out[tuple(filled)] = resized[tuple(taken)] / WINDOW_HU
    return out


def clean_report(*parts: str) -> str:
    """A report as CT-CLIP was trained to read it: findings and impression run together, "Not given." counting as empty.

    Quotes, apostrophes and parentheses are deleted.
    """
    given = (part for part in parts if part.strip() != _NOT_GIVEN)
    return "".join(given).translate(_DELETED)
