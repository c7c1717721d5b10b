"""Downstream studies: do networks learn, are numbers repeatable, is what was done kept."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctgencore.cli import app
from ctgencore.errors import Cancelled, InputError
from ctgencore.geometry import Geometry
from ctgencore.tasks.common import ProgressEvent
from ctgencore.tasks.downstream import ClassifyOptions, SegmentOptions, study
from ctgencore.tasks.downstream.data import (
    Cases,
    MsdReader,
)
from ctgencore.tasks.downstream.learning import CTNetClassifier, build_classifier, predict_classes, segmenter_batches
from ctgencore.tasks.downstream.options import StudyOptions
from ctgencore.tasks.downstream.views import Preparer, center
from ctgencore.volume import LabelMap, Volume
from studying import (
    GRID,
    SHAPE,
    TINY,
    TINY_CLASSES,
    classify_options,
    draw,
    numbers,
    write_msd,
)
from typer.main import get_command
from typer.testing import CliRunner

# --- learning --------------------------------------------------------------------------------------------------------


def test_center_crops_and_fills_up() -> None:
    hu = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5)
    out = center(hu, (2, 5, 5))
    np.testing.assert_array_equal(out[:, 1:4], hu[1:3])
    assert (out[:, [0, 4]] == -1000).all()


class Threshold(torch.nn.Module):
    """Calls everything above 300 HU of the wide window class 1."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.full_like(x, 0.3), x], 1) * 1000


@pytest.mark.parametrize(("mm", "least"), [(4.0, 1.0), (2.0, 0.9)])
def test_predictions_come_back_onto_the_grid_of_the_case(mm: float, least: float, balls: Path, tmp_path: Path) -> None:
    options = replace(TINY, data=(balls,), spacing_mm=(mm, mm, 4.0))
    turned = tmp_path / "turned"
    write_msd(turned, range(1))
    for name in ("imagesTr", "labelsTr"):  # on disk Z, Y, X run to the feet, to the back and to the right
        hu, mask = draw(0)
        grid = Geometry(SHAPE[::-1], (4.0, 4.0, 4.0), (0, 0, 0), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
        item = Volume(hu, grid) if name == "imagesTr" else LabelMap(mask.astype(np.uint8), grid)
        item.save(turned / name / "ball_000.nii.gz")
    for folder, flipped in ((balls, False), (turned, True)):
        cases = Cases(MsdReader(folder), [0])
        [item] = Preparer(options, tmp_path / str(flipped))(cases, ("original",), "test", native=True)
        assert item.native is not None
        truth = np.load(item.native)
        wanted = draw(0)[1]
        np.testing.assert_array_equal(truth, wanted[::-1, :, ::-1] if flipped else wanted)
        found = predict_classes(Threshold(), item, options, torch.device("cpu"))
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) >= least


def test_patches_hold_image_and_classes_of_the_same_place(balls: Path, tmp_path: Path) -> None:
    options = replace(TINY, data=(balls,), patch_zyx=(8, 40, 8), batch=8)
    items = Preparer(options, tmp_path)(Cases(MsdReader(balls)), ("original",), "x")
    draw_batch = segmenter_batches(items, options)
    x, y = draw_batch(3, (0, 0))
    assert x.shape == y.shape == (8, 1, 8, 40, 8)
    assert y.any(dim=(1, 2, 3, 4)).float().mean() >= 0.4
    assert x[y == 1].min() > x[:, :, :, 12:28][y[:, :, :, 12:28] == 0].max()
    assert (x[:, :, :, :8] < -0.7).all()  # the volume is 24 voxels wide: air on both sides
    again, other = draw_batch(3, (0, 0)), draw_batch(4, (0, 0))
    assert torch.equal(again[0], x)
    assert not torch.equal(other[0], x)


