"""Training data: phantoms, folders of pairs, the published lists with their traps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.labels import BODY
from ctgencore.training.ctrate import ListReader
from ctgencore.training.generator_recipes import GENERATOR_RECIPES
from ctgencore.training.latents import CacheSettings, fill_cache, list_cache, read_report
from ctgencore.training.readers import (
    TEST_SEEDS,
    VALIDATION_SEEDS,
    FolderReader,
    JoinedReader,
    PhantomReader,
    check_split,
)
from ctgencore.training.run import TrainOptions, open_readers
from ctgencore.volume import LabelMap, Volume

SHAPE = (6, 16, 16)
GRID = Geometry(SHAPE[::-1], (2.0, 2.0, 3.0))


def write_ct(path: Path, *, scale: float = 1.0, offset: float = 0.0) -> np.ndarray:
    voxels = np.full(SHAPE, -1000, dtype=np.float32)
    voxels[:, 4:12, 4:12] = 40
    voxels[2, 6, 6] = 900
    Volume(voxels * scale + offset, GRID).save(path)
    return voxels


def write_organs(path: Path) -> None:
    organs = np.zeros(SHAPE, dtype=np.uint8)
    organs[:, 4:12, 4:12] = BODY
    LabelMap(organs, GRID).save(path)


def write_channels(path: Path, *boxes: tuple[slice, ...]) -> None:
    """A 4D file with the channel as the first, fastest axis, as the findings are published."""
    masks = np.zeros((*SHAPE, len(boxes)), dtype=np.float32)
    for channel, box in enumerate(boxes):
        masks[(*box, channel)] = 1
    array = sitk.GetImageFromArray(masks, isVector=False)
    assert array.GetSize() == (len(boxes), *SHAPE[::-1])
    sitk.WriteImage(array, str(path))


@pytest.fixture
def published(tmp_path: Path) -> Callable[..., Path]:
    """Makes the published layout with some volumes; the lists lie elsewhere and name the authors' disks."""

    def make(*names: str, **ct: float) -> Path:
        for name in names:
            split, number, scan, _ = name.split("_")
            patient = f"{split}_{number}"
            folder = tmp_path / "root" / "dataset" / f"{split}_fixed" / patient / f"{patient}_{scan}"
            masks = tmp_path / "root" / "organ_mask_whole" / split
            for place in (folder, masks, tmp_path / "root" / "seg_rxg"):
                place.mkdir(parents=True, exist_ok=True)
            write_ct(folder / f"{name}.nii.gz", **ct)
            write_organs(masks / f"{name}.nii.gz")
            all_rows, left = (slice(1, 4), slice(4, 12), slice(4, 12)), (slice(2, 3), slice(4, 8), slice(4, 8))
            write_channels(tmp_path / "root" / "seg_rxg" / f"{name}.nii.gz", all_rows, left)
        return tmp_path / "root"

    return make


def finding(name: str, channel: int, class_id: int, text: str) -> str:
    row = {
        "volume_path": f"/disk/of/the/authors/{name}.nii.gz",
        "organ_mask": f"/disk/of/the/authors/masks/{name}.nii.gz",
        "disease_mask": f"/disk/of/the/authors/seg/{name}.nii.gz",
        "disease_mask_channel": str(channel),
        "disease_class": class_id,
        "disease_label": "1a",
        "disease_label_text": "something",
        "disease_findings": text,
    }
    return json.dumps(row) + "\n"


# --- lists -----------------------------------------------------------------------------------------------------------


def test_lines_of_one_volume_are_merged_and_painted_in_order(published: Callable[..., Path], tmp_path: Path) -> None:
    root = published("train_1_a_1", "train_2_b_1")
    listed = tmp_path / "diseased.json"
    listed.write_text(
        finding("train_1_a_1", 0, 154, 'Opacity of the "left" lobe (mild).')
        + finding("train_2_b_1", 1, 151, "A nodule.")
        + finding("train_1_a_1", 1, 158, "An effusion.")
    )
    reader = ListReader([listed], root, "bracket_list")
    assert [reader.name(i) for i in range(len(reader))] == ["train_1_a_1", "train_2_b_1"]
    assert [reader.patient(i) for i in range(2)] == ["train_1", "train_2"]
    first, second = reader.load(0), reader.load(1)
    assert first.report == "[Opacity of the left lobe mild., An effusion.]"
    assert second.report == "[A nodule.]"
    assert first.diseases is not None
    wanted = np.zeros(SHAPE, dtype=np.uint8)
    wanted[1:4, 4:12, 4:12] = 154
    wanted[2:3, 4:8, 4:8] = 158
    np.testing.assert_array_equal(first.diseases.voxels, wanted)
    assert first.organs is not None
    assert (first.organs.voxels == BODY).any()


