"""Procedural training clips with natural statistics: no medical image is involved.

Three kinds of scene, drawn in equal measure where it matters (see :func:`scene`): *dead leaves* (textured solids that
occlude one another, move along Z and are cut by it; Lee, Mumford & Huang 2001), *branches* (thin bright tubes that fork
and taper over smooth ground), and *pans, zooms and turns* over the photographs that scikit-image ships. Textures
and grounds are 1/f noise, edges are softened by a small blur, half of the scenes carry grain. Values are in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage
from torch.utils.data import IterableDataset

SCENE_SHAPE = (40, 144, 144)  # (Z, Y, X): a few dozen different crops, and it is made in about half a second
PHOTOS = (
    *("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel"),
    *("hubble_deep_field", "moon", "page", "rocket", "text"),
)

Array = np.ndarray


def spectral_noise(rng: np.random.Generator, shape: tuple[int, ...], exponent: float, stretch: float = 1.0) -> Array:
    """Gaussian noise of unit variance with amplitude 1/f**exponent; ``stretch`` lengthens it along Z."""
    axes = [np.fft.fftfreq(n) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1])]
    if len(shape) == 3:
        axes[0] = axes[0] * stretch
    grids = np.meshgrid(*axes, indexing="ij", sparse=True)
    radius = np.sqrt(sum(g**2 for g in grids)) + 0.5 / max(shape)
    white = np.fft.rfftn(rng.standard_normal(shape, dtype=np.float32))
    noise = np.fft.irfftn(white / radius**exponent, s=shape, axes=range(len(shape))).astype(np.float32)
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def _rotation(rng: np.random.Generator) -> Array:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q.astype(np.float32)


def _paint_solid(image: Array, rng: np.random.Generator, texture: Array, palette: Array, z_scale: float) -> None:
    """Draw one textured ellipsoid, box or cylinder, moving with Z, over what is there."""
    shape = np.array(image.shape)
    radius = 2.5 * (1 - rng.random() * 0.997) ** -0.55  # heavy tail: many small solids, few large
    radii = np.minimum(radius * np.exp(rng.normal(0, 0.45, 3)), 70).astype(np.float32)
    centre = rng.uniform(-0.1, 1.1, 3) * shape
    drift = rng.normal(0, 0.3, 2).astype(np.float32) * (rng.random() < 0.5)  # voxels in plane per slice
    reach = np.array([radii.max() / z_scale, 1e9, 1e9])
    reach[1:] = radii.max() * 1.8 + np.abs(drift) * reach[0]
    lo = np.maximum(np.floor(centre - reach), 0).astype(int)
    hi = np.minimum(np.ceil(centre + reach) + 1, shape).astype(int)
    if (hi <= lo).any():
        return
    z, y, x = (np.arange(a, b, dtype=np.float32) - c for a, b, c in zip(lo, hi, centre.astype(np.float32), strict=True))
    z, y, x = z[:, None, None], y[None, :, None], x[None, None, :]
    y, x = y - drift[0] * z, x - drift[1] * z
    turn = _rotation(rng)
    u, v, w = ((turn[i, 0] * z_scale * z + turn[i, 1] * y + turn[i, 2] * x) / radii[i] for i in range(3))
    kind = rng.integers(5)
    if kind <= 2:
        inside = u * u + v * v + w * w < 1
    elif kind == 3:
        inside = (np.abs(u) < 1) & (np.abs(v) < 1) & (np.abs(w) < 1)
    else:
        inside = (u * u + v * v < 1) & (np.abs(w) < 1)
        if rng.random() < 0.5:  # a shell
            inside &= u * u + v * v > rng.uniform(0.4, 0.9)
    value = rng.choice(palette) + rng.normal(0, 0.05)
    grain = rng.choice([0.0, 0.02, 0.06, 0.2])
    offset = [rng.integers(0, t - s + 1) for t, s in zip(texture.shape, inside.shape, strict=True)]
    patch = texture[tuple(slice(o, o + s) for o, s in zip(offset, inside.shape, strict=True))]
    box = image[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
    np.copyto(box, value + grain * patch, where=inside)


def _paint_branches(image: Array, rng: np.random.Generator, palette: Array, z_scale: float) -> None:
    """Draw a forking, tapering tube tree as a chain of balls."""
    stack = [(rng.uniform(0, 1, 3) * image.shape, rng.standard_normal(3), rng.uniform(1.5, 6.0))]
    value = float(palette.max()) + rng.normal(0, 0.1)
    balls = 0
    while stack and balls < 700:
        point, heading, radius = stack.pop()
        for _ in range(int(rng.integers(8, 40))):
            heading = heading + rng.normal(0, 0.25, 3)
            heading /= np.linalg.norm(heading) + 1e-6
            point = point + heading * np.array([1 / z_scale, 1, 1]) * max(radius * 0.6, 0.7)
            balls += 1
            reach = radius * np.array([1 / z_scale, 1, 1]) + 1
            lo = np.maximum(np.floor(point - reach), 0).astype(int)
            hi = np.minimum(np.ceil(point + reach) + 1, image.shape).astype(int)
            if (hi <= lo).any():
                break
            z, y, x = np.ogrid[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
            distance = ((z - point[0]) * z_scale) ** 2 + (y - point[1]) ** 2 + (x - point[2]) ** 2
            box = image[tuple(slice(a, b) for a, b in zip(lo, hi, strict=True))]
            soft = np.clip(radius + 0.5 - np.sqrt(distance), 0, 1).astype(np.float32)  # partial volume
            np.maximum(box, box + (value - box) * soft, out=box)
            radius *= 0.985
        if radius > 0.6:
            stack += [(point, heading + rng.normal(0, 0.7, 3), radius * rng.uniform(0.6, 0.9)) for _ in range(2)]


def solids(rng: np.random.Generator, shape: tuple[int, int, int]) -> Array:
    """Dead leaves in 3D, with branches in some of the hollows."""
    z_scale = float(np.exp(rng.uniform(np.log(0.15), np.log(4.0))))  # slice distance over pixel size
    palette = np.clip(rng.normal(0, 0.55, int(rng.integers(2, 9))), -1, 1)
    if rng.random() < 0.6:
        palette[0] = -1.0  # deep shadow: a good part of any photograph is black
    texture = spectral_noise(rng, shape, rng.uniform(0.6, 1.8), 1 / z_scale)
    ground = spectral_noise(rng, shape, rng.uniform(1.5, 2.2), 1 / z_scale)
    image = (rng.choice(palette) + rng.choice([0.0, 0.03, 0.1, 0.3]) * ground).astype(np.float32)
    rounds = int(rng.integers(1, 4))
    for _ in range(rounds):
        for _ in range(int(np.exp(rng.uniform(np.log(30), np.log(1000)))) // rounds):
            _paint_solid(image, rng, texture, palette, z_scale)
        for _ in range(int(rng.integers(0, 6))):
            _paint_branches(image, rng, palette, z_scale)
    return image


def photo_flight(rng: np.random.Generator, shape: tuple[int, int, int], photos: list[Array]) -> Array:
    """A camera that pans, zooms and turns over a photograph, one frame per slice."""
    photo = photos[rng.integers(len(photos))]
    frames = np.linspace(-0.5, 0.5, shape[0], dtype=np.float32)[:, None, None]
    y = np.arange(shape[1], dtype=np.float32)[None, :, None] - shape[1] / 2
    x = np.arange(shape[2], dtype=np.float32)[None, None, :] - shape[2] / 2
    zoom = np.exp(rng.uniform(-0.5, 0.6)) * np.exp(rng.normal(0, 0.25) * frames)
    angle = rng.uniform(0, 2 * np.pi) + rng.normal(0, 0.2) * frames
    pan = rng.normal(0, 12, 2)
    centre = rng.uniform(0.2, 0.8, 2) * photo.shape
    rows = centre[0] + pan[0] * frames + zoom * (np.cos(angle) * y - np.sin(angle) * x)
    columns = centre[1] + pan[1] * frames + zoom * (np.sin(angle) * y + np.cos(angle) * x)
    return ndimage.map_coordinates(photo, np.stack((rows, columns)), order=1, mode="reflect").astype(np.float32)


def scene(seed: int, photos: list[Array], shape: tuple[int, int, int] = SCENE_SHAPE) -> Array:
    """One scene ``(Z, Y, X)`` in [-1, 1], float32, the same for the same seed."""
    rng = np.random.default_rng(seed)
    image = photo_flight(rng, shape, photos) if rng.random() < 0.2 else solids(rng, shape)
    blur = rng.uniform(0.0, 1.1)
    if blur > 0.2:
        image = ndimage.gaussian_filter(image, (blur * rng.uniform(0, 0.8), blur, blur), mode="nearest", truncate=3)
    if rng.random() < 0.5:
        grain = spectral_noise(rng, shape, rng.uniform(0.0, 0.7), rng.choice([0.5, 1.0, 2.0]))
        image = image + np.float32(rng.uniform(0.003, 0.05)) * grain
    return np.clip(image, -1, 1)


def load_photos() -> list[Array]:
    """The photographs bundled with scikit-image as grey images in [-1, 1] (public domain or CC0)."""
    from skimage import color, data

    photos = []
    for name in PHOTOS:
        image = getattr(data, name)()
        grey = color.rgb2gray(image) if image.ndim == 3 else image / 255.0
        photos.append((grey * 2 - 1).astype(np.float32))
    return photos


class Clips(IterableDataset[torch.Tensor]):
    """An endless stream of clips ``(1, T, H, W)`` in [-1, 1], cut from a rolling pool of scenes.

    Args:
        size_zyx: clip size.
        seed: the stream is a function of it and of the worker number.
        pool: scenes kept; each gives ``clips_per_scene`` clips, turned, flipped and re-contrasted, then makes room.
    """

    def __init__(self, size_zyx: tuple[int, int, int], seed: int, *, pool: int = 48, clips_per_scene: int = 24) -> None:
        self.size, self.seed, self.pool, self.clips_per_scene = size_zyx, seed, pool, clips_per_scene

    def __iter__(self) -> Iterator[torch.Tensor]:
        info = torch.utils.data.get_worker_info()
        worker = info.id if info else 0
        rng = np.random.default_rng((self.seed, worker))
        photos = load_photos()
        scenes: list[Array] = []
        count = 0
        while True:
            if count % self.clips_per_scene == 0 or len(scenes) < 4:
                scenes.append(scene(int(rng.integers(2**62)), photos).astype(np.float16))
                del scenes[: -self.pool]
            count += 1
            yield torch.from_numpy(self._cut(rng, scenes[rng.integers(len(scenes))]))

    def _cut(self, rng: np.random.Generator, image: Array) -> Array:
        start = [rng.integers(0, n - s + 1) for n, s in zip(image.shape, self.size, strict=True)]
        clip = image[tuple(slice(o, o + s) for o, s in zip(start, self.size, strict=True))].astype(np.float32)
        if self.size[1] == self.size[2] and rng.random() < 0.5:
            clip = clip.transpose(0, 2, 1)
        flips = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 3))
        clip = clip[flips]
        if rng.random() < 0.7:
            gain, shift = np.exp(rng.normal(0, 0.35)) * rng.choice([-1, 1], p=[0.25, 0.75]), rng.normal(0, 0.15)
            clip = np.clip(clip * np.float32(gain) + np.float32(shift), -1, 1)
        return np.ascontiguousarray(clip[None], dtype=np.float32)
