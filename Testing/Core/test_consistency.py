"""Rules that read reports, and what they say about masks that do not fit."""

from __future__ import annotations

import csv
import os
import re
from pathlib import Path

import numpy as np
import pytest
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.labels import FINDINGS
from ctgencore.phantom import Patient, Phantom, chest, findings, report
from ctgencore.text.consistency import Mention, check_report, mentions
from ctgencore.volume import LabelMap

ROOT = Path(__file__).resolve().parents[2]


def sides(words: list[str]) -> set[str]:
    return {side for word in words for side in (("left", "right") if word == "bilateral" else (word,)) if side}


@pytest.fixture(scope="module")
def real_reports() -> list[dict[str, str]]:
    base = Path(os.environ.get("CTGEN_DATA", ROOT.parent / "shared"))
    path = base / "data" / "text" / "ct_rate_reports_sample60.csv"
    if not path.is_file():
        pytest.skip(f"real reports not found at {path}; set CTGEN_DATA to the folder that holds data/text")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def effusion() -> Phantom:
    """A phantom with fluid on one side and consolidation."""
    for seed in range(20):
        plan = findings.plan(Patient.draw(seed), seed, ["Pleural effusion"])
        if [fact.side for fact in plan] == ["right"]:
            return chest((24, 56, 56), (6.5, 6.5, 11), seed=seed, findings=["Pleural effusion"])
    raise AssertionError("no seed has fluid on the right only")


# --- mentions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "No pleural or pericardial effusion.",
            [("Pleural effusion", True, "", (), 0), ("Pericardial effusion", True, "", (), 0)],
        ),
        ("Pericardial effusion-thickening was not observed.", [("Pericardial effusion", True, "", (), 0)]),
        ("A 12 mm nodule in the upper lobe of the right lung.", [("Lung nodule", False, "right", (30,), 12)]),
        ("Nodule of 1.4x2 cm, lingula.", [("Lung nodule", False, "left", (28,), 20)]),
        ("Consolidation in both lower lobes", [("Consolidation", False, "bilateral", (29, 32), 0)]),
        (
            "Ground glass and consolidation in the left lung",
            [("Lung opacity", False, "left", (), 0), ("Consolidation", False, "left", (), 0)],
        ),
        (
            "Emphysema in the right lung, atelectasis in the left lower lobe.",
            [("Emphysema", False, "right", (), 0), ("Atelectasis", False, "left", (29,), 0)],
        ),
        ("No mass was detected, and there are nodules in both lungs.", [("Lung nodule", False, "bilateral", (), 0)]),
        ("Pneumonic consolidation could not be excluded.", [("Consolidation", False, "", (), 0)]),
        ("Calcified plaques in the coronary arteries.", [("Coronary artery wall calcification", False, "", (), 0)]),
        ("A hypodense nodule in the left thyroid lobe.", []),
        ("The heart is not enlarged.", [("Cardiomegaly", True, "", (), 0)]),
        ("Lead in the right ventricle of a pacemaker.", [("Medical material", False, "", (), 0)]),
        ("The thoracic aorta and the trachea are normal.", []),
    ],
)
def test_mentions(text: str, expected: list[tuple[object, ...]]) -> None:
    assert [(m.finding, m.negated, m.side, m.lobes, m.size_mm) for m in mentions(text)] == expected


def test_generated_reports_give_back_their_facts() -> None:
    right = total = 0
    invented = []
    for seed in range(200):
        patient = Patient.draw(seed)
        facts = findings.plan(patient, seed, None)
        text = report.write(facts, patient, seed)
        told: dict[str, list[Mention]] = {}
        for mention in mentions(text.findings):
            if not mention.negated:
                told.setdefault(mention.finding, []).append(mention)
        present = {fact.finding for fact in facts}
        invented += [name for name in told if name not in present]
        invented += [m.finding for m in mentions(text.impression) if not m.negated and m.finding not in present]
        for name in present:
            own = [fact for fact in facts if fact.finding == name]
            said = told.get(name, [])
            total += 1
            right += (
                bool(said)
                and sides([fact.side for fact in own]) == sides([m.side for m in said])
                and {fact.lobe for fact in own} - {0} == {lobe for m in said for lobe in m.lobes}
            )
    assert total > 250
    assert right / total >= 0.97
    assert invented == []


def test_templates_give_back_their_finding() -> None:
    for finding in FINDINGS:
        [mention] = mentions(report.template(finding.name, "left"))
        assert (mention.finding, mention.negated) == (finding.name, False)


def test_real_reports(real_reports: list[dict[str, str]]) -> None:
    """Counts read by a person from the 60 reports are near these; every report denies or states something."""
    stated = dict.fromkeys((finding.name for finding in FINDINGS), 0)
    denied = dict(stated)
    for row in real_reports:
        found = mentions(row["Findings_EN"] + "\n" + row["Impressions_EN"])
        assert found
        for name in {mention.finding for mention in found if not mention.negated}:
            stated[name] += 1
        for name in {mention.finding for mention in found if mention.negated}:
            denied[name] += 1
    assert 25 <= stated["Lung nodule"] <= 42
    assert 10 <= stated["Lung opacity"] <= 24
    assert 3 <= stated["Pleural effusion"] <= 9
    assert 30 <= denied["Pericardial effusion"] <= 58
    assert 30 <= denied["Lymphadenopathy"] <= 60
    assert all(stated.values())


