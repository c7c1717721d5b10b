"""Surface metrics beside DeepMind's ``surface-distance`` on organs of a procedural chest, in one process.

Both get boolean masks of the whole volume and compute surface Dice, HD95 and mean distances; numbers must agree.
The last row measures every label of the map with one call, which the peer has no counterpart for.

python Testing/bench/surface_distance.py [--shape 300 512 512] [--runs 3]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.remove(str(Path(__file__).parent))  # this file has the peer's name

import numpy as np
import surface_distance as peer
from ctgencore import phantom
from ctgencore.labels import LUNG_LOBES, ORGANS
from ctgencore.metrics.surface import label_surfaces, mask_surfaces
from ctgencore.volume import LabelMap
from scipy import ndimage

ORGANS_OF = {
    "lungs": LUNG_LOBES,
    "liver": (1,),
    "heart": (115,),
    "aorta": (6,),
    "ribs": tuple(organ.index for organ in ORGANS.values() if organ.group == "rib"),
    "vertebra T8": (42,),
}


def ours(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    found = mask_surfaces(a, b, spacing)
    return [found.nsd(2.0), found.hausdorff(), found.average()]


def theirs(a: np.ndarray, b: np.ndarray, spacing: tuple[float, float, float]) -> list[float]:
    found = peer.compute_surface_distances(a, b, spacing)
    return [
        peer.compute_surface_dice_at_tolerance(found, 2.0),
        peer.compute_robust_hausdorff(found, 95),
        peer.compute_average_surface_distance(found)[1],
    ]


def timed(function: Callable[..., list], *arguments: object) -> tuple[float, list]:
    started = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - started, result


def disturbed(organs: LabelMap) -> LabelMap:
    """Another reader's map: moved by up to three voxels, smoothly and differently in every place."""
    rng = np.random.default_rng(0)
    coarse = [ndimage.gaussian_filter(rng.normal(size=[n // 8 + 1 for n in organs.shape]), 2) for _ in range(3)]
    voxels = np.empty_like(organs.voxels)
    grid = np.indices(organs.shape[1:])
    for z in range(organs.shape[0]):
        place = np.stack([np.full(organs.shape[1:], z), *grid]) / 8
        moves = [ndimage.map_coordinates(field, place, order=1, mode="nearest") for field in coarse]
        moves = [
            np.rint(np.clip(move / field.std(), -3, 3)).astype(int) for move, field in zip(moves, coarse, strict=True)
        ]
        index = [np.full(organs.shape[1:], z), *grid]
        source = [np.clip(i + m, 0, n - 1) for i, m, n in zip(index, moves, organs.shape, strict=True)]
        voxels[z] = organs.voxels[tuple(source)]
    return LabelMap(voxels, organs.geometry)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=(300, 512, 512), metavar=("Z", "Y", "X"))
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)  # the peer's own
    organs = phantom.chest(tuple(arguments.shape), seed=1).organs
    other = disturbed(organs)
    spacing = organs.geometry.spacing_zyx
    print(f"{organs}\n\n| organ | elements | CTGen s | surface-distance s | ratio | NSD 2 mm | HD95 mm |")
    print("|---|---|---|---|---|---|---|")
    for name, ids in ORGANS_OF.items():
        a, b = (np.isin(labels.voxels, ids) for labels in (organs, other))
        elements = mask_surfaces(a, b, spacing).reference.areas.size  # also warms up
        mine, peers = [], []
        for _ in range(arguments.runs):
            seconds, x = timed(ours, a, b, spacing)
            mine.append(seconds)
            seconds, y = timed(theirs, a, b, spacing)
            peers.append(seconds)
            np.testing.assert_allclose(x, y, rtol=1e-9)
        fast, slow = statistics.median(mine), statistics.median(peers)
        print(f"| {name} | {elements:,} | {fast:.2f} | {slow:.2f} | {slow / fast:.1f} | {x[0]:.3f} | {x[1]:.2f} |")
    seconds, found = timed(lambda: list(label_surfaces(organs, other)))
    elements = sum(surfaces.reference.areas.size for _, surfaces in found)
    print(f"| all {len(found)} labels | {elements:,} | {seconds:.2f} | | | | |")


if __name__ == "__main__":
    main()
