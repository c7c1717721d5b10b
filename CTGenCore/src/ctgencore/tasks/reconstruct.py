"""Reconstruct a CT through a frozen VAE: ``T(x) = D(E(x))`` on the input's own grid."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, replace

import numpy as np

from .. import __version__, hub
from ..codecs.base import Cancel, Codec, Progress
from ..codecs.plan import Observed, budget_of
from ..codecs.precision import choose_precision
from ..errors import InputError
from ..intensity import Window
from ..provenance import RunRecord, fingerprint
from ..runtime import PeakMemory, parse_memory, resolve_device
from ..volume import Volume
from .common import CodecOptions, ProgressEvent, Report, cpu_threads, versions

FAITHFUL_WINDOW = 65  # slices: T = 4n + 1 of the causal video VAEs (Foundation VAE, released code)
AXES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructOptions(CodecOptions):
    """Everything that shapes a reconstruction. The same fields serve Python, command line, worker, record and Slicer.

    Attributes:
        codec: name in ``ctgencore info``.
        triplanar: average axial, coronal and sagittal passes (2D codecs).
        faithful: as the paper's released code: windows of 65 slices without overlap, RGB, truncation to integers.
        sample: draw from the posterior instead of taking its mean (codecs that have one).
        latent_noise: add normal noise to the latents, as a part of their own deviation in each frame and channel.
        residual: share of what the codec took away (input in the window minus reconstruction) that is added back.
        seed: of the draw and of the noise.
    """

    codec: str = "embedded"
    triplanar: bool = False
    faithful: bool = False
    sample: bool = False
    latent_noise: float = 0.0
    residual: float = 0.0
    seed: int = 0

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            InputError: unknown codec or window, or a level of noise or residual that cannot be.
            WeightsError: the codec's weights are not here.
        """
        Window.parse(self.window)
        check_levels(self.latent_noise, self.residual)
        hub.locate(self.codec)


def check_levels(latent_noise: float, residual: float) -> None:
    """Refuse a level that cannot be.

    Raises:
        InputError: negative or infinite noise, or a residual outside 0 to 1.
    """
    if not 0 <= latent_noise < math.inf:
        raise InputError(f"Latent noise is 0 or more, such as 0.1; got {latent_noise:g}.")
    if not 0 <= residual <= 1:
        raise InputError(f"The residual is a share from 0 to 1, such as 0.5; got {residual:g}.")


def resolve_precision(options: ReconstructOptions, shape_zyx: tuple[int, int, int]) -> str:
    """The number format that ``auto`` stands for with this volume; any other name as it is."""
    if options.dtype != "auto":
        return options.dtype
    device = resolve_device(options.device)
    budget = budget_of(device, parse_memory(options.memory) if options.memory else None)
    return choose_precision(Codec.without_weights(options.codec), device, shape_zyx, budget)


def load_codec(options: ReconstructOptions) -> Codec:
    """The codec that the options ask for, ready to run."""
    return Codec.from_pretrained(options.codec, dtype=options.dtype, device=options.device, grey=not options.faithful)