def test_reports_and_prompts_from_tables(published: Callable[..., Path], tmp_path: Path) -> None:
    root = published("valid_3_a_1", "valid_4_a_2")
    reports = tmp_path / "reports.csv"
    reports.write_text("VolumeName,Findings_EN,Impressions_EN\nvalid_3_a_1.nii.gz,Lungs are clear.,Normal.\n")
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('Names,Text_prompts\nvalid_4_a_2.nii.gz,"It\'s ""fine"" (very)."\n')
    reader = ListReader([reports, prompts], root, "plain")
    assert [reader.load(i).report for i in range(2)] == ["Lungs are clear. Normal.", "Its fine very."]
    assert reader.load(0).diseases is None
    healthy = tmp_path / "healthy.jsonl"
    row = {
        "volume_path": "valid_3_a_1.nii.gz",
        "organ_mask": "m/valid_3_a_1.nii.gz",
        "findings": "Clear.",
        "impression": "No.",
    }
    healthy.write_text(json.dumps(row) + "\n\n")
    assert ListReader([healthy], root, "bracket_list").load(0).report == "Clear."  # findings only, and no brackets


METADATA = "VolumeName,RescaleSlope,RescaleIntercept\ntrain_1_a_1.nii.gz,1,-1024\n"


def test_slope_and_intercept_are_applied_only_when_asked_for(published: Callable[..., Path], tmp_path: Path) -> None:
    metadata, listed = tmp_path / "metadata.csv", tmp_path / "reports.csv"
    metadata.write_text(METADATA)
    listed.write_text("VolumeName,Findings_EN,Impressions_EN\ntrain_1_a_1.nii.gz,Clear.,\n")
    root = published("train_1_a_1")
    fixed = ListReader([listed, metadata], root, "plain")
    assert fixed.load(0).ct.voxels.min() == -1000
    twice = ListReader([listed, metadata], root, "plain", apply_rescale=True)
    assert twice.fingerprint(0) != fixed.fingerprint(0)
    with pytest.raises(InputError, match="rescaled twice"):
        twice.load(0)
    with pytest.raises(InputError, match="train_1_a_1 is not in one"):
        ListReader([listed], root, "plain", apply_rescale=True)
    root = published("train_1_a_1", offset=1024.0)  # the raw file
    np.testing.assert_allclose(
        ListReader([listed, metadata], root, "plain", apply_rescale=True).load(0).ct.voxels[0, 0, 0], -1000
    )


def test_a_damaged_volume_is_named_and_left_out(published: Callable[..., Path], tmp_path: Path) -> None:
    root = published("train_1_a_1", "train_2_a_1")
    listed = tmp_path / "reports.csv"
    listed.write_text("VolumeName,Findings_EN,Impressions_EN\ntrain_1_a_1.nii.gz,A.,\ntrain_2_a_1.nii.gz,B.,\n")
    [second] = root.glob("dataset/*/train_2/*/*.nii.gz")
    write_ct(second, scale=3.0, offset=-2000.0)
    said: list[str] = []
    recipe = GENERATOR_RECIPES["tiny-generator"]
    done = fill_cache(ListReader([listed], root, "plain"), CacheSettings.of(recipe), tmp_path / "c", log=said.append)
    assert done == 1
    [name] = list_cache(tmp_path / "c")
    assert read_report(tmp_path / "c" / name) == "A."
    assert "train_2_a_1: CT has air near -1000 HU" in json.loads(said[0])["left_out"]
    second.with_name("x").write_bytes(b"")
    only = tmp_path / "only.csv"
    only.write_text("VolumeName,Findings_EN,Impressions_EN\ntrain_2_a_1.nii.gz,B.,\n")
    with pytest.raises(InputError, match="None of 1 samples"):
        fill_cache(ListReader([only], root, "plain"), CacheSettings.of(recipe), tmp_path / "d", log=said.append)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: every line is a JSON object"),
        ('{"volume_path": "train_1_a_1.nii.gz"}', "line 1: .*'organ_mask'"),
        (finding("train_1_a_1", 0, 149, "x"), "one of 150 to 162; got 149"),
        (finding("train_9_a_1", 0, 154, "x"), "train_9_a_1.nii.gz is not there"),
        ("", "There is no volume in"),
    ],
)
def test_wrong_lines_are_explained(published: Callable[..., Path], tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.json").write_text(line + "\n")
    with pytest.raises(InputError, match=message):
        ListReader([tmp_path / "list.json"], published("train_1_a_1"), "plain")


def test_wrong_masks_are_explained(published: Callable[..., Path], tmp_path: Path) -> None:
    root = published("train_1_a_1")
    (tmp_path / "list.json").write_text(finding("train_1_a_1", 5, 154, "x"))
    with pytest.raises(InputError, match="channels 0 to 1; the list asks for 5"):
        ListReader([tmp_path / "list.json"], root, "plain").load(0)
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="table of unknown form"):
        ListReader([tmp_path / "list.csv"], root, "plain")


