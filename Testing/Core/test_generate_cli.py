"""The commands phantom, labels, generate and edit, and the same jobs through a file."""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctgencore import io, labels
from ctgencore.cli import app
from ctgencore.cli.edit import edit as edit_command
from ctgencore.cli.generate import generate as generate_command
from ctgencore.geometry import Geometry
from ctgencore.tasks.edit import EditOptions
from ctgencore.tasks.generate import GenerateOptions
from ctgencore.volume import LabelMap
from processes import Command
from typer.testing import CliRunner, Result

FAST = ("--steps", 2, "-q")


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small phantom with an effusion, as the command writes it."""
    folder = tmp_path_factory.mktemp("case")
    done = cli("phantom", "-o", folder, "--shape", 21, 48, 56, "--seed", 3, "--finding", "Pleural effusion", "-q")
    assert done.exit_code == 0, done.stderr
    return folder


def test_phantom_writes_ct_masks_report_and_facts(case: Path) -> None:
    organs, diseases = io.read_labels(case / "organs.nii.gz"), io.read_labels(case / "diseases.nii.gz")
    assert set(np.unique(organs.voxels)) <= {0, *labels.ORGANS}
    assert set(np.unique(diseases.voxels)) == {0, 159}
    facts = json.loads((case / "facts.json").read_text())
    assert [name for name, present in facts["findings"].items() if present] == ["Pleural effusion"]
    assert len(facts["findings"]) == 18
    assert "effusion" in (case / "report.txt").read_text()
    io.read(case / "ct.nii.gz").geometry.assert_equal(organs.geometry, 1e-3)
    again = cli("phantom", "-o", case)
    assert again.exit_code == 2
    assert "--overwrite" in again.stderr
    assert "Known" in (wrong := cli("phantom", "-o", case / "x", "--finding", "Gout")).stderr or "18" in wrong.stderr
    assert not (case / "x").exists()


@pytest.mark.parametrize(
    ("command", "options", "renamed", "files"),
    [
        (generate_command, GenerateOptions, {"spacing_mm": "spacing"}, {"output", "mask", "disease", "reference"}),
        (edit_command, EditOptions, {"feather_mm": "feather"}, {"input", "region", "output", "difference"}),
    ],
)
def test_options_are_those_of_the_dataclass(command: Any, options: Any, renamed: dict[str, str], files: set) -> None:
    parameters = inspect.signature(command).parameters
    fields = {renamed.get(field.name, field.name): field.default for field in dataclasses.fields(options)}
    for name, default in fields.items():
        assert parameters[name].default == default, name
    talk = {"as_json", "quiet", "verbose", "offline", "skip_existing", "overwrite", "check"}
    assert set(parameters) - set(fields) - talk == files


def test_generate_follows_its_files_and_says_what_it_is(case: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nii.gz"
    done = cli(
        *("generate", "--mask", case / "organs.nii.gz", "--disease", case / "diseases.nii.gz", "-o", out),
        *("--report", f"@{case / 'report.txt'}", "--seed", 5, "--json", *FAST),
    )
    assert done.exit_code == 0, done.stderr
    said = events(done.stdout)
    assert said[0]["event"] == "started"
    result = said[-1]
    assert result["event"] == "result"
    assert result["metrics"]["quality"]["checks"]
    volume = io.read(out)
    assert volume.is_synthetic
    volume.geometry.assert_equal(io.read(case / "organs.nii.gz").geometry, 1e-3)
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["synthetic"] is True
    assert record["options"]["report"] == (case / "report.txt").read_text().strip()
    assert record["inputs"][0]["name"] == "organs.nii.gz"
    verdict = cli("verify", out)
    assert "SYNTHETIC" in verdict.stdout
    for flag, code in (([], 2), (["--skip-existing"], 0)):
        again = cli("generate", "--mask", case / "organs.nii.gz", "-o", out, *FAST, *flag)
        assert again.exit_code == code
    assert json.loads((tmp_path / "out.json").read_text()) == record


def test_bad_input_is_told_and_writes_nothing(case: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.nrrd"
    mask = ("generate", "--mask", case / "organs.nii.gz")
    strange = LabelMap(np.full((4, 8, 8), 77, np.int16) * 4, Geometry((8, 8, 4)))
    strange.save(tmp_path / "strange.nrrd")
    for arguments, words in (
        ((*mask,), "--output is missing"),
        ((*mask, "-o", tmp_path / "out.txt"), "must end in one of"),
        ((*mask, "-o", out, "--report", "@nowhere.txt"), "cannot be read"),
        ((*mask, "-o", out, "--model", "foundation-embeded"), "Did you mean 'foundation-embedded'"),
        ((*mask, "-o", out, "--faithful"), "no released code"),
        (("generate", "--mask", tmp_path / "strange.nrrd", "-o", out), "308"),
        (("generate", "--mask", case / "nothing.nii.gz", "-o", out), "nothing"),
        ((*mask, "-o", out, "--model", "foundation-healthy"), "not on this machine"),
    ):
        done = cli(*arguments, *(word for word in FAST if "--steps" not in arguments))
        assert done.exit_code in (2, 3), (arguments, done.stdout)
        assert words in done.stderr.replace("\n", " "), (arguments, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["strange.nrrd"]


def test_check_finds_contradictions_without_drawing(case: Path, tmp_path: Path) -> None:
    side = "right" if "left" in (case / "report.txt").read_text().lower() else "left"
    job = tmp_path / "job.json"
    request = {
        "task": "generate",
        "mask": str(case / "organs.nii.gz"),
        "disease": str(case / "diseases.nii.gz"),
        "output": "out.nrrd",
        "options": {"report": f"There is a {side} pleural effusion."},
    }
    job.write_text(json.dumps(request))
    done = cli("generate", "--check", job, "--json")
    assert done.exit_code == 0, done.stderr
    [said] = events(done.stdout)
    assert said["event"] == "checked"
    found = {problem["code"]: problem["message"] for problem in said["problems"]}
    assert "side" in found
    assert side in found["side"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["job.json"]


def test_edit_job_in_a_file_equals_the_command(case: Path, tmp_path: Path, command: Command) -> None:
    ct = io.read(case / "ct.nii.gz")
    region = np.zeros(ct.shape, np.uint8)
    region[8:12, 20:26, 10:16] = 161
    LabelMap(region, ct.geometry).save(tmp_path / "roi.nrrd")
    options = {"report": "Solid nodule.", "seed": 2, "steps": 2}
    job = {
        "id": "E",
        "task": "edit",
        "input": str(case / "ct.nii.gz"),
        "mask": "roi.nrrd",
        "output": "file.nrrd",
        "difference": "difference.nrrd",
        "options": options,
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = command("run", tmp_path / "job.json")
    assert done.returncode == 0, done.stderr
    said = events(done.stdout)
    stages = [event["stage"] for event in said if event["event"] == "stage"]
    assert stages == ["read", "load", "edit", "write"]
    assert said[-1]["metrics"]["changed"]["disease_class"] == 161
    plain = cli(
        *("edit", "-i", case / "ct.nii.gz", "--region", tmp_path / "roi.nrrd", "-o", tmp_path / "cli.nrrd"),
        *("--report", "Solid nodule.", "--seed", 2, *FAST),
    )
    assert plain.exit_code == 0, plain.stderr
    one, two = (io.read(tmp_path / f"{name}.nrrd") for name in ("file", "cli"))
    assert np.array_equal(one.voxels, two.voxels)
    assert np.array_equal(io.read(tmp_path / "difference.nrrd").voxels, one.voxels - ct.voxels)
    assert one.is_synthetic


def test_labels_lists_and_suggests(tmp_path: Path) -> None:
    [tables] = events(cli("labels", "--json").stdout)
    assert [len(tables[name]) for name in ("organs", "diseases", "findings")] == [124, 13, 18]
    assert all(row["template"].endswith(".") for row in tables["findings"])
    names = tmp_path / "names.json"
    names.write_text(json.dumps([{"name": "Left lung upper lobe"}, {"name": "zzzz", "terminology": ""}]))
    [said] = events(cli("labels", "--suggest", names, "--json").stdout)
    assert said["suggestions"][0]["id"] == 28
    assert said["suggestions"][1] is None
    assert "lung upper lobe" in cli("labels").stdout
    names.write_text("{}")
    assert cli("labels", "--suggest", names).exit_code == 2
