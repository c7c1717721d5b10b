"""Training volumes as latents on disk: encoded once, in any number of processes, and read again in batches.

A cached file holds the latents of a CT and of its conditions. What has passed through the codec cannot be hidden
afterwards: dropout of organ groups, and of diseases painted over organs, needs variants of the mask, encoded here.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor
from torch.utils.data import Dataset

from .. import labels
from ..checkpoint import write_safetensors
from ..codecs.base import Codec
from ..diffusion.conditions import AIR_HU, ConditionSpec, encode_conditions, pool_diseases
from ..errors import CTGenError, InputError
from ..geometry import AxisPlan
from ..intensity import WINDOWS
from ..labels import BODY, ORGANS
from .generator_recipes import Dropout, GeneratorRecipe
from .readers import Reader, Sample

CLIP_SLICES = 65  # slices of the published window: 17 latents
START_AT_ZERO = 0.5  # of windows along Z: the first latent of a volume is one slice, the others are four
FORMAT = 1  # of the cached files
KEPT_SHARE = (0.2, 0.9)  # of the organ groups that a mask with some of them missing keeps

Log = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class CacheSettings:
    """What a cached file depends on besides its sample; fields as in :class:`GeneratorRecipe`.

    Attributes:
        variants: also encode masks without diseases and with organ groups missing, for condition dropout.
    """

    codec: str
    conditions: ConditionSpec
    reorients: bool
    transpose: bool
    plane_yx: tuple[int, int] | None
    window_zyx: tuple[int, int, int]
    clips_per_volume: int
    clear_background: bool
    variants: bool

    @staticmethod
    def of(recipe: GeneratorRecipe) -> CacheSettings:
        """What the recipe asks for."""
        return CacheSettings(
            codec=recipe.codec,
            conditions=replace(recipe.conditions, residual_std=()),  # taken when a batch is read
            reorients=recipe.reorients,
            transpose=recipe.transpose,
            plane_yx=recipe.plane_yx,
            window_zyx=recipe.window_zyx,
            clips_per_volume=recipe.clips_per_volume,
            clear_background=recipe.clear_background,
            variants=recipe.dropout.any,
        )

    def key(self, codec: Codec) -> str:
        """Names the settings and the codec's weights."""
        facts = {"format": FORMAT, "weights": [item["sha256"] for item in codec.weights], **asdict(self)}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


# --- encoding --------------------------------------------------------------------------------------------------------


class Clip(NamedTuple):
    """Slices of a sample as they are encoded, (Z, Y, X) each."""

    hu: np.ndarray
    organs: np.ndarray | None
    diseases: np.ndarray | None


def whole_clip(sample: Sample, settings: CacheSettings) -> Clip:
    """The whole sample on the model's axes and in-plane size, background cleared if asked for, a window at least."""

    def brought(array_ZYX: np.ndarray, mode: str) -> np.ndarray:
        turned = AxisPlan.to_lps(sample.ct.geometry).apply(array_ZYX) if settings.reorients else array_ZYX
        return _resize(turned.transpose(0, 2, 1) if settings.transpose else turned, settings.plane_yx, mode)

    hu = brought(sample.ct.voxels, "bilinear")
    organs = diseases = None
    if sample.organs is not None:
        bodied = labels.with_body(sample.organs, sample.ct)
        organs = brought(bodied.voxels, "nearest").astype(np.uint8)
    if sample.diseases is not None and sample.diseases.voxels.any():
        diseases = brought(sample.diseases.voxels, "nearest").astype(np.uint8)
    if settings.clear_background and organs is not None and diseases is None:
        hu = np.where(organs > 0, hu, np.float32(AIR_HU))
    pad = [(0, max(0, n - m)) for n, m in zip(voxels_of(settings.window_zyx), hu.shape, strict=True)]
    return Clip(*(None if a is None else np.pad(a, pad, mode="edge") for a in (hu, organs, diseases)))  # type: ignore[arg-type]


