"""The HTML page: what it holds is what was given; it needs nothing from outside. test_report_browser.py opens it."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctgencore import labels, phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.report import Case, Page, write_page
from ctgencore.report.colors import color_of
from ctgencore.report.pack import pack_slice, to_steps
from ctgencore.report.page import choose_slices, to_display
from ctgencore.tasks.evaluate import evaluate_set
from ctgencore.tasks.evaluate_files import CaseFiles
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import LabelMap, Volume
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from processes import Command


@pytest.fixture(scope="module")
def drawn() -> phantom.Phantom:
    return phantom.chest((20, 48, 40))


@pytest.fixture(scope="module")
def case(drawn: phantom.Phantom) -> Case:
    result = reconstruct(drawn.ct, "dct16", ReconstructOptions(device="cpu"))
    return Case.of(Path("chest.nrrd"), drawn.ct, result, drawn.organs)


def unpack(text: str, shape: tuple[int, int]) -> np.ndarray:
    """The inverse of ``pack_slice``, voxel by voxel."""
    raw = base64.b64decode(text)
    sizes = np.frombuffer(raw[:32], "<u4")
    inflated = zlib.decompressobj(-15).decompress(raw[32:])
    ends = np.cumsum(sizes)
    classes = [iter(inflated[end - size : end]) for end, size in zip(ends, sizes, strict=True)]
    escaped = iter(np.frombuffer(inflated[ends[-1] :], "<u2").tolist())
    out = np.zeros(shape, int)
    for y, x in np.ndindex(shape):
        up = out[y - 1, x] if y else 0
        left = out[y, x - 1] if x else up
        corner = out[y - 1, x - 1] if x and y else (out[y - 2, 0] if y > 1 and not x else 0)
        beyond = out[y - 1, x + 1] if y and x + 1 < shape[1] else up
        median = sorted((left, up, left + up - corner))[1]
        busy = abs(left - corner) + abs(up - corner) + abs(up - beyond)
        folded = next(classes[sum(busy >= start for start in (1, 3, 6, 10, 16, 28, 60))])
        folded = next(escaped) if folded == 255 else folded
        out[y, x] = median + (-(folded + 1) // 2 if folded % 2 else folded // 2)
    assert next(escaped, None) is None
    return out


def held(page: Path) -> dict[str, Any]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1])


def stack(page: Path, name: str) -> list[str]:
    match = re.search(rf'<script type="text/plain" id="{name}">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match
    return match[1].split("\n")


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(-3000, 5000)),
    st.sampled_from([1, 2, 4]),
)
def test_packing_keeps_any_hu_to_half_a_step(hu: np.ndarray, step: int) -> None:
    steps = to_steps(hu, step)
    found = unpack(pack_slice(steps), steps.shape)
    assert np.array_equal(found, steps)
    assert np.abs(found * step - 1024 - hu.clip(-1024, 3071)).max() <= step / 2


def test_page_holds_every_voxel_of_small_volumes(case: Case, tmp_path: Path) -> None:
    page = write_page(tmp_path / "page.html", [case])
    [facts] = held(page)["cases"]
    assert facts["step"] == 1
    assert facts["slices"] == list(range(20))
    for number, volume in enumerate(case.volumes.values()):
        for z, text in list(enumerate(stack(page, f"case0-volume{number}")))[::6]:
            found = unpack(text, (48, 40)) - 1024
            assert np.abs(found - volume.voxels[z].clip(-1024, 3071)).max() <= 0.5 + 1e-3  # float32 ties
    assert case.labels is not None
    names = np.array(["", *(label["name"] for label in facts["labels"])])
    for z, text in enumerate(stack(page, "case0-labels")):
        found = np.frombuffer(zlib.decompress(base64.b64decode(text), -15), np.uint8).reshape(48, 40)
        expected = [labels.name_of(value) if value else "" for value in case.labels.voxels[z].ravel().tolist()]
        assert names[found].ravel().tolist() == expected


@given(st.integers(1, 600), st.integers(1, 700), st.sets(st.integers(-5, 700)))
def test_chosen_slices(size: int, count: int, wanted: set[int]) -> None:
    chosen = choose_slices(size, count, wanted)
    assert len(chosen) == min(count, size)
    assert set(chosen) <= set(range(size))
    kept = wanted & set(range(size))
    assert kept <= set(chosen) or len(kept) > count
    if not kept and count > 1 and size > 1:
        assert np.ptp(np.diff(chosen)) <= 1  # evenly spaced


def test_a_page_that_gets_too_large_first_rounds_then_leaves_out_slices_but_not_the_worst(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 30, (60, 128, 128)).astype(np.float32)  # noise: nothing packs worse
    source = Volume(voxels, Geometry((128, 128, 60)))
    case = Case(title="noise", volumes={"a": source, "b": source})
    fixed = 100_000  # of script and style
    steps, counts = [], []
    for limit in (3_000_000, 2_200_000, 1_000_000):
        page = write_page(tmp_path / "page.html", [case], max_bytes=limit)
        assert limit / 3 < page.stat().st_size < 1.03 * limit + fixed
        [facts] = held(page)["cases"]
        steps.append(facts["step"])
        counts.append(len(facts["slices"]))
    assert steps == sorted(steps)
    assert steps[-1] == 4
    assert counts[0] == 60
    assert 10 < counts[-1] < 60
    facts = {"title": "MAE", "unit": "HU", "better": "lower"}
    row = {"case": "noise", "metric": "mae", "region": "all", "value": 1.0, "slice": 1, "note": ""}
    page_of_one = Page(1, evaluations={"run": {"metrics": {"mae": facts}, "rows": [row]}}, max_bytes=300_000)
    page_of_one.add(case)
    data = held(page_of_one.write(tmp_path / "worst.html"))
    assert data["cases"][0]["slices"][0] == 1
    assert data["runs"][0]["rows"][0]["at"] == [0, 1]


def test_every_slice_of_full_size_slices_fits(tmp_path: Path) -> None:
    """Eight slices from neck to belly in their share of the 40 MB; the whole is the heavy test below."""
    assert_fits(tmp_path, 8)


@pytest.mark.heavy
def test_every_slice_of_a_full_size_pair_fits_40_mb(tmp_path: Path) -> None:
    assert_fits(tmp_path, 128)


def assert_fits(folder: Path, slices: int) -> None:
    drawn = phantom.chest((slices, 512, 512), findings=("Pleural effusion",))
    result = reconstruct(drawn.ct, "dct16", ReconstructOptions(device="cpu"))
    limit = 40_000_000 * slices // 128
    case = Case(title="chest", volumes={"input": drawn.ct, "output": result}, labels=drawn.organs)
    page = write_page(folder / "page.html", [case], max_bytes=limit)
    assert page.stat().st_size < limit + (100_000 if slices < 128 else 0)  # script and style do not shrink with it
    [facts] = held(page)["cases"]
    assert facts["slices"] == list(range(slices))
    assert facts["shape"] == [slices, 512, 512]


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_any_orientation_is_shown_with_left_back_and_head_in_place(
    order: tuple[int, ...], signs: tuple[int, ...], tmp_path: Path
) -> None:
    """A voxel's value tells where it lies; after turning, values must rise towards L, P and S."""
    direction = np.zeros((3, 3))
    for voxel, world in enumerate(order):
        direction[world, voxel] = signs[voxel]
    grid = Geometry((3, 4, 5), (1.0, 2.0, 3.0), (0, 0, 0), tuple(direction.ravel()))
    k, j, i = np.meshgrid(range(5), range(4), range(3), indexing="ij")
    points = np.stack([i, j, k, np.ones_like(i)], -1) @ grid.affine_lps().T
    for world in range(3):
        turned, spacing = to_display(points[..., world], grid)
        steps = np.diff(turned, axis=2 - world)
        assert np.allclose(steps, spacing[2 - world])
        assert all(np.all(np.diff(turned, axis=axis) == 0) for axis in range(3) if axis != 2 - world)
    row = {"case": "x", "metric": "mae", "region": "all", "value": 1.0, "slice": 1, "note": ""}
    page = Page(1, evaluations={"run": {"metrics": {"mae": {}}, "rows": [row]}})
    page.add(Case(title="x", volumes={"k": Volume(k, grid)}))
    axis, index = held(page.write(tmp_path / "page.html"))["runs"][0]["rows"][0]["at"]
    assert np.all(to_display(k, grid)[0].take(index, axis=axis) == 1)  # a row's slice is found again


