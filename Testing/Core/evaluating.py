"""Small cases to evaluate, for tests: good pairs, and one of every kind of trouble."""

from __future__ import annotations

import csv
import dataclasses
import gzip
from pathlib import Path

import numpy as np
from ctgencore import io, phantom
from ctgencore.geometry import Geometry
from ctgencore.volume import LabelMap, Volume

SHAPE = (24, 48, 48)
GRID = Geometry((48, 48, 24), (1.5, 1.5, 2.0))
TROUBLES = {  # case -> words of its error
    "size.nrrd": "sizes (x, y, z) are (48, 48, 24) and (48, 48, 23)",
    "spacing.nrrd": "The spacings are",
    "nan.mha": "NaN or infinite",
    "damaged.nrrd": "damaged.nrrd",
    "short.nii.gz": "cut off",
    "slice.nrrd": "one slice",
    "missing.nrrd": "does not exist",
    "empty.nrrd": "every voxel is 0",
}


def drawn(seed: int = 0) -> tuple[Volume, LabelMap]:
    """A chest and its organs, shrunk to a few centimeters: features at a fixed spacing are quick to compute then."""
    chest = phantom.chest(SHAPE, seed=seed)
    return Volume(chest.ct.voxels, GRID), LabelMap(chest.organs.voxels, GRID)


def noisy(volume: Volume, seed: int, sigma: float = 20.0) -> Volume:
    """The volume with a bias of 2 HU and noise."""
    noise = np.random.default_rng(seed).normal(2, sigma, volume.shape)
    return volume.with_voxels(np.rint(volume.voxels + noise).astype(np.float32))


def write_pairs(folder: Path) -> Path:
    """Three CTs, their noisy doubles in another format, and labels, in folders."""
    for name in ("reference", "test", "labels"):
        (folder / name).mkdir()
    for seed in range(3):
        ct, organs = drawn(seed)
        ct.save(folder / "reference" / f"c{seed}.nii.gz")
        organs.save(folder / "labels" / f"c{seed}.nrrd")
        noisy(ct, seed).save(folder / "test" / f"c{seed}_recon.mha")
    return folder


def write_troubles(folder: Path, data: Path) -> Path:
    """A manifest with two good cases (``good`` and ``fine``) and all of :data:`TROUBLES`."""
    good = io.read(data / "reference" / "c0.nii.gz")
    nan = good.voxels.copy()
    nan[2, 3, 4] = np.nan
    near = dataclasses.replace(GRID, spacing_mm=(1.5, 1.5, 2.01))
    Volume(good.voxels[:-1], Geometry((48, 48, 23), GRID.spacing_mm)).save(folder / "size.nrrd")
    Volume(good.voxels, near).save(folder / "spacing.nrrd")
    Volume(good.voxels[:1], Geometry((48, 48, 1), GRID.spacing_mm)).save(folder / "slice.nrrd")
    LabelMap(np.zeros(SHAPE, np.uint8), GRID).save(folder / "empty.nrrd")
    (folder / "damaged.nrrd").write_bytes(b"NRRD0004\nnonsense")
    header = "ObjectType = Image\nNDims = 3\nDimSize = 48 48 24\nElementSpacing = 1.5 1.5 2\nElementType = MET_FLOAT\n"
    (folder / "nan.mha").write_bytes(f"{header}ElementDataFile = LOCAL\n".encode() + nan.tobytes())
    whole = gzip.decompress((data / "reference" / "c0.nii.gz").read_bytes())
    (folder / "short.nii.gz").write_bytes(gzip.compress(whole[:9000]))
    test, other = (data / "test" / f"c{n}_recon.mha" for n in range(2))
    reference = data / "reference" / "c0.nii.gz"
    rows = [
        ("good", test, reference, data / "labels" / "c0.nrrd"),
        *((name, test, name, "") for name in TROUBLES if name not in ("slice.nrrd", "empty.nrrd")),
        ("slice.nrrd", "slice.nrrd", "slice.nrrd", ""),
        ("empty.nrrd", test, reference, "empty.nrrd"),
        ("fine", other, data / "reference" / "c1.nii.gz", data / "labels" / "c1.nrrd"),
    ]
    manifest = folder / "cases.csv"
    with manifest.open("w", newline="") as stream:
        csv.writer(stream).writerows([("name", "test", "reference", "labels"), *rows])
    return manifest
