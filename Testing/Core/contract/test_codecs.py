"""What every codec promises, whatever its network: sizes, streaming, tiles, grey folding, determinism."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from contract.conftest import tiny_codec
from ctgencore.codecs.base import Codec, SlabPlan
from ctgencore.codecs.plan import overlap
from ctgencore.codecs.precision import refuse_rounding, rounding
from ctgencore.errors import Cancelled, InputError, OutOfMemory
from ctgencore.geometry import Geometry
from ctgencore.intensity import Window
from ctgencore.tasks.reconstruct import ReconstructOptions, reconstruct
from ctgencore.volume import Volume
from ctgencore.zoo import CODECS

WIDE = Window.parse("wide")
NETWORK_CODECS = [name for name, row in CODECS.items() if row.network]


def random_hu(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1000, 1000, shape).astype(np.float32)


def with_plan(codec: Codec, plan: SlabPlan) -> Codec:
    """The codec with a fixed plan: what a small memory budget would choose on a large volume."""
    codec.plan = lambda shape, memory=None: plan  # type: ignore[method-assign]
    return codec


def test_any_size_comes_back(codec: Codec) -> None:
    edges = (8, 9, 16, 17, 30)
    for z in range(1, 41):
        shape = (z, edges[z % 5], edges[(z // 5 + 2) % 5])
        out = codec.reconstruct_hu(random_hu(*shape), WIDE)
        assert out.shape == shape
        assert out.dtype == np.float32
        assert np.isfinite(out).all()


def test_slabs_equal_one_slab(codec: Codec) -> None:
    """Streaming is exact; where windows are blended, a slice that lies in one window only is that window's."""
    step = codec.stride_zyx[0]
    hu = random_hu(max(22, 4 * step + 2), 24, 32)
    if codec.window is not None:
        size, free = codec.window, codec.window - codec.window_overlap
        hu = random_hu(2 * free + size, 16, 16)
        before = codec.tiles_run
        out = codec.reconstruct_hu(hu, WIDE)
        assert codec.tiles_run - before == 3 * 2  # encode and decode of three windows
        np.testing.assert_allclose(out[:free], codec.reconstruct_hu(hu[:size], WIDE)[:free], atol=0.02)
        np.testing.assert_allclose(out[-free:], codec.reconstruct_hu(hu[-size:], WIDE)[-free:], atol=0.02)
        return
    whole = with_plan(codec, SlabPlan(24 * step, None, 0)).reconstruct_hu(hu, WIDE)
    before = codec.tiles_run
    slabs = with_plan(codec, SlabPlan(step, None, 0)).reconstruct_hu(hu, WIDE)
    assert codec.tiles_run - before >= 2 * 5  # encode and decode of several slabs
    np.testing.assert_allclose(slabs, whole, atol=0.02)


def test_encode_then_decode_equals_reconstruct(codec: Codec) -> None:
    hu = random_hu(13, 24, 17)
    z = codec.encode(hu, WIDE)
    np.testing.assert_allclose(codec.decode(z, hu.shape, WIDE), codec.reconstruct_hu(hu, WIDE), atol=0.02)
    with pytest.raises(InputError, match="Latents of a"):
        codec.decode(z, (99, 24, 17), WIDE)


def test_tiles(codec: Codec) -> None:
    """Exact where the reach is finite; elsewhere blended, bounded and really cut."""
    if codec.whole_plane:
        with pytest.raises(OutOfMemory, match="--memory"):
            codec.plan((8, 512, 512), 10**6)
        return
    unit = codec.stride_zyx[1]
    tile = (overlap(codec) + 4) * unit
    hu = random_hu(9, tile + 4 * unit, tile + 2 * unit)
    whole = codec.reconstruct_hu(hu, WIDE)
    before = codec.tiles_run
    tiled = with_plan(codec, SlabPlan(8, tile, 0)).reconstruct_hu(hu, WIDE)
    assert codec.tiles_run - before >= 4 * 2
    seam = codec.observed.seam_hu(WIDE)
    if codec.halo is not None:
        np.testing.assert_allclose(tiled, whole, atol=0.02)
        assert seam is None
    else:  # the networks are random: how far off is for real weights to say
        assert np.corrcoef(tiled.ravel(), whole.ravel())[0, 1] > 0.6
        assert seam is not None
        assert seam > 0


def test_blended_constant_stays_constant() -> None:
    codec = tiny_codec("identity")
    codec.halo = None  # blend instead of cutting
    hu = np.full((3, 141, 157), 123.0, dtype=np.float32)
    out = with_plan(codec, SlabPlan(2, 80, 0)).reconstruct_hu(hu, WIDE)
    assert codec.tiles_run > 12
    np.testing.assert_allclose(out, hu, atol=1e-3)
    assert codec.observed.seam_hu(WIDE) == pytest.approx(0, abs=0.1)  # a small difference of large squares


