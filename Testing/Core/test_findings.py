"""The findings of the procedural chest: planned in mm, painted into copies of one healthy scene, reported."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ctgencore import labels
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.phantom import anatomy, chest, findings, report
from ctgencore.phantom.scene import Fact, Patient, Scene
from scipy import ndimage

NAMES = [finding.name for finding in labels.FINDINGS]
CLASSES = {finding.name: finding.disease for finding in labels.FINDINGS}
MASKED = [name for name in NAMES if CLASSES[name]]
RELATED = {156: {155, 156}, 161: {157, 161}}  # honeycombing is a fibrotic sequela, micronodules are nodules
SEED = 7
COARSE = ((56, 110, 110), (3.3, 3.3, 4.6))
FINE = ((84, 168, 168), (2.1, 2.1, 3.0))


def build(shape: tuple[int, int, int], spacing: tuple[float, float, float], patient: Patient) -> Scene:
    size = shape[::-1]
    origin = tuple(-(n - 1) / 2 * s for n, s in zip(size, spacing, strict=True))
    return anatomy.build(patient, Geometry(size, spacing, origin))


@pytest.fixture(scope="module")
def patient() -> Patient:
    return Patient.draw(SEED)


@pytest.fixture(scope="module")
def coarse(patient: Patient) -> Scene:
    return build(*COARSE, patient)


@pytest.fixture(scope="module")
def fine(patient: Patient) -> Scene:
    return build(*FINE, patient)


def copy(scene: Scene) -> Scene:
    return dataclasses.replace(scene, hu=scene.hu.copy(), organs=scene.organs.copy(), diseases=scene.diseases.copy())


def painted(scene: Scene, facts: tuple[Fact, ...]) -> Scene:
    ill = copy(scene)
    assert findings.apply(ill, facts) == facts
    return ill


def cube(spacing_mm: float, side_mm: float = 84.0) -> Scene:
    """Nothing but lung of the right upper lobe in a shell of body: sizes can be measured exactly."""
    n = round(side_mm / spacing_mm)
    grid = Geometry((n, n, n), (spacing_mm,) * 3, (-(n - 1) / 2 * spacing_mm,) * 3)
    hu = np.full((n, n, n), -860, np.float32)
    organs = np.full((n, n, n), 30, np.uint8)
    edge = max(1, round(6 / spacing_mm))
    shell = np.ones((n, n, n), bool)
    shell[edge:-edge, edge:-edge, edge:-edge] = False
    hu[shell], organs[shell] = 40, 200
    return Scene(patient=Patient(seed=0), geometry=grid, hu=hu, organs=organs, diseases=np.zeros_like(organs))


# --- plan ------------------------------------------------------------------------------------------------------------


def test_the_findings_are_those_of_ct_rate() -> None:
    assert list(findings.KINDS) == NAMES
    assert sorted(findings.PAINTED) == sorted(NAMES)
    for name, kind in findings.KINDS.items():
        assert (kind.disease or None) == CLASSES[name], name


def test_plan_depends_on_the_seed_alone(patient: Patient) -> None:
    assert findings.plan(patient, 3, None) == findings.plan(patient, 3, None)
    assert findings.plan(patient, 3, NAMES) != findings.plan(patient, 4, NAMES)
    assert findings.plan(patient, 3, ()) == ()
    alone = findings.plan(patient, 3, ["Lung nodule"])
    both = findings.plan(patient, 3, ["Emphysema", "Lung nodule"])
    assert [fact for fact in both if fact.finding == "Lung nodule"] == list(alone)


def test_random_plans_are_healthy_now_and_then_and_reach_every_finding(patient: Patient) -> None:
    plans = [{fact.finding for fact in findings.plan(patient, seed, None)} for seed in range(400)]
    assert 0.15 < np.mean([not plan for plan in plans]) < 0.35
    assert max(map(len, plans)) == 4
    assert set().union(*plans) == set(NAMES)


def test_unknown_findings_are_refused_with_the_list(patient: Patient) -> None:
    with pytest.raises(InputError, match=r"got 'Flu'.*Choose from: Medical material, .*Interlobular septal thickening"):
        findings.plan(patient, 0, ["Emphysema", "Flu"])


def test_sides_and_lobes_of_facts_agree(patient: Patient) -> None:
    for seed in range(60):
        for fact in findings.plan(patient, seed, NAMES):
            assert fact.side in ("", "left", "right", "bilateral")
            assert 0 <= fact.severity <= 1
            if fact.lobe:
                assert labels.ORGANS[fact.lobe].name.startswith(fact.side), fact


# --- apply -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_finding_changes_what_it_should_and_nothing_else(coarse: Scene, patient: Patient, name: str) -> None:
    for seed in (1, 2):
        facts = findings.plan(patient, seed, [name])
        ill = painted(coarse, facts)
        change = ill.hu - coarse.hu
        if name == "Cardiomegaly":  # drawn by the anatomy
            assert not change.any()
            continue
        assert np.abs(change).max() > 20
        mask = ill.diseases > 0
        shown = {int(value) for value in np.unique(ill.diseases)} - {0}
        assert shown == {fact.disease for fact in facts} - {0}
        if CLASSES[name]:
            assert shown <= RELATED.get(CLASSES[name], {CLASSES[name]})
            assert facts[0].direction * change[mask].mean() > 25
            distance = ndimage.distance_transform_edt(~mask, coarse.geometry.spacing_zyx)
            assert np.count_nonzero(np.abs(change)[distance > 16] > 25) < 0.02 * np.count_nonzero(mask)  # faint haze
            assert np.abs(change)[distance > 40].max(initial=0) < 30
            assert np.abs(change)[~mask].mean() < 1  # of the whole volume
        elif name == "Mosaic attenuation pattern":
            lungs = np.isin(coarse.organs, [*labels.LUNG_LOBES, labels.VESSEL])
            assert not change[~lungs].any()
        else:
            assert np.count_nonzero(change) < 0.02 * change.size
        same = ill.organs == coarse.organs
        assert same.all() or name == "Hiatal hernia"
        assert (ill.organs[~same] == 12).all()


def test_painting_twice_gives_the_same_voxels(coarse: Scene, patient: Patient) -> None:
    facts = findings.plan(patient, 5, NAMES[::3])
    first, second = copy(coarse), copy(coarse)
    assert findings.apply(first, facts) == findings.apply(second, facts)
    assert np.array_equal(first.hu, second.hu)
    assert np.array_equal(first.diseases, second.diseases)


@pytest.mark.parametrize("name", MASKED)
def test_masks_hold_the_same_volume_on_another_grid(coarse: Scene, fine: Scene, patient: Patient, name: str) -> None:
    facts = findings.plan(patient, 2, [name])
    volumes = []
    for scene in (coarse, fine):
        ill = painted(scene, facts)
        volumes.append(np.count_nonzero(ill.diseases) * np.prod(scene.geometry.spacing_mm) / 1000)
    assert volumes[1] == pytest.approx(volumes[0], rel=0.15)


@pytest.mark.parametrize("name", [name for name in MASKED if name not in ("Emphysema", "Peribronchial thickening")])
def test_masks_lie_where_the_fact_says(coarse: Scene, patient: Patient, name: str) -> None:
    lobes = {"left": (28, 29), "right": (30, 31, 32), "bilateral": labels.LUNG_LOBES}
    for seed in (1, 4):
        facts = findings.plan(patient, seed, [name])
        for fact in facts:
            ill = painted(coarse, (fact,))
            under = coarse.organs[ill.diseases > 0]
            under = under[np.isin(under, labels.LUNG_LOBES)]
            expected = (fact.lobe,) if fact.lobe else lobes[fact.side]
            assert np.isin(under, expected).mean() > 0.9, fact
            if fact.side == "bilateral":
                assert 0.1 < np.isin(under, lobes["left"]).mean() < 0.9


@pytest.mark.parametrize("spacing", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("size", [6.0, 14.0])
def test_a_nodule_has_its_size_on_any_grid(spacing: float, size: float) -> None:
    fact = Fact(finding="Lung nodule", disease=161, side="right", lobe=30, size_mm=size, direction=1, seed=3)
    assert findings.variant(fact) != "subsolid"
    scene = cube(spacing)
    findings.apply(scene, [fact])
    mask_mm3 = np.count_nonzero(scene.diseases == 161) * spacing**3
    assert (6 * mask_mm3 / np.pi) ** (1 / 3) == pytest.approx(size, rel=0.12)
    added = (scene.hu[scene.organs == 30] + 860).sum() / 895 * spacing**3
    assert added == pytest.approx(mask_mm3, rel=0.35)  # the edges' partial volumes add up


def test_ground_glass_leaves_vessels_and_air_in_bronchi() -> None:
    scene = cube(2.0)
    middle = scene.hu.shape[0] // 2
    vessel, bronchus = np.zeros(scene.hu.shape, bool), np.zeros(scene.hu.shape, bool)
    vessel[5:-5, middle - 4, middle], bronchus[5:-5, middle + 4, middle] = True, True
    scene.hu[vessel], scene.organs[vessel] = 120, labels.VESSEL
    scene.hu[bronchus], scene.organs[bronchus] = -980, labels.AIRWAY
    fact = Fact(finding="Lung opacity", disease=154, side="right", lobe=30, size_mm=70, direction=1, seed=4)
    assert findings.apply(scene, [fact]) == (fact,)
    mask = scene.diseases == 154
    assert (mask & vessel).any()
    assert (scene.hu[vessel] == 120).all()
    assert (scene.hu[bronchus] == -980).all()
    assert not (mask & bronchus).any()
    assert -700 < np.median(scene.hu[mask & ~vessel]) < -500


def test_consolidation_is_dense_with_open_bronchi(fine: Scene) -> None:
    facts = [
        Fact(finding="Consolidation", disease=150, side="right", lobe=32, size_mm=60, direction=1, seed=s)
        for s in (1, 2)
    ]
    for fact in facts:
        ill = painted(fine, (fact,))
        mask = ndimage.binary_fill_holes(ill.diseases == 150)
        assert -20 < np.median(ill.hu[mask]) < 60
        assert np.count_nonzero(ill.hu[mask] < -250) > 5


def test_fluid_lies_at_the_back(coarse: Scene) -> None:
    fact = Fact(finding="Pleural effusion", disease=159, side="left", size_mm=25, severity=0.4, direction=1, seed=1)
    ill = painted(coarse, (fact,))
    y = np.nonzero(ill.diseases == 159)[1]
    lung = np.nonzero(np.isin(coarse.organs, (28, 29)))[1]
    assert y.mean() > np.quantile(lung, 0.75)
    assert 0 < np.median(ill.hu[ill.diseases == 159]) < 25
    larger = painted(coarse, (dataclasses.replace(fact, size_mm=50, severity=0.9),))
    assert np.count_nonzero(larger.diseases) > 1.8 * len(y)


def test_emphysema_prefers_the_upper_lungs(coarse: Scene) -> None:
    fact = Fact(finding="Emphysema", disease=153, side="bilateral", severity=0.4, direction=-1, seed=4)
    assert findings.variant(fact) == "centrilobular"
    ill = painted(coarse, (fact,))
    z = np.nonzero(ill.diseases == 153)[0]
    lungs = np.nonzero(np.isin(coarse.organs, labels.LUNG_LOBES))[0]
    assert z.mean() > np.quantile(lungs, 0.6)
    assert np.quantile(ill.hu[ill.diseases == 153], 0.3) < -930


def test_cardiomegaly_enlarges_the_heart(coarse: Scene, patient: Patient) -> None:
    facts = findings.plan(patient, 1, ["Cardiomegaly"])
    large = build(*COARSE, findings.adapt(patient, facts))
    assert findings.adapt(patient, ()) == patient
    assert np.count_nonzero(large.organs == 115) > 1.25 * np.count_nonzero(coarse.organs == 115)


def test_what_lies_outside_the_field_of_view_is_no_fact() -> None:
    empty = cube(3.0)
    empty.organs[:] = 200
    facts = findings.plan(Patient(seed=1), 1, NAMES)
    before = empty.hu.copy()
    assert {fact.finding for fact in findings.apply(empty, facts)} <= {"Cardiomegaly"}
    assert np.array_equal(empty.hu, before)


def test_a_nodule_under_fluid_is_no_fact() -> None:
    scene = cube(3.0)
    nodule = Fact(finding="Lung nodule", disease=161, side="right", lobe=30, size_mm=12, direction=1, seed=3)
    fluid = Fact(finding="Consolidation", disease=150, side="right", lobe=30, size_mm=400, direction=1, seed=3)
    assert findings.apply(scene, [nodule, fluid]) == (fluid,)
    assert findings.apply(cube(3.0), [fluid, nodule]) == (fluid, nodule)


def test_the_twin_of_a_phantom_differs_only_near_the_finding() -> None:
    ill, well = (chest((20, 48, 48), (7.5, 7.5, 12.5), seed=11, findings=names) for names in (["Consolidation"], ()))
    assert ill.facts
    assert ill.finding_names == {"Consolidation"}
    distance = ndimage.distance_transform_edt(ill.diseases.voxels == 0, ill.ct.geometry.spacing_zyx)
    assert np.abs(ill.ct.voxels - well.ct.voxels)[distance > 25].max() == 0
    assert np.array_equal(ill.organs.voxels, well.organs.voxels)


# --- report ----------------------------------------------------------------------------------------------------------


def test_reports_are_varied_and_repeatable(patient: Patient) -> None:
    facts = findings.plan(patient, 1, ["Pleural effusion", "Lung nodule"])
    texts = {report.write(facts, patient, seed).text for seed in range(20)}
    assert len(texts) == 20
    assert report.write(facts, patient, 3) == report.write(facts, patient, 3)
    for text in texts:
        assert all(f"{fact.size_mm:.0f} mm" in text or f"{fact.size_mm / 10:g} cm" in text for fact in facts)


@pytest.mark.parametrize("name", NAMES)
def test_every_finding_has_a_template(name: str) -> None:
    for side, lobe in (("", 0), ("left", 0), ("right", 0), ("bilateral", 0), ("", 31)):
        text = report.template(name, side, lobe)
        assert text.endswith(".")
        assert "{" not in text
        assert "  " not in text
    assert len({report.template(other) for other in NAMES}) == len(NAMES)


def test_templates_refuse_what_they_do_not_know() -> None:
    with pytest.raises(InputError, match="got 'Flu'"):
        report.template("Flu")
    with pytest.raises(InputError, match="got 'up' and 0"):
        report.template("Emphysema", "up")
