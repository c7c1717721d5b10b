"""WAN's own forward: equal to diffusers' on the same weights, in slabs as in one piece, whatever the size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ctgencore.networks.wan import Wan
from ctgencore.networks.wan_blocks import FOUR, TWO, CausalConv, Filter, Step
from ctgencore.zoo import NETWORKS, build_network
from diffusers import AutoencoderKLWan
from torch import Tensor

WIDE = {
    "base_dim": 32,
    "decoder_base_dim": 32,
    "z_dim": 4,
    "num_res_blocks": 1,
}  # wide enough for time to be filtered


def config(name: str, **other: Any) -> dict[str, Any]:
    return {**NETWORKS[name].config, **NETWORKS[name].tiny, **other}


def pair(settings: dict[str, Any]) -> tuple[Wan, AutoencoderKLWan]:
    """Ours and theirs with the same random weights, gains of the norms included."""
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(**settings).eval()
    for name, parameter in theirs.named_parameters():
        if name.endswith("gamma"):
            parameter.data.uniform_(0.5, 1.5)
    ours = build_network("wan2.1", **settings)
    ours.load_state_dict(theirs.state_dict())
    assert isinstance(ours, Wan)
    return ours, theirs


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    """Within 1e-4 of the largest value."""
    assert ours.shape == theirs.shape
    assert float((ours - theirs).abs().max()) < 1e-4 * float(theirs.abs().max())


@pytest.fixture
def filters(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Outputs per filter of all that run."""
    seen: set[int] = set()
    run = CausalConv._filtered

    def spy(self: CausalConv, frames: Tensor, step: Step, way: Filter, out: Tensor | None) -> Tensor:
        seen.add(len(way.outputs))
        return run(self, frames, step, way, out)

    monkeypatch.setattr(CausalConv, "_filtered", spy)
    return seen


@pytest.mark.parametrize(
    ("settings", "shape", "filtered"),
    [
        (config("wan2.1"), (2, 3, 9, 16, 24), True),
        (config("wan2.2"), (1, 3, 13, 48, 80), True),  # odd latents
        (config("wan2.1", temperal_downsample=(True, True, False)), (1, 3, 5, 8, 8), False),
        (config("wan2.1", **WIDE), (1, 3, 9, 72, 56), True),
        (config("wan2.2", **WIDE), (2, 3, 13, 80, 48), True),
        (config("wan2.2", **{**WIDE, "decoder_base_dim": 48}), (1, 3, 1, 32, 32), False),  # one slice
    ],
    ids=["2.1", "2.2", "early", "2.1 wide", "2.2 wide", "slice"],
)
@torch.inference_mode()
def test_it_equals_diffusers(
    settings: dict[str, Any], shape: tuple[int, ...], filtered: bool, filters: set[int]
) -> None:
    ours, theirs = pair(settings)
    x = torch.rand(shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    posterior = theirs.encode(x).latent_dist
    mean, deviation = ours.moments(x)
    assert_equal(mean, posterior.mean)
    assert_equal(2 * deviation.log(), posterior.logvar)
    z = torch.randn(mean.shape, generator=torch.Generator().manual_seed(2))
    decoded = theirs.decode(z).sample
    assert float((decoded.abs() < 1).float().mean()) > 0.9  # the clamp hides little
    assert_equal(ours.decode(z).clamp(-1, 1), decoded)
    assert filters == ({4} if filtered else set())


@pytest.mark.parametrize("name", ["wan2.1", "wan2.2"])
def test_slabs_equal_the_whole(name: str, filters: set[int]) -> None:
    """And two streams at a time do not meet."""
    net = build_network(name, **config(name, **WIDE))
    x = torch.rand((1, 3, 21, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    cuts = [(0, 1), (1, 5), (5, 13), (13, 21)]
    state: dict = {}
    other: dict = {}
    parts = []
    for a, b in cuts:
        parts.append(net.encode(x[:, :, a:b], state, first=a == 0))
        net.encode(-x[:, :, a:b], other, first=a == 0)
    z = net.encode(x)
    assert_equal(torch.cat(parts, dim=2), z)
    state = {}
    parts = [net.decode(z[:, :, a:b], state, first=a == 0) for a, b in ((0, 2), (2, 3), (3, 6))]
    assert_equal(torch.cat(parts, dim=2), net.decode(z))
    assert 4 in filters


@pytest.mark.parametrize("way", [TWO, FOUR], ids=["two", "four"])
def test_the_filters_are_exact(way: Filter) -> None:
    rng = np.random.default_rng(0)
    d, g = rng.normal(size=len(way.inputs)), rng.normal(size=3)
    inputs, taps, outputs = (np.rint(m.double().numpy() * 24) / 24 for m in (way.inputs, way.taps, way.outputs))
    np.testing.assert_allclose(outputs @ ((taps @ g) * (inputs @ d)), np.correlate(d, g), rtol=1e-12)
    np.testing.assert_array_equal(outputs[:, 1], 1)  # a bias there reaches every output once


@pytest.mark.parametrize(("frames", "ran"), [(1, set()), (2, {2}), (3, set()), (4, {4}), (6, {2}), (8, {4})])
@torch.inference_mode()
def test_the_convolution_equals_torchs(frames: int, ran: set[int], filters: set[int]) -> None:
    torch.manual_seed(0)
    conv = CausalConv(32, 48)
    before, x, out = (torch.randn(n, 2, 17, 33, c) for n, c in ((2, 32), (frames, 32), (frames, 48)))
    wanted = F.conv3d(
        torch.cat((before, x)).permute(1, 4, 0, 2, 3).double(),
        conv.weight.double(),
        conv.bias.double(),
        padding=(0, 1, 1),
    )
    wanted = wanted.permute(2, 0, 3, 4, 1).float()
    state = {conv: before}
    assert_equal(conv(x, Step(state, first=False)), wanted)
    torch.testing.assert_close(state[conv], torch.cat((before, x))[-2:], atol=0, rtol=0)
    assert_equal(conv(x, Step({conv: before}, first=False), out=out.clone()) - out, wanted)
    assert filters == ran


def test_in_bfloat16_it_is_close() -> None:
    """The plain path: filtering is for float32 alone."""
    net = build_network("wan2.2", **config("wan2.2", **WIDE))
    x = torch.rand((1, 3, 5, 64, 64), generator=torch.Generator().manual_seed(1)) * 2 - 1
    z = net.encode(x)
    y = net.decode(z)
    net.to(torch.bfloat16)
    assert float((net.encode(x.bfloat16()).float() - z).abs().max()) < 0.1 * float(z.abs().max())
    assert float((net.decode(z.bfloat16()).float() - y).abs().max()) < 0.1 * float(y.abs().max())
