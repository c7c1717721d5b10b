"""Procedural clips, the linear start, and the loop."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore.checkpoint import load_published, read_tensors
from ctgencore.networks.leanvae import LeanVAE
from ctgencore.training.clips import Clips, load_photos, scene
from ctgencore.training.codec_init import start_from_principal_components
from ctgencore.training.export import export_codec
from ctgencore.training.loop import train_codec
from ctgencore.training.recipes import RECIPES


def test_scenes_are_a_function_of_their_seed() -> None:
    photos = load_photos()
    a, b, c = (scene(seed, photos, (12, 48, 48)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).mean() > 0.01
    assert a.shape == (12, 48, 48)
    assert a.min() >= -1
    assert a.max() <= 1


def test_clips_vary_and_keep_their_size() -> None:
    clips = [clip for clip, _ in zip(Clips((5, 32, 32), seed=1, pool=4), range(8), strict=False)]
    assert all(clip.shape == (1, 5, 32, 32) for clip in clips)
    assert torch.stack(clips).std(dim=0).mean() > 0.01


@torch.inference_mode()
def test_step_zero_is_the_principal_component_codec() -> None:
    clips = torch.stack([c for c, _ in zip(Clips((9, 32, 32), seed=0, pool=8), range(48), strict=False)]) / 2
    net = LeanVAE(channels=1, l_dim=32, h_dim=96).eval()
    start_from_principal_components(net, clips)
    output = net.decode(net.encode(clips))[:, :, 1:]
    blocks = clips[:, :, 1:].unfold(2, 4, 4).unfold(3, 8, 8).unfold(4, 8, 8).reshape(-1, 256).double()
    values, _ = torch.linalg.eigh(blocks.T @ blocks / len(blocks))
    best = values[:-16].sum() / 256  # what the leading 16 components leave over
    assert (output - clips[:, :, 1:]).square().mean().item() == pytest.approx(best.item(), rel=1e-3)


def test_train_stop_resume_and_load(tmp_path: Path) -> None:
    recipe = replace(RECIPES["tiny"], steps=8)
    lines: list[str] = []
    train_codec(recipe, tmp_path, steps=4, workers=0, save_every=4, log=lines.append)
    final = train_codec(recipe, tmp_path, workers=0, save_every=4, log=lines.append)
    assert [json.loads(line)["step"] for line in lines] == [4, 8]
    net = LeanVAE.from_pretrained(final)
    assert net.spec.l_dim == recipe.network["l_dim"]
    x = torch.rand(1, 1, 5, 16, 16) - 0.5
    assert torch.isfinite(net(x)).all()


def test_export_writes_what_the_codec_loads(tmp_path: Path) -> None:
    network = LeanVAE(**RECIPES["tiny"].network).eval()
    network.save_pretrained(tmp_path / "final")
    statistics = export_codec(tmp_path / "final", tmp_path / "codec.safetensors")
    assert {name: len(values) for name, values in statistics.items()} == {"latents_mean": 16, "latents_std": 16}
    assert min(statistics["latents_std"]) > 0
    tensors = read_tensors(tmp_path / "codec.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    load_published(network, tensors)
