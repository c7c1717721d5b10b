"""From noise to latents: DDIM as Foundation-VAE samples, DPM-Solver++ and UniPC from diffusers for fewer steps.

A solver knows a function ``denoise(x, t)`` and nothing of networks, windows or text. All arithmetic is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .schedule import TIMESTEPS, Prediction, abar, betas, check_prediction

Solver = Literal["ddim", "dpm++", "unipc"]
Handover = Literal["official_index", "exact"]
Denoise = Callable[[Tensor, int], Tensor]  # (noisy latents, timestep 0..999) -> noise or velocity
StepNoise = Callable[[int], Tensor]  # step -> standard normal noise, shaped as the latents
Callback = Callable[[int, int], None]  # steps done, steps in all; may raise to stop


class Level(NamedTuple):
    """Where a constrained latent is on its way.

    Attributes:
        step: steps still to do: all of them before the first, 0 after the last.
        abar: share of the clean latent's variance at this point; 1 after the last step.
        first: this is the initial latent.
    """

    step: int
    abar: float
    first: bool


Constrain = Callable[[Tensor, Level], Tensor]


def sample(
    denoise: Denoise,
    noise: Tensor,
    *,
    solver: Solver = "ddim",
    steps: int = 20,
    eta: float = 1.0,
    prediction: Prediction = "epsilon",
    clean: Tensor | None = None,
    strength: float = 1.0,
    step_noise: StepNoise | None = None,
    generator: torch.Generator | None = None,
    constrain: Constrain | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Draw latents.

    Args:
        denoise: the network with its conditions.
        noise: standard normal, of the latents' shape.
        solver: ``ddim`` (as published), or ``dpm++`` or ``unipc``, which need no noise on the way and fewer steps.
        steps: 1 to 999 for the whole way from pure noise.
        eta: of DDIM: 1 adds the noise that DDPM would (published), 0 is deterministic. The others ignore it.
        prediction: what ``denoise`` returns.
        clean: latents to start from instead of pure noise: they are noised, and only the last part of the way is gone
            (Meng et al., *SDEdit*, ICLR 2022).
        strength: that part in timesteps, (0, 1]; with 1 little of ``clean`` is left.
        step_noise: gives the noise of step 0, 1, ... (counted from the first of the whole way). Default: drawn.
        generator: for the noise that is drawn here.
        constrain: changes the latents before the first and after each step (hand-over between windows, inpainting).
        callback: called after each step.

    Returns:
        Latents, float32.

    Raises:
        InputError: unknown solver or prediction, or a number out of range.
    """
    _check(solver, steps, eta, strength, prediction)
    x = noise.float()
    walk: _Walk
    if solver == "ddim":
        walk = _DDIM(x, steps, eta, prediction, step_noise, generator)
    else:
        walk = _Multistep(solver, steps, prediction, corrects=constrain is None)
    skipped = 0
    if clean is not None:
        skipped = min(sum(t > strength * TIMESTEPS for t in walk.timesteps), steps - 1)
        start = walk.levels[skipped]
        x = start**0.5 * clean.float() + (1 - start) ** 0.5 * x
    if constrain is not None:
        x = constrain(x, Level(steps - skipped, walk.levels[skipped], True))
    for step in range(skipped, steps):
        x = walk.step(denoise(x, walk.timesteps[step]).float(), x, step)
        if constrain is not None:
            level = walk.levels[step + 1] if step + 1 < steps else 1.0
            x = constrain(x, Level(steps - 1 - step, level, False))
        if callback is not None:
            callback(step + 1 - skipped, steps - skipped)
    return x


