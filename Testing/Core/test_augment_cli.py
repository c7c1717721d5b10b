"""``ctgencore augment`` and ``case``: what they say, what they refuse, and that every way writes the same bytes."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ctgencore as ctg
import numpy as np
import pytest
from augmenting import ct, labels, nnunet
from ctgencore import io
from ctgencore.cli import app
from ctgencore.cli.augment import augment as augment_command
from ctgencore.cli.case import case as case_command
from ctgencore.errors import Cancelled, InputError
from ctgencore.jobs import Job, run_augmentation, run_reporting
from ctgencore.jobs.augmentation import describe
from ctgencore.tasks.augment.addition import CaseOptions
from ctgencore.tasks.augment.options import AugmentOptions
from processes import Command, Event, environment
from typer.testing import CliRunner, Result

VIEWS = ("dct16", "grain=dct16|identity,window=wide|soft,noise=0.05..0.2,residual=0..0.5")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nnunet(tmp_path_factory.mktemp("in") / "Dataset001_Small")


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def augmented(source: Path, output: Path, *more: object, views: Sequence[str] = VIEWS) -> Result:
    chosen = [word for view in views for word in ("--view", view)]
    return cli("augment", "-i", source, "-o", output, *chosen, "--device", "cpu", "--threads", 1, *more)


def job(source: Path, output: Path, **options: Any) -> Job:
    chosen = {"views": list(VIEWS), "device": "cpu", "threads": 1, **options}
    return Job(id="A", task="augment", input=source, output=output, options=chosen)


def tree(folder: Path) -> dict[str, bytes]:
    """File to content, but for what a run keeps for itself."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and ".ctgen" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def events_of(done: Result) -> list[Event]:
    return [json.loads(line) for line in done.stdout.splitlines()]


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_of_the_commands_are_those_of_the_dataclasses() -> None:
    parameters = inspect.signature(augment_command).parameters
    for field in dataclasses.fields(AugmentOptions):
        if field.name == "views":
            assert parameters["view"].default is None
        else:
            assert parameters[field.name].default == field.default, field.name
    named = {field.name for field in dataclasses.fields(AugmentOptions)} - {"views"} | {"view"}
    running = {"executor", "shard", "workers", "ray_address", "attempts", "dry_run", "remake"}
    talk = {"as_json", "quiet", "verbose", "offline"}
    assert set(parameters) - named == {"input", "output"} | running | talk
    own = {field.name for field in dataclasses.fields(CaseOptions)} - {"labels"} | {"label"}
    assert set(inspect.signature(case_command).parameters) - own == {"input", "output", "labels"} | talk - {"offline"}


# --- before a run ----------------------------------------------------------------------------------------------------


