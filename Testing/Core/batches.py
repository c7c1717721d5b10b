"""Small batches for tests: units, what they leave behind, and runs that are killed on the way."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ctgencore import io
from ctgencore.cluster.work import Unit
from ctgencore.geometry import Geometry
from ctgencore.tasks.augment.case import plan_cases
from ctgencore.tasks.augment.model import Case, DataSet
from ctgencore.tasks.augment.options import AugmentOptions
from ctgencore.volume import LabelMap, Volume
from processes import environment
from scipy.ndimage import gaussian_filter

OPTIONS = {"codec": "identity", "device": "cpu", "threads": 1}
MEASURED = ("created_utc", "timings_s", "results", "record_id")  # of a record: when, how fast, in how much memory


def sources(folder: Path, count: int, shape: tuple[int, int, int] = (9, 24, 24)) -> list[Path]:
    """Volumes of soft noise in files, each another."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for number in range(count):
        noise = gaussian_filter(np.random.default_rng(number).normal(size=shape), 2)
        volume = Volume(400 * noise / noise.std(), Geometry(shape[::-1], (1.5, 1.5, 3.0)))
        files.append(volume.save(folder / f"ct{number}.nii.gz"))
    return files


def reconstruction(source: Path, output: Path, **options: Any) -> Unit:
    """A job as a unit."""
    request = {"task": "reconstruct", "input": str(source), "output": str(output)}
    payload = {**request, "options": {**OPTIONS, **options}}
    return Unit(name=output.name, call="job", payload=payload, inputs=(source,))


def units_of(files: list[Path], folder: Path, **options: Any) -> list[Unit]:
    """One job for each file."""
    folder.mkdir(exist_ok=True)
    return [reconstruction(path, folder / path.name.replace("ct", "out"), **options) for path in files]


def cases_of(files: list[Path], folder: Path) -> list[Unit]:
    """Augmentation of the same files, two views each, as units."""
    cases = []
    for path in files:
        volume = io.read(path)
        label = LabelMap((volume.voxels > 0).astype(np.uint8), volume.geometry).save(path.with_name(f"seg_{path.name}"))
        name = path.name.split(".")[0]
        cases.append(Case(name=name, patient=name, images=(path,), label=label))
    dataset = DataSet(root=files[0].parent, kind="pairs", cases=tuple(cases), labels={"background": 0, "dense": 1})
    views = ("dct16", "noisy=embedded,window=wide|lung,noise=0..0.2,residual=0.5")
    options = AugmentOptions(views=views, layout="flat", device="cpu", threads=1)
    work = plan_cases(dataset, options, folder)
    return [Unit(name=each.name, call="augment", payload=each.to_payload(), inputs=each.inputs) for each in work]


def all_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of an augmented data set but those of the hidden folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in names.items() if not name.startswith(".ctgen/")}


def manifest_of(files: list[Path], folder: Path) -> Path:
    """The same jobs as a manifest beside ``folder``."""
    path = folder.with_suffix(".csv")
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["input", "output", *OPTIONS])
        table.writerows([each, folder / each.name.replace("ct", "out"), *OPTIONS.values()] for each in files)
    return path


def contents(folder: Path, *, hidden: bool = True) -> dict[str, Any]:
    """Every file below a folder: voxels and grid of volumes, records without what is measured, bytes of all else.

    A volume that is cut off raises, so a killed run may have such only under hidden names.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and (hidden or path.name[0] != ".")):
        name = path.relative_to(folder).as_posix()
        if name.endswith((".nii.gz", ".nrrd")):
            volume = io.read(path)
            found[name] = (volume.voxels.tobytes(), volume.geometry)
        elif name.endswith(".json"):
            found[name] = {key: value for key, value in json.loads(path.read_text()).items() if key not in MEASURED}
        else:
            found[name] = path.read_bytes()
    return found


class KilledRuns:
    """``ctgencore batch`` again and again, killed at random moments after its first event.

    Args:
        files: inputs.
        folder: where everything goes.
        more: further arguments of the command.
    """

    def __init__(self, files: list[Path], folder: Path, *more: str) -> None:
        self.files, self.output, self.state = files, folder / "killed", folder / "state"
        manifest = manifest_of(files, self.output)
        words = ["batch", "reconstruct", "--manifest", manifest, "--state", self.state, "--json", *more]
        self.line = [sys.executable, "-m", "ctgencore", *map(str, words)]

    def start(self) -> subprocess.Popen[str]:
        """The command; its first event has been read."""
        process = subprocess.Popen(self.line, env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    def kill_once(self, chance: random.Random, within_s: float, victim: Callable[[subprocess.Popen[str]], int]) -> bool:
        """Start, wait, kill; False when the run was over before."""
        process = self.start()
        time.sleep(chance.uniform(0, within_s))
        over = process.poll() is not None
        if not over:
            os.kill(victim(process), signal.SIGKILL)
        process.communicate(timeout=120)
        return not over