def test_a_patient_on_both_sides_is_refused(published: Callable[..., Path], tmp_path: Path) -> None:
    root = published("train_1_a_1", "train_1_b_1", "train_2_a_1")
    for name, volumes in (("t", ["train_1_a_1", "train_2_a_1"]), ("v", ["train_1_b_1"]), ("w", ["train_2_a_1"])):
        rows = "".join(f"{volume}.nii.gz,A.,\n" for volume in volumes)
        (tmp_path / f"{name}.csv").write_text("VolumeName,Findings_EN,Impressions_EN\n" + rows)
    training, validation = (ListReader([tmp_path / f"{name}.csv"], root, "plain") for name in "tv")
    with pytest.raises(InputError, match=r"in both: train_1\. Take"):
        check_split(training, validation)
    with pytest.raises(InputError, match="twice in the data: train_2_a_1"):
        JoinedReader([training, ListReader([tmp_path / "w.csv"], root, "plain")])


# --- folders and phantoms --------------------------------------------------------------------------------------------


def test_a_folder_of_pairs(tmp_path: Path) -> None:
    for name in ("ct", "organs", "diseases"):
        (tmp_path / name).mkdir()
    write_ct(tmp_path / "ct" / "p1.nii.gz")
    write_ct(tmp_path / "ct" / "p2.v1.nii.gz")
    organs = np.zeros(SHAPE, dtype=np.uint8)
    organs[:, 4:12, 4:12] = 5  # liver in TotalSegmentator
    LabelMap(organs, GRID).save(tmp_path / "organs" / "p1.nrrd")
    LabelMap(organs // 5 * 158, GRID).save(tmp_path / "diseases" / "p1.nii.gz")
    (tmp_path / "reports.csv").write_text("name,report,patient\np1.nii.gz,Fine (so far).,anna\np2.v1,Clear.,\n")
    reader = FolderReader(tmp_path, "totalsegmentator")
    first, second = reader.load(0), reader.load(1)
    assert (first.name, first.report, reader.patient(0)) == ("p1", "Fine so far.", "anna")
    assert (second.name, second.report, reader.patient(1), second.organs) == ("p2.v1", "Clear.", "p2.v1", None)
    assert first.organs is not None
    assert first.diseases is not None
    assert set(np.unique(first.organs.voxels)) == {0, 1}
    assert set(np.unique(first.diseases.voxels)) == {0, 158}
    before = reader.fingerprint(0)
    write_ct(tmp_path / "ct" / "p1.nii.gz", offset=1.0)
    assert reader.fingerprint(0) != before
    moved = Geometry(GRID.size_xyz, GRID.spacing_mm, (5.0, 0.0, 0.0))
    LabelMap(organs, moved).save(tmp_path / "organs" / "p1.nrrd")
    with pytest.raises(InputError, match="the CT and the organ mask of p1"):
        reader.load(0)
    LabelMap(organs, GRID).save(tmp_path / "organs" / "stranger.nrrd")
    with pytest.raises(InputError, match="there is none for stranger"):
        FolderReader(tmp_path)
    with pytest.raises(InputError, match="has its CTs in 'ct'"):
        FolderReader(tmp_path / "ct")


def test_phantoms_keep_off_the_seeds_of_the_tests() -> None:
    training, validation = open_readers(GENERATOR_RECIPES["foundation.embedded"], TrainOptions())
    assert validation is not None
    check_split(training, validation)
    assert int(training.name(len(training) - 1)[-6:]) < VALIDATION_SEEDS
    assert (
        VALIDATION_SEEDS <= int(validation.name(0)[-6:]) <= int(validation.name(len(validation) - 1)[-6:]) < TEST_SEEDS
    )
    with pytest.raises(InputError, match="those above are for tests"):
        PhantomReader(count=2, first_seed=TEST_SEEDS - 1)


def test_phantoms_vary_in_voxel_size_and_place() -> None:
    reader = PhantomReader(count=40, shapes_zyx=((8, 8, 8), (9, 12, 12)))
    samples = [reader.load(i) for i in range(4)]
    spacings = np.array([sample.ct.geometry.spacing_mm for sample in samples])
    assert (spacings[:, 0] == spacings[:, 1]).all()
    assert spacings[:, 0].min() >= 0.8
    assert spacings[:, 0].max() <= 3.0
    assert spacings[:, 2].min() >= 1
    assert spacings[:, 2].max() <= 5
    assert len({sample.ct.shape for sample in samples}) == 2
    assert len({sample.ct.geometry.origin_mm for sample in samples}) == 4
    again = reader.load(1)
    np.testing.assert_array_equal(again.ct.voxels, samples[1].ct.voxels)
    assert again.report == samples[1].report
    assert again.impression
    assert again.impression in again.report
    assert len(set(reader.texts(20))) == 20


def test_real_data_recipes_ask_for_data(tmp_path: Path) -> None:
    healthy = GENERATOR_RECIPES["foundation.healthy"]
    with pytest.raises(InputError, match="learns from CT: give a folder of pairs or a list with --data"):
        open_readers(healthy, TrainOptions())
    with pytest.raises(InputError, match="there is no"):
        open_readers(healthy, TrainOptions(data=(tmp_path / "nothing.csv",)))
