"""The package as a whole: layers, silence at import, the wheel in a clean environment, documents that are true."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
from io import StringIO
from pathlib import Path

import ctgencore
import numpy as np
import pytest
from ctgencore import phantom
from ctgencore.cli import app
from ctgencore.report.page import SCRIPTS
from ctgencore.volume import LabelMap
from processes import environment
from typer.main import get_command
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "CTGenCore" / "src" / "ctgencore"
LAYERS = {  # first part of a module's path -> layer; a module that is missing here fails the test
    **dict.fromkeys(("errors", "zoo"), 0),
    **dict.fromkeys(("volume", "geometry", "resample", "intensity", "io", "labels", "phantom", "provenance"), 1),
    **dict.fromkeys(("runtime", "tiling", "randomness"), 1),
    **dict.fromkeys(("codecs", "networks", "diffusion", "text", "hub", "checkpoint"), 2),
    **dict.fromkeys(("tasks", "generators", "training", "metrics"), 3),
    **dict.fromkeys(("__init__", "__main__", "cli", "jobs", "worker", "report", "cluster", "adapters"), 4),
}
MODULES = sorted(SOURCE.rglob("*.py"))
DOCUMENTS = sorted([ROOT / "README.md", ROOT / "CTGenCore" / "README.md", *(ROOT / "CTGenCore" / "docs").glob("*.md")])
COMMANDS = [
    *("info", "download", "reconstruct", "generate", "edit", "evaluate", "labels", "phantom", "verify", "env", "demo"),
    *("plan", "train", "study", "report", "run", "worker", "augment", "batch", "case", "dicom"),
]


def run(*arguments: object, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300, env=environment() | extra)


def imported_modules(path: Path) -> set[str]:
    """First parts of the package's own modules that a file imports anywhere, also in functions and for typing."""
    package = ["ctgencore", *path.relative_to(SOURCE).parent.parts]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets: list[list[str]] = []
        if isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = base + (node.module.split(".") if node.module else [])
            targets = [[*base, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            targets = [alias.name.split(".") for alias in node.names]
        for parts in targets:
            if parts[0] == "ctgencore" and len(parts) > 1:
                found.add(parts[1] if parts[1] in LAYERS else "__init__")
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_only_downward(path: Path) -> None:
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    for name in imported_modules(path):
        if name == "__init__" and own != "__init__":
            text = path.read_text(encoding="utf-8")
            assert re.search(r"import .*__version__", text), "only the version may be taken from the top"
            continue
        assert LAYERS[name] <= LAYERS[own], f"{own} (layer {LAYERS[own]}) imports {name} (layer {LAYERS[name]})"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_house_rules(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 500
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    prints = any(isinstance(function, ast.Name) and function.id == "print" for function in calls)
    assert not prints or path.relative_to(SOURCE).parts[0] == "cli", "only cli/ prints"


def test_import_is_light_and_names_are_complete(record_property: pytest.RecordProperty) -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import ctgencore; s = time.perf_counter() - t; "
        "print(s, *[m for m in ('torch', 'numpy', 'SimpleITK', 'rich', 'diffusers') if m in sys.modules])"
    )
    seconds, *heavy = run(sys.executable, "-c", code).stdout.split()
    record_property("import_seconds", float(seconds))
    assert heavy == []
    assert sorted(dir(ctgencore)) == sorted(ctgencore.__all__)
    assert all(getattr(ctgencore, name) is not None for name in ctgencore.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'; public names: "):
        _ = ctgencore.nonsense


def test_layers_0_and_most_of_1_need_no_torch() -> None:
    modules = "errors, zoo, volume, geometry, intensity, io, phantom, provenance, hub, jobs, worker"
    code = f"import sys; from ctgencore import {modules}; print('torch' in sys.modules)"
    assert run(sys.executable, "-c", code).stdout == "False\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["info"], ["info", "--json"], *[[name, "--help"] for name in COMMANDS]]
)
def test_help_and_info_answer_at_once_without_torch(
    arguments: list[str], record_property: pytest.RecordProperty
) -> None:
    code = (
        "import sys; sys.argv[0] = 'ctgencore'; from ctgencore.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules and 'SimpleITK' not in sys.modules, 'loaded'"
    )
    started = time.perf_counter()
    done = run(sys.executable, "-c", code, *arguments)
    record_property("seconds", round(time.perf_counter() - started, 2))  # 0.2 s on an idle machine
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert time.perf_counter() - started < 10


def test_every_command_is_listed() -> None:
    assert sorted(get_command(app).commands) == sorted(COMMANDS)


STATE = """
import logging, sys, warnings, torch
def state():
    return {
        "threads": torch.get_num_threads(), "interop": torch.get_num_interop_threads(),
        "dtype": torch.get_default_dtype(),
        "device": str(torch.get_default_device()), "grad": torch.is_grad_enabled(), "seed": torch.initial_seed(),
        "random": torch.get_rng_state().tolist(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark, "cudnn": torch.backends.cudnn.deterministic,
        "tf32": (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32),
        "matmul": torch.get_float32_matmul_precision(), "filters": list(warnings.filters),
        "root": (logging.root.level, list(logging.root.handlers), list(logging.root.filters), logging.root.disabled),
        "hook": sys.excepthook, "stdout": sys.stdout,
    }
import accelerate, diffusers, scipy.interpolate, scipy.ndimage  # what these do to the process when imported is theirs
before = state()
import ctgencore
from ctgencore import phantom
from ctgencore.tasks.reconstruct import ReconstructOptions
volume = phantom.chest((9, 24, 24)).ct
for codec in sys.argv[1:]:
    ctgencore.reconstruct(volume, codec, ReconstructOptions(device="cpu", threads=1, seed=3))
from ctgencore import cli, jobs, worker, report
after = state()
changed = {name: (before[name], after[name]) for name in before if before[name] != after[name]}
assert not changed, changed
"""


def test_process_state_is_left_alone() -> None:
    done = run(sys.executable, "-c", STATE, "identity", "dct16", "embedded", OMP_NUM_THREADS="2")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def clean_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the built wheel. It sees the dependencies in this one, but not the editable install."""
    folder = tmp_path_factory.mktemp("clean")
    project = folder / "project"
    shutil.copytree(ROOT / "CTGenCore", project, ignore=shutil.ignore_patterns("__pycache__", "dist"))
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", cwd=project)
    assert built.returncode == 0, built.stderr
    [wheel] = (folder / "dist").glob("*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    installed = run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    assert installed.returncode == 0, installed.stderr
    packages = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").stdout.strip())
    (packages / "seen_from_tests.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def clean(python: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run(python, *arguments, cwd=cwd, PYTHONPATH="")


def test_wheel_holds_its_data_and_imports_without_extras(clean_environment: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['skimage'] = None\n"  # the extra `train` is not there
        "import importlib, pkgutil, pathlib, ctgencore\n"
        "found = pkgutil.walk_packages(ctgencore.__path__, 'ctgencore.')\n"
        "names = [module.name for module in found if '__main__' not in module.name]\n"
        "[importlib.import_module(name) for name in names]\n"
        "here = pathlib.Path(ctgencore.__file__).parent\n"
        "print(here); print(len(names)); print(*sorted(p.relative_to(here).as_posix() for p in here.rglob('*')"
        " if p.is_file() and p.suffix not in ('.py', '.pyc')))"
    )
    done = clean(clean_environment, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here, count, data = done.stdout.splitlines()
    assert Path(here).is_relative_to(clean_environment.parents[1])
    assert int(count) == len(MODULES) - 2  # without the top and __main__
    weights = ["embedded_codec.safetensors", "foundation_embedded.safetensors", "foundation_embedded.vocab.txt"]
    assert data.split() == [
        "metrics/papers.json",
        "py.typed",
        *(f"report/{name}" for name in sorted([*SCRIPTS, "page.html", "style.css"])),
        *(f"weights/{name}" for name in weights),
    ]


def test_wheel_commands_run(clean_environment: Path, tmp_path: Path) -> None:
    script = clean_environment.with_name("ctgencore")
    assert "reconstruct" in run(script, "--help", cwd=tmp_path, PYTHONPATH="").stdout
    for name in COMMANDS:
        done = clean(clean_environment, "-m", "ctgencore", name, "--help", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    phantom.chest((9, 24, 24)).ct.save(tmp_path / "in.nrrd")
    done = clean(clean_environment, "-m", "ctgencore", "reconstruct", "-i", "in.nrrd", "-o", "out.nrrd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out.json").read_text())["codec"] == "embedded"


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def example_folder(folder: Path) -> Path:
    """A folder with every input that the documents' examples name."""
    drawn = phantom.chest((9, 24, 24), findings=("Pleural effusion",))
    chest = drawn.ct
    (folder / "folder_in").mkdir()
    for name in ("chest.nii.gz", "ct.nii.gz", "folder_in/a.nii.gz"):
        chest.save(folder / name)
    for name in ("organs.nii.gz", "diseases.nii.gz", "roi.nii.gz"):
        (drawn.organs if name == "organs.nii.gz" else drawn.diseases).save(folder / name)
    nodules = folder / "Dataset003_Nodules"
    for name in ("imagesTr", "labelsTr"):
        (nodules / name).mkdir(parents=True)
    chest.save(nodules / "imagesTr" / "nodule_001_0000.nii.gz")
    LabelMap((drawn.diseases.voxels > 0).astype(np.uint8), chest.geometry).save(
        nodules / "labelsTr" / "nodule_001.nii.gz"
    )
    facts = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "nodule": 1}, "numTraining": 1}
    (nodules / "dataset.json").write_text(json.dumps({**facts, "file_ending": ".nii.gz"}))
    (folder / "elsewhere").mkdir()
    (folder / "report.txt").write_text(drawn.report.text)
    (folder / "cases.csv").write_text("name,test,reference\na,ct.nii.gz,chest.nii.gz\n")
    (folder / "names.json").write_text('[{"name": "left lung"}]')
    (folder / "job.json").write_text('{"task": "generate", "mask": "organs.nii.gz", "output": "out.nii.gz"}')
    return folder


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_python_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if document.name == "slicer.md":
        pytest.skip("runs with Slicer's Python: Testing/Extension has it")
    examples = blocks(document, "python")
    if document.name == "README.md":
        assert examples, "a README shows how"
    monkeypatch.chdir(example_folder(tmp_path))
    monkeypatch.setattr(sys, "stdin", StringIO())
    for code in examples:
        exec(compile(code, document.name, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_shell_examples_are_accepted_and_the_offline_ones_run(
    document: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every `ctgencore` line must parse; those that need no weights from outside are run, all in this process."""
    monkeypatch.chdir(example_folder(tmp_path))
    commands = get_command(app).commands
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    for line in lines:
        words = shlex.split(line, comments=True)
        words = words[2:] if words[:2] == ["python", "-m"] else words
        if not words or words[0] != "ctgencore":
            continue
        assert words[1] in commands, line
        commands[words[1]].make_context(words[1], words[2:])  # raises on an option that is not there
        offline = (
            *("info", "env", "verify", "reconstruct", "generate", "edit", "evaluate", "report"),
            *("labels", "phantom", "augment"),
        )
        outside = {"--codec", "--scheme"} & set(words) or "$" in line  # weights, masks or variables that are not here
        if words[1] in offline and not outside:
            if words[1] in ("generate", "edit"):
                words += ["--steps", "2", "--overwrite"]
            done = CliRunner().invoke(app, words[1:])
            assert done.exit_code == 0, f"{line}\n{done.stderr}"


def test_links_in_documents_lead_somewhere() -> None:
    top = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "BENCHMARKS.md")]
    for document in {*DOCUMENTS, *top}:
        for target in re.findall(r"\]\(([^)#]+)", document.read_text(encoding="utf-8")):
            if not target.startswith(("http:", "https:", "mailto:")):
                assert (document.parent / target).exists(), f"{document.name}: {target}"
