"""Masks as the denoiser sees them: encoded by the frozen VAE as if they were images, and pooled beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import labels
from ..codecs.base import Codec
from ..errors import InputError
from ..intensity import WINDOWS

AIR_HU = -1000.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionSpec:
    """Which conditioning channels a denoiser was trained with, in this order.

    Attributes:
        label_divisor: the combined label map as one grey image ``v = label / divisor - 0.5`` through the VAE
            (Foundation VAE, eq. 6 and released code: 400 in the healthy release, 300 in the multi-disease one); None:
            no such channels.
        tissue: the same map drawn with the typical HU of every label, through the VAE. Neighbouring label numbers are
            unlike tissues (a lobe is 32, a vertebra 33), so a small network follows this sketch far better.
        disease_channels: one channel per disease class, 1 in latent cells that the mask touches: small lesions do not
            survive the VAE (MedSyn2, table 8: nodule Dice 63 %).
        residual_std: draw the difference between the CT's latents and the tissue sketch's, divided by these numbers,
            one per latent channel, in place of the latents themselves: a small network then spends nothing on what the
            sketch says already. Empty: the latents themselves, as published.
    """

    label_divisor: float | None = 300.0
    tissue: bool = False
    disease_channels: bool = False
    residual_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a residual of a sketch that is not there."""
        if self.residual_std and not self.tissue:
            raise InputError("residual_std needs the tissue sketch: set tissue, or leave residual_std empty.")

    def channels(self, codec_channels: int) -> int:
        """How many conditioning channels that makes for a codec with so many latent channels."""
        images = int(self.label_divisor is not None) + int(self.tissue)
        return images * codec_channels + self.disease_channels * len(labels.DISEASES)

    def to_drawn(self, latents: Tensor, conditions: Tensor, axis: int) -> Tensor:
        """What the denoiser draws, from a CT's latents and their conditions; ``axis`` is that of the channels."""
        if not self.residual_std:
            return latents
        sketch, std = self._sketch(conditions, axis)
        return (latents - sketch) / std

    def to_latents(self, drawn: Tensor, conditions: Tensor, axis: int) -> Tensor:
        """The inverse of :meth:`to_drawn`."""
        if not self.residual_std:
            return drawn
        sketch, std = self._sketch(conditions, axis)
        return drawn * std + sketch

    def _sketch(self, conditions: Tensor, axis: int) -> tuple[Tensor, Tensor]:
        count = len(self.residual_std)
        first = count if self.label_divisor is not None else 0
        shape = [1] * conditions.ndim
        shape[axis] = count
        return conditions.narrow(axis, first, count), conditions.new_tensor(self.residual_std).view(shape)


def encode_conditions(
    codec: Codec,
    organs_ZYX: np.ndarray | None,
    diseases_ZYX: np.ndarray | None,
    spec: ConditionSpec,
    shape_zyx: tuple[int, int, int],
    *,
    sketch_hu_ZYX: np.ndarray | None = None,
    memory: int | None = None,
) -> Tensor:
    """Conditioning channels ``(C, z, y, x)`` in fp32 on the CPU, on the codec's latent grid of ``shape_zyx``.

    Args:
        codec: frozen VAE; its latent scale applies to masks as it does to images.
        organs_ZYX: organ ids, or None for no organ mask: its channels are then zero, which is what condition dropout
            trained.
        diseases_ZYX: class ids 150..162 (0 = none), or None.
        spec: which channels.
        shape_zyx: of the volume.
        sketch_hu_ZYX: HU to use as the tissue sketch instead of that of the labels (editing a real scan).
        memory: bytes for the codec's activations.
    """
    wide = WINDOWS["wide"]
    combined = None
    if organs_ZYX is not None:
        combined = organs_ZYX if diseases_ZYX is None else labels.paint(organs_ZYX, diseases_ZYX)
    frames = codec.latent_shape(shape_zyx)
    parts = []
    if spec.label_divisor is not None:
        span = wide.hi - wide.lo
        as_hu = None if combined is None else combined.astype(np.float32) * (span / spec.label_divisor) + wide.lo
        parts.append(_latents(codec, as_hu, frames, memory))
    if spec.tissue:
        if sketch_hu_ZYX is None and combined is not None:
            sketch_hu_ZYX = TISSUE_HU[combined]
        parts.append(_latents(codec, sketch_hu_ZYX, frames, memory))
    if spec.disease_channels:
        parts.append(pool_diseases(codec, diseases_ZYX, frames))
    return torch.cat(parts)


def _latents(codec: Codec, hu_ZYX: np.ndarray | None, frames: tuple[int, int, int], memory: int | None) -> Tensor:
    if hu_ZYX is None:
        return torch.zeros(codec.latent_channels, *frames)
    return codec.encode(hu_ZYX, WINDOWS["wide"], memory=memory)[0]


def pool_diseases(codec: Codec, diseases_ZYX: np.ndarray | None, frames: tuple[int, int, int]) -> Tensor:
    """One channel per class of :data:`ctgencore.labels.DISEASES`, 1 where the class touches the latent cell."""
    out = torch.zeros(len(labels.DISEASES), *frames)
    if diseases_ZYX is None:
        return out
    step, stride_y, stride_x = codec.stride_zyx
    for channel, class_id in enumerate(labels.DISEASES):
        z, y, x = np.nonzero(diseases_ZYX == class_id)
        lead = 1 if codec.causal else 0  # slice 0 is a latent frame of its own
        frame = np.where(z < lead, 0, (z - lead) // step + lead)
        out[channel, frame, y // stride_y, x // stride_x] = 1
    return out


def _tissue_table() -> np.ndarray:
    table = np.full(256 + 8, AIR_HU, dtype=np.float32)
    for organ in labels.ORGANS.values():
        table[organ.index] = organ.hu[1]
    for disease in labels.DISEASES.values():
        table[disease.map_value] = disease.typical_hu
    return table


TISSUE_HU = _tissue_table()
