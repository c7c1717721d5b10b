"""Disease masks drafted from reports: the words' class, side, lobe and size, on any grid; and generating with them."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import ctgencore as ctg
import numpy as np
import pytest
from ctgencore import io, labels, phantom
from ctgencore.errors import InputError
from ctgencore.generators.base import Inputs, Sampling
from ctgencore.geometry import Geometry
from ctgencore.phantom.findings import plan
from ctgencore.phantom.report import template, write
from ctgencore.phantom.scene import Patient
from ctgencore.tasks.draft import Draft, draft_diseases
from ctgencore.tasks.generate import GenerateOptions, generate, prepare
from ctgencore.text.consistency import check_report
from ctgencore.volume import LabelMap
from scipy import ndimage

LEFT, RIGHT, LOWER_RIGHT = (28, 29), (30, 31, 32), 32
INSIDE = (labels.VESSEL, labels.AIRWAY)  # of the lungs, beside the lobes
CLASSES = {finding.name: finding.disease for finding in labels.FINDINGS}
MASKED = [name for name, disease in CLASSES.items() if disease]


@pytest.fixture(scope="module")
def organs() -> LabelMap:
    """A healthy chest, 260 x 360 x 360 mm."""
    return phantom.chest((52, 72, 72), seed=900_001).organs


@pytest.fixture(scope="module")
def fine() -> LabelMap:
    """The same at voxels of 3 mm, which hold a nodule."""
    return phantom.chest((87, 120, 120), (3.0, 3.0, 3.0), seed=900_001).organs


def drawn(organs: LabelMap, report: str, seed: int = 3) -> np.ndarray:
    found = draft_diseases(organs, report, seed)
    assert found.left == ()
    assert found.diseases is not None
    found.diseases.geometry.assert_equal(organs.geometry)
    return found.diseases.voxels


def longest_mm(inside: np.ndarray, spacing_zyx: tuple[float, float, float]) -> float:
    """Largest extent along an axis."""
    return max(float(np.ptp(at) + 1) * mm for at, mm in zip(np.nonzero(inside), spacing_zyx, strict=True))


# --- what the words say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MASKED)
def test_every_class_lies_where_the_report_says(organs: LabelMap, name: str) -> None:
    for side, lobe, lobes in (("left", 0, LEFT), ("", LOWER_RIGHT, (LOWER_RIGHT,))):
        where = RIGHT if CLASSES[name] == 159 and lobe else lobes  # fluid is not of a lobe
        voxels = drawn(organs, template(name, side, lobe))
        assert set(np.unique(voxels)) == {0, CLASSES[name]}
        below = organs.voxels[voxels > 0]
        assert np.isin(below, (*where, *INSIDE)).all()
        assert np.isin(below, where).any()
    both = organs.voxels[drawn(organs, template(name, "bilateral")) > 0]
    assert np.isin(both, LEFT).any()
    assert np.isin(both, RIGHT).any()


@pytest.mark.parametrize("name", MASKED)
def test_the_seed_chooses_what_the_report_leaves_open(organs: LabelMap, name: str) -> None:
    report = template(name)
    first, again, other = (drawn(organs, report, seed) for seed in (5, 5, -1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_reports_of_phantoms_are_read_back_fact_by_fact(organs: LabelMap) -> None:
    """The simulator's own reports, in all their wordings: nothing is missing, nothing is drawn twice."""
    for seed in range(8):
        patient = Patient.draw(seed)
        facts = [fact for fact in plan(patient, seed) if fact.disease]
        report = write(facts, patient, seed).text
        found = draft_diseases(organs, report, seed)
        kinds = [Counter((f.finding, f.disease, f.side, f.lobe) for f in each) for each in (facts, found.drawn)]
        assert kinds[0] == kinds[1], report
        sizes = [{(f.finding, f.lobe, f.side): f.size_mm for f in each} for each in (facts, found.drawn)]
        for key, size in sizes[1].items():
            assert not size or key[0] not in ("Pleural effusion", "Lung nodule") or size == sizes[0][key], report
        assert [notice for notice in check_report(report, organs, found.diseases)] == []


@pytest.mark.parametrize("size", [18, 30])
def test_a_nodule_has_its_size(fine: LabelMap, size: int) -> None:
    voxels = drawn(fine, f"A smooth {size} mm nodule in the right upper lobe.")
    volume = float((voxels == 161).sum()) * float(np.prod(fine.geometry.spacing_mm))
    assert (6 * volume / np.pi) ** (1 / 3) == pytest.approx(size, rel=0.25)
    assert ndimage.label(voxels > 0, np.ones((3, 3, 3)))[1] == 1