def test_seams_are_what_tiles_disagree_by() -> None:
    """Tiles that differ by 20 HU, each constant: where two overlap with weights w and 1 - w, 20 sqrt(w (1 - w))."""
    codec = tiny_codec("identity")
    codec.halo = None
    seen: list[int] = []

    def shifted(z: torch.Tensor, state: dict, *, first: bool) -> torch.Tensor:
        seen.append(1)
        return z + (0.02 if len(seen) % 2 else 0.0)

    codec._decode = shifted  # type: ignore[method-assign]
    with_plan(codec, SlabPlan(4, 80, 0)).reconstruct_hu(np.zeros((4, 80, 96), np.float32), WIDE)
    assert len(seen) == 2
    w = (np.arange(64) + 0.5) / 64
    assert codec.observed.seam_hu(WIDE) == pytest.approx(float(np.mean(20 * np.sqrt(w * (1 - w)))), rel=1e-4)
    assert codec.observed.overlap_voxels == 80 * 64


def test_out_of_memory_halves_once_and_goes_on(codec: Codec) -> None:
    """The network runs, so that its state has changed, and then the device gives out: nothing of it may be seen."""
    step, unit = codec.stride_zyx[0], codec.stride_zyx[1]
    tile = None if codec.window is None else (overlap(codec) + 2) * unit
    size_z = 1 + 6 * step if codec.window is None else codec.window + 3
    edge = 2 * unit if tile is None else tile + 2 * unit
    hu = random_hu(size_z, max(16, edge), 16)
    plan = SlabPlan(2 * step, None, 0)
    expected = with_plan(codec, plan).reconstruct_hu(hu, WIDE)
    decode, calls, fatal = codec._decode, [], {2}

    def failing(*args: object, **more: object) -> torch.Tensor:
        result = decode(*args, **more)
        calls.append(1)
        if len(calls) in fatal:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return result

    codec._decode = failing  # type: ignore[method-assign]
    done: list[int] = []
    if codec.window is not None and codec.whole_plane:
        with pytest.raises(OutOfMemory, match="ran out of memory"):
            codec.reconstruct_hu(hu, WIDE)
        return
    out = codec.reconstruct_hu(hu, WIDE, progress=lambda so_far, _: done.append(so_far))
    assert len(codec.observed.notes) == 1
    assert "Out of memory at slice" in codec.observed.notes[0]
    if codec.window is None:
        np.testing.assert_allclose(out, expected, atol=0.02)
        assert done == sorted(set(done))  # nothing was done twice
    else:  # smaller tiles, which are blended
        assert np.corrcoef(out.ravel(), expected.ravel())[0, 1] > 0.6
    calls.clear()
    fatal.update(range(2, 99))
    with pytest.raises(OutOfMemory, match="--memory with a smaller size"):
        codec.reconstruct_hu(hu, WIDE)


def test_out_of_memory_with_the_thinnest_slabs_takes_tiles_and_starts_anew() -> None:
    codec = tiny_codec("leanvae")
    hu = random_hu(13, 240, 16)
    expected = with_plan(codec, SlabPlan(4, None, 0)).reconstruct_hu(hu, WIDE)
    decode, calls = codec._decode, []

    def failing(*args: object, **more: object) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        return decode(*args, **more)

    codec._decode = failing  # type: ignore[method-assign]
    before = codec.tiles_run
    np.testing.assert_allclose(codec.reconstruct_hu(hu, WIDE), expected, atol=0.02)
    assert codec.tiles_run - before > 2 * 3 + 2
    assert "went on from slice 0 with 4 slices at a time, tiles of" in codec.observed.notes[0]
    calls.clear()
    codec.halo, codec.whole_plane = None, True  # type: ignore[misc]
    with pytest.raises(OutOfMemory):
        codec.reconstruct_hu(hu, WIDE)


def test_another_error_is_not_taken_for_memory() -> None:
    codec = tiny_codec("leanvae")

    def broken(*args: object, **more: object) -> torch.Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    codec._encode = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        codec.reconstruct_hu(random_hu(5, 16, 16), WIDE)


@pytest.mark.parametrize("name", ["taef2", "cosmos", "maisi", "wan2.1"])
def test_air_goes_through_once(name: str) -> None:
    """Slices and windows that no other has a part in: one of nothing but air stands for all of them."""
    codec = tiny_codec(name)
    piece = codec.window or 8
    hu = np.full((5 * piece, 16, 16), -1000, np.float32)
    hu[2 * piece + 1, 4:12, 4:12] = 40
    hu[0] = -3000  # what a scanner writes outside its circle
    out = codec.reconstruct_hu(hu, WIDE)
    ran = codec.tiles_run
    always = codec.forgets
    codec.__class__ = type("Remembering", (type(codec),), {"forgets": False})
    before = codec.tiles_run
    np.testing.assert_array_equal(out, codec.reconstruct_hu(hu, WIDE))
    assert (codec.tiles_run - before > ran) == always