def test_page_needs_nothing_from_outside_and_escapes_what_it_is_given(case: Case, tmp_path: Path) -> None:
    evil = '</script><script>document.title = "broken in"</script>'
    result = case.volumes["output"]
    other = replace(case, title=evil, text=evil, volumes={evil: result}, metrics={evil: float("inf")})
    text = write_page(tmp_path / "page.html", [case, other]).read_text()
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    assert "default-src 'none'" in text
    assert evil not in text
    assert "&lt;/script&gt;" in text
    data = held(tmp_path / "page.html")
    assert data["cases"][1]["title"] == data["cases"][1]["text"] == evil
    assert data["runs"][0]["rows"][-1]["value"] == "inf"
    assert text.count("not for diagnosis") == 3
    assert result.record is not None
    assert result.record.record_id in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_whatever_is_synthetic_or_processed_is_called_so(case: Case, tmp_path: Path) -> None:
    source, result = case.volumes.values()
    assert result.record is not None
    tagged = Volume(source.voxels, source.geometry, meta={"ctgen_tag": "CTGen SYNTHETIC generate x 12345678"})
    made = result.with_voxels(result.voxels, record=replace(result.record, synthetic=True))
    volumes = {"plain": source, "processed": result, "by its tag": tagged, "by its record": made}
    page = write_page(tmp_path / "page.html", [Case(title="x", volumes=volumes)])
    kinds = [volume["kind"] for volume in held(page)["cases"][0]["volumes"]]
    assert kinds == ["", "processed", "synthetic", "synthetic"]
    assert page.read_text().count('<b class="badge synthetic">synthetic</b>') == 2
    page = write_page(tmp_path / "page.html", [Case(title="x", volumes=volumes, synthetic=True)])
    assert {volume["kind"] for volume in held(page)["cases"][0]["volumes"]} == {"synthetic"}


