"""The study of classification: 18 findings, trained on real volumes, and on real and synthetic ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...labels import FINDINGS
from ...training.readers import check_split
from .data import CONDITION_SEEDS, Cases, PhantomCases, open_cases, open_paths
from .learning import Batch, build_classifier, classifier_batches, predict_findings
from .options import ClassifyOptions
from .statistics import MEAN, Classified, auc
from .views import Prepared, Preparer

METRIC = "auc"
WHOLE = "(test set)"  # the case of an AUC, which belongs to none


class Classification:
    """See :class:`ctgencore.tasks.downstream.options.ClassifyOptions`.

    Attributes:
        volumes, test: see :class:`ctgencore.tasks.downstream.study.Task`.

    Raises:
        InputError: a patient is in training and test, or a case has no known findings.
    """

    def __init__(self, options: ClassifyOptions, prepare: Preparer) -> None:
        self.options = options
        needs = any("synthetic" in options.ARMS[arm].views for arm in options.chosen_arms)
        if needs and not options.synthetic:
            prepare.generation.check()
        training, test = open_cases(options)
        check_split(training, test)
        synthetic = self._conditions(training)
        check_split(synthetic, test)
        self.test = prepare(test, ("original",), "test volumes")
        self.volumes: dict[str, list[Prepared]] = {"real": prepare(training, ("original",), "real volumes")}
        if needs:
            drawn = prepare(synthetic, ("original" if options.synthetic else "synthetic",), "synthetic volumes")
            self.volumes["synthetic"] = [replace(item, view="synthetic") for item in drawn]

    def _conditions(self, training: Cases) -> Cases:
        """The synthetic volumes that were given, or whose masks and reports they are drawn from."""
        if self.options.synthetic:
            return open_paths(self.options.synthetic, self.options)
        if self.options.data or self.options.conditions == "same":
            return training
        return Cases(PhantomCases(first_seed=CONDITION_SEEDS, count=self.options.phantoms))

    def build(self) -> nn.Module:
        """A classifier."""
        return build_classifier(self.options, len(FINDINGS))

    def batches(self, items: Sequence[Prepared]) -> Callable[[int, tuple[int, ...]], Batch]:
        """Volumes with findings."""
        return classifier_batches(items, self.options)

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """Mean binary cross-entropy of the findings."""
        return F.binary_cross_entropy_with_logits(output, truth)

    def measure(self, network: nn.Module, arm: str, device: torch.device, tick: Callable[[int], None]) -> list[Any]:
        """Probabilities of each test case."""
        found = []
        for number, item in enumerate(self.test, 1):
            found.append({"case": item.name, "scores": predict_findings(network, item, self.options, device)})
            tick(number)
        return found

    def outcome(self, measured: Sequence[Any]) -> Classified:
        """Truth and probabilities."""
        return Classified(self._truth(), np.array([each["scores"] for each in measured]))

    def keys(self) -> list[tuple[str, str]]:
        """AUC of each finding and their mean."""
        return [(finding.name, METRIC) for finding in FINDINGS] + [(MEAN, METRIC)]

    def counts(self) -> list[int]:
        """Test cases that have the finding; all for the mean."""
        return [*self._truth().sum(0).tolist(), len(self.test)]

    def rows(self, measured: Sequence[Any]) -> Iterable[dict[str, Any]]:
        """AUC of each finding, with the number of cases that have it, and their mean."""
        truth, scores = self._truth(), np.array([each["scores"] for each in measured])
        values = []
        for finding, has, score in zip(FINDINGS, truth.T, scores.T, strict=True):
            [value] = auc(has, score)
            values.append(value)
            note = f"{int(has.sum())} of {len(has)} cases"
            yield {"case": WHOLE, "region": finding.name, "metric": METRIC, "value": float(value), "note": note}
        known = [value for value in values if np.isfinite(value)]
        mean = float(np.mean(known)) if known else float("nan")
        note = f"mean of {len(known)} findings"
        yield {"case": WHOLE, "region": MEAN, "metric": METRIC, "value": mean, "note": note}

    def _truth(self) -> np.ndarray:
        return np.array([item.findings for item in self.test])
