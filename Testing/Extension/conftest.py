"""The Slicer host for the GUI tests. It patches Qt for the whole process: never run these with the engine's tests."""

from __future__ import annotations

import os
import stat
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "Testing" / "Host"))
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["HF_HUB_OFFLINE"] = "1"

import slicerhost  # noqa: E402

HOST = slicerhost.start()  # before any test file imports qt or slicer

MODULE = ROOT / "CTGenExtension" / "CTGenReconstruct" / "CTGenReconstruct.py"
GENERATE = ROOT / "CTGenExtension" / "CTGenGenerate" / "CTGenGenerate.py"
EVALUATE = ROOT / "CTGenExtension" / "CTGenEvaluate" / "CTGenEvaluate.py"
SCREENSHOTS = ROOT / "Testing" / "Extension" / "screenshots"


@pytest.fixture(scope="session")
def host() -> slicerhost.Host:
    return HOST


@pytest.fixture(autouse=True)
def clean(host: slicerhost.Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Start every test with an empty scene, own settings and cache; exceptions, Qt and VTK errors fail it."""
    import qt

    host.problems.take()
    monkeypatch.setenv("CTGEN_HOME", str(tmp_path / "ctgen-home"))
    qt.QSettings().clear()
    yield
    host.slicer.mrmlScene.Clear(0)
    host.process_events()
    problems = host.problems.take()
    assert not problems, "\n".join(problems)


@pytest.fixture
def panel(host: slicerhost.Host) -> Iterator[Any]:
    """The module's panel, entered; the engine has not answered yet."""
    widget = host.open_module(MODULE)
    yield widget
    host.close_module(widget)


@pytest.fixture
def ready(host: slicerhost.Host, panel: Any) -> Any:
    """The panel with the real engine found."""
    host.wait(lambda: not panel.engineSection.checking, 120)
    assert panel.engine is not None, panel.engineSection.problems
    return panel


@pytest.fixture
def picture(host: slicerhost.Host) -> Callable[[Any, str], None]:
    """Save a picture of a state: ``picture(panel, "running")``. Look at them."""
    return lambda widget, name: host.screenshot(widget, SCREENSHOTS / f"{name}.png")


@pytest.fixture(scope="session")
def chest() -> np.ndarray:
    """A small procedural chest, int16 HU, (k, j, i)."""
    from ctgencore import phantom

    return np.rint(phantom.chest((17, 64, 72)).ct.voxels).astype(np.int16)


@pytest.fixture
def volume(host: slicerhost.Host, chest: np.ndarray) -> Any:
    """The chest in the scene: oblique, anisotropic."""
    return add_volume(chest, oblique((5.6, 5.6, 8.0)))


@pytest.fixture
def big(chest: np.ndarray) -> Any:
    """A volume that takes the engine many seconds with dct16."""
    return add_volume(np.tile(chest, (40, 4, 4)), np.diag([-1.4, -1.4, 1.0, 1.0]), "Big CT")


@pytest.fixture
def fake_engine(tmp_path: Path) -> Callable[[str], str]:
    """``fake_engine(code)``: a Python that is the real engine for ``env`` and ``info``, and runs code for ``run``.

    The code knows ``job`` (the parsed job.json), ``folder`` and ``say(event)``.
    """

    def make(code: str) -> str:
        script = tmp_path / "fake_engine.py"
        script.write_text(
            "import json, os, signal, subprocess, sys, time\n"
            "arguments = sys.argv[3:]\n"
            "if arguments[0] != 'run':\n"
            "    sys.exit(subprocess.call([sys.executable, *sys.argv[1:]]))\n"
            "folder = os.path.dirname(arguments[1])\n"
            "job = json.load(open(arguments[1]))\n"
            "def say(**event): print(json.dumps(event), flush=True)\n" + textwrap.dedent(code)
        )
        program = tmp_path / "python"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{script}" "$@"\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    return make


def add_volume(voxels: np.ndarray, ijk_to_ras: np.ndarray, name: str = "Chest CT") -> Any:
    import slicer

    node = slicer.util.addVolumeFromArray(voxels, ijk_to_ras, name)
    slicer.util.setSliceViewerLayers(background=node, fit=True)
    return node


def oblique(spacing: tuple[float, float, float], left_handed: bool = False) -> np.ndarray:
    """IJK to RAS of a grid turned about two axes."""
    a, b = np.deg2rad(20.0), 0.3
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    matrix = np.eye(4)
    # patient axes as a scanner has them: i to the left, j to the back, k to the head
    signs = np.array([-1.0, -1.0, -1.0 if left_handed else 1.0])
    matrix[:3, :3] = about_x @ about_z @ np.diag(np.array(spacing) * signs)
    matrix[:3, 3] = [190.0, 170.0, -60.0]
    return matrix
