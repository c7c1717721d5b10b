"""Codecs with networks of our own, and those without a network: rows and their networks."""

from __future__ import annotations

from .rows import CodecRow, NetworkRow, WeightFile

# The statistics are those that training/export.py printed: the latents of the procedural chest, seed 0, as it was drawn
# then. It has been drawn better since; they stay, because the embedded generator was trained with them.
# fmt: off
LEANVAE_EMBEDDED = {
    "channels": 1,
    "l_dim": 32,
    "h_dim": 96,
    "latents_mean": (-1.8822, -0.0131, -0.0011, -0.0041, -0.0444, 0.0081, 0.0044, 0.0003,
                     -0.0034, 0.0262, 0.0061, 0.0145, 0.0053, -0.0022, 0.0047, -0.0644),
    "latents_std": (1.833, 0.5941, 0.5486, 0.2798, 0.3541, 0.3393, 0.2271, 0.244,
                    0.4122, 0.3799, 0.2689, 0.2441, 0.2522, 0.2757, 0.3286, 0.2187),
}
# fmt: on
LEANVAE_TINY = {
    "l_dim": 8,
    "h_dim": 16,
    "sep_num_layer": 1,
    "fusion_num_layer": 1,
    "ista_layer_num": 1,
    "latent_dim": 4,
    "latents_mean": (0.1,) * 4,
    "latents_std": (2.0,) * 4,
}
WAN_TINY = {"base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "latents_mean": (0.1,) * 4, "latents_std": (2.0,) * 4}

NETWORKS: dict[str, NetworkRow] = {
    "leanvae": NetworkRow(cls="leanvae:LeanVAE", tiny=LEANVAE_TINY),
    "leanvae_16": NetworkRow(cls="leanvae:LeanVAE", tiny=LEANVAE_TINY),
    "leanvae_4": NetworkRow(cls="leanvae:LeanVAE", config={"latent_dim": 4}, tiny=LEANVAE_TINY),
    "embedded": NetworkRow(cls="leanvae:LeanVAE", config=LEANVAE_EMBEDDED, tiny=LEANVAE_TINY),
    "taef2": NetworkRow(cls="taef2:TinyFlux2", tiny={"dim": 8, "latent_channels": 4}),
    "wan2.1": NetworkRow(cls="wan:Wan", tiny=WAN_TINY),
    "wan2.2": NetworkRow(
        cls="wan:Wan",
        tiny=WAN_TINY,
        config={
            "base_dim": 160,
            "decoder_base_dim": 256,
            "z_dim": 48,
            "is_residual": True,
            "in_channels": 12,
            "out_channels": 12,
            "patch_size": 2,
            "latents_mean": (
                -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
                0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
                -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
                -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
            ),
            "latents_std": (
                0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
                0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
                0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
                0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
            ),
        },
    ),
}  # fmt: skip

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="embedded",
            title="Embedded (small LeanVAE)",
            description="The default: ships with CTGen, works offline, fast on a CPU. No medical image in training.",
            codec="leanvae:LeanVAECodec",
            network="embedded",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=2_561_492,
            tested="weights",
            weights=(WeightFile(filename="embedded_codec.safetensors", packaged=True),),
            source="trained by `ctgencore train embedded-codec`",
        ),
        CodecRow(
            name="leanvae",
            title="LeanVAE dim16",
            description="The VAE of the Foundation-VAE generator; exact streaming and tiles.",
            codec="leanvae:LeanVAECodec",
            network="leanvae",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=39_785_940,
            tested="golden",
            weights=(WeightFile(filename="LeanVAE-dim16.ckpt", repo="Yumic/LeanVAE"),),
            license="MIT",
            source="westlake-repl/LeanVAE",
        ),
        CodecRow(
            name="leanvae-4",
            title="LeanVAE dim4",
            description="As leanvae, with a quarter of its channels.",
            codec="leanvae:LeanVAECodec",
            network="leanvae_4",
            stride_zyx=(4, 8, 8),
            latent_channels=4,
            parameters=39_767_496,
            tested="golden",
            weights=(WeightFile(filename="LeanVAE-dim4.ckpt", repo="Yumic/LeanVAE"),),
            license="MIT",
            source="westlake-repl/LeanVAE",
        ),
        CodecRow(
            name="taef2",
            title="TAEF2 (tiny FLUX.2 autoencoder)",
            description="A natural-image VAE, slice by slice; practical on a CPU.",
            codec="taef2:TinyFlux2Codec",
            network="taef2",
            stride_zyx=(1, 8, 8),
            latent_channels=32,
            parameters=2_677_027,
            tested="golden",
            weights=(
                WeightFile(
                    filename="taef2_encoder.pth",
                    prefix="encoder.",
                    sha256="10a4e1021e89d7551eaf161352da8dbd0b1aa83872ae28b150c1df1ce2f147b6",
                ),
                WeightFile(
                    filename="taef2_decoder.pth",
                    prefix="decoder.",
                    sha256="0a44a31e1ae59eb9dbf9359d24942fd3ef5928162c1800d97a28c61d51be0ab5",
                ),
            ),
            license="MIT",
            source="github.com/madebyollin/taesd",
            is_2d=True,
        ),
        CodecRow(
            name="wan2.1",
            title="WAN 2.1 VAE",
            description="Video VAE of Wan2.1; streams exactly. Wants a GPU.",
            codec="wan:WanCodec",
            network="wan2.1",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=126_892_531,
            tested="golden",
            weights=(
                WeightFile(
                    filename="vae/diffusion_pytorch_model.safetensors",
                    also=("Wan2.1_VAE.pth",),
                    repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
                    convert="networks.wan:convert",
                ),
            ),
            source="Wan-Video/Wan2.1",
        ),
        CodecRow(
            name="wan2.2",
            title="WAN 2.2 VAE",
            description="Video VAE of Wan2.2-TI2V-5B. Wants a GPU.",
            codec="wan:WanCodec",
            network="wan2.2",
            stride_zyx=(4, 16, 16),
            latent_channels=48,
            parameters=704_688_668,
            tested="golden",
            weights=(
                WeightFile(
                    filename="vae/diffusion_pytorch_model.safetensors",
                    also=("Wan2.2_VAE.pth",),
                    repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
                    convert="networks.wan:convert",
                ),
            ),
            source="Wan-Video/Wan2.2",
        ),
        CodecRow(
            name="dct16",
            title="16 DCT coefficients",
            description="Baseline without a network: the 16 strongest of 256 DCT coefficients of each 4x8x8 block.",
            codec="dct:DCTCodec",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            tested="contract",
        ),
        CodecRow(
            name="identity",
            title="Identity",
            description="Changes nothing: for testing the way of the data.",
            codec="identity:IdentityCodec",
            stride_zyx=(1, 1, 1),
            latent_channels=1,
            tested="contract",
        ),
    )
}