def test_half_precision_is_refused_where_zero_is_not_soft_tissue() -> None:
    with pytest.raises(InputError, match=r"works on \[0, 1\], where bfloat16 rounds soft tissue by up to 3.9 HU"):
        refuse_rounding("maisi", (0.0, 1.0), torch.bfloat16)
    refuse_rounding("maisi", (0.0, 1.0), torch.float32)
    refuse_rounding("wan2.1", (-1.0, 1.0), torch.bfloat16)


@pytest.mark.parametrize(
    ("dtype", "unit_range", "rms", "largest", "soft"),  # known figures
    [
        (torch.bfloat16, (-1.0, 1.0), 0.85, 1.95, 0.49),
        (torch.bfloat16, (0.0, 1.0), 1.70, 3.91, 3.91),
        (torch.float16, (-1.0, 1.0), 0.11, 0.24, 0.06),
        (torch.float16, (0.0, 1.0), 0.21, 0.49, 0.49),
        (torch.float32, (-1.0, 1.0), 0.0, 0.0, 0.0),
    ],
)
def test_rounding_floor(
    dtype: torch.dtype, unit_range: tuple[float, float], rms: float, largest: float, soft: float
) -> None:
    measured = rounding(dtype, unit_range)
    assert measured.rms == pytest.approx(rms, abs=0.01)
    assert measured.largest == pytest.approx(largest, abs=0.01)
    assert measured.soft_largest == pytest.approx(soft, abs=0.01)


@pytest.mark.parametrize("name", NETWORK_CODECS)
def test_grey_folding_is_exact(name: str) -> None:
    hu = random_hu(10, 24, 32)
    rgb, grey = tiny_codec(name, grey=False), tiny_codec(name)
    a, b = rgb.encode(hu, WIDE), grey.encode(hu, WIDE)
    np.testing.assert_allclose(a, b, atol=1e-4 * float(a.abs().max()))
    np.testing.assert_allclose(rgb.reconstruct_hu(hu, WIDE), grey.reconstruct_hu(hu, WIDE), atol=0.05)


def test_windows_along_z_blend_without_loss() -> None:
    codec = tiny_codec("identity")
    codec.window, codec.window_overlap = 9, 4  # type: ignore[misc]
    for size in range(1, 41):
        hu = random_hu(size, 8, 8)
        np.testing.assert_allclose(codec.reconstruct_hu(hu, WIDE), hu, atol=1e-3)
        z = codec.encode(hu, WIDE)
        assert tuple(z.shape[2:]) == codec.latent_shape(hu.shape)
        np.testing.assert_allclose(codec.decode(z, hu.shape, WIDE), hu, atol=1e-3)
    assert codec.plan((400, 8, 8)).slices == 9


def test_same_result_twice(codec: Codec) -> None:
    hu = random_hu(9, 16, 24)
    np.testing.assert_array_equal(codec.reconstruct_hu(hu, WIDE), codec.reconstruct_hu(hu, WIDE))


def test_sample_is_a_function_of_the_seed_alone() -> None:
    hu = random_hu(21, 16, 24)
    results = []
    for slices in (4, 8, 20):
        codec = tiny_codec("wan2.1")
        codec.sample_seed = 5
        results.append(with_plan(codec, SlabPlan(slices, None, 0)).encode(hu, WIDE))
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(results[0], results[2], atol=1e-4, rtol=1e-4)
    mean = tiny_codec("wan2.1").encode(hu, WIDE)
    assert (results[0] - mean).abs().max() > 1e-3
    codec.sample_seed = 6
    assert (codec.encode(hu, WIDE) - results[0]).abs().max() > 1e-3


def test_cancel_stops_between_slabs(codec: Codec) -> None:
    seen: list[int] = []
    with pytest.raises(Cancelled, match="nothing was written"):
        codec.reconstruct_hu(
            random_hu(40, 16, 16), WIDE, progress=lambda done, _: seen.append(done), cancel=lambda: bool(seen)
        )
    assert len(seen) == 1
    assert seen[0] < 40


