"""``ctgencore evaluate`` and evaluation jobs: options, files, events, failures, and runs that were killed."""

from __future__ import annotations

import csv
import dataclasses
import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from ctgencore import io
from ctgencore.cli import app
from ctgencore.cli.evaluate import evaluate as evaluate_command
from ctgencore.errors import InputError
from ctgencore.jobs import Job, parse_options, run_evaluation, run_reporting
from ctgencore.metrics import presets, table
from ctgencore.tasks.evaluate import EvaluateOptions, evaluate_set
from ctgencore.tasks.evaluate_files import plan_cases
from evaluating import TROUBLES, drawn, write_pairs, write_troubles
from processes import Command, environment
from typer.testing import CliRunner, Result

PSNR, BIAS = "psnr_255_w2000", "bias_hu"
CASES = 12  # of the runs that are killed


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_file())


def test_options_of_the_command_are_those_of_the_dataclass() -> None:
    parameters = inspect.signature(evaluate_command).parameters
    renamed = {"tolerance_mm": "tolerance"}
    fields = {renamed.get(field.name, field.name): field.default for field in dataclasses.fields(EvaluateOptions)}
    assert parameters["metrics"].default is None
    for name, default in fields.items():
        assert name == "metrics" or parameters[name].default == default, name
    files = {"test", "output", "reference", "labels", "test_labels", "diseases", "difference"}
    talk = {"as_json", "quiet", "verbose", "offline", "list_metrics"}
    assert set(parameters) - set(fields) == files | talk | {"recipe", "choice", "study"}


def test_every_option_reaches_the_result(data: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {
        "metrics": (PSNR, "nsd"),
        "window": "soft",
        "tolerance_mm": 1.5,
        "segmenter": "threshold",
        "scheme": "ctgen",
        "clip_pad": "vlm3d",
        "allow_small": True,
        "batch": 4,
        "device": "cpu",
        "threads": 1,
        "workers": 1,
        "seed": 5,
    }
    words: list[object] = []
    for name, value in wanted.items():
        flag = f"--{name.removesuffix('_mm').replace('_', '-')}"
        words += (
            [flag]
            if value is True
            else [part for each in value for part in (flag, each)]
            if name == "metrics"
            else [flag, value]
        )
    pair = (data / "test" / "c0_recon.mha", "-r", data / "reference" / "c0.nii.gz")
    done = cli("evaluate", *pair, "-o", tmp_path, *words)
    assert done.exit_code == 1  # there are no labels for nsd
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["options"] == json.loads(json.dumps(dataclasses.asdict(EvaluateOptions(**wanted))))
    assert parse_options(content["options"], "evaluate") == EvaluateOptions(**wanted)


def test_folders_give_a_table_and_files(data: Path, tmp_path: Path) -> None:
    done = cli(
        *("evaluate", data / "test", "-r", data / "reference", "-l", data / "labels", "-o", tmp_path / "new"),
        *("-m", PSNR, "-m", BIAS),
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "new" / "evaluation.json")
    assert names(tmp_path / "new") == ["evaluation.json", "rows.csv", "summary.csv"]
    with (tmp_path / "new" / "summary.csv").open(newline="") as stream:
        first = next(csv.DictReader(stream))
    assert f"{float(first['mean']):.4g}" in done.stdout
    assert f"{float(first['ci95_low']):.4g} .. {float(first['ci95_high']):.4g}" in done.stdout
    assert "aorta" in done.stdout


def test_a_pair_with_its_error_map(data: Path, tmp_path: Path) -> None:
    test, reference = data / "test" / "c0_recon.mha", data / "reference" / "c0.nii.gz"
    done = cli(
        "evaluate", test, "-r", reference, "-o", tmp_path, "-m", PSNR, "--difference", tmp_path / "d.nrrd", "--json"
    )
    assert done.exit_code == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in said if event["event"] != "progress"] == [
        *("started", "stage", "stage", "stage", "result")
    ]
    assert [event["stage"] for event in said if event["event"] == "stage"] == ["read", "evaluate", "write"]
    result = said[-1]
    assert set(result["outputs"]) == {"evaluation", "rows", "summary", "difference"}
    assert all(Path(path).is_file() for path in result["outputs"].values())
    [line] = result["metrics"]["summary"]
    assert {"metric", "title", "unit", "better", "region", "n", "mean", "sd", "ci95", "worst", "slice"} <= set(line)
    assert (line["metric"], line["n"], line["sd"], line["better"]) == (PSNR, 1, None, "higher")
    one, two = io.read(test), io.read(reference)
    error = io.read(tmp_path / "d.nrrd")
    assert np.array_equal(error.voxels, one.voxels - two.voxels)
    error.geometry.assert_equal(one.geometry, 1e-6)
    assert np.square(one.voxels.clip(-1000, 1000) - two.voxels.clip(-1000, 1000)).mean((1, 2)).argmax() == line["slice"]
    record = json.loads((tmp_path / "d.json").read_text())
    assert record["task"] == "evaluate"
    assert [each["name"] for each in record["inputs"]] == ["c0_recon.mha", "c0.nii.gz"]


