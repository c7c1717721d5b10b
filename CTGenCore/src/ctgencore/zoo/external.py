"""Codecs that are another program: a user's own copy of the original, which CTGen may not or cannot contain."""

from __future__ import annotations

from .rows import CodecRow

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="videovae+",
            title="VideoVAE+ (your own copy)",
            description="The paper's video VAE (486 M parameters), 16 channels per 4x8x8, which you run yourself: its "
            "license forbids a port. Wants a GPU.",
            codec="external:ExternalCodec",
            license="CC-BY-NC-ND-4.0",
            source="VideoVerses/VideoVAEPlus (sota-4-16z.ckpt)",
            program=("CTGEN_VIDEOVAE_PYTHON", "CTGEN_VIDEOVAE_SCRIPT"),
            stride_zyx=(4, 8, 8),
            latent_channels=16,
            parameters=485_689_043,
            tested="program",
            # Peak growth of the original on a CPU: 1188 MB for a slab of 16x128x128.
            config={"causal": False, "window": 16, "window_overlap": 4, "bytes_per_voxel": 4532.0},
        ),
    )
}
