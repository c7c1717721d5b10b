"""A probe that says from a CT and its organ mask which of the 18 findings are there: one logistic regression each.

python Testing/bench/probe.py [--phantoms 360] [--workers 2]

It learns on phantoms of its own (seeds from 910000), seen through the ``embedded`` codec, since no generator in its
latent space can draw what the codec loses. A quarter of them is held out; the AUC there says which findings it sees.
Features are kept in ``runs/bench``: drawing the phantoms takes minutes, the fit a second.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from ctgencore import labels, phantom
from ctgencore.codecs.base import Codec
from ctgencore.intensity import WINDOWS
from scipy import ndimage, optimize

SHAPE_ZYX = (64, 128, 128)
FIRST_SEED = 910_000
STREAM = 99
PREVALENCE = 0.2
HELD_OUT = 4  # every fourth phantom
STRENGTH = 0.01  # of the L2 penalty
CHOSEN = 120  # features per finding, those that differ most on the training phantoms
VISIBLE_AUC = 0.8
FORMAT = 1  # of the features
SAVED_EVERY = 20  # phantoms
CACHE = Path(__file__).resolve().parents[2] / "runs" / "bench"
AORTA, HEART, STERNUM, SUPERIOR_VENA_CAVA = 6, 115, 122, 125
NAMES = tuple(finding.name for finding in labels.FINDINGS)

AIR_TO_BONE = (-980, -940, -900, -850, -800, -700, -600, -450, -300, -150, -30, 20, 60, 130, 250)
BRIGHT = (130, 200, 300, 450, 700)
METAL = (300, 500, 700, 900)
SOFT = (-150, -60, -20, 5, 30, 60, 100, 150)
PATCHES = (-150, -80, -40, 40, 80, 150, 250, 400, 600)
WALLS = (-80, -40, 0, 40, 80, 150, 300)
SCALES_MM = (2.0, 4.0, 8.0, 16.0)
TAILS = (0.001, 0.02, 0.5, 0.98, 0.999)


# --- features --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Regions:
    """Where to look, from an organ mask of the healthy anatomy; (Z, Y, X) bool.

    Attributes:
        spacing_zyx: mm.
        lung: lobes with their vessels and airways.
        lobes: the five lobes.
        clear: lung without its outermost voxel, vessels, airways and the voxel beside them.
        clear_lobes: the five lobes of that.
        airway_rings: airways inside the lungs, and two shells of a voxel around them.
        lung_parts: lung, its rim, what lies deeper, what lies around airways.
        dependent: see :func:`_dependent`.
        heart_parts: core, inner rim, and both sides of its surface without lung.
        walls: where calcium, nodes, devices lie: aortic wall, heart, mediastinum, skin, superior vena cava, sternum.
        outside: air beside the skin.
        chest_wall: outer 3 cm of the body.
    """

    spacing_zyx: tuple[float, float, float]
    lung: np.ndarray
    lobes: list[np.ndarray]
    clear: np.ndarray
    clear_lobes: list[np.ndarray]
    airway_rings: list[np.ndarray]
    lung_parts: list[np.ndarray]
    dependent: list[np.ndarray]
    heart_parts: list[np.ndarray]
    walls: list[np.ndarray]
    outside: np.ndarray
    chest_wall: np.ndarray

    @staticmethod
    def of(organs: np.ndarray, spacing_zyx: tuple[float, float, float]) -> Regions:
        lung = np.isin(organs, (*labels.LUNG_LOBES, labels.VESSEL, labels.AIRWAY))
        depth = _away(~lung, spacing_zyx)
        airway = organs == labels.AIRWAY
        tubes = np.isin(organs, (labels.VESSEL, labels.AIRWAY, labels.TRACHEA))
        clear = ndimage.binary_erosion(lung) & ~ndimage.binary_dilation(tubes)
        shells = [airway, *(ndimage.binary_dilation(airway, iterations=n) for n in (1, 2))]
        heart, aorta, body = organs == HEART, organs == AORTA, organs > 0
        inner = _away(~heart, spacing_zyx)
        below_skin = _away(~body, spacing_zyx)
        middle = (organs == labels.BODY) & (
            (_away(organs == labels.TRACHEA, spacing_zyx) < 45) | (_away(aorta, spacing_zyx) < 15)
        )
        return Regions(
            spacing_zyx=spacing_zyx,
            lung=lung,
            lobes=[organs == lobe for lobe in labels.LUNG_LOBES],
            clear=clear,
            clear_lobes=[clear & (organs == lobe) for lobe in labels.LUNG_LOBES],
            airway_rings=[airway, *(lung & wide & ~narrow for narrow, wide in pairwise(shells))],
            lung_parts=[
                lung,
                lung & (depth < 8),
                lung & (depth >= 8),
                lung & (_away(airway, spacing_zyx) < 7),
            ],
            dependent=_dependent(lung & (depth < 14)),
            heart_parts=[
                heart & (inner > 6),
                heart & (inner <= 6),
                (inner < 8) & (_away(heart, spacing_zyx) < 8) & ~lung,
            ],
            walls=[
                _away(aorta, spacing_zyx) < 4,
                heart,
                middle,
                body & (below_skin < 6),
                organs == SUPERIOR_VENA_CAVA,
                organs == STERNUM,
            ],
            outside=~body & (_away(body, spacing_zyx) < 12),
            chest_wall=body & (below_skin < 30) & ~lung,
        )


def features(hu: np.ndarray, regions: Regions) -> np.ndarray:
    """Numbers (n,) float32 about lobes, pleura, airways, heart, vessels, mediastinum and chest wall of (Z, Y, X) HU."""
    hu = hu.astype(np.float32)
    bands = _bands(hu, regions.lung, regions.spacing_zyx)
    per_lobe = np.stack([_texture(hu, bands, lobe) for lobe in regions.lobes])
    parts = [*(np.sort(per_lobe, axis=0)[[0, 2, 4]]), per_lobe.mean(axis=0)]  # a finding of one lobe moves an end
    parts += [_texture(hu, bands, part) for part in regions.lung_parts]
    parts += [_shares(hu, part, AIR_TO_BONE) for part in regions.dependent]
    for part in regions.heart_parts:
        parts += [_shares(hu, part, BRIGHT), _shares(hu, part, SOFT), _tails(hu, part)]
    hot = hu - ndimage.gaussian_filter(hu, [8 / mm for mm in regions.spacing_zyx])
    for part in regions.walls:
        parts += [_tails(hu, part), _tails(hot, part)]
    aortic_wall, heart, middle = regions.walls[:3]
    parts += [_shares(hu, middle, SOFT), _shares(hot, aortic_wall, BRIGHT), _shares(hot, heart, BRIGHT)]
    parts += [_tails(hu, regions.outside), _shares(hu, regions.chest_wall, METAL)]

    clear = regions.clear
    typical = np.median(hu[clear])
    excess = hu - bands[0] - bands[1] - typical  # smooth, and free of how deeply the patient breathes
    per_lobe = np.stack([_patches(hu, excess, bands, lobe) for lobe in regions.clear_lobes])
    parts += [
        *(np.sort(per_lobe, axis=0)[[0, 2, 4]]),
        per_lobe.mean(axis=0),
        _patches(hu, excess, bands, clear),
        [typical],
    ]
    for ring in regions.airway_rings:
        parts += [_shares(hu - typical, ring, WALLS), _tails(hu - typical, ring), _tails(bands[0], ring)]
    return np.concatenate(parts).astype(np.float32)


def _away(mask: np.ndarray, spacing_zyx: tuple[float, float, float]) -> np.ndarray:
    """Distance in mm from a mask, 0 in it."""
    if not mask.any():
        return np.full(mask.shape, np.inf, np.float32)
    return ndimage.distance_transform_edt(~mask, sampling=spacing_zyx)


def _shares(values: np.ndarray, region: np.ndarray, edges: tuple[int, ...]) -> np.ndarray:
    """Square roots of the shares of a region between neighboring edges and beyond the outer ones."""
    chosen = values[region]
    counts = np.bincount(np.digitize(chosen, edges), minlength=len(edges) + 1)
    return np.sqrt(counts / max(1, len(chosen)))


def _tails(values: np.ndarray, region: np.ndarray) -> np.ndarray:
    chosen = values[region]
    return np.quantile(chosen, TAILS) if len(chosen) else np.zeros(len(TAILS))


def _bands(hu: np.ndarray, lung: np.ndarray, spacing_zyx: tuple[float, float, float]) -> list[np.ndarray]:
    """Differences of Gaussians within the lungs; what lies outside does not blur in."""
    weight, value = lung.astype(np.float32), np.where(lung, hu, 0)
    smooth = [hu]
    for scale in SCALES_MM:
        sigma = [scale / mm for mm in spacing_zyx]
        near = ndimage.gaussian_filter(weight, sigma, truncate=2.5)
        smooth.append(ndimage.gaussian_filter(value, sigma, truncate=2.5) / np.maximum(near, 1e-3))
    return [fine - coarse for fine, coarse in itertools.pairwise(smooth)]


def _texture(hu: np.ndarray, bands: list[np.ndarray], region: np.ndarray) -> np.ndarray:
    """Histogram and, by scale, spread and tails of a region of the lungs."""
    parts = [_shares(hu, region, AIR_TO_BONE), _tails(hu, region)]
    for band in bands:
        chosen = band[region]
        parts += [[chosen.std()] if len(chosen) else [0.0], _tails(band, region)]
    return np.concatenate(parts)


def _patches(hu: np.ndarray, excess: np.ndarray, bands: list[np.ndarray], region: np.ndarray) -> np.ndarray:
    """Texture, and how much of a region is denser or thinner than the patient's lungs are."""
    return np.concatenate([_texture(hu, bands, region), _shares(excess, region, PATCHES), _tails(excess, region)])