def test_every_trouble_is_listed_at_the_end(data: Path, tmp_path: Path) -> None:
    manifest = write_troubles(tmp_path, data)
    out = tmp_path / "out"
    done = cli("evaluate", manifest, "-o", out, "-m", BIAS)
    assert done.exit_code == 1
    for name, words in TROUBLES.items():
        assert f"{name} : " in done.stderr or f"{name}: " in done.stderr
        assert words in done.stderr
    assert f"{len(TROUBLES)} failures in {len(TROUBLES)} of 10 cases" in done.stderr
    with (out / "rows.csv").open(newline="") as stream:
        assert {row["case"] for row in csv.DictReader(stream)} == {"good", "fine"}
    content = json.loads((out / "evaluation.json").read_text())
    assert {each["case"] for each in content["failures"]} == set(TROUBLES)


def test_refusals_say_what_to_do(data: Path, tmp_path: Path) -> None:
    test, reference = data / "test", data / "reference"
    volume = test / "c0_recon.mha"
    for arguments, words in (
        ((test,), "evaluate TEST -o FOLDER"),
        ((tmp_path / "none", "-o", tmp_path), "nothing at"),
        ((test, "-r", reference / "c0.nii.gz", "-o", tmp_path), "must be a folder"),
        ((volume, "-r", reference, "-o", tmp_path), "must be one too"),
        ((volume, "-r", reference / "c0.nii.gz", "-l", data / "labels", "-o", tmp_path), "labels must be one too"),
        ((test, "-r", reference, "-o", tmp_path, "-m", "psnr"), "no metric or preset called 'psnr'"),
        ((test, "-r", reference, "-o", tmp_path, "--difference", tmp_path / "d.nrrd"), "of one pair"),
        ((test, "-r", reference, "-o", tmp_path, "-m", "fvd_i3d"), "not on this machine"),
        ((test, "--unpaired", "-o", tmp_path, "-m", "kid_embedded"), "reference folder"),
        ((test, "-r", reference, "--unpaired", "-o", tmp_path), "metric of sets"),
        ((test, "-r", tmp_path, "-o", tmp_path / "x"), "No volume in"),
    ):
        done = cli("evaluate", *arguments)
        assert done.exit_code in (2, 3), (arguments, done.stdout, done.stderr)
        assert words in " ".join(done.stderr.split()), (arguments, done.stderr)
    assert names(tmp_path) == []


def test_the_list_names_every_metric_and_preset() -> None:
    done = cli("evaluate", "--list", "--json")
    facts = json.loads(done.stdout)
    assert set(facts["metrics"]) == set(table.METRICS)
    assert facts["presets"] == {name: list(members) for name, members in presets.PRESETS.items()}
    assert facts["metrics"][PSNR]["why"] == ""
    plain = cli("evaluate", "--list").stdout
    assert [name for name in (*table.METRICS, *presets.PRESETS) if name not in plain] == []


def test_safe_for_my_task_gives_verdicts(data: Path, tmp_path: Path) -> None:
    pair = (data / "test" / "c0_recon.mha", "-r", data / "reference" / "c0.nii.gz", "-l", data / "labels" / "c0.nrrd")
    done = cli("evaluate", *pair, "-o", tmp_path, "-m", "safe-for-my-task")
    assert done.exit_code == 0, done.stderr
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert [each["metric"] for each in content["verdicts"]] == list(presets.SAFETY)
    for each in content["verdicts"]:
        assert each["verdict"] in ("OK", "caution", "no", "not judged")
        assert each["limit"] in done.stdout
        lines = [line for line in content["summary"] if line["metric"] == each["metric"] and line["mean"] is not None]
        limit = presets.SAFETY[each["metric"]]
        if lines:
            assert limit.distance(each["value"]) == max(limit.distance(float(line["mean"])) for line in lines)


# --- jobs ------------------------------------------------------------------------------------------------------------


def job(folder: Path, **files: Any) -> Job:
    folder.mkdir(exist_ok=True)
    request: dict[str, Any] = {
        "id": "E",
        "task": "evaluate",
        "output": str(folder / "evaluation.json"),
        "options": {"metrics": [PSNR, BIAS], "device": "cpu"},
    }
    texts = {name: str(value) if isinstance(value, Path) else value for name, value in files.items()}
    return Job.from_request({**request, **texts})


