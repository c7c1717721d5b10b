"""Distances between two sets of feature vectors: Fréchet, and maximum mean discrepancy (KID and its like).

The Fréchet distance of two normal distributions (Dowson and Landau 1982; FID: Heusel et al. 2017) is
``|m1 - m2|^2 + tr C1 + tr C2 - 2 tr (C1 C2)^(1/2)``. With ``C = F' F`` the last trace is the sum of the singular values
of ``F1 F2'``: no root of a matrix that is not symmetric is taken, and sets with fewer rows than features, whose
covariances are singular, are as exact as any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from ..errors import InputError

Kernel: TypeAlias = Callable[[np.ndarray, np.ndarray], np.ndarray]

KID_SUBSETS, KID_ROWS = 100, 1000  # Binkowski et al. 2018


@dataclass(frozen=True, slots=True)
class Gaussian:
    """A normal distribution fitted to rows.

    Attributes:
        mean: (features,) float64.
        factor: (k, features) float64; ``factor.T @ factor`` is the covariance (n - 1 in its denominator).
    """

    mean: np.ndarray
    factor: np.ndarray

    @staticmethod
    def fit(arrays: Sequence[np.ndarray]) -> Gaussian:
        """Fit to all rows of several (n, features) arrays, one at a time.

        Raises:
            InputError: fewer than two rows, or features that are not finite.
        """
        rows = sum(len(array) for array in arrays)
        if rows < 2:
            raise InputError(f"A covariance needs two rows of features at least; got {rows}. Give more volumes.")
        mean = sum(array.sum(0, dtype=np.float64) for array in arrays) / rows
        if not np.isfinite(mean).all():
            raise InputError("Features must be finite; some are not. Check the volumes and the extractor's weights.")
        if rows < mean.size:
            factor = np.concatenate([array - mean for array in arrays])
        else:
            products = np.zeros((mean.size, mean.size))
            for array in arrays:
                centered = array - mean
                products += centered.T @ centered
            values, vectors = np.linalg.eigh(products)
            factor = (vectors * np.sqrt(values.clip(0))).T
        return Gaussian(mean, factor / np.sqrt(rows - 1))


def distance(one: Gaussian, two: Gaussian) -> float:
    """Squared Fréchet distance of two normal distributions."""
    shift = one.mean - two.mean
    spread = np.square(one.factor).sum() + np.square(two.factor).sum()
    common = np.linalg.svd(one.factor @ two.factor.T, compute_uv=False).sum()
    return max(float(shift @ shift + spread - 2 * common), 0.0)  # rounding can take equal sets below zero


def frechet(test: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> float:
    """Squared Fréchet distance of two sets, each given as several (n, features) arrays.

    Raises:
        InputError: see :meth:`Gaussian.fit`.
    """
    return distance(Gaussian.fit(test), Gaussian.fit(reference))


def frechet_chunks(test: Sequence[np.ndarray], reference: Sequence[np.ndarray], size: int = 4) -> float:
    """Mean of the Fréchet distances of consecutive chunks of ``size`` pairs, as VLM3D's evaluation has it.

    Covariances of a chunk have rank ``size - 1`` at most, so the result is dominated by sampling error and depends on
    the order of the volumes: compare it with numbers that were made in the same way, and with nothing else. A last
    chunk of one pair, which has no covariance (there it ends in NaN), is left out.

    Raises:
        InputError: the sets differ in length, or hold fewer than two volumes.
    """
    if len(test) != len(reference) or len(test) < 2:
        raise InputError(
            f"Chunks are made of pairs, two at least; got {len(test)} volumes under test and {len(reference)} of "
            "reference. Give as many of each, or use the distance of whole sets."
        )
    starts = range(0, len(test) - 1, size)
    return float(np.mean([frechet(test[i : i + size], reference[i : i + size]) for i in starts]))


def polynomial_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``(x.y / features + 1)^3``, the kernel of KID."""
    base = x @ y.T / x.shape[1] + 1
    return base * base * base


def gaussian_kernel(width: float) -> Kernel:
    """``exp(-|x - y|^2 / (2 width^2))``."""
    return lambda x, y: np.exp(-squared_distances(x, y) / (2 * width**2))


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Squared Euclidean distances of all rows of ``x`` (n, d) to all of ``y`` (m, d): (n, m)."""
    squares = np.square(x).sum(1)[:, None] + np.square(y).sum(1)[None, :] - 2 * x @ y.T
    return np.maximum(squares, 0)


def median_distance(x: np.ndarray) -> float:
    """Median distance between different rows: the usual width of a Gaussian kernel (Gretton et al. 2012, section 8)."""
    return float(np.median(np.sqrt(squared_distances(x, x)[np.triu_indices(len(x), 1)])))


def mmd(x: np.ndarray, y: np.ndarray, kernel: Kernel) -> float:
    """Unbiased squared maximum mean discrepancy of rows (n, d) and (m, d) (Gretton et al. 2012, equation 3).

    Around zero for equal distributions, so it can be slightly negative.

    Raises:
        InputError: fewer than two rows in one of them.
    """
    if min(len(x), len(y)) < 2:
        raise InputError(
            f"A discrepancy needs two rows of features in each set at least; got {len(x)} and {len(y)}. "
            "Give more volumes."
        )
    x, y = x.astype(np.float64), y.astype(np.float64)
    within = [(k.sum() - np.trace(k)) / (len(k) * (len(k) - 1)) for k in (kernel(x, x), kernel(y, y))]
    return float(sum(within) - 2 * kernel(x, y).mean())


def mmd_subsets(
    test: Sequence[np.ndarray], reference: Sequence[np.ndarray], kernel: Kernel, seed: int
) -> tuple[float, float, int]:
    """Unbiased squared discrepancy of two sets of (n, features) arrays, and its spread over 100 random subsets.

    Where either set has more than 1000 rows the value is the mean over subsets of 1000 rows, as KID is published
    (Binkowski et al. 2018). Else it is that of all rows, and the subsets are half as large as the smaller set: their
    spread then estimates the standard error of the value.

    Returns:
        Value, standard deviation over the subsets (nan where a set has fewer than four rows), rows in a subset.

    Raises:
        InputError: see :func:`mmd`.
    """
    counts = [sum(len(array) for array in arrays) for arrays in (test, reference)]
    few = max(counts) <= KID_ROWS
    whole = mmd(np.concatenate(test), np.concatenate(reference), kernel) if few else float("nan")
    size = min(counts) // 2 if few else min(*counts, KID_ROWS)
    if size < 2:
        return whole, float("nan"), size
    rng = np.random.default_rng(seed)
    draws = [mmd(draw_rows(test, size, rng), draw_rows(reference, size, rng), kernel) for _ in range(KID_SUBSETS)]
    return (whole if few else float(np.mean(draws))), float(np.std(draws)), size


def draw_rows(arrays: Sequence[np.ndarray], count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` different rows (all, where there are fewer) of several (n, features) arrays, without joining them."""
    ends = np.cumsum([len(array) for array in arrays])
    picks = np.sort(rng.permutation(ends[-1])[:count])
    return np.concatenate(
        [
            array[picks[(picks >= end - len(array)) & (picks < end)] - (end - len(array))]
            for array, end in zip(arrays, ends, strict=True)
        ]
    )