def ddim_timesteps(steps: int) -> list[int]:
    """Timesteps of the published sampler, from noise to image: 951, 901, ..., 1 for 20 steps.

    Steps that do not divide 1000, which the original cannot do evenly, are spread over the same range.
    """
    return [index * TIMESTEPS // steps + 1 for index in reversed(range(steps))]


def ddim_parameters(steps: int, eta: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """``abar``, the previous ``abar`` and ``sigma`` of each timestep, in the order of :func:`ddim_timesteps`.

    Song et al., *Denoising Diffusion Implicit Models*, ICLR 2021, equation 16. The last step ends at ``abar[0]``, not
    at 1, as published.
    """
    here = abar()[ddim_timesteps(steps)]
    before = np.append(here[1:], abar()[0])
    return here, before, eta * np.sqrt((1 - before) / (1 - here) * (1 - here / before))


def hand_over(previous: Tensor, mode: Handover, draw: Callable[[int], Tensor], *, axis: int = 0) -> Constrain:
    """Fix the first latent slice of a window to the last one of the window before.

    Args:
        previous: that slice, clean; one entry long along ``axis``.
        mode: ``exact`` noises it to the level of the other slices and drops the noise at the end. ``official_index``
            does as the published code: the table of 1000 noise levels is read at the number of the step, not at the
            timestep, so that the slice is nearly clean all the way, and stays noised by 0.029 at the end.
        draw: step (0 before the first one) -> standard normal noise, shaped as ``previous``.
        axis: of the latent slices.

    Raises:
        InputError: unknown mode.
    """
    if mode not in get_args(Handover):
        raise InputError(f"handover must be one of {', '.join(get_args(Handover))}; got '{mode}'.")
    done = 0

    def constrain(x: Tensor, level: Level) -> Tensor:
        nonlocal done
        left = level.abar
        if mode == "official_index":
            left = float(abar()[-1 if level.first else level.step])
        noise = draw(done).to(x)
        done += 1
        first = left**0.5 * previous.to(x) + (1 - left) ** 0.5 * noise
        return torch.cat((first, x.narrow(axis, 1, x.shape[axis] - 1)), dim=axis)

    return constrain


def slice_noise(seed: int, step: int, slices: range, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 noise ``(len(slices), *shape)`` of latent slices.

    A function of the seed, the step and each slice's number in the volume: windows, batches and devices change nothing.
    """
    rows = [np.random.default_rng((seed, step, number)).standard_normal(shape, np.float32) for number in slices]
    return torch.from_numpy(np.stack(rows))


def _check(solver: str, steps: int, eta: float, strength: float, prediction: str) -> None:
    if solver not in get_args(Solver):
        raise InputError(f"There is no solver called '{solver}'. Known: {', '.join(get_args(Solver))}.")
    check_prediction(prediction)
    if not 1 <= steps < TIMESTEPS:
        raise InputError(f"steps must be 1 to {TIMESTEPS - 1}; got {steps}. Usual: 20.")
    if not 0 <= eta <= 1:
        raise InputError(f"eta must be 0 (deterministic) to 1 (as published); got {eta}.")
    if not 0 < strength <= 1:
        raise InputError(f"strength must be above 0 (change nothing) and at most 1 (start from noise); got {strength}.")


# --- the ways --------------------------------------------------------------------------------------------------------


class _Walk:
    """The points of a way from noise to latents: timesteps to evaluate at, and ``abar`` there and at the end."""

    timesteps: list[int]
    levels: list[float]

    def step(self, output: Tensor, x: Tensor, step: int) -> Tensor:
        """The latents at the next level."""
        raise NotImplementedError


class _DDIM(_Walk):
    """Equation 12 of the DDIM paper; noise is added at the last step too, as published."""

    def __init__(
        self,
        x: Tensor,
        steps: int,
        eta: float,
        prediction: Prediction,
        step_noise: StepNoise | None,
        generator: torch.Generator | None,
    ) -> None:
        self.timesteps = ddim_timesteps(steps)
        here, before, sigma = ddim_parameters(steps, eta)
        self.levels = [*here.tolist(), before[-1].item()]
        self.sigma, self.prediction, self.eta = sigma.tolist(), prediction, eta
        self.draw = step_noise or (lambda _: torch.randn(x.shape, generator=generator, device=x.device))
        self.always_draws = step_noise is None  # the original draws with eta 0 too: keeps its random stream

    def step(self, output: Tensor, x: Tensor, step: int) -> Tensor:
        a, p, sigma = self.levels[step], self.levels[step + 1], self.sigma[step]
        if self.prediction == "epsilon":
            noise = output
            clean = (x - (1 - a) ** 0.5 * noise) / a**0.5
        else:
            noise = a**0.5 * output + (1 - a) ** 0.5 * x
            clean = a**0.5 * x - (1 - a) ** 0.5 * output
        x = p**0.5 * clean + (1 - p - sigma**2) ** 0.5 * noise
        if self.eta > 0 or self.always_draws:
            x = x + sigma * self.draw(step).to(x)
        return x


class _Multistep(_Walk):
    """Second-order solvers of diffusers: Lu et al., *DPM-Solver++*, 2022; Zhao et al., *UniPC*, NeurIPS 2023.

    ``corrects=False`` turns UniPC's corrector off: it would put latents back that a constraint has changed.
    """

    def __init__(self, solver: str, steps: int, prediction: Prediction, *, corrects: bool) -> None:
        from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

        common: dict[str, Any] = {
            "trained_betas": betas().copy(),
            "prediction_type": prediction,
            "solver_order": 2,
            # Evenly spaced log noise: with even timesteps, 20 steps lose 6% of a Gaussian's spread; so, under 2%.
            "use_exponential_sigmas": True,
            "final_sigmas_type": "zero",
        }
        if solver == "dpm++":
            self.scheduler = DPMSolverMultistepScheduler(**common, algorithm_type="dpmsolver++")
        else:
            self.scheduler = UniPCMultistepScheduler(**common, disable_corrector=[] if corrects else list(range(steps)))
        self.scheduler.set_timesteps(steps)
        self.timesteps = [round(float(t)) for t in self.scheduler.timesteps]
        self.levels = [1 / (1 + float(sigma) ** 2) for sigma in self.scheduler.sigmas]

    def step(self, output: Tensor, x: Tensor, step: int) -> Tensor:
        if self.scheduler.step_index is None:
            self.scheduler.set_begin_index(step)
        return self.scheduler.step(output, self.timesteps[step], x, return_dict=False)[0]