def reconstruct(
    volume: Volume,
    codec: Codec | str | None = None,
    options: ReconstructOptions | None = None,
    *,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Volume:
    """Pass a CT through a frozen VAE.

    Args:
        volume: the CT, any size and orientation.
        codec: a loaded codec, a name, or None for the one that ``options`` names.
        options: see :class:`ReconstructOptions`.
        progress: receives a :class:`ProgressEvent` after each slab.
        cancel: asked between slabs; answer True to stop.

    Returns:
        A volume on the same grid, whole HU within the window, with the record of how it was made.

    Raises:
        InputError: the volume cannot be CT, or the options contradict each other or the codec.
        WeightsError: the codec's weights are missing.
        OutOfMemory: nothing fits the memory budget.
        Cancelled: ``cancel`` answered True.
    """
    options = options or ReconstructOptions()
    if isinstance(codec, str):
        options, codec = replace(options, codec=codec), None
    notes = volume.check_ct()
    window = Window.parse(options.window)
    memory = parse_memory(options.memory) if options.memory else None
    started = time.perf_counter()
    if codec is None:
        options = replace(options, dtype=resolve_precision(options, volume.shape))
        codec = load_codec(options)
    options = replace(options, codec=codec.row.name, dtype=str(codec.dtype).removeprefix("torch."))
    _check(codec, options)
    loaded = time.perf_counter()

    codec.sample_seed = options.seed if options.sample else None
    codec.latent_noise, codec.noise_seed = options.latent_noise, options.seed
    codec.observed = Observed()
    with cpu_threads(options.threads), PeakMemory(codec.device) as peak:
        hu = _passes(volume.voxels, codec, window, memory, options, progress, cancel)
    results: dict[str, float] = {"peak_bytes": peak.bytes}
    notes = [*notes, *codec.observed.notes]
    seam = codec.observed.seam_hu(window)
    if seam is not None:
        results["seam_hu"] = round(seam, 3)
        notes.append(
            f"In-plane tiles were blended: where they overlap, neighbors disagree by {seam:.1f} HU on average."
        )
    if options.calibrate:
        gain, offset = fit_affine(hu, volume.voxels, window)
        results |= {"gain": gain, "offset_hu": offset}
        apply_affine(hu, gain, offset, window)
    if options.residual:
        add_residual(hu, volume.voxels, options.residual, window)
    (np.trunc if options.faithful else np.rint)(hu, out=hu)  # in place: a scan in float32 is large enough once

    record = RunRecord(
        task="reconstruct",
        codec=codec.row.name,
        weights=codec.weights,
        options=asdict(options),
        seed=options.seed,
        inputs=[fingerprint(volume)],
        device=str(codec.device),
        timings_s={"load": round(loaded - started, 3), "run": round(time.perf_counter() - loaded, 3)},
        results=results,
        notes=notes,
        synthetic=volume.is_synthetic,
        versions=versions(),
        ctgencore_version=__version__,
    )
    return volume.with_voxels(hu, record=record)


def _check(codec: Codec, options: ReconstructOptions) -> None:
    name = codec.row.name
    if options.triplanar and not codec.row.is_2d:
        raise InputError(
            f"--triplanar averages three passes of a 2D codec; '{name}' is not one. Use --codec taef2, or drop it."
        )
    if options.triplanar and options.faithful:
        raise InputError("--faithful repeats the paper, which has no tri-planar pass. Choose one of the two.")
    if options.sample and not codec.has_posterior:
        raise InputError(f"Codec '{name}' is deterministic: it has no posterior to draw from. Drop --sample.")
    check_levels(options.latent_noise, options.residual)
    if options.faithful and (options.latent_noise or options.residual):
        raise InputError("--faithful repeats the paper, which adds neither noise nor residual. Drop one of the two.")
    if options.latent_noise and codec.row.program:
        raise InputError(f"Codec '{name}' keeps its latents to itself: they can get no noise. Drop --latent-noise.")
    if options.faithful and codec.grey and codec.channels == 3:
        raise InputError("--faithful needs the RGB network: load the codec with from_pretrained(..., grey=False).")


def _passes(
    hu: np.ndarray,
    codec: Codec,
    window: Window,
    memory: int | None,
    options: ReconstructOptions,
    progress: Report | None,
    cancel: Cancel | None,
) -> np.ndarray:
    """One pass through the codec, or one for each plane, averaged."""
    if options.faithful:
        return _faithful(hu, codec, window, memory, progress, cancel)
    planes = AXES if options.triplanar else {"axial": AXES["axial"]}
    total = sum(hu.shape[axes[0]] for axes in planes.values())
    mean: np.ndarray | None = None
    done = 0
    for plane, axes in planes.items():
        report = _reporter(progress, plane if options.triplanar else "reconstruct", done, total)
        out = codec.reconstruct_hu(hu.transpose(axes), window, memory=memory, progress=report, cancel=cancel)
        out = out.transpose(np.argsort(axes))
        mean = out if mean is None else np.add(mean, out, out=mean)
        done += hu.shape[axes[0]]
    assert mean is not None
    return mean if len(planes) == 1 else np.divide(mean, np.float32(len(planes)), out=mean)


def _faithful(
    hu: np.ndarray, codec: Codec, window: Window, memory: int | None, progress: Report | None, cancel: Cancel | None
) -> np.ndarray:
    """The released code's way: separate 65-slice windows, the last one filled up with its last slice, x as rows."""
    out = np.empty(hu.shape, dtype=np.float32)
    for start in range(0, len(hu), FAITHFUL_WINDOW):
        piece = hu[start : start + FAITHFUL_WINDOW]
        full = np.pad(piece, ((0, FAITHFUL_WINDOW - len(piece)), (0, 0), (0, 0)), mode="edge").transpose(0, 2, 1)
        report = _reporter(progress, "reconstruct", start, len(hu))
        y = codec.reconstruct_hu(
            full, window, memory=memory, progress=report, cancel=cancel, clamp_channels_first=codec.clamps_channels
        )
        out[start : start + len(piece)] = y.transpose(0, 2, 1)[: len(piece)]
    return out


def _reporter(progress: Report | None, stage: str, before: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(ProgressEvent(stage, min(before + done, total), total, before=before))


def fit_affine(output_hu: np.ndarray, input_hu: np.ndarray, window: Window) -> tuple[float, float]:
    """Least-squares gain and offset that bring ``output`` to ``input`` inside the window.

    Accumulated slice by slice in float64, so that no copy of the volume is made.
    """
    n = sx = sy = sxx = sxy = 0.0
    for x, y in zip(output_hu, input_hu, strict=True):
        x = x.astype(np.float64)
        y = np.clip(y, window.lo, window.hi).astype(np.float64)
        n, sx, sy = n + x.size, sx + x.sum(), sy + y.sum()
        sxx, sxy = sxx + np.vdot(x, x), sxy + np.vdot(x, y)
    spread = n * sxx - sx * sx
    gain = (n * sxy - sx * sy) / spread if spread > 0 else 1.0
    return float(gain), float((sy - gain * sx) / n)


def apply_affine(hu: np.ndarray, gain: float, offset: float, window: Window) -> None:
    """``gain * hu + offset``, clipped to the window, in place."""
    hu *= np.float32(gain)
    hu += np.float32(offset)
    np.clip(hu, window.lo, window.hi, out=hu)


def add_residual(hu: np.ndarray, input_hu: np.ndarray, share: float, window: Window) -> None:
    """``hu + share * (input - hu)`` with the input clipped to the window, in place, slice by slice."""
    for y, x in zip(hu, input_hu, strict=True):
        y += np.float32(share) * (np.clip(x, window.lo, window.hi) - y)
