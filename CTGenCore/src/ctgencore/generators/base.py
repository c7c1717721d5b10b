"""What every generator offers: loading with its codec and report encoder, and drawing a volume from conditions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from .. import hub
from ..codecs.base import Cancel, Codec
from ..runtime import resolve_device, resolve_dtype
from ..zoo import GENERATORS, GeneratorRow, load_class, lookup

if TYPE_CHECKING:
    from ..volume import LabelMap, Volume

Progress = Callable[[int, int], None]  # network evaluations done, in all


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What to draw, on the model's axes: Z to the head, Y to the back, X to the left where the model asks for that.

    Attributes:
        shape_zyx: voxels.
        spacing_zyx: mm.
        organs: (Z, Y, X) organ ids, or None.
        diseases: (Z, Y, X) class ids 150..162 (0 = none), or None: healthy mode.
        report: text; empty for none.
        sketch_hu: (Z, Y, X) HU that stands for the organ map where there is none (editing a real scan), or None.
    """

    shape_zyx: tuple[int, int, int]
    spacing_zyx: tuple[float, float, float]
    organs: np.ndarray | None = None
    diseases: np.ndarray | None = None
    report: str = ""
    sketch_hu: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sampling:
    """How to draw.

    Attributes:
        seed: of all noise; noise belongs to the place in the volume, so windows and devices change nothing.
        steps, solver, eta: see :func:`ctgencore.diffusion.solvers.sample`.
        guidance: classifier-free guidance scale towards report and disease mask; 1 is none.
        memory: bytes for activations, None for most of what is free.
    """

    seed: int = 0
    steps: int = 20
    solver: str = "dpm++"
    eta: float = 0.0
    guidance: float = 1.0
    memory: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """Draw from an existing volume instead of from noise (Meng et al., *SDEdit*, ICLR 2022).

    Attributes:
        hu: (Z, Y, X) the volume, on the model's axes.
        region: (Z, Y, X) bool, what may change; the rest is put back after every step at its noise level.
        strength: share of the way from noise that is gone, (0, 1].
    """

    hu: np.ndarray
    region: np.ndarray
    strength: float


class Generator:
    """A latent generator with its frozen codec and report encoder.

    Attributes:
        row: in :data:`ctgencore.zoo.GENERATORS`.
        unet, text, codec: its parts.
        weights: provenance of the loaded weights, ``[{"name", "sha256", "license"}]``.
    """

    reorients: ClassVar[bool] = True  # wants Z, Y, X along head, back, left; False: the order on disk

    def __init__(
        self, row: GeneratorRow, unet: Any, text: Any, codec: Codec, weights: list[dict[str, str]] | None = None
    ) -> None:
        self.row, self.unet, self.text, self.codec = row, unet, text, codec
        self.weights = weights or []
        self.device, self.dtype = torch.device("cpu"), torch.float32
        unet.eval().requires_grad_(False)

    @staticmethod
    def from_pretrained(name: str, *, dtype: str = "float32", device: str = "auto", grey: bool = True) -> Generator:
        """The generator called ``name`` with its weights.

        Args:
            name: a row of :data:`ctgencore.zoo.GENERATORS`.
            dtype: of the denoiser: ``float32``, ``float16`` or ``bfloat16`` (the last two on a GPU only).
            device: ``auto``, ``cpu``, ``cuda:0``, ...
            grey: False keeps the codec's RGB input and output, as the released code has them.

        Raises:
            InputError: unknown name, device or dtype.
            WeightsError: the weights are not here yet; the message holds the command that gets them.
        """
        row: GeneratorRow = lookup(GENERATORS, name, "generator")
        target = resolve_device(device)
        resolve_dtype(dtype, target)  # refuse before reading gigabytes
        hub.locate(name)
        generator: Generator = load_class("generators", row.generator).load(row, grey=grey)
        return generator.to(target, dtype=dtype)

    @classmethod
    def load(cls, row: GeneratorRow, *, grey: bool = True) -> Generator:
        """Build all parts on the CPU from the weights on this machine."""
        raise NotImplementedError

    def to(self, device: str | torch.device, *, dtype: str | None = None) -> Generator:
        """Move all parts; returns self."""
        self.device = resolve_device(device) if isinstance(device, str) else device
        if dtype is not None:
            self.dtype = resolve_dtype(dtype, self.device)
        self.unet.to(device=self.device, memory_format=torch.channels_last)
        if self.dtype != next(self.unet.parameters()).dtype:  # diffusers talks of fp32 modules even where it has none
            self.unet.to(dtype=self.dtype)
        self.text.to(self.device)
        self.codec.to(self.device)
        return self

    def sample(
        self,
        inputs: Inputs,
        sampling: Sampling,
        *,
        start: Start | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> np.ndarray:
        """Draw a volume: float32 HU of ``inputs.shape_zyx``, not rounded.

        Raises:
            InputError: the model cannot do without a condition that is missing, or cannot do what ``sampling`` asks.
            OutOfMemory: nothing fits the budget, or the device gave out.
            Cancelled: ``cancel`` answered True.
        """
        raise NotImplementedError

    def sample_as_published(
        self, inputs: Inputs, seed: int, *, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> np.ndarray:
        """Draw a volume exactly as the released code does, its known faults included.

        Raises:
            InputError: there is no released code of this model, or a condition is missing.
        """
        raise NotImplementedError

    def __call__(
        self,
        mask: LabelMap | None = None,
        disease: LabelMap | None = None,
        report: str = "",
        *,
        seed: int = 0,
        **options: Any,
    ) -> Volume:
        """Generate a CT; see :func:`ctgencore.tasks.generate.generate`, which takes the same options."""
        from ..tasks.generate import GenerateOptions, generate

        chosen = GenerateOptions(model=self.row.name, report=report, seed=seed, **options)
        return generate(mask, disease, generator=self, options=chosen)

    def edit(self, ct: Volume, region: LabelMap, report: str = "", *, seed: int = 0, **options: Any) -> Volume:
        """Change a region of a CT; see :func:`ctgencore.tasks.edit.edit`, which takes the same options."""
        from ..tasks.edit import EditOptions, edit

        chosen = EditOptions(model=self.row.name, report=report, seed=seed, **options)
        return edit(ct, region, generator=self, options=chosen)
