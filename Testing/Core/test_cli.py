"""The command line as its users meet it: results, refusals, exit codes, and stdout that holds data only."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ctgencore
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import hub, io, jobs
from ctgencore.cli import app
from ctgencore.cli.reconstruct import reconstruct as reconstruct_command
from ctgencore.tasks.reconstruct import ReconstructOptions
from ctgencore.volume import Volume
from ctgencore.zoo import CODECS
from processes import Command, environment
from typer.testing import CliRunner, Result


def cli(*arguments: object) -> Result:
    """The command in this process: quick, for what needs no process of its own."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


def reconstruct(source: Path, target: Path, *more: object, codec: str = "identity") -> Result:
    return cli("reconstruct", "-i", source, "-o", target, "--codec", codec, *more)


def events(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_options_of_the_command_are_those_of_the_dataclass() -> None:
    parameters = inspect.signature(reconstruct_command).parameters
    assert parameters["codec"].default is None  # it can be given several times; without it there is one, the default
    for field in dataclasses.fields(ReconstructOptions):
        assert field.name == "codec" or parameters[field.name].default == field.default, field.name
    files = {"input", "output", "difference", "report", "skip_existing", "overwrite"}
    talk = {"as_json", "quiet", "verbose", "offline"}
    assert set(parameters) - {field.name for field in dataclasses.fields(ReconstructOptions)} == files | talk


def test_every_option_reaches_the_record(small_ct: Path, tmp_path: Path) -> None:
    wanted = {
        "codec": "dct16",
        "window": "-160 240",
        "device": "cpu",
        "memory": "1GiB",
        "threads": 1,
        "calibrate": True,
    }
    flags = [
        word for name, value in wanted.items() for word in ([f"--{name}"] if value is True else [f"--{name}", value])
    ]
    done = cli("reconstruct", "-i", small_ct, "-o", tmp_path / "out.nrrd", *flags, "--seed", 3)
    assert done.exit_code == 0, done.stderr
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["options"] == dataclasses.asdict(ReconstructOptions(**wanted, seed=3))  # type: ignore[arg-type]
    assert record["seed"] == 3


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".nii"])
def test_identity_changes_no_voxel_and_no_grid(small_volume: Volume, tmp_path: Path, suffix: str) -> None:
    source = small_volume.save(tmp_path / f"in{suffix}")
    done = reconstruct(source, tmp_path / f"out{suffix}", "--window", "-1024 3071")
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"{tmp_path / f'out{suffix}'}\n"
    before, after = sitk.ReadImage(str(source)), sitk.ReadImage(str(tmp_path / f"out{suffix}"))
    assert np.array_equal(sitk.GetArrayFromImage(before), sitk.GetArrayFromImage(after))
    assert (before.GetOrigin(), before.GetSpacing(), before.GetDirection()) == (
        after.GetOrigin(),
        after.GetSpacing(),
        after.GetDirection(),
    )