@pytest.mark.parametrize("size", [20, 50])
def test_fluid_and_consolidation_have_their_size(fine: LabelMap, size: int) -> None:
    spacing = fine.geometry.spacing_zyx
    fluid = drawn(fine, f"Left pleural effusion, {size} mm thick.") == 159
    assert 0.6 * size < fluid.sum(axis=1).max() * spacing[1] < 2 * size  # front to back
    dense = drawn(fine, f"Consolidation of {size} mm in the left lower lobe.") == 150
    assert 0.6 * size < longest_mm(dense, spacing) < 2 * size


@pytest.mark.parametrize("name", ["Pleural effusion", "Emphysema", "Consolidation", "Interlobular septal thickening"])
def test_degrees_are_sizes(organs: LabelMap, name: str) -> None:
    mild, moderate, severe = (
        sum(np.count_nonzero(drawn(organs, f"{how} {name.lower()} in the left lung.", seed)) for seed in range(3))
        for how in ("Mild", "Moderate", "Severe")
    )
    assert mild < moderate < severe


def test_words_choose_class_look_and_number(organs: LabelMap) -> None:
    def found(report: str) -> Draft:
        return draft_diseases(organs, report, 2)

    assert [fact.disease for fact in found("Multiple millimetric nodules in both lungs.").drawn] == [157]
    assert {fact.disease for fact in found("Fibrosis with honeycombing in both lungs.").drawn} == {155}
    assert Counter(fact.side for fact in found("Nodules in the right lung.").drawn) == {"right": 2}
    assert [fact.size_mm for fact in found("5 mm and nothing else. Nodule of 5 mm in the lingula.").drawn] == [5]
    pair = found("A nodule of 6 mm in the left upper lobe. A nodule of 12 mm in the left upper lobe. Nodules, left.")
    assert sorted(fact.size_mm for fact in pair.drawn) == [6, 12]
    looks = {phantom.findings.variant(fact) for fact in found("Paraseptal emphysema in the left lung.").drawn}
    assert looks == {"paraseptal"}
    assert str(found("Left pleural effusion. 9 mm nodule, right upper lobe.")) in (
        "Lung nodule (right lung upper lobe), Pleural effusion (left)"
    )


def test_a_further_sentence_moves_nothing(organs: LabelMap) -> None:
    alone = drawn(organs, "Left pleural effusion.")
    more = drawn(organs, "Consolidation in the right upper lobe. Left pleural effusion. Right pleural effusion.")
    assert np.array_equal(alone == 159, (more == 159) & np.isin(organs.voxels, (*LEFT, *INSIDE)) & (alone == 159))
    assert ((more == 159) & np.isin(organs.voxels, LEFT)).sum() == ((alone == 159) & np.isin(organs.voxels, LEFT)).sum()
    repeated = drawn(
        organs, "Left pleural effusion. There is fluid in the pleural space, on the left. Effusion, pleural."
    )
    assert np.array_equal(repeated, alone)


def test_what_is_denied_or_has_no_class_draws_nothing(organs: LabelMap) -> None:
    for report in (
        "",
        "Normal chest CT.",
        "No pleural effusion, consolidation or nodule.",
        "The heart is not enlarged.",
    ):
        assert draft_diseases(organs, report) == Draft()
    found = draft_diseases(organs, "Cardiomegaly. Pericardial effusion. No nodule.")
    assert (found.diseases, found.drawn) == (None, ())
    assert found.left == tuple(
        f"{name}: no disease class shows it" for name in ("Cardiomegaly", "Pericardial effusion")
    )


# --- grids and masks -------------------------------------------------------------------------------------------------

REPORT = (
    "Left pleural effusion. Consolidation in the right upper lobe. Emphysema. Bronchiectasis in the left lower lobe."
)


def test_axes_and_tilt_of_the_grid_do_not_matter(organs: LabelMap) -> None:
    plain = drawn(organs, REPORT)
    grid = organs.geometry
    x, y, z = grid.spacing_mm
    stored = LabelMap(  # along A, S, R
        np.ascontiguousarray(organs.voxels[:, ::-1, ::-1].transpose(1, 0, 2)),
        Geometry((72, 52, 72), (x, z, y), (70.0, -20.0, 400.0), (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0)),
    )
    assert np.array_equal(drawn(stored, REPORT), plain[:, ::-1, ::-1].transpose(1, 0, 2))
    cosine, sine = np.cos(0.2), np.sin(0.2)
    tilt = (1.0, 0.0, 0.0, 0.0, cosine, -sine, 0.0, sine, cosine)
    assert np.array_equal(drawn(LabelMap(organs.voxels, replace(grid, direction=tilt)), REPORT), plain)


