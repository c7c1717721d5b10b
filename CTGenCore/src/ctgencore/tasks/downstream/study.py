"""Run a study: prepare volumes, train every arm with every seed, test, compare; what is done is not done again."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ... import __version__
from ...codecs.base import Cancel
from ...errors import InputError
from ...runtime import resolve_device
from ...training.records import load_state, save_state
from ..common import ProgressEvent, Report, cpu_threads, versions
from ..evaluate_cache import to_json, written
from .classify import Classification
from .learning import Batch, seeded, train
from .options import Arm, ClassifyOptions, SegmentOptions
from .segment import Segmentation
from .statistics import INTERVAL, Line, Outcome, summarize
from .views import Prepared, Preparer, check_leaks

SCHEMA = "ctgen-study/1"
IDLE = ("arms", "seeds", "draws", "device", "threads", "cache")  # may differ when a study goes on
ROW = ("arm", "seed", "case", "region", "metric", "value", "note")
SUMMARY = ("arm", "against", "region", "metric", "n", "seeds", "value", "sd_seeds", "ci95_low", "ci95_high")


class Task(Protocol):
    """What the two studies do differently."""

    @property
    def volumes(self) -> Mapping[str, list[Prepared]]:
        """Views that arms learn from."""
        ...

    @property
    def test(self) -> list[Prepared]:
        """Volumes to test on, one per case."""
        ...

    def build(self) -> nn.Module:
        """A network with random weights."""
        ...

    def batches(self, items: Sequence[Prepared]) -> Callable[[int, tuple[int, ...]], Batch]:
        """See :func:`ctgencore.tasks.downstream.learning.classifier_batches`."""
        ...

    def loss(self, output: Tensor, truth: Tensor) -> Tensor:
        """What is minimized."""
        ...

    def measure(self, network: nn.Module, arm: str, device: torch.device, tick: Callable[[int], None]) -> list[Any]:
        """What the network does on each test case, as plain data."""
        ...

    def outcome(self, measured: Sequence[Any]) -> Outcome:
        """That, ready for statistics."""
        ...

    def keys(self) -> list[tuple[str, str]]:
        """(region, metric) of each statistic."""
        ...

    def counts(self) -> list[int]:
        """Test cases that have what each statistic is about."""
        ...

    def rows(self, measured: Sequence[Any]) -> Iterable[dict[str, Any]]:
        """Numbers for people: case, region, metric, value, note."""
        ...


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a study found.

    Attributes:
        kind: ``classify`` or ``segment``.
        lines: statistics of each arm, and differences between arms.
        rows: numbers of every arm, seed and, in studies of segmentation, case; see :data:`ROW`.
        facts: everything else that ``study.json`` holds: options, versions, hashes, times, notes.
    """

    kind: str
    lines: list[Line]
    rows: list[dict[str, Any]]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def line(self, arm: str, region: str, metric: str, against: str = "") -> Line:
        """One of the lines; KeyError when it is not there."""
        wanted = (arm, against, region, metric)
        for line in self.lines:
            if (line.arm, line.against, line.region, line.metric) == wanted:
                return line
        raise KeyError(wanted)

    def save(self, folder: Path) -> None:
        """Write ``rows.csv``, ``summary.csv`` and ``study.json``, each whole or not at all."""
        lines = [asdict(line) for line in self.lines]
        for line in lines:
            line["ci95_low"], line["ci95_high"] = (to_json(value) for value in line.pop("ci95"))
            line.update({name: to_json(line[name]) for name in ("value", "sd_seeds")})
        facts = {"schema": SCHEMA, "kind": self.kind, **self.facts, "interval": INTERVAL, "summary": lines}
        texts = {
            "rows.csv": _csv(ROW, self.rows),
            "summary.csv": _csv(SUMMARY, lines),
            "study.json": json.dumps(facts, indent=1, allow_nan=False, default=str) + "\n",
        }
        for name, text in texts.items():
            with written(folder / name) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="")


