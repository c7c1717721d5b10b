"""Transforms for MONAI: the voxels of a reconstruction of the file, in any order of axes, in all that MONAI does."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctgencore import phantom
from ctgencore.adapters.monai import RandLatentNoised, RandReconstructd
from ctgencore.errors import InputError, WeightsError
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    Invertd,
    LoadImaged,
    Orientationd,
    RandSpatialCropd,
    ScaleIntensityRanged,
)
from monai.utils import set_determinism
from processes import environment

ROOT = Path(__file__).resolve().parents[2]
EVERYTHING: dict[str, Any] = {"window": ("wide", "-200 300"), "noise": (0.05, 0.3), "residual": (0.2, 0.8)}


@pytest.fixture(scope="module")
def chest() -> Volume:
    return phantom.chest((11, 24, 40)).ct


@pytest.fixture(scope="module")
def chest_file(chest: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return chest.save(tmp_path_factory.mktemp("monai") / "chest.nii.gz")


@pytest.fixture
def item(chest_file: Path) -> dict[str, Any]:
    """As MONAI loads it: (1, X, Y, Z) with an affine in RAS."""
    loaded: dict[str, Any] = Compose([LoadImaged("image"), EnsureChannelFirstd("image")])({"image": str(chest_file)})
    assert loaded["image"].shape == (1, 40, 24, 11)
    return loaded


@pytest.fixture
def determinism() -> Iterator[None]:
    """MONAI's seed for everything, taken back at the end."""
    set_determinism(7)
    yield
    set_determinism(None)


def array(image: Any) -> np.ndarray:
    return np.asarray(image)[0].T  # (Z, Y, X)


@pytest.mark.parametrize("codec", ["identity", "dct16", "embedded"])
def test_same_voxels_as_a_reconstruction_of_the_file(item: dict[str, Any], chest: Volume, codec: str) -> None:
    transform = RandReconstructd("image", codec, 1.0, **EVERYTHING).set_random_state(3)
    out = transform(item)["image"]
    drawn = transform.choice
    assert drawn is not None
    assert drawn.window in EVERYTHING["window"]
    assert 0.05 < drawn.latent_noise < 0.3
    assert 0.2 < drawn.residual < 0.8
    names = ("codec", "window", "latent_noise", "residual", "seed")
    same = ReconstructOptions(**{name: getattr(drawn, name) for name in names}, memory="4GiB")
    voxels = np.rint(chest.voxels)  # as in the file
    np.testing.assert_array_equal(array(out), reconstruct(chest.with_voxels(voxels), options=same).voxels)
    assert not np.array_equal(array(out), voxels)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SAR", "IPL", "PSR"])
def test_the_order_of_the_axes_makes_no_difference(item: dict[str, Any], code: str) -> None:
    turn = Orientationd("image", axcodes=code, labels=None)
    transform = RandReconstructd("image", "embedded", 1.0, noise=0.2)
    straight = turn(transform.set_random_state(1)(item))["image"]
    turned = transform.set_random_state(1)(turn(item))["image"]
    np.testing.assert_array_equal(np.asarray(straight), np.asarray(turned))
    np.testing.assert_array_equal(straight.affine, turned.affine)


def test_without_an_affine_the_last_axis_holds_the_slices(item: dict[str, Any]) -> None:
    transform = RandReconstructd("image", "embedded", 1.0)
    plain = item["image"].as_tensor().clone()
    tensor = transform({"image": plain})["image"]
    assert type(tensor) is torch.Tensor
    with_identity = transform({"image": MetaTensor(plain, affine=torch.eye(4))})["image"]
    np.testing.assert_array_equal(np.asarray(tensor), np.asarray(with_identity))
    voxels = plain.numpy().astype(np.int16)
    integers = transform({"image": voxels})["image"]
    assert type(integers) is np.ndarray
    assert integers.dtype == np.int16
    np.testing.assert_array_equal(integers, np.asarray(tensor))
    assert not np.array_equal(integers, voxels)


def test_metadata_stay_and_what_was_done_before_can_be_undone(item: dict[str, Any]) -> None:
    before = Compose([Orientationd("image", axcodes="SAR", labels=None)])
    turned = before(item)
    out = RandReconstructd("image", "dct16", 1.0)(turned)
    assert isinstance(out["image"], MetaTensor)
    assert out["image"].dtype == turned["image"].dtype
    assert out["image"].meta["filename_or_obj"] == turned["image"].meta["filename_or_obj"]
    assert torch.equal(out["image"].affine, turned["image"].affine)
    back = Invertd("image", before, orig_keys="image")(out)["image"]
    assert torch.equal(back.affine, item["image"].affine)
    expected = RandReconstructd("image", "dct16", 1.0)(item)["image"]
    np.testing.assert_array_equal(np.asarray(back), np.asarray(expected))


def test_draws_follow_the_random_state_alone(item: dict[str, Any]) -> None:
    kept = np.asarray(item["image"]).copy()

    def several(seed: int) -> list[np.ndarray]:
        chain = Compose([RandReconstructd("image", ("dct16", "embedded"), 0.5, **EVERYTHING)]).set_random_state(seed)
        return [array(chain(item)["image"]) for _ in range(6)]

    first, again, other = several(5), several(5), several(6)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))
    untouched = sum(np.array_equal(one, array(kept)) for one in first)
    assert 0 < untouched < 6, "a chance of one half"
    np.testing.assert_array_equal(np.asarray(item["image"]), kept)
    assert RandReconstructd("image", "dct16", 0.0)(item)["image"] is item["image"]


