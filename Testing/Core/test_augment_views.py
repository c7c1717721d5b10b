"""Views: their text, what is drawn of them, and noise and residual as every codec does them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from ctgencore import phantom
from ctgencore.codecs.base import Codec
from ctgencore.codecs.plan import SlabPlan
from ctgencore.errors import InputError, WeightsError
from ctgencore.geometry import Geometry
from ctgencore.intensity import Window
from ctgencore.randomness import frame_noise
from ctgencore.tasks.augment.options import AugmentOptions
from ctgencore.tasks.augment.views import View, parse_view
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from ctgencore.zoo import CODECS, NETWORKS, build_network, load_class

WIDE = Window.parse("wide")


def random_hu(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32)


@pytest.fixture(scope="module")
def chest() -> Volume:
    return phantom.chest((9, 32, 40)).ct


# --- text ------------------------------------------------------------------------------------------------------------


def test_a_view_is_read_from_its_text() -> None:
    assert parse_view("embedded") == View(name="embedded", codecs=("embedded",), windows=("wide",))
    assert parse_view("dct16", "soft").windows == ("soft",)
    assert parse_view(" grain=wan2.1|embedded, window=wide|-150 250, noise=0..0.2, residual=0.5") == View(
        name="grain",
        codecs=("wan2.1", "embedded"),
        windows=("wide", "-150 250"),
        noise=(0.0, 0.2),
        residual=(0.5, 0.5),
    )
    assert parse_view("wan2.1|embedded").name == "wan2.1-embedded"
    assert parse_view("videovae+").name == "videovae", "a plus does not belong into file names"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no codec"),
        ("embeded", "Did you mean 'embedded'"),
        ("embedded|", "names no codec"),
        ("a_b=embedded", "letters, digits"),
        ("=embedded", "letters, digits"),
        ("embedded,noise", "'noise' cannot be"),
        ("embedded,grain=1", "'grain=1' cannot be"),
        ("embedded,noise=0,noise=1", "cannot be"),
        ("embedded,window=-150,250", "a blank between"),
        ("embedded,window=bone", "A window is one of"),
        ("embedded,noise=0.2..0.1", "the smaller first"),
        ("embedded,noise=nan", "the smaller first"),
        ("embedded,noise=-1", "0 or more"),
        ("embedded,noise=inf", "0 or more"),
        ("embedded,residual=0.5..1.5", "share from 0 to 1"),
    ],
)
def test_a_view_that_cannot_be_says_why(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_view(text)


def test_options_refuse_what_cannot_run() -> None:
    AugmentOptions(views=("embedded", "half=embedded,residual=0.5")).check()
    for changed, message in (
        ({"views": ("embedded", "Embedded=dct16")}, r"Several views are called '(E|e)mbedded'"),
        ({"views": ()}, "At least one view"),
        ({"views": ("dct17",)}, "Did you mean 'dct16'"),
        ({"mode": "both"}, "add, replace"),
        ({"layout": "bids"}, "nnunet, msd, flat, dicom"),
        ({"folds": 1}, "at least 2 folds"),
        ({"seed": -1}, "0 or more"),
        ({"memory": "much"}, "number and a unit"),
    ):
        with pytest.raises(InputError, match=message):
            AugmentOptions(**changed).check()  # type: ignore[arg-type]
    with pytest.raises(WeightsError, match="maisi"):
        AugmentOptions(views=("dct16|maisi",)).check()


# --- draws -----------------------------------------------------------------------------------------------------------


def test_a_draw_depends_on_view_seed_and_case_alone() -> None:
    view = parse_view("grain=dct16|identity,window=wide|soft|lung,noise=0.1..0.3,residual=0..1")
    drawn = [view.draw(0, f"case_{n}") for n in range(400)]
    assert drawn == [view.draw(0, f"case_{n}") for n in range(400)]
    assert len({choice.seed for choice in drawn}) == 400
    assert view.draw(0, "case_1") != view.draw(1, "case_1")
    other = parse_view("other=dct16|identity,window=wide|soft|lung,noise=0.1..0.3,residual=0..1")
    assert view.draw(0, "case_1") != other.draw(0, "case_1")
    for values, expected in (([c.codec for c in drawn], 1 / 2), ([c.window for c in drawn], 1 / 3)):
        for value in set(values):
            assert abs(values.count(value) / 400 - expected) < 0.1
    noise = [choice.latent_noise for choice in drawn]
    assert 0.1 <= min(noise) < 0.12
    assert 0.28 < max(noise) <= 0.3
    assert abs(np.mean([choice.residual for choice in drawn]) - 0.5) < 0.06
    assert abs(np.corrcoef(noise, [choice.residual for choice in drawn])[0, 1]) < 0.15


def test_a_choice_becomes_reconstruct_options() -> None:
    options = AugmentOptions(device="cpu", threads=1, calibrate=True)
    choice = parse_view("dct16,noise=0.2,residual=0.5").draw(0, "a")
    chosen = options.of(choice)
    assert chosen == ReconstructOptions(**asdict(choice), device="cpu", threads=1, calibrate=True, memory="4GiB")
    assert (chosen.latent_noise, chosen.residual) == (0.2, 0.5)
    assert AugmentOptions.from_dict(asdict(options)) == options


# --- noise on latents ------------------------------------------------------------------------------------------------


def test_noise_has_the_deviation_that_was_asked_for() -> None:
    # of the identity codec the latents are the voxels: the output's difference is level x plane deviation x N(0, 1)
    hu = random_hu(6, 64, 64) * 0.5
    codec = Codec.from_pretrained("identity", device="cpu")
    codec.latent_noise, codec.noise_seed = 0.1, 7
    error = codec.reconstruct_hu(hu, WIDE) - hu
    for plane, added in enumerate(error):
        expected = 0.1 * hu[plane].std() * frame_noise(7, plane, (1, 1, 64, 64), stream=1)[0, 0]
        np.testing.assert_allclose(added, expected, atol=2e-3)
    assert error.std() == pytest.approx(0.1 * hu.std(axis=(1, 2)).mean(), rel=0.02)
    assert abs(np.corrcoef(error[0].ravel(), error[1].ravel())[0, 1]) < 0.06


@pytest.mark.parametrize(("name", "tile"), [("embedded", None), ("dct16", 48)])
def test_noise_is_the_same_whatever_slabs_and_tiles(name: str, tile: int | None) -> None:
    hu = random_hu(9, 64, 64)
    codec = Codec.from_pretrained(name, device="cpu")
    codec.latent_noise, codec.noise_seed = 0.3, 5
    clean = Codec.from_pretrained(name, device="cpu").encode(hu, WIDE)
    results = []
    for plan in (SlabPlan(4, None, 0), SlabPlan(16, None, 0), SlabPlan(8, tile, 0)):
        codec.plan = lambda *_, plan=plan: plan  # type: ignore[method-assign, misc]
        results.append(codec.encode(hu, WIDE))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], atol=1e-4, rtol=1e-4)
    spread = clean.double().std(dim=(3, 4), correction=0)
    ratio = (results[0] - clean).double().std(dim=(3, 4), correction=0) / spread
    assert ratio.mean() == pytest.approx(0.3, rel=0.05), "each channel by its own deviation"
    codec.noise_seed = 6
    assert (codec.encode(hu, WIDE) - results[0]).abs().max() > 0.1


def test_air_is_not_copied_when_it_gets_noise() -> None:
    air = np.full((24, 16, 16), -1000, dtype=np.float32)
    row = CODECS["taef1"]
    codec = load_class("codecs", row.codec)(row, build_network(row.network, **NETWORKS[row.network].tiny))
    codec.reconstruct_hu(air, WIDE)
    assert codec.tiles_run == 2, "three slabs of air: one is encoded and decoded, for all"
    codec.latent_noise, codec.tiles_run = 0.5, 0
    codec.reconstruct_hu(air, WIDE)
    assert codec.tiles_run == 6


def test_streams_of_one_seed_are_independent() -> None:
    draw, noise = (frame_noise(3, 0, (4000,), stream=n) for n in (0, 1))
    assert abs(np.corrcoef(draw, noise)[0, 1]) < 0.05
    np.testing.assert_array_equal(draw, np.random.default_rng((3, 0)).standard_normal(4000, dtype=np.float32))


def test_noise_does_not_stay_in_a_warm_codec(chest: Volume) -> None:
    codec = Codec.from_pretrained("dct16", device="cpu")
    before = reconstruct(chest, codec)
    noisy = reconstruct(chest, codec, ReconstructOptions(latent_noise=0.2, seed=4))
    again = reconstruct(chest, codec)
    assert np.array_equal(before.voxels, again.voxels)
    assert not np.array_equal(before.voxels, noisy.voxels)
    assert noisy.record is not None
    assert (noisy.record.options["latent_noise"], noisy.record.seed) == (0.2, 4)


# --- residual --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_residual_adds_that_share_back(chest: Volume, share: float) -> None:
    codec = Codec.from_pretrained("dct16", device="cpu")
    seen = np.clip(chest.voxels, -160, 240)
    plain = codec.reconstruct_hu(chest.voxels, Window.parse("-160 240"))
    mixed = reconstruct(chest, codec, ReconstructOptions(window="-160 240", residual=share)).voxels
    np.testing.assert_array_equal(mixed, np.rint(plain + np.float32(share) * (seen - plain)))
    if share == 1:
        np.testing.assert_array_equal(mixed, np.rint(seen))


def test_residual_comes_after_calibration(chest: Volume) -> None:
    codec = Codec.from_pretrained("dct16", device="cpu")
    options = ReconstructOptions(calibrate=True)
    plain = reconstruct(chest, codec, options).voxels
    mixed = reconstruct(chest, codec, ReconstructOptions(calibrate=True, residual=0.5)).voxels
    expected = (plain + np.clip(chest.voxels, -1000, 1000)) / 2
    assert np.abs(mixed - expected).max() <= 0.75 + 1e-3, "half of one rounding, and another"


def test_levels_that_cannot_be() -> None:
    volume = Volume(random_hu(3, 16, 16), Geometry((16, 16, 3)))
    for options, message in (
        ({"latent_noise": -0.1}, "0 or more"),
        ({"latent_noise": float("nan")}, "0 or more"),
        ({"residual": 1.1}, "from 0 to 1"),
        ({"faithful": True, "residual": 0.5}, "--faithful"),
        ({"faithful": True, "latent_noise": 0.5}, "--faithful"),
    ):
        with pytest.raises(InputError, match=message):
            reconstruct(volume, "identity", ReconstructOptions(**options))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 or more"):
        ReconstructOptions(latent_noise=-1).check()
    external = Codec.without_weights("videovae+")
    with pytest.raises(InputError, match="keeps its latents to itself"):
        reconstruct(volume, external, ReconstructOptions(codec="videovae+", latent_noise=0.1))
