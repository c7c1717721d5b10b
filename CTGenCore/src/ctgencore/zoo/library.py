"""Codecs whose networks diffusers or MONAI have: rows and their networks.

Left out of diffusers' video autoencoders: Allegro (encodes in its own tiles only) and MAGVIT (refuses more than one
slice at these sizes), both as of diffusers 0.42.1.
"""

from __future__ import annotations

from .codecs import WAN_TINY
from .rows import CodecRow, NetworkRow, WeightFile

_PLAIN = ("encoder.conv_in", "decoder.conv_out", 1)
_CAUSAL = ("encoder.conv_in.conv", "decoder.conv_out.conv", 1)
_KL_BLOCKS = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
_KL_TINY = {"block_out_channels": (8,) * 4, "layers_per_block": 1, "norm_num_groups": 2, "latent_channels": 4}
_TINY_TINY = {"encoder_block_out_channels": (8,) * 4, "decoder_block_out_channels": (8,) * 4}
_VIDEO_TINY = {"block_out_channels": (8,) * 4, "latent_channels": 4, "layers_per_block": 1, "norm_num_groups": 2}
_DC_BLOCKS = ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
_DC_TINY = {
    "latent_channels": 4,
    "attention_head_dim": 4,
    "encoder_block_out_channels": (8,) * 6,
    "decoder_block_out_channels": (8,) * 6,
    "encoder_layers_per_block": (1,) * 6,
    "decoder_layers_per_block": (1,) * 6,
}
_IMAGE = {"stride_zyx": (1, 8, 8), "causal": False, "whole_plane": True}
_TINY_IMAGE = {"stride_zyx": (1, 8, 8), "causal": False, "halo": (20, 20)}  # nothing but convolutions
# bytes_per_voxel: peak growth over one slab of 64x64 (128x128 for strides of 32), by Testing/bench/codecs.py --slab.
_VAE = "vae/diffusion_pytorch_model.safetensors"

NETWORKS: dict[str, NetworkRow] = {
    "cogvideox": NetworkRow(cls="library:CogVideoX", tiny=_VIDEO_TINY),
    "cosmos": NetworkRow(
        cls="library:Cosmos",
        tiny={
            "encoder_block_out_channels": (8,) * 4,
            "decode_block_out_channels": (8,) * 4,
            "latent_channels": 4,
            "num_layers": 1,
            "attention_resolutions": (),
        },
    ),
    "dcae": NetworkRow(
        cls="library:ImageDC",
        config={
            "encoder_block_types": _DC_BLOCKS,
            "decoder_block_types": _DC_BLOCKS,
            "encoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "decoder_block_out_channels": (128, 256, 512, 512, 1024, 1024),
            "encoder_layers_per_block": (2, 2, 2, 3, 3, 3),
            "decoder_layers_per_block": (3, 3, 3, 3, 3, 3),
            "encoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "decoder_qkv_multiscales": ((), (), (), (5,), (5,), (5,)),
            "downsample_block_type": "Conv",
            "upsample_block_type": "interpolate",
        },
        tiny=_DC_TINY,
    ),
    "flux": NetworkRow(cls="library:ImageKL", config=_KL_BLOCKS, tiny=_KL_TINY),
    "hunyuanvideo": NetworkRow(cls="library:HunyuanVideo", tiny=_VIDEO_TINY),
    "hunyuanvideo1.5": NetworkRow(
        cls="library:HunyuanVideo15",
        tiny={"block_out_channels": (16,) * 5, "latent_channels": 8, "layers_per_block": 1},
    ),
    "ltx": NetworkRow(
        cls="library:LTXVideo",
        tiny={
            "block_out_channels": (8,) * 4,
            "decoder_block_out_channels": (8,) * 4,
            "latent_channels": 8,
            "layers_per_block": (1,) * 5,
            "decoder_layers_per_block": (1,) * 5,
        },
    ),
    "maisi": NetworkRow(
        cls="library:Maisi",
        config={
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 1,
            "latent_channels": 4,
            "num_channels": (64, 128, 256),
            "num_res_blocks": (2, 2, 2),
            "attention_levels": (False, False, False),
            "num_splits": 1,
        },
        tiny={"num_channels": (8, 8, 8), "num_res_blocks": (1, 1, 1), "norm_num_groups": 2},
    ),
    "mochi": NetworkRow(
        cls="library:Mochi",
        tiny={
            "encoder_block_out_channels": (32,) * 4,
            "decoder_block_out_channels": (32,) * 4,
            "latent_channels": 4,
            "layers_per_block": (1,) * 5,
        },
    ),
    "qwenimage": NetworkRow(cls="wan:Wan", tiny=WAN_TINY),
    "sd3": NetworkRow(cls="library:ImageKL", config=_KL_BLOCKS, tiny=_KL_TINY),
    "taef1": NetworkRow(cls="library:ImageTiny", config={"latent_channels": 16}, tiny=_TINY_TINY),
    "taesd3": NetworkRow(cls="library:ImageTiny", config={"latent_channels": 16}, tiny=_TINY_TINY),
}