def test_no_sentence_of_a_real_report_is_copied(real_reports: list[dict[str, str]]) -> None:
    def sentences(text: str) -> set[str]:
        return {
            re.sub(r"\s+", " ", part).strip().lower() for part in re.split(r"[.;]\s*|\s{2,}", text) if len(part) > 25
        }

    real = set().union(*(sentences(row["Findings_EN"] + ". " + row["Impressions_EN"]) for row in real_reports))
    ours: set[str] = set()
    for seed in range(100):
        patient = Patient.draw(seed)
        ours |= sentences(report.write(findings.plan(patient, seed, None), patient, seed).text)
    assert len(ours) > 150
    assert ours & real == set()


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_phantoms_own_report_fits_its_masks(effusion: Phantom) -> None:
    phantom = chest((20, 48, 48), (7.5, 7.5, 12.5), seed=3, findings=[finding.name for finding in FINDINGS])
    assert len(phantom.finding_names) > 12
    assert check_report(phantom.report.text, phantom.organs, phantom.diseases) == []
    well = LabelMap(np.zeros_like(effusion.diseases.voxels), effusion.diseases.geometry)
    assert check_report(report.write((), effusion.patient, 1).text, effusion.organs, well) == []


def test_wrong_side(effusion: Phantom) -> None:
    [notice] = check_report("There is a left pleural effusion.", effusion.organs, effusion.diseases)
    assert (notice.code, notice.severity) == ("side", "warning")
    assert re.fullmatch(
        r"The report says left pleural effusion; the disease mask of class 159 \(pleural effusion or thickening\) lies "
        r"on the right \(\d+ % of its voxels\)\. Paint it on the left or change the report\.",
        notice.message,
    )
    assert check_report("There is a right pleural effusion.", effusion.organs, effusion.diseases) == []
    [both] = check_report("Bilateral pleural effusion.", effusion.organs, effusion.diseases)
    assert (both.code, "lies on the right alone" in both.message) == ("side", True)


def test_side_without_organs_follows_the_world_not_the_array(effusion: Phantom) -> None:
    """The same voxels stored from left to right: the patient's side stays the same."""
    grid = effusion.diseases.geometry
    far = grid.origin_mm[0] + (grid.size_xyz[0] - 1) * grid.spacing_mm[0]
    flipped = Geometry(grid.size_xyz, grid.spacing_mm, (far, *grid.origin_mm[1:]), (-1, 0, 0, 0, 1, 0, 0, 0, 1))
    masks = LabelMap(effusion.diseases.voxels[:, :, ::-1], flipped)
    for diseases in (effusion.diseases, masks):
        assert check_report("Right pleural effusion.", None, diseases) == []
        assert [n.code for n in check_report("Left pleural effusion.", None, diseases)] == ["side"]


def test_diseases_painted_over_the_organs_are_seen(effusion: Phantom) -> None:
    voxels = effusion.organs.voxels.astype(np.int16)
    ill = effusion.diseases.voxels > 0
    voxels[ill] = effusion.diseases.voxels[ill].astype(np.int16) + 100
    combined = LabelMap(voxels, effusion.organs.geometry)
    assert check_report("Right pleural effusion.", combined, None) == []
    assert [n.code for n in check_report("Left pleural effusion.", combined, None)] == ["side"]


def test_masks_on_different_grids_are_refused(effusion: Phantom) -> None:
    grid = effusion.diseases.geometry
    moved = Geometry(grid.size_xyz, grid.spacing_mm, (0, 0, 0))
    with pytest.raises(InputError, match="the organ mask and the disease mask"):
        check_report("Left pleural effusion.", effusion.organs, LabelMap(effusion.diseases.voxels, moved))


def test_negated_unmentioned_and_unpainted(effusion: Phantom) -> None:
    notices = check_report("No pleural effusion. Emphysema in both lungs.", effusion.organs, effusion.diseases)
    assert [(n.code, n.severity) for n in notices] == [("negated", "warning"), ("no_mask", "info")]
    [silent] = check_report("The chest is normal.", effusion.organs, effusion.diseases)
    assert (silent.code, silent.severity) == ("unmentioned", "info")
    assert [n.code for n in check_report("Left pleural effusion.", effusion.organs, None)] == ["no_mask"]
    assert check_report("Left pleural effusion.", None, None) == []


def test_lobe_and_size() -> None:
    grid = Geometry((60, 60, 60), (2.0, 2.0, 2.0))
    organs = np.full((60, 60, 60), 200, np.uint8)
    organs[5:30, 5:55, 5:25], organs[30:55, 5:55, 5:25] = 32, 30
    organs[5:30, 5:55, 35:55], organs[30:55, 5:55, 35:55] = 29, 28
    z, y, x = np.indices(organs.shape)
    diseases = np.where((z - 42) ** 2 + (y - 30) ** 2 + (x - 14) ** 2 <= 4**2, 161, 0).astype(np.uint8)  # 16 mm
    masks = LabelMap(organs, grid), LabelMap(diseases, grid)
    assert check_report("A 15 mm nodule in the right upper lobe.", *masks) == []
    assert check_report("Nodules in both lungs, the largest in the right upper lobe.", *masks)[0].code == "side"
    [lobe] = check_report("A nodule in the right lower lobe.", *masks)
    assert lobe.code == "lobe"
    assert "lies in the right lung upper lobe" in lobe.message
    [size] = check_report("A 4 cm nodule in the right upper lobe.", *masks)
    assert size.code == "size"
    assert "measures 16 mm, the report says 40 mm" in size.message
