"""Downstream studies: do networks learn, are numbers repeatable and honest, is a leak refused."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
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
from ctgencore.labels import FINDINGS
from ctgencore.tasks.common import ProgressEvent
from ctgencore.tasks.downstream import ClassifyOptions, SegmentOptions, study
from ctgencore.tasks.downstream.data import (
    Cases,
    LabelTable,
    MsdReader,
    PhantomCases,
    StudySample,
    open_cases,
    read_findings,
    split,
)
from ctgencore.tasks.downstream.learning import CTNetClassifier, build_classifier, predict_classes, segmenter_batches
from ctgencore.tasks.downstream.options import StudyOptions
from ctgencore.tasks.downstream.statistics import Classified, Segmented, auc, summarize
from ctgencore.tasks.downstream.views import Preparer, center, target_classes
from ctgencore.training.readers import TEST_SEEDS, check_split
from ctgencore.volume import LabelMap, Volume
from typer.main import get_command
from typer.testing import CliRunner

SHAPE = (16, 24, 24)
GRID = Geometry(SHAPE[::-1], (4.0, 4.0, 4.0))
NAMES = [finding.name for finding in FINDINGS]
SHOWN = NAMES.index("Consolidation")

TINY = SegmentOptions(
    seeds=(0, 1),
    steps=40,
    rate=1e-2,
    spacing_mm=(4.0, 4.0, 4.0),
    patch_zyx=SHAPE,
    channels=(8, 16),
    codec="identity",
    held_out=0.4,
    draws=200,
    device="cpu",
    threads=1,
)
TINY_CLASSES = ClassifyOptions(
    seeds=(0, 1), steps=24, spacing_mm=(4.0, 4.0, 4.0), shape_zyx=SHAPE, draws=200, device="cpu", threads=1
)


def draw(seed: int, *, ball: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """A body with a dense ball somewhere in it, and the ball's mask."""
    rng = np.random.default_rng(seed)
    z, y, x = np.ogrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    hu = np.full(SHAPE, -1000.0) + rng.normal(0, 20, SHAPE)
    hu[:, 3:21, 3:21] += 1040
    at = rng.uniform((5, 8, 8), (11, 16, 16))
    mask = ((z - at[0]) ** 2 + (y - at[1]) ** 2 + (x - at[2]) ** 2 <= 16) & ball
    return np.where(mask, hu + 500, hu), mask


