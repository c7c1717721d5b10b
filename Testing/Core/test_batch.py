"""The batch layer: markers, retries, pause, cancel, shards, manifests; and runs that are killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from batches import KilledRuns, all_bytes, cases_of, contents, manifest_of, reconstruction, sources, units_of
from ctgencore import jobs
from ctgencore.cli import app
from ctgencore.cluster import markers
from ctgencore.cluster.execute import Executor, execute
from ctgencore.cluster.manifest import read_manifest
from ctgencore.cluster.work import Summary, Unit
from ctgencore.errors import Cancelled, InputError
from processes import environment
from typer.testing import CliRunner, Result

Event = dict[str, Any]


def silent(event: Event) -> None:
    pass


def run(units: list[Unit], state: Path, emit: Any = silent, **more: Any) -> Summary:
    return execute(units, state=state, executor=more.pop("executor", Executor()), emit=emit, **more)


def states(events: list[Event]) -> list[tuple[str, str]]:
    return [(event["name"], event["state"]) for event in events if event["event"] == "case"]


def test_a_batch_equals_a_loop_over_jobs(tmp_path: Path) -> None:
    files = sources(tmp_path / "in", 3)
    looped, batched = tmp_path / "looped", tmp_path / "batched"
    models = jobs.Models()
    for unit in units_of(files, looped):
        jobs.run(jobs.Job.from_request({**unit.payload, "id": "J"}), silent, models=models)
    events: list[Event] = []
    units = units_of(files, batched)
    summary = run([*units, units[0]], tmp_path / "state", events.append)  # the same work twice is done once
    assert contents(batched) == contents(looped)
    assert len(contents(batched)) == 6  # volumes and records, nothing else
    assert summary.done == tuple(units)
    assert (summary.skipped, summary.failed, summary.left) == (0, (), ())
    assert set(summary.results) == {unit.key for unit in units}
    assert states(events) == [(unit.name, "done") for unit in units]
    last = events[-1]
    assert (last["done"], last["failed"], last["skipped"], last["total"], last["eta_s"]) == (3, 0, 0, 3, 0.0)
    assert last["per_minute"] > 0
    assert last["seconds"] > 0
    assert {event["id"] for event in events if event["event"] == "progress"} == {unit.name for unit in units}
    lines = [json.loads(line) for line in (tmp_path / "state" / "log.jsonl").read_text().splitlines()]
    assert [(line["name"], line["state"]) for line in lines] == states(events)
    assert not list((tmp_path / "state" / "running").iterdir())


def test_finished_work_is_not_done_again_unless_something_changed(tmp_path: Path) -> None:
    files = sources(tmp_path / "in", 4)
    output, state = tmp_path / "out", tmp_path / "state"
    units = units_of(files, output)
    run(units, state)
    before = {path.name: path.stat().st_mtime_ns for path in output.iterdir()}
    events: list[Event] = []
    summary = run(units, state, events.append)
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir()} == before
    assert states(events) == [(unit.name, "skipped") for unit in units]
    assert (summary.skipped, len(summary.done), len(summary.results)) == (4, 4, 4)

    os.utime(files[0])  # another time, the same content
    sources(tmp_path / "other", 5)[4].replace(files[1])  # another content
    (output / "out2.json").unlink()
    with (output / "out3.nii.gz").open("ab") as file:
        file.write(b"x")
    events.clear()
    run(units, state, events.append)
    assert [state for _, state in states(events)] == ["skipped", "done", "done", "done"]
    assert (output / "out0.nii.gz").stat().st_mtime_ns == before["out0.nii.gz"]

    events.clear()
    run(units_of(files, output, calibrate=True), state, events.append)  # other options are other work
    assert [state for _, state in states(events)] == ["done"] * 4


def test_a_folder_is_unchanged_while_its_visible_files_are(tmp_path: Path) -> None:
    folder = tmp_path / "series"
    (folder / "sub").mkdir(parents=True)
    for name in ("1.dcm", "2.dcm", "sub/3.dcm"):
        (folder / name).write_bytes(name.encode())
    state = markers.State(tmp_path / "state")
    unit = Unit(name="a", call="job", payload={}, inputs=(folder,))

    def finish() -> None:
        state.finish(unit, markers.fingerprints(unit.inputs), [], {"n": 1})

    finish()
    assert state.result(unit) == {"n": 1}
    (folder / ".hidden").write_bytes(b"x")
    os.utime(folder / "1.dcm")
    assert state.result(unit) == {"n": 1}
    (folder / "2.dcm").rename(folder / "4.dcm")
    assert state.result(unit) is None
    finish()
    (folder / "sub" / "3.dcm").write_bytes(b"SUB/3.dcm")  # the same size
    assert state.result(unit) is None
    finish()
    (folder / "5.dcm").write_bytes(b"")
    assert state.result(unit) is None
    before = markers.fingerprints(unit.inputs)
    (folder / "5.dcm").write_bytes(b"now")
    with pytest.raises(OSError, match="changed while it was read"):
        state.finish(unit, before, [], {})


def test_what_may_pass_is_tried_again_after_a_growing_wait(tmp_path: Path) -> None:
    [source] = sources(tmp_path / "in", 1)
    late, never = tmp_path / "late.nii.gz", tmp_path / "never.nii.gz"
    output = tmp_path / "out"
    output.mkdir()
    units = [
        reconstruction(late, output / "late.nii.gz"),
        reconstruction(never, output / "never.nii.gz"),
        reconstruction(source, output / "small.nii.gz", codec="embedded", memory="1KiB"),
        reconstruction(source, output / "wrong.nii.gz", window="nonsense"),
        reconstruction(source, output / "good.nii.gz"),
    ]
    events: list[tuple[float, Event]] = []

    def emit(event: Event) -> None:
        events.append((time.monotonic(), event))
        if event["event"] == "case" and (event["name"], event["state"]) == ("late.nii.gz", "retry"):
            source.with_name("copy.nii.gz").write_bytes(source.read_bytes())
            source.with_name("copy.nii.gz").rename(late)  # as when a network disk comes back

    summary = run(units, tmp_path / "state", emit, attempts=3, backoff_s=0.2)
    assert [unit.name for unit in summary.done] == ["late.nii.gz", "good.nii.gz"]
    failed = {each.unit.name: (each.code, each.attempts) for each in summary.failed}
    assert failed == {"never.nii.gz": ("io", 3), "small.nii.gz": ("memory", 3), "wrong.nii.gz": ("input", 1)}
    tries = [when for when, event in events if event.get("name") == "never.nii.gz"]
    assert len(tries) == 3
    assert tries[1] - tries[0] >= 0.2
    assert tries[2] - tries[1] >= 0.4
    assert states([event for _, event in events]).index(("good.nii.gz", "done")) < 5, "the others go first"
    assert sorted(path.name for path in output.iterdir()) == ["good.json", "good.nii.gz", "late.json", "late.nii.gz"]


def test_pause_holds_new_units_back(tmp_path: Path) -> None:
    units = units_of(sources(tmp_path / "in", 2), tmp_path / "out")
    pause = tmp_path / "state" / markers.PAUSE
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        if event["event"] == "case" and event["done"] == 1:
            pause.touch()
        if event["event"] == "paused":
            threading.Timer(0.5, pause.unlink).start()

    began = time.monotonic()
    assert len(run(units, tmp_path / "state", emit).done) == 2
    assert time.monotonic() - began > 0.5
    kinds = [event["event"] for event in events]
    assert kinds.count("paused") == kinds.count("resumed") == 1
    assert kinds[kinds.index("paused") + 1] == "resumed", "nothing ran meanwhile"


def test_cancel_keeps_what_is_finished(tmp_path: Path) -> None:
    units = units_of(sources(tmp_path / "in", 3), tmp_path / "out")
    events: list[Event] = []
    with pytest.raises(Cancelled, match="1 finished cases are kept"):
        run(units, tmp_path / "state", events.append, cancel=lambda: ("out0.nii.gz", "done") in states(events))
    assert states(events) == [("out0.nii.gz", "done")]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["out0.json", "out0.nii.gz"]
    assert run(units, tmp_path / "state").skipped == 1


def test_shards_share_the_work_and_know_what_others_have_left(tmp_path: Path) -> None:
    files = sources(tmp_path / "in", 5)
    serial, sharded = units_of(files, tmp_path / "serial"), units_of(files, tmp_path / "sharded")
    run(serial, tmp_path / "state")
    one, two = (Executor(kind="shard", shard=(place, 2)) for place in (1, 2))
    first = run(sharded, tmp_path / "shared", executor=one)
    assert first.done == (sharded[0], sharded[2], sharded[4])
    assert first.left == (sharded[1], sharded[3])
    second = run(sharded, tmp_path / "shared", executor=two)
    assert second.done == tuple(sharded)
    assert (second.skipped, second.left, len(second.results)) == (3, (), 5)
    assert contents(tmp_path / "sharded") == contents(tmp_path / "serial")
    assert {path.name for path in (tmp_path / "shared").glob("*.jsonl")} == {"log-1-of-2.jsonl", "log-2-of-2.jsonl"}


def test_an_augmentation_in_shards_has_the_same_bytes_and_is_swept(tmp_path: Path) -> None:
    files = sources(tmp_path / "in", 2)
    serial, sharded = tmp_path / "serial", tmp_path / "sharded"
    first = run(cases_of(files, serial), serial / ".ctgen")
    assert len(first.done) == 2
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    for place in (1, 2):
        if place == 2:  # as if a third process had been killed in the middle of a view
            (sharded / ".ctgen" / "running" / f"{markers.socket.gethostname()}@{killed.pid}").touch()
            (sharded / "images" / f".ctgen-{killed.pid}-ab.nii.gz").touch()
        run(cases_of(files, sharded), sharded / ".ctgen", executor=Executor(kind="shard", shard=(place, 2)))
    assert all_bytes(sharded) == all_bytes(serial)
    assert len([name for name in all_bytes(serial) if name.endswith(".nii.gz")]) == 12  # 2 cases x 3 images and labels
    (serial / "images" / "ct1__dct16.nii.gz").unlink()
    events: list[Event] = []
    run(cases_of(files, serial), serial / ".ctgen", events.append)
    assert states(events) == [("ct0", "skipped"), ("ct1", "done")]
    assert all_bytes(serial) == all_bytes(sharded)


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        ({"kind": "dask"}, "Allowed: serial, shard, ray"),
        ({"kind": "shard"}, "such as 1/4"),
        ({"kind": "shard", "shard": (0, 2)}, "from 1 to n; got 0/2"),
        ({"kind": "shard", "shard": (3, 2)}, "got 3/2"),
        ({"shard": (1, 2)}, "others do not"),
        ({"workers": 2}, "belong to the executor 'ray'"),
        ({"kind": "ray", "workers": 0}, "At least one worker"),
    ],
)
def test_executors_that_make_no_sense_are_refused(choice: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Executor(**choice)


def test_only_temporaries_of_the_dead_are_removed(tmp_path: Path) -> None:
    output, tree, state = tmp_path / "out", tmp_path / "tree", tmp_path / "state"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as alive:
        kept = markers.State(state)
        host = markers.socket.gethostname()
        far, stranger = 4_000_001, 4_000_002
        for entry in (f"{host}@{dead.pid}", f"{host}@{alive.pid}", f"elsewhere@{far}"):
            (state / "running" / entry).touch()
        for folder in (output, tree / "a" / "b", state / "done"):
            folder.mkdir(parents=True, exist_ok=True)
            for pid in (dead.pid, alive.pid, far, stranger):
                (folder / f".ctgen-{pid}-ab.nii.gz").touch()
            old = folder / f".ctgen-{far}-old.nii.gz"
            old.touch()
            os.utime(old, (0, time.time() - 2 * markers.STALE_S))
            (folder / f".ctgen-{dead.pid}-folder").mkdir()
            (folder / f".ctgen-{dead.pid}-folder" / "1.dcm").touch()
            (folder / "volume.nii.gz").touch()
        with kept.at_work([output], [tree]):
            left = {f".ctgen-{pid}-ab.nii.gz" for pid in (alive.pid, far, stranger)} | {"volume.nii.gz"}
            for folder in (output, tree / "a" / "b", state / "done"):
                assert {path.name for path in folder.iterdir()} == left
            there = {path.name for path in (state / "running").iterdir()}
            assert there == {f"{host}@{alive.pid}", f"elsewhere@{far}", f"{host}@{os.getpid()}"}
        assert f"{host}@{os.getpid()}" not in {path.name for path in (state / "running").iterdir()}
        alive.communicate(b"\n")


def test_manifests_give_files_and_options(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.nii.gz").touch()
    table = tmp_path / "m.csv"
    table.write_text(
        "name, input, output, difference, window, seed, calibrate, memory\n"
        "first,a.nii.gz,out/a.nii.gz,,-150 250,3,true,none\n"
        f"second,{tmp_path}/b.nii.gz,{tmp_path}/b.nrrd,d.nrrd,,,,\n"
    )
    first, second = read_manifest(table, "reconstruct", {"seed": "7", "codec": "identity", "memory": "1GiB"})
    assert first.name == "first"
    assert first.inputs == (tmp_path / "a.nii.gz",)
    assert first.payload == {
        "task": "reconstruct",
        "input": str(tmp_path / "a.nii.gz"),
        "output": str(tmp_path / "out" / "a.nii.gz"),
        "options": {"codec": "identity", "window": "-150 250", "seed": 3, "calibrate": True, "memory": None},
    }
    assert second.payload["difference"] == str(tmp_path / "d.nrrd")
    assert second.payload["options"] == {"codec": "identity", "seed": 7, "memory": "1GiB"}
    assert not (tmp_path / "out").exists(), "reading a manifest makes nothing"

    lines = tmp_path / "m.jsonl"
    rows = [{"mask": "a.nii.gz", "output": "g.nrrd", "report": "1", "spacing_mm": [1, 1, 2.5], "seed": 2}]
    lines.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    [unit] = read_manifest(lines, "generate", {"spacing_mm": "3 3 3", "steps": "2"})
    assert unit.payload["options"] == {"spacing_mm": [1, 1, 2.5], "steps": 2, "report": "1", "seed": 2}
    table.write_text('mask,output,report,spacing_mm\na.nii.gz,g.nrrd,"Two\nlines, one cell",1 1 2.5\n')
    [unit] = read_manifest(table, "generate", {})
    assert unit.payload["options"] == {"report": "Two\nlines, one cell", "spacing_mm": (1.0, 1.0, 2.5)}


def invoke(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, ["batch", *map(str, arguments)])


def test_all_bad_rows_are_told_before_any_work(tmp_path: Path) -> None:
    sources(tmp_path, 2)
    rows = [
        "input,output,seed,codec",
        "ct0.nii.gz,out/0.nii.gz,,",
        "ct0.nii.gz,out/1.nii.gz,many,",
        "gone.nii.gz,out/2.nii.gz,,",
        "ct0.nii.gz,out/3.txt,,",
        "ct1.nii.gz,out/0.nrrd,,",
        "ct1.nii.gz,ct0.nii.gz,,",
        ",out/6.nii.gz,,",
        "ct1.nii.gz,out/7.nii.gz,,embeded",
    ]
    (tmp_path / "m.csv").write_text("\n".join(rows) + "\n")
    done = invoke("reconstruct", "--manifest", tmp_path / "m.csv", "--state", tmp_path / "state")
    assert done.exit_code == 2
    for words in (
        "line 3: Option 'seed' must be int; got 'many'",
        "line 4: There is nothing at",
        "line 5: Cannot write '3.txt'",
        "line 6: ",
        "0.json is also written by line 2",
        "line 7: ",
        "ct0.nii.gz is also an input, of 0.nii.gz",
        "line 8: A job needs 'input'",
        "line 9: ",
        "embedded",
    ):
        assert words in done.stderr
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("m.csv", "input,output\n", "has no rows"),
        ("m.csv", "input,output\na\n", "line 2: as many cells"),
        ("m.jsonl", "[1]\n", "line 1: one JSON object"),
        ("m.txt", "", "a .csv or .jsonl file"),
        ("m.csv", "input,output,colour\na.nii.gz,b.nii.gz,red\n", "no option 'colour'"),
    ],
)
def test_manifests_that_are_none_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_manifest(tmp_path / name, "reconstruct", {})


def test_the_command_lists_failures_and_ends_with_1(tmp_path: Path) -> None:
    files = sources(tmp_path, 2)
    (tmp_path / "ct9.nii.gz").write_bytes(files[0].read_bytes()[:400])  # cut off
    manifest = manifest_of([*files, tmp_path / "ct9.nii.gz"], tmp_path / "out")
    arguments = ("reconstruct", "--manifest", manifest, "--state", tmp_path / "state", "--attempts", 1)
    done = invoke(*arguments, "--json")
    assert done.exit_code == 1
    events = [json.loads(line) for line in done.stdout.splitlines()]
    result, error = events[-2:]
    assert result["metrics"]["cases"] == 2
    assert [each["name"] for each in result["metrics"]["failed"]] == ["out9.nii.gz"]
    assert (error["event"], error["code"], error["exit_code"]) == ("error", "cases", 1)
    assert "out9.nii.gz" in error["message"]
    again = invoke(*arguments, "--executor", "shard", "--shard", "1/3")
    assert again.exit_code == 0, again.stderr
    assert "2 of 3 cases are done, 2 of them earlier, 1 left to other shards" in again.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_ends_the_command_gracefully(tmp_path: Path) -> None:
    runs = KilledRuns(sources(tmp_path / "in", 6, (40, 96, 96)), tmp_path)
    process = runs.start()
    process.send_signal(signal.SIGTERM)  # as a cluster's scheduler does
    text, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(text.splitlines()[-1])["code"] == "cancelled"
    assert not list((runs.state / "running").iterdir())
    assert not list(runs.output.glob(".*"))


def markers_in(state: Path) -> list[Any]:
    return [json.loads(path.read_text()) for path in (state / "done").glob("[!.]*.json")]


def check_killed_runs(tmp_path: Path, kills: int) -> int:
    """Kill a serial run at random moments until so many kills hit; each time, and at the end, all is well.

    Returns:
        How many temporary files the kills left, all of which the next start removed.
    """
    chance = random.Random(kills)
    files = sources(tmp_path / "in", 6, (40, 96, 96))
    straight = tmp_path / "straight"
    run(units_of(files, straight), tmp_path / "straight_state")
    expected = contents(straight)
    hits, orphans = 0, 0
    while hits < kills:
        folder = tmp_path / f"round{hits}"
        folder.mkdir()
        runs = KilledRuns(files, folder)
        finished: set[str] = set()
        while hits < kills and runs.kill_once(chance, 0.8, lambda process: process.pid):
            hits += 1
            orphans += len([path for path in runs.output.rglob(".*") if path.is_file()])
            shown = contents(runs.output, hidden=False)
            assert {name: content for name, content in shown.items() if expected[name] != content} == {}
            marked = {Path(each["path"]).name for marker in markers_in(runs.state) for each in marker["outputs"]}
            assert finished <= marked <= shown.keys(), "finished work was lost"
            finished = marked
        done = subprocess.run(runs.line, env=environment(), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert contents(runs.output) == expected
        assert not [path for path in runs.state.rglob("*") if path.name.startswith(".")]
        assert len(markers_in(runs.state)) == len(files)
        log = [json.loads(line)["key"] for line in (runs.state / "log.jsonl").read_text().splitlines()]
        assert len(log) == len(set(log)), "work was done twice"
    return orphans


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_run_killed_three_times_equals_a_straight_one(tmp_path: Path) -> None:
    check_killed_runs(tmp_path, 3)


@pytest.mark.heavy
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_run_killed_twenty_times_equals_a_straight_one(tmp_path: Path) -> None:
    assert check_killed_runs(tmp_path, 20) > 0, "no kill came while a file was written"