def study(
    options: ClassifyOptions | SegmentOptions,
    folder: str | Path,
    *,
    progress: Report | None = None,
    cancel: Cancel | None = None,
) -> Study:
    """Run a study, or what is left of it.

    Args:
        options: what to compare; the class says which study it is.
        folder: for results and, unless ``options.cache`` names another, prepared volumes. Arms that are there are not
            trained again; further arms and seeds are added.
        progress: receives a :class:`ctgencore.tasks.common.ProgressEvent` after each case and step.
        cancel: asked between them; answer True to stop.

    Returns:
        The study; ``rows.csv``, ``summary.csv`` and ``study.json`` are in the folder.

    Raises:
        InputError: data that cannot be used, a patient in training and test, or a folder with another study.
        WeightsError: weights of the codec or generator are missing.
        Cancelled: ``cancel`` answered True.
    """
    options.check()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _check_same(folder, options)
    device = resolve_device(options.device)
    with cpu_threads(options.threads):
        prepare = Preparer(options, options.cache or folder / "volumes", progress, cancel)
        task: Task
        if isinstance(options, ClassifyOptions):
            task = Classification(options, prepare)
        else:
            task = Segmentation(options, prepare)
        for items in task.volumes.values():
            check_leaks(items, task.test)
        _keep_plan(folder, options, task)
        runs = {
            (arm, seed): _Run(task, options, folder, arm, seed, device, progress, cancel)
            for arm in options.chosen_arms
            for seed in options.seeds
        }
        measured = {key: run.result() for key, run in runs.items()}
    outcomes = {
        arm: [task.outcome(measured[arm, seed]["cases"]) for seed in options.seeds] for arm in options.chosen_arms
    }
    patients = [item.patient for item in task.test]
    result = Study(
        kind=prepare.kind,
        lines=summarize(outcomes, task.keys(), task.counts(), patients, options.draws),
        rows=[
            {"arm": arm, "seed": seed, **row}
            for (arm, seed), each in measured.items()
            for row in task.rows(each["cases"])
        ],
        facts=_facts(options, task, measured, device),
    )
    result.save(folder)
    return result


