"""Classifier-free guidance: away from what the network predicts without its condition."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .solvers import Denoise

Model = Callable[..., Tensor]  # (noisy latents, timestep, *condition) -> noise or velocity


def guide(
    model: Model, condition: Sequence[Tensor], dropped: Sequence[Tensor], scale: float, *, together: bool = True
) -> Denoise:
    """A denoise function with guidance (Ho & Salimans, *Classifier-Free Diffusion Guidance*, 2022, equation 6).

    The result is ``without + scale * (with - without)``; a scale of 1 is the model itself and costs one evaluation.

    Args:
        model: called as ``model(x, t, *condition)``.
        condition: tensors, batch first.
        dropped: the same for the dropped condition.
        scale: 1 for no guidance, above 1 to follow the condition more closely.
        together: evaluate both as one batch (faster on a GPU) rather than one after the other (half the memory).
    """

    def denoise(x: Tensor, t: int) -> Tensor:
        if scale == 1:
            return model(x, t, *condition)
        if together:
            both = [torch.cat(pair) for pair in zip(condition, dropped, strict=True)]
            following, free = model(torch.cat((x, x)), t, *both).chunk(2)
        else:
            following, free = model(x, t, *condition), model(x, t, *dropped)
        return free + scale * (following - free)

    return denoise


def check_guidance(scale: float, model_name: str, *, trained_with_dropout: bool) -> None:
    """Refuse guidance of a model that never saw its condition dropped.

    Raises:
        InputError: a negative scale, or one other than 1 for such a model.
    """
    if not 0 <= scale < float("inf"):
        raise InputError(f"guidance must be a number from 0; got {scale}. 1 is no guidance, 1.5 to 3 is usual.")
    if scale != 1 and not trained_with_dropout:
        raise InputError(
            f"Model '{model_name}' was not trained with dropped conditions, so guidance has nothing to compare with: "
            f"guidance must be 1; got {scale}. Set it to 1, or take a model that was (see `ctgencore info`)."
        )
