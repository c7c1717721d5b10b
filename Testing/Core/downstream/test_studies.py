"""Downstream studies: are numbers honest, data read as meant, leaks refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctgencore.errors import InputError
from ctgencore.tasks.downstream import study
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
from ctgencore.tasks.downstream.options import StudyOptions
from ctgencore.tasks.downstream.statistics import Classified, Segmented, auc, summarize
from ctgencore.tasks.downstream.views import target_classes
from ctgencore.training.readers import TEST_SEEDS, check_split
from ctgencore.volume import LabelMap, Volume
from studying import (
    GRID,
    NAMES,
    SHAPE,
    TINY,
    TINY_CLASSES,
    classify_options,
    draw,
    write_msd,
    write_pairs,
)

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
