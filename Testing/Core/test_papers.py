"""The papers' tables: numbers that fit each other, recipes that name real metrics, and rows of ours that are right."""

from __future__ import annotations

import csv
import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ctgencore import io
from ctgencore.cli import app
from ctgencore.errors import InputError
from ctgencore.labels import name_of
from ctgencore.metrics.papers import RECIPES, published
from ctgencore.metrics.table import METRICS
from ctgencore.tasks.downstream.statistics import Line as StudyLine
from ctgencore.tasks.downstream.study import Study
from ctgencore.tasks.evaluate import EvaluateOptions, evaluate_set
from ctgencore.tasks.evaluate_files import plan_cases
from ctgencore.tasks.evaluate_papers import cell_text, paper_table
from ctgencore.volume import LabelMap
from evaluating import drawn, noisy
from test_metrics_semantics import tiny  # noqa: F401  (a fixture)
from typer.testing import CliRunner, Result

SPLITS, WINDOWS = ("normal", "disease"), ("lung", "vessel", "soft", "bone")
OPTIONS = EvaluateOptions(device="cpu", threads=1)


def cli(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})


# --- published numbers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_table_is_whole(name: str) -> None:
    table, recipe = published(name), RECIPES[name]
    assert table.paper
    assert table.where.startswith("Table ")
    assert [column.key for column in recipe.columns] == list(table.columns)
    assert all(len(cells) == len(table.columns) for cells in table.rows.values())
    assert all(column.part in recipe.parts for column in recipe.columns)
    assert not recipe.real or recipe.real in table.rows
    assert not recipe.regions or list(recipe.regions) == list(table.rows)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if not recipe.study])
def test_recipes_name_metrics_that_are_there(name: str) -> None:
    recipe = RECIPES[name]
    for answers in itertools.product(*(choice.values.values() for choice in recipe.choices.values())):
        chosen = dict(zip(recipe.choices, answers, strict=True))
        for column in recipe.columns:
            assert bool(column.metric) != bool(column.why), column
            assert not column.metric or column.metric.format(**chosen) in METRICS, column
    assert all(choice.about for choice in recipe.choices.values())


def numbers(name: str, *columns: str) -> dict[str, list[float]]:
    """Means in these columns, of the rows that have them all."""
    table = published(name)
    places = [table.columns.index(column) for column in columns]
    rows = {row: [cells[place] for place in places] for row, cells in table.rows.items()}
    return {
        row: [cell[0] if isinstance(cell, tuple) else float(cell) for cell in cells if cell is not None]
        for row, cells in rows.items()
        if None not in cells
    }


AVERAGES = [
    *(("table2", [f"{s} fid_{p}" for p in ("axial", "sagittal", "coronal")], f"{s} fid_avg") for s in SPLITS),
    *(("table2", [f"{s} i2i", f"{s} t2i"], f"{s} clip_avg") for s in SPLITS),
    ("table4", list(published("table4").columns[:-1]), "average"),
    *(("medsyn2-table1", [f"{w} {p}" for p in ("xy", "yz", "zx")], f"{w} mean") for w in WINDOWS),
]


@pytest.mark.parametrize(("name", "parts", "whole"), AVERAGES)
def test_printed_averages_are_those_of_what_was_transcribed(name: str, parts: list[str], whole: str) -> None:
    rows = numbers(name, *parts, whole)
    assert rows
    for row, (*values, average) in rows.items():
        assert np.mean(values) == pytest.approx(average, abs=0.011), row


@pytest.mark.parametrize("part", ["lung", "pancreas"])
def test_psnr_and_mse_of_table1_fit_a_scale_of_255(part: str) -> None:
    for row, (psnr, mse) in numbers("table1", f"{part} psnr", f"{part} mse").items():
        least = 255**2 / 10 ** (psnr / 10)  # the mean of convex 10^-x is at least that of the mean
        assert least - 0.1 <= mse <= 2 * least, row


@pytest.mark.parametrize(
    ("name", "dice", "jaccard"),
    [
        *(("table3", f"{organ} dice", f"{organ} iou") for organ in ("lung", "heart", "vessel", "rib")),
        ("medsyn2-table5", "dice", "jaccard"),
        *(("medsyn2-table7", f"{part} dice", f"{part} jaccard") for part in ("generated", "reconstructed", "between")),
        ("trace-table1", "dice", "jaccard"),
    ],
)
def test_dice_and_jaccard_fit_each_other(name: str, dice: str, jaccard: str) -> None:
    misfits = []
    for row, (d, j) in numbers(name, dice, jaccard).items():
        least = 100 * d / (200 - d)  # Jaccard is convex in Dice
        if not least - 0.02 <= j <= d:
            misfits.append(row)
    assert misfits == (["MedPSeg"] if name == "medsyn2-table5" else [])
    assert all(any(row in doubt for doubt in published(name).doubts) for row in misfits)


