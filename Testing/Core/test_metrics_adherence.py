"""Segmenters, mask adherence, stability of segmentation, and what a disease changed."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ctgencore import labels, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.metrics.adherence import against_twin, mask_overlap, stability
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.segmenters import BONES, LUNGS, eps_phi, segment
from ctgencore.metrics.table import METRICS
from ctgencore.phantom import Phantom
from ctgencore.tasks.quality import assess
from ctgencore.volume import LabelMap, Volume
from scipy import ndimage

ILL = ("Pleural effusion", "Emphysema", "Consolidation")
MASK = frozenset({"mask_dice", "mask_iou"})
Program = Callable[..., None]


@pytest.fixture(scope="module")
def chest() -> Phantom:
    return phantom.chest((40, 80, 80), seed=3)


@pytest.fixture(scope="module")
def ill() -> Phantom:
    return phantom.chest((40, 80, 80), seed=3, findings=ILL)


def context(segmenter: str = "threshold", tolerance: float = 2.0) -> Context:
    options = {"segmenter": segmenter, "tolerance_mm": tolerance}
    return Context(options=options, features=lambda *_: np.empty(0))


def rows(values: list[Value]) -> dict[tuple[str, str], Value]:
    found = {(value.metric, value.region): value for value in values}
    assert len(found) == len(values)
    return found


def shared(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


# --- segmenters ------------------------------------------------------------------------------------------------------


def test_threshold_on_a_known_chest(chest: Phantom) -> None:
    found = segment(chest.ct, "threshold")
    assert found.names == {28: "lungs", 122: "bones", 200: "soft tissue"}
    assert set(np.unique(found.voxels)) == {0, *found.names}
    assert shared(found.voxels == 28, np.isin(chest.organs.voxels, LUNGS)) > 0.95
    assert shared(found.voxels == 122, np.isin(chest.organs.voxels, BONES)) > 0.75
    assert shared(found.voxels > 0, chest.organs.voxels > 0) > 0.97


def test_threshold_drops_specks_and_bubbles(chest: Phantom) -> None:
    hu = chest.ct.voxels.copy()
    liver = np.argwhere(chest.organs.voxels == 1)
    z, y, x = np.rint(liver.mean(0)).astype(int)
    hu[z, y - 4 : y - 2, x] = 900  # a calcification of 0.26 ml
    hu[z - 1 : z + 2, y + 2 : y + 5, x] = -900  # a bubble
    found = segment(Volume(hu, chest.ct.geometry), "threshold")
    np.testing.assert_array_equal(found.voxels, segment(chest.ct, "threshold").voxels)


def test_threshold_needs_a_body() -> None:
    air = Volume(np.full((8, 32, 32), -1000.0), Geometry((32, 32, 8), (5.0, 5.0, 5.0)))
    with pytest.raises(InputError, match="this CT has none"):
        segment(air, "threshold")


def test_unknown_or_missing_segmenter(chest: Phantom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one of threshold, totalsegmentator, lungmask; got 'magic'"):
        segment(chest.ct, "magic")
    monkeypatch.setenv("PATH", str(tmp_path))
    for name, program in (("totalsegmentator", "TotalSegmentator"), ("lungmask", "lungmask")):
        with pytest.raises(InputError, match=rf"{program}, which is not on the PATH. .*pip install {program}, or take"):
            segment(chest.ct, name)


STAND_IN = """#!{python}
import argparse, sys
import nibabel, numpy as np
parser = argparse.ArgumentParser()
{arguments}
given = parser.parse_args()
image = nibabel.load(given.input)
hu = np.asarray(image.dataobj)
found = np.zeros(hu.shape, np.uint8)
{body}
nibabel.Nifti1Image(found, image.affine).to_filename(given.output)
"""
TOTALSEGMENTATOR = {
    "arguments": (
        "parser.add_argument('-i', dest='input', required=True)\n"
        "parser.add_argument('-o', dest='output', required=True)\n"
        "parser.add_argument('--ml', action='store_true', required=True)\n"
        "parser.add_argument('--device', choices=['cpu', 'gpu', 'gpu:1'])"
    ),
    "body": "found[hu > 200] = 116\nfound[hu < -500] = 10 if given.device == 'cpu' else 11",
}
LUNGMASK = {
    "arguments": (
        "parser.add_argument('input')\n"
        "parser.add_argument('output')\n"
        "parser.add_argument('--modelname', choices=['LTRCLobes_R231'], required=True)\n"
        "parser.add_argument('--noprogress', action='store_true')\n"
        "parser.add_argument('--cpu', action='store_true', required=True)"
    ),
    "body": "found[:] = np.where(hu < -500, 1 + np.arange(len(hu))[:, None, None] % 5, 0)",
}


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """Put a real program of that name on the PATH: it reads and writes NIfTI with nibabel."""
    if os.name == "nt":
        pytest.skip("the stand-in is a script with a first line that Windows does not run")
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def make(name: str, **parts: str) -> None:
        (folder / name).write_text(STAND_IN.format(python=sys.executable, **parts))
        (folder / name).chmod(0o755)

    return make


@pytest.fixture(scope="module")
def oblique() -> Volume:
    """A small block of tissue with holes, on a grid that is turned, flipped and anisotropic."""
    rng = np.random.default_rng(0)
    hu = 400 * ndimage.gaussian_filter(rng.normal(size=(9, 14, 11)), 1) * 6
    c, s = math.cos(0.3), math.sin(0.3)
    return Volume(hu, Geometry((11, 14, 9), (0.8, 1.1, 3.0), (-40.0, 12.5, 900.0), (-c, 0, s, 0, -1, 0, s, 0, c)))


def test_totalsegmentator_command(program: Program, oblique: Volume) -> None:
    program("TotalSegmentator", **TOTALSEGMENTATOR)
    found = segment(oblique, "totalsegmentator")
    hu = np.rint(oblique.voxels)
    np.testing.assert_array_equal(found.voxels, np.select([hu < -500, hu > 200], [28, 122]))
    assert found.names == {28: "left lung upper lobe", 122: "sternum"}
    assert found.geometry == oblique.geometry
    assert set(np.unique(segment(oblique, "totalsegmentator", "cuda:1").voxels)) == {0, 29, 122}


def test_lungmask_command(program: Program, oblique: Volume) -> None:
    program("lungmask", **LUNGMASK)
    found = segment(oblique, "lungmask")
    lobe = 28 + np.arange(11) % 5  # the file's first axis is our last
    np.testing.assert_array_equal(found.voxels, np.where(np.rint(oblique.voxels) < -500, lobe, 0))


def test_a_program_that_fails(program: Program, oblique: Volume) -> None:
    program("lungmask", arguments=LUNGMASK["arguments"], body="sys.exit('no weights')")
    with pytest.raises(
        InputError, match=r"lungmask ended with code 1 and wrote no label map: no weights\. Run lungmask"
    ):
        segment(oblique, "lungmask")
    program("lungmask", arguments=LUNGMASK["arguments"], body="image = nibabel.Nifti1Image(hu, np.eye(4))")
    with pytest.raises(InputError, match="labels that lungmask wrote must be equal"):
        segment(oblique, "lungmask")
    program("lungmask", arguments=LUNGMASK["arguments"], body="")
    assert not segment(oblique, "lungmask").voxels.any()  # it may find nothing


# --- stability -------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # the peer's own
def test_eps_phi_by_its_formula() -> None:
    peer = pytest.importorskip("surface_distance")
    geometry = Geometry((19, 22, 17), (0.9, 0.7, 2.5))
    rng = np.random.default_rng(1)
    a, b = (ndimage.gaussian_filter(rng.normal(size=geometry.shape_zyx), 1.5) for _ in range(2))
    a, b = a > 0, a + 0.4 * b > 0
    found = eps_phi(LabelMap(a.astype(np.uint8), geometry), LabelMap(b.astype(np.uint8), geometry), 1.0)
    surfaces = peer.compute_surface_distances(a, b, geometry.spacing_zyx)
    want = 1 - (peer.compute_dice_coefficient(a, b) + peer.compute_surface_dice_at_tolerance(surfaces, 1.0)) / 2
    assert found == {1: pytest.approx(want, abs=1e-12)}
    assert 0.05 < want < 0.9
    one, none = (LabelMap(np.full(geometry.shape_zyx, value, np.uint8), geometry) for value in (1, 0))
    assert eps_phi(one, one, 1.0) == {1: 0.0}
    assert eps_phi(one, none, 1.0) == {1: 1.0}
    assert eps_phi(none, none, 1.0) == {}


def test_stability_of_a_volume_and_its_blurred_copy(chest: Phantom) -> None:
    def measured(test: Volume, reference: Volume) -> dict[tuple[str, str], Value]:
        case = Case(name="case", test=test, reference=reference)
        return rows(stability(case, frozenset({"eps_phi"}), context()))

    same = measured(chest.ct, chest.ct)
    assert {region for _, region in same} == {"lungs", "bones", "soft tissue", "all"}
    assert {value.value for value in same.values()} == {0.0}
    assert same["eps_phi", "all"].note == "by threshold, tolerance 2 mm"
    blurred = [chest.ct.with_voxels(ndimage.gaussian_filter(chest.ct.voxels, sigma)) for sigma in (0.6, 1.2)]
    little, much = (measured(each, chest.ct) for each in blurred)
    for region in ("lungs", "bones", "soft tissue", "all"):
        assert 0 < little["eps_phi", region].value < much["eps_phi", region].value < 1
    each = [little["eps_phi", region].value for region in ("lungs", "bones", "soft tissue")]
    assert little["eps_phi", "all"].value == pytest.approx(np.mean(each))


# --- masks -----------------------------------------------------------------------------------------------------------


def test_mask_overlap_by_threshold_is_that_of_the_quality_gate(ill: Phantom) -> None:
    case = Case(name="case", test=ill.ct, labels=ill.organs, diseases=ill.diseases)
    found = rows(mask_overlap(case, MASK, context()))
    checks = assess(ill.ct.voxels, labels.paint(ill.organs, ill.diseases), ill.ct.geometry).checks
    gate = {check.name: check.value for check in checks}
    for region, check in (("body", "body-agreement"), ("lungs", "lung-agreement"), ("bones", "bone-agreement")):
        dice, iou = (found[name, region].value for name in ("mask_dice", "mask_iou"))
        assert dice == pytest.approx(gate[check], abs=1e-4)
        assert iou == pytest.approx(dice / (2 - dice))
    assert found["mask_dice", "all"].note == "by threshold"
    moved = LabelMap(np.roll(ill.organs.voxels, 6, 2), ill.organs.geometry)
    worse = rows(mask_overlap(Case(name="case", test=ill.ct, labels=moved), MASK, context()))
    assert worse["mask_dice", "lungs"].value < found["mask_dice", "lungs"].value - 0.1


def test_a_mask_without_an_envelope_has_no_body_to_compare(chest: Phantom) -> None:
    lungs = np.where(np.isin(chest.organs.voxels, LUNGS), chest.organs.voxels, 0)
    case = Case(name="case", test=chest.ct, labels=LabelMap(lungs, chest.organs.geometry))
    found = rows(mask_overlap(case, MASK, context()))
    assert {region for _, region in found} == {"lungs", "all"}
    liver = LabelMap((chest.organs.voxels == 1).astype(np.uint8), chest.organs.geometry)
    [value] = mask_overlap(Case(name="case", test=chest.ct, labels=liver), frozenset({"mask_dice"}), context())
    assert math.isnan(value.value)
    assert value.note == "the mask has nothing that threshold segments"


def test_mask_overlap_by_another_program(program: Program, oblique: Volume) -> None:
    program("TotalSegmentator", **TOTALSEGMENTATOR)
    low = np.rint(oblique.voxels) < -500
    mask = np.where(low, 28, 200).astype(np.uint8)
    mask[4:] = np.where(low[4:], 1, 200)  # the liver is wrong on purpose, and there is no sternum
    case = Case(name="case", test=oblique, labels=LabelMap(mask, oblique.geometry))
    found = rows(mask_overlap(case, MASK, context("totalsegmentator")))
    assert {region for _, region in found} == {"left lung upper lobe", "liver", "all"}
    top, both = np.count_nonzero(low[:4]), np.count_nonzero(low)
    assert found["mask_dice", "left lung upper lobe"].value == pytest.approx(2 * top / (top + both))
    assert found["mask_iou", "left lung upper lobe"].value == pytest.approx(top / both)
    assert found["mask_dice", "liver"].value == 0
    assert found["mask_dice", "all"].note == "by totalsegmentator"


# --- against the healthy twin ----------------------------------------------------------------------------------------


def twin_case(test: np.ndarray, chest: Phantom, ill: Phantom) -> Case:
    return Case(
        name="case",
        test=chest.ct.with_voxels(test),
        twin=chest.ct,
        labels=ill.organs,
        diseases=ill.diseases,
    )


def test_change_away_from_the_disease(chest: Phantom, ill: Phantom) -> None:
    name = frozenset({"hallucination_hu"})
    inside = ill.diseases.voxels > 0
    far = ndimage.distance_transform_edt(~inside, sampling=ill.ct.geometry.spacing_zyx) > 8
    far &= ill.organs.voxels > 0
    [quiet] = against_twin(twin_case(np.where(far, chest.ct.voxels, 500), chest, ill), name, context())
    assert quiet.value == 0
    [all_over] = against_twin(twin_case(chest.ct.voxels - 12, chest, ill), name, context())
    assert all_over.value == pytest.approx(12, rel=1e-5)
    hu = chest.ct.voxels.copy()
    z = int(far.sum((1, 2)).argmax())
    hu[z] += 30
    [one_slice] = against_twin(twin_case(hu, chest, ill), name, context())
    assert one_slice.value == pytest.approx(30 * far[z].sum() / far.sum(), rel=1e-5)
    assert one_slice.slice == z
    gate = assess(hu, labels.paint(ill.organs, ill.diseases), ill.ct.geometry, twin_hu=chest.ct.voxels)
    assert [c.value for c in gate.checks if c.name == "hallucination"] == [pytest.approx(one_slice.value, abs=1e-4)]
    everywhere = LabelMap(np.full(ill.ct.shape, 150, np.uint8), ill.ct.geometry)
    case = Case(name="case", test=ill.ct, twin=chest.ct, labels=ill.organs, diseases=everywhere)
    [nowhere] = against_twin(case, name, context())
    assert math.isnan(nowhere.value)
    assert nowhere.note


def test_effect_has_the_direction_of_the_disease(chest: Phantom) -> None:
    mask = np.zeros(chest.ct.shape, np.uint8)
    mask[10:12, 20:30, 20:30] = 150  # 200 voxels, +40 HU: as it should
    mask[14:15, 20:30, 20:30] = 153  # 100 voxels of emphysema, -60 HU: as it should
    mask[20:22, 20:30, 20:30] = 160  # 200 voxels of pneumothorax, +10 HU: the wrong way
    mask[30:31, 20:30, 20:30] = 158  # 100 voxels of other, -20 HU: either way
    shift = np.select([mask == 150, mask == 153, mask == 160, mask == 158], [40, -60, 10, -20], 7)
    diseases = LabelMap(mask, chest.ct.geometry)
    case = Case(name="case", test=chest.ct.with_voxels(chest.ct.voxels + shift), twin=chest.ct, diseases=diseases)
    found = rows(against_twin(case, frozenset({"effect_hu"}), context()))
    want = {"Atelectasis, consolidation": 40, "Emphysema": 60, "Pneumothorax": -10, "Other": 20}
    for region, value in want.items():
        assert found["effect_hu", region].value == pytest.approx(value, abs=1e-3)
    assert found["effect_hu", "Other"].note
    assert found["effect_hu", "Emphysema"].slice == 14
    assert found["effect_hu", "all"].value == pytest.approx((200 * 40 + 100 * 60 - 200 * 10 + 100 * 20) / 600, abs=1e-3)
    nothing = Case(name="case", test=chest.ct, twin=chest.ct, diseases=LabelMap(mask * 0, chest.ct.geometry))
    [value] = against_twin(nothing, frozenset({"effect_hu"}), context())
    assert math.isnan(value.value)
    assert value.note == "no disease"


def test_rows_of_the_table_lead_to_functions() -> None:
    ours = {*MASK, "eps_phi", "hallucination_hu", "effect_hu", "dice", "jaccard", "volume_ratio", "lesion_recall"}
    ours |= {"nsd", "hd95_mm", "asd_mm", "assd_mm"}
    assert ours <= set(METRICS)
    for name in ours:
        module, function = METRICS[name].function.split(":")
        assert callable(getattr(__import__(f"ctgencore.metrics.{module}", fromlist=[function]), function))
        assert METRICS[name].source
