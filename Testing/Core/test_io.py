"""Files in, files out: the grid, the HU, and every way in which a file can be wrong."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.intensity import WINDOWS, round_hu
from ctgencore.provenance import RunRecord
from ctgencore.volume import LabelMap, Volume
from hypothesis import given, settings
from hypothesis import strategies as st
from test_volume import ANGLES, ct_like, rotation

WRITABLE = [".nrrd", ".mha", ".nii", ".nii.gz"]
SMALL = ["IBSI_PAT2", "TotalSegmentator_example_ct", "TotalSegmentator_aorta", "elastix_3DCT_lung_baseline"]


def random_voxels(shape: tuple[int, int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1024, 3072, shape).astype(np.float32)


def save_nifti(path: Path, affine: np.ndarray | None, data: np.ndarray | None = None, **codes: int) -> Path:
    data = random_voxels((6, 7, 8)).astype(np.int16) if data is None else data
    image = nib.Nifti1Image(data, affine)
    if affine is not None:
        image.set_sform(affine, codes.get("sform", 1))
        image.set_qform(affine, codes.get("qform", 1)) if "qform" in codes else image.set_qform(None, 0)
    nib.save(image, path)
    return path


# ---- the grid ----


@settings(max_examples=40, deadline=None)
@given(
    angles=st.tuples(ANGLES, ANGLES, ANGLES),
    mirrored=st.booleans(),
    spacing=st.tuples(*[st.floats(0.05, 12)] * 3),
    origin=st.tuples(*[st.floats(-2000, 2000)] * 3),
    size=st.tuples(*[st.integers(2, 9)] * 3),
)
def test_any_grid_survives_every_format(tmp_path_factory, angles, mirrored, spacing, origin, size) -> None:
    direction = tuple(rotation(*angles, mirrored).ravel())
    volume = Volume(random_voxels(size[::-1]), Geometry(size, spacing, origin, direction))
    folder = tmp_path_factory.mktemp("grid")
    for suffix in WRITABLE:
        back = io.read(io.write(volume, folder / f"v{suffix}"))
        float32_mm = 2e-7 * (np.abs(volume.geometry.affine_lps()).max() + 100) + 5e-6 * max(spacing) * max(size)
        volume.geometry.assert_equal(back.geometry, 1e-6 if suffix in (".nrrd", ".mha") else 1e-4 + 10 * float32_mm)
        assert back.geometry.is_left_handed == mirrored
        np.testing.assert_array_equal(back.voxels, volume.voxels)
        if suffix == ".nii":  # an independent reader finds the same place
            np.testing.assert_allclose(
                nib.load(folder / "v.nii").affine, volume.geometry.affine_ras(), rtol=1e-5, atol=1e-3
            )
    shutil.rmtree(folder)


def test_sheared_grids_survive_nrrd_and_mha_and_are_refused_for_nifti(tmp_path: Path) -> None:
    tilt = np.radians(15)
    direction = np.array([[1, 0, 0], [0, 1, np.sin(tilt)], [0, 0, np.cos(tilt)]])
    volume = Volume(random_voxels((4, 5, 6)), Geometry((6, 5, 4), (0.7, 0.7, 2.5), direction=tuple(direction.ravel())))
    for suffix in (".nrrd", ".mha"):
        back = io.read(io.write(volume, tmp_path / f"v{suffix}"))
        volume.geometry.assert_equal(back.geometry)
        assert back.geometry.is_sheared()
    for suffix in (".nii", ".nii.gz"):
        with pytest.raises(InputError, match=r"NIfTI cannot hold this sheared grid.*\.nrrd or \.mha"):
            io.write(volume, tmp_path / f"s{suffix}")
    slight = Geometry((64, 64, 300), direction=(1, 0, 0, 0, 1, 5e-5, 0, 0, 1))  # rounded cosines, 0.008 mm
    tall = Volume(random_voxels((300, 64, 64)), slight)
    with pytest.raises(InputError, match=r"would move the grid by up to 0\.00\d+ mm.*Write \.nrrd or \.mha"):
        io.write(tall, tmp_path / "s.nii")
    assert not list(tmp_path.glob("s.*"))
    slight.assert_equal(io.read(io.write(tall, tmp_path / "s.nrrd")).geometry)


@pytest.mark.parametrize("case", SMALL)
def test_real_ct_equals_nibabel_and_is_unchanged_by_writing(ct_data: Path, tmp_path: Path, case: str) -> None:
    source = ct_data / case / "ct.nii.gz"
    volume = io.read(source)
    oracle = nib.load(source)
    np.testing.assert_allclose(volume.geometry.affine_ras(), oracle.affine, atol=2e-4)
    np.testing.assert_array_equal(volume.voxels, np.asarray(oracle.dataobj).T.astype(np.float32))
    assert volume.check_ct() == []
    for suffix in WRITABLE:
        written = io.write(volume, tmp_path / f"out{suffix}")
        back = sitk.ReadImage(str(written))
        grid = Geometry(back.GetSize(), back.GetSpacing(), back.GetOrigin(), back.GetDirection())
        volume.geometry.assert_equal(grid, 1e-6 if suffix in (".nrrd", ".mha") else 2e-4)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(back), volume.voxels)


def test_nifti_forms_are_checked_in_the_header_itself(tmp_path: Path) -> None:
    sheared = np.diag([1.0, 1.0, 2.0, 1.0])
    sheared[0, 2] = 0.3
    with pytest.raises(InputError, match=r"sform affine is sheared \(voxel axes 81\.\d+ degrees.*NRRD"):
        io.read(save_nifti(tmp_path / "a.nii.gz", sheared))
    path = save_nifti(tmp_path / "b.nii", np.diag([0.7, 0.7, 2, 1]))
    raw = bytearray(path.read_bytes())
    raw[80:92] = np.array([1, 1, 1], "<f4").tobytes()  # pixdim no longer agrees with sform
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"contradicts itself: sform"):
        io.read(path)
    (warning,) = io.read(save_nifti(tmp_path / "c.nii", None)).warnings
    assert "left and right are a guess" in warning
    image = nib.Nifti1Image(random_voxels((6, 7, 8)).astype(np.int16), None)
    image.set_sform(np.diag([0.7, 0.7, 2, 1]), 2)
    image.set_qform(np.diag([-0.7, -0.7, 2, 1]), 1)
    nib.save(image, tmp_path / "d.nii")
    (warning,) = io.read(tmp_path / "d.nii").warnings
    assert "qform and sform differ" in warning
    path = save_nifti(tmp_path / "e.nii", np.diag([0.7, 0.7, 2, 1]))
    raw = bytearray(path.read_bytes())
    raw[123] = 1  # metres
    path.write_bytes(raw)
    with pytest.raises(InputError, match="must be in mm"):
        io.read(path)


@pytest.mark.parametrize("order", ["<", ">"])
def test_nifti_scaling_is_applied_once(tmp_path: Path, order: str) -> None:
    stored = (random_voxels((6, 7, 8)) + 1024).astype(order + "i2")
    affine = nib.affines.from_matvec(rotation(0.1, 0.2, 0.3, False) * [0.7, 0.8, 2.5], [-100, 50, 1000])
    image = nib.Nifti1Image(stored, affine, nib.Nifti1Header(endianness=order))
    image.set_qform(affine, 1)
    image.header.set_slope_inter(0.5, -1024)
    nib.save(image, tmp_path / "v.nii.gz")
    volume = io.read(tmp_path / "v.nii.gz")
    np.testing.assert_array_equal(volume.voxels, stored.T * 0.5 - 1024)  # once, and not twice
    np.testing.assert_allclose(volume.geometry.affine_ras(), affine, atol=1e-3)
    back = io.read(io.write(volume, tmp_path / "w.nii.gz"))
    np.testing.assert_array_equal(back.voxels, np.rint(stored.T * 0.5 - 1024))
    np.testing.assert_array_equal(nib.load(tmp_path / "w.nii.gz").get_fdata().T, back.voxels)


def test_nifti_2_is_named(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(random_voxels((6, 7, 8)).astype(np.int16), np.eye(4)), tmp_path / "v.nii.gz")
    with pytest.raises(InputError, match="is NIfTI-2, which ITK does not read"):
        io.read(tmp_path / "v.nii.gz")


def test_identity_path_changes_no_hu(ct_data: Path, tmp_path: Path) -> None:
    volume = io.read(ct_data / "IBSI_PAT2" / "ct.nii.gz")
    window = WINDOWS["wide"]
    result = volume.with_voxels(window.to_hu(window.to_unit(volume.voxels)))
    back = io.read(result.save(tmp_path / "out.nii.gz"))
    np.testing.assert_array_equal(back.voxels, volume.voxels.clip(window.lo, window.hi))


def test_writing_rounds_half_to_even_and_clips(tmp_path: Path) -> None:
    values = np.array([-0.5, 0.5, 1.5, 2.5, 40000, -40000, 1.49, -1.51], np.float32).reshape(2, 2, 2)
    back = io.read(io.write(Volume(values, Geometry((2, 2, 2))), tmp_path / "v.nrrd"))
    np.testing.assert_array_equal(back.voxels, round_hu(values))
    assert back.voxels.ravel().tolist() == [0, 0, 2, 2, 32767, -32768, 1, -2]


# ---- files that are not a CT volume ----


def test_missing_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.nii\.gz does not exist"):
        io.read(tmp_path / "none.nii.gz")
    (tmp_path / "x.nii.gz").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"x\.nii\.gz is not a NIfTI file"):
        io.read(tmp_path / "x.nii.gz")
    (tmp_path / "x.mha").write_bytes(b"hello")
    with pytest.raises(InputError, match=r"x\.mha: cannot be read"):
        io.read(tmp_path / "x.mha")
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(InputError, match=r"x\.png: not a volume that CTGen reads"):
        io.read(tmp_path / "x.png")
    (tmp_path / "empty.nrrd").touch()
    with pytest.raises(InputError, match=r"empty\.nrrd: cannot be read"):
        io.read(tmp_path / "empty.nrrd")


def test_folder_of_pictures(tmp_path: Path) -> None:
    for i in range(3):
        sitk.WriteImage(sitk.GetImageFromArray(np.full((8, 8), i, np.uint8)), str(tmp_path / f"slice{i}.png"))
    with pytest.raises(InputError, match=r"no DICOM image in this folder \(it holds 3 files: \.png\)"):
        io.read(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds 0 files: nothing"):
        io.read(tmp_path / "empty")


def test_time_series_color_and_complex(tmp_path: Path) -> None:
    save_nifti(tmp_path / "4d.nii.gz", np.eye(4), np.zeros((4, 5, 6, 3), np.int16))
    with pytest.raises(InputError, match=r"has 3 dimensions; this file has 4, sizes \(4, 5, 6, 3\)"):
        io.read(tmp_path / "4d.nii.gz")
    sitk.WriteImage(sitk.Image([4, 5, 6], sitk.sitkVectorUInt8, 3), str(tmp_path / "rgb.mha"))
    with pytest.raises(InputError, match=r"one number per voxel; this file has 3 \(color or vectors\)"):
        io.read(tmp_path / "rgb.mha")
    sitk.WriteImage(sitk.Image([9, 9], sitk.sitkInt16), str(tmp_path / "2d.nrrd"))
    with pytest.raises(InputError, match="this file has 2"):
        io.read(tmp_path / "2d.nrrd")
    save_nifti(tmp_path / "c.nii", np.eye(4), np.zeros((4, 5, 6), np.complex64))
    with pytest.raises(InputError, match=r"complex|number per voxel"):
        io.read(tmp_path / "c.nii")
    one = save_nifti(tmp_path / "one.nii", np.eye(4), random_voxels((4, 5, 6)).astype(np.int16)[..., None])
    assert io.read(one).shape == (6, 5, 4)  # a fourth axis of length 1 says nothing


@pytest.mark.parametrize("suffix", WRITABLE)
def test_cut_off_and_damaged_files(tmp_path: Path, suffix: str) -> None:
    path = io.write(Volume(random_voxels((8, 32, 32)), Geometry((32, 32, 8))), tmp_path / f"v{suffix}")
    whole = path.read_bytes()
    for keep in (len(whole) - 9, len(whole) // 2, 400, 200, 30):
        path.write_bytes(whole[:keep])
        with pytest.raises(InputError, match=r"cut off|damaged|cannot be read|read the NIfTI header|not a NIfTI file"):
            io.read(path)
    if suffix != ".nii":  # compressed: a checksum tells
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 0x55
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|cannot be read"):
            io.read(path)


def test_other_modalities_by_their_header(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(random_voxels((4, 9, 9)).astype(np.int16))
    image.SetMetaData("Modality", "MR")
    sitk.WriteImage(image, str(tmp_path / "mr.nrrd"))
    with pytest.raises(InputError, match=r"mr\.nrrd: CTGen works on CT; the header's modality is MR"):
        io.read(tmp_path / "mr.nrrd")


def test_detached_headers_are_read_but_not_written(tmp_path: Path) -> None:
    volume = ct_like()
    for suffix, instead in ((".mhd", r"\.mha"), (".nhdr", r"\.nrrd")):
        image = sitk.GetImageFromArray(round_hu(volume.voxels))
        sitk.WriteImage(image, str(tmp_path / f"v{suffix}"), useCompression=True)
        np.testing.assert_array_equal(io.read(tmp_path / f"v{suffix}").voxels, round_hu(volume.voxels))
        with pytest.raises(InputError, match=rf"keeps voxels in a second file.*Write {instead}"):
            io.write(volume, tmp_path / f"w{suffix}")
    (tmp_path / "v.zraw").write_bytes((tmp_path / "v.zraw").read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        io.read(tmp_path / "v.mhd")


def test_nrrd_from_another_program(tmp_path: Path) -> None:
    fields = "NRRD0004\ntype: short\ndimension: 3\nsizes: 4 3 2\nendian: little\nencoding: raw\n"
    voxels = np.arange(24, dtype="<i2")
    placed = "space: right-anterior-superior\nspace directions: (-1,0,0) (0,0,2) (0,3,0)\nspace origin: (10,20,30)\n"
    (tmp_path / "ras.nrrd").write_bytes((fields + placed + "\n").encode() + voxels.tobytes())
    volume = io.read(tmp_path / "ras.nrrd")
    assert volume.geometry == Geometry((4, 3, 2), (1, 2, 3), (-10, -20, 30), (1, 0, 0, 0, 0, -1, 0, 1, 0))
    np.testing.assert_array_equal(volume.voxels.ravel(), voxels)
    assert volume.warnings == ()
    (tmp_path / "bare.nrrd").write_bytes((fields + "spacings: 1 2 3\n\n").encode() + voxels.tobytes())
    assert "states no space; left and right are a guess" in io.read(tmp_path / "bare.nrrd").warnings[0]


# ---- labels ----


def test_labels_keep_their_type_and_grid(ct_data: Path, tmp_path: Path) -> None:
    labels = io.read_labels(ct_data / "TotalSegmentator_example_ct" / "seg.nii.gz")
    ct = io.read(ct_data / "TotalSegmentator_example_ct" / "ct.nii.gz")
    labels.geometry.assert_equal(ct.geometry, 1e-3)
    assert labels.voxels.dtype == np.uint8
    back = io.read_labels(labels.save(tmp_path / "seg.nrrd"))
    assert back.voxels.dtype == np.uint8
    np.testing.assert_array_equal(back.voxels, labels.voxels)
    with pytest.raises(InputError, match="label map or an 8-bit picture"):
        io.read(ct_data / "TotalSegmentator_example_ct" / "seg.nii.gz").check_ct()


def test_labels_are_whole_numbers(tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(np.array([[[0.0, 1.0], [2.0, 3.0]]]))
    sitk.WriteImage(image, str(tmp_path / "whole.nrrd"))
    assert io.read_labels(tmp_path / "whole.nrrd").voxels.dtype == np.int32
    sitk.WriteImage(image + 0.5, str(tmp_path / "half.nrrd"))
    with pytest.raises(InputError, match="labels are whole numbers"):
        io.read_labels(tmp_path / "half.nrrd")


# ---- names and folders ----


def test_names(tmp_path: Path) -> None:
    assert io.output_name("a/chest.v2.nii.gz", "_recon") == "chest.v2_recon.nii.gz"
    assert io.output_name("CHEST.NRRD", "_r") == "CHEST_r.nrrd"
    assert io.output_name("x.mhd", "_r") == "x_r.mha"
    (tmp_path / "series").mkdir()
    assert io.output_name(tmp_path / "series", "_r") == "series_r.nrrd"
    assert io.output_name(tmp_path / "series" / "1.dcm", "_r") == "series_r.nrrd"
    assert io.sidecar_path("b/chest_recon.nii.gz") == Path("b/chest_recon.json")


def test_inputs_below_a_folder(ct_data: Path) -> None:
    found = [path.relative_to(ct_data).as_posix() for path in io.list_volumes(ct_data)]
    assert len(found) == 11
    assert "LUNG1-002/dicom" in found  # and not its parent, which holds an RTSTRUCT
    assert "IBSI_PAT2/ct.nii.gz" in found
    assert not [path for path in found if "seg" in path]
    with pytest.raises(InputError, match="is not a folder"):
        io.list_volumes(ct_data / "README.md")


# ---- atomic writing ----


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    volume = ct_like()
    volume.record = RunRecord("reconstruct")
    with pytest.raises(InputError, match=r"must end in one of"):
        io.write(volume, tmp_path / "v.tif")
    with pytest.raises(InputError, match=r"does not exist\. Make the folder"):
        io.write(volume, tmp_path / "none" / "v.nrrd")
    bad = volume.with_voxels(np.where(volume.voxels > 0, np.nan, volume.voxels))
    with pytest.raises(InputError, match="NaN or infinite"):
        io.write(bad, tmp_path / "v.nrrd")
    (tmp_path / "w.json").write_text('{"EchoTime": 1}')
    with pytest.raises(InputError, match=r"w\.json exists and is not a CTGen record"):
        io.write(volume, tmp_path / "w.nii.gz")
    assert [path.name for path in tmp_path.iterdir()] == ["w.json"]


@pytest.mark.parametrize("suffix", WRITABLE)
def test_full_disk(tmp_path: Path, suffix: str) -> None:
    code = f"""