class _Run:
    """One arm with one seed."""

    def __init__(
        self,
        task: Task,
        options: ClassifyOptions | SegmentOptions,
        folder: Path,
        arm: str,
        seed: int,
        device: torch.device,
        progress: Report | None,
        cancel: Cancel | None,
    ) -> None:
        self.task, self.options, self.device = task, options, device
        self.folder, self.arm, self.seed = folder, arm, seed
        self.progress, self.cancel = progress, cancel
        self.path = folder / "arms" / f"{arm}.seed{seed}.json"

    def result(self) -> dict[str, Any]:
        """What the arm's network does on the test cases; trained now if it was not before."""
        if self.path.is_file():
            return json.loads(self.path.read_text(encoding="utf-8"))
        started = time.perf_counter()
        network, losses = self.trained()
        trained = time.perf_counter()
        with seeded(self.seed, self.device):
            measured = self.task.measure(
                network, self.arm, self.device, self._tick("test", len(self.task.test), "cases")
            )
        result = {
            "arm": self.arm,
            "seed": self.seed,
            "seconds": {"train": round(trained - started, 1), "test": round(time.perf_counter() - trained, 1)},
            "losses": losses,
            "cases": measured,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with written(self.path) as temporary:
            temporary.write_text(json.dumps(result) + "\n", encoding="utf-8")
        return result

    def trained(self) -> tuple[nn.Module, list[float]]:
        """The arm's network on its device, and the loss of each step."""
        arm = self.options.ARMS[self.arm]
        known = load_state(self.weights) if self.kept else None
        with seeded(self.seed, self.device):
            network = self.task.build()
        if known is not None:
            network.load_state_dict(known["network"])
            return network.to(self.device).eval(), known["losses"]
        if arm.start:
            network.load_state_dict(self._of(arm.start).trained()[0].state_dict())
        stage = (self.seed, 1 if arm.start else 0)
        items = [item for view in arm.views for item in self.task.volumes[view]]
        with seeded(self.seed, self.device):
            losses = train(
                network,
                self.task.batches(items),
                self.task.loss,
                self.options,
                self.device,
                stage,
                tick=self._tick("train", self.options.steps, "steps"),
                cancel=self.cancel,
            )
        if self.kept:
            save_state(self.weights, {"network": network.state_dict(), "losses": losses})
        return network, losses

    @property
    def kept(self) -> bool:
        """Whether other arms start from this one's weights."""
        return any(arm.start == self.arm for arm in self.options.ARMS.values())

    @property
    def weights(self) -> Path:
        """Their file."""
        return self.path.with_suffix(".pt")

    def _of(self, arm: str) -> _Run:
        return _Run(self.task, self.options, self.folder, arm, self.seed, self.device, self.progress, self.cancel)

    def _tick(self, what: str, total: int, unit: str) -> Callable[[int], None]:
        stage = f"{what} {self.arm}, seed {self.seed}"

        def tick(done: int) -> None:
            if self.progress is not None:
                self.progress(ProgressEvent(stage, done, total, unit))

        return tick


# --- records ---------------------------------------------------------------------------------------------------------


def _plan(options: ClassifyOptions | SegmentOptions) -> dict[str, Any]:
    """Options that numbers depend on, as JSON gives them back."""
    chosen = {name: value for name, value in asdict(options).items() if name not in IDLE}
    return {"kind": type(options).__name__, **json.loads(json.dumps(chosen, default=str))}


def _check_same(folder: Path, options: ClassifyOptions | SegmentOptions) -> None:
    """Demand that a study in the folder has the same options."""
    path = folder / "plan.json"
    if not path.is_file():
        return
    before, now = json.loads(path.read_text(encoding="utf-8"))["options"], _plan(options)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        name = changed[0]
        raise InputError(
            f"{folder} holds a study with other options: {name} was {before.get(name)} and is {now.get(name)} now. "
            "Choose another folder, or the old options."
        )


def _keep_plan(folder: Path, options: ClassifyOptions | SegmentOptions, task: Task) -> None:
    """Write down what the arms rest on; volumes that were there before must be the same."""
    path = folder / "plan.json"
    before = json.loads(path.read_text(encoding="utf-8"))["volumes"] if path.is_file() else {}
    now = _hashes(task)
    changed = [name for name in before if name in now and before[name] != now[name]]
    if changed:
        raise InputError(f"{folder} holds a study of other '{changed[0]}' volumes. Choose another folder.")
    with written(path) as temporary:
        plan = {"options": _plan(options), "volumes": before | now}
        temporary.write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")


def _hashes(task: Task) -> dict[str, dict[str, str]]:
    """Set to case to hash of its voxels."""
    sets = {**task.volumes, "test": task.test}
    return {name: {item.name: item.sha256 for item in items} for name, items in sets.items()}


def _facts(
    options: ClassifyOptions | SegmentOptions,
    task: Task,
    measured: Mapping[tuple[str, int], dict[str, Any]],
    device: torch.device,
) -> dict[str, Any]:
    arms: dict[str, Arm] = {name: options.ARMS[name] for name in options.chosen_arms}
    sets = {**task.volumes, "test": task.test}
    noted = [f"{item.view} {item.name}: {note}" for items in sets.values() for item in items for note in item.notes]
    return {
        "created_utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": {"ctgencore": __version__, **versions()},
        "device": str(device),
        "options": json.loads(json.dumps(asdict(options), default=str)),
        "arms": {name: {"views": arm.views, "start": arm.start} for name, arm in arms.items()},
        "seeds": options.seeds,
        "volumes": {name: len(items) for name, items in sets.items()},
        "seconds": {f"{arm}.seed{seed}": each["seconds"] for (arm, seed), each in measured.items()},
        "last_losses": {f"{arm}.seed{seed}": each["losses"][-1] for (arm, seed), each in measured.items()},
        "hashes": _hashes(task),
        "notes": noted,
    }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        blank = {name: "" if value is None or value != value else value for name, value in row.items()}
        table.writerow(blank)
    return text.getvalue()
