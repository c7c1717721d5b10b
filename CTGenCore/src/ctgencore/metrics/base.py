"""What a metric is: a row of :data:`METRICS`, a case to measure, values. Needs no torch.

Metrics come in two kinds. A *case* metric compares one volume with its reference, mask or report. A *set* metric
compares many volumes with many: each volume is turned into features once, by a row of :data:`EXTRACTORS`, and the
features of both sets are reduced to numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np

from ..volume import LabelMap, Volume

Need: TypeAlias = Literal["reference", "labels", "test_labels", "diseases", "twin", "report", "findings"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One recipe.

    Attributes:
        name: says the recipe, such as ``psnr_255_w2000``; what users ask for and what results are filed under.
        title: for people.
        unit: ``dB``, ``HU``, ``mm``, ``%``, or empty.
        better: ``higher``, ``lower``, ``zero`` (either side is worse), or empty where neither is.
        kind: ``case`` or ``set``.
        needs: parts of :class:`Case` that must be there, beside the volume under test.
        function: ``module:function`` below :mod:`ctgencore.metrics`. Several metrics may share one, which then measures
            all of those asked for at once. Of kind ``case``: ``(case, names, context) -> list[Value]``; of kind
            ``set``: ``(test, reference, names, context) -> list[Value]`` with two lists of feature arrays.
        extractor: of the features of a set metric, or that a case metric asks its context for.
        source: paper, table or code that the recipe follows, and where it differs.
        version: counts up whenever the number would change.
    """

    name: str
    title: str
    unit: str = ""
    better: Literal["higher", "lower", "zero", ""] = ""
    kind: Literal["case", "set"] = "case"
    needs: tuple[Need, ...] = ()
    function: str
    extractor: str = ""
    source: str
    version: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Extractor:
    """How a volume becomes features.

    Attributes:
        name: what it is called.
        function: ``module:function`` below :mod:`ctgencore.metrics`: ``(volume, context) -> array (n, features)``
            float32, n being 1 for features of a whole volume and the number of slices for those of slices. What several
            planes or windows give is stacked as ``(planes, n, features)``.
        weights: row of :data:`ctgencore.zoo.EXTRACTORS` that it needs, or empty.
        size: number of features, by which the least number of volumes is judged.
        source: paper or code that it follows.
        version: counts up whenever the features would change.
    """

    name: str
    function: str
    weights: str = ""
    size: int
    source: str
    version: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What is measured together; all grids are equal (who builds a case has checked).

    Attributes:
        name: the case's, unique in a run.
        test: the volume under test.
        reference: what it should be like.
        labels: organ ids (CTGen numbering): the reference's organs, or the mask that the volume was generated from.
        test_labels: organ ids of a segmentation of the volume under test.
        diseases: disease classes 150..162 of the mask that it was generated from, or of the reference.
        twin: the volume of the same seed without the diseases.
        report: text.
        findings: names of the findings (Table 6) that are there; None when nobody knows.
    """

    name: str
    test: Volume
    reference: Volume | None = None
    labels: LabelMap | None = None
    test_labels: LabelMap | None = None
    diseases: LabelMap | None = None
    twin: Volume | None = None
    report: str = ""
    findings: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Value:
    """One number.

    Attributes:
        metric: name of its row.
        value: in the row's unit; nan where it is not defined, and then the note says why.
        region: what it is about: ``all``, an organ's name, ``left lung lobe #2``, a plane, a finding.
        slice: index along Z of the slice where it is worst, where that makes sense.
        note: a remark for people: rule for an empty mask, bias of a small sample.
    """

    metric: str
    value: float
    region: str = "all"
    slice: int | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Context:
    """What metrics may use beside the case.

    Attributes:
        options: fields of :class:`ctgencore.tasks.evaluate.EvaluateOptions`, as a mapping.
        features: ``(extractor, volume) -> array``, computed once per volume and run.
        device: of networks.
        seed: of every random choice.
    """

    options: Mapping[str, object] = field(default_factory=dict)
    features: Callable[[str, Volume], np.ndarray]
    device: str = "cpu"
    seed: int = 0
