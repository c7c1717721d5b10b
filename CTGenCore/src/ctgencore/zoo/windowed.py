"""Autoencoders whose norms pool over time, with networks of our own: they see blended windows along Z."""

from __future__ import annotations

from .rows import CodecRow, NetworkRow, WeightFile

_TINY = {"widths": (2, 2, 2, 2), "blocks": 1, "norm_groups": 2}
_MEDVAE_TINY = {"widths": (2, 2, 2), "blocks": 1, "norm_groups": 2}
_CVVAE_SD3 = {"sd3": True, "latent_channels": 16, "latents_std": (1.0,)}

NETWORKS: dict[str, NetworkRow] = {
    "cvvae_4z": NetworkRow(cls="cvvae:CVVAE", tiny=_TINY),
    "cvvae_sd3_16z": NetworkRow(cls="cvvae:CVVAE", config=_CVVAE_SD3, tiny={**_TINY, "latent_channels": 4}),
    "osp_odvae_v12": NetworkRow(cls="osp:ODVAE", tiny=_TINY),
    "medvae_4x": NetworkRow(cls="medvae:MedVAE", tiny=_MEDVAE_TINY),
    "medvae_8x": NetworkRow(
        cls="medvae:MedVAE", config={"widths": (128, 256, 512, 512)}, tiny={**_MEDVAE_TINY, "widths": (2, 2, 2, 2)}
    ),
}

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="cvvae-4z",
            title="CV-VAE",
            description="Video VAE with Stable Diffusion 2's latents: the paper's. Wants a GPU.",
            codec="cvvae:CVVAECodec",
            network="cvvae_4z",
            stride_zyx=(4, 8, 8),
            latent_channels=4,
            parameters=182_446_475,
            tested="golden",
            weights=(WeightFile(filename="vae3d/diffusion_pytorch_model.safetensors", repo="AILab-CVC/CV-VAE"),),
            license="none published",
            source="AILab-CVC/CV-VAE",
        ),
        CodecRow(
            name="cvvae-sd3-16z",
            title="CV-VAE SD3",
            description="Video VAE with Stable Diffusion 3's latents.",
            codec="cvvae:CVVAECodec",
            network="cvvae_sd3_16z",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=181_892_515,
            tested="golden",
            weights=(WeightFile(filename="vae3d_sd3/diffusion_pytorch_model.safetensors", repo="AILab-CVC/CV-VAE"),),
            license="none published",
            source="AILab-CVC/CV-VAE",
        ),
        CodecRow(
            name="medvae-4x",
            title="MedVAE 3D 4x",
            description="A VAE trained on CT and MR; sizes and order are assumed, never compared with the original.",
            codec="medvae:MedVAECodec",
            network="medvae_4x",
            stride_zyx=(4, 4, 4),
            latent_channels=1,
            parameters=161_001_358,
            tested="contract",
            weights=(WeightFile(filename="model_weights/vae_4x_1c_3D.ckpt", repo="stanfordmimi/MedVAE"),),
            license="MIT",
            source="StanfordMIMI/MedVAE",
        ),
        CodecRow(
            name="medvae-8x",
            title="MedVAE 3D 8x",
            description="As medvae-4x, coarser; sizes and order are assumed, never compared with the original.",
            codec="medvae:MedVAECodec",
            network="medvae_8x",
            stride_zyx=(8, 8, 8),
            latent_channels=1,
            parameters=245_952_398,
            tested="contract",
            weights=(WeightFile(filename="model_weights/vae_8x_1c_3D.ckpt", repo="stanfordmimi/MedVAE"),),
            license="MIT",
            source="StanfordMIMI/MedVAE",
        ),
        CodecRow(
            name="osp",
            title="Open-Sora-Plan OD-VAE 1.2",
            description="Video VAE of Open-Sora-Plan 1.2. Wants a GPU.",
            codec="osp:ODVAECodec",
            network="osp_odvae_v12",
            stride_zyx=(4, 8, 8),
            latent_channels=4,
            parameters=239_189_991,
            tested="golden",
            weights=(
                WeightFile(
                    filename="vae/diffusion_pytorch_model.safetensors",
                    also=("checkpoint.ckpt",),
                    repo="LanguageBind/Open-Sora-Plan-v1.2.0",
                ),
            ),
            license="MIT",
            source="PKU-YuanGroup/Open-Sora-Plan",
        ),
    )
}