CODECS: dict[str, CodecRow] = {
    row.name: row
    for row in (
        CodecRow(
            name="cogvideox",
            title="CogVideoX VAE",
            description="Video VAE of CogVideoX-2b (216 M parameters), 16 channels per 4x8x8. Wants a GPU.",
            codec="library:LibraryCodec",
            network="cogvideox",
            weights=(WeightFile(filename=_VAE, repo="zai-org/CogVideoX-2b"),),
            source="zai-org/CogVideo",
            config={"bytes_per_voxel": 11_600.0, "window": 17, "window_overlap": 5, "grey": _CAUSAL},
        ),
        CodecRow(
            name="cosmos",
            title="Cosmos tokenizer",
            description="Video autoencoder of Cosmos 1.0 (106 M parameters), 16 channels per 8x8x8; light.",
            codec="library:LibraryCodec",
            network="cosmos",
            weights=(WeightFile(filename=_VAE, repo="nvidia/Cosmos-1.0-Diffusion-7B-Text2World"),),
            license="NVIDIA Open Model License",
            source="NVIDIA/Cosmos",
            config={"bytes_per_voxel": 760.0, "stride_zyx": (8, 8, 8), "window": 33, "window_overlap": 8},
        ),
        CodecRow(
            name="dcae",
            title="DC-AE f32c32",
            description="Deep-compression image autoencoder, slice by slice (312 M parameters).",
            codec="library:LibraryCodec",
            network="dcae",
            weights=(
                WeightFile(
                    filename="diffusion_pytorch_model.safetensors", repo="mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers"
                ),
            ),
            license="see the repository's LICENSE.txt",
            source="mit-han-lab/efficientvit",
            is_2d=True,
            config={"bytes_per_voxel": 3_800.0, **_IMAGE, "stride_zyx": (1, 32, 32), "grey": _PLAIN},
        ),
        CodecRow(
            name="flux",
            title="FLUX.1 autoencoder",
            description="Image VAE of FLUX.1 (84 M parameters), slice by slice; CTFlow's. Wants a GPU.",
            codec="library:LibraryCodec",
            network="flux",
            weights=(WeightFile(filename=_VAE, repo="black-forest-labs/FLUX.1-schnell"),),
            source="black-forest-labs/flux",
            is_2d=True,
            config={"bytes_per_voxel": 6_800.0, **_IMAGE, "grey": _PLAIN},
        ),
        CodecRow(
            name="hunyuanvideo",
            title="HunyuanVideo VAE",
            description="Video VAE of HunyuanVideo (246 M parameters), 16 channels per 4x8x8. Wants a GPU.",
            codec="library:LibraryCodec",
            network="hunyuanvideo",
            weights=(WeightFile(filename=_VAE, repo="hunyuanvideo-community/HunyuanVideo"),),
            license="Tencent Hunyuan Community",
            source="Tencent-Hunyuan/HunyuanVideo",
            config={"bytes_per_voxel": 8_200.0, "window": 17, "window_overlap": 5, "grey": _CAUSAL},
        ),
        CodecRow(
            name="hunyuanvideo1.5",
            title="HunyuanVideo 1.5 VAE",
            description="Video VAE of HunyuanVideo 1.5 (1.26 G parameters), 32 channels per 4x16x16.",
            codec="library:LibraryCodec",
            network="hunyuanvideo1.5",
            weights=(WeightFile(filename=_VAE, repo="hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_t2v"),),
            license="Tencent Hunyuan Community",
            source="Tencent-Hunyuan/HunyuanVideo-1.5",
            config={
                "bytes_per_voxel": 13_700.0,
                "stride_zyx": (4, 16, 16),
                "window": 17,
                "window_overlap": 5,
                "grey": _CAUSAL,
            },
        ),
        CodecRow(
            name="ltx",
            title="LTX-Video VAE",
            description="Video VAE of LTX-Video 0.9 (419 M parameters), 128 channels per 8x32x32; light for its size.",
            codec="library:LibraryCodec",
            network="ltx",
            weights=(WeightFile(filename=_VAE, repo="Lightricks/LTX-Video"),),
            license="LTX-Video Open Weights",
            source="Lightricks/LTX-Video",
            config={
                "bytes_per_voxel": 300.0,
                "stride_zyx": (8, 32, 32),
                "window": 33,
                "window_overlap": 8,
                "grey": _CAUSAL,
            },
        ),
        CodecRow(
            name="maisi",
            title="MAISI autoencoder",
            description="A VAE trained on CT (21 M parameters), 4 channels per 4x4x4: a medical reference.",
            codec="library:LibraryCodec",
            network="maisi",
            weights=(WeightFile(filename="models/autoencoder_v1.pt", repo="nvidia/NV-Generate-CT"),),
            license="NVIDIA Open Model License",
            source="NVIDIA-Medtech/NV-Generate-CTMR",
            config={
                "bytes_per_voxel": 2_100.0,
                "channels": 1,
                "stride_zyx": (4, 4, 4),
                "causal": False,
                "unit_range": (0.0, 1.0),
                "window": 32,
                "window_overlap": 8,
            },
        ),
        CodecRow(
            name="mochi",
            title="Mochi 1 VAE",
            description="Video VAE of Mochi 1 (460 M parameters), 12 channels per 6x8x8. Wants a GPU.",
            codec="library:LibraryCodec",
            network="mochi",
            weights=(WeightFile(filename=_VAE, repo="genmo/mochi-1-preview"),),
            source="genmoai/mochi",
            config={"bytes_per_voxel": 7_400.0, "stride_zyx": (6, 8, 8), "window": 19, "window_overlap": 6},
        ),
        CodecRow(
            name="qwenimage",
            title="Qwen-Image VAE",
            description="WAN 2.1's architecture with Qwen-Image's weights (127 M parameters); streams exactly.",
            codec="wan:WanCodec",
            network="qwenimage",
            weights=(WeightFile(filename=_VAE, repo="Qwen/Qwen-Image"),),
            source="QwenLM/Qwen-Image",
        ),
        CodecRow(
            name="sd3",
            title="Stable Diffusion 3 autoencoder",
            description="Image VAE of Stable Diffusion 3 (84 M parameters), slice by slice. Wants a GPU.",
            codec="library:LibraryCodec",
            network="sd3",
            weights=(WeightFile(filename=_VAE, repo="stabilityai/stable-diffusion-3-medium-diffusers"),),
            license="Stability AI Community",
            source="Stability-AI/sd3-ref",
            is_2d=True,
            config={"bytes_per_voxel": 6_800.0, **_IMAGE, "grey": _PLAIN},
        ),
        CodecRow(
            name="taef1",
            title="TAEF1 (tiny FLUX.1 autoencoder)",
            description="A small image VAE with FLUX.1's latents, slice by slice (2.5 M parameters); fit for a CPU.",
            codec="library:LibraryCodec",
            network="taef1",
            weights=(WeightFile(filename="diffusion_pytorch_model.safetensors", repo="madebyollin/taef1"),),
            license="MIT",
            source="github.com/madebyollin/taesd",
            is_2d=True,
            config={"bytes_per_voxel": 1_900.0, **_TINY_IMAGE, "grey": ("encoder.layers.0", "decoder.layers.18", 1)},
        ),
        CodecRow(
            name="taesd3",
            title="TAESD3 (tiny SD3 autoencoder)",
            description="A small image VAE with SD3's latents, slice by slice (2.5 M parameters); fit for a CPU.",
            codec="library:LibraryCodec",
            network="taesd3",
            weights=(WeightFile(filename="diffusion_pytorch_model.safetensors", repo="madebyollin/taesd3"),),
            license="MIT",
            source="github.com/madebyollin/taesd",
            is_2d=True,
            config={"bytes_per_voxel": 1_900.0, **_TINY_IMAGE, "grey": ("encoder.layers.0", "decoder.layers.18", 1)},
        ),
    )
}
