"""TAEHV, tiny autoencoders of video latents: rows and their networks.

Left out: taehv1.5 (HunyuanVideo 1.5), of whose network only the patch size is known here, and the "super" decoder.
"""

from __future__ import annotations

from .rows import CodecRow, NetworkRow, WeightFile

_TINY = {"latent_channels": 4, "width": 8, "blocks": 1}

NETWORKS: dict[str, NetworkRow] = {
    "taew2.1": NetworkRow(cls="taehv:TAEHV", tiny=_TINY),
    "taew2.2": NetworkRow(cls="taehv:TAEHV", config={"latent_channels": 48, "patch_size": 2}, tiny=_TINY),
    "taeltx": NetworkRow(
        cls="taehv:TAEHV",
        config={"latent_channels": 128, "patch_size": 4, "time_pool": (2, 2, 2)},
        tiny=_TINY,
    ),
}

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="taew2.1",
            title="TAEW 2.1 (tiny WAN 2.1 autoencoder)",
            description="WAN 2.1's latents from a small network, practical on a CPU; exact streaming and tiles.",
            codec="taehv:TAEHVCodec",
            network="taew2.1",
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=11_315_539,
            tested="golden",
            weights=(WeightFile(filename="taew2_1.pth"),),
            license="MIT",
            source="github.com/madebyollin/taehv",
        ),
        CodecRow(
            name="taew2.2",
            title="TAEW 2.2 (tiny WAN 2.2 autoencoder)",
            description="WAN 2.2's latents from a small network; fast on a CPU.",
            codec="taehv:TAEHVCodec",
            network="taew2.2",
            stride_zyx=(4, 16, 16),
            latent_channels=48,
            parameters=11_418_108,
            tested="golden",
            weights=(WeightFile(filename="taew2_2.pth"),),
            license="MIT",
            source="github.com/madebyollin/taehv",
        ),
        CodecRow(
            name="taeltx",
            title="TAELTX-2 (tiny LTX-2 autoencoder)",
            description="LTX-2's latents from a small network; the fastest and coarsest.",
            codec="taehv:TAEHVCodec",
            network="taeltx",
            stride_zyx=(8, 32, 32),
            latent_channels=128,
            parameters=11_759_728,
            tested="golden",
            weights=(WeightFile(filename="taeltx_2.pth"),),
            license="MIT",
            source="github.com/madebyollin/taehv",
        ),
    )
}
