"""TAEHV: published names, reference outputs of the originals, its reach in time and in plane."""

from __future__ import annotations

import ast
import json

import numpy as np
import pytest
import torch
from contract.conftest import tiny_codec
from ctgencore.checkpoint import load_published
from ctgencore.codecs.base import SlabPlan
from ctgencore.intensity import WINDOWS
from ctgencore.networks.taehv import TAEHV
from ctgencore.zoo import NETWORKS, build_network
from test_networks import GOLDEN, array, assert_matches, filled
from torch import Tensor

NUMBERS = json.loads((GOLDEN / "taehv.json").read_text())
NAMES = {"taew2.1": "taew2_1", "taew2.2": "taew2_2", "taeltx": "taeltx"}
WIDE = WINDOWS["wide"]


def tiny(name: str, **config: int) -> TAEHV:
    torch.manual_seed(0)
    net = build_network(name, **{**NETWORKS[name].tiny, **config})
    assert isinstance(net, TAEHV)
    return net


@pytest.mark.parametrize("name", NAMES)
def test_published_names_and_shapes(name: str) -> None:
    lines = (GOLDEN / f"{NAMES[name]}.keys.txt").read_text().splitlines()
    published = {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines[1:])}
    with torch.device("meta"):
        net = build_network(name)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == published


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_it_equals_the_original(name: str) -> None:
    net, numbers = filled(name), NUMBERS[NAMES[name]]
    assert sum(p.numel() for p in net.parameters()) == numbers["n_parameters"]
    z = net.encode(array(numbers["x"], numbers["input_shape"], 0.5))
    assert_matches(z.transpose(1, 2), numbers["encode"])  # the original's latents are (B, T, C, H, W)
    z = array(numbers["z"], numbers["encode"]["shape"], 1.0).transpose(1, 2)
    assert_matches(net.decode(z).clamp(0, 1), numbers["decode"])


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_frame_by_frame_equals_all_at_once(name: str) -> None:
    net = tiny(name)
    step, edge = net.time_stride, net.space_stride
    x = array("x", (2, 3, 4 * step + 1, edge, 2 * edge), 0.5)  # two volumes: neither may see the other
    z = net.encode(x)
    assert z.shape == (2, 4, 5, 1, 2)
    torch.testing.assert_close(net.encode(x[1:]), z[1:], atol=1e-6, rtol=0)
    state: dict = {}
    parts = [net.encode(part, state) for part in x.split(step, dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), z, atol=1e-6, rtol=0)
    y = net.decode(z)
    assert y.shape == x.shape
    state = {}
    parts = [net.decode(part, state, first=i == 0) for i, part in enumerate(z.split(1, dim=2))]
    torch.testing.assert_close(torch.cat(parts, dim=2), y, atol=1e-6, rtol=0)
    assert all(frame.shape[0] == 2 for frame in state.values())  # one frame per volume, whatever the length


def support(output: Tensor, given: Tensor) -> tuple[int, int]:
    """First and last column of ``given`` that ``output`` depends on."""
    [gradient] = torch.autograd.grad(output.sum(), given, retain_graph=True)
    columns = gradient.abs().sum(dim=(0, 1, 2, 3)).nonzero().flatten()
    return int(columns[0]), int(columns[-1])


@pytest.mark.parametrize(("name", "blocks"), [("taew2.1", 1), ("taew2.1", 2), ("taew2.1", 3), ("taew2.2", 1)])
def test_the_halo_is_the_reach(name: str, blocks: int) -> None:
    """Neither less (tiles would not be exact) nor more (they would be wasted). All positive: nothing cancels."""
    net = tiny(name, width=1, blocks=blocks, latent_channels=1).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1 / parameter[0].numel())
    unit, halo = net.space_stride, net.halo
    center = halo + 1
    x = torch.ones(1, 3, 4, unit, (2 * center + 1) * unit, dtype=torch.float64, requires_grad=True)
    first, last = support(net.encode(x)[..., center], x)
    assert max(center - first // unit, last // unit - center) == halo
    z = torch.ones(1, 1, 1, 1, 2 * center + 1, dtype=torch.float64, requires_grad=True)
    first, last = support(net.decode(z)[..., center * unit : (center + 1) * unit], z)
    assert max(center - first, last - center) == halo


@pytest.mark.parametrize("name", NAMES)
def test_surplus_time_kernels_are_cut(name: str) -> None:
    net = tiny(name, blocks=3)
    tensors = dict(net.state_dict())
    published = dict(tensors)
    for grow in ("decoder.7", "decoder.13", "decoder.19"):
        kernel = published[f"{grow}.conv.weight"]
        published[f"{grow}.conv.weight"] = torch.cat((torch.full_like(kernel, 9.0), kernel))
    load_published(net, published)
    assert all(torch.equal(value, tensors[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_the_codec_reads_ahead(name: str) -> None:
    """A slab's latents have seen slices of the next one, and its slices are those of the whole volume."""
    codec, net = tiny_codec(name, grey=False), tiny(name)
    step, edge = net.time_stride, net.space_stride
    for size in (1, 2, step, step + 1, step + 2, 3 * step + 1, 4 * step):
        hu = np.random.default_rng(size).uniform(-1000, 1000, (size, edge, edge)).astype(np.float32)
        frames = 1 + -(-(size - 1) // step)
        filled_up = np.pad(hu, ((0, frames * step - size), (0, 0), (0, 0)), mode="edge")
        x = (torch.from_numpy(filled_up) / 2000 + 0.5).expand(1, 3, -1, -1, -1)
        z = net.encode(x)
        torch.testing.assert_close(codec.encode(hu, WIDE), z, atol=1e-5, rtol=1e-5)
        y = net.decode(z).mean(dim=1)[0, :size].clamp(0, 1) * 2000 - 1000
        np.testing.assert_allclose(codec.reconstruct_hu(hu, WIDE), y, atol=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_five_slabs_equal_one(name: str) -> None:
    """Through the codec, with a last slab that lies partly behind the volume's end."""
    codec = tiny_codec(name)
    step, edge = codec.stride_zyx[:2]
    hu = np.random.default_rng(0).uniform(-1000, 1000, (4 * step + 3, edge, edge)).astype(np.float32)
    results = []
    for slices, slabs in ((8 * step, 1), (step, 5)):
        codec.plan = lambda shape, memory=None, slices=slices: SlabPlan(slices, None, 0)  # type: ignore[method-assign,misc]
        before = codec.tiles_run
        results.append(codec.reconstruct_hu(hu, WIDE))
        assert codec.tiles_run - before == 2 * slabs  # encode and decode of each
    np.testing.assert_allclose(results[1], results[0], atol=0.02)
