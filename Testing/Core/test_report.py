"""The HTML page: what it holds is what was given, it needs nothing from outside, and a browser draws it."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import zlib
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ctgencore import phantom
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.report import Case, write_page
from ctgencore.report.page import HU_STEP, pack, slices_per_plane, to_display
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@pytest.fixture(scope="module")
def case() -> Case:
    source = phantom.chest((20, 48, 40)).ct
    return Case.of(Path("chest.nrrd"), source, reconstruct(source, "dct16", ReconstructOptions(device="cpu")))


def unpack(text: str, shape: tuple[int, ...]) -> np.ndarray:
    raw = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8).reshape(2, -1)
    change = (raw[0] | raw[1].astype(np.uint16) << 8).astype(np.int16).reshape(shape)
    return change.cumsum(axis=2) * HU_STEP - 1024


def held(page: Path) -> list[dict[str, Any]]:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert match
    return json.loads(match[1])


def test_page_holds_the_voxels_to_half_a_step(case: Case, tmp_path: Path) -> None:
    [data] = held(write_page(tmp_path / "page.html", [case]))
    views = {"input": case.source.voxels, "output": case.result.voxels}
    for axis, plane in enumerate(data["planes"]):
        assert plane["index"] == list(range(case.source.shape[axis]))  # small enough to hold every slice
        for name, voxels in views.items():
            expected = np.moveaxis(voxels, axis, 0)
            if axis > 0:
                expected = expected[:, ::-1]
            found = unpack(plane[name], expected.shape)
            assert np.abs(found - expected.clip(-1024, 3071)).max() <= HU_STEP / 2 + 1e-3  # float32 ties
    assert [plane["name"] for plane in data["planes"]] == ["axial", "coronal", "sagittal"]


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.integers(-3000, 5000)))
def test_packing_keeps_any_hu(slices: np.ndarray) -> None:
    assert np.abs(unpack(pack(slices), slices.shape) - slices.clip(-1024, 3071)).max() <= HU_STEP / 2


@given(st.tuples(*[st.integers(1, 600)] * 3), st.integers(1, 10**8))
def test_slices_fit_the_limit(shape: tuple[int, int, int], voxels: int) -> None:
    count = slices_per_plane(shape, voxels)
    assert all(1 <= c <= n for c, n in zip(count, shape, strict=True))
    planes = [np.prod(shape) // n for n in shape]
    assert sum(c * p for c, p in zip(count, planes, strict=True)) <= max(voxels, 0) + sum(planes)


def test_large_volumes_keep_the_page_small(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    voxels = rng.normal(0, 30, (60, 128, 128)).astype(np.float32)  # noise: nothing packs worse
    source = Volume(voxels, Geometry((128, 128, 60)))
    limit = 1_000_000
    page = write_page(tmp_path / "page.html", [Case("noise", source, source, {})], max_bytes=limit)
    assert limit / 3 < page.stat().st_size < 1.1 * limit
    for plane in held(page)[0]["planes"]:
        assert 1 < len(plane["index"]) < plane["of"]
        steps = np.diff(plane["index"])
        assert steps.max() - steps.min() <= 1  # evenly spaced


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("signs", list(product((1, -1), repeat=3)))
def test_any_orientation_is_shown_with_left_back_and_head_in_place(
    order: tuple[int, ...], signs: tuple[int, ...]
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


def test_page_needs_nothing_from_outside_and_escapes_titles(case: Case, tmp_path: Path) -> None:
    evil = '</script><script>document.title = "broken in"</script>'
    other = Case(evil, case.source, case.result, case.metrics)
    text = write_page(tmp_path / "page.html", [case, other]).read_text()
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", text)
    assert evil not in text
    assert "&lt;/script&gt;" in text
    assert held(tmp_path / "page.html")[1]["title"] == evil
    assert text.count("not for diagnosis") == 3
    assert case.result.record is not None
    assert case.result.record.record_id in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html"]


def test_metrics_and_difference_keep_to_the_window_of_the_run(case: Case, tmp_path: Path) -> None:
    options = ReconstructOptions(codec="identity", device="cpu", window="soft")
    exact = Case.of(Path("x.nrrd"), case.source, reconstruct(case.source, options=options))
    assert exact.metrics["mae_hu"] < 0.5  # rounding to whole HU; against the whole input it would be hundreds
    assert held(write_page(tmp_path / "page.html", [exact]))[0]["window"] == [-175, 250]
    assert case.window.name == "wide"


def test_bad_calls_write_nothing(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one case"):
        write_page(tmp_path / "page.html", [])
    with pytest.raises(InputError, match="does not exist"):
        write_page(tmp_path / "no" / "page.html", [case])
    moved = Volume(case.result.voxels, Geometry((40, 48, 20)))
    with pytest.raises(InputError, match="must be equal"):
        write_page(tmp_path / "page.html", [Case("x", case.source, moved, {})])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium on this machine")
def test_a_browser_draws_the_page(case: Case, tmp_path: Path) -> None:
    from skimage.io import imread

    page = write_page(tmp_path / "page.html", [case])
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1200,1400",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000"]
    dom = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert 'data-ready="true"' in dom, dom[-2000:]
    assert '<p id="problem"></p>' in dom
    assert dom.count("<canvas") == 9
    assert "axial slice 11 of 20" in dom
    shot = tmp_path / "page.png"
    subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], capture_output=True, timeout=120)
    left, middle, right = np.array_split(imread(shot)[250:600, 20:1180, :3].astype(float), 3, axis=1)
    assert left.std() > 20  # the chest, not a black square
    assert np.abs(left.mean() - middle.mean()) < 10  # output beside input
    colour = np.abs(right[..., 0] - right[..., 2])
    assert colour.max() > 60  # the difference is in colour,
    assert np.abs(left[..., 0] - left[..., 2]).mean() < 5  # the input is grey
