"""The noise schedule of Foundation-VAE, as data: Stable Diffusion's "scaled linear" betas over 1000 timesteps.

A noised latent is ``sqrt(abar_t) * clean + sqrt(1 - abar_t) * noise`` (Ho et al., DDPM, NeurIPS 2020, equation 4).
"""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

Prediction = Literal["epsilon", "v_prediction"]

TIMESTEPS = 1000
BETA_FIRST, BETA_LAST = 0.00085, 0.0120


@cache
def betas() -> np.ndarray:
    """Noise variance added at each timestep, ``(1000,)`` float64, read-only: linear in its square root."""
    beta = np.linspace(BETA_FIRST**0.5, BETA_LAST**0.5, TIMESTEPS) ** 2
    beta.setflags(write=False)
    return beta


@cache
def abar() -> np.ndarray:
    """Share of the clean latent's variance that is left at each timestep, ``(1000,)`` float64, read-only."""
    left = np.cumprod(1 - betas())
    left.setflags(write=False)
    return left


def check_prediction(prediction: str) -> None:
    """Raise InputError unless ``prediction`` is what a network can predict."""
    if prediction not in get_args(Prediction):
        raise InputError(f"prediction must be one of {', '.join(get_args(Prediction))}; got '{prediction}'.")


def _levels(like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    left = torch.from_numpy(abar().copy()).to(like.device)[timesteps.to(like.device).long()]
    shape = (-1, *[1] * (like.ndim - 1))
    return left.sqrt().to(like.dtype).view(shape), (1 - left).sqrt().to(like.dtype).view(shape)


def add_noise(clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The latents at the given timesteps (DDPM, equation 4).

    Args:
        clean, noise: ``(B, ...)``.
        timesteps: 0..999, ``(B,)`` or ``(1,)``.
    """
    signal, spread = _levels(clean, timesteps)
    return signal * clean + spread * noise


def target(clean: Tensor, noise: Tensor, timesteps: Tensor, prediction: Prediction = "epsilon") -> Tensor:
    """What the network should predict: the noise, or the velocity ``sqrt(abar) noise - sqrt(1 - abar) clean``.

    Velocity: Salimans & Ho, *Progressive Distillation for Fast Sampling of Diffusion Models*, ICLR 2022, appendix D.
    """
    check_prediction(prediction)
    if prediction == "epsilon":
        return noise
    signal, spread = _levels(clean, timesteps)
    return signal * noise - spread * clean
