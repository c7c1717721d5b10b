"""Realism of a set of volumes beside a reference set: Fréchet distances, KID, maximum mean discrepancy.

Each row is one recipe: features of a row of :data:`ctgencore.metrics.extractors.EXTRACTORS` and one statistic. Beside
the number there is always the same number of the reference set against itself (``real vs real``): its volumes are split
in two by the seed. The halves are smaller than the sets, so their distance is rather too large than too small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from ..errors import InputError
from .base import Context, Metric, Value
from .extractors import MEDSYN2_WINDOWS, PLANES
from .frechet import (
    KID_ROWS,
    KID_SUBSETS,
    draw_rows,
    frechet_chunks,
    gaussian_kernel,
    median_distance,
    mmd_subsets,
    polynomial_kernel,
)
from .frechet import frechet as frechet_distance

Set: TypeAlias = Sequence[np.ndarray]
Score: TypeAlias = tuple[float, float]  # value, and its standard deviation or nan
Statistic: TypeAlias = Callable[[Set, Set], Score]

BASELINE, AVERAGE = "real vs real", "average"
CHUNK = 4


def frechet(
    test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context
) -> list[Value]:
    """Fréchet distance per plane and window, and their averages.

    Raises:
        InputError: a set has fewer rows than features, and ``allow_small`` is not set; or fewer than two rows.
    """
    (name,) = names
    return _measure(name, test, reference, context, lambda x, y: (frechet_distance(x, y), np.nan), fits_covariance=True)


def frechet_chunk4(
    test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context
) -> list[Value]:
    """Mean of the Fréchet distances of chunks of four pairs.

    Raises:
        InputError: see :func:`ctgencore.metrics.frechet.frechet_chunks`.
    """
    (name,) = names
    note = f"chunks of {CHUNK} pairs: covariances of rank {CHUNK - 1}; compare with numbers made in this way alone"
    if len(test) % CHUNK == 1:
        note += "; the last pair is alone in its chunk and left out"
    return _measure(name, test, reference, context, lambda x, y: (frechet_chunks(x, y, CHUNK), np.nan), note=note)


def kid(test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context) -> list[Value]:
    """Unbiased squared discrepancy with KID's polynomial kernel, and its standard deviation over subsets.

    Raises:
        InputError: fewer than two rows in a set.
    """
    (name,) = names
    return _measure(name, test, reference, context, lambda x, y: mmd_subsets(x, y, polynomial_kernel, context.seed)[:2])


def mmd(test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context) -> list[Value]:
    """Unbiased squared discrepancy with a Gaussian kernel as wide as the median distance within the reference set.

    Raises:
        InputError: fewer than two rows in a set, or a reference set of equal rows.
    """
    (name,) = names
    rows = draw_rows(_layers(reference)[0], KID_ROWS, np.random.default_rng(context.seed)).astype(np.float64)
    width = median_distance(rows) if len(rows) > 1 else np.nan
    if not width > 0:
        raise InputError(
            f"The Gaussian kernel is as wide as the median distance within the reference set; that of its {len(rows)} "
            f"row(s) is {width:g}. Give two or more different reference volumes."
        )
    kernel = gaussian_kernel(width)
    return _measure(name, test, reference, context, lambda x, y: mmd_subsets(x, y, kernel, context.seed)[:2])


# --- what all have in common -----------------------------------------------------------------------------------------


def _measure(
    name: str,
    test: Set,
    reference: Set,
    context: Context,
    statistic: Statistic,
    *,
    fits_covariance: bool = False,
    note: str = "",
) -> list[Value]:
    """The statistic in each region, averages where there are several, and the reference set against itself."""
    tests, references = _layers(test), _layers(reference)
    size = tests[0][0].shape[1]
    rows = [sum(len(array) for array in layers[0]) for layers in (tests, references)]
    notes = [f"N = {len(test)} and {len(reference)} volumes ({rows[0]} and {rows[1]} rows of {size} features)"]
    if fits_covariance and min(rows) < size:
        if not context.options.get("allow_small", False):
            raise InputError(
                f"{name} fits covariances of {size} features, which takes at least {size} rows in each set; got "
                f"{rows[0]} ({len(test)} volumes under test) and {rows[1]} ({len(reference)} of reference). Give more "
                "volumes, use KID or MMD (kid_radimagenet, kid_embedded, mmd_embedded), which have no such bias, or "
                "add --allow-small and compare with numbers of as many volumes only."
            )
        notes.append("fewer rows than features: biased upwards")
    notes += [note] if note else []
    halves, why = _halves(reference, context.seed)

    regions = _regions(len(tests))
    scores, values, baseline = [], [], []
    for region, x, y in zip(regions, tests, references, strict=True):
        score, deviation = statistic(x, y)
        scores.append(score)
        values.append(Value(name, score, region, note="; ".join(notes)))
        if np.isfinite(deviation):
            spread = "sd" if region == "all" else f"{region} sd"
            values.append(Value(name, deviation, spread, note=f"standard deviation over {KID_SUBSETS} random subsets"))
        if halves:
            baseline.append(statistic(*([y[i] for i in half] for half in halves))[0])
    if len(regions) > len(PLANES):
        for i, window in enumerate(MEDSYN2_WINDOWS):
            mean = float(np.mean(scores[i * len(PLANES) : (i + 1) * len(PLANES)]))
            values.append(Value(name, mean, f"{window.name} {AVERAGE}"))
    if len(regions) > 1:
        values.append(Value(name, float(np.mean(scores)), AVERAGE, note="; ".join(notes)))
    if fits_covariance and any(sum(len(references[0][i]) for i in half) < size for half in halves):
        why += "; fewer rows than features: biased upwards"
    values.append(Value(name, float(np.mean(baseline)) if baseline else float("nan"), BASELINE, note=why))
    return values


def _layers(arrays: Set) -> list[list[np.ndarray]]:
    """Per plane or window: the (n, features) arrays of all volumes.

    Raises:
        InputError: there are none.
    """
    if not arrays:
        raise InputError("A set metric needs a volume with features in each set at least; one set has none.")
    planes = [array[None] if array.ndim == 2 else array for array in arrays]
    return [[array[i] for array in planes] for i in range(len(planes[0]))]


def _regions(count: int) -> tuple[str, ...]:
    if count == 1:
        return ("all",)
    if count == len(PLANES):
        return PLANES
    return tuple(f"{window.name} {plane}" for window in MEDSYN2_WINDOWS for plane in PLANES)


def _halves(reference: Set, seed: int) -> tuple[list[list[int]], str]:
    """Two halves of equal size (one volume is left out of an odd number), and a note; none where rows are too few."""
    half = len(reference) // 2
    order = np.random.default_rng(seed).permutation(len(reference)).tolist()
    halves = [order[:half], order[half : 2 * half]]
    if any(sum(reference[i].shape[-2] for i in each) < 2 for each in halves):
        return [], f"{len(reference)} reference volumes are too few to be split in two sets that have a spread"
    return halves, f"{half} reference volumes against {half} others"


_OURS = "Ours: the embedded extractor works offline; its numbers compare with each other only. "


def _row(*, name: str, title: str, function: str, extractor: str, source: str) -> Metric:
    return Metric(
        name=name,
        title=title,
        better="lower",
        kind="set",
        needs=("reference",),
        function=f"realism:{function}",
        extractor=extractor,
        source=source,
    )


METRICS = (
    _row(
        name="fid25d_maisi_v1",
        title="FID 2.5D (MAISI)",
        function="frechet",
        extractor="radimagenet_planes",
        source="NV-Generate-CT (MAISI), 2.5D FID, also in VLM3D: MONAI's FIDMetric on RadImageNet ResNet-50 features "
        "of all slices per plane, and the mean of the planes. Padding counts as slices, so short scans score padding; "
        "slices of one volume are not independent. Ours takes no sqrtm: equal to FIDMetric where that is accurate.",
    ),
    _row(
        name="fid_windowed_medsyn2",
        title="FID per window (MedSyn2)",
        function="frechet",
        extractor="radimagenet_windows",
        source="MedSyn2, table 1 and section 7.1: four windows, three planes, RadImageNet ResNet-50. The paper leaves "
        "open the grid, the scaling to the network and which slices; ours are those of fid25d_maisi_v1, with each "
        "window in the place of [-1000, 1000] HU.",
    ),
    _row(
        name="fvd_ctclip",
        title="FVD, CT-CLIP",
        function="frechet",
        extractor="ctclip_image",
        source="Foundation VAE, table 2 (FVD_CT-CLIP). The paper leaves open which features; ours are the 512 image "
        "latents, L2-normalised, which fits the size of its numbers (0.30 to 0.83). Its 30 normal and 50 diseased "
        "test volumes are fewer than the features: as few take --allow-small here, and the number is mostly bias.",
    ),
    _row(
        name="fvd_i3d",
        title="FVD, I3D",
        function="frechet",
        extractor="i3d_logits",
        source="VideoGPT and StyleGAN-V: 400 logits of I3D (Kinetics-400). TRACE, table 2, does not say how a volume "
        "becomes a video; ours: every run of 16 axial slices, none used twice, [-1000, 1000] HU as grey.",
    ),
    _row(
        name="fvd_ctnet_full",
        title="FVD, CT-Net, whole sets",
        function="frechet",
        extractor="ctnet",
        source="VLM3D challenge (FVD_CTNet): its features, but one distance between the whole sets.",
    ),
    _row(
        name="fvd_ctnet_chunk4",
        title="FVD, CT-Net, chunks of four (VLM3D)",
        function="frechet_chunk4",
        extractor="ctnet",
        source="VLM3D challenge (FVD_CTNet): mean over chunks of four pairs. Covariances of rank 3 in 96 features: far "
        "above fvd_ctnet_full, and dependent on the order. A last chunk of one pair, NaN there, is left out.",
    ),
    _row(
        name="kid_radimagenet",
        title="KID, RadImageNet",
        function="kid",
        extractor="radimagenet_planes",
        source="Binkowski et al. 2018 (cubic kernel, unbiased, 100 subsets of 1000 rows) on the features of "
        "fid25d_maisi_v1, per plane. Not multiplied by 1000.",
    ),
    _row(
        name="kid_embedded",
        title="KID, embedded",
        function="kid",
        extractor="embedded",
        source=_OURS + "Binkowski et al. 2018, on one row per volume: for small sets. Not multiplied by 1000.",
    ),
    _row(
        name="mmd_embedded",
        title="MMD, embedded",
        function="mmd",
        extractor="embedded",
        source=_OURS + "Gretton et al. 2012, equation 3: squared, unbiased, Gaussian kernel as wide as the median "
        "distance within the reference set. For small sets.",
    ),
    _row(
        name="fid25d_embedded",
        title="FID 2.5D, embedded",
        function="frechet",
        extractor="embedded_planes",
        source=_OURS + "As fid25d_maisi_v1 with 48 slices per plane at 2 mm, none of them padding.",
    ),
    _row(
        name="fd_embedded",
        title="Fréchet distance, embedded",
        function="frechet",
        extractor="embedded",
        source=_OURS + "One row per volume, as an FVD.",
    ),
)
