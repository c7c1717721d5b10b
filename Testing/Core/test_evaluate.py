"""Evaluation in Python: pairing, checks, one pass, results that can be resumed, sets."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ctgencore as ctg
import numpy as np
import pytest
from ctgencore import io
from ctgencore.errors import Cancelled, InputError, WeightsError
from ctgencore.geometry import Geometry
from ctgencore.metrics import presets, table
from ctgencore.tasks.evaluate import EvaluateOptions, evaluate, evaluate_set
from ctgencore.tasks.evaluate_files import CaseFiles, pair_folders, plan_cases
from ctgencore.tasks.evaluate_results import SETS, Evaluation, Row, summarize
from ctgencore.volume import LabelMap, Volume
from evaluating import SHAPE, TROUBLES, drawn, noisy, write_pairs, write_troubles
from processes import environment
from scipy import stats

PSNR, BIAS = "psnr_255_w2000", "bias_hu"
FAST = EvaluateOptions(metrics=(PSNR, BIAS), device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def pairs(data: Path) -> list[CaseFiles]:
    return plan_cases(data / "test", data / "reference", data / "labels").cases


def states(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.name: json.loads(path.read_text()) for path in sorted((folder / "cases").glob("*.json"))}


def outcome(found: Evaluation) -> list[tuple[Any, ...]]:
    """Rows that can be compared, nan included."""
    return [dataclasses.astuple(dataclasses.replace(row, value=repr(row.value))) for row in found.rows]  # type: ignore[arg-type]


# --- one pair --------------------------------------------------------------------------------------------------------


def test_one_pair_in_memory() -> None:
    ct, organs = drawn(7)
    test = noisy(ct, 7)
    found = ctg.evaluate(test, ct, labels=organs, metrics=[PSNR, BIAS])
    x, y = (v.voxels.clip(-1000, 1000).astype(np.float64) for v in (test, ct))
    assert found.value(PSNR) == pytest.approx(20 * np.log10(2000 / np.sqrt(np.mean((x - y) ** 2))), abs=1e-6)
    assert found.value(BIAS) == pytest.approx((x - y).mean(), abs=1e-6)
    aorta = organs.voxels == 6
    assert found.value(BIAS, "aorta") == pytest.approx((x - y)[aorta].mean(), abs=1e-6)
    assert not found.failures
    assert {row.unit for row in found.rows if row.metric == BIAS} == {"HU"}
    assert found.to_dict()["metrics"][PSNR]["version"] == table.METRICS[PSNR].version


def test_equal_volumes_give_infinite_psnr_that_json_can_hold(tmp_path: Path) -> None:
    ct, _ = drawn()
    found = evaluate(ct, ct, metrics=[PSNR, BIAS])
    assert found.value(PSNR) == math.inf
    content = json.loads(found.save(tmp_path).read_text(), parse_constant=pytest.fail)
    assert [row["value"] for row in content["rows"]] == ["inf", 0.0]
    assert content["summary"][0]["mean"] == "inf"
    assert content["summary"][0]["sd"] is None


def spoiled() -> Iterator[tuple[str, dict[str, Any], str]]:
    ct, organs = drawn()
    grid = ct.geometry
    nan = ct.voxels.copy()
    nan[3, 4, 5] = np.nan
    near = dataclasses.replace(grid, spacing_mm=(*grid.spacing_mm[:2], grid.spacing_mm[2] * 1.01))
    moved = dataclasses.replace(grid, origin_mm=(5.0, 0.0, 0.0))
    yield "size", {"reference": Volume(ct.voxels[:-1], Geometry((48, 48, 23), grid.spacing_mm))}, "sizes"
    yield "spacing", {"reference": Volume(ct.voxels, near)}, "The spacings are"
    yield "origin", {"reference": Volume(ct.voxels, moved)}, "apart"
    yield "nan", {"reference": ct.with_voxels(nan)}, "1 of 55296 are NaN"
    yield "constant", {"reference": ct.with_voxels(np.zeros(SHAPE))}, "empty volume"
    yield "mask grid", {"labels": LabelMap(organs.voxels, moved)}, "the test volume and the labels"
    yield "empty mask", {"labels": LabelMap(np.zeros(SHAPE, np.uint8), grid)}, "every voxel is 0"
    slab = Volume(ct.voxels[:1], Geometry((48, 48, 1), grid.spacing_mm))
    yield "slice", {"test": slab, "reference": slab}, "one slice"


@pytest.mark.parametrize(("parts", "words"), [pytest.param(*rest, id=name) for name, *rest in spoiled()])
def test_parts_that_do_not_fit_are_refused(parts: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate(**{"test": drawn()[0], **parts}, options=FAST)


def test_grids_may_differ_as_much_as_nifti_rounds_them() -> None:
    ct, _ = drawn()
    rounded = dataclasses.replace(ct.geometry, origin_mm=tuple(v + 3e-5 for v in ct.geometry.origin_mm))
    assert evaluate(ct, Volume(ct.voxels, rounded), options=FAST).value(BIAS) == 0


def test_labels_of_other_schemes_are_renumbered() -> None:
    ct, organs = drawn()
    theirs = LabelMap(np.where(organs.voxels == 6, 52, 0), organs.geometry)  # TotalSegmentator's aorta
    options = dataclasses.replace(FAST, scheme="totalsegmentator")
    ours = evaluate(noisy(ct, 1), ct, organs, options=FAST).value(BIAS, "aorta")
    assert evaluate(noisy(ct, 1), ct, theirs, options=options).value(BIAS, "aorta") == ours


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ("psnr",)}, "no metric or preset called 'psnr'"),
        ({"metrics": ("reconstuction",)}, "Did you mean 'reconstruction'"),
        ({"metrics": ()}, "nothing to measure"),
        ({"window": "bones"}, "bones"),
        ({"segmenter": "magic"}, "segmenter is one of threshold"),
        ({"clip_pad": "zeros"}, "clip_pad is one of air"),
        ({"tolerance_mm": 0.0}, "above 0 mm"),
        ({"workers": 0}, "workers is at least 1"),
        ({"unpaired": True}, "unpaired compares sets"),
    ],
)
def test_options_that_cannot_run_are_refused(options: dict[str, Any], words: str) -> None:
    ct, _ = drawn()
    with pytest.raises(InputError, match=words):
        evaluate(ct, ct, options=dataclasses.replace(FAST, **options))


def test_what_is_named_must_work_and_what_a_preset_lacks_is_a_note(cache: Path) -> None:
    ct, _ = drawn()
    with pytest.raises(WeightsError, match=r"clip_i2i cannot be computed.*ctclip"):
        evaluate(ct, ct, metrics=["clip_i2i"])
    found = evaluate(ct, noisy(ct, 1), metrics=["generation", PSNR])
    assert [note for note in found.notes if note.startswith("clip_i2i is left out. The weights of extractor 'ctclip'")]
    assert not found.failures
    assert found.value(PSNR) > 20
    lacking = evaluate(ct, metrics=[PSNR, "reconstruction"])
    assert [(failure.metric, failure.code) for failure in lacking.failures] == [(PSNR, "input")]
    assert "needs reference" in lacking.failures[0].message
    assert f"{BIAS} is left out of 1 of 1 cases, which have no reference." in lacking.notes
    assert not lacking.rows


# --- pairing ---------------------------------------------------------------------------------------------------------


def test_pairs_are_found_by_name(data: Path, pairs: list[CaseFiles]) -> None:
    assert [case.name for case in pairs] == ["c0_recon", "c1_recon", "c2_recon"]
    assert [case.reference for case in pairs] == [data / "reference" / f"c{n}.nii.gz" for n in range(3)]
    assert [case.labels for case in pairs] == [data / "labels" / f"c{n}.nrrd" for n in range(3)]


def test_names_that_have_no_partner_are_listed(data: Path, tmp_path: Path) -> None:
    ct = io.read(data / "reference" / "c0.nii.gz")
    for name in ("test/a.nrrd", "test/deep/b.mha", "test/b.mha", "test/a_difference.nrrd", "test/c.nrrd", "test/c.mha"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        ct.save(tmp_path / name)
    for name in ("reference/a.nii", "reference/deep/b.nrrd", "reference/z.nrrd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        ct.save(tmp_path / name)
    planned = pair_folders(tmp_path / "test", tmp_path / "reference")
    assert [(case.name, case.reference) for case in planned.cases] == [
        ("a", tmp_path / "reference" / "a.nii"),
        ("deep/b", tmp_path / "reference" / "deep" / "b.nrrd"),
    ]
    told = {failure.case: failure.message for failure in planned.failures}
    assert set(told) == {"b", "c", "z"}
    assert "c.mha, c.nrrd" in told["c"]
    assert all("no partner" in told[name] for name in "bz")
    with pytest.raises(InputError, match="--unpaired"):
        pair_folders(tmp_path / "test", data / "reference")


def test_dicom_folders_are_volumes(ct_data: Path, tmp_path: Path) -> None:
    source = ct_data / "TotalSegmentator_example_ct_dicom" / "dicom"
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "scan").symlink_to(source, target_is_directory=True)
    (tmp_path / "test").mkdir()
    planned = plan_cases(source, source)
    assert planned.is_pair
    assert planned.cases[0].files == {"test": source, "reference": source}
    (tmp_path / "one").mkdir()
    for path in sorted(source.iterdir())[:4]:
        (tmp_path / "one" / path.name).symlink_to(path)
    assert plan_cases(tmp_path / "one", source).is_pair


def test_manifest(data: Path, tmp_path: Path) -> None:
    (tmp_path / "report.txt").write_text("Clear lungs.\n")
    test = data / "test" / "c0_recon.mha"
    lines = [
        "name,test,reference,labels,report,findings",
        f"one,{test},{data / 'reference' / 'c0.nii.gz'},,@report.txt,Lung nodule;atelectasis",
        f",{test},,,A report,none",
        f"one,{test},,,,",
        "two,,,,,",
        f"three,{test},,,,Gout",
        f"four,{test},,,@none.txt,",
    ]
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    planned = plan_cases(tmp_path / "cases.csv")
    one, two = planned.cases
    assert (one.name, one.report, one.findings) == ("one", "Clear lungs.", {"Lung nodule", "Atelectasis"})
    assert (two.name, two.report, two.findings, two.reference) == ("c0_recon", "A report", frozenset(), None)
    told = [failure.message for failure in planned.failures]
    words = ["already", "needs 'test'", "no finding called 'gout'", "none.txt"]
    assert all(word in message for word, message in zip(words, told, strict=True)), told
    for content, words in (
        ("tset\nx\n", "Did you mean 'test'"),
        ("reference\nx\n", "needs a column 'test'"),
        ("", "'test'"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        with pytest.raises(InputError, match=words):
            plan_cases(tmp_path / "bad.csv")


# --- batches ---------------------------------------------------------------------------------------------------------


def test_every_trouble_is_told_and_the_batch_goes_on(data: Path, tmp_path: Path) -> None:
    found = evaluate_set(plan_cases(write_troubles(tmp_path, data)).cases, FAST)
    assert {row.case for row in found.rows} == {"good", "fine"}
    told = {failure.case: failure for failure in found.failures}
    assert set(told) == set(TROUBLES)
    for name, words in TROUBLES.items():
        assert words in told[name].message
        assert told[name].code == "input"
    assert found.traces == ""
    assert [row["case"] for row in found.to_dict()["failures"]] == list(told)


def test_one_metric_that_breaks_costs_no_other(pairs: list[CaseFiles], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = dataclasses.replace(table.METRICS[BIAS], function="voxel:no_such_function")
    monkeypatch.setitem(table.METRICS, BIAS, broken)
    found = evaluate_set(pairs, FAST)
    assert {row.metric for row in found.rows} == {PSNR}
    assert {(failure.metric, failure.code) for failure in found.failures} == {(BIAS, "internal")}
    assert "AttributeError" in found.traces


def test_batches_refuse_what_makes_no_sense(pairs: list[CaseFiles]) -> None:
    with pytest.raises(InputError, match="no cases"):
        evaluate_set([], FAST)
    with pytest.raises(InputError, match="c0_recon"):
        evaluate_set([pairs[0], pairs[0]], FAST)


@pytest.mark.parametrize(
    "metrics",
    [("reconstruction",), pytest.param(("kid_embedded", "subject_consistency"), marks=pytest.mark.heavy)],
    ids=["voxels", "networks"],
)
def test_processes_give_the_same_as_one_after_the_other(pairs: list[CaseFiles], metrics: tuple[str, ...]) -> None:
    options = dataclasses.replace(FAST, metrics=metrics, threads=1)
    alone = evaluate_set(pairs, options)
    heard: list[Any] = []
    together = evaluate_set(pairs, dataclasses.replace(options, workers=2), progress=heard.append)
    assert outcome(alone) == outcome(together)
    assert alone.inputs == together.inputs
    assert len(alone.rows) > 6
    done = [event.done for event in heard if event.stage == "evaluate"]
    assert done == sorted(set(done))
    assert done[-1] == heard[0].total


def test_worker_processes_need_no_torch_for_voxel_metrics() -> None:
    code = (
        "import sys; from ctgencore.tasks import evaluate_pool; from ctgencore.metrics import adherence, overlap, "
        "surface, texture, voxel; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert done.stdout == "False\n"


def test_what_was_computed_is_not_computed_again(pairs: list[CaseFiles], tmp_path: Path) -> None:
    first = evaluate_set(pairs, FAST, tmp_path)
    for path in (tmp_path / "cases").glob("*.json"):  # a mark that only reading it back can bring
        path.write_text(path.read_text().replace('"region": "all"', '"region": "mark"'))
    again = evaluate_set(pairs, dataclasses.replace(FAST, metrics=(PSNR, BIAS, "mae_hu")), tmp_path)
    regions = {(row.metric, row.region) for row in again.rows}
    assert {(PSNR, "mark"), (BIAS, "mark"), ("mae_hu", "all")} <= regions
    assert (PSNR, "all") not in regions
    assert again.inputs == first.inputs
    narrow = evaluate_set(pairs, dataclasses.replace(FAST, window="soft"), tmp_path)
    assert {row.region for row in narrow.rows if row.metric == PSNR} == {"all"}
    assert narrow.value(BIAS) != first.value(BIAS)


def test_another_version_or_another_file_is_computed_anew(
    pairs: list[CaseFiles], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate_set(pairs[:1], FAST, tmp_path)
    [(name, state)] = states(tmp_path).items()
    monkeypatch.setitem(table.METRICS, PSNR, dataclasses.replace(table.METRICS[PSNR], version=99))
    evaluate_set(pairs[:1], FAST, tmp_path)
    after = states(tmp_path)[name]
    assert after["metrics"][BIAS] == state["metrics"][BIAS]
    assert after["metrics"][PSNR]["key"] != state["metrics"][PSNR]["key"]
    assert after["metrics"][PSNR]["values"] == state["metrics"][PSNR]["values"]
    changed = noisy(io.read(pairs[0].test), 3, 50.0).save(tmp_path / "c0_recon.mha")
    other = evaluate_set([dataclasses.replace(pairs[0], test=changed)], FAST, tmp_path)
    assert other.value(PSNR) < first.value(PSNR) - 5
    assert len(states(tmp_path)) == 2


def test_cancelling_keeps_what_is_finished(pairs: list[CaseFiles], tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Cancelled):
        evaluate_set(pairs, FAST, tmp_path, cancel=lambda: next(asked, True))
    kept = states(tmp_path)
    assert 0 < len(kept) < len(pairs)
    assert len(evaluate_set(pairs, FAST, tmp_path).inputs) == len(pairs)
    assert {name: states(tmp_path)[name] for name in kept} == kept


def test_progress_counts_every_metric_of_every_case(pairs: list[CaseFiles]) -> None:
    heard: list[Any] = []
    evaluate_set(pairs, dataclasses.replace(FAST, metrics=(PSNR, "edge_shift_mm")), progress=heard.append)
    assert [(event.done, event.total) for event in heard] == [(n, 6) for n in range(1, 7)]


# --- sets ------------------------------------------------------------------------------------------------------------


def test_sets_without_pairs_extract_each_volume_once(data: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(metrics=("fd_embedded", "kid_embedded"), unpaired=True, allow_small=True, device="cpu")
    planned = plan_cases(data / "test", data / "reference", unpaired=True)
    assert all(case.reference is None for case in planned.cases)

    def run() -> Evaluation:
        return evaluate_set(planned.cases, options, tmp_path, references=planned.references)

    first = run()
    assert not first.failures
    assert first.sets == {"test": 3, "reference": 3}
    assert {row.case for row in first.rows} == {SETS}
    assert {"all", "real vs real"} <= {row.region for row in first.rows}
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")}
    assert len(files) == 6  # three and three volumes of one extractor
    assert outcome(run()) == outcome(first)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "features").rglob("*.npy")} == files
    twice = evaluate_set(planned.cases, options, tmp_path, references=planned.references * 2)
    assert twice.sets == first.sets


def test_unpaired_takes_set_metrics_only(data: Path) -> None:
    planned = plan_cases(data / "test", data / "reference", unpaired=True)
    for metrics, words in (((PSNR,), "compares pairs"), (("reconstruction",), "name a metric of sets")):
        with pytest.raises(InputError, match=words):
            evaluate_set(planned.cases, EvaluateOptions(metrics=metrics, unpaired=True, device="cpu"))


def test_small_sets_are_refused_when_named_and_noted_when_not(pairs: list[CaseFiles], tmp_path: Path) -> None:
    named = evaluate_set(pairs, dataclasses.replace(FAST, metrics=("fd_embedded",)), tmp_path)
    [failure] = named.failures
    assert (failure.metric, failure.case) == ("fd_embedded", "")
    assert "allow" in failure.message
    preset = evaluate_set(pairs, dataclasses.replace(FAST, metrics=("generation",)), tmp_path)
    assert not preset.failures
    assert any(note.startswith("fd_embedded is left out:") for note in preset.notes)
    assert {row.metric for row in preset.rows} & {"kid_embedded", "mmd_embedded"}


# --- results ---------------------------------------------------------------------------------------------------------


def rows(*values: float, metric: str = BIAS) -> list[Row]:
    return [Row(f"c{n}", metric, "all", value, "HU", n) for n, value in enumerate(values)]


def test_summary_against_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 2, 9)
    line = summarize(rows(*values))
    low, high = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert line.ci95 == pytest.approx((low, high))
    assert (line.mean, line.sd) == pytest.approx((values.mean(), values.std(ddof=1)))
    assert (line.median, line.min, line.max) == (np.median(values), values.min(), values.max())
    assert line.slice == int(np.abs(values).argmax())
    assert line.worst == f"c{line.slice}"


def test_summary_of_few_and_of_undefined_values() -> None:
    one = summarize(rows(5.0))
    assert one.mean == 5
    assert all(map(math.isnan, (one.sd, *one.ci95)))
    some = summarize(rows(1.0, math.nan, 3.0))
    assert (some.n, some.mean) == (2, 2)
    assert some.note == "1 of 3 cases undefined"
    none = summarize(rows(math.nan))
    assert none.n == 0
    assert math.isnan(none.mean)
    endless = summarize(rows(30.0, math.inf, metric=PSNR))
    assert endless.mean == math.inf
    assert math.isnan(endless.sd)
    assert endless.worst == "c0"


def test_files_hold_everything(pairs: list[CaseFiles], tmp_path: Path) -> None:
    found = evaluate_set(pairs, FAST, tmp_path)
    content = json.loads(found.save(tmp_path).read_text())
    assert content["schema"] == "ctgen-evaluation/1"
    assert content["options"] == json.loads(json.dumps(dataclasses.asdict(FAST)))
    assert {"ctgencore", "torch", "numpy"} <= set(content["versions"])
    assert content["cases"] == 3
    assert len(content["inputs"]["c0_recon"]["test"]["sha256"]) == 64
    assert set(content["inputs"]["c0_recon"]) == {"test", "reference", "labels"}
    with (tmp_path / "rows.csv").open(newline="") as stream:
        table_rows = list(csv.DictReader(stream))
    assert [(row["case"], row["metric"], row["region"], float(row["value"])) for row in table_rows] == [
        (row.case, row.metric, row.region, row.value) for row in found.rows
    ]
    with (tmp_path / "summary.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert [float(line["mean"]) for line in lines] == [line.mean for line in found.summary]
    assert lines[0]["metric"] == PSNR
    assert lines[0]["region"] == "all"
    assert lines[0]["unit"] == "dB"


def test_verdicts_follow_the_limits() -> None:
    limit = presets.SAFETY["bias_hu"]
    for value, word in ((-4.9, "OK"), (6.0, "caution"), (-7.1, "no")):
        found = Evaluation(rows=rows(value), options={"metrics": ("safe-for-my-task",)})
        verdicts = {verdict.metric: verdict for verdict in found.verdicts}
        assert verdicts["bias_hu"].verdict == word
        assert verdicts["bias_hu"].limit == limit.text
        assert verdicts["eps_phi"].verdict == "not judged"
        assert all("CTGen's proposal" in verdict.limit for verdict in found.verdicts)
    assert presets.SAFETY["nps_ratio"].distance(0.5) == presets.SAFETY["nps_ratio"].distance(2.0) == 2
    assert Evaluation(rows=rows(100.0)).verdicts == []


def test_presets_name_metrics_that_are_there() -> None:
    for name, members in presets.PRESETS.items():
        assert members, name
        assert set(members) <= set(table.METRICS), name
    assert set(presets.SAFETY) == set(presets.PRESETS["safe-for-my-task"])
    for row in table.METRICS.values():
        assert not row.extractor or row.extractor in table.EXTRACTORS, row.name