def test_job_in_a_file_runs_in_a_process_of_its_own(data: Path, tmp_path: Path, command: Command) -> None:
    request = {
        "id": "E",
        "task": "evaluate",
        "input": str(data / "test"),
        "reference": str(data / "reference"),
        "mask": str(data / "labels"),
        "output": "evaluation.json",
        "options": {"metrics": [PSNR], "workers": 2},
    }
    (tmp_path / "job.json").write_text(json.dumps(request))
    done = command("run", tmp_path / "job.json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["event"] == "result"
    assert result["task"] == "evaluate"
    assert result["outputs"]["rows"] == str(tmp_path / "rows.csv")
    planned = plan_cases(data / "test", data / "reference", data / "labels")
    expected = evaluate_set(planned.cases, EvaluateOptions(metrics=(PSNR,))).value(PSNR)
    assert result["metrics"]["summary"][0]["mean"] == expected
    assert result["metrics"]["cases"] == 3
    assert result["metrics"]["failed"] == 0


def test_a_pair_that_fails_is_an_error_and_writes_nothing(data: Path, tmp_path: Path) -> None:
    ct, _ = drawn(9)
    other = ct.save(tmp_path / "nan.nrrd")
    other.write_bytes(b"nonsense")
    events: list[dict[str, Any]] = []
    pair = job(tmp_path / "out", input=data / "test" / "c0_recon.mha", reference=other)
    assert run_reporting(pair, events.append, traces=pytest.fail) == 2
    assert events[-1]["event"] == "error"
    assert events[-1]["code"] == "input"
    assert "nan.nrrd" in events[-1]["message"]
    assert names(tmp_path / "out") == []


def test_a_batch_with_failures_warns_and_ends_with_a_result(data: Path, tmp_path: Path) -> None:
    manifest = write_troubles(tmp_path, data)
    events: list[dict[str, Any]] = []
    assert run_reporting(job(tmp_path / "out", input=manifest), events.append, traces=lambda text: None) == 1
    assert [event["event"] for event in events].count("warning") == len(TROUBLES)
    assert events[-1]["event"] == "result"
    metrics = events[-1]["metrics"]
    assert (metrics["cases"], metrics["failed"]) == (2, len(TROUBLES))
    assert {failure["case"] for failure in metrics["failures"]} == set(TROUBLES)


def test_bad_jobs_are_refused(data: Path, tmp_path: Path) -> None:
    volume = data / "test" / "c0_recon.mha"
    for changes, words in (
        ({"output": str(tmp_path / "x.json")}, "is called evaluation.json"),
        ({"output": str(tmp_path / "no" / "evaluation.json")}, "does not exist"),
        ({"difference": str(volume), "reference": str(volume)}, "same file"),
        ({"difference": str(tmp_path / "d.nrrd")}, "of one pair"),
        ({"options": {"metrics": "psnr"}}, "Option 'metrics' must be tuple"),
        ({"options": {"metrics": [1]}}, "Option 'metrics' must be str"),
    ):
        with pytest.raises(InputError, match=words):
            run_evaluation(job(tmp_path, input=volume, **changes), lambda event: None)
    with pytest.raises(InputError, match=r"no field 'refrence'\. Did you mean 'reference'"):
        job(tmp_path, input=volume, refrence=volume)


# --- killed ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.heavy), 2])
def test_killed_half_way_and_resumed(data: Path, tmp_path: Path, workers: int) -> None:
    rows: list[tuple[str, ...]] = [("name", "test", "reference", "labels")]
    for number in range(CASES):
        test = data / "test" / f"c{number % 3}_recon.mha"
        rows.append(
            (
                f"case{number}",
                test,
                data / "reference" / f"c{number % 3}.nii.gz",
                data / "labels" / f"c{number % 3}.nrrd",
            )
        )
    with (tmp_path / "cases.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    out = tmp_path / "out"
    words = ["evaluate", "cases.csv", "-o", "out", "-m", PSNR, "-m", "edge_shift_mm", "--workers", str(workers), "-q"]
    line = [sys.executable, "-m", "ctgencore", *words]
    process = subprocess.Popen(line, cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((out / "cases").glob("case*.json"))) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    gone, alive = psutil.wait_procs(children, timeout=30)
    assert not alive, "worker processes outlived their parent"
    assert len(gone) >= workers if workers > 1 else not gone
    assert names(out) == []
    states = {path.name: json.loads(path.read_text()) for path in (out / "cases").glob("case*.json")}
    finished = {name: state for name, state in states.items() if len(state["metrics"]) == 2}
    assert 0 < len(finished) < CASES
    times = {name: (out / "cases" / name).stat().st_mtime_ns for name in finished}

    again = cli("evaluate", tmp_path / "cases.csv", "-o", out, "-m", PSNR, "-m", "edge_shift_mm", "-q")
    assert again.exit_code == 0, again.stderr
    assert {name: (out / "cases" / name).stat().st_mtime_ns for name in finished} == times
    whole = evaluate_set(plan_cases(tmp_path / "cases.csv").cases[:3], EvaluateOptions(metrics=(PSNR, "edge_shift_mm")))
    content = json.loads((out / "evaluation.json").read_text())
    assert content["cases"] == CASES
    by_case: dict[str, list[tuple[str, str, str]]] = {}
    for row in content["rows"]:
        by_case.setdefault(row["case"], []).append((row["metric"], row["region"], repr(row["value"])))
    for number in range(CASES):
        expected = [row for row in whole.rows if row.case == f"case{number % 3}"]
        assert by_case[f"case{number}"] == [
            (row.metric, row.region, repr(None if np.isnan(row.value) else row.value)) for row in expected
        ]