def test_numbers_that_stand_in_two_tables_are_equal() -> None:
    for short in ("fvd", "fid_avg", "clip_avg"):
        two = numbers("table2", f"disease {short}")["Ours"]
        assert numbers("table5", short)["+ all disease masks, full report"] == two
    gain = numbers("table4", "average")
    assert gain["+1xOurs"][0] - gain["Real"][0] == pytest.approx(2.76)  # both in the text
    assert gain["+1xMedSyn"][0] - gain["Real"][0] == pytest.approx(1.75)


# --- our rows --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both parts of Table 1, two cases each, labels numbered as MSD does."""
    root = tmp_path_factory.mktemp("table1")
    for part, ids in (("lung", {28: 1}), ("pancreas", {6: 1, 115: 2})):  # any organ will do for a target
        for name in ("reference", "labels", "wan2_1", "mine", "reference.labels", "mine.labels"):
            (root / part / name).mkdir(parents=True)
        for seed in range(2):
            ct, organs = drawn(seed)
            target = np.zeros(organs.shape, np.uint8)
            for organ, label in ids.items():
                target[organs.voxels == organ] = label
            moved = np.roll(target, 1, axis=2)
            ct.save(root / part / "reference" / f"c{seed}.nii.gz")
            noisy(ct, seed, 10).save(root / part / "wan2_1" / f"c{seed}.nrrd")
            noisy(ct, seed, 40).save(root / part / "mine" / f"c{seed}_recon.nrrd")
            for name, voxels in (("labels", target), ("reference.labels", target), ("mine.labels", moved)):
                LabelMap(voxels, organs.geometry).save(root / part / name / f"c{seed}.nrrd")
    return root


def test_table1_beside_the_published_rows(table1: Path, tmp_path: Path) -> None:
    found = paper_table("table1", table1, tmp_path, OPTIONS)
    assert not found.failures
    names = [(line.name, line.ours) for line in found.lines]
    assert names[:4] == [("Real Data", False), ("reference", True), ("WAN2.1", False), ("wan2_1", True)]
    assert names[-1] == ("mine", True)
    ours = {line.name: dict(zip(found.columns, line.cells, strict=True)) for line in found.lines if line.ours}
    psnr, dice = [], []
    for seed in range(2):
        x, y = (
            io.read(table1 / "lung" / name).voxels.clip(-1000, 1000).astype(np.float64)
            for name in (f"reference/c{seed}.nii.gz", f"mine/c{seed}_recon.nrrd")
        )
        psnr.append(10 * math.log10(2000**2 / np.mean((x - y) ** 2)))
        a, b = (
            io.read_labels(table1 / "pancreas" / name / f"c{seed}.nrrd").voxels == 2
            for name in ("labels", "mine.labels")
        )
        dice.append(200 * (a & b).sum() / (a.sum() + b.sum()))
    assert ours["mine"]["lung psnr"] == pytest.approx((np.mean(psnr), np.std(psnr, ddof=1)), abs=1e-4)
    assert ours["mine"]["pancreas dsc2"] == pytest.approx((np.mean(dice), np.std(dice, ddof=1)), abs=1e-4)
    assert ours["reference"]["lung dsc"] == (100, 0)
    assert ours["reference"]["lung psnr"] is None
    assert ours["wan2_1"]["lung dsc"] == "needs wan2_1.labels"
    assert found.choices == {"ssim": "slices"}
    assert any(note.startswith("ssim = slices. ") for note in found.notes)
    solid = paper_table("table1", table1, tmp_path, OPTIONS, choices={"ssim": "3d"})
    changed = [line.cells for line in solid.lines if line.name == "mine"]
    assert changed[0][1] != ours["mine"]["lung ssim"]
    assert changed[0][0] == ours["mine"]["lung psnr"]


def test_table1_on_the_command_line(table1: Path, tmp_path: Path) -> None:
    done = cli("evaluate", table1, "--recipe", "table1", "-o", tmp_path, "--choice", "ssim=3d", "--threads", 1)
    assert done.exit_code == 0, done.stderr
    assert "mine (here)" in done.stdout
    assert "30.93 ± 4.06" in done.stdout
    assert "ssim = 3d." in done.stderr
    assert "copy error" in done.stderr
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["row"] for row in rows if row["source"] == "here"] == ["reference", "wan2_1", "mine"]
    assert len([row for row in rows if row["source"] == "published"]) == 10
    content = json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    assert content["choices"] == {"ssim": "3d"}
    assert json.loads((tmp_path / "lung-mine" / "evaluation.json").read_text())["cases"] == 2


