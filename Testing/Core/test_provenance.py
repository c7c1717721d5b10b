"""Records, tags, and whether a file says truly what it is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from ctgencore import io
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.provenance import RunRecord, fingerprint, verify
from ctgencore.volume import Volume
from test_volume import ct_like, rotation

SUFFIXES = [".nrrd", ".mha", ".nii", ".nii.gz"]


def result(**changes) -> Volume:
    """An oblique volume far from the origin, where float32 headers round most."""
    volume = ct_like()
    direction = tuple(rotation(0.3, 0.2, 0.1, False).ravel())
    grid = Geometry(volume.geometry.size_xyz, (0.7031, 0.7031, 2.49999), (-1234.56789, 77.7, 999.98765), direction)
    record = RunRecord(
        "reconstruct",
        codec="embedded",
        weights=[{"name": "embedded.safetensors", "sha256": "ab" * 32, "license": "Apache-2.0"}],
        options={"window": "wide", "triplanar": False},
        inputs=[fingerprint(volume)],
        timings_s={"encode": 1.25},
    )
    return Volume(volume.voxels, grid, record=replace(record, **changes))


def test_record_round_trip_and_id() -> None:
    record = result().record
    assert record is not None
    again = RunRecord.from_json(record.to_json())
    assert again == record
    assert again.record_id == record.record_id
    assert len({record.record_id, replace(record, seed=1).record_id, replace(record, codec="x").record_id}) == 3
    assert record.created_utc.endswith("+00:00")


def test_changed_records_are_refused() -> None:
    content = json.loads(RunRecord("reconstruct").to_json())
    with pytest.raises(InputError, match="changed after it was written"):
        RunRecord.from_json(json.dumps({**content, "codec": "other"}))
    with pytest.raises(InputError, match=r"schema ctgen-record/1 is needed; got 'ctgen-record/9'"):
        RunRecord.from_json(json.dumps({**content, "schema": "ctgen-record/9"}))
    for text in ("", "[]", "{}", '{"schema": "ctgen-record/1"}', "3"):
        with pytest.raises(InputError, match="Not a CTGen record"):
            RunRecord.from_json(text)


def test_tags_are_short_ascii_and_say_synthetic() -> None:
    record = RunRecord("reconstruct", codec="embedded")
    assert record.tag() == f"CTGen reconstruct embedded {record.record_id[:8]}"
    long = RunRecord("generate", codec="médical-" * 30, synthetic=True)
    assert len(long.tag()) <= 79
    assert long.tag().isascii()
    assert long.tag().startswith("CTGen SYNTHETIC generate ")
    assert long.tag().endswith(" " + long.record_id[:8])


def test_inputs_are_named_without_folders(ct_data: Path) -> None:
    found = fingerprint(io.read(ct_data / "IBSI_PAT2" / "ct.nii.gz"))
    assert found["name"] == "ct.nii.gz"
    assert len(found["sha256"]) == 64
    assert found["geometry"]["size_xyz"] == [141, 138, 41]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_untouched_result(tmp_path: Path, suffix: str) -> None:
    path = io.write(result(), tmp_path / f"r{suffix}")
    found = verify(path)
    assert (found.verdict, found.voxels_match_record, found.sidecar_found) == ("processed", True, True)
    assert found.by == "reconstruct embedded"
    assert "Voxels and grid are as written" in found.message
    synthetic = verify(io.write(result(synthetic=True, task="generate"), tmp_path / f"s{suffix}"))
    assert synthetic.verdict == "synthetic"
    assert "SYNTHETIC" in synthetic.message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_sidecar_lost(tmp_path: Path, suffix: str) -> None:
    for name, synthetic in (("processed", False), ("synthetic", True)):
        path = io.write(result(synthetic=synthetic), tmp_path / f"r{suffix}")
        (tmp_path / "r.json").unlink()
        found = verify(path)
        assert (found.verdict, found.how, found.voxels_match_record) == (name, "header tag only", None)
        assert found.by == "reconstruct embedded"
        assert "cannot be told" in found.message


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_renamed(tmp_path: Path, suffix: str) -> None:
    path = io.write(result(), tmp_path / f"r{suffix}")
    io.write(result(codec="other").with_voxels(ct_like().voxels + 1, RunRecord("augment")), tmp_path / "another.nrrd")
    found = verify(path.rename(tmp_path / f"holiday{suffix}"))
    assert found.sidecar == tmp_path / "r.json"
    assert (found.verdict, found.voxels_match_record) == ("processed", True)
    shutil.copy(tmp_path / f"holiday{suffix}", tmp_path / f"another{suffix}")  # beside another file's record
    assert verify(tmp_path / f"another{suffix}").by == "reconstruct embedded"


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_voxels_or_grid_changed_afterwards(tmp_path: Path, suffix: str) -> None:
    path = io.write(result(), tmp_path / f"r{suffix}")
    image = sitk.ReadImage(str(path))
    tag = io.read(path).meta["ctgen_tag"]
    image.SetMetaData("ITK_FileNotes", tag)
    for change in ("voxel", "grid"):
        changed = sitk.Image(image)
        if change == "voxel":
            changed[0, 0, 0] = image[0, 0, 0] + 1
        else:
            changed.SetOrigin(np.array(image.GetOrigin()) + 0.5)
        sitk.WriteImage(changed, str(path))
        found = verify(path)
        assert (found.verdict, found.voxels_match_record) == ("processed", False)
        assert "CHANGED since" in found.message


def test_header_tag_stripped(tmp_path: Path) -> None:
    path = io.write(result(), tmp_path / "r.nrrd")
    image = sitk.ReadImage(str(path))
    image.EraseMetaData("CTGen")
    sitk.WriteImage(image, str(path))
    assert verify(path).how == "record only (the header tag is gone)"
    assert verify(path.rename(tmp_path / "x.nrrd")).voxels_match_record is True
    image += 1
    sitk.WriteImage(image, str(path))  # under the name it was written to, stripped and changed
    assert verify(path).voxels_match_record is False


def test_clinical_ct_is_unmarked(ct_data: Path, tmp_path: Path) -> None:
    source = ct_data / "IBSI_PAT2" / "ct.nii.gz"
    found = verify(source)
    assert (found.verdict, found.tag, found.voxels_match_record) == ("unmarked", None, None)
    assert "absence of a mark proves nothing" in found.message
    shutil.copy(source, tmp_path / "r.nii.gz")
    io.write(result(), tmp_path / "r.nrrd")  # its record r.json lies under the clinical file's name too
    assert verify(tmp_path / "r.nii.gz").verdict == "unmarked"
    assert verify(ct_data / "TotalSegmentator_example_ct_dicom" / "dicom").verdict == "unmarked"


def test_saving_twice_keeps_both_verifiable(tmp_path: Path) -> None:
    volume = result()
    first, second = volume.save(tmp_path / "r.nrrd"), volume.save(tmp_path / "r.nii.gz")
    assert verify(first).voxels_match_record is True
    assert verify(second).voxels_match_record is True


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        verify(tmp_path / "none.nrrd")
