"""Units on Ray: the same files as one after the other, whatever dies on the way."""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batches import KilledRuns, all_bytes, cases_of, contents, reconstruction, sources, units_of
from ctgencore.cluster.execute import Executor, execute
from ctgencore.cluster.raypool import Worker
from ctgencore.errors import Cancelled, InputError
from processes import environment

pytest.importorskip("ray")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX signals, and Ray on Windows is a beta")

TWO = Executor(kind="ray", workers=2)


def silent(event: dict[str, Any]) -> None:
    pass


def actors(state: Path, driver: int) -> list[int]:
    """Processes that signed in, other than the one that gives out the work."""
    pids = [int(entry.name.rpartition("@")[2]) for entry in (state / "running").iterdir()]
    return [pid for pid in pids if pid != driver]


def test_two_actors_one_of_which_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Actors come and go; failures, results and files are those of a serial run."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    files = sources(tmp_path / "in", 6)
    serial, parallel, state = tmp_path / "serial", tmp_path / "parallel", tmp_path / "state"
    execute(units_of(files, serial), state=tmp_path / "serial_state", executor=Executor(), emit=silent)
    units = units_of(files, parallel)
    wrong = reconstruction(tmp_path / "in" / "ct0.nii.gz", parallel / "wrong.nii.gz", window="nonsense")
    events: list[dict[str, Any]] = []
    killed: list[int] = []

    def emit(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "case" and event["done"] and not killed:
            killed.append(actors(state, os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    summary = execute([*units, wrong], state=state, executor=TWO, emit=emit, backoff_s=0.1)
    assert killed
    assert summary.done == tuple(units)
    assert [(each.unit, each.code) for each in summary.failed] == [(wrong, "input")]
    assert contents(parallel) == contents(serial)
    assert events[-1]["done"] + events[-1]["failed"] == 7
    lines = [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]
    lost = [line for line in lines if line["state"] == "retry"]
    assert [line["code"] for line in lost] == ["worker"]
    assert {line["host"] for line in lines} == {socket.gethostname()}
    assert not list((state / "running").glob(f"*@{os.getpid()}"))
    assert execute(units, state=state, executor=Executor(), emit=silent).skipped == 6, "any executor knows of it"


@pytest.mark.heavy
def test_an_augmentation_on_ray_has_the_same_bytes(tmp_path: Path) -> None:
    files = sources(tmp_path / "in", 4)
    for name, executor in (("serial", Executor()), ("parallel", TWO)):
        units = cases_of(files, tmp_path / name)
        assert len(execute(units, state=tmp_path / name / ".ctgen", executor=executor, emit=silent).done) == 4
    assert all_bytes(tmp_path / "parallel") == all_bytes(tmp_path / "serial")


def test_an_address_where_no_cluster_is(tmp_path: Path) -> None:
    units = units_of(sources(tmp_path / "in", 1), tmp_path / "out")
    nowhere = Executor(kind="ray", address="127.0.0.1:9")  # `auto` might find one of somebody else
    with pytest.raises(InputError, match=r"no Ray cluster at '127.0.0.1:9'"):
        execute(units, state=tmp_path / "state", executor=nowhere, emit=silent)


def test_workers_that_cannot_start_say_why(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not see the folder"):
        Worker(tmp_path / "elsewhere", (set(), set()))


@pytest.mark.heavy
def test_workers_that_cannot_start_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "older" / "ctgencore"  # what the workers find instead of ours
    package.mkdir(parents=True)
    (package / "__init__.py").write_text('raise ImportError("nothing here")')
    units = units_of(sources(tmp_path / "in", 1), tmp_path / "out")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    with pytest.raises(InputError, match="workers cannot start"):
        execute(units, state=tmp_path / "state", executor=TWO, emit=silent)


@pytest.mark.heavy
def test_cancel_stops_running_units_and_keeps_finished_ones(tmp_path: Path, slow_ct: Path) -> None:
    output = tmp_path / "out"
    units = units_of(sources(tmp_path / "in", 2), output)
    units += [reconstruction(slow_ct, output / f"slow{n}.nrrd", codec="dct16", seed=n) for n in range(2)]
    events: list[dict[str, Any]] = []
    since: list[float] = []

    def cancel() -> bool:
        if not since and sum(event.get("state") == "done" for event in events) == 2:
            since.append(time.monotonic())
        return bool(since) and time.monotonic() - since[0] > 1  # the slow ones have begun

    with pytest.raises(Cancelled, match="2 finished cases are kept"):
        execute(units, state=tmp_path / "state", executor=TWO, emit=events.append, cancel=cancel)
    assert time.monotonic() - since[0] < 20
    assert {path.name for path in output.iterdir()} == {"out0.json", "out0.nii.gz", "out1.json", "out1.nii.gz"}
    assert not list((tmp_path / "state" / "running").iterdir())


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_the_command_and_its_cluster(tmp_path: Path, number: signal.Signals) -> None:
    files = sources(tmp_path / "in", 40, (40, 96, 96))
    runs = KilledRuns(files, tmp_path, "--executor", "ray", "--workers", "2")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    process = subprocess.Popen(
        runs.line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    process.stdout.readline()
    os.killpg(process.pid, number)  # as a terminal's Ctrl-C, which goes to all
    text, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert json.loads(text.splitlines()[-1])["code"] == "cancelled"
    assert not [path for path in runs.output.iterdir() if path.name.startswith(".")]
    wait_for_end(runs.state)


def wait_for_end(state: Path, timeout: float = 30) -> None:
    """Until no actor that signed in lives any more."""
    end = time.monotonic() + timeout
    while pids := [pid for pid in actors(state, 0) if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, f"actors live on: {pids}"
        time.sleep(0.1)


@pytest.mark.heavy
@pytest.mark.parametrize("whom", ["actors", "driver"])
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path, whom: str) -> None:
    chance = random.Random(0)
    files = sources(tmp_path / "in", 12, (40, 96, 96))
    straight = tmp_path / "straight"
    execute(units_of(files, straight), state=tmp_path / "straight_state", executor=Executor(), emit=silent)
    expected = contents(straight)
    kills, rounds = 0, 0
    while kills < 20:
        rounds += 1
        folder = tmp_path / f"round{rounds}"
        folder.mkdir()
        runs = KilledRuns(files, folder, "--executor", "ray", "--workers", "2", "--attempts", "50")
        finished = False
        while not finished:
            process = runs.start()
            while process.poll() is None and kills < 20:
                time.sleep(chance.uniform(0, 0.7))
                if whom == "driver":
                    process.kill()
                    kills += 1
                elif living := actors(runs.state, process.pid):
                    try:
                        os.kill(chance.choice(living), signal.SIGKILL)
                        kills += 1
                    except ProcessLookupError:  # an entry of one that was killed before
                        pass
            text, _ = process.communicate(timeout=300)
            wait_for_end(runs.state)
            finished = process.returncode == 0
            assert finished or whom == "driver", text
        assert contents(runs.output) == expected
        log = [json.loads(line) for line in (runs.state / "log.jsonl").read_text().splitlines()]
        done = [line["key"] for line in log if line["state"] == "done"]
        assert len(done) == len(set(done)), "work was done twice"
        assert len(list((runs.state / "done").iterdir())) == len(files)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A head and a second node on this machine with a token of their own, started as the documentation says."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
    ray = str(Path(sys.executable).with_name("ray"))

    def start(*arguments: str) -> None:
        subprocess.run(
            [ray, "start", "--disable-usage-stats", "--num-cpus=1", *arguments],
            check=True,
            capture_output=True,
            timeout=120,
            env=environment(),
        )

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    try:
        start("--head", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--include-dashboard=false")
        start(f"--address={address}")
        yield address
    finally:
        stop_cluster(address)


def stop_cluster(address: str) -> None:
    """End the processes of this cluster alone; ``ray stop`` would end every cluster of this user."""
    import psutil

    port = address.split(":")[1]
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if "ray" in line and (f":{port}" in line or f"port={port}" in line):
            for each in (*process.children(recursive=True), process):
                each.kill()


@pytest.mark.heavy
def test_a_cluster_started_by_hand_gives_the_same_files(tmp_path: Path, cluster: str) -> None:
    files = sources(tmp_path / "in", 4)
    execute(units_of(files, tmp_path / "serial"), state=tmp_path / "alone", executor=Executor(), emit=silent)
    runs = KilledRuns(files, tmp_path, "--executor", "ray", "--ray-address", cluster)
    done = subprocess.run(runs.line, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert contents(runs.output) == contents(tmp_path / "serial")