def write_msd(folder: Path, seeds: range, *, suffix: str = "", labels: dict[str, Any] | None = None) -> Path:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for seed in seeds:
        hu, mask = draw(seed)
        Volume(hu, GRID).save(folder / "imagesTr" / f"ball_{seed:03d}{suffix}.nii.gz")
        LabelMap(mask.astype(np.uint8), GRID).save(folder / "labelsTr" / f"ball_{seed:03d}.nii.gz")
    facts = {"labels": labels or {"0": "background", "1": "ball"}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder


def write_pairs(folder: Path, seeds: range, name: str = "case_{}") -> Path:
    """Every second volume has the ball, which the table calls a consolidation."""
    (folder / "ct").mkdir(parents=True)
    rows = [["name", *NAMES]]
    for seed in seeds:
        Volume(draw(seed, ball=seed % 2 == 0)[0], GRID).save(folder / "ct" / f"{name.format(seed)}.nii.gz")
        rows.append([name.format(seed), *(str(int(i == SHOWN and seed % 2 == 0)) for i in range(len(NAMES)))])
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder


@pytest.fixture(scope="module")
def balls(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_msd(tmp_path_factory.mktemp("msd") / "Task99_Ball", range(10))


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pairs")
    return {
        "train": write_pairs(folder / "train", range(8)),
        "test": write_pairs(folder / "test", range(100, 110)),
        "synthetic": write_pairs(folder / "synthetic", range(200, 208), "drawn_{}"),
    }


def classify_options(pairs: dict[str, Path]) -> ClassifyOptions:
    paths = {"data": (pairs["train"],), "test": (pairs["test"],), "synthetic": (pairs["synthetic"],)}
    return replace(TINY_CLASSES, **paths)


def numbers(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open() as stream:
        return list(csv.DictReader(stream))


# --- statistics ------------------------------------------------------------------------------------------------------


def test_auc_is_that_of_monai_and_weights_are_repetitions() -> None:
    from monai.metrics import compute_roc_auc

    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 40), np.round(rng.normal(size=40), 1)  # with ties
    expected = compute_roc_auc(torch.tensor(scores)[:, None], torch.tensor(truth)[:, None])
    assert auc(truth, scores)[0] == pytest.approx(expected, abs=1e-12)
    assert auc(truth, -scores)[0] == pytest.approx(1 - expected, abs=1e-12)
    assert auc(truth, np.zeros(40))[0] == 0.5
    times = rng.multinomial(40, np.full(40, 1 / 40), 20)
    repeated = [auc(truth.repeat(n), scores.repeat(n))[0] for n in times]
    np.testing.assert_allclose(auc(truth, scores, times.astype(float)), repeated, atol=1e-12)
    assert np.isnan(auc(np.ones(3), np.arange(3.0))[0])


def test_means_over_cases_leave_out_what_is_not_there() -> None:
    rng = np.random.default_rng(1)
    values = rng.random((12, 2, 3))
    values[:5, :, 1] = np.nan
    values[:, :, 2] = np.nan  # a region that no case has
    weights = rng.multinomial(12, np.full(12, 1 / 12), 6)
    got = Segmented(values).statistics(weights.astype(float)).reshape(6, 2, 4)
    for times, line in zip(weights, got, strict=True):
        kept = values.repeat(times, axis=0)
        first, second = np.nanmean(kept[:, :, 0], 0), np.nanmean(kept[:, :, 1], 0)
        np.testing.assert_allclose(line, np.stack([first, second, first * np.nan, (first + second) / 2], 1), atol=1e-12)


def test_interval_is_that_of_theory_and_pairing_narrows_the_difference() -> None:
    rng = np.random.default_rng(2)
    hard = rng.normal(0.7, 0.1, 100)  # of cases, the same for both arms
    arms = {"a": hard, "b": hard + 0.02 + rng.normal(0, 0.01, 100)}
    outcomes = {name: [Segmented(values[:, None, None])] for name, values in arms.items()}
    keys = [("ball", "dice"), ("mean", "dice")]
    patients = [str(number) for number in range(100)]
    lines = summarize(outcomes, keys, [100, 100], patients, 4000)
    one, difference = lines[0], lines[-2]
    half = 1.96 * hard.std() / 10
    np.testing.assert_allclose(one.ci95, (hard.mean() - half, hard.mean() + half), atol=0.1 * half)
    assert (difference.arm, difference.against) == ("b", "a")
    spread = (arms["b"] - arms["a"]).std() / 10
    assert difference.ci95[1] - difference.ci95[0] == pytest.approx(2 * 1.96 * spread, rel=0.1)
    twice = {name: [Segmented(values.repeat(2)[:, None, None])] for name, values in arms.items()}
    same = summarize(twice, keys, [200, 200], np.repeat(patients, 2).tolist(), 4000)
    np.testing.assert_allclose(same[0].ci95, one.ci95)  # two scans of a patient are one piece of evidence


def test_a_finding_of_one_patient_has_a_value_but_the_mean_stays_honest() -> None:
    truth = np.zeros((6, 3), dtype=int)
    truth[:3, 0] = 1
    truth[0, 1] = 1  # the third finding is never there
    scores = np.linspace(1, 0, 6)[:, None].repeat(3, 1)
    lines = summarize(
        {"a": [Classified(truth, scores)]},
        [("x", "auc"), ("y", "auc"), ("z", "auc"), ("mean", "auc")],
        [3, 1, 0, 6],
        [str(number) for number in range(6)],
        500,
    )
    assert [line.value for line in lines[:2]] == [1, 1]
    assert np.isnan(lines[2].value)
    assert np.isnan(lines[2].ci95).all()
    assert lines[3].value == 1


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (replace(TINY, seeds=(1, 1)), "different whole numbers"),
        (replace(TINY, arms=("orignal",)), "Did you mean 'original'"),
        (replace(TINY, codec="embeded"), "Did you mean 'embedded'"),
        (replace(TINY, held_out=1.0), "between 0 and 1; got 1"),
        (replace(TINY, steps=0), "steps must be at least 1; got 0"),
        (replace(TINY, rate=0.0), "learning rate"),
        (replace(TINY, patch_zyx=(15, 24, 24)), "multiples of 2"),
        (replace(TINY, tolerance_mm=0), "above 0"),
        (replace(TINY, test_view="reconstructed"), "test view"),
        (replace(TINY, test=(Path("x"),)), "without data"),
        (replace(TINY, spacing_mm=(4.0, 4.0, 0.1)), "0.3 to 20 mm"),
        (replace(TINY_CLASSES, network="resnet"), "small, ctnet"),
        (replace(TINY_CLASSES, network="ctnet"), "triplets of square slices"),
        (replace(TINY_CLASSES, backbone=Path("x")), "choose that network"),
        (replace(TINY_CLASSES, data=(Path("x"),), conditions="other"), "further phantoms"),
        (replace(TINY_CLASSES, generator="maisi"), "generator"),
    ],
)
def test_wrong_options_are_refused(options: StudyOptions, words: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=words):
        study(options, tmp_path)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


