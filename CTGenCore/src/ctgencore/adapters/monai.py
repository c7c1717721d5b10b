"""Dictionary transforms for MONAI that pass a CT through a frozen VAE while a network is trained.

Each draws its choices with MONAI's own random state, loads a codec when it is first needed, once in each process and
thread, and keeps the metadata. Put them after cropping (a patch takes a fraction of a volume's time) and before the
intensities are scaled: HU go in and come out.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_dst_type

from .. import hub
from ..codecs.base import Codec
from ..errors import InputError
from ..geometry import AxisPlan, Geometry
from ..intensity import Window
from ..runtime import parse_memory
from ..tasks.augment.views import Choice
from ..tasks.reconstruct import add_residual, check_levels
from ..zoo import CODECS, CodecRow, lookup

Span = float | tuple[float, float]
_MEMORY = parse_memory("4GiB")  # fixed, so that slabs, and with them the last digits, do not depend on what is free
_LOADED = threading.local()  # a codec has a state while it runs


class RandReconstructd(RandomizableTransform, MapTransform):
    """Replace a CT by its reconstruction ``D(E(x))``, with a chance of ``prob``.

    Slices are taken along the axis that runs nearest to feet-head by the affine, turned as in DICOM, so that the result
    does not depend on how the arrays lie; without an affine the last axis is that one. Several ``keys`` get the same
    choices.

    Args:
        keys: of tensors or arrays (1, *spatial*) in HU, three spatial axes in any order.
        codec: name as in ``ctgencore info``, or several to choose from.
        prob: chance that anything is done.
        window: HU range that the network sees, or several to choose from; values outside come back at its ends.
        noise: level of latent noise, in standard deviations of each latent channel; a pair is a range to draw from.
        residual: share (0 to 1) of what the codec took away that is added back; a pair is a range to draw from.
        device: where the network runs; with DataLoader workers on a GPU, these must be spawned.
        allow_missing_keys: pass over keys that are not there.

    Attributes:
        choice: what was drawn last.

    Raises:
        InputError: unknown codec or window, a level that cannot be.
        WeightsError: a codec's weights are not here.
    """

    def __init__(
        self,
        keys: KeysCollection,
        codec: str | Sequence[str] = "embedded",
        prob: float = 0.5,
        *,
        window: str | Sequence[str] = "wide",
        noise: Span = 0.0,
        residual: Span = 0.0,
        device: str = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        self.codecs = (codec,) if isinstance(codec, str) else tuple(codec)
        self.windows = (window,) if isinstance(window, str) else tuple(window)
        self.noise, self.residual, self.device = _span(noise), _span(residual), device
        for name in self.codecs:
            row: CodecRow = lookup(CODECS, name, "codec")
            hub.locate(name)
            if row.program and self.noise[1]:
                raise InputError(f"Codec '{name}' keeps its latents to itself: they can get no noise. Set noise to 0.")
        for text in self.windows:
            Window.parse(text)
        for level in zip(self.noise, self.residual, strict=True):
            check_levels(*level)
        self.choice: Choice | None = None

    def randomize(self, data: Any = None) -> None:
        """Draw whether to do anything, and the codec, window, levels and the noise's seed."""
        super().randomize(None)
        self.choice = Choice(
            codec=self.codecs[self.R.randint(len(self.codecs))],
            window=self.windows[self.R.randint(len(self.windows))],
            latent_noise=float(self.R.uniform(*self.noise)),
            residual=float(self.R.uniform(*self.residual)),
            seed=int(self.R.randint(2**31 - 1)),
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The dictionary with the CTs replaced, or as it was.

        Raises:
            InputError: not (1, *spatial*) in HU.
        """
        result = dict(data)
        self.randomize()
        if self._do_transform and self.choice is not None:
            for key in self.key_iterator(result):
                result[key] = self._apply(key, result[key], self.choice)
        return result

    def _apply(self, key: Hashable, image: Any, choice: Choice) -> Any:
        voxels = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
        _check(key, voxels)
        affine = image.affine.cpu().numpy() if isinstance(image, MetaTensor) else np.eye(4)
        plan = _plan(affine, voxels.shape[1:])
        hu = plan.apply(voxels[0].T)  # (i, j, k) to (Z, Y, X)
        out = plan.undo(_reconstruct(np.asarray(hu, dtype=np.float32), choice, self.device)).T
        return convert_to_dst_type(np.ascontiguousarray(out)[None], image)[0]


class RandLatentNoised(RandReconstructd):
    """Replace a CT by ``D(E(x) + noise)``, with a chance of ``prob``: variation that the VAE takes for likely.

    Args:
        keys: of tensors or arrays (1, *spatial*) in HU, three spatial axes in any order.
        codec: name as in ``ctgencore info``, or several to choose from.
        level: of the noise, in standard deviations of each latent channel; a pair is a range to draw from.
        prob: chance that anything is done.
        window: HU range that the network sees, or several to choose from.
        device: where the network runs.
        allow_missing_keys: pass over keys that are not there.

    Raises:
        InputError: unknown codec or window, a level that cannot be.
        WeightsError: a codec's weights are not here.
    """

    def __init__(
        self,
        keys: KeysCollection,
        codec: str | Sequence[str] = "embedded",
        level: Span = (0.0, 0.2),
        prob: float = 0.5,
        *,
        window: str | Sequence[str] = "wide",
        device: str = "cpu",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(
            keys, codec, prob, window=window, noise=level, device=device, allow_missing_keys=allow_missing_keys
        )


def _span(value: Span) -> tuple[float, float]:
    """Lowest and highest value."""
    low, high = (value, value) if isinstance(value, (int, float)) else value
    if low > high:
        raise InputError(f"A range runs from low to high; got {value}.")
    return float(low), float(high)


def _check(key: Hashable, voxels: np.ndarray) -> None:
    if voxels.ndim != 4 or voxels.shape[0] != 1:
        raise InputError(
            f"'{key}': a CT is (1, *spatial*) with three spatial axes; got shape {voxels.shape}. Give other channels "
            "keys of their own, and put EnsureChannelFirstd before."
        )
    low, high = float(voxels.min()), float(voxels.max())
    if -1 <= low < high <= 1:
        raise InputError(
            f"'{key}': values from {low:g} to {high:g} are not HU. Put this transform before intensities are scaled."
        )


def _plan(affine: np.ndarray, shape: tuple[int, ...]) -> AxisPlan:
    """How arrays (Z, Y, X) of this grid are turned so that slices are axial and lie as in DICOM; affine as in RAS."""
    matrix = np.diag([-1.0, -1.0, 1.0]) @ affine[:3, :3]
    spacing = np.linalg.norm(matrix, axis=0)
    direction = matrix / np.maximum(spacing, np.finfo(float).tiny)
    x, y, z = shape
    return AxisPlan.to_lps(Geometry((x, y, z), tuple(spacing), direction=tuple(direction.ravel())))


def _reconstruct(hu_ZYX: np.ndarray, choice: Choice, device: str) -> np.ndarray:
    """As :func:`ctgencore.tasks.reconstruct.reconstruct`, but for patches too, of which some hold nothing but air."""
    window = Window.parse(choice.window)
    codec = _codec(choice.codec, device)
    codec.latent_noise, codec.noise_seed = choice.latent_noise, choice.seed
    out = codec.reconstruct_hu(hu_ZYX, window, memory=_MEMORY)
    if choice.residual:
        add_residual(out, hu_ZYX, choice.residual, window)
    return np.rint(out, out=out)


def _codec(name: str, device: str) -> Codec:
    """The codec of this thread, loaded when it is first asked for."""
    loaded: dict[tuple[str, str], Codec] = _LOADED.__dict__.setdefault("codecs", {})
    if (name, device) not in loaded:
        loaded[name, device] = Codec.from_pretrained(name, device=device)
    return loaded[name, device]
