"""Masks of several findings in one file: four dimensions, the first of them the channel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813

from ..errors import InputError

THRESHOLD = 0.5


def read_channels(path: str | Path) -> np.ndarray:
    """Read a 4D mask file whose first (fastest) axis is the channel, as ReXGroundingCT stores its findings.

    Its header describes the channel as if it were space, so that only the sizes of the other axes mean something.

    Returns:
        (channels, Z, Y, X) bool, above 0.5 in the file. A 3D file is one channel.

    Raises:
        InputError: no such file, or not one of three or four dimensions.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"There is no mask file {path}. Correct the list or its root folder.")
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path.name}: the masks cannot be read ({str(error).splitlines()[-1].strip()}).") from None
    voxels = sitk.GetArrayFromImage(image)
    if voxels.ndim not in (3, 4) or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(f"{path.name}: disease masks have the axes (channel, x, y, z); got sizes {image.GetSize()}.")
    if voxels.ndim == 3:
        return (voxels > THRESHOLD)[None]
    return np.moveaxis(voxels, -1, 0) > THRESHOLD