def test_a_dry_run_tells_and_writes_nothing(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "Dataset501_Small"
    [plan] = events_of(augmented(source, output, "--dry-run", "--json"))
    assert not output.exists()
    assert (plan["event"], plan["kind"], plan["done"], plan["output"]) == ("plan", "nnunet", 0, str(output))
    assert plan["channels"] == ["CT"]
    assert plan["labels"] == {"background": 0, "organ": 1, "tumor": 2}
    facts = {"channels": 1, "label": True, "split": "train", "done": False}
    assert plan["cases"][0] == {"name": "p0_0", "patient": "p0_0", **facts}
    assert [case["split"] for case in plan["cases"]].count("test") == 1
    assert plan["views"][1] == {
        "name": "grain",
        "codecs": ["dct16", "identity"],
        "windows": ["wide", "soft"],
        "noise": [0.05, 0.2],
        "residual": [0.0, 0.5],
    }
    assert plan["seconds"] > 0
    assert 0 < plan["bytes"] < plan["free_bytes"]
    words = augmented(source, output, "--dry-run")
    assert words.exit_code == 0, words.stderr
    for part in (
        "nnunet: 4 training cases, 1 test cases",
        "organ, tumor",
        "0.05 to 0.2",
        "about 0.",
        "0 cases are done",
    ):
        assert part in words.stdout


def test_what_is_amiss_is_listed_before_it_stops_a_run(source: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(source, tmp_path / "Dataset001_Small")
    (broken / "labelsTr" / "p0_1.nii.gz").unlink()
    [plan] = events_of(augmented(broken, tmp_path / "Dataset501_Small", "--dry-run", "--json"))
    [problem] = [each for each in plan["problems"] if each["fatal"]]
    assert problem["case"] == "p0_1"
    assert "p0_1" in augmented(broken, tmp_path / "Dataset501_Small", "--dry-run").stderr

    facts = json.loads((broken / "dataset.json").read_text())
    (broken / "dataset.json").write_text(json.dumps({**facts, "channel_names": {"0": "CT", "1": "PET"}}))
    told = describe(job(broken, tmp_path / "Dataset501_Small"))
    assert any(each["fatal"] for each in told["problems"]), "a data set as a whole is described, too"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--view", "embeded"], "Did you mean 'embedded'"),
        (["--mode", "both"], "add, replace; got 'both'"),
        (["--layout", "bids"], "nnunet, msd, flat, dicom; got 'bids'"),
        (["--executor", "shard"], "such as 1/4"),
        (["--executor", "shard", "--shard", "2"], "A shard is i/n"),
        (["--workers", "2"], "belong to the executor 'ray'"),
        (["--patient-pattern", "p."], "exactly one part in brackets"),
    ],
)
def test_wrong_options_are_refused(source: Path, tmp_path: Path, words: list[str], message: str) -> None:
    done = augmented(source, tmp_path / "Dataset501_Small", *words, views=())
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "Dataset501_Small").exists()


def test_input_and_output_are_needed(source: Path, tmp_path: Path) -> None:
    for words in (["-i", source], ["-o", tmp_path / "Dataset501_Small"]):
        done = cli("augment", *words)
        assert done.exit_code == 2
        assert "augment -i DATASET -o FOLDER" in done.stderr
    with pytest.raises(InputError, match="has no 'mask'"):
        run_augmentation(dataclasses.replace(job(source, tmp_path / "out"), mask=source), lambda event: None)


# --- the same bytes every way ----------------------------------------------------------------------------------------


def test_command_job_and_shards_write_the_same_bytes_and_go_on(source: Path, command: Command, tmp_path: Path) -> None:
    first, by_job, shards = (tmp_path / name / "Dataset501_Small" for name in ("command", "job", "shards"))
    done = augmented(source, first)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == ["p0_0", "p0_1", "p1_2", "p1_3", "t4", str(first)]
    assert "5 cases (0 of them done earlier), 8 views." in done.stderr

    request: dict[str, Any] = {"task": "augment", "input": str(source), "output": str(by_job)}
    request["options"] = {"views": list(VIEWS), "threads": 1}
    (tmp_path / "job.json").write_text(json.dumps(request))
    ended = command("run", tmp_path / "job.json")  # a process of its own, as Slicer starts it
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["outputs"] == {"dataset": str(by_job)}
    assert {name: result["metrics"][name] for name in ("cases", "views", "skipped", "left", "failed")} == {
        **{"cases": 5, "views": 8},
        **{"skipped": 0, "left": 0, "failed": []},
    }

    told = ctg.augment(source, tmp_path / "python" / "Dataset501_Small", AugmentOptions(views=VIEWS, threads=1))
    assert told == result["metrics"]
    half = augmented(source, shards, "--executor", "shard", "--shard", "1/2")
    assert "left to other shards" in " ".join(half.stderr.split())
    assert not (shards / "dataset.json").exists()
    assert augmented(source, shards, "--executor", "shard", "--shard", "2/2").exit_code == 0
    assert tree(first) == tree(by_job) == tree(shards) == tree(tmp_path / "python" / "Dataset501_Small")

    again = augmented(source, first, "--json", "--device", "auto")  # elsewhere is not something else
    cases = [event for event in events_of(again) if event["event"] == "case"]
    assert {event["state"] for event in cases} == {"skipped"}
    [plan] = events_of(augmented(source, first, "--dry-run", "--json"))
    assert plan["done"] == 5
    other = augmented(source, first, "--seed", 1)
    assert other.exit_code == 2
    assert "made otherwise: seed 0 instead of 1" in " ".join(other.stderr.split())


