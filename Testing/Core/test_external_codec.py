"""Codecs that are another program: real processes, well and unwell."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from contract.conftest import tiny_codec
from ctgencore import hub
from ctgencore.codecs.base import Codec, State
from ctgencore.codecs.external import ExternalCodec
from ctgencore.codecs.plan import SlabPlan
from ctgencore.errors import Cancelled, CTGenError, InputError, OutOfMemory, WeightsError
from ctgencore.intensity import Window
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from ctgencore.zoo import CODECS
from external_program import network as stand_in
from processes import Command
from torch import Tensor, nn

HERE = Path(__file__).parent
PROGRAM = HERE / "external_program.py"
DOCUMENT = HERE.parents[1] / "CTGenCore" / "docs" / "codecs.md"
WIDE = Window.parse("wide")
ROW = CODECS["videovae+"]
TORCH_NETWORK = """
import torch
from torch import nn
def load(device):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(3, 8, (4, 8, 8), stride=(4, 8, 8)), nn.GroupNorm(2, 8), nn.SiLU(),
        nn.Conv3d(8, 8, 3, padding=1), nn.ConvTranspose3d(8, 3, (4, 8, 8), stride=(4, 8, 8)), nn.Tanh(),
    ).to(device).eval()
def reconstruct(network, x):
    assert x.dtype == torch.float32 and x.shape[1:3] == (3, 16), x.shape
    return network(x)
