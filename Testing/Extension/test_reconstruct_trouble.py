"""CTGenReconstruct when things go wrong: cancel, crash, garbage, and no engine; with real processes."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from conftest import add_volume
from driving import Picture, alive, finish, start, use_python, volumes, wait_for_progress


def test_cancel_half_way(host: Any, ready: Any, big: Any, picture: Picture) -> None:
    start(host, ready, big, "dct16")
    wait_for_progress(host, ready)
    picture(ready, "07-progress")
    pid, folder = ready.logic.job.pid, ready.logic.job.folder
    ready.ui.applyButton.click()
    assert ready.ui.applyButton.text == "Stop now"
    finish(host, ready, 20)
    assert "Cancelled" in ready.ui.statusLabel.text
    assert ready.ui.applyButton.text == "Apply"
    assert ready.ui.applyButton.enabled
    assert not alive(pid)
    assert not os.path.exists(folder)
    assert volumes() == [big]
    picture(ready, "08-cancelled")


def test_an_engine_that_ignores_cancel_is_ended_with_its_children(
    host: Any, ready: Any, volume: Any, fake_engine: Any, tmp_path: Path
) -> None:
    code = """
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open(os.path.join(PLACE, "pids.part"), "w").write(f"{os.getpid()} {child.pid}")
        os.rename(os.path.join(PLACE, "pids.part"), os.path.join(PLACE, "pids"))
        time.sleep(600)
    """
    pids = tmp_path / "pids"
    use_python(host, ready, fake_engine(code.replace("PLACE", repr(str(tmp_path)))))
    start(host, ready, volume, "identity")
    host.wait(pids.exists, 30)
    ready.ui.applyButton.click()
    ready.ui.applyButton.click()  # Stop now
    finish(host, ready, 20)
    deadline = time.monotonic() + 5
    while any(alive(int(pid)) for pid in pids.read_text().split()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(int(pid)) for pid in pids.read_text().split())


def test_engine_crash(host: Any, ready: Any, big: Any, picture: Picture) -> None:
    start(host, ready, big, "dct16")
    wait_for_progress(host, ready)
    os.killpg(ready.logic.job.pid, signal.SIGKILL)
    finish(host, ready, 20)
    assert "signal 9" in ready.ui.statusLabel.text
    assert not ready.ui.logButton.collapsed
    assert "signal 9" in ready.ui.logText.plainText
    assert ready.ui.openFolderButton.enabled
    assert volumes() == [big]
    left = set(os.listdir(ready.logic.failedFolder))
    assert left <= {"job.json", "log.txt"}, "patient data was left behind"
    picture(ready, "09-engine-crashed")
    folder = ready.logic.failedFolder
    start(host, ready, add_volume(np.zeros((4, 8, 8), np.int16), np.eye(4)), "identity")
    assert not os.path.exists(folder)
    finish(host, ready)


WRITE_RESULT = """
    import shutil
    source = os.path.join(folder, job["input"])
    volume, record = os.path.join(folder, "output.nrrd"), os.path.join(folder, "output.json")
    json.dump({"codec": "identity"}, open(record, "w"))
    result = dict(event="result", outputs={"volume": volume, "record": record}, seconds=1.0)