def test_other_spacings_show_the_same_places(organs: LabelMap, fine: LabelMap) -> None:
    coarse, detailed = (draft_diseases(each, REPORT, 4) for each in (organs, fine))
    assert coarse.drawn == detailed.drawn
    assert coarse.diseases is not None
    assert detailed.diseases is not None
    for disease in (150, 152, 153, 159):
        middle = [
            (np.argwhere(each.voxels == disease).mean(0) + 0.5) * each.geometry.spacing_zyx
            for each in (coarse.diseases, detailed.diseases)
        ]
        assert np.abs(middle[0] - middle[1]).max() < 6, disease


def test_a_part_of_the_chest_shows_its_part(organs: LabelMap) -> None:
    low = LabelMap(organs.voxels[:14], replace(organs.geometry, size_xyz=(72, 72, 14)))
    there = set(np.unique(low.voxels)) & set(labels.LUNG_LOBES)
    assert 30 not in there
    found = draft_diseases(low, REPORT, 1)
    assert {fact.finding for fact in found.drawn} >= {"Pleural effusion", "Emphysema"}
    assert found.left == ("Consolidation (right lung upper lobe): the organ mask does not reach there",)
    for count in (1, 2, 3):
        slab = LabelMap(organs.voxels[22 : 22 + count], replace(organs.geometry, size_xyz=(72, 72, count)))
        assert drawn(slab, "Left pleural effusion of 40 mm.").any()
    tip = LabelMap(np.where(np.arange(52)[:, None, None] < 20, organs.voxels, 200), organs.geometry)
    draft_diseases(tip, " ".join(template(name) for name in MASKED))
    one_side = LabelMap(np.where(np.isin(organs.voxels, LEFT), 200, organs.voxels), organs.geometry)
    assert {fact.lobe in RIGHT for seed in range(5) for fact in draft_diseases(one_side, "Nodule.", seed).drawn} == {
        True
    }
    [why] = draft_diseases(one_side, "Left pleural effusion.").left
    assert "does not reach" in why


def test_masks_without_lungs_or_known_labels(organs: LabelMap) -> None:
    belly = LabelMap(np.where(np.isin(organs.voxels, labels.LUNG_LOBES), 0, organs.voxels), organs.geometry)
    found = draft_diseases(belly, "Left pleural effusion. Cardiomegaly.")
    assert found.diseases is None
    assert set(found.left) == {
        "Cardiomegaly: no disease class shows it",
        "Pleural effusion: the organ mask has no lungs",
    }
    with pytest.raises(InputError, match="None of the labels"):
        draft_diseases(LabelMap(np.full((4, 8, 8), 99 + 200, np.int16), Geometry((8, 8, 4))), "Emphysema.")


def test_lungs_of_one_label_have_lobes_where_lungs_have_them(organs: LabelMap) -> None:
    whole = np.where(np.isin(organs.voxels, LEFT), 28, np.where(np.isin(organs.voxels, RIGHT), 30, organs.voxels))
    lungs = LabelMap(whole.astype(np.uint8), organs.geometry)
    for lobe, least in ((28, 0.8), (29, 0.8), (30, 0.8), (31, 0.7), (32, 0.8)):
        report = template("Consolidation", lobe=lobe)
        voxels = [drawn(lungs, report, seed) for seed in range(2)]
        there = np.concatenate([organs.voxels[each > 0] for each in voxels])
        assert (there == lobe).mean() > least, lobe
        assert check_report(report, lungs, LabelMap(voxels[0], organs.geometry)) == []


def test_a_real_mask_of_the_lungs_bases(ct_data: Path) -> None:
    organs = labels.convert(io.read_labels(ct_data / "TotalSegmentator_example_ct" / "seg.nii.gz"), "totalsegmentator")
    found = draft_diseases(organs.labels, "Left pleural effusion. Nodule in the right upper lobe.", 1)
    assert str(found) == "Pleural effusion (left)"
    assert found.left == ("Lung nodule (right lung upper lobe): the organ mask does not reach there",)
    assert found.diseases is not None
    assert np.isin(organs.labels.voxels[found.diseases.voxels > 0], LEFT).all()
    assert found.diseases.voxels.any()