# --- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "labels"), [("", {"0": "background", "1": "ball"}), ("_0000", {"background": 0, "ball": 1})]
)
def test_msd_and_nnunet_folders(tmp_path: Path, suffix: str, labels: dict[str, Any]) -> None:
    folder = write_msd(tmp_path / "task", range(2), suffix=suffix, labels=labels)
    (folder / "imagesTr" / "._ball_000.nii.gz").write_bytes(b"hidden file of a Mac")
    reader = MsdReader(folder)
    assert [reader.name(i) for i in range(len(reader))] == ["ball_000", "ball_001"]
    sample = reader.load(1)
    classes, names = target_classes(sample, ())
    assert names == ["ball"]
    np.testing.assert_array_equal(classes, draw(1)[1])


def test_msd_folders_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "a", range(1), labels={"background": 0, "ball": 2})
    with pytest.raises(InputError, match=r"holds labels \[1\]"):
        MsdReader(folder).load(0)
    with pytest.raises(InputError, match="whole number each"):
        MsdReader(write_msd(tmp_path / "b", range(1), labels={"background": 0, "whole": [1, 2]}))
    (folder / "labelsTr" / "ball_000.nii.gz").unlink()
    with pytest.raises(InputError, match=r"There is no .*labelsTr"):
        MsdReader(folder)
    with pytest.raises(InputError, match="second channel"):
        MsdReader(write_msd(tmp_path / "c", range(1), suffix="_0001"))


def test_targets_of_phantoms_are_painted_in_order() -> None:
    organs = np.zeros(SHAPE, dtype=np.uint8)
    organs[:8], organs[8:12], organs[12] = 28, 30, 115
    diseases = np.zeros(SHAPE, dtype=np.uint8)
    diseases[4:6] = 161
    sample = StudySample(
        name="a", ct=Volume(np.zeros(SHAPE), GRID), organs=LabelMap(organs, GRID), diseases=LabelMap(diseases, GRID)
    )
    classes, names = target_classes(sample, ("lung", "heart", "lesion"))
    assert names == ["lung", "heart", "lesion"]
    assert classes[:, 0, 0].tolist() == [1, 1, 1, 1, 3, 3, 1, 1, 1, 1, 1, 1, 2, 0, 0, 0]
    assert target_classes(replace(sample, diseases=None), ("lesion",))[0].max() == 0
    with pytest.raises(InputError, match="Did you mean 'liver'"):
        target_classes(sample, ("lever",))
    with pytest.raises(InputError, match="has no organ mask"):
        target_classes(replace(sample, organs=None), ("lung",))


def test_a_table_of_findings_finds_its_volumes(tmp_path: Path) -> None:
    scan = tmp_path / "dataset" / "train_fixed" / "train_7" / "train_7_b"
    scan.mkdir(parents=True)
    Volume(draw(0)[0], GRID).save(scan / "train_7_b_2.nii.gz")
    table = tmp_path / "labels.csv"
    header = ",".join(["VolumeName", *NAMES])
    table.write_text(f"{header}\ntrain_7_b_2.nii.gz,{','.join('1' if i == 2 else '0' for i in range(18))}\n")
    options = replace(TINY_CLASSES, data=(table,), test=(table,))
    train, _ = open_cases(options)
    assert train.patient(0) == "train_7"
    assert train.load(0).findings == {NAMES[2]}
    table.write_text(f"{header}\ntrain_7_b_2,{','.join(['maybe'] * 18)}\n")
    with pytest.raises(InputError, match="0 or 1; train_7_b_2 has 'maybe'"):
        read_findings(table)
    table.write_text(f"{header}\ntrain_8_a_1,{','.join('0' * 18)}\n")
    with pytest.raises(InputError, match="train_8_a_1 is not in"):
        LabelTable(table, None)
    table.write_text(f"VolumeName,{NAMES[0]}\nx,1\n")
    with pytest.raises(InputError, match="needs the columns"):
        open_cases(options)


