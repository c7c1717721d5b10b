"""HU slices as text that a browser unpacks by itself, small enough for a page that holds every slice of a CT.

A slice is predicted voxel by voxel from its neighbors (median edge detector of JPEG-LS, ITU-T T.87) and what is left
goes to one of eight classes by how much the neighborhood varies, so that each class gets a Huffman table of its own
from deflate. That is lossless; only the rounding of HU to steps before it is not. On chest CT it takes 3 to 4 bits per
voxel at steps of 4 HU, where deflate of plain differences takes 5 to 6. `store.js` holds the inverse.
"""

from __future__ import annotations

import base64
import zlib

import numpy as np

HU_LOWEST, HU_HIGHEST = -1024, 3071
STEPS = (1, 2, 4)  # HU; the finest that fits. 4 HU is at most 2 HU off: below the noise of any CT
BUSY_FROM = (1, 3, 6, 10, 16, 28, 60)  # where the classes begin, in steps
_CLASS_OF = np.digitize(np.arange(BUSY_FROM[-1] + 1), BUSY_FROM).astype(np.uint8)
_ESCAPE = 255
_LEVEL, _MEMORY, _RAW = 6, 9, -zlib.MAX_WBITS


def to_steps(hu: np.ndarray, step: int) -> np.ndarray:
    """HU of any shape as counts of ``step`` HU above -1024, int32; what lies outside -1024..3071 is clipped."""
    return np.rint((np.clip(hu, HU_LOWEST, HU_HIGHEST) - HU_LOWEST) / step).astype(np.int32)


def pack_slice(steps_YX: np.ndarray) -> str:
    """One slice of :func:`to_steps` as base64 text: eight classes in order, then what does not fit a byte; deflated."""
    height, width = steps_YX.shape
    padded = np.zeros((height + 1, width + 2), np.int32)  # a row of zeros above, copies left and right
    padded[1:, 1:-1] = steps_YX
    padded[1:, 0] = padded[:-1, 1]  # the left neighbor of a row's first voxel is the one above it
    padded[:, -1] = padded[:, -2]
    left, above = padded[1:, :-2], padded[:-1, 1:-1]
    corner, beyond = padded[:-1, :-2], padded[:-1, 2:]
    predicted = np.clip(left + above - corner, np.minimum(left, above), np.maximum(left, above))
    busy = np.abs(left - corner) + np.abs(above - corner) + np.abs(above - beyond)
    kind = _CLASS_OF[np.minimum(busy, BUSY_FROM[-1])].ravel()
    rest = (steps_YX - predicted).ravel()
    folded = np.where(rest >= 0, 2 * rest, -2 * rest - 1)  # 0 -1 1 -2 2 as 0 1 2 3 4
    small = np.minimum(folded, _ESCAPE).astype(np.uint8)
    classes = [small[kind == number].tobytes() for number in range(len(BUSY_FROM) + 1)]
    flat = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, _MEMORY, zlib.Z_RLE)  # class 0 is runs of zeros
    packed = [flat.compress(classes[0]) + flat.flush(zlib.Z_SYNC_FLUSH)]
    noisy = zlib.compressobj(_LEVEL, zlib.DEFLATED, _RAW, _MEMORY, zlib.Z_HUFFMAN_ONLY)
    packed += [noisy.compress(values) + noisy.flush(zlib.Z_BLOCK) for values in classes[1:]]
    packed += [noisy.compress(folded[folded >= _ESCAPE].astype("<u2").tobytes()), noisy.flush()]
    sizes = np.array([len(values) for values in classes], "<u4").tobytes()
    return base64.b64encode(sizes + b"".join(packed)).decode("ascii")


def pack_labels(labels_YX: np.ndarray) -> str:
    """One slice of label numbers 0..255 as base64 text of deflated bytes."""
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW)
    return base64.b64encode(deflater.compress(labels_YX.astype(np.uint8).tobytes()) + deflater.flush()).decode("ascii")