def _dependent(rim: np.ndarray) -> list[np.ndarray]:
    """Back and lower thirds of the pleural rim, left and right of the middle: where fluid collects."""
    z, y, x = np.nonzero(rim)
    if not len(z):
        return [rim] * 4
    back, low, middle = np.quantile(y, 0.67), np.quantile(z, 0.33), np.median(x)
    parts = []
    for side in (x < middle, x >= middle):
        for place in (y > back, z < low):
            part = np.zeros_like(rim)
            keep = side & place
            part[z[keep], y[keep], x[keep]] = True
            parts.append(part)
    return parts


# --- phantoms --------------------------------------------------------------------------------------------------------


@cache
def codec() -> Codec:
    return Codec.from_pretrained("embedded", device="cpu")


def sample(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and the 18 labels of one phantom, each finding there with the same probability."""
    rng = np.random.default_rng((seed, STREAM))
    wanted = [name for name in NAMES if rng.uniform() < PREVALENCE]
    drawn = phantom.chest(SHAPE_ZYX, seed=seed, findings=wanted)
    hu = np.rint(codec().reconstruct_hu(drawn.ct.voxels, WINDOWS["wide"]))
    present = np.array([name in drawn.finding_names for name in NAMES])
    return features(hu, Regions.of(drawn.organs.voxels, drawn.ct.geometry.spacing_zyx)), present


def _alone() -> None:
    import torch

    torch.set_num_threads(1)  # one process per core does more than many threads


def samples(count: int, workers: int) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, n) and labels (count, 18), from the cache where they are there."""
    sources = sorted(Path(phantom.__file__).parent.glob("*.py"))
    key = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    key.update(f"{FORMAT} {SHAPE_ZYX} {PREVALENCE} {codec().weights}".encode())
    path = CACHE / f"probe-{key.hexdigest()[:12]}.npz"
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    if path.is_file():
        with np.load(path) as held:
            rows = list(zip(held["x"], held["y"], strict=True))
    todo = range(FIRST_SEED + len(rows), FIRST_SEED + count)
    path.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_alone) as pool:
        for row in pool.map(sample, todo):
            rows.append(row)
            if len(rows) % SAVED_EVERY == 0 or len(rows) == count:  # an interrupted run goes on from here
                np.savez(path, x=np.stack([x for x, _ in rows]), y=np.stack([y for _, y in rows]))
    return np.stack([x for x, _ in rows[:count]]), np.stack([y for _, y in rows[:count]])


