"""Volumes to features: what the set metrics of :mod:`ctgencore.metrics.realism` compare.

Every function is ``(volume, context) -> float32 array``: ``(n, features)``, or ``(planes, n, features)``. All are
deterministic. Networks are loaded once per process and device. The ``embedded`` ones need nothing from outside; they
were not trained on medical images, so their distances rank sets of CT, and are no substitute for published numbers.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import hub
from ..errors import InputError
from ..geometry import AxisPlan, PadPlan
from ..intensity import Window
from ..volume import Volume
from ..zoo import EXTRACTORS as WEIGHTS
from ..zoo import build_network
from .base import Context, Extractor

if TYPE_CHECKING:
    from torch import Tensor

WIDE = Window("wide", -1000.0, 1000.0)
EMBEDDED_MM = 2.0  # a fixed spacing, so that scans of different resolution are comparable
EMBEDDED_SLICES = 48  # of each plane, evenly spaced over the scan's own field
PERCENTILES = (10, 90)

PLANES = ("xy", "yz", "zx")
AIR_HU = -1000.0
MAISI_EDGE = 512  # voxels of 1 mm
IMAGENET_BGR = (0.406, 0.456, 0.485)
MEDSYN2_WINDOWS = tuple(  # level and width in HU
    Window(name, level - width / 2, level + width / 2)
    for name, level, width in (("lung", -600, 1500), ("vessel", 100, 700), ("soft", 50, 350), ("bone", 300, 2000))
)
CLIP_FRAMES, CLIP_EDGE = 16, 224


# --- embedded: offline -----------------------------------------------------------------------------------------------


def embedded_slices(volume: Volume, context: Context) -> np.ndarray:
    """Mean and standard deviation of the embedded codec's 16 latent channels, per slice.

    Slices are those of the array, in its order, each encoded as a picture of its own at 2 mm in plane.

    Returns:
        (Z, 32).
    """
    return _codec_slices(
        _resized(volume.voxels, volume.geometry.spacing_zyx, (None, EMBEDDED_MM, EMBEDDED_MM)), context
    )


def embedded_planes(volume: Volume, context: Context) -> np.ndarray:
    """As :func:`embedded_slices`, of 48 slices in each of the planes xy, yz and zx.

    The volume is turned to LPS and resampled to 2 mm. The slices are picked evenly over the scan's own field, so
    nothing is padded, and a short scan counts as much as a long one.

    Returns:
        (3, 48, 32).
    """
    hu = _isotropic(volume)
    planes = []
    for axis in (0, 2, 1):  # slices follow each other along z, x, y
        n = hu.shape[axis]
        picks = (np.arange(EMBEDDED_SLICES) * 2 + 1) * n // (2 * EMBEDDED_SLICES)
        planes.append(_codec_slices(np.moveaxis(hu.take(picks, axis), axis, 0), context))
    return np.stack(planes)


def embedded(volume: Volume, context: Context) -> np.ndarray:
    """Mean, standard deviation, 10th and 90th percentile of the embedded codec's 16 latent channels.

    The volume is turned to LPS and resampled to 2 mm first: a latent then always sees 8 x 16 x 16 mm.

    Returns:
        (1, 64).
    """
    z = _codec(context.device).encode(_isotropic(volume), WIDE)[0].flatten(1).numpy()
    return np.concatenate([z.mean(1), z.std(1), *np.percentile(z, PERCENTILES, axis=1)])[None].astype(np.float32)


@lru_cache(maxsize=2)
def _codec(device: str) -> Any:
    from ..codecs.base import Codec

    return Codec.from_pretrained("embedded", device=device)


def _codec_slices(hu_ZYX: np.ndarray, context: Context) -> np.ndarray:
    """Mean and deviation of each slice's latent channels (Z, 32); each slice is a first frame, alone."""
    import torch

    codec = _codec(context.device)
    mean, std = (torch.tensor(v)[:, None] for v in (codec.latent_mean, codec.latent_std))
    unit = codec.unit_range[1] * WIDE.to_unit(hu_ZYX)
    unit = PadPlan((0, 0, 0), (0, -unit.shape[1] % 8, -unit.shape[2] % 8)).apply(unit)
    batch = _batch(context)
    rows = []
    with torch.inference_mode():
        for start in range(0, len(unit), batch):
            slices = torch.from_numpy(unit[start : start + batch, None, None]).to(codec.device)
            z = (codec.network.encode(slices).flatten(2).cpu() - mean) / std
            rows.append(torch.cat([z.mean(2), z.std(2, correction=0)], dim=1))
    return torch.cat(rows).numpy()


