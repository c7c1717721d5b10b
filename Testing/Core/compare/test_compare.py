"""Comparing codecs on one CT: options, numbers, failures, files and resuming."""

from __future__ import annotations

import csv
import dataclasses
import gc
import json
import time
import weakref
from pathlib import Path
from typing import Any

import ctgencore as ctg
import numpy as np
import pytest
from comparing import COLUMNS, TABLES, files_of, job, names, options, rows_of, run, stages
from ctgencore import io
from ctgencore.errors import CasesFailed, InputError, OutOfMemory, WeightsError
from ctgencore.jobs import Job, ProgressEvents, parse_options, run_comparison
from ctgencore.provenance import verify
from ctgencore.tasks import compare as module
from ctgencore.tasks.common import CodecOptions, ProgressEvent
from ctgencore.tasks.compare import CompareOptions, compare, compare_each
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from processes import Event

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