"""
GARBAGE = {
    "no result": ("print('{]'); print('\\x00\\xff'); print(json.dumps([1])); print('{}')", "without a result"),
    "only noise and failure": ("sys.stderr.write('Traceback...\\nKaboom\\n'); sys.exit(3)", "Kaboom"),
    "files missing": ("say(**result)", "files are missing"),
    "result, then failure": ("shutil.copy(source, volume); say(**result); sys.exit(7)", "exit code 7"),
    "unreadable volume": ("open(volume, 'w').write('NRRD0004 nonsense'); say(**result)", "cannot be read"),
    "another grid": (
        "text = open(source, 'rb').read(); "
        "open(volume, 'wb').write(text.replace(b'space origin: (', b'space origin: (9')); say(**result)",
        "does not lie where the input lies",
    ),
    "other size": (
        "text = open(source, 'rb').read(); "
        "open(volume, 'wb').write(text.replace(b'sizes: 72 64', b'sizes: 36 128')); say(**result)",
        "The result has (36, 128, 17) voxels",
    ),
    "broken record": ("shutil.copy(source, volume); open(record, 'w').write('{'); say(**result)", "record cannot be"),
    "error event": ("say(event='error', code='memory', message='Out of memory.', next='Use --tile.')", "Out of memory"),
    "flood": (
        "print(('x' * 200 + '\\n') * 20000); print('y' * 3000000); shutil.copy(source, volume); sys.exit(5)",
        "exit code 5",
    ),
}


@pytest.mark.parametrize("case", GARBAGE)
def test_garbage_from_the_engine(
    host: Any, ready: Any, volume: Any, fake_engine: Any, picture: Picture, case: str
) -> None:
    code, words = GARBAGE[case]
    use_python(host, ready, fake_engine(WRITE_RESULT + "    " + code))
    start(host, ready, volume, "identity")
    finish(host, ready, 60)
    if case == "unreadable volume":  # the storage node says it too
        assert any("ERROR" in text or "Error" in text for text in host.problems.take())
    assert words in ready.ui.statusLabel.text
    assert words in ready.ui.logText.plainText
    assert volumes() == [volume]
    assert ready.ui.applyButton.text == "Apply"
    if case == "another grid":
        picture(ready, "10-garbage")


def test_missing_engine(host: Any, ready: Any, volume: Any, picture: Picture) -> None:
    use_python(host, ready, "/nowhere/python")
    assert ready.engine is None
    assert "cannot be started" in ready.ui.engineLabel.text
    assert not ready.ui.engineButton.collapsed
    assert ready.ui.installButton.enabled
    ready.ui.inputSelector.setCurrentNode(volume)
    assert not ready.ui.applyButton.enabled
    assert "engine is not ready" in ready.ui.hintLabel.text
    picture(ready, "11-no-engine")
    ready.ui.installButton.click()
    assert "/nowhere/python -m pip install ctgencore" in ready.ui.statusLabel.text


def test_bundled_engine_is_used_when_python_has_none(
    host: Any, ready: Any, volume: Any, chest: np.ndarray, tmp_path: Path
) -> None:
    """A Python with the dependencies but without ctgencore, as Slicer's is after Install."""
    import site

    packages = [path for path in site.getsitepackages() if os.path.isdir(path)]
    program = tmp_path / "python"
    folders = tmp_path / "site"
    folders.mkdir()
    for package in packages:
        for entry in os.listdir(package):
            if "ctgencore" not in entry.lower() and not entry.endswith(".pth"):
                os.symlink(os.path.join(package, entry), folders / entry)
    program.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="$PYTHONPATH:{folders}"\nexec "{os.path.realpath(sys.executable)}" "$@"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    use_python(host, ready, str(program))
    assert ready.engine is not None, ready.engineSection.problems
    assert ready.engine.interpreter.source.endswith(os.path.join("CTGenCore", "src"))
    assert "bundled" in ready.ui.engineLabel.text
    start(host, ready, volume, "identity")
    finish(host, ready)
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(volumes()[-1]), chest.clip(-1000, 1000))


def test_install_without_the_pytorch_extension_says_what_to_do(
    host: Any, ready: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    empty = tmp_path / "PythonSlicer"
    empty.write_text("#!/bin/sh\necho 'No module named ctgencore' >&2\nexit 1\n")
    empty.chmod(empty.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    ready.ui.checkEngineButton.click()
    host.wait(lambda: not ready.engineSection.checking, 60)
    assert "No module named ctgencore" in ready.ui.engineLabel.text
    ready.ui.installButton.click()
    assert "Extensions Manager" in ready.ui.statusLabel.text