def _isotropic(volume: Volume) -> np.ndarray:
    plan = AxisPlan.to_lps(volume.geometry)
    return _resized(plan.apply(volume.voxels), plan.reorder(volume.geometry.spacing_zyx), (EMBEDDED_MM,) * 3)


def _resized(
    voxels_ZYX: np.ndarray, spacing_zyx: tuple[float, float, float], target_zyx: tuple[float | None, ...]
) -> np.ndarray:
    """HU within [-1000, 1000] over the same field at about the target spacing (None: as it is), without aliasing.

    Finer grids are averaged down with a triangle filter; coarser ones are interpolated linearly. float32.
    """
    import torch
    from torch.nn.functional import interpolate

    size = [
        n if mm is None else max(round(n * old / mm), 1)
        for n, old, mm in zip(voxels_ZYX.shape, spacing_zyx, target_zyx, strict=True)
    ]
    hu = torch.from_numpy(np.clip(voxels_ZYX, WIDE.lo, WIDE.hi).astype(np.float32, order="C", copy=False))

    def resize(x: Tensor, rows: int, columns: int) -> Tensor:
        return interpolate(x[:, None], (rows, columns), mode="bilinear", antialias=True)[:, 0]

    hu = resize(hu, size[1], size[2])  # (Z, y, x)
    hu = resize(hu.transpose(0, 1), size[0], size[2]).transpose(0, 1)
    return hu.contiguous().numpy()


# --- published networks ----------------------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def network(name: str, device: str) -> Any:
    """The network of a row of :data:`ctgencore.zoo.EXTRACTORS` with its weights, on the device, for inference.

    Raises:
        WeightsError: the weights are not here yet; the message says how to get them.
    """
    from ..checkpoint import load_published
    from ..runtime import resolve_device

    row = WEIGHTS[name]
    tensors, _ = hub.load_tensors(row)
    net = build_network(row.network)
    load_published(net, tensors)
    return net.requires_grad_(False).to(resolve_device(device))


def radimagenet_planes(volume: Volume, context: Context) -> np.ndarray:
    """RadImageNet features of every slice in the planes xy, yz and zx, as MAISI's 2.5D FID takes them.

    RAS, 1 mm, padded with -1000 HU and cropped to 512 x 512 x 512, clipped to [-1000, 1000], scaled to 0..1 over the
    whole stack, channel means subtracted in BGR order, mean over the last feature map.

    Returns:
        (3, 512, 2048).
    """
    return _maisi(volume, context, (WIDE,), MAISI_EDGE)


def radimagenet_windows(volume: Volume, context: Context) -> np.ndarray:
    """As :func:`radimagenet_planes`, with each of MedSyn2's windows in the place of [-1000, 1000].

    Returns:
        (12, 512, 2048): lung xy, yz, zx, vessel xy, ..., bone zx.
    """
    return _maisi(volume, context, MEDSYN2_WINDOWS, MAISI_EDGE)


