"""Labels: the tables, other people's numbers and names, what the validator finds, the body envelope."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ctgencore import labels, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.phantom import Phantom
from ctgencore.volume import LabelMap
from scipy.ndimage import distance_transform_edt


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.chest((48, 96, 96), findings=("Lung nodule", "Pleural effusion"))


@pytest.fixture(scope="module")
def class_map(ct_data: Path) -> dict[str, dict[str, str]]:
    return json.loads((ct_data.parent / "text" / "totalsegmentator_class_map.json").read_text())


def codes(problems: list[labels.Problem]) -> set[str]:
    return {problem.code for problem in problems}


def small(*values: int, names: dict[int, str] | None = None) -> LabelMap:
    """One voxel per value."""
    return LabelMap(np.array(values, np.uint8).reshape(1, 1, -1), Geometry((len(values), 1, 1)), names or {})


# ---- tables


def test_counts_and_order() -> None:
    assert len(labels.ORGANS) == 124
    assert list(labels.DISEASES) == list(range(150, 163))
    assert [d.map_value for d in labels.DISEASES.values()] == list(range(250, 263))
    assert len({finding.name for finding in labels.FINDINGS}) == 18
    assert labels.FINDINGS[0].name == "Medical material"
    assert labels.ORGANS[labels.VESSEL].name == "vessel"
    assert [labels.ORGANS[i].group for i in labels.LUNG_LOBES] == ["lung"] * 5


def test_hu_ranges_are_ordered_and_as_ct_has_them() -> None:
    for organ in labels.ORGANS.values():
        low, typical, high = organ.hu
        assert -1024 <= low < typical < high <= 3071, organ
    typical = {organ.name: organ.hu[1] for organ in labels.ORGANS.values()}
    order = ["trachea", "left lung upper lobe", "body", "bladder", "left autochthon", "liver", "aorta", "left rib 5"]
    assert [typical[name] for name in order] == sorted(typical[name] for name in order)
    for disease in labels.DISEASES.values():
        assert (
            disease.direction == np.sign(disease.typical_hu - typical["left lung upper lobe"])
            or disease.name == "Other"
        )


def test_tables_agree_with_the_published_ones(ct_data: Path) -> None:
    yaml = pytest.importorskip("yaml")
    source = yaml.safe_load((ct_data.parents[1] / "reference" / "labels.yaml").read_text())
    published = {row["index"]: (row["name"], row["group"]) for row in source["organ_mask"]["classes"]}
    assert {o.index: (o.name, o.group) for o in labels.ORGANS.values()} == published
    published = {
        row["class_id"]: (row["name"], row["rexgroundingct_code"]) for row in source["disease_mask"]["classes"]
    }
    assert {d.class_id: (d.name, d.code) for d in labels.DISEASES.values()} == published
    assert [f.name for f in labels.FINDINGS] == source["findings_18"]["ct_rate_column_order"]
    stars = {row["name"]: row["has_rexgroundingct_mask"] for row in source["findings_18"]["items"]}
    assert all(f.disease for f in labels.FINDINGS if stars[f.name])


def test_opposite_is_its_own_inverse() -> None:
    sided = [index for index, organ in labels.ORGANS.items() if labels.opposite(index)]
    assert len(sided) == 64
    for index in sided:
        other = labels.opposite(index)
        assert other is not None
        assert labels.opposite(other) == index
        assert labels.ORGANS[other].side != labels.ORGANS[index].side
    assert labels.opposite(1) is None
    assert labels.opposite(108) is None


def test_tables_and_names_load_no_numpy() -> None:
    code = (
        "import sys; from ctgencore import labels; assert labels.suggest('LUL').id == 28\n"
        "labels.terminology_for(1); print([m for m in ('numpy', 'scipy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n", done.stderr


# ---- names


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("Lt. kidney", 14),
        ("KIDNEY_R", 5),
        ("Right Kidney", 5),
        ("Oesophagus", 11),
        ("spinalCord", 121),
        ("clavicle, left", 91),
        ("R clavicula", 92),
        ("heart atrium left", 115),
        ("heart_myocardium", 115),
        ("left atrial appendage", 108),
        ("lung upper lobe left", 28),
        ("left lower lobe", 29),
        ("RML", 31),
        ("lobus superior pulmonis dextri", 30),
        ("vena cava superior", 125),
        ("IVC", 7),
        ("L5", 33),
        ("vertebra Th07", 43),
        ("rib L5", 67),
        ("5th rib right", 79),
        ("rib_left_11", 73),
        ("lung_vessels", 133),
        ("lung_veins", 133),
        ("pulmonary vein", 119),
        ("lung_trachea_bronchia", 132),
        ("body_trunc", 200),
        ("Liver 2", 1),
        ("hepatic tumour", 26),
        ("left humerus bone", 87),
        ("GGO left lower lobe", 154),
        ("Ground-glass", 154),
        ("effusion", 159),
        ("Pleural thickening right", 159),
        ("nodule", 161),
        ("pulmonary nodules", 161),
        ("lung tumor", 161),
        ("peribronchial thickening", 151),
        ("interlobular septal thickening", 162),
        ("tree-in-bud", 157),
        ("Consolidation RLL", 150),
        ("honeycombing", 155),
        ("pneumothorax", 160),
    ],
)
def test_common_spellings(name: str, index: int) -> None:
    found = labels.suggest(name)
    assert found is not None, labels.why_not(name)
    assert (found.id, found.name) == (index, labels.name_of(index))
    assert found.kind == ("disease" if index >= 150 and index != 200 else "organ")
    assert found.confidence >= 0.8
    assert labels.why_not(name) == ""


@pytest.mark.parametrize(
    ("name", "index"), [("GTV", 161), ("gtv1", 161), ("left lung", 28), ("aortaa", 6), ("scar", 156)]
)
def test_doubtful_names_say_so(name: str, index: int) -> None:
    found = labels.suggest(name)
    assert found is not None
    assert found.id == index
    assert found.confidence < 0.8


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("kidney", "left or right"),
        ("lungs", "lobes"),
        ("Segment_1", "says nothing"),
        ("", "no name"),
        ("thyroid nodule", "thyroid"),
        ("bone lesion", "bone"),
        ("Pericardial effusion", "report"),
        ("pulmonary artery", "body"),
        ("left middle lobe", "by hand"),
        ("vertebrae L6", "by hand"),
        ("rib left 13", "by hand"),
        ("xylophone", "by hand"),
    ],
)
def test_names_without_answer_say_what_to_do(name: str, reason: str) -> None:
    assert labels.suggest(name) is None
    assert reason in labels.why_not(name)


def test_every_own_name_is_certain() -> None:
    for index in [*labels.ORGANS, *labels.DISEASES]:
        found = labels.suggest(labels.name_of(index))
        assert found is not None
        assert (found.id, found.confidence) == (index, 1.0)


def test_totalsegmentator_names_and_numbers_agree(class_map: dict[str, dict[str, str]]) -> None:
    assert len(class_map["total"]) == 117
    for number, name in class_map["total"].items():
        found = labels.suggest(name)
        assert found is not None, name
        assert found.id == labels.SCHEMES["totalsegmentator"][int(number)], name
        words, own = set(name.lower().split("_")), set(found.name.lower().split())
        assert words == own or (words, own) == ({"urinary", "bladder"}, {"bladder"}), name


def test_vista3d_names_and_numbers_agree(ct_data: Path) -> None:
    names = json.loads((ct_data.parent / "text" / "vista3d_label_dict.json").read_text())
    for name, number in names.items():
        found = labels.suggest(name)
        assert (found.id if found else None) == labels.SCHEMES["vista3d"].get(number), name


# ---- terminology


def test_terminology_round_trip() -> None:
    entries = {}
    for index in [*labels.ORGANS, *labels.DISEASES]:
        entry = labels.terminology_for(index)
        assert len(entry.split("~")) == 7
        found = labels.suggest("", entry)
        assert found is not None, entry
        assert found.id == index, entry
        entries[entry] = index
    assert len(entries) == 124 + 13


@pytest.mark.parametrize(
    ("fields", "index"),
    [
        ("SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~SCT^7771000^Left~~^^~^^", 14),
        ("SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Anatomic codes - DICOM master list~^^~^^|", 1),
        ("SCT^123037004^Anatomical Structure~SCT^72481006^Middle lobe~SCT^24028007^Right~~^^~^^", 31),
        ("SCT^123037004^Anatomical Structure~SCT^87878005^Left ventricle~^^~~^^~^^", 115),
        ("SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~^^~x~SCT^39607008^Lung~^^", 161),
        ("SCT^49755003^Morphologically Altered Structure~SCT^41699000^Effusion~^^~x~SCT^25489000^Pericardium~^^", None),
        ("SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~^^~~^^~^^", None),
        ("SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes - DICOM master list~^^~^^", None),
    ],
)
def test_slicer_entries(fields: str, index: int | None) -> None:
    found = labels.suggest("", "Segmentation category and type - 3D Slicer General Anatomy list~" + fields)
    assert (found.id if found else None) == index


def test_the_entry_wins_over_the_name_unless_it_says_nothing() -> None:
    spleen = labels.suggest("liver", labels.terminology_for(3))
    assert spleen is not None
    assert spleen.id == 3
    liver = labels.suggest("liver", "any list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~x~^^~^^")
    assert liver is not None
    assert liver.id == 1


# ---- schemes


def test_converting_keeps_dropped_and_guessed_in_sight() -> None:
    source = small(0, 1, 2, 3, 4, names={1: "liver", 2: "lung_right", 3: "pulmonary artery", 4: "nodule"})
    done = labels.convert(source, "names")
    assert done.labels.voxels.ravel().tolist() == [0, 1, 30, 200, 30]  # the lobe beside the nodule
    assert done.labels.names == {1: "liver", 30: "right lung upper lobe", 200: "body"}
    assert done.diseases is not None
    assert done.diseases.voxels.ravel().tolist() == [0, 0, 0, 0, 161]
    assert list(done.dropped) == [3]
    assert [(k, v.id) for k, v in done.guessed.items()] == [(2, 30)]


@pytest.mark.parametrize(
    ("scheme", "source", "target"),
    [
        ("totalsegmentator", (0, 1, 2, 5, 117), [0, 3, 5, 1, 114]),
        ("vista3d", (0, 1, 57, 132, 200), [0, 1, 57, 132, 200]),
        ("btcv", (1, 2, 3, 6, 13), [3, 5, 14, 1, 9]),
        ("ctgen", (0, 28, 133, 200), [0, 28, 133, 200]),
    ],
)
def test_numberings(scheme: str, source: tuple[int, ...], target: list[int]) -> None:
    assert labels.convert(small(*source), scheme).labels.voxels.ravel().tolist() == target


def test_umbrella_classes_of_vista3d_say_what_to_do() -> None:
    done = labels.convert(small(1, 2, 20, 23), "vista3d")
    assert done.labels.voxels.ravel().tolist() == [1, 200, 200, 200]
    assert done.diseases is not None
    assert done.diseases.voxels.ravel().tolist() == [0, 0, 0, 161]
    assert "left (14) and right (5)" in done.dropped[2]
    assert "28 to 32" in done.dropped[20]


def test_a_table_of_the_user(tmp_path: Path) -> None:
    table = tmp_path / "mine.csv"
    table.write_text("label,name\n7,Lt kidney\n8,132\n9,261\n# nothing\n10,background\n", encoding="utf-8")
    done = labels.convert(small(7, 8, 9, 10, 11), table)
    assert done.labels.voxels.ravel().tolist() == [14, 132, 200, 0, 200]
    assert done.diseases is not None
    assert list(done.dropped) == [11]
    table.write_text("7;Leber-Metastase\n7;liver\n", encoding="utf-8-sig")
    with pytest.raises(InputError, match=r"mine\.csv, line 1: 'Leber-Metastase' is no known name"):
        labels.convert(small(7), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("label,name\n3,liver\n3,spleen\n", "line 3: label 3 is mapped twice"),
        ("label,name\nthree,liver\n", "line 2: the first column"),
        ("3,xylophone\n4\n", "line 1: 'xylophone'"),
        ("3,140\n", "line 1: 140 is no label"),
        ("3\n", "line 1: a row is label,name"),
        ("label,name\n", "holds no row"),
    ],
)
def test_bad_tables_name_the_line(tmp_path: Path, text: str, message: str) -> None:
    table = tmp_path / "bad.csv"
    table.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        labels.convert(small(3), table)


def test_wrong_schemes() -> None:
    with pytest.raises(InputError, match="totalsegmentator, vista3d, btcv, names, or a CSV"):
        labels.convert(small(1), "nonsense")
    with pytest.raises(InputError, match="None of the labels"):
        labels.convert(small(90, 91), "btcv")
    with pytest.raises(InputError, match="needs names in the file"):
        labels.convert(small(1), "names")
    with pytest.raises(InputError, match="cannot be read"):
        labels.convert(small(1), "missing.csv")


# ---- combined maps


def test_paint_and_split(chest: Phantom) -> None:
    combined = labels.paint(chest.organs, chest.diseases)
    ill = chest.diseases.voxels > 0
    assert ill.sum() > 100
    assert set(np.unique(combined[ill])) == {259, 261}
    organs, diseases = labels.split(combined)
    np.testing.assert_array_equal(diseases, chest.diseases.voxels)
    np.testing.assert_array_equal(organs[~ill], chest.organs.voxels[~ill])
    assert np.isin(organs[ill], labels.LUNG_LOBES).mean() > 0.9
    with pytest.raises(InputError, match="Disease classes are 150"):
        labels.paint(chest.organs, np.full(chest.organs.shape, 259))
    with pytest.raises(InputError, match="one grid"):
        labels.paint(chest.organs, np.zeros((2, 2, 2), np.uint8))


def test_merge_decides_by_what_lies_inside_what() -> None:
    body, lobes, rest = small(200, 200, 200, 200), small(28, 28, 28, 0), small(132, 133, 1, 0)
    for order in ([body, lobes, rest], [rest, lobes, body]):
        merged, notes = labels.merge(order)
        assert merged.voxels.ravel().tolist() == [132, 133, 1, 200]
        assert [note.code for note in notes] == ["overlap"]
        assert "liver and left lung upper lobe share 1 voxels" in notes[0].message
    with pytest.raises(InputError, match="sizes"):
        labels.merge([body, small(1)])


# ---- validator


def test_a_phantom_has_no_problem(chest: Phantom) -> None:
    assert labels.check(chest.organs, chest.diseases, latent_mm=(4, 6, 6)) == []


def changed(source: LabelMap, edit: Callable[[np.ndarray], None], geometry: Geometry | None = None) -> LabelMap:
    voxels = source.voxels.astype(np.int16)
    edit(voxels)
    return LabelMap(voxels, geometry or source.geometry)


def swap_kidneys_and_ribs(voxels: np.ndarray) -> None:
    left, right = voxels == 14, voxels == 5
    voxels[left], voxels[right] = 5, 14


EDITS: dict[str, Callable[[np.ndarray], None]] = {
    "unknown-label": lambda v: v.__setitem__(v == 1, 18),
    "no-body": lambda v: v.__setitem__(v == 200, 0),
    "swapped-sides": swap_kidneys_and_ribs,
    "empty": lambda v: v.fill(0),
    "mirrored": lambda v: v.__setitem__(np.isin(v, [1, 3]), v[np.isin(v, [1, 3])] ^ 2),  # liver 1 <-> spleen 3
}


@pytest.mark.parametrize("code", EDITS)
def test_each_edit_is_found_and_named(chest: Phantom, code: str) -> None:
    [problem] = labels.check(changed(chest.organs, EDITS[code]))
    assert problem.code == code
    assert problem.message.endswith(".")
    assert problem.fix.endswith(".")
    assert problem.severity == ("warning" if code == "mirrored" else "error")


def test_a_mirrored_file_is_found(chest: Phantom) -> None:
    assert "swapped-sides" in codes(
        labels.check(changed(chest.organs, lambda v: v.__setitem__(..., v[..., ::-1].copy())))
    )
    flipped = replace(chest.organs.geometry, direction=(-1, 0, 0, 0, -1, 0, 0, 0, 1))
    turned = changed(chest.organs, lambda v: v.__setitem__(..., v[:, ::-1, ::-1].copy()), flipped)
    assert labels.check(turned) == []  # stored in another axis order, and right


def test_disease_maps(chest: Phantom) -> None:
    def problems(edit: Callable[[np.ndarray], None], **options: tuple[float, float, float]) -> list[labels.Problem]:
        return labels.check(chest.organs, changed(chest.diseases, edit), **options)

    assert codes(problems(lambda v: v.__setitem__(v == 161, 99))) == {"unknown-disease"}
    outside = problems(lambda v: v.__setitem__((slice(20, 24), slice(0, 4), slice(0, 4)), 161))
    assert codes(outside) == {"lesion-outside-body"}
    far = distance_transform_edt(~np.isin(chest.organs.voxels, labels.LUNG_LOBES)) * (chest.organs.voxels > 0)
    place = np.unravel_index(far.argmax(), far.shape)

    def far_from_the_lungs(voxels: np.ndarray) -> None:
        voxels.fill(0)
        voxels[place] = 161

    assert codes(problems(far_from_the_lungs)) == {"lesion-outside-lung"}
    small_ones = problems(lambda v: None, latent_mm=(40, 60, 60))
    assert codes(small_ones) == {"small-lesion"}
    assert "smaller than two latent cells" in small_ones[0].message
    with pytest.raises(InputError, match="sizes"):
        labels.check(chest.organs, LabelMap(np.zeros((2, 2, 2), np.uint8), Geometry((2, 2, 2))))


@pytest.mark.parametrize(
    ("spacing", "direction", "code"),
    [
        ((1.0, 1.0, 5.0), None, "field-of-view"),
        ((7.0, 7.0, 5.0), None, "field-of-view"),
        ((3.75, 3.75, 1.0), None, "field-of-view"),
        ((3.75, 3.75, 9.0), None, "field-of-view"),
        (None, (1, 0, 0, 0, 0.9, -0.435889894, 0, 0.435889894, 0.9), "tilted"),
    ],
)
def test_unusual_grids(
    chest: Phantom, spacing: tuple[float, ...] | None, direction: tuple[float, ...] | None, code: str
) -> None:
    grid = chest.organs.geometry
    grid = replace(grid, spacing_mm=spacing or grid.spacing_mm, direction=direction or grid.direction)
    assert code in codes(labels.check(changed(chest.organs, lambda v: None, grid)))


# ---- documentation


def test_the_documented_tables_are_those_of_the_code() -> None:
    text = (Path(__file__).parents[2] / "CTGenCore" / "docs" / "labels.md").read_text(encoding="utf-8")
    for organ in labels.ORGANS.values():
        if organ.group != "rib" and not organ.name.startswith("vertebrae"):
            assert re.search(rf"\b{organ.index} {organ.name}\b", text), organ.name
    for disease in labels.DISEASES.values():
        assert f"| {disease.class_id} | {disease.map_value} | {disease.name} | {disease.direction:+d} |" in text, (
            disease
        )
    for finding in labels.FINDINGS:
        assert f"| {finding.name} | {finding.abbreviation} | {finding.disease or ''} |".replace("|  |", "| |") in text
    source = (
        Path(labels.__file__).with_name("validate.py").read_text()
        + Path(labels.__file__).with_name("combine.py").read_text()
    )
    for code in re.findall(r'Problem\(\s*"([a-z-]+)"', source):
        assert f"| `{code}` |" in text, code
