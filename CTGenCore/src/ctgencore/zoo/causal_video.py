"""WF-VAE: rows and their networks."""

from __future__ import annotations

from .rows import CodecRow, NetworkRow, WeightFile

_WFVAE_S = {"latent_dim": 8, "base_channels": 128, "encoder_energy_flow_hidden_size": 64}
_WFVAE_TINY = {
    "latent_dim": 4,
    "base_channels": 4,
    "encoder_num_resblocks": 1,
    "encoder_energy_flow_hidden_size": 4,
    "decoder_num_resblocks": 1,
    "decoder_energy_flow_hidden_size": 4,
}

NETWORKS: dict[str, NetworkRow] = {
    "wfvae_L16": NetworkRow(cls="wfvae:WFVAE", tiny=_WFVAE_TINY),
    "wfvae_S8": NetworkRow(cls="wfvae:WFVAE", config=_WFVAE_S, tiny=_WFVAE_TINY),
    # As Open-Sora-Plan 1.3 published it (its config.json): two residual blocks where the code has one by default.
    "wfvae_S8_released": NetworkRow(
        cls="wfvae:WFVAE", config={**_WFVAE_S, "connect_res_layer_num": 2}, tiny=_WFVAE_TINY
    ),
}

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="wfvae-l",
            title="WF-VAE-L",
            description="Wavelet-flow video VAE; streams exactly.",
            codec="wfvae:WFVAECodec",
            network="wfvae_L16",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=317_081_372,
            tested="golden",
            weights=(WeightFile(filename="diffusion_pytorch_model.safetensors", repo="chestnutlzj/WF-VAE-L-16Chn"),),
            source="PKU-YuanGroup/WF-VAE",
        ),
        CodecRow(
            name="wfvae-s",
            title="WF-VAE-S",
            description="Open-Sora-Plan 1.3's small one; streams exactly.",
            codec="wfvae:WFVAECodec",
            network="wfvae_S8_released",
            stride_zyx=(4, 8, 8),
            latent_channels=8,
            parameters=147_347_788,
            tested="contract",
            weights=(WeightFile(filename="vae/merged.ckpt", repo="LanguageBind/Open-Sora-Plan-v1.3.0"),),
            license="MIT",
            source="PKU-YuanGroup/Open-Sora-Plan (its authors call it distilled and prefer others)",
        ),
    )
}