def test_a_failed_case_is_told_and_the_others_are_made(source: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(source, tmp_path / "Dataset001_Small")
    (broken / "labelsTr" / "p0_1.nii.gz").unlink()
    whole = (broken / "imagesTr" / "p1_2_0000.nii.gz").read_bytes()
    (broken / "imagesTr" / "p1_2_0000.nii.gz").write_bytes(whole[: len(whole) // 2])
    output = tmp_path / "Dataset501_Small"
    done = augmented(broken, output, views=["identity"])
    assert done.exit_code == 1
    assert "2 cases are not in it" in done.stderr
    facts = json.loads((output / "dataset.json").read_text())
    assert facts["numTraining"] == 4
    assert not [name for name in tree(output) if "p0_1" in name or "p1_2" in name]
    as_json = augmented(broken, output, "--json", views=["identity"])
    assert as_json.exit_code == 1
    failed = events_of(as_json)[-1]["metrics"]["failed"]
    assert sorted(each["name"] for each in failed) == ["p0_1", "p1_2"]
    assert all(each["name"] in each["message"] or "label" in each["message"] for each in failed)

    (broken / "imagesTr" / "p1_2_0000.nii.gz").write_bytes(whole)  # mended: only what is missing is made
    mended = augmented(broken, output, "--json", views=["identity"])
    states = [(event["name"], event["state"]) for event in events_of(mended) if event["event"] == "case"]
    assert ("p1_2", "done") in states
    assert [state for _, state in states].count("done") == 1


def test_cancel_keeps_finished_cases_and_unexpected_errors_are_no_success(source: Path, tmp_path: Path) -> None:
    seen: list[Event] = []
    cancelled = job(source, tmp_path / "Dataset501_Small")
    with pytest.raises(Cancelled, match="kept"):
        run_augmentation(cancelled, seen.append, cancel=lambda: any(event["event"] == "case" for event in seen))
    assert [event["state"] for event in seen if event["event"] == "case"] == ["done"]
    assert not (tmp_path / "Dataset501_Small" / "dataset.json").exists()
    events: list[Event] = []
    assert run_reporting(job(tmp_path / "none", tmp_path / "out"), events.append, traces=lambda text: None) == 2
    assert events[-1]["event"] == "error"


def test_a_view_again_from_its_record(source: Path, tmp_path: Path) -> None:
    output, elsewhere = tmp_path / "Dataset501_Small", tmp_path / "again"
    assert augmented(source, output).exit_code == 0
    elsewhere.mkdir()
    record = output / "imagesTr" / "p1_2__grain_0000.json"
    done = cli("augment", "--remake", record, "-o", elsewhere, "--device", "cpu", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    for name in (record.name, "p1_2__grain_0000.nii.gz"):
        assert (elsewhere / name).read_bytes() == (record.parent / name).read_bytes()
    wrong = cli("augment", "--remake", record, "-i", source / "imagesTr" / "p0_0_0000.nii.gz", "-o", elsewhere)
    assert wrong.exit_code == 2
    assert "voxels differ" in " ".join(wrong.stderr.split())


# --- a case more -----------------------------------------------------------------------------------------------------


def test_a_case_is_added_by_command_and_by_job(tmp_path: Path, command: Command) -> None:
    folder = tmp_path / "Dataset007_Mine"
    chest, mask = ct(0).save(tmp_path / "ct.nrrd"), labels(0).save(tmp_path / "seg.nrrd")
    done = cli(
        *("case", "-i", chest, "-o", folder, "--labels", mask, "--name", "a", "--patient", "p"),
        *("--label", "tumor=1", "--label", "organ=2"),
    )
    assert done.exit_code == 0, done.stderr
    assert "1 training cases" in done.stderr
    assert done.stdout.strip() == str(folder / "imagesTr" / "a_0000.nii.gz")

    options = {"name": "b", "patient": "p", "labels": {"Organ": 1, "tumor": 2}}
    request = {"task": "case", "input": "ct.nrrd", "mask": "seg.nrrd", "output": folder.name, "options": options}
    (tmp_path / "job.json").write_text(json.dumps(request))
    ended = command("run", tmp_path / "job.json")
    assert ended.returncode == 0, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["metrics"] == {"cases": 2, "labels": {"background": 0, "tumor": 1, "organ": 2}}
    a, b = (io.read_labels(folder / "labelsTr" / f"{name}.nii.gz").voxels for name in "ab")
    np.testing.assert_array_equal(b, np.array([0, 2, 1])[a])  # names count, not the file's values
    assert augmented(folder, tmp_path / "Dataset501_Mine", views=["identity"]).exit_code == 0
    assert not (tmp_path / "Dataset501_Mine" / "splits_final.json").exists(), "one patient cannot be split"

    taken = cli("case", "-i", chest, "-o", folder, "--labels", mask, "--name", "a", "--label", "x=1", "--label", "y=2")
    assert taken.exit_code == 2
    assert "has a case 'a'" in " ".join(taken.stderr.split())
    wrong = cli("case", "-i", chest, "-o", folder, "--name", "c", "--label", "tumor")
    assert wrong.exit_code == 2
    assert "NAME=VALUE" in wrong.stderr


# --- real CT ---------------------------------------------------------------------------------------------------------


@pytest.mark.heavy
def test_real_patients_in_dicom_and_nifti(real_pairs: Path, tmp_path: Path) -> None:
    """The command, a job in a file as Slicer runs it, and Ray with two actors."""

    def ctgencore(*words: object) -> None:
        line = [sys.executable, "-m", "ctgencore", *map(str, words)]
        done = subprocess.run(line, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stderr

    views = ["embedded", "grain=embedded,noise=0..0.2,residual=0.2..0.6"]
    flags = [word for view in views for word in ("--view", view)]
    outputs = [tmp_path / name / "Dataset501_Real" for name in ("command", "job", "ray")]
    ctgencore("augment", "-i", real_pairs, "-o", outputs[0], *flags, "-q")
    request = {"task": "augment", "input": str(real_pairs), "output": str(outputs[1]), "options": {"views": views}}
    (tmp_path / "job.json").write_text(json.dumps(request))
    ctgencore("run", tmp_path / "job.json")
    ray = ["--executor", "ray", "--workers", 2, "--threads", 1]
    ctgencore("augment", "-i", real_pairs, "-o", outputs[2], *flags, *ray, "-q")
    trees = [tree(output) for output in outputs]
    assert trees[0] == trees[1] == trees[2]
    cases = sorted(real_pairs.iterdir())
    assert len([case for case in cases if (case / "dicom").is_dir()]) >= 3
    assert len(trees[0]) == len(cases) * (3 + 2 + 3) + 3  # images, records and labels; three files describe them
    for case in cases:
        made = outputs[0] / "labelsTr" / f"{case.name}__grain.nii.gz"
        assert made.read_bytes() == (case / "seg.nii.gz").read_bytes()
        image = case / "dicom" if (case / "dicom").is_dir() else case / "ct.nii.gz"
        view, real = io.read(outputs[0] / "imagesTr" / f"{case.name}__embedded_0000.nii.gz"), io.read(image)
        real.geometry.assert_equal(view.geometry, 1e-3, case.name)
