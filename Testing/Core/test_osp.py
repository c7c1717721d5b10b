"""OD-VAE: published names, reference outputs of the original, and what its paddings promise."""

from __future__ import annotations

import ast
import json

import pytest
import torch
from ctgencore.checkpoint import load_published
from ctgencore.zoo import build_network
from diffusers import AutoencoderKL
from test_cvvae import SMALL, image_key, image_weight
from test_networks import GOLDEN, array, assert_matches, fill, filled
from torch import nn

NAME = "osp_odvae_v12"
NUMBERS = json.loads((GOLDEN / "osp.json").read_text())[NAME]


def small() -> nn.Module:
    net = build_network(NAME, **SMALL)
    tensors = {key: fill(key, tuple(value.shape)) for key, value in net.state_dict().items()}
    load_published(net, tensors | {"loss.logvar": torch.zeros(())})  # as in a training checkpoint
    return net


def test_published_names_and_shapes() -> None:
    lines = (GOLDEN / f"{NAME}.keys.txt").read_text().splitlines()
    published = {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines[1:])}
    with torch.device("meta"):
        net = build_network(NAME)
    assert {key: tuple(value.shape) for key, value in net.state_dict().items()} == published
    assert sum(p.numel() for p in net.parameters()) == NUMBERS["n_parameters"]


@pytest.mark.heavy
@torch.inference_mode()
def test_it_equals_the_original() -> None:
    net = filled(NAME)
    assert_matches(net.encode(array(NUMBERS["x"], NUMBERS["input_shape"], 0.5)), NUMBERS["encode"])
    assert_matches(net.decode(array(NUMBERS["z"], NUMBERS["encode"]["shape"], 1.0)), NUMBERS["decode"])


@torch.inference_mode()
def test_a_still_scene_stays_still() -> None:
    """Frames before the first are its copies, and a norm over equal frames is the norm of one."""
    net = small()
    x = array("x", (1, 3, 1, 16, 24), 0.5)
    z = net.encode(x)
    torch.testing.assert_close(net.encode(x.expand(-1, -1, 17, -1, -1)), z.expand(-1, -1, 5, -1, -1), atol=1e-4, rtol=0)
    y = net.decode(z)
    assert y.shape == x.shape
    torch.testing.assert_close(net.decode(z.expand(-1, -1, 5, -1, -1)), y.expand(-1, -1, 17, -1, -1), atol=1e-4, rtol=0)


@torch.inference_mode()
def test_one_frame_is_what_an_image_autoencoder_makes_of_it() -> None:
    net = small()
    image = AutoencoderKL(
        block_out_channels=SMALL["widths"],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    ).eval()
    weights = {key.replace(".conv.", ".") if "sample" not in key else key: v for key, v in net.state_dict().items()}
    weights = {key.replace(".conv.conv.", ".conv."): value for key, value in weights.items()}
    for module in (image.encoder, image.quant_conv):
        prefix = "encoder." if module is image.encoder else "quant_conv."
        renamed = {image_key(k.removeprefix(prefix)): v for k, v in weights.items() if k.startswith(prefix)}
        module.load_state_dict({key: image_weight(key, value) for key, value in renamed.items()})
    x = array("x", (1, 3, 1, 32, 48), 0.5)
    expected = image.encode(x[:, :, 0]).latent_dist
    mean, deviation = net.moments(x)
    torch.testing.assert_close(mean[:, :, 0], expected.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(deviation[:, :, 0], expected.std, atol=1e-4, rtol=1e-4)