import resource, signal, numpy as np
from ctgencore import io; from ctgencore.volume import Volume; from ctgencore.geometry import Geometry
from ctgencore.errors import InputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
try:
    io.write(Volume(np.random.default_rng(0).normal(0, 300, (16, 64, 64)), Geometry((64, 64, 16))), 'v{suffix}')
except InputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"Cannot write v{suffix}" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", range(4))
def test_a_kill_never_leaves_a_wrong_sidecar(tmp_path: Path, step: int) -> None:
    """Kill the writer for real before its step-th change of names; the old result is being replaced."""
    old = ct_like()
    old.record = RunRecord("reconstruct", codec="old")
    io.write(old, tmp_path / "v.nrrd")
    code = f"""
import os, signal, pathlib
from ctgencore import io; from ctgencore.provenance import RunRecord
calls = [0]
def dying(change):
    def wrapped(first, *rest, **named):
        renames = not pathlib.Path(first).name.startswith('.') or len(rest)  # and is no clean-up of a temporary
        if renames and calls[0] == {step}: os.kill(os.getpid(), signal.SIGKILL)
        calls[0] += renames
        return change(first, *rest, **named)
    return wrapped
v = io.read('v.nrrd')
v = v.with_voxels(v.voxels + 7, RunRecord('reconstruct', codec='new'))
os.replace, pathlib.Path.unlink = dying(os.replace), dying(pathlib.Path.unlink)
io.write(v, 'v.nrrd')
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == (-signal.SIGKILL if step < 3 else 0), done.stderr
    is_new = bool(io.read(tmp_path / "v.nrrd").voxels[0, 0, 0] == old.voxels[0, 0, 0] + 7)
    assert is_new == (step >= 2)
    assert (tmp_path / "v.json").exists() == (step in (0, 3))
    if step in (0, 3):
        assert json.loads((tmp_path / "v.json").read_text())["codec"] == ("new" if is_new else "old")
    assert [path.name for path in io.list_volumes(tmp_path)] == ["v.nrrd"]  # leftovers of a kill are hidden


def test_a_result_without_record_takes_the_old_record_away(tmp_path: Path) -> None:
    volume = ct_like()
    volume.record = RunRecord("reconstruct")
    io.write(volume, tmp_path / "v.nrrd")
    io.write(volume.with_voxels(volume.voxels + 1), tmp_path / "v.nrrd")
    assert os.listdir(tmp_path) == ["v.nrrd"]
    (tmp_path / "v.json").write_text("{}")  # somebody else's file stays
    io.write(volume.with_voxels(volume.voxels + 1), tmp_path / "v.nrrd")
    assert sorted(os.listdir(tmp_path)) == ["v.json", "v.nrrd"]


def test_header_tags_lie_where_other_readers_look(tmp_path: Path) -> None:
    volume = ct_like()
    volume.record = RunRecord("reconstruct", codec="embedded")
    for suffix in WRITABLE:
        path = io.write(volume, tmp_path / f"v{suffix}")
        assert volume.record is not None
        tag = volume.record.tag()
        if suffix.startswith(".nii"):
            raw = gzip.decompress(path.read_bytes()) if suffix == ".nii.gz" else path.read_bytes()
            assert raw[148:228].rstrip(b"\0").decode("ascii") == tag
            assert raw[68:70] == b"\0\0"  # intent_code
            header = nib.load(path).header
            assert header["descrip"].item().decode() == tag
            assert (header["qform_code"], header["sform_code"]) == (1, 1)
        else:
            image = sitk.ReadImage(str(path))
            assert image.GetMetaData("CTGen") == tag
        assert io.read(path).meta["ctgen_tag"] == tag


def test_label_map_from_voxels(tmp_path: Path) -> None:
    labels = LabelMap(np.arange(24, dtype=np.int16).reshape(2, 3, 4), Geometry((4, 3, 2)), {1: "liver"})
    assert io.read_labels(io.write(labels, tmp_path / "l.nii.gz")).voxels.dtype == np.int16
