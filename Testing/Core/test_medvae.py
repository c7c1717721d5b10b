"""MedVAE: names, and a second writing of it from torch's functions. Nothing was compared with the original."""

from __future__ import annotations

import ast

import pytest
import torch
import torch.nn.functional as F
from ctgencore.checkpoint import load_published
from ctgencore.zoo import build_network
from test_networks import GOLDEN, array, fill
from torch import Tensor, nn


def small(name: str, levels: int) -> nn.Module:
    net = build_network(name, widths=(4, 8, 8, 4)[:levels], blocks=1, norm_groups=2)
    tensors = {key: fill(key, tuple(value.shape)) for key, value in net.state_dict().items()}
    load_published(net, tensors | {"loss.logvar": torch.zeros(())})  # as in a training checkpoint
    return net


def test_names_and_shapes_of_the_assumed_sizes() -> None:
    lines = (GOLDEN / "medvae_4_1_3d_assumedcfg.keys.txt").read_text().splitlines()
    names = {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines[1:])}
    with torch.device("meta"):
        net = build_network("medvae_4x")
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == names


class Written:
    """The network as a program over its tensors."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    def conv(self, x: Tensor, name: str, **options: int) -> Tensor:
        return F.conv3d(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], **options)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """Group norm of two groups, by hand."""
        groups = x.reshape(len(x), 2, -1)
        scaled = (groups - groups.mean(-1, keepdim=True)) / (groups.var(-1, keepdim=True, correction=0) + 1e-6).sqrt()
        weight, bias = (self.tensors[f"{name}.{kind}"].reshape(-1, 1, 1, 1) for kind in ("weight", "bias"))
        return scaled.reshape(x.shape) * weight + bias

    def block(self, x: Tensor, name: str) -> Tensor:
        h = x
        for i in (1, 2):
            h = self.norm(h, f"{name}.norm{i}")
            h = self.conv(h * torch.sigmoid(h), f"{name}.conv{i}", padding=1)
        return h + (self.conv(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in self.tensors else x)

    def middle(self, x: Tensor, side: str) -> Tensor:
        x = self.block(x, f"{side}.mid.block_1")
        h = self.norm(x, f"{side}.mid.attn_1.norm")
        q, k, v = (self.conv(h, f"{side}.mid.attn_1.{part}").flatten(2) for part in "qkv")
        mixed = torch.einsum("bij,bcj->bci", (torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1), v)
        x = x + self.conv(mixed.reshape(x.shape), f"{side}.mid.attn_1.proj_out")
        return self.block(x, f"{side}.mid.block_2")

    def end(self, x: Tensor, side: str) -> Tensor:
        return self.conv(F.silu(self.norm(x, f"{side}.norm_out")), f"{side}.conv_out", padding=1)

    def encode(self, x: Tensor, levels: int) -> tuple[Tensor, Tensor]:
        x = self.conv(x, "encoder.conv_in", padding=1)
        for level in range(levels):
            x = self.block(x, f"encoder.down.{level}.block.0")
            if level < levels - 1:
                x = F.pad(x, (0, 1, 0, 1, 0, 1))
                x = self.conv(x, f"encoder.down.{level}.downsample.conv", stride=2)
        moments = self.conv(self.end(self.middle(x, "encoder"), "encoder"), "quant_conv")
        return moments[:, :1], (0.5 * moments[:, 1:]).exp()

    def decode(self, z: Tensor, levels: int) -> Tensor:
        x = self.conv(self.conv(z, "post_quant_conv"), "decoder.conv_in", padding=1)
        x = self.middle(x, "decoder")
        for level in reversed(range(levels)):
            for i in range(2):
                x = self.block(x, f"decoder.up.{level}.block.{i}")
            if level:
                for axis in (2, 3, 4):
                    x = x.repeat_interleave(2, axis)
                x = self.conv(x, f"decoder.up.{level}.upsample.conv", padding=1)
        return self.end(x, "decoder")


@pytest.mark.parametrize(("name", "levels"), [("medvae_4x", 3), ("medvae_8x", 4)])
@torch.inference_mode()
def test_it_equals_a_second_writing(name: str, levels: int) -> None:
    net = small(name, levels)
    written = Written(net.state_dict())
    x = array("x", (2, 1, 16, 24, 16), 0.5)
    mean, deviation = net.moments(x)
    stride = 2 ** (levels - 1)
    assert mean.shape == (2, 1, 16 // stride, 24 // stride, 16 // stride)
    expected = written.encode(x, levels)
    torch.testing.assert_close(mean, expected[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation, expected[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(net.decode(mean), written.decode(mean, levels), atol=1e-4, rtol=1e-4)
