"""Comparing codecs on one CT: numbers, failures, files, resuming, and the ways to ask for it."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ctgencore as ctg
import numpy as np
import pytest
from ctgencore import io, phantom
from ctgencore.cli import app
from ctgencore.errors import Cancelled, CasesFailed, InputError, OutOfMemory, WeightsError
from ctgencore.geometry import Geometry
from ctgencore.jobs import Job, ProgressEvents, parse_options, run_comparison, run_reporting
from ctgencore.provenance import verify
from ctgencore.tasks import compare as module
from ctgencore.tasks.common import CodecOptions, ProgressEvent
from ctgencore.tasks.compare import CompareOptions, Row, compare, compare_each
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from processes import Event, Peer, environment
from typer.testing import CliRunner, Result

COLUMNS = (  # other programs read them in this order
    *("codec", "psnr", "mae_hu", "edge_shift_mm", "seconds", "peak_bytes", "seam_hu"),
    *("license", "weights", "volume", "difference", "error"),
)
TABLES = ["comparison.csv", "comparison.json"]


@pytest.fixture(scope="module", autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def frozen() -> None:
    """What torch and others keep is not looked through again for garbage, which is done around every codec."""
    gc.freeze()


@pytest.fixture(scope="module")
def chest() -> Volume:
    """A chest of a few centimeters, whole HU within the wide window."""
    ct = phantom.chest((12, 48, 48)).ct
    return Volume(np.rint(ct.voxels.clip(-1000, 1000)), Geometry((48, 48, 12), (2.0, 2.0, 2.0)))


@pytest.fixture(scope="module")
def small(chest: Volume) -> Volume:
    """Of a few millimeters: no body, so that no time goes into edges."""
    return Volume(chest.voxels[:, ::2, ::2], Geometry((24, 24, 12), (0.2, 0.2, 0.2)))


@pytest.fixture
def ct(tmp_path: Path, small: Volume) -> Path:
    return Volume(small.voxels, small.geometry).save(tmp_path / "ct.nii.gz")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def options(*codecs: str, **more: Any) -> CompareOptions:
    return CompareOptions(codecs=codecs, device="cpu", threads=1, **more)


def job(source: Path, folder: Path, *codecs: str, **more: Any) -> Job:
    chosen = {"codecs": list(codecs), "device": "cpu", "threads": 1, **more}
    return Job(id="C", task="compare", input=source, output=folder / "comparison.json", options=chosen)


def run(asked: Job, **more: Any) -> tuple[int, list[Event]]:
    events: list[Event] = []
    return run_comparison(asked, events.append, **more), events


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(codec: str, stem: str = "ct") -> list[str]:
    return [f"{stem}_{codec}{end}.{kind}" for end in ("", "_difference") for kind in ("json", "nii.gz")]


def stages(events: list[Event]) -> list[str]:
    return [event["stage"] for event in events if event["event"] == "stage"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "comparison.json").read_text())["rows"]
    return rows


# --- options ---------------------------------------------------------------------------------------------------------


def test_options_are_those_of_a_reconstruction() -> None:
    shared = {item.name for item in dataclasses.fields(CodecOptions)}
    assert issubclass(ReconstructOptions, CodecOptions)
    assert {item.name for item in dataclasses.fields(CompareOptions)} == {"codecs", *shared}
    chosen = {"window": "soft", "memory": "1GiB", "calibrate": True, "dtype": "float32", "device": "cpu", "threads": 2}
    asked = CompareOptions(codecs=("identity", "dct16"), **chosen)  # type: ignore[arg-type]
    assert asked.of("dct16") == ReconstructOptions(codec="dct16", **chosen)  # type: ignore[arg-type]
    assert parse_options({"codecs": ["identity", "dct16"], **chosen}, "compare") == asked


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"codecs": ("identity",)}, "at least two codecs; got identity"),
        ({"codecs": ()}, "got none"),
        ({"codecs": ("identity", "dct16", "identity")}, "'identity' is named 2 times"),
        ({"codecs": ("identity", "dct61")}, "Did you mean 'dct16'"),
        ({"window": "bones"}, "bones"),
        ({"memory": "lots"}, "lots"),
    ],
)
def test_options_that_cannot_run(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        CompareOptions(**{"codecs": ("identity", "dct16"), **changes}).check()


# --- numbers ---------------------------------------------------------------------------------------------------------


def test_rows_are_what_reconstruct_and_evaluate_say(chest: Volume) -> None:
    found = compare(chest, options("embedded", "dct16", "identity"))
    assert [row.codec for row in found.rows] == list(found.volumes) == ["embedded", "dct16", "identity"]
    alone = reconstruct(chest, options=ReconstructOptions(codec="embedded", device="cpu", threads=1))
    np.testing.assert_array_equal(found.volumes["embedded"].voxels, alone.voxels)
    expected = ctg.evaluate(alone, chest, metrics=["psnr_255_w2000", "mae_hu", "edge_shift_mm"])
    row = found.row("embedded")
    assert row.psnr == pytest.approx(expected.value("psnr_255_w2000"), abs=1e-9)
    assert row.mae_hu == expected.value("mae_hu")
    assert row.edge_shift_mm == expected.value("edge_shift_mm") > 0
    assert row.seconds is not None
    assert row.seconds > 0
    assert row.peak_bytes is not None
    assert row.peak_bytes > 0
    assert (row.license, row.weights, row.error) == ("Apache-2.0", "packaged", None)
    same = found.row("identity")
    assert (same.psnr, same.mae_hu, same.edge_shift_mm) == (None, 0, 0)
    with pytest.raises(InputError, match="Did you mean 'dct16'"):
        found.row("dct61")


def test_window_and_calibration_reach_every_codec(chest: Volume) -> None:
    found = compare(chest, options("identity", "dct16", window="soft", calibrate=True))
    for volume in found.volumes.values():
        assert (volume.voxels.min(), volume.voxels.max()) == (-175, 250)
        assert set(volume.record.results) >= {"gain", "offset_hu"}  # type: ignore[union-attr]
    assert found.row("identity").mae_hu == pytest.approx(0, abs=0.5)


def test_a_ct_without_a_body_has_no_edges(small: Volume) -> None:
    found = compare(small, options("identity", "dct16"))
    assert [row.edge_shift_mm for row in found.rows] == [None, None]
    assert found.row("dct16").psnr is not None


def test_progress_counts_over_codecs_and_slices(small: Volume) -> None:
    seen: list[ProgressEvent] = []
    compare(small, options("dct16", "identity"), progress=seen.append)
    assert {event.total for event in seen} == {24}
    assert [event.done for event in seen] == sorted(event.done for event in seen)
    assert {(event.stage, event.before) for event in seen} == {("dct16", 0), ("identity", 12)}
    assert seen[-1].done == 24


def test_rate_is_that_of_the_running_codec() -> None:
    events: list[Event] = []
    progress = ProgressEvents("C", events.append)
    progress(ProgressEvent("a", 0, 200))
    progress(ProgressEvent("a", 100, 200))
    progress(ProgressEvent("b", 100, 200, before=100))
    time.sleep(0.2)  # loading
    progress(ProgressEvent("b", 100, 200, before=100))
    time.sleep(0.2)
    progress(ProgressEvent("b", 120, 200, before=100))
    assert stages(events) == ["a", "b"]
    last = events[-1]
    assert (last["stage"], last["done"]) == ("b", 120)
    assert 50 < last["rate"] <= 100  # 20 slices in 0.2 s
    assert last["eta_s"] == pytest.approx(80 / last["rate"], abs=0.1)


# --- failures --------------------------------------------------------------------------------------------------------


def test_missing_weights_are_a_row_and_the_others_go_on(small: Volume, cache: Path) -> None:
    found = compare(small, options("taef2", "dct16"))
    lost = found.row("taef2")
    assert (lost.weights, lost.license, lost.psnr, lost.seconds) == ("missing", "MIT", None, None)
    assert "ctgencore download taef2" in str(lost.error)
    assert list(found.volumes) == ["dct16"]
    assert found.row("dct16").error is None


def test_no_codec_left_is_an_error(small: Volume, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"No codec could[^\x00]*taef2: [^\x00]*maisi: "):
        compare(small, options("taef2", "maisi"))
    with pytest.raises(OutOfMemory, match="No codec"):
        compare(small, options("identity", "dct16", memory="1B"))
    with pytest.raises(CasesFailed, match="No codec"):
        compare(small, options("taef2", "dct16", memory="1B"))
    with pytest.raises(InputError, match="float16 on a CPU"):  # of no codec in particular
        compare(small, options("identity", "dct16", dtype="float16"))


def test_an_unexpected_error_is_a_row_with_its_traceback(small: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    load = module.load_codec

    def broken(chosen: ReconstructOptions) -> Any:
        if chosen.codec == "identity":
            raise ZeroDivisionError("of this test")
        return load(chosen)

    monkeypatch.setattr(module, "load_codec", broken)
    first, second = compare_each(small, options("identity", "dct16"))
    assert first.row.error == "ZeroDivisionError: of this test"
    assert "in broken" in first.trace
    assert second.volume is not None


def test_a_codec_is_gone_before_the_next_is_loaded(small: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    load, loaded = module.load_codec, []

    def watched(chosen: ReconstructOptions) -> Any:
        assert [name for name, codec in loaded if codec() is not None] == []
        codec = load(chosen)
        loaded.append((chosen.codec, weakref.ref(codec.network if codec.network is not None else codec)))
        if chosen.codec == "dct16":  # an error must not keep it alive either
            codec.plan = lambda shape, memory=None: 1 / 0  # type: ignore[method-assign]
        return codec

    monkeypatch.setattr(module, "load_codec", watched)
    gc.disable()
    try:
        found = [each.row for each in compare_each(small, options("embedded", "dct16", "identity"))]
    finally:
        gc.enable()
    assert [name for name, _ in loaded] == ["embedded", "dct16", "identity"]
    assert [row.error is None for row in found] == [True, False, True]
    assert all(codec() is None for _, codec in loaded)


# --- files -----------------------------------------------------------------------------------------------------------


def test_job_writes_volumes_differences_and_tables(ct: Path, small: Volume, out: Path, cache: Path) -> None:
    code, events = run(job(ct, out, "embedded", "taef2", "dct16"))
    assert code == 1  # taef2
    assert names(out) == sorted([*TABLES, *files_of("embedded"), *files_of("dct16")])
    content = json.loads((out / "comparison.json").read_text())
    assert {name: content[name] for name in ("version", "input", "window")} == {
        "version": 1,
        "input": str(ct),
        "window": "wide",
    }
    rows = content["rows"]
    assert [tuple(row) for row in rows] == [COLUMNS] * 3
    assert [row["codec"] for row in rows] == ["embedded", "taef2", "dct16"]
    for row in (rows[0], rows[2]):
        assert (row["volume"], row["difference"]) == (
            f"ct_{row['codec']}.nii.gz",
            f"ct_{row['codec']}_difference.nii.gz",
        )
        output, difference = (io.read(out / row[name]).voxels for name in ("volume", "difference"))
        np.testing.assert_array_equal(difference, output - small.voxels)
        assert row["mae_hu"] == pytest.approx(np.abs(output - small.voxels).mean(), abs=1e-3)
        for name in ("volume", "difference"):
            found = verify(out / row[name])
            assert found.verdict == "processed"
            assert found.voxels_match_record
            assert found.by == f"reconstruct {row['codec']}"
    with (out / "comparison.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [{name: "" if row[name] is None else str(row[name]) for name in COLUMNS} for row in rows] == table
    # events
    assert [event["event"] for event in events if event["event"] not in ("progress", "stage")] == [
        *("started", "row", "row", "row", "result")
    ]
    assert stages(events) == ["read", "embedded", "taef2", "dct16"]
    assert [event["row"] for event in events if event["event"] == "row"] == rows
    assert events[-1]["outputs"] == {"comparison": str(out / "comparison.json")}
    assert events[-1]["metrics"] == {"rows": rows}


def test_python_saves_what_the_job_writes(ct: Path, out: Path, tmp_path: Path) -> None:
    run(job(ct, out, "identity", "dct16"))
    found = compare(io.read(ct), options("identity", "dct16"))
    assert [tuple(row) for row in found.to_dict()["rows"]] == [COLUMNS] * 2
    path = found.save(tmp_path / "saved")
    assert path == tmp_path / "saved" / "comparison.json"
    assert names(path.parent) == names(out)
    ours, theirs = rows_of(path.parent), rows_of(out)
    for one, other in zip(ours, theirs, strict=True):
        measured = ("seconds", "peak_bytes")
        assert {name: one[name] for name in COLUMNS if name not in measured} == {
            name: other[name] for name in COLUMNS if name not in measured
        }


def test_finished_codecs_are_kept_and_others_added(ct: Path, out: Path, cache: Path) -> None:
    run(job(ct, out, "dct16", "taef2"))
    before = {name: (out / name).stat().st_mtime_ns for name in files_of("dct16")}
    seconds = rows_of(out)[0]["seconds"]
    _, events = run(job(ct, out, "identity", "dct16", "taef2"))
    assert stages(events) == ["read", "identity", "taef2"]  # what failed is tried again
    assert {name: (out / name).stat().st_mtime_ns for name in files_of("dct16")} == before
    assert [row["codec"] for row in rows_of(out)] == ["identity", "dct16", "taef2"]
    assert rows_of(out)[1]["seconds"] == seconds
    assert {event["total"] for event in events if event["event"] == "progress"} == {2 * 12}
    _, events = run(job(ct, out, "dct16", "identity"))
    assert stages(events) == ["read"]
    assert [event["row"]["codec"] for event in events if event["event"] == "row"] == ["dct16", "identity"]
    assert [row["codec"] for row in rows_of(out)] == ["dct16", "identity"]
    _, events = run(job(ct, out, "dct16", "identity", dtype="auto"))  # which stands for float32 here
    assert stages(events) == ["read"]


@pytest.mark.parametrize("change", ["options", "input", "damaged", "record", "table", "overwrite"])
def test_what_an_earlier_run_left_is_used_only_if_it_is_the_same(
    ct: Path, small: Volume, out: Path, change: str
) -> None:
    run(job(ct, out, "identity", "dct16"))
    more: dict[str, Any] = {}
    redone = ["identity", "dct16"]
    if change == "options":
        more["window"] = "soft"
    elif change == "input":
        Volume(small.voxels + 1, small.geometry).save(ct)
    elif change == "damaged":
        path = out / "ct_dct16_difference.nii.gz"
        path.write_bytes(path.read_bytes()[:1000])
        redone = ["dct16"]
    elif change == "record":
        (out / "ct_dct16.json").unlink()
        redone = ["dct16"]
    elif change == "table":
        (out / "comparison.json").write_text('{"version": 1, "rows": [{"codex": 1}]}')
    _, events = run(job(ct, out, "identity", "dct16", **more), resume=change != "overwrite")
    assert stages(events) == ["read", *redone]
    assert names(out) == sorted([*TABLES, *files_of("identity"), *files_of("dct16")])
    assert all(verify(out / name).voxels_match_record for name in names(out) if name.endswith(".gz"))
    assert json.loads((out / "comparison.json").read_text())["window"] == more.get("window", "wide")


def test_rows_of_another_run_do_not_stand_beside_new_files(
    ct: Path, out: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(job(ct, out, "identity", "dct16"))
    first = (out / "comparison.json").read_text()
    with pytest.raises(WeightsError, match="No codec"):
        run(job(ct, out, "taef2", "maisi"))
    assert (out / "comparison.json").read_text() == first  # nothing was done, so nothing is taken away
    write, seen = io.write_all, []

    def watched(volumes: Any) -> None:
        seen.append(sorted(path.name for path in out.glob("comparison.*")))
        write(volumes)

    monkeypatch.setattr(io, "write_all", watched)
    run(job(ct, out, "identity", "dct16", window="soft"))
    assert seen == [[], TABLES]


def test_sheared_grids_become_nrrd(small: Volume, tmp_path: Path, out: Path) -> None:
    turn = (1.0, 0.0, 0.3, 0.0, 1.0, 0.0, 0.0, 0.0, 0.954)
    grid = dataclasses.replace(small.geometry, direction=turn)
    path = Volume(small.voxels, grid).save(tmp_path / "ct.nrrd")
    assert io.read(path).geometry.is_sheared()
    run(job(path, out, "identity", "dct16"))
    assert [row["volume"] for row in rows_of(out)] == ["ct_identity.nrrd", "ct_dct16.nrrd"]


def test_bad_jobs_are_refused(ct: Path, out: Path, tmp_path: Path) -> None:
    good = job(ct, out, "identity", "dct16")
    for changes, words in (
        ({"output": out / "x.json"}, "is called comparison.json"),
        ({"output": tmp_path / "no" / "comparison.json"}, "does not exist"),
        ({"difference": tmp_path / "d.nrrd"}, "always writes its differences"),
        ({"options": {"codecs": ["identity"]}}, "at least two"),
        ({"options": {"codecs": "identity"}}, "'codecs' must be tuple"),
        ({"options": {"codecs": ["identity", "dct16"], "seed": 1}}, "no option 'seed'"),
        ({"input": tmp_path / "none.nrrd"}, "does not exist"),
    ):
        with pytest.raises(InputError, match=words):
            run_comparison(dataclasses.replace(good, **changes), lambda event: None)
    assert names(out) == []
    with pytest.raises(InputError, match="needs 'input'"):
        Job.from_request({"id": "C", "task": "compare", "output": "comparison.json"})


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
    text = (Path(__file__).resolve().parents[2] / "CTGenCore" / "docs" / "protocol.md").read_text()
    section = text[text.index("## Comparison") :]
    assert all(f"`{name}`" in section for name in COLUMNS)