def test_what_cannot_be_computed_says_what_it_needs(table1: Path, tmp_path: Path, cache: Path) -> None:
    found = paper_table("table2", None, None, OPTIONS)
    assert all(not line.ours for line in found.lines)
    root = tmp_path / "root"
    root.mkdir()
    (root / "normal").symlink_to(table1 / "lung", target_is_directory=True)
    found = paper_table("table2", root, tmp_path / "out", OPTIONS)
    ours = {line.name: dict(zip(found.columns, line.cells, strict=True)) for line in found.lines if line.ours}
    assert set(ours) == {"mine", "wan2_1"}
    assert ours["mine"]["normal fvd"] == "needs weights ctclip"
    assert ours["mine"]["normal fid_avg"] == "needs weights radimagenet-resnet50"
    assert ours["mine"]["disease fvd"] == "needs disease/mine"
    assert not found.failures
    pillar = paper_table("medsyn2-table2", table1 / "lung", tmp_path / "out", OPTIONS)
    [mine] = [line for line in pillar.lines if line.name == "mine"]
    assert mine.cells[2].startswith("needs Pillar-0")  # type: ignore[union-attr]


def test_medsyn2_table7_has_organs_for_rows(tmp_path: Path) -> None:
    ct, organs = drawn()
    for name in ("generated", "labels", "generated.labels", "reconstructed.labels"):
        (tmp_path / name).mkdir()
    ct.save(tmp_path / "generated" / "a.nrrd")
    organs.save(tmp_path / "labels" / "a.nrrd")
    LabelMap(np.roll(organs.voxels, 2, 1), organs.geometry).save(tmp_path / "generated.labels" / "a.nrrd")
    organs.save(tmp_path / "reconstructed.labels" / "a.nrrd")
    found = paper_table("medsyn2-table7", tmp_path, None, OPTIONS)
    lines = {line.name: line.cells for line in found.lines if line.ours}
    assert list(lines) == list(published("medsyn2-table7").rows)
    assert [line.ours for line in found.lines] == [False, True] * 9
    lobes = np.isin(organs.voxels, (28, 29, 30, 31, 32))
    moved = np.roll(lobes, 2, 1)
    expected = 200 * (lobes & moved).sum() / (lobes.sum() + moved.sum())
    assert lines["Lobe"][0] == lines["Lobe"][8] == pytest.approx(expected)
    assert lines["Lobe"][4:8] == (100, 100, 0, 0)
    assert lines["Nodule"][0] == "not defined"  # there is none
    assert name_of(28) == RECIPES["medsyn2-table7"].regions["Lobe"]