def test_memory_plan_shrinks_then_refuses() -> None:
    codec = tiny_codec("leanvae")
    shape = (100, 512, 512)
    free = codec.plan(shape, 2**40)
    small = codec.plan(shape, free.bytes_needed // 2)
    assert small.slices <= free.slices
    assert small.bytes_needed <= free.bytes_needed // 2
    assert small.tile_yx is not None
    with pytest.raises(OutOfMemory, match="Raise --memory"):
        codec.plan(shape, 1000)


def oblique() -> Geometry:
    turn = np.array([[0.36, 0.48, -0.8], [-0.8, 0.6, 0.0], [0.48, 0.64, 0.6]])
    return Geometry((30, 17, 9), (0.7, 0.9, 2.5), (-11.25, 3.5, 700.125), tuple(turn.ravel()))


def test_grid_is_unchanged_to_the_bit(codec: Codec) -> None:
    volume = Volume(random_hu(9, 17, 30), oblique())
    result = reconstruct(volume, codec)
    assert result.geometry == volume.geometry
    assert result.record is not None
    assert result.record.codec == codec.row.name
    assert (result.voxels == np.rint(result.voxels)).all()


def test_identity_loses_nothing() -> None:
    hu = np.random.default_rng(1).integers(-1000, 1001, (9, 17, 30)).astype(np.float32)
    result = reconstruct(Volume(hu, oblique()), tiny_codec("identity"))
    np.testing.assert_array_equal(result.voxels, hu)


def test_window_clips_to_its_ends() -> None:
    hu = random_hu(3, 16, 16)
    result = reconstruct(Volume(hu, Geometry((16, 16, 3))), tiny_codec("identity"), ReconstructOptions(window="soft"))
    np.testing.assert_allclose(result.voxels, np.rint(np.clip(hu, -175, 250)), atol=1)


def test_triplanar_averages_three_passes() -> None:
    hu = random_hu(20, 24, 28)
    volume = Volume(hu, Geometry((28, 24, 20)))
    codec = tiny_codec("taef2")
    passes = [np.moveaxis(codec.reconstruct_hu(np.moveaxis(hu, axis, 0), WIDE), 0, axis) for axis in range(3)]
    result = reconstruct(volume, codec, ReconstructOptions(triplanar=True))
    np.testing.assert_allclose(result.voxels, np.rint(np.mean(passes, axis=0)), atol=1)


def test_calibration_removes_gain_and_offset() -> None:
    hu = random_hu(9, 24, 32)
    volume = Volume(hu, Geometry((32, 24, 9)))
    codec = tiny_codec("taef2")
    plain = reconstruct(volume, codec)
    result = reconstruct(volume, codec, ReconstructOptions(calibrate=True))
    numbers = result.record.results
    slope, offset = np.polyfit(codec.reconstruct_hu(hu, WIDE).ravel().astype(float), hu.ravel().astype(float), 1)
    assert numbers["gain"] == pytest.approx(slope, rel=1e-3)
    assert numbers["offset_hu"] == pytest.approx(offset, abs=0.5)
    assert np.mean((result.voxels - hu) ** 2) < np.mean((plain.voxels - hu) ** 2)


def test_faithful_cuts_65_slice_windows() -> None:
    hu = random_hu(70, 16, 24)
    codec = tiny_codec("leanvae", grey=False)
    result = reconstruct(Volume(hu, Geometry((24, 16, 70))), codec, ReconstructOptions(codec="leanvae", faithful=True))
    tail = np.pad(hu[65:], ((0, 60), (0, 0), (0, 0)), mode="edge").transpose(0, 2, 1)
    alone = codec.reconstruct_hu(tail, WIDE, clamp_channels_first=True).transpose(0, 2, 1)[:5]
    np.testing.assert_array_equal(result.voxels[65:], np.trunc(alone))


def test_options_that_contradict() -> None:
    volume = Volume(random_hu(5, 16, 16), Geometry((16, 16, 5)))
    for name, options, text in (
        ("leanvae", {"triplanar": True}, "2D codec"),
        ("taef2", {"triplanar": True, "faithful": True}, "Choose one"),
        ("leanvae", {"sample": True}, "no posterior"),
        ("leanvae", {"faithful": True}, "RGB network"),
    ):
        with pytest.raises(InputError, match=text):
            reconstruct(volume, tiny_codec(name), ReconstructOptions(**options))


def test_unknown_codec_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"Did you mean 'wan2\.1'"):
        Codec.from_pretrained("wan21")
    with pytest.raises(InputError, match="100 times slower"):
        Codec.from_pretrained("identity", dtype="float16", device="cpu")


def test_what_comes_from_a_synthetic_volume_is_synthetic() -> None:
    volume = Volume(random_hu(3, 16, 16), Geometry((16, 16, 3)))
    assert not reconstruct(volume, tiny_codec("identity")).record.synthetic
    volume.meta["ctgen_tag"] = "CTGen SYNTHETIC generate foundation 1a2b3c4d"
    assert reconstruct(volume, tiny_codec("identity")).record.synthetic
