"""From a finished run to the file that ships: half precision, and the statistics that scale its latents."""

from __future__ import annotations

from pathlib import Path

import torch

from ..checkpoint import write_safetensors
from ..codecs.leanvae import LeanVAECodec
from ..intensity import Window
from ..networks.leanvae import LeanVAE
from ..phantom import chest
from ..zoo import CODECS


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
    volume, _ = chest(seed=0)
    z = codec.encode(volume.voxels, Window.parse("wide"))
    std, mean = torch.std_mean(z, dim=(0, 2, 3, 4))
    return {name: [round(v, 4) for v in x.tolist()] for name, x in (("latents_mean", mean), ("latents_std", std))}
