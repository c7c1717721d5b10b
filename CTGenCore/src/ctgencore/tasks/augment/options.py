"""What shapes an augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from ... import hub
from ...errors import InputError
from ...intensity import Window
from ...runtime import parse_memory
from ..common import CodecOptions
from ..reconstruct import ReconstructOptions
from .views import Choice, View, parse_view

MODES = ("add", "replace")
LAYOUTS = ("nnunet", "msd", "flat", "dicom")
NOT_OF_CASES: dict[str, Any] = {"folds": 5, "patient_pattern": None}  # what no case depends on
NOT_OF_VOLUMES: dict[str, Any] = {**NOT_OF_CASES, "device": "auto", "threads": None}  # nor a file


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentOptions(CodecOptions):
    """Everything that shapes an augmentation; ``window`` is that of views which name none.

    Attributes:
        memory: bytes for activations: a fixed size, so that the same bytes come out wherever it runs.
        views: one text for each, see :func:`ctgencore.tasks.augment.views.parse_view`.
        mode: ``add`` views to the originals, or ``replace`` these; test cases stay as they are.
        layout: of the result: ``nnunet``, ``msd``, ``flat`` (files and a table) or ``dicom``.
        folds: of the splits for cross-validation, which keep all that is of one patient together.
        seed: of every draw.
        patient_pattern: regular expression with one group that finds the patient in a case's name; see
            :func:`ctgencore.tasks.augment.sources.read_dataset`.
    """

    memory: str | None = "4GiB"
    views: tuple[str, ...] = ("embedded",)
    mode: str = "add"
    layout: str = "nnunet"
    folds: int = 5
    seed: int = 0
    patient_pattern: str | None = None

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            InputError: a view, window, mode, layout or number that cannot be, or an unknown codec.
            WeightsError: a codec's weights are not here.
        """
        Window.parse(self.window)
        if self.memory:
            parse_memory(self.memory)
        for name, value, allowed in (("mode", self.mode, MODES), ("layout", self.layout, LAYOUTS)):
            if value not in allowed:
                raise InputError(f"The {name} is one of {', '.join(allowed)}; got {value!r}.")
        if self.folds < 2:
            raise InputError(f"Cross-validation needs at least 2 folds; got {self.folds}.")
        if self.seed < 0:
            raise InputError(f"The seed is 0 or more; got {self.seed}.")
        for view in self.plan():
            for codec in view.codecs:
                hub.locate(codec)

    def plan(self) -> tuple[View, ...]:
        """The views.

        Raises:
            InputError: none, one that cannot be read, or two of one name.
        """
        views = tuple(parse_view(text, self.window) for text in self.views)
        names = [view.name.lower() for view in views]  # file names that differ in case only are one on some disks
        for view in views:
            if names.count(view.name.lower()) > 1:
                raise InputError(
                    f"Several views are called '{view.name}'. Name them: {view.name}-2={view.codecs[0]},..."
                )
        if not views:
            raise InputError("At least one view is needed, such as embedded.")
        return views

    def of(self, choice: Choice) -> ReconstructOptions:
        """What a choice is reconstructed with."""
        shared = {item.name: getattr(self, item.name) for item in fields(CodecOptions)}
        return ReconstructOptions(**(shared | asdict(choice)))

    def of_cases(self) -> AugmentOptions:
        """These options without what the work on a case does not depend on: other folds need no new views."""
        return replace(self, **NOT_OF_CASES)

    def of_volumes(self) -> AugmentOptions:
        """These options without what no volume is recorded with."""
        return replace(self, **NOT_OF_VOLUMES)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> AugmentOptions:
        """Read back what ``dataclasses.asdict`` and JSON made of it."""
        return cls(**{**content, "views": tuple(content["views"])})
