"""Foundation VAE's generator: a slice U-Net in the latent space of a frozen VAE, driven by masks and a report.

*Foundation VAEs for 3D CT Reconstruction, Augmentation, and Generation*, section 4. The default way differs from the
released code where that has faults: windows are blended at every step instead of being stitched from two passes,
any size works, HU are rounded, the seed fixes the noise. :mod:`ctgencore.generators.released` is the released way.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import hub
from ..checkpoint import load_published
from ..codecs.base import Cancel, Codec
from ..diffusion.conditions import ConditionSpec, encode_conditions
from ..diffusion.guidance import check_guidance, guide
from ..diffusion.solvers import Level, sample, slice_noise
from ..errors import Cancelled, InputError, OutOfMemory
from ..intensity import WINDOWS
from ..labels import DISEASES
from ..resample import zoom_plane
from ..runtime import free_memory
from ..text.prompts import prompt
from ..zoo import GeneratorRow, build_network
from . import released
from .base import Generator, Inputs, Progress, Sampling, Start
from .windows import Windows, plan_batch

SHARE_OF_FREE = 0.6  # of the free memory, when no budget is given


class FoundationGenerator(Generator):
    """See the module's text and :class:`ctgencore.generators.base.Generator`."""

    def __init__(self, row: GeneratorRow, unet: Any, text: Any, codec: Codec, weights: Any = None) -> None:
        super().__init__(row, unet, text, codec, weights)
        config = row.config
        self.spec = ConditionSpec(
            label_divisor=config["label_divisor"],
            tissue=config.get("tissue", False),
            disease_channels=config.get("disease_channels", False),
            residual_std=config.get("residual_std", ()),
        )
        self.reorients = config.get("reorients", True)  # type: ignore[misc]

    @property
    def window_zyx(self) -> tuple[int, int, int]:
        """Latent cells of a window, as in training."""
        z, y, x = self.row.config["window_zyx"]
        return (z, y, x)

    def sample(
        self,
        inputs: Inputs,
        sampling: Sampling,
        *,
        start: Start | None = None,
        progress: Progress | None = None,
        cancel: Cancel | None = None,
    ) -> np.ndarray:
        """See :meth:`ctgencore.generators.base.Generator.sample`."""
        check_guidance(sampling.guidance, self.row.name, trained_with_dropout=self.row.trained_with_dropout)
        self._check(inputs)
        inner, start = self._inward(inputs), self._start_inward(start)
        budget = sampling.memory or int(free_memory(self.device) * SHARE_OF_FREE)
        with torch.inference_mode(), self._errors():
            latent_zyx = self.codec.latent_shape(inner.shape_zyx)
            following, free = self._conditions(inner, guided=sampling.guidance != 1, memory=sampling.memory)
            z, y, x = (min(pair) for pair in zip(self.window_zyx, latent_zyx, strict=True))
            batch = plan_batch(self.unet, (z, y, x), budget, element_bytes=self.dtype.itemsize)
            tick = Ticker(progress, cancel)
            windows = Windows(self.unet, latent_zyx, self.window_zyx, batch=batch, tick=tick)
            steps = sampling.steps if start is None else max(1, round(start.strength * sampling.steps))
            tick.total = steps * len(windows.tiles) * (1 if sampling.guidance == 1 else 2)
            latents = self._draw(windows, following, free, latent_zyx, sampling, start)
            hu = self.codec.decode(latents, inner.shape_zyx, WINDOWS["wide"], memory=sampling.memory)
        return self._outward(hu, inputs.shape_zyx)

    def sample_as_published(
        self, inputs: Inputs, seed: int, *, progress: Progress | None = None, cancel: Cancel | None = None
    ) -> np.ndarray:
        """See :meth:`ctgencore.generators.base.Generator.sample_as_published`."""
        if "handover" not in self.row.config:
            raise InputError(
                f"Model '{self.row.name}' has no released code to be faithful to. Leave faithful out, or use "
                "foundation-healthy or foundation-multidisease."
            )
        if self.codec.grey and self.codec.channels == 3:
            raise InputError("faithful needs the RGB codec: load the generator with from_pretrained(..., grey=False).")
        self._check(inputs)
        inner = self._inward(inputs)
        tick = Ticker(progress, cancel)
        tick.total = released.passes_needed(inner.shape_zyx[0])
        with torch.inference_mode(), self._errors():
            hu = released.draw(self, inner, seed, tick)
        return self._outward(hu, inputs.shape_zyx)

    def _draw(
        self,
        windows: Windows,
        following: list[Tensor],
        free: list[Tensor],
        latent_zyx: tuple[int, int, int],
        sampling: Sampling,
        start: Start | None,
    ) -> Tensor:
        frames, height, width = latent_zyx
        shape = (self.unet.config.out_channels, height, width)

        def noise(step: int) -> Tensor:
            rows = slice_noise(sampling.seed, step, range(frames), shape)
            return rows.transpose(0, 1)[None].to(self.device)

        clean = region = None
        if start is not None:
            clean = self.codec.encode(start.hu, WINDOWS["wide"], memory=sampling.memory).to(self.device)
            clean = self.spec.to_drawn(clean, following[0], axis=1)
            region = self._touched_cells(start.region, latent_zyx)

        def put_back(x: Tensor, level: Level) -> Tensor:
            assert clean is not None
            assert region is not None
            known = level.abar**0.5 * clean + (1 - level.abar) ** 0.5 * noise(0)
            return torch.where(region, x, known)

        drawn = sample(
            guide(windows, following, free, sampling.guidance, together=self.device.type != "cpu"),
            noise(0),
            solver=sampling.solver,  # type: ignore[arg-type]
            steps=sampling.steps,
            eta=sampling.eta,
            prediction=self.row.prediction,  # type: ignore[arg-type]
            clean=clean,
            strength=start.strength if start is not None else 1.0,
            step_noise=lambda step: noise(step + 1),
            constrain=put_back if start is not None else None,
        )
        return self.spec.to_latents(drawn, following[0], axis=1)

    def _conditions(self, inputs: Inputs, *, guided: bool, memory: int | None) -> tuple[list[Tensor], list[Tensor]]:
        """Conditions to follow, and (when guided) the same with report and disease mask dropped."""
        following = [self._channels(inputs, memory), self.context(inputs)]
        if not guided:
            return following, following
        channels = following[0]
        if inputs.diseases is not None and self.spec.disease_channels:
            channels = channels.clone()
            channels[:, -len(DISEASES) :] = 0  # the drawings stay: what is drawn is relative to the sketch
        return following, [channels, self.context(replace(inputs, report=""))]

    def _channels(self, inputs: Inputs, memory: int | None) -> Tensor:
        channels = encode_conditions(
            self.codec,
            inputs.organs,
            inputs.diseases,
            self.spec,
            inputs.shape_zyx,
            sketch_hu_ZYX=inputs.sketch_hu,
            memory=memory,
        )
        return channels[None].to(self.device)

    def context(self, inputs: Inputs) -> Tensor:
        """Tokens ``(1, L, W)`` of the report, and of the voxel size where the model reads it."""
        text = prompt(inputs.report, self.row.config["prompt_format"])
        if not self.row.text_config.get("reads_spacing", False):
            return self.text.encode([text]).to(self.device)
        spacing = torch.tensor([inputs.spacing_zyx[::-1]], dtype=torch.float32)
        return self.text.encode([text], spacing_mm=spacing).to(self.device)

    def _touched_cells(self, region_ZYX: np.ndarray, latent_zyx: tuple[int, int, int]) -> Tensor:
        """Latent cells that the region touches, and their neighbours: a cell decodes beyond its own voxels."""
        from scipy import ndimage

        step, stride_y, stride_x = self.codec.stride_zyx
        cells = np.zeros(latent_zyx, dtype=bool)
        z, y, x = np.nonzero(region_ZYX)
        lead = 1 if self.codec.causal else 0
        cells[np.where(z < lead, 0, (z - lead) // step + lead), y // stride_y, x // stride_x] = True
        return torch.from_numpy(ndimage.binary_dilation(cells, np.ones((3, 3, 3)))).to(self.device)

    # --- the model's own axes and size -------------------------------------------------------------------------------

    def _check(self, inputs: Inputs) -> None:
        if inputs.organs is None and inputs.sketch_hu is None and self.row.config.get("needs_mask", False):
            raise InputError(
                f"Model '{self.row.name}' was trained with an organ mask for every volume; there is none. Give --mask, "
                "or use --model foundation-embedded."
            )

    def _inward(self, inputs: Inputs) -> Inputs:
        """On the model's axes: rows along X where the release has them so, in its in-plane size where that is fixed."""

        def turn(array: np.ndarray | None, order: int) -> np.ndarray | None:
            return None if array is None else self._plane_in(array, order)

        size_z, *plane = inputs.shape_zyx
        native = self.row.config.get("native_yx")
        size_y, size_x = (native, native) if native else (plane[::-1] if self._transposed else plane)
        return Inputs(
            shape_zyx=(size_z, size_y, size_x),
            spacing_zyx=inputs.spacing_zyx,
            organs=turn(inputs.organs, 0),
            diseases=turn(inputs.diseases, 0),
            report=inputs.report,
            sketch_hu=turn(inputs.sketch_hu, 1),
        )

    def _start_inward(self, start: Start | None) -> Start | None:
        if start is None:
            return None
        return Start(hu=self._plane_in(start.hu, 1), region=self._plane_in(start.region, 0), strength=start.strength)

    def _plane_in(self, array_ZYX: np.ndarray, order: int) -> np.ndarray:
        native = self.row.config.get("native_yx")
        turned = array_ZYX.transpose(0, 2, 1) if self._transposed else array_ZYX
        return zoom_plane(turned, (native, native), order) if native else np.ascontiguousarray(turned)

    def _outward(self, hu_ZYX: np.ndarray, shape_zyx: tuple[int, int, int]) -> np.ndarray:
        plane = shape_zyx[:0:-1] if self._transposed else shape_zyx[1:]
        hu = zoom_plane(hu_ZYX, (plane[0], plane[1]), 1)
        return hu.transpose(0, 2, 1) if self._transposed else hu

    @property
    def _transposed(self) -> bool:
        return bool(self.row.config.get("transpose", False))

    # --- loading and errors ------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, row: GeneratorRow, *, grey: bool = True) -> FoundationGenerator:
        """See :meth:`ctgencore.generators.base.Generator.load`."""
        tensors, weights = hub.load_tensors(row)
        parts: dict[str, dict[str, Tensor]] = {"unet": {}, "text": {}, "codec": {}}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts[part][rest] = tensor
        with torch.random.fork_rng(devices=[]):  # start values, overwritten at once: the caller's stream stays
            unet = build_network(row.network, **row.network_config)
            text = _text_encoder(row, parts["text"])
            codec = Codec.from_pretrained(row.codec, device="cpu", grey=grey) if not parts["codec"] else None
            codec = codec or Codec.from_tensors(row.codec, parts["codec"], grey=grey)
        load_published(unet, parts["unet"])
        return cls(row, unet, text, codec, weights)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(
                f"The device ran out of memory in model '{self.row.name}'. Try --memory with a smaller size, "
                "--preview, --dtype bfloat16 on a GPU, or --device cpu."
            ) from error


class Ticker:
    """Counts network evaluations, tells how many are done, and stops when asked to."""

    def __init__(self, progress: Progress | None, cancel: Cancel | None) -> None:
        self.progress, self.cancel = progress, cancel
        self.done = self.total = 0

    def __call__(self, windows: int) -> None:
        """Count so many more."""
        if self.cancel is not None and self.cancel():
            raise Cancelled(f"Cancelled after {self.done} of {self.total} network evaluations; nothing was written.")
        self.done += windows
        if self.progress is not None:
            self.progress(self.done, self.total)


def _text_encoder(row: GeneratorRow, tensors: dict[str, Tensor]) -> Any:
    vocabulary = hub.load_vocabulary(row)
    if row.text == "cxrbert":
        from ..text.cxrbert import CXRBert

        return CXRBert(tensors, vocabulary, **row.text_config)
    from ..text.embedded import ReportEncoder

    encoder = ReportEncoder(vocabulary, **row.text_config).eval().requires_grad_(False)
    load_published(encoder, tensors)
    return encoder
