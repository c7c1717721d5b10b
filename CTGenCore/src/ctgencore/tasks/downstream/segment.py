"""The study of segmentation: trained on original volumes, on their reconstructions, and on both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...geometry import Geometry
from ...metrics.overlap import count
from ...metrics.surface import label_surfaces
from ...training.readers import check_split
from ...volume import LabelMap
from ..evaluate_cache import from_json, to_json
from .data import open_cases
from .learning import Batch, build_segmenter, predict_classes, segmenter_batches
from .options import SegmentOptions
from .statistics import MEAN, Segmented
from .views import Prepared, Preparer

METRICS = ("dice", "nsd")
ABSENT = "not in this case"


class Segmentation:
    """See :class:`ctgencore.tasks.downstream.options.SegmentOptions`.

    Attributes:
        volumes, test: see :class:`ctgencore.tasks.downstream.study.Task`.
        matched: reconstructions of the test cases, where they are tested on.
        regions: names of the targets.

    Raises:
        InputError: a patient is in training and test, or the cases have different targets.
    """

    def __init__(self, options: SegmentOptions, prepare: Preparer) -> None:
        self.options = options
        views = ("original", "reconstructed")
        learned = [view for view in views if any(view in options.ARMS[arm].views for arm in options.chosen_arms)]
        if "reconstructed" in learned:
            prepare.reconstruction.check()
        training, test = open_cases(options)
        check_split(training, test)
        tested = prepare(test, views if options.test_view == "matched" else views[:1], "test volumes", native=True)
        self.test, self.matched = ([item for item in tested if item.view == view] for view in views)
        made = prepare(training, learned, "training volumes")
        self.volumes: dict[str, list[Prepared]] = {
            view: [item for item in made if item.view == view] for view in learned
        }
        kinds = {item.targets for item in (*tested, *made)}
        if len(kinds) > 1:
            raise InputError(f"All cases must have the same targets; got {sorted(kinds)}. Correct the label names.")
        [self.regions] = kinds
        from monai.losses import DiceCELoss

        self._loss = DiceCELoss(to_onehot_y=True, softmax=True)

    def build(self) -> nn.Module:
        """A U-Net."""
        return build_segmenter(self.options, len(self.regions) + 1)

    def batches(self, items: Sequence[Prepared]) -> Callable[[int, tuple[int, ...]], Batch]:
        """Patches with classes."""
        return segmenter_batches(items, self.options)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Dice loss plus cross-entropy."""
        return self._loss(output, truth)

    def measure(self, network: nn.Module, arm: str, device: torch.device, tick: Callable[[int], None]) -> list[Any]:
        """Dice and NSD of each target in each test case; None where the case has none of it."""
        items = self.matched if self.matched and self.options.ARMS[arm].views == ("reconstructed",) else self.test
        found = []
        for number, item in enumerate(items, 1):
            assert item.native is not None
            truth = np.load(item.native, allow_pickle=False)
            classes = predict_classes(network, item, self.options, device)
            found.append({"case": item.name, "values": self._compare(truth, classes, item.native_mm)})
            tick(number)
        return found

    def _compare(
        self, truth: np.ndarray, found: np.ndarray, spacing_zyx: tuple[float, float, float]
    ) -> list[list[float | str | None]]:
        """A list of regions for each of :data:`METRICS`."""
        grid = Geometry(truth.shape[::-1], spacing_zyx[::-1])
        reference, test = LabelMap(truth, grid), LabelMap(found, grid)
        overlap = count(reference, test)
        dice = dict(zip(overlap.labels.tolist(), overlap.dice().tolist(), strict=True))
        nsd = {label: each.nsd(self.options.tolerance_mm) for label, each in label_surfaces(reference, test)}
        present = set(np.unique(truth).tolist())
        classes = range(1, len(self.regions) + 1)
        return [[to_json(each[n]) if n in present else None for n in classes] for each in (dice, nsd)]

    def outcome(self, measured: Sequence[Any]) -> Segmented:
        """Values of cases, metrics and regions."""
        return Segmented(np.array([[[from_json(v) for v in line] for line in each["values"]] for each in measured]))

    def keys(self) -> list[tuple[str, str]]:
        """Each metric of each region, then of their mean."""
        return [(region, metric) for metric in METRICS for region in (*self.regions, MEAN)]

    def counts(self) -> list[int]:
        """Test cases that have each region; all for the mean."""
        return [*self._present, len(self.test)] * len(METRICS)

    @cached_property
    def _present(self) -> list[int]:
        found = [set(np.unique(np.load(item.native, mmap_mode="r")).tolist()) for item in self.test if item.native]
        return [sum(number in values for values in found) for number in range(1, len(self.regions) + 1)]

    def rows(self, measured: Sequence[Any]) -> Iterable[dict[str, Any]]:
        """Every value of every case."""
        for each in measured:
            for metric, line in zip(METRICS, each["values"], strict=True):
                for region, kept in zip(self.regions, line, strict=True):
                    value = from_json(kept)
                    note = "" if np.isfinite(value) else ABSENT
                    yield {"case": each["case"], "region": region, "metric": metric, "value": value, "note": note}
