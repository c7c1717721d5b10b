"""Comparing codecs on one CT: as a process that may end at any moment, and as a command."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from comparing import COLUMNS, TABLES, files_of, job, names, rows_of, run, stages
from ctgencore import phantom
from ctgencore.cli import app
from ctgencore.errors import Cancelled
from ctgencore.geometry import Geometry
from ctgencore.jobs import run_reporting
from ctgencore.tasks.compare import Row
from ctgencore.tasks.reconstruct import ReconstructOptions
from ctgencore.volume import Volume
from processes import Peer, environment
from typer.testing import CliRunner, Result

# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keeps ``embedded`` busy for a second."""
    voxels = np.tile(phantom.chest((12, 64, 64)).ct.voxels, (4, 1, 1))
    return Volume(voxels, Geometry((64, 64, 48), (0.1, 0.1, 0.1))).save(tmp_path_factory.mktemp("long") / "long.nrrd")


def test_worker_compares_is_cancelled_and_goes_on(long_ct: Path, ct: Path, out: Path, tmp_path: Path) -> None:
    peer = Peer()
    try:
        long, short = tmp_path / "long", out
        long.mkdir()
        for name, source, folder, codecs in (
            ("long", long_ct, long, ["identity", "embedded", "dct16"]),
            ("short", ct, short, ["dct16", "identity"]),
        ):
            request = {"op": "run", "id": name, "task": "compare", "input": str(source)}
            peer.send(request | {"output": str(folder / "comparison.json"), "options": {"codecs": codecs}})
        row = peer.until("row", "long")[-1]["row"]
        assert (row["codec"], row["error"]) == ("identity", None)
        progress = peer.until("progress", "long")[-1]
        assert progress["stage"] == "embedded"
        assert 48 < progress["done"] < progress["total"] == 3 * 48
        peer.send({"op": "cancel", "id": "long"})
        error = peer.until("error", "long")[-1]
        assert (error["code"], error["exit_code"]) == ("cancelled", 130)
        assert "finished codecs are kept" in error["message"]
        assert names(long) == sorted([*TABLES, *files_of("identity", "long")])
        assert [row["codec"] for row in rows_of(long)] == ["identity"]
        events = peer.until("result", "short")
        assert stages(events) == ["read", "dct16", "identity"]
        assert events[-1]["metrics"]["rows"] == rows_of(short)
        peer.send({"op": "shutdown"})
        peer.until("bye")
    finally:
        peer.process.kill()
        peer.process.wait()


def test_cancelled_before_it_begins(ct: Path, out: Path) -> None:
    with pytest.raises(Cancelled):
        run(job(ct, out, "identity", "dct16"), cancel=lambda: True)
    assert names(out) == []
    assert (
        run_reporting(job(ct, out, "identity", "dct16"), lambda event: None, cancel=lambda: True, traces=print) == 130
    )


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_killed_run_leaves_whole_files_and_is_resumed(long_ct: Path, out: Path) -> None:
    asked = job(long_ct, out, "identity", "dct16", "embedded")
    request = {"id": "C", "task": "compare", "input": str(long_ct), "output": str(asked.output)}
    (out / "job.json").write_text(json.dumps({**request, "options": dict(asked.options)}))
    line = [sys.executable, "-m", "ctgencore", "run", str(out / "job.json")]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    done = []
    for text in process.stdout:
        event = json.loads(text)
        done += [event["row"]["codec"]] if event["event"] == "row" else []
        if event["event"] == "progress" and event["stage"] == "embedded":
            process.send_signal(signal.SIGKILL)
            break
    process.wait(timeout=30)
    process.stdout.close()
    assert done == ["identity", "dct16"]
    kept = sorted([*TABLES, *files_of("identity", "long"), *files_of("dct16", "long")])
    assert [name for name in names(out) if name != "job.json"] == kept
    assert [row["codec"] for row in rows_of(out)] == done
    times = {name: (out / name).stat().st_mtime_ns for name in kept if name not in TABLES}
    code, events = run(asked)
    assert code == 0
    assert stages(events) == ["read", "embedded"]
    assert {name: (out / name).stat().st_mtime_ns for name in times} == times
    assert [row["codec"] for row in rows_of(out)] == [*done, "embedded"]


# --- command line ----------------------------------------------------------------------------------------------------


def cli(*arguments: object) -> Result:
    words = ["reconstruct", *map(str, arguments), "--device", "cpu", "--threads", "1"]
    return CliRunner().invoke(app, words, env={"COLUMNS": "200", "NO_COLOR": "1"})


def codecs(*chosen: str) -> list[str]:
    return [word for codec in chosen for word in ("--codec", codec)]


