"""The worker and job files as real processes: protocol, cancel, bad input, and nothing else on stdout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctgencore import io
from ctgencore.errors import InputError
from ctgencore.jobs import PROGRESS_PERIOD_S, Job, Models, ProgressEvents, parse_options
from ctgencore.tasks.reconstruct import ProgressEvent, ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from processes import Command, Event, Peer, environment


@pytest.fixture
def peer() -> Iterator[Peer]:
    worker = Peer()
    yield worker
    if worker.process.poll() is None:
        worker.process.kill()
        worker.process.wait()


def request(job: str, source: Path, target: Path, **options: Any) -> Event:
    return {
        "op": "run",
        "id": job,
        "task": "reconstruct",
        "input": str(source),
        "output": str(target),
        "options": options,
    }


def leftovers(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_hello_run_result_bye(peer: Peer, small_ct: Path, tmp_path: Path) -> None:
    [hello] = peer.until("hello")
    assert hello["protocol"] == 1
    assert hello["pid"] == peer.process.pid
    peer.send(
        request("A", small_ct, tmp_path / "out.nrrd", codec="identity") | {"difference": str(tmp_path / "d.nrrd")}
    )
    events = peer.until("result", "A")
    assert events[0] == {"event": "started", "id": "A", "task": "reconstruct"}
    stages = [event["stage"] for event in events if event["event"] == "stage"]
    assert stages == ["read", "load", "reconstruct", "write"]
    result = events[-1]
    outputs = {name: Path(path) for name, path in result["outputs"].items()}
    assert outputs["volume"] == tmp_path / "out.nrrd"
    assert outputs["record"] == tmp_path / "out.json"
    assert result["metrics"]["psnr"] is None
    assert result["metrics"]["mae_hu"] == 0
    before = io.read(small_ct).voxels
    clipped = before.clip(-1000, 1000)  # the wide window
    assert np.array_equal(io.read(outputs["volume"]).voxels, clipped)
    assert np.array_equal(io.read(outputs["difference"]).voxels, clipped - before)
    peer.send({"op": "shutdown"})
    assert peer.until("bye")[-1] == {"event": "bye"}
    assert peer.process.wait(timeout=30) == 0


def test_end_of_requests_finishes_open_jobs(peer: Peer, small_ct: Path, tmp_path: Path) -> None:
    for name in "AB":
        peer.send(request(name, small_ct, tmp_path / f"{name}.nrrd", codec="dct16"))
    assert peer.process.stdin is not None
    peer.process.stdin.close()
    events = peer.until("bye")
    assert [event["id"] for event in events if event["event"] == "result"] == ["A", "B"]
    assert peer.process.wait(timeout=30) == 0


def test_bad_requests_are_answered_and_survived(peer: Peer, small_ct: Path, tmp_path: Path) -> None:
    good = request("ok", small_ct, tmp_path / "ok.nrrd", codec="identity")
    bad: list[tuple[Event | str, str]] = [
        ("garbage", "one line of JSON"),
        ("[1, 2]", "'op' is one of"),
        ('{"op": "fly"}', "got 'fly'"),
        ('{"op": "run"}', "needs 'id' as text"),
        (good | {"id": ""}, "needs 'id' as text"),
        (good | {"outptu": "x"}, "no field 'outptu'. Did you mean 'output'?"),
        (good | {"task": "reconstuct"}, "Did you mean 'reconstruct'?"),
        (good | {"options": []}, "'options' are an object"),
        (good | {"options": {"codex": "identity"}}, "no option 'codex'. Did you mean 'codec'?"),
        (good | {"options": {"seed": "7"}}, "Option 'seed' must be int; got '7'"),
        (good | {"options": {"threads": True}}, "Option 'threads' must be int or null; got True"),
        (good | {"options": {"codec": "identiti"}}, "Did you mean 'identity'?"),
        (good | {"options": {"codec": "identity", "window": "bones"}}, "bones"),
        (good | {"input": str(tmp_path / "none.nrrd")}, "does not exist"),
        (good | {"output": str(tmp_path / "x.png")}, "must end in one of"),
        (good | {"output": str(tmp_path / "no" / "x.nrrd")}, "does not exist"),
        (good | {"output": str(small_ct)}, "same file"),
        (good | {"difference": good["output"]}, "different names"),
    ]
    peer.until("hello")
    for wrong, words in bad:
        peer.send(wrong)
        error = peer.until("error")[-1]
        assert error["code"] == "input", error
        assert error["exit_code"] == 2
        assert words in error["message"], error["message"]
    assert leftovers(tmp_path) == ["small.nii.gz"]
    peer.send(good)
    peer.until("result", "ok")


def test_failing_jobs_do_not_stop_the_next(peer: Peer, small_ct: Path, tmp_path: Path, cache: Path) -> None:
    broken = tmp_path / "broken.nrrd"
    broken.write_bytes(b"NRRD0004\nnonsense")
    peer.send(request("broken", broken, tmp_path / "1.nrrd"))
    peer.send(request("small", small_ct, tmp_path / "2.nrrd", codec="identity", memory="1B"))
    peer.send(request("good", small_ct, tmp_path / "3.nrrd", codec="identity"))
    events = peer.until("result", "good")
    errors = {event["id"]: (event["code"], event["exit_code"]) for event in events if event["event"] == "error"}
    assert errors == {"broken": ("input", 2), "small": ("memory", 4)}
    assert leftovers(tmp_path) == ["3.json", "3.nrrd", "broken.nrrd", "small.nii.gz"]


def test_missing_weights_have_their_own_code(peer: Peer, small_ct: Path, tmp_path: Path, cache: Path) -> None:
    cache.mkdir()
    peer.process.kill()
    other = Peer()  # with the empty cache of this test
    other.send(request("A", small_ct, tmp_path / "a.nrrd", codec="taef2"))
    error = other.until("error", "A")[-1]
    assert (error["code"], error["exit_code"]) == ("weights", 3)
    assert "ctgencore download taef2" in error["message"]
    other.send({"op": "shutdown"})
    other.until("bye")


def test_cancel_half_way_leaves_nothing_and_the_worker_goes_on(
    peer: Peer, slow_ct: Path, small_ct: Path, tmp_path: Path
) -> None:
    peer.send(request("slow", slow_ct, tmp_path / "slow.nrrd", codec="dct16"))
    peer.send(request("next", small_ct, tmp_path / "next.nrrd", codec="identity"))
    progress = peer.until("progress", "slow")[-1]
    assert 0 < progress["done"] < progress["total"] == 480
    peer.send({"op": "cancel", "id": "slow"})
    asked = time.monotonic()
    error = peer.until("error", "slow")[-1]
    assert time.monotonic() - asked < 5
    assert (error["code"], error["exit_code"]) == ("cancelled", 130)
    peer.until("result", "next")
    assert leftovers(tmp_path) == ["next.json", "next.nrrd", "small.nii.gz"]


def test_waiting_jobs_can_be_cancelled_and_unknown_ones_are_told(peer: Peer, slow_ct: Path, tmp_path: Path) -> None:
    peer.send(request("slow", slow_ct, tmp_path / "slow.nrrd", codec="dct16"))
    peer.send(request("waiting", slow_ct, tmp_path / "waiting.nrrd", codec="dct16"))
    peer.send(request("slow", slow_ct, tmp_path / "again.nrrd", codec="dct16"))
    twice = peer.until("error")[-1]
    assert "still open" in twice["message"]
    assert "id" not in twice
    peer.send({"op": "cancel", "id": "nobody"})
    assert "no open job 'nobody'" in peer.until("log")[-1]["message"]
    peer.send({"op": "cancel", "id": "waiting"})
    peer.send({"op": "cancel", "id": "slow"})
    assert peer.until("error", "waiting")[-1]["code"] == "cancelled"
    assert leftovers(tmp_path) == []


def test_shutdown_cancels_what_runs(peer: Peer, slow_ct: Path, tmp_path: Path) -> None:
    peer.send(request("slow", slow_ct, tmp_path / "slow.nrrd", codec="dct16"))
    peer.until("progress", "slow")
    peer.send({"op": "shutdown"})
    events = peer.until("bye")
    assert [event["code"] for event in events if event["event"] == "error"] == ["cancelled"]
    assert peer.process.wait(timeout=30) == 0
    assert leftovers(tmp_path) == []


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_ends_the_worker_without_leftovers(peer: Peer, slow_ct: Path, tmp_path: Path) -> None:
    peer.send(request("slow", slow_ct, tmp_path / "slow.nrrd", codec="dct16"))
    peer.until("progress", "slow")
    peer.process.send_signal(signal.SIGTERM)
    assert peer.until("error", "slow")[-1]["code"] == "cancelled"
    assert peer.process.wait(timeout=30) == 130
    assert leftovers(tmp_path) == []


def test_worker_ends_when_nobody_listens(slow_ct: Path, tmp_path: Path) -> None:
    line = [sys.executable, "-m", "ctgencore", "worker"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment())
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(request("slow", slow_ct, tmp_path / "slow.nrrd", codec="dct16")) + "\n")
    process.stdin.flush()
    while json.loads(process.stdout.readline())["event"] != "progress":
        pass
    process.stdout.close()
    try:
        assert process.wait(timeout=30) == 1
    finally:
        process.stdin.close()
    assert leftovers(tmp_path) == []


def test_info_and_env_say_what_the_commands_say(peer: Peer, command: Command) -> None:
    for name in ("info", "env"):
        peer.send({"op": name})
        event = peer.until(name)[-1]
        told = json.loads(command(name, "--json").stdout)
        for facts in (event, told):
            facts.pop("cache_free_gib", None)
            for device in facts.get("devices", []):
                device.pop("memory_free_gib")
        assert event == {"event": name, **told}


def test_stray_prints_go_to_stderr() -> None:
    code = (
        "import os; from ctgencore.worker import EventWriter; emit = EventWriter(); print('from Python', flush=True);"
        "os.write(1, b'from C\\n'); os.system('echo from a child'); emit({'event': 'bye'}); print('late')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == '{"event": "bye"}\n'
    for words in ("from Python", "from C", "from a child", "late"):
        assert words in done.stderr


def test_progress_is_throttled_but_ends_at_the_end() -> None:
    events: list[Event] = []
    progress = ProgressEvents("J", events.append)
    began = time.perf_counter()
    for done in range(1, 20001):
        progress(ProgressEvent("reconstruct", done, 20000))
    seconds = time.perf_counter() - began
    told = [event for event in events if event["event"] == "progress"]
    assert 2 <= len(told) <= seconds / PROGRESS_PERIOD_S + 3
    assert (told[-1]["done"], told[-1]["eta_s"]) == (20000, 0)
    assert told[-1]["rate"] == pytest.approx(20000 / seconds, rel=0.2)
    assert [event["stage"] for event in events if event["event"] == "stage"] == ["reconstruct"]


def test_codecs_stay_loaded_and_few() -> None:
    models = Models()
    identity, dct = ReconstructOptions(codec="identity", device="cpu"), ReconstructOptions(codec="dct16", device="cpu")
    first = models.codec(identity)
    assert models.codec(identity) is first
    kept = models.codec(dct)
    models.codec(ReconstructOptions(codec="identity", device="cpu", faithful=True))  # another build: the oldest goes
    assert models.codec(dct) is kept
    assert models.codec(identity) is not first


def test_options_from_json_equal_the_dataclass() -> None:
    plain = {"codec": "dct16", "window": "-160 240", "threads": 1, "calibrate": True, "memory": None, "seed": 5}
    assert parse_options(plain) == ReconstructOptions(**plain)  # type: ignore[arg-type]
    assert parse_options({"codec": "identity"}) == ReconstructOptions(codec="identity")
    with pytest.raises(InputError, match="'calibrate' must be bool; got 1"):
        parse_options({"calibrate": 1})


def test_worker_job_file_and_python_give_the_same_voxels(
    peer: Peer, command: Command, small_ct: Path, tmp_path: Path
) -> None:
    options = {"codec": "dct16", "window": "soft", "calibrate": True}
    peer.send(request("A", small_ct, tmp_path / "worker.nrrd", **options))
    peer.until("result", "A")
    job = tmp_path / "job.json"
    job.write_text(json.dumps(request("B", Path("small.nii.gz"), Path("file.nrrd"), **options)))
    assert command("run", job, cwd=Path("/")).returncode == 0
    volume: Volume = reconstruct(io.read(small_ct), options=parse_options(options))
    for name in ("worker.nrrd", "file.nrrd"):
        assert np.array_equal(io.read(tmp_path / name).voxels, volume.voxels)


def test_job_file_is_cancelled_by_a_file_beside_it(slow_ct: Path, tmp_path: Path) -> None:
    job = tmp_path / "job.json"
    job.write_text(json.dumps(request("A", slow_ct, Path("out.nrrd"), codec="dct16")))
    line = [sys.executable, "-m", "ctgencore", "run", str(job)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout is not None
    events = []
    for text in process.stdout:
        events.append(json.loads(text))
        if events[-1]["event"] == "progress":
            (tmp_path / "cancel").touch()
    assert process.wait(timeout=30) == 130
    assert events[-1]["code"] == "cancelled"
    assert leftovers(tmp_path) == ["cancel", "job.json"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"task": "reconstruct"}'])
def test_bad_job_file_is_an_error_event(command: Command, tmp_path: Path, content: str) -> None:
    job = tmp_path / "job.json"
    job.write_text(content)
    done = command("run", job)
    [event] = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == event["exit_code"] == 2
    assert event["code"] == "input"


def test_job_paths_start_at_their_file(tmp_path: Path) -> None:
    plain = {"id": "A", "task": "reconstruct", "input": "a.nrrd", "output": "/abs/b.nrrd", "difference": "c.nrrd"}
    job = Job.from_request(plain, tmp_path)
    assert (job.input, job.output, job.difference) == (tmp_path / "a.nrrd", Path("/abs/b.nrrd"), tmp_path / "c.nrrd")
