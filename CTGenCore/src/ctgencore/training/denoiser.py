"""What a generator's training trains: the slice U-Net with, or beside, its report encoder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ..codecs.base import Codec
from ..errors import InputError, WeightsError
from ..networks.unet_slices import SliceUNet
from ..text.cxrbert import CXRBert
from ..text.embedded import ReportEncoder
from .generator_recipes import GeneratorRecipe, Stage
from .latents import Latents


class Denoiser(nn.Module):
    """U-Net and report encoder as one module, so that one optimizer and one DDP wrapper serve both.

    Args:
        unet: the denoiser.
        text: the report encoder if it is trained along, else None.
        frozen: the report encoder if it is not; it is no part of the module's parameters.
        can_read: ``text`` reads words already: only its vectors for padding and voxel size are trained along.
    """

    def __init__(
        self, unet: SliceUNet, text: ReportEncoder | None, frozen: CXRBert | None, *, can_read: bool = False
    ) -> None:
        super().__init__()
        self.can_read = can_read
        self.unet = unet
        if text is not None:
            self.text = text
        self.frozen = frozen

    def forward(self, noisy: Tensor, timesteps: Tensor, batch: Latents) -> Tensor:
        """Predict noise or velocity.

        Args:
            noisy: ``(B, n, C, y, x)``.
            timesteps: ``(B * n,)``.
            batch: the conditions.

        Returns:
            ``(B, n, C, y, x)``.
        """
        x = torch.cat((noisy, batch.conditions), dim=2).flatten(0, 1)
        context = self.tokens(batch.reports, batch.spacing_mm)
        return self.unet(x, timesteps, context, num_slices=noisy.shape[1]).unflatten(0, noisy.shape[:2])

    def tokens(self, reports: Sequence[str], spacing_mm: Tensor) -> Tensor:
        """``(B, L, W)`` from reports and voxel sizes."""
        if self.frozen is not None:
            return self.frozen.encode(reports)
        return self.text.encode(reports, spacing_mm if self.text.config.reads_spacing else None)

    def trained(self, stage: Stage) -> Iterator[nn.Parameter]:
        """What the stage's optimizer gets; the rest stops asking for gradients."""
        if stage.trainable == "slices":
            self.requires_grad_(False)
            for parameter in self.unet.slice_parameters():
                parameter.requires_grad_(True)
                yield parameter
        else:
            if self.can_read:
                for parameter in self.text.reading_parameters():
                    parameter.requires_grad_(False)
            yield from (parameter for parameter in self.parameters() if parameter.requires_grad)


def build(
    recipe: GeneratorRecipe, stage: Stage, codec: Codec, vocabulary: Sequence[str], text_folder: Path | None
) -> Denoiser:
    """The networks of a stage with random weights (and, where it is frozen, the real report encoder).

    Raises:
        InputError: a frozen report encoder is needed and ``text_folder`` is not given.
    """
    channels = codec.latent_channels
    unet = SliceUNet(
        in_channels=channels + recipe.conditions.channels(channels),
        out_channels=channels,
        slice_convs=stage.name == "3d",
        **recipe.network,
    )
    if recipe.checkpointing:
        unet.enable_gradient_checkpointing()
    if recipe.text == "embedded":
        encoder = ReportEncoder(vocabulary, **recipe.text_config)
        return Denoiser(unet, encoder, None, can_read=recipe.reading_steps > 0)
    if text_folder is None:
        raise InputError(
            f"Recipe '{recipe.name}' reads reports with CXR-BERT: give the folder that holds its vocab.txt and weights "
            "with --text-encoder."
        )
    return Denoiser(unet, None, CXRBert.from_folder(text_folder))


def start_from(denoiser: Denoiser, tensors: dict[str, Tensor]) -> None:
    """Fill a 3D denoiser with a 2D one's weights; its slice convolutions stay the identity.

    Raises:
        WeightsError: something other than slice convolutions differs.
    """
    missing, unexpected = denoiser.load_state_dict(tensors, strict=False)
    wrong = [name for name in missing if ".temporal_conv." not in name] + list(unexpected)
    if wrong:
        raise WeightsError(
            f"The 2D stage in this folder is of another network ({', '.join(wrong[:3])} ...). Use a new output folder."
        )
