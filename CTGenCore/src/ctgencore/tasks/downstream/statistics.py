"""From outcomes of arms and seeds to means, differences and their confidence intervals. Needs no torch.

Intervals are those of a paired percentile bootstrap: patients of the test set and seeds are drawn with replacement, the
same ones for all arms, and every statistic is computed anew. So they hold both kinds of chance, who was tested and how
training went, as far as a few seeds can show the latter; the data that was trained on is taken as given.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

INTERVAL = "95 %, paired percentile bootstrap over test patients and seeds"
DEFINED = 0.1  # of the samples must define a statistic, or it has no interval (a finding that one patient has)
MEAN = "mean"  # the region of averages over regions


class Outcome(Protocol):
    """What one arm and seed did on the test cases."""

    def statistics(self, weights_RN: np.ndarray) -> np.ndarray:
        """``(R, K)``: each of K statistics with each of R weightings of the N test cases; nan where not defined."""
        ...


@dataclass(frozen=True, slots=True)
class Classified:
    """Probabilities of findings.

    Attributes:
        truth: (cases, findings) 0 or 1.
        scores: (cases, findings), the larger, the likelier.
    """

    truth: np.ndarray
    scores: np.ndarray

    def statistics(self, weights_RN: np.ndarray) -> np.ndarray:
        """AUC of each finding, and their mean over those that both have and lack cases in the whole test set."""
        aucs = np.stack([auc(*pair, weights_RN) for pair in zip(self.truth.T, self.scores.T, strict=True)], 1)
        defined = (self.truth == 1).any(0) & (self.truth == 0).any(0)
        return np.concatenate([aucs, _mean(aucs, defined)], 1)


@dataclass(frozen=True, slots=True)
class Segmented:
    """Values of cases.

    Attributes:
        values: (cases, metrics, regions); nan where a region is not in a case.
    """

    values: np.ndarray

    def statistics(self, weights_RN: np.ndarray) -> np.ndarray:
        """Mean over cases of each metric and region, and after each metric's regions the mean over these."""
        known = np.isfinite(self.values)
        values = np.where(known, self.values, 0)
        with np.errstate(invalid="ignore"):
            means = np.tensordot(weights_RN, values, 1) / np.tensordot(weights_RN, known.astype(float), 1)
        means = np.concatenate([means, _mean(means, known.any((0, 1)))], 2)
        return means.reshape(len(weights_RN), -1)


def auc(truth_N: np.ndarray, scores_N: np.ndarray, weights_RN: np.ndarray | None = None) -> np.ndarray:
    """Area under the ROC curve: the chance that a case with the finding has the higher score, ties counting half.

    Args:
        truth_N: 0 or 1.
        scores_N: any numbers.
        weights_RN: how often each case counts, in each of R samples; once by default.

    Returns:
        (R,); nan where there is no case with the finding or none without.
    """
    weights_RN = np.ones((1, len(truth_N))) if weights_RN is None else weights_RN
    has = truth_N.astype(bool)
    one, other = scores_N[has][:, None], scores_N[~has][None, :]
    wins = (one > other) + 0.5 * (one == other)
    with_it, without = weights_RN[:, has], weights_RN[:, ~has]
    with np.errstate(invalid="ignore"):
        return ((with_it @ wins) * without).sum(1) / (with_it.sum(1) * without.sum(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A statistic of an arm, or its difference to another arm.

    Attributes:
        arm, against: the arm, and the one that is taken off; empty for the statistic itself.
        region, metric: what it is about.
        n: test cases that have the finding or region; all for a mean.
        seeds: how many.
        value: mean over seeds.
        sd_seeds: standard deviation over seeds (n - 1); nan for one.
        ci95: see :data:`INTERVAL`; nan where it is not defined.
    """

    arm: str
    against: str
    region: str
    metric: str
    n: int
    seeds: int
    value: float
    sd_seeds: float
    ci95: tuple[float, float]


def summarize(
    outcomes: Mapping[str, Sequence[Outcome]],
    keys: Sequence[tuple[str, str]],
    counts: Sequence[int],
    patients: Sequence[str],
    draws: int,
) -> list[Line]:
    """Statistics of all arms, then the difference of each arm to each one before it.

    Args:
        outcomes: arm to outcomes, one per seed, the same seeds for all.
        keys: (region, metric) of the statistics.
        counts: test cases that have each.
        patients: whose case each test case is.
        draws: bootstrap samples.
    """
    seeds = len(next(iter(outcomes.values())))
    rng = np.random.default_rng(0)  # the interval of a study is one number, not a matter of luck
    people, whose = np.unique(patients, return_inverse=True)
    cases_RN = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), draws)[:, whose].astype(float)
    seeds_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), draws) / seeds
    whole = {
        arm: np.stack([o.statistics(np.ones((1, len(patients))))[0] for o in each]) for arm, each in outcomes.items()
    }
    drawn = {
        arm: sum(share[:, None] * o.statistics(cases_RN) for share, o in zip(seeds_RS.T, each, strict=True))
        for arm, each in outcomes.items()
    }

    def line(arm: str, against: str, k: int, found_S: np.ndarray, samples_R: np.ndarray) -> Line:
        region, metric = keys[k]
        samples_R = samples_R[np.isfinite(samples_R)]
        defined = len(samples_R) >= DEFINED * draws and np.isfinite(found_S).all()
        low, high = np.quantile(samples_R, (0.025, 0.975)) if defined else (np.nan, np.nan)
        return Line(
            arm=arm,
            against=against,
            region=region,
            metric=metric,
            n=counts[k],
            seeds=seeds,
            value=float(found_S.mean()),
            sd_seeds=float(found_S.std(ddof=1)) if seeds > 1 else float("nan"),
            ci95=(float(low), float(high)),
        )

    arms = list(outcomes)
    lines = [line(arm, "", k, whole[arm][:, k], drawn[arm][:, k]) for arm in arms for k in range(len(keys))]
    pairs = [(arm, other) for place, arm in enumerate(arms) for other in arms[:place]]
    lines += [
        line(arm, other, k, whole[arm][:, k] - whole[other][:, k], drawn[arm][:, k] - drawn[other][:, k])
        for arm, other in pairs
        for k in range(len(keys))
    ]
    return lines


def _mean(values: np.ndarray, defined: np.ndarray) -> np.ndarray:
    """Mean over the last axis, which stays, of the regions that the whole test set defines; nan when one is nan."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of nothing: nan
        return values[..., defined].mean(-1, keepdims=True)
