"""Metrics that answer one question together, and the limits of "is this safe for my task?". Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..zoo import lookup
from .table import METRICS

PRESETS: dict[str, tuple[str, ...]] = {
    "reconstruction": (
        *("psnr_255_w2000", "ssim3d_w2000", "ssim_slices_w2000", "mse_255_w2000", "mae_hu", "bias_hu"),
        *("nps_ratio", "edge_shift_mm"),
    ),
    "segmentation": ("dice", "jaccard", "nsd", "hd95_mm", "asd_mm", "volume_ratio", "lesion_recall"),
    "generation": (
        *("fid25d_maisi_v1", "fid_windowed_medsyn2", "fvd_ctclip", "clip_i2i", "clip_t2i", "factual18_zeroshot_auroc"),
        *("fid25d_embedded", "fd_embedded", "kid_embedded", "mmd_embedded"),
        *("mask_dice", "mask_iou", "hallucination_hu", "effect_hu"),
        *("temporal_flicker", "motion_smoothness", "subject_consistency", "background_consistency"),
        *("diversity", "near_duplicate"),
    ),
    "safe-for-my-task": ("eps_phi", "edge_shift_mm", "nps_ratio", "bias_hu"),
}


@dataclass(frozen=True, slots=True)
class Limit:
    """Where a metric stops being harmless.

    Attributes:
        ideal: ``zero`` (distance is the absolute value) or ``one`` (distance is the larger of ratio and its inverse).
        ok, caution: largest distances that are still so.
        text: the limits and where they come from.
    """

    ideal: Literal["zero", "one"]
    ok: float
    caution: float
    text: str

    def distance(self, value: float) -> float:
        """How far a value is from the ideal."""
        if self.ideal == "zero":
            return abs(value)
        return max(value, 1 / value) if value > 0 else float("inf")


SAFETY = {  # CTGen's proposal; a task may need other limits
    "eps_phi": Limit(
        "zero", 0.05, 0.10, "OK to 0.05 (readers differ as much on organs), caution to 0.10; CTGen's proposal"
    ),
    "edge_shift_mm": Limit("zero", 0.25, 0.5, "OK to 0.25 mm, caution to 0.5 mm (a voxel); CTGen's proposal"),
    "nps_ratio": Limit("one", 1.25, 2.0, "OK from 0.8 to 1.25, caution from 0.5 to 2; CTGen's proposal"),
    "bias_hu": Limit(
        "zero", 5.0, 7.0, "OK to 5 HU, caution to 7 HU (tolerances of water in CT quality control); CTGen's proposal"
    ),
}


def expand(asked: Iterable[str]) -> dict[str, bool]:
    """Names of metrics, in order; True where named, False where only a preset has it.

    Raises:
        InputError: neither a metric nor a preset.
    """
    names: dict[str, bool] = {}
    for name in asked:
        if name in PRESETS:
            for metric in PRESETS[name]:
                names.setdefault(metric, False)
        else:
            lookup({**METRICS, **PRESETS}, name, "metric or preset")
            names[name] = True
    return names
