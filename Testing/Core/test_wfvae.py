"""WF-VAE: published names, reference outputs of the original, streaming with what the decoder holds back."""

from __future__ import annotations

import ast
import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from contract.conftest import tiny_codec
from ctgencore.codecs.base import SlabPlan
from ctgencore.intensity import WINDOWS
from ctgencore.networks.wfvae import Inverse3d, Wavelet2d, Wavelet3d
from ctgencore.zoo import CODECS, NETWORKS, build_network
from test_networks import GOLDEN, array, assert_matches, fill
from torch import nn

NUMBERS = json.loads((GOLDEN / "wfvae.json").read_text())
NAMES = list(NUMBERS)
WIDE = WINDOWS["wide"]


def tiny() -> nn.Module:
    torch.manual_seed(0)
    return build_network("wfvae_L16", **NETWORKS["wfvae_L16"].tiny)


@pytest.mark.parametrize("name", NAMES)
def test_published_names_and_shapes(name: str) -> None:
    lines = (GOLDEN / f"{name}.keys.txt").read_text().splitlines()
    published = {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines[1:])}
    with torch.device("meta"):
        net = build_network(name)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == published
    assert sum(p.numel() for p in net.parameters()) == NUMBERS[name]["n_parameters"]


@pytest.mark.heavy
@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_it_equals_the_original(name: str) -> None:
    """The reference filled parameters only: the buffers (inverse wavelets) stay as they are built."""
    net, numbers = build_network(name), NUMBERS[name]
    for key, parameter in net.named_parameters():
        parameter.copy_(fill(key, tuple(parameter.shape)))
    assert_matches(net.encode(array(numbers["x"], numbers["input_shape"], 0.5)), numbers["encode"])
    assert_matches(net.decode(array(numbers["z"], numbers["encode"]["shape"], 1.0)), numbers["decode"])


def test_wavelets_have_inverses() -> None:
    x = array("x", (2, 3, 9, 8, 12), 1)
    bands = Wavelet3d()(x, first=True)
    assert bands.shape == (2, 24, 5, 4, 6)
    torch.testing.assert_close(Inverse3d()(bands, first=True), x, atol=2e-3, rtol=0)  # 0.3536 is not quite sqrt(1/8)
    low = x[:, :, 1::2] + x[:, :, 2::2]
    low = low[..., 0::2, :] + low[..., 1::2, :]
    low = low[..., 0::2] + low[..., 1::2]
    torch.testing.assert_close(bands[:, :3, 1:], low * 0.3536)  # band by band, the low one first
    torch.testing.assert_close(Wavelet2d(inverse=True)(Wavelet2d()(x)), x)


@torch.inference_mode()
def test_streaming_is_exact() -> None:
    net = tiny()
    x = array("x", (2, 3, 29, 16, 24), 0.5)  # two volumes: neither may see the other
    z = net.encode(x)
    y = net.decode(z)
    assert (z.shape, y.shape) == ((2, 4, 8, 2, 3), x.shape)
    torch.testing.assert_close(net.encode(x[1:]), z[1:], atol=1e-6, rtol=0)
    for cuts in ((0, 1, 5, 9, 29), (0, 13, 17, 29)):
        state: dict = {}
        pieces = [net.encode(x[:, :, a:b], state, first=a == 0) for a, b in pairwise(cuts)]
        torch.testing.assert_close(torch.cat(pieces, 2), z, atol=1e-4, rtol=0)
    for cuts, lengths in (((0, 1, 2, 3, 8), [1, 2, 4, 22]), ((0, 4, 6, 8), [11, 8, 10]), ((0, 8), [29])):
        state = {}
        pieces = [net.decode(z[:, :, a:b], state, first=a == 0, last=b == 8) for a, b in pairwise(cuts)]
        assert [piece.shape[2] for piece in pieces] == lengths  # two slices are held back, but not of a first alone
        torch.testing.assert_close(torch.cat(pieces, 2), y, atol=1e-4, rtol=0)


@torch.inference_mode()
def test_nothing_looks_further_than_it_says() -> None:
    """The encoder is causal; a slice depends on its own latent and, if it is of the last two, on the one after it."""
    net = tiny()
    x = array("x", (1, 3, 17, 16, 16), 0.5)
    other = x.clone()
    other[:, :, 9:] += 1
    z, changed = net.encode(x), net.encode(other)
    torch.testing.assert_close(changed[:, :, :3], z[:, :, :3], atol=0, rtol=0)
    assert (changed[:, :, 3] - z[:, :, 3]).abs().max() > 1e-3
    y = net.decode(z)
    z[:, :, 3] += 1
    moved = (net.decode(z) - y).abs().amax(dim=(0, 1, 3, 4))
    assert (moved[:7] == 0).all()
    assert (moved[7:] > 1e-4).all()


def test_the_end_of_the_volume_is_the_networks_own() -> None:
    """Streamed slab by slab or decoded at once, the last slices come out, each at its place."""
    hu = np.random.default_rng(0).uniform(-1000, 1000, (17, 16, 24)).astype(np.float32)
    codec = tiny_codec("wfvae-l", grey=False)
    x = torch.from_numpy(hu / 1000)[None, None].expand(1, 3, -1, -1, -1)
    with torch.inference_mode():
        y = codec.network.decode(codec.network.encode(x)).mean(dim=1)[0].clamp(-1, 1).numpy() * 1000
    for slices in (4, 8, 16):
        codec.plan = lambda shape, memory=None, n=slices: SlabPlan(n, None, 0)
        done: list[int] = []
        out = codec.reconstruct_hu(hu, WIDE, progress=lambda a, _, done=done: done.append(a))
        np.testing.assert_allclose(out, y, atol=0.02)
        assert done == [*range(slices - 1, 15, slices), 17]


def test_sampling_draws_around_the_mean() -> None:
    codec = tiny_codec("wfvae-l")
    hu = np.random.default_rng(0).uniform(-1000, 1000, (9, 16, 16)).astype(np.float32)
    mean = codec.encode(hu, WIDE)
    codec.sample_seed = 3
    drawn = codec.encode(hu, WIDE)
    assert (drawn - mean).abs().max() > 1e-3
    torch.testing.assert_close(codec.encode(hu, WIDE), drawn, atol=0, rtol=0)


def test_the_released_small_one_has_two_blocks_where_the_reference_has_one() -> None:
    with torch.device("meta"):
        names = {n: set(build_network(n).state_dict()) for n in ("wfvae_S8", str(CODECS["wfvae-s"].network))}
    more = names["wfvae_S8_released"] - names["wfvae_S8"]
    assert {key.split(".")[1] for key in more} == {"connect_l1", "connect_l2"}
