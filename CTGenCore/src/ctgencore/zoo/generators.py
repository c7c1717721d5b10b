"""Generators: rows and their networks."""

from __future__ import annotations

from typing import Any

from .rows import GeneratorRow, NetworkRow, WeightFile

SLICE_UNET_TINY = {
    "channels": 16,
    "multipliers": (1, 2),
    "res_blocks": 1,
    "attention_levels": (1,),
    "head_width": 16,
    "context_width": 32,
    "groups": 8,
}

NETWORKS: dict[str, NetworkRow] = {
    "foundation-unet": NetworkRow(cls="unet_slices:SliceUNet", tiny=SLICE_UNET_TINY),
    "foundation-unet-embedded": NetworkRow(
        cls="unet_slices:SliceUNet",
        tiny=SLICE_UNET_TINY,
        config={
            "in_channels": 61,  # latents of the CT, the label map and the tissue sketch, 13 disease channels
            "channels": 72,
            "multipliers": (1, 1, 1),
            "res_blocks": 1,
            "attention_levels": (1, 2),
            "head_width": 24,
            "context_width": 128,
            "groups": 8,
        },
    ),
}


def _foundation_checkpoint(filename: str, *also: str) -> WeightFile:
    convert = "generators.published:convert"
    return WeightFile(filename=filename, also=also, repo="qicq1c/Foundation-VAE", convert=convert)


# What both published releases share: they see the rows on disk, transposed, at 512x512 (released code).
FOUNDATION_PUBLISHED: dict[str, Any] = {
    "window_zyx": (17, 64, 64),
    "native_yx": 512,
    "transpose": True,
    "reorients": False,
    "needs_mask": True,
    "handover": "official_index",
}
# Root mean square of the latents of 60 training chests minus those of their tissue sketches, per channel.
RESIDUAL_STD = (0.13, 0.32, 0.31, 0.56, 0.5, 0.5, 0.71, 0.66, 0.43, 0.55, 0.66, 0.77, 0.68, 0.62, 0.63, 1.05)
CXR_BERT_VOCABULARY = WeightFile(filename="vocab.txt", repo="microsoft/BiomedVLP-CXR-BERT-specialized")

GENERATORS: dict[str, GeneratorRow] = {
    row.name: row
    for row in (
        GeneratorRow(
            name="foundation-embedded",
            title="Embedded (small Foundation-VAE)",
            description="The default: ships with CTGen, works offline. Trained on procedural chests, no medical image.",
            generator="foundation:FoundationGenerator",
            network="foundation-unet-embedded",
            codec="embedded",
            text="embedded",
            text_config={"width": 128, "layers": 2, "max_tokens": 256, "reads_spacing": True},
            weights=(
                WeightFile(filename="foundation_embedded.safetensors", packaged=True),
                WeightFile(filename="foundation_embedded.vocab.txt", packaged=True),
            ),
            source="trained by `ctgencore train foundation.embedded`",
            prediction="v_prediction",
            trained_with_dropout=True,
            drafts=True,
            config={
                "label_divisor": 300.0,
                "tissue": True,
                "disease_channels": True,
                "residual_std": RESIDUAL_STD,
                "window_zyx": (17, 16, 16),
                "prompt_format": "plain",
            },
        ),
        # The file names are those that the release's scripts load; the hub's folders and the weights' licence could
        # not be looked up, so `download --from FILE` is the way that is sure.
        GeneratorRow(
            name="foundation-healthy",
            title="Foundation-VAE, healthy",
            description="The published generator of healthy chests (482 M parameters). Wants a GPU.",
            generator="foundation:FoundationGenerator",
            network="foundation-unet",
            network_config={"slice_padding": "zeros"},
            codec="leanvae",
            text="cxrbert",
            weights=(_foundation_checkpoint("epoch=000070.ckpt"), CXR_BERT_VOCABULARY),
            license="unknown",
            source="qic999/Foundation-VAE (its weights state no license; vocabulary: Microsoft, MIT)",
            config={**FOUNDATION_PUBLISHED, "label_divisor": 400.0, "prompt_format": "plain"},
        ),
        GeneratorRow(
            name="foundation-multidisease",
            title="Foundation-VAE, multi-disease",
            description="The published generator of healthy and diseased chests (482 M parameters). Wants a GPU.",
            generator="foundation:FoundationGenerator",
            network="foundation-unet",
            network_config={"slice_padding": "reflect"},
            codec="leanvae",
            text="cxrbert",
            weights=(_foundation_checkpoint("epoch=000061.ckpt", "epoch=000095.ckpt"), CXR_BERT_VOCABULARY),
            license="unknown",
            source="qic999/Foundation-VAE (its weights state no license; vocabulary: Microsoft, MIT)",
            config={**FOUNDATION_PUBLISHED, "label_divisor": 300.0, "prompt_format": "bracket_list"},
        ),
    )
}
