"""From the checkpoint that a generator's authors publish to the tensors that its parts load.

Foundation-VAE publishes the checkpoints of its trainer. What is of use in one lies in four families: the denoiser, its
running average (2D stage only; names without dots), the text encoder and the VAE; the rest are tables of the noise
schedule. Here they become ``unet.``, ``text.`` and ``codec.``, as our own generators are stored.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..checkpoint import check_names, listed
from ..errors import WeightsError
from ..text.cxrbert import bert_tensors, build_bert
from ..zoo import CODECS, GeneratorRow, build_empty

UNET, AVERAGE, TEXT, CODEC = FAMILIES = (
    "model.diffusion_model.",
    "model_ema.",
    "text_transformer.",
    "first_stage_model.",
)
SCHEDULE = (
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "logvar",
)
CONVERTED = ("unet.", "text.", "codec.")
WORDS = "embeddings.word_embeddings.weight"
SLICE_CONV = ".temporal_conv."


def convert(row: GeneratorRow, tensors: Mapping[str, Tensor], *, average: bool = True) -> dict[str, Tensor]:
    """Take a published checkpoint's ``state_dict`` apart and check that nothing is missing.

    A checkpoint of the 2D stage gets slice convolutions that are the identity: the 3D network then equals the 2D one.

    Args:
        row: the generator it is of.
        tensors: under the names in the checkpoint, or already converted.
        average: take the running average of the denoiser where there is one.

    Returns:
        Tensors under ``unet.``, ``text.`` and, if the VAE is inside, ``codec.``.

    Raises:
        WeightsError: tensors are missing, of no known family, or do not fit the row's networks; they are listed.
    """
    if all(name.startswith(CONVERTED) for name in tensors):
        unet, text, codec = (_inside(tensors, prefix) for prefix in CONVERTED)
    else:
        unknown = sorted(name for name in tensors if name not in SCHEDULE and not name.startswith(FAMILIES))
        if unknown or not _inside(tensors, UNET):
            raise WeightsError(
                f"This is no checkpoint of a Foundation-VAE generator: {len(unknown)} tensors are of no known part "
                f"({listed(unknown) or 'none'}), {len(_inside(tensors, UNET))} of its denoiser ('{UNET}...')."
            )
        unet, text, codec = (_inside(tensors, prefix) for prefix in (UNET, TEXT, CODEC))
        averages = _inside(tensors, AVERAGE)
        if averages and average:
            unet = _averaged(unet, averages)
    text = bert_tensors(text)
    if WORDS not in text:
        raise WeightsError(f"The text encoder is missing: there is no '{TEXT}{WORDS}'.")
    with torch.device("meta"):
        check_names(build_bert(len(text[WORDS]), **row.text_config), text)
    network = build_empty(row.network, **row.network_config)
    if codec:
        check_names(build_empty(str(CODECS[row.codec].network)), codec)
    if not any(SLICE_CONV in name for name in unet):
        unet |= _identities(network)
    check_names(network, unet)
    parts = zip(CONVERTED, (unet, text, codec), strict=True)
    return {prefix + name: tensor for prefix, part in parts for name, tensor in part.items()}


def _averaged(unet: Mapping[str, Tensor], averages: Mapping[str, Tensor]) -> dict[str, Tensor]:
    given = averages.keys() - {"decay", "num_updates"}
    plain = {name: f"diffusion_model.{name}".replace(".", "") for name in unet}
    missing, surplus = sorted(set(plain.values()) - given), sorted(given - set(plain.values()))
    if missing or surplus:
        raise WeightsError(
            f"The running average does not fit the denoiser: {len(missing)} missing ({listed(missing) or 'none'}), "
            f"{len(surplus)} unexpected ({listed(surplus) or 'none'})."
        )
    return {name: averages[plain[name]] for name in unet}


def _identities(network: torch.nn.Module) -> dict[str, Tensor]:
    """Slice convolutions that change nothing, for every one of the network's."""
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items() if SLICE_CONV in name}
    return {
        name: torch.nn.init.dirac_(torch.empty(shape)) if len(shape) == 3 else torch.zeros(shape)
        for name, shape in shapes.items()
    }


def _inside(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
