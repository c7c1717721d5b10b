"""CV-VAE: published names, reference outputs of the original, and what its paddings promise."""

from __future__ import annotations

import ast
import json

import pytest
import torch
from ctgencore.zoo import build_network
from diffusers import AutoencoderKL
from test_networks import GOLDEN, array, assert_matches, fill, filled
from torch import Tensor, nn

NUMBERS = json.loads((GOLDEN / "cvvae.json").read_text())
NAMES = list(NUMBERS)
SMALL = {"widths": (4, 8, 8, 16), "blocks": 1, "norm_groups": 2, "latent_channels": 4}


def small(name: str) -> nn.Module:
    net = build_network(name, **SMALL)
    for key, parameter in net.named_parameters():
        parameter.data = fill(key, tuple(parameter.shape))
    return net


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
    net, numbers = filled(name), NUMBERS[name]
    assert_matches(net.encode(array(numbers["x"], numbers["input_shape"], 0.5)), numbers["encode"])
    assert_matches(net.decode(array(numbers["z"], numbers["encode"]["shape"], 1.0)), numbers["decode"])


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_a_still_scene_stays_still(name: str) -> None:
    """Frames before the first are its copies, and a norm over equal frames is the norm of one."""
    net = small(name)
    x = array("x", (1, 3, 1, 16, 24), 0.5)
    z = net.encode(x)
    torch.testing.assert_close(net.encode(x.expand(-1, -1, 17, -1, -1)), z.expand(-1, -1, 5, -1, -1), atol=1e-4, rtol=0)
    assert net.decode(z.expand(-1, -1, 5, -1, -1)).shape == (1, 3, 17, 16, 24)


def image_key(key: str) -> str:
    """The name in diffusers' image autoencoder of a tensor of the encoder."""
    for old, new in (
        ("down.", "down_blocks."),
        (".block.", ".resnets."),
        (".downsample.", ".downsamplers.0."),
        ("nin_shortcut", "conv_shortcut"),
        ("mid.block_1", "mid_block.resnets.0"),
        ("mid.block_2", "mid_block.resnets.1"),
        ("mid.attn_1.norm", "mid_block.attentions.0.group_norm"),
        ("mid.attn_1.proj_out", "mid_block.attentions.0.to_out.0"),
        ("mid.attn_1.", "mid_block.attentions.0.to_"),
        ("norm_out", "conv_norm_out"),
    ):
        key = key.replace(old, new)
    return key


def image_weight(key: str, weight: Tensor) -> Tensor:
    """Kernels that see copies of one frame add up to a 2D kernel."""
    flat = weight.sum(2) if weight.ndim == 5 else weight
    return flat.flatten(1) if "attentions" in key and weight.ndim > 1 else flat


@torch.inference_mode()
def test_one_frame_is_what_an_image_autoencoder_makes_of_it() -> None:
    net = small("cvvae_4z")
    image = AutoencoderKL(
        block_out_channels=SMALL["widths"],
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        use_quant_conv=False,
        use_post_quant_conv=False,
    ).eval()
    renamed = {image_key(key): value for key, value in net.encoder.state_dict().items()}
    image.encoder.load_state_dict({key: image_weight(key, value) for key, value in renamed.items()})
    x = array("x", (1, 3, 1, 32, 48), 0.5)
    expected = image.encode(x[:, :, 0]).latent_dist
    mean, deviation = net.moments(x)
    torch.testing.assert_close(mean[:, :, 0], expected.mean, atol=1e-3, rtol=1e-3)  # their norms' epsilons differ
    torch.testing.assert_close(deviation[:, :, 0], expected.std, atol=1e-3, rtol=1e-3)
