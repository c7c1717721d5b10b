"""What a reconstruction will take: memory, number formats, time; and what it took."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from contract.conftest import tiny_codec
from ctgencore import io
from ctgencore.cli import app
from ctgencore.codecs.base import Codec
from ctgencore.codecs.precision import choose_precision
from ctgencore.errors import InputError, OutOfMemory
from ctgencore.geometry import Geometry
from ctgencore.intensity import WINDOWS
from ctgencore.runtime import PeakMemory
from ctgencore.tasks.forecast import forecast
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from typer.testing import CliRunner

GPU = torch.device("cuda:0")  # a name: nothing here runs on one
SHAPE = (300, 512, 512)
GIB = 2**30


def random_volume(*shape: int) -> Volume:
    hu = np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.float32)
    return Volume(hu, Geometry((shape[2], shape[1], shape[0])))


@pytest.mark.parametrize(
    ("codec", "device", "gib", "expected"),
    [
        ("wan2.1", GPU, 80, "float32"),  # 9.9 GiB for 4 + 1 slices of the whole plane
        ("wan2.1", GPU, 8, "bfloat16"),
        ("wan2.1", GPU, 2, "bfloat16"),  # with tiles
        ("wan2.1", torch.device("cpu"), 2, "float32"),  # with tiles
        ("taew2.1", GPU, 1, "float32"),  # works on [0, 1]
        ("wan2.1", GPU, 0.001, "float32"),  # nothing fits: the error comes from the plan
    ],
)
def test_precision_is_lowered_only_to_avoid_tiles(codec: str, device: torch.device, gib: float, expected: str) -> None:
    assert choose_precision(Codec.without_weights(codec), device, SHAPE, int(gib * GIB)) == expected


def test_forecast_is_the_plan_that_runs() -> None:
    options = ReconstructOptions(codec="embedded", dtype="auto", device="cpu", memory="1GiB", threads=1)
    found = forecast(SHAPE, options)
    plan = Codec.from_pretrained("embedded", device="cpu").plan(SHAPE, GIB)
    assert found.chosen.plan == plan
    assert found.dtype == "float32"
    assert found.network_voxels == 301 * 512 * 512  # 300 slices are padded to 1 + 4 * 75
    z, y, x = found.trial.shape_zyx
    assert found.seconds == pytest.approx(found.trial.seconds * found.network_voxels / (z * y * x))
    assert found.trial.seconds > 0
    assert not found.trial.random_weights
    assert [choice.plan is None for choice in found.choices] == [False, True, True]
    assert "100 times slower" in found.choices[1].why_not
    assert found.choices[0].weights_bytes == 2 * found.choices[1].weights_bytes


def test_overlaps_are_counted() -> None:
    options = ReconstructOptions(codec="embedded", device="cpu", memory="36MiB", threads=1)
    found = forecast((9, 300, 264), options)
    plan = found.chosen.plan
    assert plan is not None
    assert plan.tile_yx is not None
    codec = Codec.from_pretrained("embedded", device="cpu")
    seen = []
    encode = codec._encode
    codec._encode = lambda x, state, *, first: (seen.append(x[0, 0].numel()), encode(x, state, first=first))[1]
    codec.reconstruct_hu(np.zeros((9, 300, 264), np.float32), WINDOWS["wide"], memory=36 * 2**20)
    assert found.network_voxels == sum(seen)


def test_forecast_refuses_what_cannot_run() -> None:
    with pytest.raises(OutOfMemory, match="Raise --memory"):
        forecast(SHAPE, ReconstructOptions(codec="embedded", device="cpu", memory="1MiB"))
    with pytest.raises(InputError, match="100 times slower"):
        forecast(SHAPE, ReconstructOptions(codec="embedded", device="cpu", dtype="bfloat16"))
    with pytest.raises(InputError, match="Did you mean 'embedded'"):
        forecast(SHAPE, ReconstructOptions(codec="embeded"))


def test_plan_prints_a_command_that_runs(tmp_path: Path) -> None:
    source = tmp_path / "ct.nii.gz"
    io.write(random_volume(10, 40, 48), source)
    done = CliRunner().invoke(app, ["plan", "-i", str(source), "--memory", "1GiB", "--threads", "1"])
    assert done.exit_code == 0, done.output
    for text in ("48 x 40 x 10 voxels through 'embedded' on cpu; 1.00 GiB (as given)", "rounds by", "Time: about"):
        assert text in done.output
    command = shlex.split(done.output.splitlines()[-1])
    assert command[0] == "ctgencore"
    target = tmp_path / "out.nii.gz"
    done = CliRunner().invoke(app, [str(target) if word == "OUT.nii.gz" else word for word in command[1:]])
    assert done.exit_code == 0, done.output
    results = json.loads(io.sidecar_path(target).read_text())["results"]
    assert 0 < results["peak_bytes"] < GIB

    done = CliRunner().invoke(app, ["plan", "-i", str(source), "--threads", "1", "--json"])
    facts = json.loads(done.output)
    assert facts["choices"][0]["plan"]["tile_yx"] is None
    assert facts["command"].endswith("--device cpu")
    assert CliRunner().invoke(app, ["plan", "-i", str(source), "--memory", "1KiB"]).exit_code == 4


def test_auto_is_recorded_as_what_it_stood_for() -> None:
    result = reconstruct(random_volume(5, 16, 16), None, ReconstructOptions(dtype="auto", device="cpu"))
    assert result.record is not None
    assert result.record.options["dtype"] == "float32"


def test_seams_are_reported() -> None:
    codec = tiny_codec("wan2.1")
    volume = random_volume(5, 128, 96)
    need = codec.plan(volume.shape, GIB).bytes_needed
    result = reconstruct(volume, codec, ReconstructOptions(memory=str(int(need * 0.4))))
    assert result.record is not None
    seam = result.record.results["seam_hu"]
    assert seam > 0
    assert f"neighbors disagree by {seam:.1f} HU" in result.record.notes[-1]
    whole = reconstruct(volume, codec)
    assert "seam_hu" not in whole.record.results
    assert whole.record.notes == []


def test_out_of_memory_is_told() -> None:
    codec = tiny_codec("leanvae")
    decode, calls = codec._decode, []

    def failing(*args: object, **more: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(*args, **more)

    codec._decode = failing  # type: ignore[method-assign]
    result = reconstruct(random_volume(25, 16, 16), codec)
    assert result.record is not None
    assert result.record.notes == [
        "Out of memory at slice 9: went on from slice 9 with 4 slices at a time, the whole plane "
        "(it was 8 slices at a time, the whole plane)."
    ]


def test_peak_memory_sees_what_is_taken_and_given_back() -> None:
    for _ in range(2):
        with PeakMemory(torch.device("cpu")) as peak:
            held = np.ones(25_000_000)  # 200 MB
        assert 180e6 < peak.bytes < 260e6
        del held


def test_a_result_is_held_once() -> None:
    """Input and output in float32, nothing else of that size."""
    volume = random_volume(128, 512, 256)
    codec = tiny_codec("identity")
    with PeakMemory(torch.device("cpu")) as peak:
        reconstruct(volume, codec)
    assert volume.voxels.nbytes <= peak.bytes < 1.8 * volume.voxels.nbytes