def test_metrics_and_difference_keep_to_the_window_of_the_run(drawn: phantom.Phantom, tmp_path: Path) -> None:
    options = ReconstructOptions(codec="identity", device="cpu", window="soft")
    exact = Case.of(Path("x.nrrd"), drawn.ct, reconstruct(drawn.ct, options=options))
    assert exact.metrics["mae_hu"] < 0.5  # rounding to whole HU; against the whole input it would be hundreds
    assert held(write_page(tmp_path / "page.html", [exact]))["cases"][0]["window"] == [-175, 250]


def test_labels_have_names_and_colors_of_their_own(tmp_path: Path) -> None:
    values = [*range(1, 134), 200, 250, 999]
    voxels = np.resize(values, (3, 10, 20)).astype(np.int32)
    grid = Geometry((20, 10, 3))
    page = write_page(
        tmp_path / "page.html",
        [Case(title="x", volumes={"a": Volume(voxels, grid)}, labels=LabelMap(voxels, grid, {999: "mine"}))],
    )
    found = held(page)["cases"][0]["labels"]
    assert [label["name"] for label in found][-3:] == ["body", "Atelectasis, consolidation", "mine"]
    assert [label["name"] for label in found if label["body"]] == ["body"]
    lobes = {color_of(value) for value in labels.LUNG_LOBES}
    assert len(lobes) == 5
    assert all(re.fullmatch("#[0-9a-f]{6}", color_of(value)) for value in values)


def refusals(case: Case) -> Iterable[tuple[str, list[Case]]]:
    result = case.volumes["output"]
    moved = Volume(result.voxels, Geometry((40, 48, 20)))
    broken = result.with_voxels(np.where(result.voxels > 0, np.nan, result.voxels))
    many = LabelMap(np.arange(20 * 48 * 40).reshape(20, 48, 40) % 300, result.geometry)
    below = LabelMap(np.full((20, 48, 40), -1), result.geometry)
    yield "at least one case", []
    yield "at least one volume", [replace(case, volumes={})]
    yield "must be equal", [replace(case, volumes={"a": result, "b": moved})]
    yield "must be equal", [replace(case, labels=LabelMap(np.ones((20, 48, 40), int), moved.geometry))]
    yield "must be finite", [replace(case, volumes={"a": broken})]
    yield "up to 255 labels", [replace(case, labels=many)]
    yield "up to 255 labels", [replace(case, labels=below)]


