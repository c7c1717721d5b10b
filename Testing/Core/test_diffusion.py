"""Schedule and solvers equal the published sampler; the fast solvers reach the same latents; guidance is exact."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ctgencore.diffusion.guidance import check_guidance, guide
from ctgencore.diffusion.schedule import abar, add_noise, betas, target
from ctgencore.diffusion.solvers import (
    Level,
    ddim_parameters,
    ddim_timesteps,
    hand_over,
    sample,
    slice_noise,
)
from ctgencore.errors import InputError
from test_networks import GOLDEN, array, assert_matches
from torch import Tensor

NUMBERS = json.loads((GOLDEN / "foundation.json").read_text())
MEAN, SPREAD = 1.5, 0.6  # of the Gaussian that the toy denoiser knows perfectly
SHAPE = (17, 16, 4, 4)


def gaussian(x: Tensor, t: int) -> Tensor:
    """The noise that an ideal network sees in latents of this Gaussian."""
    a = float(abar()[t])
    return (x - a**0.5 * MEAN) * (1 - a) ** 0.5 / (a * SPREAD**2 + 1 - a)


def velocity(x: Tensor, t: int) -> Tensor:
    a, noise = float(abar()[t]), gaussian(x, t)
    return (noise - (1 - a) ** 0.5 * x) / a**0.5


def published_toy(x: Tensor, t: int) -> Tensor:
    return 0.1 * x + 0.0005 * t


def test_schedule_equals_the_original() -> None:
    entry = NUMBERS["schedule"]
    assert betas()[[0, -1]] == pytest.approx([entry["beta0"], entry["beta999"]], rel=1e-12)
    assert {k: float(abar()[int(k)]) for k in entry["abar"]} == pytest.approx(entry["abar"], rel=1e-10)
    assert betas().dtype == abar().dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        abar()[0] = 1


def test_ddim_numbers_equal_the_original() -> None:
    assert ddim_timesteps(20) == NUMBERS["ddim_model_t_sequence"]
    assert ddim_timesteps(20)[::-1] == NUMBERS["ddim_steps20_timesteps"]
    here, before, sigma = ddim_parameters(20, 1.0)
    assert here[[-1, 0]] == pytest.approx(NUMBERS["ddim_alphas_first_last"], rel=1e-6)
    assert before[::-1][:3] == pytest.approx(NUMBERS["ddim_alphas_prev_first3"], rel=1e-6)
    assert sigma[::-1][[0, 1, 2, -1]] == pytest.approx(NUMBERS["ddim_sigmas_eta1_first3_last"], rel=1e-4)


@pytest.mark.parametrize("steps", [1, 7, 20, 30, 333, 999])
def test_ddim_timesteps_of_any_number(steps: int) -> None:
    t = ddim_timesteps(steps)
    assert len(set(t)) == steps
    assert t == sorted(t, reverse=True)
    assert 1 <= t[-1] <= t[0] <= 999


@pytest.mark.parametrize("eta", [0, 1])
def test_ddim_equals_the_original(eta: int) -> None:
    torch.manual_seed(1234)
    x = sample(published_toy, torch.randn(SHAPE), eta=eta)
    assert_matches(x, NUMBERS[f"ddim_eta{eta}_noprev"])


def test_ddim_draws_from_a_generator_as_from_the_global_stream() -> None:
    stream = torch.Generator().manual_seed(1234)
    before = torch.get_rng_state()
    x = sample(published_toy, torch.randn(SHAPE, generator=stream), generator=stream)
    assert_matches(x, NUMBERS["ddim_eta1_noprev"])
    assert torch.equal(torch.get_rng_state(), before)


def previous_slice() -> Tensor:
    return array("prev", (1, 1, 16, 4, 4), 1)[0]


def test_official_hand_over_equals_the_original() -> None:
    torch.manual_seed(1234)
    noise, previous = torch.randn(SHAPE), previous_slice()
    x = sample(
        published_toy, noise, constrain=hand_over(previous, "official_index", lambda _: torch.randn_like(previous))
    )
    assert_matches(x, NUMBERS["ddim_eta1_prev"])
    left = (x[0] - previous[0]).std()
    assert float(left) == pytest.approx(NUMBERS["ddim_eta1_prev_frame0_minus_prev_std"], rel=1e-3)


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
def test_exact_hand_over_has_the_noise_of_the_other_slices_and_none_at_the_end(solver: str) -> None:
    """A previous slice from the same distribution leaves every noisy slice with the spread of its level."""
    stream = torch.Generator().manual_seed(3)
    shape = (3, 4, 32, 32)
    previous = MEAN + SPREAD * torch.randn((1, *shape[1:]), generator=stream)
    seen: list[tuple[float, float, float]] = []

    def watching(x: Tensor, t: int) -> Tensor:
        level = float(abar()[t])
        seen.append((float(x[0].std()), float(x[1:].std()), (level * SPREAD**2 + 1 - level) ** 0.5))
        return gaussian(x, t)

    steps: list[int] = []

    def draw(step: int) -> Tensor:
        steps.append(step)
        return torch.randn(previous.shape, generator=stream)

    x = sample(
        watching,
        torch.randn(shape, generator=stream),
        solver=solver,
        steps=100,  # with 20, DDIM itself narrows the distribution
        generator=stream,
        constrain=hand_over(previous, "exact", draw),
    )
    assert torch.equal(x[:1], previous)
    assert steps == list(range(101))
    for first, others, wanted in seen:
        assert first == pytest.approx(wanted, rel=0.05)
        assert others == pytest.approx(wanted, rel=0.12)


def exact_gaussian(noise: Tensor) -> Tensor:
    """Where the deterministic way from this noise at t = 999 ends (the probability flow of a Gaussian)."""
    a = float(abar()[999])
    return MEAN + SPREAD * (noise - a**0.5 * MEAN) / (a * SPREAD**2 + 1 - a) ** 0.5


@pytest.mark.parametrize(
    ("solver", "steps", "error"),
    [("ddim", 999, 2e-3), ("ddim", 100, 0.015), ("dpm++", 100, 2e-3), ("unipc", 100, 2e-3), ("dpm++", 20, 6e-3)],
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_all_solvers_reach_the_same_latents(solver: str, steps: int, error: float, prediction: str) -> None:
    noise = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
    model = gaussian if prediction == "epsilon" else velocity
    x = sample(model, noise, solver=solver, steps=steps, eta=0, prediction=prediction)
    assert float((x - exact_gaussian(noise)).abs().mean()) < error
    x = sample(model, noise, solver=solver, steps=steps, eta=0, prediction=prediction)
    again = sample(model, noise, solver=solver, steps=steps, eta=0, prediction=prediction)
    assert torch.equal(x, again)


def test_eta_1_draws_from_the_same_distribution() -> None:
    stream = torch.Generator().manual_seed(0)
    x = sample(gaussian, torch.randn(40000, generator=stream), steps=400, eta=1, generator=stream)
    assert float(x.mean()) == pytest.approx(MEAN, abs=0.02)
    assert float(x.std()) == pytest.approx(SPREAD, abs=0.02)


@pytest.mark.parametrize("solver", ["ddim", "dpm++", "unipc"])
@pytest.mark.parametrize("strength", [0.05, 0.3, 0.6, 1.0])
def test_strength_is_the_part_of_the_way(solver: str, strength: float) -> None:
    """The more of the way is gone, the less is left of the start; timesteps above the strength are not visited."""
    stream = torch.Generator().manual_seed(0)
    clean = MEAN + SPREAD * torch.randn(5000, 1, generator=stream)
    visited: list[int] = []

    def model(x: Tensor, t: int) -> Tensor:
        visited.append(t)
        return gaussian(x, t)

    counts: list[tuple[int, int]] = []
    x = sample(
        model,
        torch.randn(5000, 1, generator=stream),
        solver=solver,
        eta=0,
        clean=clean,
        strength=strength,
        callback=lambda done, total: counts.append((done, total)),
    )
    assert max(visited) <= 1000 * strength
    assert counts == [(i + 1, len(visited)) for i in range(len(visited))]
    likeness = float(torch.corrcoef(torch.cat((x, clean), dim=1).T)[0, 1])
    level = float(abar()[visited[0]])
    wanted = (level * SPREAD**2 / (level * SPREAD**2 + 1 - level)) ** 0.5  # correlation right after noising
    assert likeness == pytest.approx(wanted, abs=0.05)
    assert float(x.std()) == pytest.approx(SPREAD, rel=0.1)


def test_the_constraint_is_told_the_level() -> None:
    for solver in ("ddim", "dpm++", "unipc"):
        levels: list[Level] = []
        visited: list[int] = []

        def watch(x: Tensor, level: Level, levels: list[Level] = levels) -> Tensor:
            levels.append(level)
            return x

        def model(x: Tensor, t: int, visited: list[int] = visited) -> Tensor:
            visited.append(t)
            return gaussian(x, t)

        sample(model, torch.zeros(3, 1), solver=solver, steps=10, eta=0, constrain=watch)
        assert [level.step for level in levels] == list(range(10, -1, -1))
        assert [level.first for level in levels] == [True] + 10 * [False]
        assert levels[-1].abar == 1
        assert [level.abar for level in levels[:-1]] == pytest.approx([float(abar()[t]) for t in visited], rel=0.02)


def test_step_noise_replaces_drawing() -> None:
    asked: list[int] = []

    def noise(step: int) -> Tensor:
        asked.append(step)
        return slice_noise(7, step + 1, range(3), (2, 2)).double()

    before = torch.get_rng_state()
    first = sample(gaussian, slice_noise(7, 0, range(3), (2, 2)), steps=5, step_noise=noise)
    assert asked == list(range(5))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.dtype == torch.float32
    part = sample(
        gaussian,
        slice_noise(7, 0, range(1, 3), (2, 2)),
        steps=5,
        step_noise=lambda step: slice_noise(7, step + 1, range(1, 3), (2, 2)),
    )
    assert torch.equal(first[1:], part)  # the noise of a slice does not know which window it is in


def test_slice_noise_is_standard_normal_and_differs() -> None:
    noise = slice_noise(0, 0, range(20), (4, 16, 16))
    assert float(noise.mean()) == pytest.approx(0, abs=0.03)
    assert float(noise.std()) == pytest.approx(1, abs=0.03)
    others = [
        slice_noise(1, 0, range(1), (8,)),
        slice_noise(0, 1, range(1), (8,)),
        slice_noise(0, 0, range(1, 2), (8,)),
    ]
    assert len({tuple(x.flatten().tolist()) for x in (slice_noise(0, 0, range(1), (8,)), *others)}) == 4


def test_noising_and_targets_invert_each_other() -> None:
    clean, noise = array("clean", (3, 2, 4), 1), array("noise", (3, 2, 4), 1)
    t = torch.tensor([0, 500, 999])
    x = add_noise(clean, noise, t)
    a = torch.from_numpy(abar().copy())[t].float().view(3, 1, 1)
    torch.testing.assert_close(x, a.sqrt() * clean + (1 - a).sqrt() * noise)
    v = target(clean, noise, t, "v_prediction")
    torch.testing.assert_close(a.sqrt() * x - (1 - a).sqrt() * v, clean)
    torch.testing.assert_close(a.sqrt() * v + (1 - a).sqrt() * x, noise)
    assert target(clean, noise, t) is noise


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: sample(gaussian, x, solver="euler"), "no solver called 'euler'. Known: ddim, dpm++, unipc"),
        (lambda x: sample(gaussian, x, prediction="sample"), "prediction must be one of epsilon, v_prediction"),
        (lambda x: sample(gaussian, x, steps=0), "steps must be 1 to 999; got 0"),
        (lambda x: sample(gaussian, x, eta=2), "eta must be 0"),
        (lambda x: sample(gaussian, x, clean=x, strength=0), "strength must be above 0"),
        (lambda x: hand_over(x, "none", lambda _: x), "handover must be one of official_index, exact"),
        (lambda x: target(x, x, torch.zeros(1), "sample"), "prediction must be one of"),
        (lambda x: check_guidance(2.0, "old", trained_with_dropout=False), "guidance must be 1; got 2.0"),
        (lambda x: check_guidance(-1, "new", trained_with_dropout=True), "guidance must be a number from 0; got -1"),
    ],
)
def test_refusals(call: Callable, words: str) -> None:
    with pytest.raises(InputError) as caught:
        call(torch.zeros(2, 3))
    assert words in str(caught.value)


@pytest.mark.parametrize("together", [True, False])
def test_guidance(together: bool) -> None:
    calls: list[int] = []

    def model(x: Tensor, t: int, mask: Tensor, context: Tensor) -> Tensor:
        calls.append(len(x))
        return x * mask + t * context

    x = array("x", (2, 3), 1)
    condition = (torch.full((2, 1), 3.0), torch.ones(2, 1))
    dropped = (torch.ones(2, 1), torch.zeros(2, 1))
    following, free = model(x, 5, *condition), model(x, 5, *dropped)
    calls.clear()
    plain = guide(model, condition, dropped, 1.0, together=together)(x, 5)
    assert torch.equal(plain, following)
    assert calls == [2]
    guided = guide(model, condition, dropped, 2.5, together=together)(x, 5)
    torch.testing.assert_close(guided, free + 2.5 * (following - free))
    assert calls[1:] == ([4] if together else [2, 2])
    check_guidance(1.0, "old", trained_with_dropout=False)
    check_guidance(2.0, "new", trained_with_dropout=True)