def _maisi(volume: Volume, context: Context, windows: tuple[Window, ...], edge: int) -> np.ndarray:
    hu = _ras_1mm(volume, edge)
    planes = []
    for window in windows:
        clipped = hu.clip(window.lo, window.hi)
        pad = min(max(AIR_HU, window.lo), window.hi)
        ends = [float(clipped.min()), float(clipped.max())] + ([pad] if min(hu.shape) < edge else [])
        low, scale = min(ends), max(ends) - min(ends) + 1e-10
        unit, empty = (clipped - low) / scale, (pad - low) / scale
        planes += [_slice_features(np.moveaxis(unit, axis, 0), empty, edge, context) for axis in (2, 0, 1)]
    return np.stack(planes)


def _ras_1mm(volume: Volume, edge: int) -> np.ndarray:
    """HU (x, y, z) towards right, anterior and superior, 1 mm, cropped to at most ``edge`` along each axis."""
    import torch
    from monai.data import MetaTensor
    from monai.transforms import CenterSpatialCrop, Spacing

    plan = AxisPlan.to_lps(volume.geometry)
    xyz = plan.apply(volume.voxels)[:, ::-1, ::-1].transpose(2, 1, 0)
    affine = torch.diag(torch.tensor([*plan.reorder(volume.geometry.spacing_zyx)[::-1], 1.0], dtype=torch.float64))
    image = MetaTensor(torch.from_numpy(np.ascontiguousarray(xyz)[None]), affine=affine)
    image = Spacing(pixdim=(1.0, 1.0, 1.0), mode="bilinear", dtype=np.float32)(image)
    return CenterSpatialCrop(roi_size=(edge,) * 3)(image)[0].numpy()


