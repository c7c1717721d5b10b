"""The released inference of Foundation VAE, step by step: what `faithful` runs. Facts from its code, in our own words.

The volume is drawn twice in windows of 65 slices, the second time from slice 32 on; a window starts from the last
latent of the one before, at the noise level that the release's index gives; around the joints of the first pass the
second one is pasted in, without blending. HU are truncated by the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..diffusion.conditions import encode_conditions
from ..diffusion.solvers import hand_over, sample
from ..intensity import WINDOWS

if TYPE_CHECKING:
    from .base import Inputs
    from .foundation import FoundationGenerator

WINDOW = 65  # slices, 17 latents
SHIFT = 32  # first slice of the second pass
REACH = 16  # slices on either side of a joint that come from the second pass
SHORTEST = WINDOW + SHIFT
STEPS, ETA = 20, 1.0


def passes_needed(slices: int) -> int:
    """Network passes for a volume of so many slices."""
    slices = max(slices, SHORTEST)
    return STEPS * (-(-slices // WINDOW) + -(-(slices - SHIFT) // WINDOW))


def draw(generator: FoundationGenerator, inputs: Inputs, seed: int, tick: Callable[[int], None]) -> np.ndarray:
    """HU (Z, Y, X) on the model's own axes and plane.

    Volumes below 97 slices, which the release cannot do, repeat their last slice and are cut again. The release sets no
    seed; here one fixes the noise, drawn in its order.
    """
    slices = inputs.shape_zyx[0]
    short = max(0, SHORTEST - slices)

    def longer(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.pad(array, ((0, short), (0, 0), (0, 0)), mode="edge")

    organs, diseases = longer(inputs.organs), longer(inputs.diseases)
    noise = torch.Generator().manual_seed(seed)
    context = generator.context(inputs)

    def one_pass(first: int) -> np.ndarray:
        count = slices + short - first
        out = np.empty((count, *inputs.shape_zyx[1:]), dtype=np.float32)
        previous = None
        for start, kept in windows(count):
            part = slice(first + start, first + start + WINDOW)
            assert organs is not None
            condition = encode_conditions(
                generator.codec,
                organs[part],
                None if diseases is None else diseases[part],
                generator.spec,
                (WINDOW, *inputs.shape_zyx[1:]),
            )
            latents = _window(generator, condition, context, previous, noise, tick)
            previous = latents[-1:]
            hu = generator.codec.decode(
                latents.transpose(0, 1)[None],
                (WINDOW, *inputs.shape_zyx[1:]),
                WINDOWS["wide"],
                clamp_channels_first=True,
            )
            out[start + WINDOW - kept : start + WINDOW] = hu[WINDOW - kept :]
        return out

    volume, shifted = one_pass(0), one_pass(SHIFT)
    for joint in joints(len(volume)):
        low, high = joint - REACH, min(joint + REACH, len(volume))
        volume[low:high] = shifted[low - SHIFT : high - SHIFT]
    return volume[:slices]


def windows(count: int) -> list[tuple[int, int]]:
    """First slice of each window, and how many of its slices, counted from its end, are kept."""
    number = -(-count // WINDOW)
    whole = [(WINDOW * i, WINDOW) for i in range(number - 1)]
    return [*whole, (count - WINDOW, count % WINDOW or WINDOW)]


def joints(slices: int) -> list[int]:
    """Where the release takes its joints to be: at 64 i + 1, though windows meet at 65 i."""
    return [(WINDOW - 1) * i + 1 for i in range(1, -(-slices // WINDOW))]


def _window(
    generator: FoundationGenerator,
    condition_CZYX: Tensor,
    context: Tensor,
    previous: Tensor | None,
    noise: torch.Generator,
    tick: Callable[[int], None],
) -> Tensor:
    """Latents ``(17, C, y, x)`` of one window."""
    condition = condition_CZYX.transpose(0, 1).to(generator.device)
    shape = (len(condition), generator.unet.config.out_channels, *condition.shape[2:])

    def denoise(x: Tensor, t: int) -> Tensor:
        images = torch.cat((x, condition), dim=1).to(generator.dtype)
        timesteps = torch.full((len(images),), t, device=generator.device)
        output = generator.unet(images, timesteps, context.to(generator.dtype), num_slices=len(images))
        tick(1)
        return output.float()

    def drawn(size: tuple[int, ...]) -> Tensor:
        return torch.randn(size, generator=noise).to(generator.device)

    constrain = None
    if previous is not None:
        handover = generator.row.config["handover"]
        constrain = hand_over(previous, handover, lambda _: drawn(tuple(previous.shape)))
    return sample(
        denoise,
        drawn(shape),
        solver="ddim",
        steps=STEPS,
        eta=ETA,
        prediction=generator.row.prediction,  # type: ignore[arg-type]
        step_noise=lambda _: drawn(shape),
        constrain=constrain,
    )
