"""Autoencoders whose norms pool over time, with networks of our own: they see blended windows along Z."""

from __future__ import annotations

from .rows import CodecRow, NetworkRow, WeightFile

_TINY = {"widths": (4, 4, 4, 4), "blocks": 1, "norm_groups": 2}
_CVVAE_SD3 = {"sd3": True, "latent_channels": 16, "latents_std": (1.0,)}

NETWORKS: dict[str, NetworkRow] = {
    "cvvae_4z": NetworkRow(cls="cvvae:CVVAE", tiny=_TINY),
    "cvvae_sd3_16z": NetworkRow(cls="cvvae:CVVAE", config=_CVVAE_SD3, tiny={**_TINY, "latent_channels": 4}),
}

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="cvvae-4z",
            title="CV-VAE",
            description="Video VAE with Stable Diffusion 2's latents (182 M parameters), 4 channels per 4x8x8: the "
            "paper's. Wants a GPU.",
            codec="cvvae:CVVAECodec",
            network="cvvae_4z",
            weights=(WeightFile(filename="vae3d/diffusion_pytorch_model.safetensors", repo="AILab-CVC/CV-VAE"),),
            license="none published",
            source="AILab-CVC/CV-VAE",
        ),
        CodecRow(
            name="cvvae-sd3-16z",
            title="CV-VAE SD3",
            description="Video VAE with Stable Diffusion 3's latents (182 M parameters), 16 channels per 4x8x8. Wants a "
            "GPU.",
            codec="cvvae:CVVAECodec",
            network="cvvae_sd3_16z",
            weights=(WeightFile(filename="vae3d_sd3/diffusion_pytorch_model.safetensors", repo="AILab-CVC/CV-VAE"),),
            license="none published",
            source="AILab-CVC/CV-VAE",
        ),
    )
}
