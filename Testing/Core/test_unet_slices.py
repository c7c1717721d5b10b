"""The slice U-Net equals the published one, and works at any size."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from ctgencore.errors import InputError
from ctgencore.networks.unet_slices import SliceConv, SliceUNet, timestep_embedding
from ctgencore.zoo import NETWORKS, build_network
from test_networks import GOLDEN, array, assert_matches, fill
from torch import Tensor

NUMBERS = json.loads((GOLDEN / "foundation.json").read_text())
TINY = {**NETWORKS["foundation-unet"].tiny, "in_channels": 8, "out_channels": 4}


def tiny(*, as_started: bool = False, **config: object) -> SliceUNet:
    """A small network; filled, because one fresh from its constructor gives zero."""
    torch.manual_seed(0)
    net = build_network("foundation-unet", **TINY | config)
    assert isinstance(net, SliceUNet)
    if not as_started:
        net.load_state_dict({k: fill(k, tuple(v.shape)) for k, v in net.state_dict().items()})
    return net


def inputs(volumes: int, slices: int, rows: int = 8, columns: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    x = array("x", (volumes * slices, 8, rows, columns), 1)
    return x, torch.arange(volumes) * 321 + 7, array("context", (volumes, 5, 32), 1)


@pytest.fixture(scope="module")
def published() -> Iterator[SliceUNet]:
    """The full-size network with the weights of the reference numbers (2 GB, some seconds)."""
    with torch.device("meta"):
        net = build_network("foundation-unet")
    net.load_state_dict({k: fill(k, tuple(v.shape)) for k, v in net.state_dict().items()}, assign=True)
    assert isinstance(net, SliceUNet)
    yield net
    del net


@pytest.mark.parametrize(("slice_convs", "tensors", "numbers"), [(True, 792, 481863776), (False, 688, 420418000)])
def test_published_names_and_shapes(slice_convs: bool, tensors: int, numbers: int) -> None:
    lines = (GOLDEN / "foundation_unet.keys.txt").read_text().splitlines()
    rows = [line.split("\t") for line in lines if line[0] != "#"]
    wanted = {row[0]: tuple(ast.literal_eval(row[1])) for row in rows if slice_convs or len(row) == 2}
    with torch.device("meta"):
        net = build_network("foundation-unet", slice_convs=slice_convs)
    assert {k: tuple(v.shape) for k, v in net.state_dict().items()} == wanted
    assert len(wanted) == tensors
    assert sum(p.numel() for p in net.parameters()) == numbers


def test_slice_parameters_are_those_of_the_3d_stage() -> None:
    with torch.device("meta"):
        net = build_network("foundation-unet")
    assert isinstance(net, SliceUNet)
    found = list(net.slice_parameters())
    assert len(found) == 104
    assert {id(p) for p in found} == {id(p) for name, p in net.named_parameters() if "tem" in name}


def test_timestep_embedding_equals_the_original() -> None:
    assert_matches(timestep_embedding(torch.tensor([10, 500]), 224), NUMBERS["timestep_embedding_t10_500_dim224"])


@pytest.mark.parametrize(("padding", "entry"), [("zeros", "unet3d_zero"), ("reflect", "unet3d_reflect")])
@torch.inference_mode()
def test_3d_network_equals_the_original(published: SliceUNet, padding: str, entry: str) -> None:
    for module in published.modules():
        if isinstance(module, SliceConv):
            module.padding = padding
    output = published(array("x3d", (17, 32, 16, 16), 1), torch.tensor([321]), array("ctx3d", (1, 8, 768), 1))
    assert_matches(output, NUMBERS[entry])


@torch.inference_mode()
def test_2d_network_equals_the_original(published: SliceUNet) -> None:
    with torch.device("meta"):
        net = build_network("foundation-unet", slice_convs=False)
    tensors = published.state_dict()
    net.load_state_dict({name: tensors[name] for name in net.state_dict()}, assign=True)
    x, context = array("x2d", (2, 32, 16, 16), 1), array("ctx2d", (2, 8, 768), 1)
    assert_matches(net(x, torch.tensor([10, 500]), context, num_slices=1), NUMBERS["unet2d"])


def test_starts_at_zero_and_slice_by_slice() -> None:
    x, t, context = inputs(2, 3)
    fresh = tiny(as_started=True)
    assert not fresh(x, t, context, num_slices=3).any()
    for padding in ("zeros", "reflect"):
        deep, flat = tiny(slice_padding=padding), tiny(slice_convs=False)
        start = tiny(as_started=True).state_dict()
        deep.load_state_dict({k: start[k] if "temporal_conv" in k else v for k, v in deep.state_dict().items()})
        each = (x, t.repeat_interleave(3), context.repeat_interleave(3, dim=0))
        torch.testing.assert_close(deep(x, t, context, num_slices=3), flat(*each, num_slices=1))


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
def test_slice_convolution_is_a_convolution_along_the_slices(padding: str) -> None:
    layer = SliceConv(4, padding)
    torch.nn.init.normal_(layer.temporal_conv.weight)
    torch.nn.init.normal_(layer.temporal_conv.bias)
    for slices in (1, 2, 5):
        x = array("x", (2 * slices, 4, 3, 6), 1)
        sequence = x.reshape(2, slices, 4, 18).permute(0, 3, 2, 1).reshape(36, 4, slices)
        mode = {"zeros": "constant", "reflect": "reflect" if slices > 1 else "replicate"}[padding]
        wanted = layer.temporal_conv(torch.nn.functional.pad(sequence, (1, 1), mode=mode))
        wanted = wanted.reshape(2, 18, 4, slices).permute(0, 3, 2, 1).reshape(x.shape)
        for layout in (torch.contiguous_format, torch.channels_last):
            given = x.to(memory_format=layout)
            torch.testing.assert_close(layer(given, slices), wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_volumes_do_not_mix_and_slices_do() -> None:
    net = tiny()
    x, t, context = inputs(2, 3)
    both = net(x, t, context, num_slices=3)
    for volume in range(2):
        own = slice(3 * volume, 3 * volume + 3)
        alone = net(x[own], t[volume : volume + 1], context[volume : volume + 1], num_slices=3)
        torch.testing.assert_close(both[own], alone, atol=1e-4, rtol=1e-4)
    x[0] += 1
    changed = net(x, t, context, num_slices=3)
    assert (changed[1] - both[1]).abs().max() > 1e-3
    torch.testing.assert_close(changed[3:], both[3:], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_times_and_contexts_per_volume_or_per_slice_are_the_same() -> None:
    net = tiny()
    x, t, context = inputs(2, 3)
    per_slice = (t.repeat_interleave(3), context.repeat_interleave(3, dim=0))
    wanted = net(x, t, context, num_slices=3)
    torch.testing.assert_close(net(x, *per_slice, num_slices=3), wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("padding", ["zeros", "reflect"])
@pytest.mark.parametrize("slices", [1, 2, 3, 18])
@torch.inference_mode()
def test_any_number_of_slices(padding: str, slices: int) -> None:
    x, t, context = inputs(1, slices)
    output = tiny(slice_padding=padding)(x, t, context, num_slices=slices)
    assert output.shape == (slices, 4, 8, 12)
    assert output.isfinite().all()


@pytest.mark.parametrize("size", [(1, 1), (7, 9), (8, 11), (3, 16)])
@torch.inference_mode()
def test_any_size_in_plane(size: tuple[int, int]) -> None:
    net = tiny(multipliers=(1, 2, 2), attention_levels=(1, 2))
    x, t, context = inputs(1, 2, *size)
    output = net(x, t, context, num_slices=2)
    assert output.shape == (2, 4, *size)
    grown = torch.nn.functional.pad(x, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
    assert grown.shape[-2] % 4 == grown.shape[-1] % 4 == 0
    torch.testing.assert_close(net(grown, t, context, num_slices=2)[..., : size[0], : size[1]], output)


def test_checkpointing_changes_no_gradient() -> None:
    x, t, context = inputs(1, 3)
    gradients = []
    for checkpointing in (False, True):
        net = tiny().train()
        if checkpointing:
            net.enable_gradient_checkpointing()
            assert net.gradient_checkpointing
        net(x, t, context, num_slices=3).square().mean().backward()
        gradients.append([p.grad for p in net.parameters()])
    assert all(g is not None and g.any() for g in gradients[0])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, again)


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    net = tiny(slice_padding="reflect")
    net.save_pretrained(tmp_path)
    again = SliceUNet.from_pretrained(tmp_path)
    assert again.config.slice_padding == "reflect"
    x, t, context = inputs(1, 3)
    torch.testing.assert_close(again(x, t, context, num_slices=3), net(x, t, context, num_slices=3))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"slice_padding": "circular"}, "slice_padding must be one of zeros, reflect; got 'circular'"),
        ({"channels": 20}, "divisible by groups=8"),
        ({"head_width": 24}, "divisible by head_width=24"),
        ({"attention_levels": (2,)}, "attention_levels must be among 0..1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(config: dict, words: str) -> None:
    with pytest.raises(InputError) as caught:
        tiny(as_started=True, **config)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_slices": 4}, r"got \(6, 8, 8, 12\) with num_slices=4"),
        ({"num_slices": 0}, "num_slices=0"),
        ({"x": torch.zeros(6, 9, 8, 8)}, r"x must be \(volumes \* num_slices, 8, H, W\)"),
        ({"timesteps": torch.zeros(3)}, "timesteps must have 6 or 2 items"),
        ({"context": torch.zeros(2, 5, 31)}, r"context must be \(6 or 2, L, 32\)"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change: dict, words: str) -> None:
    x, t, context = inputs(2, 3)
    with pytest.raises(InputError, match=words):
        tiny()(**{"x": x, "timesteps": t, "context": context, "num_slices": 3} | change)