def test_trace_table1_runs_offline(table1: Path, tmp_path: Path, cache: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("reference", "mine"):
        (root / name).mkdir()
        for path in list((table1 / "lung" / name).glob("c0*.n*")):
            (root / name / path.name).symlink_to(path)
    found = paper_table("trace-table1", root, tmp_path / "out", OPTIONS)
    lines = {line.name: dict(zip(found.columns, line.cells, strict=True)) for line in found.lines if line.ours}
    assert [line.name for line in found.lines[:2]] == ["GT", "reference"]
    for name in ("subject", "background", "flicker", "motion"):
        assert 0 < lines["mine"][name] <= 100  # type: ignore[operator]
    assert lines["mine"]["flicker"] < lines["reference"]["flicker"]  # type: ignore[operator]
    assert lines["mine"]["dice"] == "needs labels"
    assert lines["mine"]["quality"].startswith("needs VBench")  # type: ignore[union-attr]


@pytest.mark.usefixtures("tiny")
def test_zero_shot_findings_of_a_small_network(tmp_path: Path) -> None:
    """From weights, volumes, reports and a table of findings to the cells of Tables 2 and 3 of MedSyn2."""
    findings = ["Atelectasis;Lung nodule", "none", "Lung nodule", "Atelectasis"]
    (tmp_path / "findings.csv").write_text("name,findings\n" + "".join(f"c{n},{f}\n" for n, f in enumerate(findings)))
    for name in ("reference", "mine", "reports"):
        (tmp_path / name).mkdir()
    for seed in range(4):
        ct, _ = drawn(seed)
        ct.save(tmp_path / "reference" / f"c{seed}.nrrd")
        noisy(ct, seed, 200).save(tmp_path / "mine" / f"c{seed}.nrrd")
        (tmp_path / "reports" / f"c{seed}.txt").write_text("Atelectasis is present.")
    found = paper_table("medsyn2-table3", tmp_path, tmp_path / "out", OPTIONS, choices={"f1": "present"})
    assert not found.failures
    cells = {line.name: dict(zip(found.columns, line.cells, strict=True)) for line in found.lines if line.ours}
    assert set(cells) == {"reference", "mine"}  # real volumes are measured too
    options = EvaluateOptions(metrics=("factual18_zeroshot_probability",), device="cpu", threads=1)
    values = evaluate_set(plan_cases(tmp_path / "mine").cases, options).rows
    areas = []
    for finding in ("Atelectasis", "Lung nodule"):
        p = [row.value for row in values if row.region == finding]
        pairs = [
            (p[i] > p[j]) + 0.5 * (p[i] == p[j])
            for i in range(4)
            for j in range(4)
            if finding in findings[i] and finding not in findings[j]
        ]
        areas.append(100 * np.mean(pairs))
    assert cells["mine"]["auroc"] == pytest.approx(np.mean(areas))
    scores = paper_table("medsyn2-table2", tmp_path, tmp_path / "out", OPTIONS)
    rows = {line.name: dict(zip(scores.columns, line.cells, strict=True)) for line in scores.lines if line.ours}
    same = evaluate_set(
        plan_cases(tmp_path / "mine", tmp_path / "reference").cases, replace(options, metrics=("clip_i2i",))
    )
    assert rows["mine"]["i2i"] == pytest.approx((same.summary[0].mean, same.summary[0].sd))
    assert rows["reference"]["i2i"] is None
    assert isinstance(rows["reference"]["t2i"], tuple)


def test_table4_reads_the_study(tmp_path: Path) -> None:
    def line(arm: str, against: str, region: str, value: float) -> StudyLine:
        facts = {"metric": "auc", "n": 48, "seeds": 3, "sd_seeds": 0.01, "ci95": (value - 0.1, value + 0.1)}
        return StudyLine(arm=arm, against=against, region=region, value=value, **facts)  # type: ignore[arg-type]

    lines = [line("real", "", "Atelectasis", 0.7), line("real", "", "mean", 0.65)]
    difference = line("real+synthetic", "real", "mean", 0.02)
    Study(kind="classify", lines=[*lines, difference], rows=[]).save(tmp_path)
    found = paper_table("table4", study=tmp_path / "summary.csv")
    [ours] = [each for each in found.lines if each.ours]
    cells = dict(zip(found.columns, ours.cells, strict=True))
    assert ours.name == "real"
    assert found.lines[0].name == "Real"
    assert found.lines[1] is ours
    assert cells["Atelectasis"] == pytest.approx((70, 1))
    assert cells["average"] == pytest.approx((65, 1))
    assert cells["Cardiomegaly"] == "not defined"
    assert any("ctgencore study classify" in note for note in paper_table("table4").notes)
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"is not the summary\.csv"):
        paper_table("table4", study=tmp_path / "other.csv")


def test_a_row_whose_names_do_not_fit_costs_no_other(table1: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "lung" / "strange").mkdir(parents=True)
    for path in (table1 / "lung").iterdir():
        (root / "lung" / path.name).symlink_to(path, target_is_directory=True)
    drawn()[0].save(root / "lung" / "strange" / "other.nrrd")
    found = paper_table("table1", root, root / "out", OPTIONS)
    ours = {line.name: line.cells for line in found.lines if line.ours}
    assert set(ours) == {"reference", "wan2_1", "mine", "strange"}
    assert ours["strange"][0] == "needs pairs of equal names"
    assert isinstance(ours["mine"][0], tuple)
    assert [failure.case for failure in found.failures] == ["strange"]
    again = paper_table("table1", root, root / "out", OPTIONS)  # its own results are no row
    assert [line.cells for line in again.lines] == [line.cells for line in found.lines]


def test_refusals(table1: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (("--recipe", "tabel1"), "Did you mean 'table1'"),
        (("--recipe", "table1", "--choice", "ssim=4d"), "Known: slices, 3d"),
        (("--recipe", "table1", "--choice", "psnr=1"), "Known: ssim"),
        (("--recipe", "table1", "-m", "nsd"), "leave out --metrics"),
        (("--recipe", "table1", table1), "-o FOLDER"),
        (("--recipe", "table1", tmp_path, "-o", tmp_path / "out"), "lung/reference"),
        (("--recipe", "table4", table1, "-o", tmp_path / "out"), "ctgencore study classify"),
        (("--recipe", "table1", "--study", tmp_path / "summary.csv"), "leave out --study"),
    ):
        done = cli("evaluate", *arguments)
        assert done.exit_code == 2, (arguments, done.stdout)
        assert words in " ".join(done.stderr.split()), (arguments, done.stderr)


@pytest.mark.parametrize("name", RECIPES)
def test_every_table_is_printed_without_folders(name: str) -> None:
    done = cli("evaluate", "--recipe", name)
    assert done.exit_code == 0, done.stderr
    table = published(name)
    assert table.where in done.stdout
    for row, cells in table.rows.items():
        assert row.split()[0] in done.stdout
        assert all(part in done.stdout for part in cell_text(cells[0]).split())
    assert "To fill in yours" in done.stderr
