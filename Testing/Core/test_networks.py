"""Networks under their published names: tensor names, shapes and reference outputs of the originals."""

from __future__ import annotations

import ast
import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore.checkpoint import load_published
from ctgencore.errors import WeightsError
from ctgencore.networks.leanvae import LeanVAE, haar_image, haar_video
from ctgencore.zoo import build_network
from torch import Tensor, nn

GOLDEN = Path(__file__).parent.parent / "data" / "golden"
NUMBERS = json.loads((GOLDEN / "networks.json").read_text())


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def fill(name: str, shape: tuple[int, ...]) -> Tensor:
    """Deterministic weights: the recipe that the reference numbers were made with."""
    if not shape:
        return torch.tensor(0.5)
    n = _normal(name, shape)
    if len(shape) > 1:
        return torch.from_numpy((n / np.sqrt(np.prod(shape[1:]))).astype(np.float32))
    return torch.from_numpy((1 + 0.1 * n if name.endswith(".weight") else 0.1 * n).astype(np.float32))


def array(name: str, shape: tuple[int, ...], scale: float) -> Tensor:
    return torch.from_numpy((_normal(name, tuple(shape)) * scale).astype(np.float32))


def filled(name: str) -> nn.Module:
    net = build_network(name)
    load_published(net, {k: fill(k, tuple(v.shape)) for k, v in net.state_dict().items()})
    return net


def assert_matches(output: Tensor, entry: dict, rel: float = 1e-4) -> None:
    assert list(output.shape) == entry["shape"]
    flat = output.double().flatten().numpy()
    assert np.linalg.norm(flat) == pytest.approx(entry["l2"], rel=rel)
    assert flat.std() == pytest.approx(entry["std"], rel=rel)
    np.testing.assert_allclose(flat[entry["idx"]], entry["values"], atol=1e-3)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("leanvae", "leanvae_16"),
        ("leanvae_4", "leanvae_4"),
        ("taef2", "taef2"),
        ("wan2.1", "wan21_diffusers"),
        ("wan2.2", "wan22_diffusers"),
    ],
)
def test_published_names_and_shapes(name: str, keys: str) -> None:
    rows = [line.split("\t") for line in (GOLDEN / f"{keys}.keys.txt").read_text().splitlines() if line[0] != "#"]
    published = {row[0]: tuple(ast.literal_eval(row[1])) for row in rows}
    with torch.device("meta"):
        net = build_network(name)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == published


@torch.inference_mode()
def test_leanvae_equals_the_original() -> None:
    net = filled("leanvae")
    x = array("xlean", (1, 3, 17, 64, 64), 0.2)
    assert_matches(haar_image(x[:, :, 0])[:, :, None], NUMBERS["lean_dwt_image"])
    assert_matches(haar_video(x[:, :, 1:]), NUMBERS["lean_dwt_video"])
    z = net.encode(x)
    assert_matches(z, NUMBERS["lean_encode"])
    assert_matches(net.decode(z), NUMBERS["lean_decode_of_encode"])
    assert_matches(net.decode(array("zlean", (1, 16, 5, 8, 8), 1)), NUMBERS["lean_decode_random"])
    z = net.encode(array("imlean", (2, 3, 32, 32), 0.2)[:, :, None])
    assert_matches(z, NUMBERS["lean_encode_image4d"])
    assert_matches(net.decode(z)[:, :, 0], NUMBERS["lean_decode_image4d"])


@pytest.mark.parametrize("name", ["leanvae_4", "leanvae_16", "taef2"])
@torch.inference_mode()
def test_networks_equal_the_originals(name: str) -> None:
    net, numbers = filled(name), NUMBERS[name]
    assert sum(p.numel() for p in net.parameters()) == numbers["n_parameters"]
    assert_matches(net.encode(array(numbers["x"], numbers["input_shape"], 0.5)), numbers["encode"])
    assert_matches(net.decode(array(numbers["z"], numbers["encode"]["shape"], 1.0)), numbers["decode"])


@torch.inference_mode()
def test_leanvae_streams_bit_exactly() -> None:
    net = LeanVAE(l_dim=8, h_dim=16)
    x = array("x", (1, 3, 21, 32, 40), 0.3)
    state: dict = {}
    pieces = [net.encode(x[:, :, a:b], state, first=a == 0) for a, b in ((0, 5), (5, 9), (9, 21))]
    z = net.encode(x)
    torch.testing.assert_close(torch.cat(pieces, 2), z, atol=0, rtol=0)
    state = {}
    pieces = [net.decode(z[:, :, a:b], state, first=a == 0) for a, b in ((0, 1), (1, 4), (4, 6))]
    torch.testing.assert_close(torch.cat(pieces, 2), net.decode(z), atol=1e-6, rtol=0)


def test_loading_says_what_does_not_fit() -> None:
    net = LeanVAE(l_dim=8, h_dim=16)
    tensors = dict(net.state_dict())
    tensors["latent_bottleneck.phi"] = torch.zeros(3, 3)
    tensors["surplus"] = torch.zeros(1)
    del tensors["latent_bottleneck.Q"]
    before = net.latent_bottleneck.phi.clone()
    with pytest.raises(WeightsError, match=r"(?s)latent_bottleneck\.Q.*surplus|surplus.*latent_bottleneck\.Q"):
        load_published(net, tensors)
    torch.testing.assert_close(net.latent_bottleneck.phi, before)  # nothing half-loaded