def test_command_prints_a_table_and_ends_with_1_when_some_fail(ct: Path, tmp_path: Path, cache: Path) -> None:
    folder = tmp_path / "new" / "folder"
    done = cli("-i", ct, "-o", folder, *codecs("embedded", "identity"))
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == str(folder / "comparison.json")
    rows = {row["codec"]: row for row in rows_of(folder)}
    [shown] = [line.split() for line in lines if line.strip().startswith("embedded")]
    assert shown[1:3] == [f"{rows['embedded'][name]:.4g}" for name in ("psnr", "mae_hu")]
    assert shown[-2:] == ["Apache-2.0", "packaged"]
    assert "inf" in next(line for line in lines if line.strip().startswith("identity"))
    assert "seam" not in done.stdout  # no codec needed tiles
    assert "embedded: PSNR" in done.stderr
    some = cli("-i", ct, "-o", tmp_path / "some", *codecs("identity", "taef2"), "-q")
    assert some.exit_code == 1
    assert "missing" in some.stdout
    assert "1 of 2 codecs failed" in some.stderr
    assert "download taef2" in some.stderr
    none = cli("-i", ct, "-o", tmp_path / "none", *codecs("maisi", "taef2"))
    assert none.exit_code == 3
    assert "No codec could" in none.stderr


def test_command_in_json(ct: Path, tmp_path: Path) -> None:
    done = cli(
        "-i", ct, "-o", tmp_path / "o", *codecs("dct16", "identity"), "--json", "--window", "soft", "--calibrate"
    )
    assert done.exit_code == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["event"] for event in said if event["event"] not in ("progress", "stage")] == [
        *("started", "row", "row", "result")
    ]
    record = json.loads((tmp_path / "o" / "ct_dct16.json").read_text())
    wanted = ReconstructOptions(codec="dct16", window="soft", calibrate=True, device="cpu", threads=1)
    assert record["options"] == dataclasses.asdict(wanted)


def test_a_folder_that_is_there_is_refused_kept_or_replaced(ct: Path, tmp_path: Path) -> None:
    folder = tmp_path / "o"
    both = codecs("dct16", "identity")
    assert cli("-i", ct, "-o", folder, *both, "-q").exit_code == 0
    first = {name: (folder / name).stat().st_mtime_ns for name in files_of("dct16")}
    refused = cli("-i", ct, "-o", folder, *both)
    assert refused.exit_code == 2
    assert "Output exists" in refused.stderr
    kept = cli("-i", ct, "-o", folder, *both, "--skip-existing")
    assert kept.exit_code == 0, kept.stderr
    assert {name: (folder / name).stat().st_mtime_ns for name in first} == first
    assert "dct16" in kept.stdout
    assert cli("-i", ct, "-o", folder, *both, "--overwrite").exit_code == 0
    assert all((folder / name).stat().st_mtime_ns > old for name, old in first.items())


def test_page_has_a_case_for_every_codec_that_did_it(ct: Path, tmp_path: Path, cache: Path) -> None:
    page = tmp_path / "page.html"
    done = cli("-i", ct, "-o", tmp_path / "o", *codecs("dct16", "taef2", "identity"), "--report", page, "-q")
    assert done.exit_code == 1
    text = page.read_text()
    assert text.count("<section data-case") == 2
    for title in ("dct16: ct.nii.gz", "identity: ct.nii.gz"):
        assert title in text
    assert "taef2: ct.nii.gz" not in text


def test_what_cannot_be_compared_is_refused(ct: Path, tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    for name in ("a.nii.gz", "b.nii.gz"):
        (tmp_path / "cases" / name).write_bytes(ct.read_bytes())
    folder = tmp_path / "o"
    both = codecs("dct16", "identity")
    for arguments, words in (
        (("-i", ct, "-o", tmp_path / "o.nrrd", *both), "must be a folder"),
        (("-i", ct, "-o", ct, *both), "must be a folder"),
        (("-i", ct, "-o", folder, *both, "--triplanar"), "--triplanar is for one codec"),
        (("-i", ct, "-o", folder, *both, "--faithful"), "--faithful is for one codec"),
        (("-i", ct, "-o", folder, *both, "--sample"), "--sample is for one codec"),
        (("-i", tmp_path / "cases", "-o", folder, *both), "holds 2 volumes"),
        (("-i", tmp_path / "none", "-o", folder, *both), "nothing at"),
        (("-i", ct, "-o", folder, *codecs("dct16", "dct16")), "named 2 times"),
        (("-i", ct, "-o", folder, *both, "--report", tmp_path / "no" / "p.html"), "does not exist"),
    ):
        done = cli(*arguments)
        assert done.exit_code == 2, (arguments, done.stderr)
        assert words in " ".join(done.stderr.split()), (arguments, done.stderr)
    assert not folder.exists()


def test_row_is_what_the_documents_say() -> None:
    assert tuple(item.name for item in dataclasses.fields(Row)) == COLUMNS
    text = (Path(__file__).resolve().parents[3] / "CTGenCore" / "docs" / "protocol.md").read_text()
    section = text[text.index("## Comparison") :]
    assert all(f"`{name}`" in section for name in COLUMNS)