@pytest.mark.heavy
@pytest.mark.parametrize("case", ["CCTH-A01_half", "LUNG1-002"])  # five lobes; two lungs
def test_real_masks_of_whole_chests(ct_data: Path, case: str) -> None:
    source = io.read_labels(ct_data / case / "seg.nii.gz")
    source.names = {int(n): name for n, name in json.loads((ct_data / case / "labels.json").read_text()).items()}
    organs = labels.convert(source, "names").labels
    report = "Left pleural effusion of 30 mm. 20 mm nodule in the right upper lobe."
    voxels = drawn(organs, report, 1)
    for disease, lobes in ((159, LEFT), (161, (30,))):
        assert np.isin(organs.voxels[voxels == disease], lobes).all()
        assert (voxels == disease).sum() > 100
    assert check_report(report, organs, LabelMap(voxels, organs.geometry)) == []


# --- generating ------------------------------------------------------------------------------------------------------

SICK = "There is a consolidation of 70 mm in the right lower lobe. Cardiomegaly."
FAST = {"steps": 4, "seed": 2}


@pytest.fixture(scope="module")
def generator() -> ctg.Generator:
    return ctg.Generator.from_pretrained("foundation-embedded", device="cpu")


@pytest.fixture(scope="module")
def small() -> LabelMap:
    return phantom.chest((32, 64, 64), seed=900_001).organs


def test_a_report_alone_is_drawn_with_a_drafted_mask(generator: ctg.Generator, small: LabelMap) -> None:
    result = generator(small, report=SICK, **FAST)
    record = result.record
    assert record is not None
    [fact] = record.results["drafted"]
    assert {key: fact[key] for key in ("finding", "class", "side", "lobe", "size_mm")} == {
        "finding": "Consolidation", "class": 150, "side": "right", "lobe": 32, "size_mm": 70.0,
    }  # fmt: skip
    assert record.results["not_drafted"] == ["Cardiomegaly: no disease class shows it"]
    note = "No disease mask: drafted from the report: Consolidation (right lung lower lobe). Give a mask to choose"
    assert any(each.startswith(note) for each in record.notes)
    assert not any("report" in each.lower() and note not in each for each in record.notes), "nothing contradicts"
    assert "disease-150" in [check["name"] for check in record.results["quality"]["checks"]]
    mask = ctg.draft_diseases(small, SICK, seed=2).diseases
    assert np.array_equal(result.voxels, generator(small, mask, SICK, **FAST).voxels), "what Python drafts is used"
    healthy = generator(small, **FAST).voxels
    inside = mask.voxels == 150
    assert (result.voxels - healthy)[inside].mean() > 150
    words = generator(small, report=SICK, draft=False, **FAST)
    assert abs((words.voxels - healthy)[inside].mean()) < 50, "the words alone do little"
    assert "drafted" not in words.record.results


def test_without_a_draft_the_network_sees_words_alone(generator: ctg.Generator, small: LabelMap) -> None:
    words = generator(small, report=SICK, draft=False, **FAST)
    shape, spacing = small.geometry.shape_zyx, small.geometry.spacing_zyx
    given = Inputs(shape_zyx=shape, spacing_zyx=spacing, organs=small.voxels, report=SICK)
    direct = generator.sample(given, Sampling(seed=2, steps=4, solver="ddim", eta=1.0))
    assert np.array_equal(words.voxels, np.rint(direct))


def test_when_nothing_is_drafted(small: LabelMap) -> None:
    options = GenerateOptions(report=SICK)
    empty = LabelMap(np.zeros(small.shape, np.uint8), small.geometry)
    painted = labels.paint(small, drawn(small, "Left pleural effusion."))
    for mask, disease, chosen in (
        (small, empty, options),  # an empty mask says that nothing is there
        (LabelMap(painted, small.geometry), None, options),
        (small, None, replace(options, draft=False)),
        (small, None, replace(options, model="foundation-multidisease")),  # reads words itself
    ):
        assert prepare(mask, disease, options=chosen).draft is None
    for report in ("", "No consolidation."):
        found = prepare(small, None, options=replace(options, report=report))
        assert found.diseases is None
        assert not {"drafted", "not-drafted"} & {problem.code for problem in found.problems}


def test_the_draft_follows_the_result_grid_and_the_twin_stays_healthy(
    generator: ctg.Generator, small: LabelMap
) -> None:
    found = prepare(small, None, options=GenerateOptions(report=SICK, spacing_mm=(8.0, 8.0, 10.0)))
    assert found.diseases is not None
    found.diseases.geometry.assert_equal(found.geometry)
    nowhere = prepare(None, None, options=GenerateOptions(report=SICK, seed=3))
    assert nowhere.diseases is not None, "also in the procedural chest that stands in"
    options = GenerateOptions(report=SICK, twin=True, **FAST)  # type: ignore[arg-type]
    result = generate(small, generator=generator, options=options)
    assert result.record is not None
    assert "hallucination" in [check["name"] for check in result.record.results["quality"]["checks"]]