def test_phantoms_of_a_study_are_other_patients_and_are_drawn_again_the_same() -> None:
    train, test = open_cases(replace(TINY, phantoms=2, test_phantoms=2))
    check_split(train, test)
    assert test.name(0) == f"phantom-{TEST_SEEDS}"
    one, again = (PhantomCases(first_seed=700_000, count=1).load(0) for _ in range(2))
    np.testing.assert_array_equal(one.ct.voxels, again.ct.voxels)
    assert one.findings == again.findings
    assert one.organs is not None


def test_split_keeps_the_scans_of_a_patient_together(tmp_path: Path) -> None:
    folder = tmp_path / "pairs"
    write_pairs(folder, range(6), "train_{}_a_1")
    write_pairs(tmp_path / "more", range(6, 12), "train_{}_b_2")
    for path in (tmp_path / "more" / "ct").iterdir():
        number = int(path.name.split("_")[1]) - 6
        path.rename(folder / "ct" / f"train_{number}_b_2.nii.gz")
    from ctgencore.training.readers import FolderReader

    train, test = split(Cases(FolderReader(folder)), 0.34)
    check_split(train, test)
    assert (len(train), len(test)) == (8, 4)
    again = split(Cases(FolderReader(folder)), 0.34)
    assert [again[1].name(i) for i in range(4)] == [test.name(i) for i in range(4)]


def test_views_of_a_case_are_of_one_patient(tmp_path: Path) -> None:
    folder = write_msd(tmp_path / "task", range(4), suffix="_0000")
    for path in [*folder.glob("imagesTr/*"), *folder.glob("labelsTr/*")]:
        parts = path.name.removesuffix(".nii.gz").partition("_0000")
        shutil.copy(path, path.with_name(f"{parts[0]}__embedded{parts[1]}.nii.gz"))
    for side in split(Cases(MsdReader(folder)), 0.5):
        names = [side.name(index) for index in range(len(side))]
        assert len(names) == 4
        assert {name.partition("__")[0] for name in names} == {name for name in names if "__" not in name}


# --- leaks -----------------------------------------------------------------------------------------------------------


def test_a_patient_in_training_and_test_is_refused(tmp_path: Path) -> None:
    one = write_pairs(tmp_path / "one", range(4), "train_{}_a_1")
    two = write_pairs(tmp_path / "two", range(3, 6), "train_{}_b_1")  # other scans, train_3 again
    options = replace(TINY_CLASSES, data=(one,), test=(two,), arms=("real",))
    with pytest.raises(InputError, match="in both: train_3"):
        study(options, tmp_path / "study")


def test_synthetic_volumes_of_test_patients_are_refused(pairs: dict[str, Path], tmp_path: Path) -> None:
    options = replace(classify_options(pairs), synthetic=(pairs["test"],))
    with pytest.raises(InputError, match="in both: case_100"):
        study(options, tmp_path)


def test_the_same_volume_under_two_names_is_refused(pairs: dict[str, Path], tmp_path: Path) -> None:
    copy = write_pairs(tmp_path / "copy", range(7, 9), "other_{}")
    options = replace(classify_options(pairs), test=(copy,), synthetic=(), arms=("real",))
    with pytest.raises(InputError, match="other_7 and training case case_7 are the same volume"):
        study(options, tmp_path / "study")


def test_cases_without_what_is_predicted_are_refused(pairs: dict[str, Path], balls: Path, tmp_path: Path) -> None:
    options = replace(TINY_CLASSES, data=(balls,), arms=("real",))
    with pytest.raises(InputError, match="Nobody knows the findings of ball_"):
        study(options, tmp_path / "a")
    with pytest.raises(InputError, match="has no organ mask"):
        study(replace(TINY, data=(pairs["train"],)), tmp_path / "b")
    with pytest.raises(InputError, match="to draw a synthetic volume from"):
        study(replace(classify_options(pairs), synthetic=()), tmp_path / "c")
    with pytest.raises(InputError, match="Give a folder of pairs"):
        study(replace(TINY, data=(tmp_path / "nothing",)), tmp_path / "d")


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
    document = Path(__file__).resolve().parents[2] / "CTGenCore" / "docs" / "downstream.md"
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