# --- regression ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """Eighteen logistic regressions on standardized features.

    Attributes:
        mean, deviation: (n,) of the features.
        weights, bias: (n, 18) and (18,).
        auc: name to area under the curve on held-out phantoms.
    """

    mean: np.ndarray
    deviation: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    auc: dict[str, float]

    def logits(self, x: np.ndarray) -> np.ndarray:
        """(..., 18) from features (..., n)."""
        return _standard(x, self.mean, self.deviation) @ self.weights + self.bias

    @property
    def seen(self) -> list[str]:
        """Findings with a held-out AUC of at least 0.8."""
        return [name for name in NAMES if self.auc[name] >= VISIBLE_AUC]


def _standard(x: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    return np.clip((x - mean) / deviation, -4, 4)


def train(count: int = 360, workers: int = 2) -> Probe:
    """Fit on three quarters of the phantoms, measure on the others."""
    x, y = samples(count, workers)
    held = np.arange(len(x)) % HELD_OUT == HELD_OUT - 1
    mean, deviation = x[~held].mean(0), x[~held].std(0) + 1e-6
    z = _standard(x, mean, deviation)
    weights, bias = np.zeros((z.shape[1], len(NAMES))), np.zeros(len(NAMES))
    for k in range(len(NAMES)):
        present = y[~held, k]
        gap = np.abs(z[~held][present].mean(0) - z[~held][~present].mean(0))
        chosen = np.argsort(-gap)[:CHOSEN]
        weights[chosen, k], bias[k] = _fit(z[~held][:, chosen], present)
    scores = z[held] @ weights + bias
    curve = {name: auc(scores[:, k], y[held, k]) for k, name in enumerate(NAMES)}
    return Probe(mean, deviation, weights, bias, curve)


def _fit(z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, float]:
    """Weights and bias of an L2-regularized logistic regression."""
    sign = np.where(y, 1.0, -1.0)

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        w, b = parameters[:-1], parameters[-1]
        margin = sign * (z @ w + b)
        slope = -sign / (1 + np.exp(np.clip(margin, -50, 50))) / len(y)
        gradient = np.append(z.T @ slope + STRENGTH * w, slope.sum())
        return float(np.logaddexp(0, -margin).mean() + STRENGTH / 2 * w @ w), gradient

    best = optimize.minimize(loss, np.zeros(z.shape[1] + 1), jac=True, method="L-BFGS-B", options={"maxiter": 500}).x
    return best[:-1], float(best[-1])


def auc(scores: np.ndarray, present: np.ndarray) -> float:
    """Probability that a phantom with the finding scores higher than one without; nan if there is only one kind."""
    with_it, without = scores[present], scores[~present]
    if not len(with_it) or not len(without):
        return float("nan")
    return float((np.sign(with_it[:, None] - without[None]).mean() + 1) / 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phantoms", type=int, default=360)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    probe = train(arguments.phantoms, arguments.workers)
    print("| finding | held-out AUC |\n|---|---|")
    for name, value in probe.auc.items():
        print(f"| {name} | {value:.2f} |")


if __name__ == "__main__":
    main()