def test_segmentation_learns_resumes_and_grows(balls: Path, tmp_path: Path) -> None:
    options = replace(TINY, data=(balls,))
    events: list[ProgressEvent] = []
    before = torch.get_rng_state(), torch.get_num_threads(), torch.backends.cudnn.deterministic
    result = study(options, tmp_path, progress=events.append)
    after = torch.get_rng_state(), torch.get_num_threads(), torch.backends.cudnn.deterministic
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert result.line("original", "ball", "dice").value > 0.8  # guessing the ball's mean place: 0.2
    assert result.line("original", "ball", "nsd").value > 0.8
    assert all(event.done <= event.total for event in events)
    assert {event.stage for event in events} >= {"test volumes", "train both, seed 1", "test both, seed 1"}

    # the codec `identity` changes nothing, so two arms are one
    same = result.line("reconstructed", "ball", "dice", against="original")
    assert (same.value, same.ci95) == (0, (0, 0))
    assert result.line("both", "ball", "dice", against="original").value != 0

    rows = numbers(tmp_path)
    assert len(rows) == 3 * 2 * 4 * 2  # arms, seeds, cases, metrics
    facts = json.loads((tmp_path / "study.json").read_text())
    assert facts["volumes"] == {"original": 6, "reconstructed": 6, "test": 4}
    assert set(facts["hashes"]["test"]).isdisjoint(facts["hashes"]["original"])
    assert facts["options"]["seeds"] == [0, 1]

    (tmp_path / "arms" / "both.seed1.json").unlink()
    kept = (tmp_path / "arms" / "both.seed0.json").stat().st_mtime_ns
    study(options, tmp_path)
    assert numbers(tmp_path) == rows
    assert (tmp_path / "arms" / "both.seed0.json").stat().st_mtime_ns == kept

    study(replace(options, seeds=(0, 2), arms=("original",)), tmp_path)
    grown = numbers(tmp_path)
    assert [row for row in grown if row["seed"] == "0"] == [
        r for r in rows if (r["seed"], r["arm"]) == ("0", "original")
    ]
    with pytest.raises(InputError, match="steps was 40 and is 41 now"):
        study(replace(options, steps=41), tmp_path)


def test_matched_test_views_are_reconstructions(balls: Path, tmp_path: Path) -> None:
    options = replace(TINY, data=(balls,), codec="dct16", test_view="matched", seeds=(0,), steps=2)
    result = study(options, tmp_path)
    seen = {path.name.split(".")[1] for path in (tmp_path / "volumes").glob("*.native.npy")}
    assert seen == {"original", "reconstructed"}
    assert result.line("reconstructed", "ball", "dice").n == 4


def test_changed_volumes_are_noticed(tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "data", range(4))
    options = replace(TINY, data=(folder,), steps=2, seeds=(0,), arms=("original",))
    study(options, tmp_path / "study")
    for path in (folder / "imagesTr").iterdir():
        Volume(draw(int(path.name[5:8]) + 50)[0], GRID).save(path)
    with pytest.raises(InputError, match=r"other '.*' volumes"):
        study(options, tmp_path / "study")


def test_classification_learns_and_fine_tunes(pairs: dict[str, Path], tmp_path: Path) -> None:
    options = classify_options(pairs)
    result = study(options, tmp_path)
    for arm in ("real", "real-longer", "real+synthetic"):
        assert result.line(arm, "Consolidation", "auc").value > 0.9  # chance: 0.5
    assert result.line("real", "mean", "auc").value == result.line("real", "Consolidation", "auc").value
    assert np.isnan(result.line("real", "Lung nodule", "auc").value)
    rows = numbers(tmp_path)
    [row] = [r for r in rows if (r["arm"], r["seed"], r["region"]) == ("real", "0", "Lung nodule")]
    assert (row["value"], row["note"]) == ("", "0 of 10 cases")
    facts = json.loads((tmp_path / "study.json").read_text())
    assert facts["volumes"] == {"real": 8, "synthetic": 8, "test": 10}
    assert facts["last_losses"]["real-longer.seed0"] < facts["last_losses"]["real.seed0"]

    for name in ("real.seed0.pt", "real.seed0.json", "real+synthetic.seed0.json"):  # trained again, to the same numbers
        (tmp_path / "arms" / name).unlink()
    study(options, tmp_path)
    assert numbers(tmp_path) == rows


def test_cancel_keeps_what_is_done(pairs: dict[str, Path], tmp_path: Path) -> None:
    options = replace(classify_options(pairs), steps=3)
    done: list[ProgressEvent] = []

    def cancel() -> bool:
        return bool(done) and done[-1].stage.startswith("train real-longer")

    with pytest.raises(Cancelled, match="the same command goes on"):
        study(options, tmp_path, progress=done.append, cancel=cancel)
    assert sorted(path.name for path in (tmp_path / "arms").glob("*.json")) == ["real.seed0.json", "real.seed1.json"]
    assert not (tmp_path / "study.json").exists()
    study(options, tmp_path)
    assert (tmp_path / "study.json").exists()