def voxels_of(window_zyx: tuple[int, int, int]) -> tuple[int, int, int]:
    """Size of the volume whose latents are one window (all codecs to generate with have 4x8x8 voxels per latent)."""
    z, y, x = window_zyx
    return 1 + 4 * (z - 1), 8 * y, 8 * x


def clips(sample: Sample, settings: CacheSettings, rng: np.random.Generator) -> Iterator[Clip]:
    """What is encoded of a sample: all of it, or windows of 65 slices.

    A window of a diseased sample starts at a slice that shows disease, if 65 slices are left from there; other windows
    start anywhere (Foundation VAE, released code).
    """
    whole = whole_clip(sample, settings)
    if not settings.clips_per_volume:
        yield whole
        return
    last = len(whole.hu) - CLIP_SLICES
    ill = np.flatnonzero(whole.diseases.any(axis=(1, 2))) if whole.diseases is not None else np.empty(0, int)
    for _ in range(settings.clips_per_volume):
        start = int(rng.choice(ill)) if len(ill) else last + 1
        if start > last:
            start = int(rng.integers(last + 1))
        yield Clip(*(None if a is None else a[start : start + CLIP_SLICES] for a in whole))  # type: ignore[arg-type]


def without_groups(organs_ZYX: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The organ map with a random part of its groups missing: body in their place, as a partial mask is completed."""
    present = [ORGANS[i] for i in np.unique(organs_ZYX).tolist() if i in ORGANS]
    groups = sorted({organ.group for organ in present})
    share = rng.uniform(*KEPT_SHARE)
    kept = {group for group in groups if rng.random() < share or group == "body"}
    table = np.full(256, BODY, dtype=np.uint8)
    table[0] = 0
    for organ in present:
        if organ.group in kept:
            table[organ.index] = organ.index
    return table[organs_ZYX]


def encode_clip(codec: Codec, clip: Clip, settings: CacheSettings, rng: np.random.Generator) -> dict[str, Tensor]:
    """Latents of a clip, fp16: ``ct (C, z, y, x)``, the masks' images ``(C', z, y, x)`` by variant, ``diseases``.

    The variants are ``all``, and if the settings say so ``all-healthy`` (diseases not painted), ``some`` (organ groups
    missing) and ``some-healthy``. Without an organ mask there are none; ``diseases`` is there if the clip has any.
    """
    images = replace(settings.conditions, disease_channels=False)
    tensors = {"ct": codec.encode(clip.hu, WINDOWS["wide"])[0]}
    if clip.organs is not None:
        maps = {"all": clip.organs}
        if settings.variants:
            maps["some"] = without_groups(clip.organs, rng)
        for name, organs in maps.items():
            tensors[name] = encode_conditions(codec, organs, clip.diseases, images, clip.hu.shape)
            if settings.variants and clip.diseases is not None:
                tensors[f"{name}-healthy"] = encode_conditions(codec, organs, None, images, clip.hu.shape)
    tensors = {name: tensor.half() for name, tensor in tensors.items()}
    if settings.conditions.disease_channels and clip.diseases is not None and clip.diseases.any():
        tensors["diseases"] = pool_diseases(codec, clip.diseases, codec.latent_shape(clip.hu.shape)).half()
    return tensors


def cache_sample(codec: Codec, reader: Reader, index: int, settings: CacheSettings, folder: Path) -> list[Path]:
    """Encode one sample into ``folder`` unless it is there; a run that was killed leaves no half-written file."""
    files = _files_of(reader, index, settings, folder)
    if all(path.is_file() for path in files):
        return files
    sample = reader.load(index)
    rng = np.random.default_rng(int(hashlib.sha256(files[0].name.encode()).hexdigest()[:16], 16))
    flags = sorted({int(v) for v in np.unique(sample.diseases.voxels)} - {0}) if sample.diseases is not None else []
    facts = {
        "name": sample.name,
        "patient": reader.patient(index),
        "report": sample.report,
        "impression": sample.impression,
        "spacing_mm": json.dumps(_encoded_spacing(sample, settings)),
        "diseases": json.dumps(flags),
    }
    for path, clip in zip(files, clips(sample, settings, rng), strict=True):
        tensors = encode_clip(codec, clip, settings, rng)
        if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
            raise InputError(f"{sample.name}: its latents are not finite in half precision. Look for NaN in the CT.")
        write_safetensors(path, tensors, facts)
    return files


def _files_of(reader: Reader, index: int, settings: CacheSettings, folder: Path) -> list[Path]:
    name, key = reader.name(index), reader.fingerprint(index)[:12]
    count = max(1, settings.clips_per_volume)
    return [folder / f"{name}{f'-{n}' if count > 1 else ''}.{key}.safetensors" for n in range(count)]


def _encoded_spacing(sample: Sample, settings: CacheSettings) -> list[float]:
    """Voxel size in mm along the columns, rows and slices that are encoded."""
    spacing, shape = sample.ct.geometry.spacing_zyx, sample.ct.shape
    if settings.reorients:
        plan = AxisPlan.to_lps(sample.ct.geometry)
        spacing, (z, y, x) = plan.reorder(spacing), plan.reorder(shape)
        shape = (int(z), int(y), int(x))
    plane, size = list(spacing[1:]), list(shape[1:])
    if settings.transpose:
        plane, size = plane[::-1], size[::-1]
    if settings.plane_yx is not None:
        plane = [mm * n / new for mm, n, new in zip(plane, size, settings.plane_yx, strict=True)]
    return [plane[1], plane[0], spacing[0]]


def _resize(array_ZYX: np.ndarray, plane_yx: tuple[int, int] | None, mode: str) -> np.ndarray:
    if plane_yx is None or array_ZYX.shape[1:] == plane_yx:
        return array_ZYX
    slices = torch.from_numpy(np.ascontiguousarray(array_ZYX, dtype=np.float32))[:, None]
    align = {"align_corners": False} if mode == "bilinear" else {}
    return F.interpolate(slices, plane_yx, mode=mode, **align)[:, 0].numpy()


# --- filling the cache -----------------------------------------------------------------------------------------------


@cache
def _codec(name: str, device: str) -> Codec:
    return Codec.from_pretrained(name, device=device)


def cache_folder(root: Path, settings: CacheSettings) -> Path:
    """The folder of these settings below ``root``; made if it is not there, with the settings in words."""
    folder = root / settings.key(_codec(settings.codec, "cpu"))
    folder.mkdir(parents=True, exist_ok=True)
    about = folder / "settings.json"
    if not about.is_file():
        temporary = about.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(asdict(settings), indent=1))
        temporary.replace(about)
    return folder


def _work(reader: Reader, index: int, settings: CacheSettings, folder: Path) -> list[Path]:
    torch.set_num_threads(1)  # one process per core does more than many threads
    return cache_sample(_codec(settings.codec, "cpu"), reader, index, settings, folder)


def fill_cache(
    reader: Reader,
    settings: CacheSettings,
    folder: Path,
    *,
    indices: Sequence[int] | None = None,
    workers: int = 0,
    device: str = "cpu",
    log: Log,
) -> int:
    """Encode what is not cached yet.

    Args:
        reader: samples.
        settings: see :class:`CacheSettings`.
        folder: receives the files.
        indices: samples to encode, all by default.
        workers: processes on the CPU; 0 works here, on ``device``.
        device: see ``workers``.
        log: receives a line for every sample that cannot be read, and one for every hundred done.

    Returns:
        Number of samples in the cache.

    Raises:
        InputError: not one sample could be read.
    """
    todo = list(range(len(reader)) if indices is None else indices)
    done, failed = 0, 0
    for result in _results(reader, todo, settings, folder, workers, device):
        if isinstance(result, CTGenError):
            failed += 1
            log(json.dumps({"left_out": str(result)}))
        else:
            done += 1
            if done % 100 == 0:
                log(json.dumps({"cached": done, "of": len(todo)}))
    if failed and not done:
        raise InputError(f"None of {failed} samples could be read; the reasons stand above. Correct the list or files.")
    return done


def _results(
    reader: Reader, todo: list[int], settings: CacheSettings, folder: Path, workers: int, device: str
) -> Iterator[CTGenError | list[Path]]:
    if not workers:
        codec = _codec(settings.codec, device)
        for index in todo:
            try:
                yield cache_sample(codec, reader, index, settings, folder)
            except CTGenError as error:
                yield error
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        queue = list(reversed(todo))
        running: set[Any] = set()
        while queue or running:
            while queue and len(running) < 2 * workers:
                running.add(pool.submit(_work, reader, queue.pop(), settings, folder))
            finished, running = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                try:
                    yield future.result()
                except CTGenError as error:
                    yield error


# --- reading ---------------------------------------------------------------------------------------------------------


def list_cache(folder: Path) -> list[str]:
    """Names of the cached files, sorted; of a sample cached twice (its source has changed) the newer."""
    newest: dict[str, tuple[float, str]] = {}
    for path in folder.glob("*.safetensors"):
        name = path.name.rsplit(".", 2)[0]
        newest[name] = max(newest.get(name, (0.0, "")), (path.stat().st_mtime, path.name))
    return sorted(file for _, file in newest.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Hidden:
    """Which conditions a sample goes without in one training step."""

    report: bool = False
    findings: bool = False
    diseases: bool = False
    organs: bool = False
    groups: bool = False
    label_image: bool = False
    spacing: bool = False

    @staticmethod
    def draw(dropout: Dropout, rng: np.random.Generator, *, has_report: bool) -> Hidden:
        """See :class:`Dropout`; always the same number of random draws."""
        everything, report, findings, diseases, organs, groups, label_image, spacing = rng.random(8).tolist()
        nothing_left = everything < dropout.everything
        no_report = nothing_left or report < dropout.report
        return Hidden(
            report=no_report,
            findings=findings < dropout.findings,
            diseases=nothing_left or (has_report and not no_report and diseases < dropout.diseases),
            organs=nothing_left or organs < dropout.organs,
            groups=groups < dropout.groups,
            label_image=label_image < dropout.label_image,
            spacing=nothing_left or spacing < dropout.spacing,
        )


class Latents(NamedTuple):
    """A batch, fp32; as read from one file without the batch dimension.

    Attributes:
        ct: ``(B, n, C, y, x)``, n latent slices of what the denoiser draws (see :class:`ConditionSpec`).
        conditions: ``(B, n, C', y, x)``.
        spacing_mm: ``(B, 3)`` voxel size x, y, z; 0 where it is hidden.
        reports: texts, empty where hidden.
        told: ``(B, n, y, x)`` 0..1, where diseases are that the report tells of and no mask shows.
    """

    ct: Tensor
    conditions: Tensor
    spacing_mm: Tensor
    reports: list[str]
    told: Tensor

    def to(self, device: torch.device) -> Latents:
        """On that device."""
        return self._replace(
            ct=self.ct.to(device),
            conditions=self.conditions.to(device),
            spacing_mm=self.spacing_mm.to(device),
            told=self.told.to(device),
        )


def read_latents(path: Path, spec: ConditionSpec, box_zyx: tuple[slice, slice, slice], hidden: Hidden) -> Latents:
    """A box of a cached file's latents, without the conditions that are hidden."""
    box = (slice(None), *box_zyx)
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        ct = file.get_slice("ct")[box].float()
        variant = "some" if hidden.groups and "some" in names else "all"
        if hidden.diseases and f"{variant}-healthy" in names:
            variant += "-healthy"
        count = spec.channels(ct.shape[0])
        conditions = torch.zeros(count, *ct.shape[1:])
        if variant in names and not hidden.organs:
            images = file.get_slice(variant)[box].float()
            conditions[: len(images)] = images
            if hidden.label_image and spec.tissue and spec.label_divisor is not None:
                conditions[: ct.shape[0]] = 0
        told = torch.zeros(ct.shape[1:])
        if "diseases" in names:
            flags = file.get_slice("diseases")[box].float()
            if not hidden.diseases:
                conditions[count - len(flags) :] = flags
            elif not hidden.report:
                told = flags.amax(dim=0)
        facts = file.metadata()
    spacing = torch.zeros(3) if hidden.spacing else torch.tensor(json.loads(facts["spacing_mm"]))
    report = (hidden.findings and facts["impression"]) or facts["report"]
    ct = spec.to_drawn(ct, conditions, axis=0)
    return Latents(ct.transpose(0, 1), conditions.transpose(0, 1), spacing, ["" if hidden.report else report], told)


def read_report(path: Path) -> str:
    """The report in a cached file."""
    with safe_open(path, "pt") as file:
        return file.metadata()["report"]


class LatentBatches(Dataset[Latents]):
    """Batches by number: batch ``step`` is a function of the arguments alone, so that a resumed run sees the same.

    Args:
        folder: of the cache.
        names: files in it.
        spec: conditioning channels.
        window_zyx: latent cells to cut out.
        dropout: of conditions.
        batch: volumes per batch and process.
        slices: latent slices drawn of each window, None for all.
        seed: anything; stages differ in it.
        first_step: step at which ``names`` was listed; an epoch starts there.
        rank, processes: this process, and how many there are.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        spec: ConditionSpec,
        window_zyx: tuple[int, int, int],
        dropout: Dropout,
        *,
        batch: int,
        slices: int | None,
        seed: Sequence[int],
        first_step: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.folder, self.names, self.spec = folder, list(names), spec
        self.window, self.dropout = window_zyx, dropout
        self.batch, self.slices, self.seed, self.first_step = batch, slices, tuple(seed), first_step
        self.rank, self.processes = rank, processes
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return 2**31  # any step can be asked for

    def __getitem__(self, step: int) -> Latents:
        rng = np.random.default_rng((*self.seed, step, self.rank))
        first = ((step - self.first_step) * self.processes + self.rank) * self.batch
        parts = [self._read(self.folder / self._name(first + i), rng) for i in range(self.batch)]
        return Latents(
            torch.stack([part.ct for part in parts]),
            torch.stack([part.conditions for part in parts]),
            torch.stack([part.spacing_mm for part in parts]),
            [part.reports[0] for part in parts],
            torch.stack([part.told for part in parts]),
        )

    def _name(self, position: int) -> str:
        turn, place = divmod(position, len(self.names))
        if turn not in self._orders:
            rng = np.random.default_rng((*self.seed, self.first_step, turn, 1))
            self._orders = {turn: rng.permutation(len(self.names)), **dict(list(self._orders.items())[:1])}
        return self.names[self._orders[turn][place]]

    def _read(self, path: Path, rng: np.random.Generator) -> Latents:
        with safe_open(path, "pt") as file:
            sizes = file.get_slice("ct").get_shape()[1:]
            has_report = bool(file.metadata()["report"])
        starts = [int(rng.integers(n - w + 1)) for n, w in zip(sizes, self.window, strict=True)]
        if rng.random() < START_AT_ZERO:
            starts[0] = 0
        z, y, x = (slice(start, start + w) for start, w in zip(starts, self.window, strict=True))
        hidden = Hidden.draw(self.dropout, rng, has_report=has_report)
        part = read_latents(path, self.spec, (z, y, x), hidden)
        if self.slices is None:
            return part
        chosen = np.sort(rng.choice(self.window[0], self.slices, replace=False))
        return part._replace(ct=part.ct[chosen], conditions=part.conditions[chosen], told=part.told[chosen])
