"""From a finished run to the files that ship: half precision, and what is needed to load them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import write_safetensors
from ..codecs.leanvae import LeanVAECodec
from ..errors import InputError
from ..intensity import Window
from ..networks.leanvae import LeanVAE
from ..networks.unet_slices import SliceUNet
from ..phantom import chest
from ..text.embedded import ReportEncoder
from ..zoo import CODECS
from .denoiser import Denoiser
from .generator_recipes import GeneratorRecipe

LARGEST_EXPORT = 8_000_000  # bytes of weights and vocabulary: they live in the repository


def export_codec(folder: Path, path: Path) -> dict[str, list[float]]:
    """Write the codec in ``folder`` (of :func:`ctgencore.training.loop.train_codec`) to ``path`` as fp16 safetensors.

    Returns:
        ``latents_mean`` and ``latents_std``, one number per channel, over the procedural chest: they belong in the
        network's row in :mod:`ctgencore.zoo`.
    """
    net = LeanVAE.from_pretrained(folder)
    write_safetensors(path, {name: tensor.half() for name, tensor in net.state_dict().items()}, {"format": "pt"})
    codec = LeanVAECodec(CODECS["embedded"], net)
    codec.latent_mean, codec.latent_std = (0.0,), (1.0,)
    z = codec.encode(chest(seed=0).ct.voxels, Window.parse("wide"))
    std, mean = torch.std_mean(z, dim=(0, 2, 3, 4))
    return {name: [round(v, 4) for v in x.tolist()] for name, x in (("latents_mean", mean), ("latents_std", std))}


def write_final(denoiser: Denoiser, recipe: GeneratorRecipe, folder: Path) -> None:
    """Write a trained denoiser: ``unet`` and, if it was trained along, ``text`` (both for ``from_pretrained``), and
    ``generator.json`` with what sampling must know.
    """
    denoiser.unet.save_pretrained(folder / "unet")
    if recipe.text == "embedded":
        denoiser.text.save_pretrained(folder / "text")
    facts: dict[str, Any] = {
        "recipe": recipe.name,
        "codec": recipe.codec,
        "conditions": asdict(recipe.conditions),
        "text": recipe.text,
        "prompt_format": recipe.prompt_format,
        "prediction": recipe.prediction,
        "plane_yx": recipe.plane_yx,
        "window_zyx": recipe.window_zyx,
        "dropout": asdict(recipe.dropout),
    }
    (folder / "generator.json").write_text(json.dumps(facts, indent=1))


def export_generator(folder: Path, path: Path) -> Path:
    """Write a generator with its own report encoder as one fp16 file, with its vocabulary beside it.

    Args:
        folder: ``final`` of a run of :func:`ctgencore.training.diffusion.train_generator`.
        path: a ``.safetensors`` file: U-Net tensors under ``unet.``, report encoder's under ``text.``; its metadata
            hold the JSON texts ``generator`` (what sampling must know), ``unet`` and ``text`` (constructor arguments).

    Returns:
        The vocabulary, one piece per line: ``path`` with ``.vocab.txt`` for its suffix.

    Raises:
        InputError: the files would be larger than 8 MB together, or the run's report encoder is not its own.
    """
    facts = json.loads((folder / "generator.json").read_text())
    if facts["text"] != "embedded":
        raise InputError(
            f"A generator that reads reports with {facts['text']} does not ship in one file. Use {folder} itself."
        )
    unet, text = SliceUNet.from_pretrained(folder / "unet"), ReportEncoder.from_pretrained(folder / "text")
    tensors = {f"unet.{name}": tensor.half() for name, tensor in unet.state_dict().items()}
    tensors |= {f"text.{name}": tensor.half() for name, tensor in text.state_dict().items()}
    text_config = _arguments(text.config)
    vocabulary = "".join(f"{piece}\n" for piece in text_config.pop("vocabulary"))
    size = sum(tensor.nbytes for tensor in tensors.values()) + len(vocabulary.encode())
    if size > LARGEST_EXPORT:
        raise InputError(
            f"Weights that ship are {LARGEST_EXPORT / 1e6:g} MB at most; these are {size / 1e6:.2f} MB. Train a "
            "smaller network."
        )
    metadata = {
        "format": "pt",
        "generator": json.dumps(facts),
        "unet": json.dumps(_arguments(unet.config)),
        "text": json.dumps(text_config),
    }
    write_safetensors(path, tensors, metadata)
    words = path.with_suffix(".vocab.txt")
    words.write_text(vocabulary, encoding="utf-8")
    return words


def _arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments, without what diffusers adds to them."""
    return {name: value for name, value in config.items() if not name.startswith("_")}