def test_output_that_is_there_is_refused_skipped_or_replaced(small_ct: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.nrrd"
    assert reconstruct(small_ct, target).exit_code == 0
    first = target.read_bytes(), (tmp_path / "out.json").read_text()
    refused = reconstruct(small_ct, target, codec="dct16")
    assert refused.exit_code == 2
    assert "Output exists" in refused.stderr
    assert "--overwrite" in refused.stderr
    assert "--skip-existing" in refused.stderr
    skipped = reconstruct(small_ct, target, "--skip-existing", codec="dct16")
    assert (skipped.exit_code, skipped.stdout) == (0, "")
    assert "skipped" in skipped.stderr
    assert (target.read_bytes(), (tmp_path / "out.json").read_text()) == first
    assert reconstruct(small_ct, target, "--overwrite", codec="dct16").exit_code == 0
    assert json.loads((tmp_path / "out.json").read_text())["codec"] == "dct16"
    both = reconstruct(small_ct, target, "--overwrite", "--skip-existing")
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_folder_in_folder_out_lists_what_failed_and_goes_on(small_ct: Path, tmp_path: Path) -> None:
    cases, out = tmp_path / "cases", tmp_path / "cases" / "results"
    for name in ("a.nii.gz", "deep/b.nii.gz"):
        (cases / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(small_ct, cases / name)
    (cases / "broken.nrrd").write_bytes(b"NRRD0004\nnonsense")
    done = reconstruct(cases, out)
    assert done.exit_code == 1
    assert "1 of 3 cases failed" in done.stderr
    assert "broken.nrrd" in done.stderr
    wanted = ["a_recon.json", "a_recon.nii.gz", "deep/b_recon.json", "deep/b_recon.nii.gz"]
    assert names(out) == wanted
    assert sorted(done.stdout.split()) == [str(out / name) for name in wanted if name.endswith(".gz")]
    again = reconstruct(cases, out, "--skip-existing", "--json")  # the results inside are not taken for inputs
    assert again.exit_code == 1
    kinds = [event["event"] for event in events(again.stdout)]
    assert kinds == ["log", "log", "started", "stage", "error", "error"]
    assert events(again.stdout)[-1]["code"] == "cases"
    assert names(out) == wanted


def test_dicom_folder_becomes_a_file(ct_data: Path, tmp_path: Path) -> None:
    slices = sorted((ct_data / "TotalSegmentator_example_ct_dicom").rglob("*.dcm"))
    assert len(slices) == 20
    (tmp_path / "series").mkdir()
    for path in slices:
        shutil.copy(path, tmp_path / "series")
    done = reconstruct(tmp_path / "series", tmp_path / "out.nrrd", "--window", "-1024 3071")
    assert done.exit_code == 0, done.stderr
    volume = io.read(tmp_path / "series")
    assert np.array_equal(io.read(tmp_path / "out.nrrd").voxels, volume.voxels.clip(-1024, 3071))
    io.read(tmp_path / "out.nrrd").geometry.assert_equal(volume.geometry)
    assert reconstruct(tmp_path / "series", tmp_path / "folder").exit_code == 0
    assert names(tmp_path / "folder") == ["series_recon.json", "series_recon.nrrd"]


def test_results_of_one_name_are_refused_before_any_work(small_volume: Volume, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    for name in ("a.nii.gz", "a.nrrd"):
        small_volume.save(tmp_path / "cases" / name)
    done = reconstruct(tmp_path / "cases", tmp_path / "out")
    assert done.exit_code == 2
    assert "same result name" in done.stderr
    assert names(tmp_path) == ["cases/a.nii.gz", "cases/a.nrrd"]


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (["--codec", "embeded"], 2, "Did you mean 'embedded'? Known: embedded, leanvae"),
        (["--window", "bones"], 2, "wide, soft, lung"),
        (["--window", "300 -300"], 2, "LO < HI"),
        (["--device", "cuda:99"], 2, "not available here"),
        (["--device", "gpu"], 2, "Unknown device 'gpu'"),
        (["--dtype", "float8"], 2, "float32, float16, bfloat16"),
        (["--dtype", "bfloat16", "--device", "cpu"], 2, "--dtype float32"),
        (["--memory", "much"], 2, "8GiB"),
        (["--memory", "1B"], 4, "--memory"),
        (["--triplanar"], 2, "2D codec"),
        (["--sample"], 2, "--sample"),
        (["--threads", "0"], 2, "--threads"),
        (["--codec", "taef2"], 3, "ctgencore download taef2 --from FOLDER"),
        (["--codec", "wan2.1"], 3, "Run: ctgencore download wan2.1"),
        (["--report", "nowhere/x.html"], 2, "does not exist"),
    ],
)
def test_wrong_options_cost_nothing_and_write_nothing(
    small_ct: Path, tmp_path: Path, cache: Path, flags: list[str], code: int, words: str
) -> None:
    codec = [] if "--codec" in flags else ["--codec", "identity"]
    done = cli("reconstruct", "-i", small_ct, "-o", tmp_path / "out.nrrd", *codec, *flags)
    assert done.exit_code == code, done.stderr
    assert words in " ".join(done.stderr.replace("│", " ").split()), done.stderr
    assert done.stdout == ""
    assert names(tmp_path) == ["small.nii.gz"]


def test_input_that_is_no_ct_is_refused(small_volume: Volume, tmp_path: Path) -> None:
    def refuse(array: np.ndarray, words: str) -> None:
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=array.ndim == 4), str(tmp_path / "in.nrrd"))
        done = reconstruct(tmp_path / "in.nrrd", tmp_path / "out.nrrd")
        assert done.exit_code == 2
        assert words in done.stderr, done.stderr
        assert names(tmp_path) == ["in.nrrd"]

    voxels = small_volume.voxels
    refuse(np.zeros_like(voxels), "every voxel is 0")
    refuse(np.where(voxels > 0, np.nan, voxels), "NaN")
    refuse((voxels > 0).astype(np.float32), "not CT in Hounsfield units")
    refuse(np.stack([voxels, voxels], axis=-1), "this file has 2 (color or vectors)")
    missing = reconstruct(tmp_path / "none.nrrd", tmp_path / "out.nrrd")
    assert missing.exit_code == 2
    assert "nothing at" in missing.stderr


