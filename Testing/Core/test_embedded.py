"""The embedded codec with its real weights: size, latents, and what it must do on CTs that it has never seen."""

from __future__ import annotations

import json
import struct
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore import io, phantom
from ctgencore.codecs.base import Codec
from ctgencore.intensity import Window
from ctgencore.metrics.voxel import reconstruction_metrics
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume

WIDE = Window.parse("wide")


@pytest.fixture(scope="module")
def embedded() -> Codec:
    return Codec.from_pretrained("embedded", device="cpu")


def gain_over_dct16(volume: Volume, embedded: Codec) -> tuple[float, dict[str, float]]:
    """PSNR of embedded less that of the 16 strongest DCT coefficients, dB; and all metrics of embedded."""
    ours = reconstruction_metrics(reconstruct(volume, embedded), volume)
    linear = reconstruct(volume, "dct16", ReconstructOptions(codec="dct16", device="cpu"))
    return ours["psnr"] - reconstruction_metrics(linear, volume)["psnr"], ours


def test_the_file_is_small_half_precision_and_complete() -> None:
    path = resources.files("ctgencore") / "weights" / "embedded_codec.safetensors"
    data = path.read_bytes()
    assert len(data) < 6_000_000
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    header.pop("__metadata__")
    assert {entry["dtype"] for entry in header.values()} == {"F16"}


def test_latents_are_scaled(embedded: Codec) -> None:
    """Sixteen channels per 4x8x8, near zero mean and unit spread on a chest that the statistics do not come from."""
    volume = phantom.chest((33, 160, 192), seed=7).ct
    z = embedded.encode(volume.voxels, WIDE)
    assert z.shape == (1, 16, 9, 20, 24)
    std, mean = torch.std_mean(z, dim=(0, 2, 3, 4))
    assert mean.abs().mean() < 0.15
    assert mean.abs().max() < 0.5
    assert 0.8 < std.mean() < 1.25
    assert std.min() > 0.5
    assert std.max() < 1.6


def test_the_statistics_are_those_of_the_weights(embedded: Codec) -> None:
    """Near zero and one on today's chest; a file from another run would not fit at all."""
    std, mean = torch.std_mean(embedded.encode(phantom.chest(seed=0).ct.voxels, WIDE), dim=(0, 2, 3, 4))
    assert mean.abs().max() < 0.2
    assert (std - 1).abs().max() < 0.3


def test_a_chest_survives(embedded: Codec) -> None:
    gain, metrics = gain_over_dct16(phantom.chest((33, 160, 192), seed=7).ct, embedded)
    assert gain > PHANTOM_GAIN_DB
    assert metrics["dice_lung"] > 0.97
    assert abs(metrics["bias_hu"]) < 3


# Floors a little below what BENCHMARKS.md reports for the whole volumes.
PHANTOM_GAIN_DB = 1.8
REAL_GAIN_DB = {"IBSI_PAT3": 2.0, "TotalSegmentator_example_ct": 2.5, "TotalSegmentator_pulmonary": 2.0}


@pytest.mark.parametrize("case", REAL_GAIN_DB)
def test_real_ct_beats_the_linear_transform(case: str, embedded: Codec, ct_data: Path) -> None:
    gain, metrics = gain_over_dct16(io.read(ct_data / case / "ct.nii.gz"), embedded)
    assert gain > REAL_GAIN_DB[case]
    assert metrics["dice_lung"] > 0.97


def test_flat_volumes_stay_flat(embedded: Codec) -> None:
    for hu in (-1000.0, 0.0, 40.0, 1000.0):
        out = embedded.reconstruct_hu(np.full((9, 40, 40), hu, np.float32), WIDE)
        assert np.abs(out - hu).max() < 25