def test_ctnet_starts_from_a_resnet18(tmp_path: Path) -> None:
    options = replace(TINY_CLASSES, network="ctnet", shape_zyx=(6, 192, 192))
    network = build_classifier(options, 18)
    assert isinstance(network, CTNetClassifier)
    assert network.eval()(torch.zeros(2, 1, 6, 192, 192)).shape == (2, 18)
    places = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    own = network.net.features.state_dict()
    renamed = {
        f"{places[name.split('.')[0]]}.{name.split('.', 1)[1]}": torch.rand_like(t.float()) for name, t in own.items()
    }
    assert {"layer4.1.conv2.weight", "layer2.0.downsample.1.running_var", "bn1.bias"} <= set(renamed)
    torch.save({**renamed, "fc.weight": torch.zeros(1000, 512)}, tmp_path / "resnet18.pth")
    started = build_classifier(replace(options, backbone=tmp_path / "resnet18.pth"), 18)
    assert torch.equal(started.net.features[7][1].conv2.weight, renamed["layer4.1.conv2.weight"])
    torch.save({"conv1.weight": torch.zeros(64, 3, 7, 7)}, tmp_path / "wrong.pth")
    with pytest.raises(InputError, match="no ResNet-18"):
        build_classifier(replace(options, backbone=tmp_path / "wrong.pth"), 18)


@pytest.mark.heavy
def test_synthetic_chests_are_drawn_from_other_masks_once(tmp_path: Path) -> None:
    """The path of the demonstration: phantoms, and the embedded generator from masks and reports of further ones."""
    options = ClassifyOptions(
        phantoms=2, test_phantoms=2, steps=2, seeds=(0,), arms=("real+synthetic",), sampling_steps=2, device="cpu"
    )
    result = study(options, tmp_path, progress=None)
    drawn = sorted((tmp_path / "volumes").glob("*.synthetic.*.npy"))
    assert [path.name.split(".")[0] for path in drawn] == ["phantom-750000", "phantom-750001"]
    hu = np.load(drawn[0])
    assert hu.shape == (1, 48, 64, 64)
    assert hu.min() < -900
    assert 0.1 < (np.abs(hu) < 150).mean() < 0.7  # soft tissue is there
    times = [path.stat().st_mtime_ns for path in drawn]
    assert [line.arm for line in study(options, tmp_path).lines] == [line.arm for line in result.lines]
    assert [path.stat().st_mtime_ns for path in drawn] == times


# --- command line ----------------------------------------------------------------------------------------------------


def test_command(balls: Path, tmp_path: Path) -> None:
    words = f"study segment --data {balls} --codec identity --spacing 4 4 4 --patch 16 24 24 --channels 8 --channels 16"
    words += " --steps 2 --seed 0 --seed 5 --arm original --arm both --device cpu"
    run: Callable[..., Any] = CliRunner().invoke
    done = run(app, [*words.split(), "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "both - original" in done.stdout
    assert done.stdout.splitlines()[-1] == str(tmp_path / "study.json")
    again = run(app, [*words.split(), "-o", str(tmp_path), "--json"])
    event = json.loads(again.stdout.splitlines()[-1])
    assert {line["arm"] for line in event["summary"]} == {"original", "both"}
    assert {line["seeds"] for line in event["summary"]} == {2}
    wrong = run(app, ["study", "classify", "-o", str(tmp_path), "--network", "big"])
    assert wrong.exit_code == 2
    assert "small, ctnet" in wrong.stderr


def test_documented_commands_are_accepted() -> None:
    document = Path(__file__).resolve().parents[3] / "CTGenCore" / "docs" / "downstream.md"
    lines = [line for line in document.read_text(encoding="utf-8").splitlines() if line.startswith("ctgencore study ")]
    assert len(lines) == 4
    for line in lines:
        name, *words = shlex.split(line, comments=True)[2:]
        get_command(app).commands["study"].commands[name].make_context(name, words)  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "options"), [("classify", ClassifyOptions()), ("segment", SegmentOptions())])
def test_defaults_of_the_command_are_those_of_the_options(name: str, options: StudyOptions) -> None:
    command = get_command(app).commands["study"].commands[name]  # type: ignore[attr-defined]
    given = command.make_context(name, ["-o", "x"]).params
    renamed = {"spacing": "spacing_mm", "patch": "patch_zyx", "shape": "shape_zyx", "tolerance": "tolerance_mm"}
    compared = {renamed.get(key, key): value for key, value in given.items() if value}
    shared = {key: value for key, value in compared.items() if hasattr(options, key)}
    assert len(shared) >= 11
    assert shared == {key: getattr(options, key) for key in shared}