def test_bad_calls_write_nothing(case: Case, tmp_path: Path) -> None:
    for message, cases in refusals(case):
        with pytest.raises(InputError, match=message):
            write_page(tmp_path / "page.html", cases)
    with pytest.raises(InputError, match="does not exist"):
        write_page(tmp_path / "no" / "page.html", [case])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of phantoms, measured in the folder ``results``."""
    folder = tmp_path_factory.mktemp("evaluated")
    cases = []
    for name in ("test", "reference", "labels"):
        (folder / name).mkdir()
    for seed in range(2):
        drawn = phantom.chest((10, 32, 32), seed=seed)
        file = f"case{seed}.nii.gz"
        paths = {
            "test": reconstruct(drawn.ct, "dct16", ReconstructOptions(device="cpu")).save(folder / "test" / file),
            "reference": drawn.ct.save(folder / "reference" / file),
            "labels": drawn.organs.save(folder / "labels" / file),
        }
        cases.append(CaseFiles(name=f"case{seed}", **paths))
    evaluate_set(cases).save(folder / "results")
    return folder


def test_evaluations_become_a_page(evaluated: Path, command: Command, tmp_path: Path) -> None:
    done = command("report", evaluated / "results", "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "page.html")
    data, told = held(tmp_path / "page.html"), json.loads((evaluated / "results" / "evaluation.json").read_text())
    assert [case["title"] for case in data["cases"]] == ["case0", "case1"]
    assert [volume["kind"] for volume in data["cases"][0]["volumes"]] == ["", "processed"]
    [run] = data["runs"]
    assert run["name"] == "results"
    assert run["summary"] == told["summary"]
    assert [{**row, "at": 0} for row in run["rows"]] == [{**row, "at": 0} for row in told["rows"]]
    for row in run["rows"]:
        assert row["at"] == (None if row["slice"] is None else [0, row["slice"]])  # LPS grids: not turned
    assert any(row["at"] for row in run["rows"])
    assert data["metrics"]["mae_hu"]["unit"] == "HU"
    assert "Voxels and grid are as written" in (tmp_path / "page.html").read_text()
    again = command("report", evaluated / "results", "-o", tmp_path / "page.html")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_images_that_are_gone_or_changed_are_not_shown(evaluated: Path, command: Command, tmp_path: Path) -> None:
    """The second of two runs measured other voxels than those in the file that now has the name."""
    results = [tmp_path / "first", tmp_path / "second"]
    for folder in results:
        folder.mkdir()
        text = (evaluated / "results" / "evaluation.json").read_text()
        if folder.name == "second":
            content = json.loads(text)
            content["inputs"]["case1"]["test"]["sha256"] = "0" * 64
            text = json.dumps(content)
        (folder / "evaluation.json").write_text(text)
    done = command("report", *results, "--images", evaluated, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    data = held(tmp_path / "page.html")
    assert [case["title"] for case in data["cases"]] == ["first: case0", "first: case1", "second: case0"]
    assert {row["case"] for run in data["runs"] for row in run["rows"]} == {
        *("first: case0", "first: case1", "second: case0", "second: case1")
    }
    [note] = data["runs"][1]["notes"]
    assert "second: case1 is shown without images" in note
    assert "--images" in done.stderr


def test_a_pair_becomes_a_page(evaluated: Path, command: Command, tmp_path: Path) -> None:
    pair = [evaluated / part / "case0.nii.gz" for part in ("test", "reference")]
    organs = evaluated / "labels" / "case0.nii.gz"
    done = command("report", "--pair", *pair, "--labels", organs, "-o", tmp_path / "page.html")
    assert done.returncode == 0, done.stderr
    data = held(tmp_path / "page.html")
    assert [volume["name"] for volume in data["cases"][0]["volumes"]] == ["reference", "test"]
    assert data["cases"][0]["labels"]
    assert {row["metric"] for row in data["runs"][0]["rows"]} >= {"psnr", "mae_hu"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the two"),
        (["FOLDER", "--pair", "a.nii.gz", "b.nii.gz"], "one of the two"),
        (["FOLDER", "--labels", "a.nii.gz"], "--labels goes with --pair"),
        (["FOLDER"], "holds no evaluation.json"),
        (["FOLDER", "--images", "nowhere"], "--images needs folders"),
    ],
)
def test_wrong_calls_say_what_to_do(arguments: list[str], message: str, command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "empty") if word == "FOLDER" else word for word in arguments]
    done = command("report", *words, "-o", tmp_path / "page.html", cwd=tmp_path)
    assert done.returncode == 2
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "page.html").exists()