"""


def random_hu(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)


def with_fault(fault: str, patience_s: float = 30) -> ExternalCodec:
    codec = ExternalCodec(ROW)
    codec.command = [sys.executable, str(PROGRAM), fault]
    codec.hello_s = codec.patience_s = patience_s
    return codec


def process_of(codec: ExternalCodec) -> subprocess.Popen[str]:
    assert codec._program is not None
    return codec._program._process


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def documented_script() -> str:
    [script] = [
        code
        for code in re.findall(r"^```python\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        if "protocol=1" in code
    ]
    return script


class Windowed(Codec):
    """The same network in this process."""

    causal, window, window_overlap = False, 16, 4

    def _encode(self, x_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network[:3](x_BCZYX)

    def _decode(self, z_BCZYX: Tensor, state: State, *, first: bool) -> Tensor:
        return self.network[3:](z_BCZYX)


def test_the_documented_script_gives_what_the_network_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_volume: Volume
) -> None:
    """The script of the document, filled in, through the environment: as if there were no process between."""
    script = documented_script()
    first, last = script.index("def load"), script.index("network = None")
    path = tmp_path / "script.py"
    path.write_text(script[:first] + TORCH_NETWORK + script[last:], encoding="utf-8")
    for name, value in zip(ROW.program, (sys.executable, path), strict=True):
        monkeypatch.setenv(name, str(value))
    assert hub.why_unavailable(ROW) == ""
    result = reconstruct(small_volume, options=ReconstructOptions(codec="videovae+", device="cpu"))
    names: dict[str, object] = {}
    exec(TORCH_NETWORK, names)  # the very same text
    network: nn.Module = names["load"]("cpu")  # type: ignore[operator]
    expected = reconstruct(small_volume, Windowed(ROW, network))
    np.testing.assert_allclose(result.voxels, expected.voxels, atol=1)  # whole HU: a half may be rounded either way
    assert np.mean(result.voxels != expected.voxels) < 1e-3
    assert np.std(result.voxels) > 5
    assert result.record is not None
    assert result.record.weights == [{"name": "script.py", "sha256": hub.sha256(path), "license": "CC-BY-NC-ND-4.0"}]


def test_the_script_as_it_stands_says_what_is_to_be_done(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    path.write_text(documented_script(), encoding="utf-8")
    codec = ExternalCodec(ROW)
    codec.command = [sys.executable, str(path)]
    with pytest.raises(CTGenError, match=r"failed: NotImplementedError\('fill in: the network with sota-4-16z"):
        codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)


def test_it_gets_windows_of_sixteen_padded_slices_and_its_answer_is_kept() -> None:
    codec = with_fault("")
    hu = random_hu(11, 13, 21)
    slab = np.pad(hu, ((0, 5), (0, 3), (0, 3)), mode="edge") / 1000
    expected = stand_in(np.stack([slab] * 3)[None])[0].mean(axis=0)[:11, :13, :21] * 1000
    np.testing.assert_allclose(codec.reconstruct_hu(hu, WIDE), expected, atol=0.02)
    np.testing.assert_allclose(codec.decode(codec.encode(hu, WIDE), hu.shape, WIDE), expected, atol=0.02)


def test_the_program_stays_between_runs_and_ends_with_the_codec() -> None:
    codec = with_fault("")
    codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    process, folder = process_of(codec), codec._program.folder  # type: ignore[union-attr]
    codec.reconstruct_hu(random_hu(20, 8, 8), WIDE)
    assert process_of(codec) is process
    assert process.poll() is None
    assert folder.is_dir()
    del codec
    gc.collect()
    assert process.poll() is not None
    assert not folder.exists()


def test_close_ends_it_and_the_next_slab_starts_it_again() -> None:
    codec = with_fault("")
    before = codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    process = process_of(codec)
    codec.close()
    codec.close()
    assert process.poll() is not None
    np.testing.assert_array_equal(codec.reconstruct_hu(random_hu(4, 8, 8), WIDE), before)
    assert process_of(codec) is not process


def test_one_that_died_between_runs_is_started_again() -> None:
    codec = with_fault("")
    before = codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    process, folder = process_of(codec), codec._program.folder  # type: ignore[union-attr]
    process.kill()
    process.wait()
    np.testing.assert_array_equal(codec.reconstruct_hu(random_hu(4, 8, 8), WIDE), before)
    assert not folder.exists()


def test_the_program_ends_with_python() -> None:
    code = (
        "import sys, numpy as np; from ctgencore.codecs.external import ExternalCodec\n"
        "from ctgencore.intensity import Window; from ctgencore.zoo import CODECS\n"
        "codec = ExternalCodec(CODECS['videovae+']); codec.command = sys.argv[1:]\n"
        "codec.reconstruct_hu(np.zeros((4, 8, 8), np.float32), Window.parse('wide'))\n"
        "print(codec._program._process.pid, codec._program.folder)"
    )
    done = subprocess.run([sys.executable, "-c", code, sys.executable, PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pid, folder = done.stdout.split()
    assert not is_running(int(pid))
    assert not Path(folder).exists()


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (
            "crash",
            r"ended in the middle of its work \(exit code 7\)[^$]*Its last words were:\nloading the checkpoint\nSeg",
        ),
        ("garbage", r"wrote 'Loading model from sota-4-16z.ckpt ...' to stdout, where only events"),
        ("number", r"answered 'S999' when asked for 'S2'"),
        ("refuse", r"failed: no such checkpoint"),
        ("shape", r"gave float32 of shape \(1, 3, 15, 8, 8\); expected float32 of shape \(1, 3, 16, 8, 8\)"),
        ("integers", r"gave int64 of shape"),
        ("nan", r"gave numbers that are not finite"),
        ("nothing", r"said that it was done, but its output.npy cannot be read"),
        ("text", r"said that it was done, but its output.npy cannot be read"),
    ],
)
def test_trouble_in_the_middle_is_told_and_ends_it(fault: str, text: str) -> None:
    codec = with_fault(fault)
    done: list[int] = []
    with pytest.raises(CTGenError, match=f"The program of codec 'videovae\\+' {text}"):
        codec.reconstruct_hu(random_hu(40, 8, 8), WIDE, progress=lambda so_far, _: done.append(so_far))
    assert len(done) == 1  # the first slab went well
    assert process_of(codec).poll() is not None
    assert not codec._program.folder.exists()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fault", "text"), [("mute", r"said nothing for 0\.5 s"), ("protocol", "speaks protocol 2; this is 1")]
)
def test_trouble_at_the_start(fault: str, text: str) -> None:
    codec = with_fault(fault, 0.5 if fault == "mute" else 30)
    with pytest.raises(CTGenError, match=text):
        codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    assert process_of(codec).poll() is not None


def test_silence_ends_it_but_signs_of_life_do_not() -> None:
    codec = with_fault("silent")
    codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    codec.patience_s = 0.5
    with pytest.raises(CTGenError, match=r"said nothing for 0\.5 s"):
        codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    assert process_of(codec).poll() is not None
    alive = with_fault("alive")
    alive.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    alive.patience_s = 1.0  # it takes 1.2 s, but speaks each 0.3
    alive.reconstruct_hu(random_hu(4, 8, 8), WIDE)


def test_cancel_reaches_a_program_at_work() -> None:
    codec = with_fault("silent", patience_s=600)
    codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)
    process, cancelled = process_of(codec), threading.Event()
    threading.Timer(0.3, cancelled.set).start()
    started = time.monotonic()
    with pytest.raises(Cancelled, match="nothing was written"):
        codec.reconstruct_hu(random_hu(4, 8, 8), WIDE, cancel=cancelled.is_set)
    assert 0.3 <= time.monotonic() - started < 5
    assert process.poll() is not None


def test_cancel_between_slabs_ends_it_too() -> None:
    codec = with_fault("")
    seen: list[int] = []
    with pytest.raises(Cancelled):
        codec.reconstruct_hu(
            random_hu(40, 8, 8), WIDE, progress=lambda done, _: seen.append(done), cancel=lambda: bool(seen)
        )
    assert process_of(codec).poll() is not None


def test_out_of_memory_there_makes_smaller_tiles_here() -> None:
    codec = with_fault("memory")
    codec.plan = lambda shape, memory=None: SlabPlan(16, None, 0)  # type: ignore[method-assign]
    out = codec.reconstruct_hu(random_hu(10, 96, 104), WIDE)
    process = process_of(codec)
    assert process.poll() is None  # it lived on
    assert (
        "Out of memory at slice 0: went on from slice 0 with 16 slices at a time, tiles of 80"
        in codec.observed.notes[0]
    )
    whole = with_fault("").reconstruct_hu(random_hu(10, 96, 104), WIDE)
    assert np.corrcoef(out.ravel(), whole.ravel())[0, 1] > 0.99
    with pytest.raises(OutOfMemory, match="ran out of memory in codec"):  # half is not enough: once, then an error
        codec.reconstruct_hu(random_hu(10, 96, 400), WIDE)
    codec.reconstruct_hu(random_hu(10, 8, 8), WIDE)
    assert process_of(codec) is process


@pytest.fixture
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ROW.program:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("_unset")
def test_what_is_not_set_up_says_what_to_set(command: Command, tmp_path: Path) -> None:
    both = "CTGEN_VIDEOVAE_PYTHON, CTGEN_VIDEOVAE_SCRIPT"
    [facts] = json.loads(command("info", "videovae+", "--json").stdout)["codecs"]
    assert not facts["available"]
    assert facts["why"].endswith(f"No file yet: {both}.")
    assert (facts["weights"], facts["installed_mb"]) == ("missing", None)
    assert "not set up" in command("info").stdout
    with pytest.raises(WeightsError, match=f"No file yet: {both}"):
        ReconstructOptions(codec="videovae+").check()
    with pytest.raises(WeightsError, match=r"license CC-BY-NC-ND-4\.0"):
        Codec.from_pretrained("videovae+").reconstruct_hu(random_hu(4, 8, 8), WIDE)
    done = command("download", "videovae+")
    assert both in done.stdout + done.stderr


@pytest.mark.usefixtures("_unset")
def test_a_wrong_path_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTGEN_VIDEOVAE_PYTHON", "/nowhere/bin/python")
    monkeypatch.setenv("CTGEN_VIDEOVAE_SCRIPT", str(PROGRAM))
    assert hub.why_unavailable(ROW).endswith("No file yet: CTGEN_VIDEOVAE_PYTHON ('/nowhere/bin/python').")
    monkeypatch.setenv("CTGEN_VIDEOVAE_PYTHON", sys.executable)
    assert hub.presence(ROW) == "installed"


@pytest.mark.parametrize("interpreter", ["/nowhere/bin/python", str(PROGRAM)])
def test_an_interpreter_that_cannot_be_started(interpreter: str) -> None:
    codec = ExternalCodec(ROW)
    codec.command = [interpreter, str(PROGRAM)]
    with pytest.raises(InputError, match=f"'videovae\\+' cannot be started .*{interpreter}"):
        codec.reconstruct_hu(random_hu(4, 8, 8), WIDE)


def test_half_precision_is_refused() -> None:
    codec = with_fault("")
    codec.dtype = torch.bfloat16
    with pytest.raises(InputError, match="takes float32 only"):
        codec.plan((16, 64, 64), 2**30)


def test_the_contract_suite_runs_it_as_a_process() -> None:
    codec = tiny_codec("videovae+")
    assert isinstance(codec, ExternalCodec)
    assert codec.command == [sys.executable, str(PROGRAM)]