def test_json_errors_carry_the_job_and_the_exit_code(small_ct: Path, tmp_path: Path) -> None:
    good = reconstruct(small_ct, tmp_path / "out.nrrd", "--json", "--difference")
    told = events(good.stdout)
    assert good.exit_code == 0
    assert [event["event"] for event in told if event["event"] != "progress"] == [
        *("started", "stage", "stage", "stage", "stage", "result"),
    ]
    assert set(told[-1]["outputs"]) == {"volume", "record", "difference"}
    assert names(tmp_path) == [
        *("out.json", "out.nrrd", "out_difference.json", "out_difference.nrrd", "small.nii.gz"),
    ]
    bad = reconstruct(small_ct, tmp_path / "b.nrrd", "--json", "--memory", "1B")
    assert bad.exit_code == events(bad.stdout)[-1]["exit_code"] == 4
    assert events(bad.stdout)[-1]["id"] == told[-1]["id"]
    early = reconstruct(small_ct, tmp_path / "out.nrrd", "--json")
    assert early.exit_code == 2
    [event] = events(early.stdout)
    assert (event["event"], event["code"]) == ("error", "input")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupt_exits_130_and_leaves_nothing(slow_ct: Path, tmp_path: Path, sent: signal.Signals) -> None:
    line = [sys.executable, "-m", "ctgencore", "reconstruct", "-i", str(slow_ct), "-o", str(tmp_path / "o.nrrd")]
    process = subprocess.Popen(
        [*line, "--codec", "dct16", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background starts deaf to it
    )
    assert process.stdout is not None
    while json.loads(process.stdout.readline())["event"] != "progress":
        pass
    process.send_signal(sent)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert events(out)[-1]["code"] == "cancelled"
    assert "Traceback" not in err
    assert names(tmp_path) == []


def test_unexpected_errors_show_their_trace_only_with_v(
    small_ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("ctgencore.jobs.runner.check_output", fault)
    plain = reconstruct(small_ct, tmp_path / "out.nrrd")
    assert plain.exit_code == 1
    assert "please report it: ZeroDivisionError: a fault of ours" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "Traceback" in reconstruct(small_ct, tmp_path / "out.nrrd", "-v").stderr


def test_quiet_keeps_results_and_errors(small_ct: Path, tmp_path: Path) -> None:
    done = reconstruct(small_ct, tmp_path / "out.nrrd", "-q")
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'out.nrrd'}\n", "")
    assert "Output exists" in reconstruct(small_ct, tmp_path / "out.nrrd", "-q").stderr


def test_version() -> None:
    assert cli("--version").stdout == f"ctgencore {ctgencore.__version__}\n"


def test_info_lists_every_codec(cache: Path) -> None:
    shown = cli("info").stdout
    facts = json.loads(cli("info", "--json").stdout)
    assert [row["name"] for row in facts["codecs"]] == list(CODECS)
    assert all(name in shown for name in CODECS)
    assert facts["cache"] == str(cache)
    rows = {row["name"]: row for row in facts["codecs"]}
    assert rows["identity"]["available"]
    assert not rows["taef2"]["available"]
    assert not rows["taef2"]["license_accepted"]
    assert "ctgencore download taef2" in rows["taef2"]["why"]
    assert "github.com/madebyollin/taesd" in cli("info", "taef2").stdout
    wrong = cli("info", "taef")
    assert wrong.exit_code == 2
    assert "Did you mean 'taef2'?" in wrong.stderr


def test_real_weights_in_real_ct_out(ct_data: Path, cache: Path, tmp_path: Path) -> None:
    weights = ct_data.parents[1] / "weights"
    if not weights.is_dir():
        pytest.skip(f"no weights beside the CT data ({weights})")
    refused = cli("download", "taef2", "--from", weights)
    assert refused.exit_code == 3
    assert "under the license MIT" in refused.stderr
    assert "--accept-license" in refused.stderr
    done = cli("download", "taef2", "--from", weights, "--accept-license")
    assert done.exit_code == 0, done.stderr
    assert [Path(line) for line in done.stdout.split()] == [
        cache / "weights" / "taef2" / f"taef2_{part}.safetensors" for part in ("encoder", "decoder")
    ]
    assert json.loads(cli("info", "taef2", "--json").stdout)["codecs"][0]["available"]
    source = io.read(ct_data / "TotalSegmentator_example_ct" / "ct.nii.gz")
    crop = sitk.GetImageFromArray(source.voxels[40:48, 20:84, 20:84])
    sitk.WriteImage(crop, str(tmp_path / "crop.nrrd"))
    result = reconstruct(tmp_path / "crop.nrrd", tmp_path / "out.nrrd", "--json", codec="taef2")
    assert result.exit_code == 0, result.stderr
    assert events(result.stdout)[-1]["metrics"]["psnr"] > 25  # 32 dB on the whole volume, measured
    record = json.loads((tmp_path / "out.json").read_text())
    assert {item["sha256"] for item in record["weights"]} == {file.sha256 for file in CODECS["taef2"].weights}
    told = json.loads(cli("verify", tmp_path / "out.nrrd", "--json").stdout)
    assert (told["verdict"], told["by"], told["voxels_match_record"]) == ("processed", "reconstruct taef2", True)


def test_download_refusals(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # --offline sets it for the process, which here is that of the tests
    offline = cli("download", "leanvae", "--offline")
    assert offline.exit_code == 3
    assert "Yumic/LeanVAE: LeanVAE-dim16.ckpt" in offline.stderr
    assert cli("download", "identity").exit_code == 0
    assert not hub.cache_folder().exists()


def test_verify_tells_processed_from_unmarked(small_ct: Path, tmp_path: Path) -> None:
    assert reconstruct(small_ct, tmp_path / "out.nrrd").exit_code == 0
    marked, plain = cli("verify", tmp_path / "out.nrrd"), cli("verify", small_ct)
    assert (marked.exit_code, plain.exit_code) == (0, 0)
    assert "PROCESSED by CTGen: reconstruct identity" in marked.stdout
    assert "unmarked" in plain.stdout
    assert cli("verify", tmp_path / "none.nrrd").exit_code == 2


def test_env_reports_this_machine() -> None:
    facts = json.loads(cli("env", "--json").stdout)
    assert facts["protocol"] == jobs.PROTOCOL
    assert facts["python"] == sys.version.split()[0]
    assert facts["devices"][0]["id"] == "cpu"
    assert facts["devices"][0]["memory_free_gib"] > 0
    assert facts["torch"].count(".") == 2
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["torch"] in cli("env").stdout


def test_demo_writes_volumes_records_and_one_page(command: Command, small_ct: Path, tmp_path: Path) -> None:
    twin = tmp_path / "twin" / small_ct.name
    twin.parent.mkdir()
    shutil.copy(small_ct, twin)
    done = command("demo", small_ct, twin, "-o", tmp_path / "demo", "--codec", "identity")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(tmp_path / "demo" / "index.html")
    assert names(tmp_path / "demo") == [
        *("2_small_recon.json", "2_small_recon.nii.gz", "generated_chest.json", "generated_chest.nii.gz"),
        *("index.html", "phantom_chest.nii.gz", "phantom_chest_recon.json", "phantom_chest_recon.nii.gz"),
        *("phantom_diseases.nii.gz", "phantom_organs.nii.gz", "small_recon.json", "small_recon.nii.gz"),
    ]
    page = (tmp_path / "demo" / "index.html").read_text()
    assert page.count("<section data-case") == 4
    assert "mask, in typical HU" in page
    wrong = command("demo", tmp_path / "none.nrrd", "-o", tmp_path / "other", "--codec", "identity")
    assert wrong.returncode == 2
    assert not (tmp_path / "other").exists()


def test_train_runs_a_recipe(command: Command, tmp_path: Path) -> None:
    done = command("train", "tiny", "-o", tmp_path / "run", "--steps", 3, "--workers", 0)
    assert done.returncode == 0, done.stderr
    *log, folder = done.stdout.splitlines()
    assert json.loads(log[-1])["step"] == 3
    assert sorted(os.listdir(folder)) == ["config.json", "diffusion_pytorch_model.safetensors"]
    unknown = command("train", "tini", "-o", tmp_path / "run")
    assert unknown.returncode == 2
    assert "Did you mean 'tiny'?" in unknown.stderr


def test_report_option_writes_the_page(small_ct: Path, tmp_path: Path) -> None:
    done = reconstruct(small_ct, tmp_path / "out.nrrd", "--report", tmp_path / "page.html")
    assert done.exit_code == 0, done.stderr
    assert "not for diagnosis" in (tmp_path / "page.html").read_text()
    again = reconstruct(small_ct, tmp_path / "other.nrrd", "--report", tmp_path / "page.html")
    assert again.exit_code == 2
    assert "page.html" in again.stderr
    assert not (tmp_path / "other.nrrd").exists()


def test_all_files_of_a_job_or_none(small_ct: Path, tmp_path: Path) -> None:
    (tmp_path / "out_difference.json").write_text('{"mine": true}')  # not a record: writing there is refused
    done = reconstruct(small_ct, tmp_path / "out.nrrd", "--difference")
    assert done.exit_code == 2
    assert "out_difference.json exists and is not a CTGen record" in done.stderr
    assert names(tmp_path) == ["out_difference.json", "small.nii.gz"]


def test_folder_to_file_needs_exactly_one_volume(small_ct: Path, tmp_path: Path) -> None:
    cases = tmp_path / "cases" / "deep"
    cases.mkdir(parents=True)
    shutil.copy(small_ct, cases / "a.nii.gz")
    assert reconstruct(tmp_path / "cases", tmp_path / "one.nrrd").exit_code == 0
    assert json.loads((tmp_path / "one.json").read_text())["inputs"][0]["name"] == "a.nii.gz"
    shutil.copy(small_ct, cases / "b.nii.gz")
    two = reconstruct(tmp_path / "cases", tmp_path / "two.nrrd")
    assert two.exit_code == 2
    assert "holds 2 volumes (deep/a.nii.gz, deep/b.nii.gz)" in two.stderr
