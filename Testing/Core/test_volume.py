"""Geometry, padding, windows, and what counts as CT."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry, PadPlan
from ctgencore.intensity import WINDOWS, Window, round_hu
from ctgencore.volume import LabelMap, Volume
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

ANGLES = st.floats(-np.pi, np.pi)


def rotation(a: float, b: float, c: float, mirrored: bool) -> np.ndarray:
    """Any orientation from three Euler angles, left-handed when mirrored."""

    def turn(angle: float, i: int, j: int) -> np.ndarray:
        m = np.eye(3)
        m[[i, j], [i, j]] = np.cos(angle)
        m[i, j], m[j, i] = -np.sin(angle), np.sin(angle)
        return m

    return turn(a, 0, 1) @ turn(b, 1, 2) @ turn(c, 0, 1) @ np.diag([1, 1, -1 if mirrored else 1])


def ct_like(shape: tuple[int, int, int] = (5, 16, 17)) -> Volume:
    return Volume(np.linspace(-1000, 900, int(np.prod(shape))).reshape(shape), Geometry(shape[::-1]))


def test_affine_places_every_voxel() -> None:
    direction = rotation(0.3, -1.1, 2.0, mirrored=True)
    grid = Geometry((6, 5, 4), (0.7, 0.8, 2.5), (-100.0, 20.0, 300.0), tuple(direction.ravel()))
    index = np.array([5, 3, 2])
    expected = np.array(grid.origin_mm) + direction @ (index * [0.7, 0.8, 2.5])
    assert grid.affine_lps() @ [*index, 1] == pytest.approx([*expected, 1])
    assert grid.affine_ras() @ [*index, 1] == pytest.approx([-expected[0], -expected[1], expected[2], 1])
    assert grid.is_left_handed
    assert not grid.is_sheared()
    assert grid.shape_zyx == (4, 5, 6)


@pytest.mark.parametrize(
    ("columns", "codes"),
    [
        (np.eye(3), "LPS"),
        (np.diag([-1, -1, 1]), "RAS"),
        (np.eye(3)[:, [1, 2, 0]], "PSL"),
        (np.diag([1, -1, -1]), "LAI"),
    ],
)
def test_orientation(columns: np.ndarray, codes: str) -> None:
    assert Geometry((2, 3, 4), direction=tuple(columns.ravel())).orientation == codes


def test_shear_is_seen_only_above_header_digits() -> None:
    tilt = np.radians(0.01)
    sheared = np.array([[1, 0, 0], [0, 1, np.sin(tilt)], [0, 0, np.cos(tilt)]])
    assert Geometry((2, 2, 2), direction=tuple(sheared.ravel())).is_sheared()
    six_digits = rotation(0.2, 0.4, -0.7, mirrored=False).round(6)
    assert not Geometry((2, 2, 2), direction=tuple(six_digits.ravel())).is_sheared()


def test_grids_are_compared_at_their_corners() -> None:
    grid = Geometry((101, 2, 2))
    wider = Geometry((101, 2, 2), (1.001, 1.0, 1.0))
    assert grid.max_corner_distance_mm(wider) == pytest.approx(0.1)
    with pytest.raises(InputError, match=r"input and output.*within 1e-06 mm.*up to 0\.1 mm apart"):
        grid.assert_equal(wider, what="input and output")
    with pytest.raises(InputError, match=r"sizes \(x, y, z\) are \(101, 2, 2\) and \(101, 2, 3\)"):
        grid.assert_equal(Geometry((101, 2, 3)))
    grid.assert_equal(wider, tol_mm=0.11)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"size_xyz": (3, 0, 2)}, "three positive sizes"),
        ({"size_xyz": (3, 3, 2), "spacing_mm": (1, 0, 1)}, "Spacing must be three positive"),
        ({"size_xyz": (3, 3, 2), "origin_mm": (1, float("nan"), 1)}, "origin must be three finite"),
        ({"size_xyz": (3, 3, 2), "direction": (1, 0, 0, 0, 1, 0, 0, 1, 0)}, "unit vectors that"),
    ],
)
def test_impossible_grids_are_refused(arguments: dict, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Geometry(**arguments)


@settings(deadline=None)
@given(
    array=hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=4, max_side=7)),
    pads=st.lists(st.integers(0, 9), min_size=6, max_size=6),
    mode=st.sampled_from(["edge", "reflect"]),
)
def test_crop_is_the_exact_inverse_of_padding(array: np.ndarray, pads: list[int], mode: str) -> None:
    plan = PadPlan(tuple(pads[:3]), tuple(pads[3:]))
    padded = plan.apply(array, mode)
    expected = np.pad(array, [(0, 0)] * (array.ndim - 3) + list(zip(pads[:3], pads[3:], strict=True)), mode=mode)
    np.testing.assert_array_equal(padded, expected)
    np.testing.assert_array_equal(plan.crop(padded), array)
    as_tensor = plan.apply(torch.from_numpy(array), mode)
    np.testing.assert_array_equal(as_tensor.numpy(), expected)
    np.testing.assert_array_equal(plan.crop(as_tensor).numpy(), array)


@pytest.mark.parametrize("name", list(WINDOWS))
def test_every_whole_hu_survives_the_unit_range(name: str) -> None:
    window = WINDOWS[name]
    hu = np.arange(window.lo, window.hi + 1, dtype=np.int16)
    unit = window.to_unit(hu)
    assert unit.dtype == np.float32
    assert (unit.min(), unit.max()) == pytest.approx((-1, 1), abs=2e-7)
    np.testing.assert_array_equal(round_hu(window.to_hu(unit)), hu)
    tensor = window.to_unit(torch.from_numpy(hu))
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), unit)
    np.testing.assert_array_equal(round_hu(window.to_hu(tensor)).numpy(), hu)


def test_windows_clip_and_leave_their_input_alone() -> None:
    hu = np.array([-3024.0, 3071.0], np.float32)
    np.testing.assert_array_equal(WINDOWS["soft"].to_unit(hu), [-1, 1])
    np.testing.assert_array_equal(hu, [-3024, 3071])
    half = torch.tensor([0.5], dtype=torch.bfloat16)
    assert WINDOWS["wide"].to_hu(half).dtype == torch.float32


def test_rounding_is_half_to_even_and_clipped() -> None:
    values = np.array([-0.5, 0.5, 1.5, -1.5, 2.49, 40000, -40000])
    expected = [0, 0, 2, -2, 2, 32767, -32768]
    assert round_hu(values).tolist() == expected
    assert round_hu(torch.from_numpy(values)).tolist() == expected
    assert round_hu(values).dtype == np.int16


@pytest.mark.parametrize("value", ["-1000 400", "-1000,400", (-1000, 400), Window("x", -1000, 400)])
def test_windows_are_parsed(value: object) -> None:
    window = Window.parse(value)  # type: ignore[arg-type]
    assert (window.lo, window.hi) == (-1000, 400)
    assert Window.parse(" Lung ") is WINDOWS["lung"]


@pytest.mark.parametrize(
    ("value", "text"),
    [("bone", "one of wide, soft, lung or two HU"), ("1 2 3", "two HU"), ("400 -1000", "LO < HI"), ("nan 3", "finite")],
)
def test_bad_windows_are_refused(value: str, text: str) -> None:
    with pytest.raises(InputError, match=text):
        Window.parse(value)


def test_repr_tells_size_mm_orientation_and_range() -> None:
    volume = Volume(np.linspace(-1024, 3071, 24).reshape(2, 3, 4), Geometry((4, 3, 2), (0.7, 0.7, 1.0)))
    assert repr(volume) == "Volume(2x3x4 ZYX, 1.00x0.70x0.70 mm, LPS, HU [-1024, 3071])"
    assert repr(LabelMap(np.eye(3, dtype=np.uint8)[None], Geometry((3, 3, 1)))) == (
        "LabelMap(1x3x3 ZYX, 1.00x1.00x1.00 mm, LPS, 1 labels)"
    )


def test_voxels_must_fit_the_grid() -> None:
    with pytest.raises(InputError, match=r"shape \(3, 3, 3\) .* do not fit a grid of \(2, 3, 4\)"):
        Volume(np.zeros((3, 3, 3)), Geometry((4, 3, 2)))
    with pytest.raises(InputError, match=r"three-dimensional .* \(1, 2, 3, 4\)"):
        Volume(np.zeros((1, 2, 3, 4)), Geometry((4, 3, 2)))
    with pytest.raises(InputError, match="holds integers; got float64"):
        LabelMap(np.zeros((2, 3, 4)), Geometry((4, 3, 2)))


def test_new_voxels_keep_the_grid() -> None:
    volume = ct_like()
    volume.meta["kernel"] = "STANDARD"
    other = volume.with_voxels(volume.voxels + 1)
    assert other.geometry is volume.geometry
    assert other.meta == volume.meta
    assert other.record is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda v: v * np.nan, "1360 of 1360 are NaN"),
        (lambda v: np.where(v > 800, np.inf, v), r"finite HU; \d+ of 1360"),
        (lambda v: v * 0 - 1000, "every voxel is -1000"),
        (lambda v: (v + 1000) / 1900, "as after normalization"),
        (lambda v: (v + 1000) * 255 / 1900, "label map or an 8-bit picture"),
        (lambda v: v / 20 - 1000, "everything would be air"),
        (lambda v: v + 5000, "everything would be metal"),
        (lambda v: v * 1e6, "which no scanner stores"),
        (lambda v: v[:, :7], "at least 8x8 pixels; got 7x17"),
    ],
)
def test_what_cannot_be_ct_is_refused(change, text: str) -> None:
    voxels = change(ct_like().voxels)
    with pytest.raises(InputError, match=text):
        Volume(voxels, Geometry(voxels.shape[::-1])).check_ct()


def test_doubtful_ct_is_warned_about() -> None:
    assert ct_like().check_ct() == []
    stored = np.clip((ct_like().voxels + 1024) * 4, 0, 4095)
    (warning,) = Volume(stored, Geometry(stored.shape[::-1])).check_ct()
    assert "rescale intercept (usually -1024) may be missing" in warning
    wide = ct_like().voxels * 40  # -40000 would be refused, so only the top leaves int16
    (warning,) = Volume(wide.clip(-1000), Geometry(wide.shape[::-1])).check_ct()
    assert "clipped to int16 [-32768, 32767]" in warning


def test_this_layer_loads_no_torch() -> None:
    code = (
        "import sys, ctgencore.geometry, ctgencore.volume, ctgencore.intensity, ctgencore.io, ctgencore.provenance, "
        "ctgencore.phantom; print([m for m in ('torch', 'scipy', 'nibabel', 'pydicom') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