def test_keys_share_their_choice_and_may_be_missing(item: dict[str, Any]) -> None:
    two = {**item, "again": item["image"].clone()}
    out = RandReconstructd(["image", "again"], "embedded", 1.0, noise=0.3)(two)
    np.testing.assert_array_equal(np.asarray(out["image"]), np.asarray(out["again"]))
    RandReconstructd(["image", "gone"], "dct16", 1.0, allow_missing_keys=True)(item)
    with pytest.raises(KeyError, match="gone"):
        RandReconstructd(["image", "gone"], "dct16", 1.0)(item)


def test_latent_noise_alone(item: dict[str, Any]) -> None:
    by_level = [
        array(RandLatentNoised("image", "embedded", level, 1.0).set_random_state(0)(item)["image"])
        for level in (0.0, 0.1, 0.4)
    ]
    clean = array(RandReconstructd("image", "embedded", 1.0)(item)["image"])
    np.testing.assert_array_equal(by_level[0], clean)
    changes = [float(np.abs(out - clean).mean()) for out in by_level]
    assert 0 < 2 * changes[1] < changes[2]


def test_patches_of_air_and_of_odd_sizes(chest: Volume) -> None:
    transform = RandReconstructd("image", "embedded", 1.0, noise=0.1)
    air = transform({"image": torch.full((1, 9, 7, 5), -1000.0)})["image"]
    assert air.shape == (1, 9, 7, 5)
    assert float(air.max()) < -900
    single = transform({"image": torch.from_numpy(chest.voxels[:1].T.copy())[None]})["image"]
    assert single.shape == (1, 40, 24, 1)


def chain() -> Compose:
    return Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            RandSpatialCropd("image", (16, 16, 8), random_size=False),
            RandReconstructd("image", ("dct16", "embedded"), 0.8, **EVERYTHING),
            ScaleIntensityRanged("image", -1000, 1000, -1, 1, clip=True),
        ]
    )


def two_passes(dataset: Any, **options: Any) -> list[np.ndarray]:
    set_determinism(7)
    dataset.transform.set_random_state(7)
    loader = DataLoader(dataset, batch_size=2, **options)
    return [np.asarray(batch["image"]) for _ in range(2) for batch in loader]


def test_reading_is_cached_and_every_pass_draws_anew(chest_file: Path, tmp_path: Path, determinism: None) -> None:
    files = [{"image": str(chest_file)}] * 4
    in_memory = CacheDataset(files, chain(), progress=False)
    on_disk = PersistentDataset(files, chain(), tmp_path / "kept", track_meta=True, weights_only=False)
    first, *others = [two_passes(dataset) for dataset in (in_memory, in_memory, on_disk, on_disk)]
    for run in others:
        for one, two in zip(first, run, strict=True):
            np.testing.assert_array_equal(one, two)
    assert not np.array_equal(first[0], first[2])


@pytest.mark.heavy
def test_worker_processes_forked_and_spawned_draw_the_same(chest_file: Path, determinism: None) -> None:
    cached = CacheDataset([{"image": str(chest_file)}] * 4, chain(), progress=False)
    workers: dict[str, Any] = {"num_workers": 1, "persistent_workers": True}
    spawned, forked = (two_passes(cached, multiprocessing_context=kind, **workers) for kind in ("spawn", "fork"))
    for one, two in zip(spawned, forked, strict=True):
        np.testing.assert_array_equal(one, two)
    assert not np.array_equal(spawned[0], spawned[2])


def test_pickle_holds_no_network(item: dict[str, Any]) -> None:
    transform = RandReconstructd("image", "embedded", 1.0, noise=0.2).set_random_state(2)
    expected = transform(item)["image"]
    data = pickle.dumps(transform)
    assert len(data) < 10_000
    copy = pickle.loads(data).set_random_state(2)
    np.testing.assert_array_equal(np.asarray(copy(item)["image"]), np.asarray(expected))


@pytest.mark.parametrize(
    ("arguments", "error", "what"),
    [
        ({"codec": "embeded"}, InputError, "embedded"),
        ({"codec": "wan2.1"}, WeightsError, "ctgencore download wan2.1"),
        ({"window": "bone"}, InputError, "A window is one of"),
        ({"noise": -0.1}, InputError, "Latent noise is 0 or more"),
        ({"residual": (0.5, 1.5)}, InputError, "residual is a share"),
        ({"residual": (0.5, 0.1)}, InputError, "from low to high"),
    ],
)
def test_what_cannot_run_is_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], what: str, cache: Path
) -> None:
    with pytest.raises(error, match=what):
        RandReconstructd("image", **arguments)


def test_input_that_is_not_hu_is_refused(item: dict[str, Any]) -> None:
    transform = RandReconstructd("image", "dct16", 1.0)
    scaled = ScaleIntensityRanged("image", -1000, 1000, 0, 1, clip=True)(item)
    with pytest.raises(InputError, match=r"not HU\. Put this transform before"):
        transform(scaled)
    for shape in ((2, 8, 8, 8), (1, 8, 8), (8, 8, 8)):
        with pytest.raises(InputError, match="three spatial axes"):
            transform({"image": torch.zeros(shape)})


def test_example_trains(tmp_path: Path) -> None:
    line = [sys.executable, str(ROOT / "CTGenCore" / "examples" / "train_monai.py"), "--steps", "2", "--patch", "32"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path, timeout=300, env=environment())
    assert done.returncode == 0, done.stderr
    scores = [float(text.rsplit(" ", 1)[1]) for text in done.stdout.splitlines() if "Dice" in text]
    assert len(scores) == 2
    assert all(0 <= score <= 1 for score in scores)