def _slice_features(unit: np.ndarray, empty: float, edge: int, context: Context) -> np.ndarray:
    """Features of slices (n, H, W) in a stack padded to (edge, edge, edge); those of padding are computed once."""
    import torch

    net = network("radimagenet-resnet50", context.device)
    device = next(net.parameters()).device
    mean = torch.tensor(IMAGENET_BGR, device=device)[:, None, None]
    n, *size = unit.shape
    before = [(edge - length) // 2 for length in (n, *size)]
    batch = _batch(context)

    def run(slices: np.ndarray) -> Tensor:
        pictures = np.full((len(slices), 1, edge, edge), empty, np.float32)
        pictures[:, 0, before[1] : before[1] + size[0], before[2] : before[2] + size[1]] = slices
        return net(torch.from_numpy(pictures).to(device) - mean).mean((2, 3)).cpu()

    with torch.inference_mode():
        rows = torch.cat([run(unit[start : start + batch]) for start in range(0, n, batch)])
        out = rows.new_empty(edge, rows.shape[1])
        if n < edge:
            out[:] = run(np.full((1, *size), empty, np.float32))
        out[before[0] : before[0] + n] = rows
    return out.numpy()


def i3d_logits(volume: Volume, context: Context) -> np.ndarray:
    """I3D's 400 class scores of the clips of 16 consecutive axial slices, from the feet up, none used twice.

    Slices as they are (no resampling; the slices that are left over are dropped half at each end), [-1000, 1000] HU to
    0..255 in whole steps, shorter side to 224 (linear), center crop, to [-1, 1].

    Returns:
        (Z // 16, 400).

    Raises:
        InputError: fewer than 16 slices.
    """
    import torch
    from torch.nn.functional import interpolate

    voxels = AxisPlan.to_lps(volume.geometry).apply(volume.voxels)
    clips = voxels.shape[0] // CLIP_FRAMES
    if not clips:
        raise InputError(
            f"I3D looks at clips of {CLIP_FRAMES} axial slices; this volume has {voxels.shape[0]}. "
            "Give a longer volume, or use a metric of slices."
        )
    net = network("i3d", context.device)
    device = next(net.parameters()).device
    short = min(voxels.shape[1:])
    size = [CLIP_EDGE if n == short else ceil(n * CLIP_EDGE / short) for n in voxels.shape[1:]]
    top, left = ((n - CLIP_EDGE) // 2 for n in size)
    start = (voxels.shape[0] - clips * CLIP_FRAMES) // 2
    rows = []
    for first in range(start, start + clips * CLIP_FRAMES, CLIP_FRAMES):
        grey = np.rint((WIDE.to_unit(voxels[first : first + CLIP_FRAMES]) + 1) * 127.5)
        frames = interpolate(torch.from_numpy(grey)[:, None].to(device) / 255, size, mode="bilinear")[:, 0]
        clip = frames[:, top : top + CLIP_EDGE, left : left + CLIP_EDGE] * 2 - 1
        with torch.inference_mode():
            rows.append(net(clip.expand(1, 3, -1, -1, -1)).flatten(1).cpu())
    return torch.cat(rows).numpy()


def ctnet(volume: Volume, context: Context) -> np.ndarray:
    """CT-Net's 96 features of the whole volume, as the VLM3D challenge takes them.

    Axes (z, x, y) as in CT-RATE's files (towards superior, left, posterior), clipped to [-1000, 1000] HU, stretched to
    402 x 420 x 420 whatever the spacing (linear), [-1000, 200] HU to 0..1, minus 0.449, three slices to a picture.

    Returns:
        (1, 96).
    """
    import torch
    from torch.nn.functional import interpolate

    net = network("ctnet", context.device)
    device = next(net.parameters()).device
    voxels = AxisPlan.to_lps(volume.geometry).apply(volume.voxels).transpose(0, 2, 1)
    hu = torch.from_numpy(voxels.clip(WIDE.lo, WIDE.hi).astype(np.float32, order="C"))
    hu = interpolate(hu[None, None], (3 * net.triplets, net.edge, net.edge), mode="trilinear")
    pictures = ((hu.clamp_(-1000, 200) + 1000) / 1200 - 0.449).reshape(1, net.triplets, 3, net.edge, net.edge)
    with torch.inference_mode():
        return net(pictures.to(device), batch=_batch(context)).cpu().numpy()


def _batch(context: Context) -> int:
    """Slices that a network sees at once."""
    return int(str(context.options.get("batch", 8)))


EXTRACTORS = (
    Extractor(
        name="embedded_slices",
        function="extractors:embedded_slices",
        size=32,
        source="Ours: channel means and deviations of the packaged codec's latents, one row per slice, 2 mm in plane.",
    ),
    Extractor(
        name="embedded_planes",
        function="extractors:embedded_planes",
        size=32,
        source="Ours: as embedded_slices, 48 evenly spaced slices in each of three planes.",
    ),
    Extractor(
        name="embedded",
        function="extractors:embedded",
        size=64,
        source="Ours: mean, deviation, 10th and 90th percentile of the packaged codec's latents of the volume at 2 mm.",
    ),
    Extractor(
        name="radimagenet_planes",
        function="extractors:radimagenet_planes",
        weights="radimagenet-resnet50",
        size=2048,
        source="NV-Generate-CT (MAISI) and VLM3D, 2.5D FID: RadImageNet ResNet-50, all slices of three planes, padding "
        "included, scaled over the stack.",
    ),
    Extractor(
        name="radimagenet_windows",
        function="extractors:radimagenet_windows",
        weights="radimagenet-resnet50",
        size=2048,
        source="MedSyn2, table 1 and section 7.1: windows (level/width) -600/1500, 100/700, 50/350, 300/2000; three "
        "planes. Left open there: grid and scaling; ours are those of radimagenet_planes.",
    ),
    Extractor(
        name="i3d_logits",
        function="extractors:i3d_logits",
        weights="i3d",
        size=400,
        source="VideoGPT's FVD: 400 logits of pytorch-i3d, 16 frames. How a volume becomes clips is our choice: "
        "consecutive clips of axial slices.",
    ),
    Extractor(
        name="ctnet",
        function="extractors:ctnet",
        weights="ctnet",
        size=96,
        source="VLM3D challenge, FVD_CTNet: 96 features behind the ReLU of classifier.3; volumes stretched.",
    ),
)
