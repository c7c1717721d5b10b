"""Generating and editing with small random networks around the real embedded codec: sizes, seeds, grids, windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from ctgencore import labels, phantom
from ctgencore.codecs.base import Codec
from ctgencore.errors import Cancelled, InputError
from ctgencore.generators import released
from ctgencore.generators.base import Inputs, Sampling
from ctgencore.generators.foundation import FoundationGenerator
from ctgencore.generators.windows import Windows
from ctgencore.geometry import AxisPlan, Geometry
from ctgencore.networks.unet_slices import SliceUNet
from ctgencore.phantom.scene import Phantom
from ctgencore.resample import resample, with_spacing, zoom_plane
from ctgencore.tasks.edit import EditOptions, edit
from ctgencore.tasks.generate import GenerateOptions, generate, prepare
from ctgencore.text.base import SPECIAL
from ctgencore.text.embedded import ReportEncoder
from ctgencore.volume import LabelMap, Volume
from ctgencore.zoo import GENERATORS

UNET = {"channels": 16, "multipliers": (1, 2), "res_blocks": 1, "attention_levels": (1,), "head_width": 16, "groups": 8}
VOCABULARY = (*SPECIAL, *"abcdefghijklmnopqrstuvwxyz", *("##" + c for c in "abcdefghijklmnopqrstuvwxyz"))


def build(name: str = "foundation-embedded", **config: object) -> FoundationGenerator:
    """A generator of the row's kind with a small random network whose output is not zero."""
    row = GENERATORS[name]
    row = replace(row, config={**row.config, **config})
    torch.manual_seed(0)
    codec = Codec.from_pretrained("embedded", device="cpu")
    made = FoundationGenerator(row, SliceUNet(in_channels=1, context_width=32, **UNET), None, codec)
    spec = made.spec
    unet = SliceUNet(in_channels=16 + spec.channels(16), context_width=32, **UNET)
    for parameter in unet.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    reads = bool(row.text_config.get("reads_spacing", False))
    text = ReportEncoder(VOCABULARY, width=32, layers=1, heads=2, max_tokens=16, reads_spacing=reads).eval()
    return FoundationGenerator(row, unet, text, codec)


@pytest.fixture(scope="module")
def generator() -> FoundationGenerator:
    return build(window_zyx=(3, 4, 4))


@pytest.fixture(scope="module")
def drawn() -> Phantom:
    return phantom.chest((18, 40, 44), seed=5, findings=("Pleural effusion",))


FAST = {"steps": 2}


def inputs(shape: tuple[int, int, int], **fields: object) -> Inputs:
    return Inputs(shape_zyx=shape, spacing_zyx=(4.0, 3.0, 3.0), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 30), (6, 8, 45), (19, 33, 16)])
def test_any_size_comes_back_at_its_own_size(generator: FoundationGenerator, shape: tuple[int, int, int]) -> None:
    organs = np.full(shape, labels.BODY, np.uint8)
    hu = generator.sample(inputs(shape, organs=organs), Sampling(steps=2))
    assert hu.shape == shape
    assert np.isfinite(hu).all()
    assert hu.min() >= -1000
    assert hu.max() <= 1000


def test_windows_of_one_window_are_the_network_and_batches_change_nothing(generator: FoundationGenerator) -> None:
    torch.manual_seed(1)
    x, condition, context = torch.randn(2, 16, 5, 6, 7), torch.randn(2, 45, 5, 6, 7), torch.randn(2, 4, 32)
    counted: list[int] = []
    with torch.inference_mode():
        whole = Windows(generator.unet, (5, 6, 7), (9, 9, 9), batch=1, tick=counted.append)(x, 500, condition, context)
        images = torch.cat((x, condition), 1)[1].transpose(0, 1)
        plain = generator.unet(images, torch.full((5,), 500), context[1:], num_slices=5).transpose(0, 1)
        assert torch.allclose(whole[1], plain, atol=1e-5)
        assert counted == [1, 1]
        one, many = (
            Windows(generator.unet, (5, 6, 7), (3, 4, 4), batch=n, tick=counted.append)(x, 500, condition, context)
            for n in (1, 5)
        )
        assert torch.allclose(one, many, atol=1e-5)
        assert len(counted) > 20
        assert not torch.allclose(one, whole, atol=1e-3)


def test_blending_weights_sum_to_one(generator: FoundationGenerator) -> None:
    class One(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            return torch.ones_like(x[:, :16])

    x = torch.zeros(1, 16, 11, 13, 9)
    out = Windows(One(), (11, 13, 9), (4, 5, 5), batch=3, tick=lambda _: None)(x, 1, x, torch.zeros(1, 1, 1))
    assert torch.allclose(out, torch.ones_like(out), atol=1e-6)


def test_seed_fixes_the_volume_and_its_noise_belongs_to_its_place(generator: FoundationGenerator) -> None:
    organs = np.full((9, 24, 24), labels.BODY, np.uint8)
    one, two, other = (
        generator.sample(inputs(organs.shape, organs=organs), Sampling(steps=2, seed=seed)) for seed in (3, 3, 4)
    )
    assert np.array_equal(one, two)
    assert np.abs(one - other).mean() > 1
    ddim = Sampling(steps=2, seed=3, solver="ddim", eta=1.0)
    again = [generator.sample(inputs(organs.shape, organs=organs), ddim) for _ in range(2)]
    assert np.array_equal(*again)


def test_each_condition_matters_and_each_is_optional(generator: FoundationGenerator, drawn: Phantom) -> None:
    shape = drawn.organs.shape
    organs, diseases = drawn.organs.voxels, drawn.diseases.voxels
    how = Sampling(steps=2)
    versions = [
        inputs(shape),
        inputs(shape, organs=organs),
        inputs(shape, organs=organs, diseases=diseases),
        inputs(shape, diseases=diseases),
        inputs(shape, organs=organs, report="left effusion"),
        inputs(shape, organs=organs, report="right effusion"),
        replace(inputs(shape, organs=organs), spacing_zyx=(1.0, 1.0, 1.0)),
    ]
    results = [generator.sample(each, how) for each in versions]
    for i, one in enumerate(results):
        for two in results[:i]:
            assert np.abs(one - two).max() > 0


def test_guidance_is_linear_in_its_scale_for_one_step(generator: FoundationGenerator, drawn: Phantom) -> None:
    given = inputs(drawn.organs.shape, organs=drawn.organs.voxels, diseases=drawn.diseases.voxels, report="effusion")
    plain, guided = (generator.sample(given, Sampling(steps=2, guidance=g)) for g in (1.0, 3.0))
    assert np.abs(plain - guided).mean() > 0.01
    published = build("foundation-multidisease", native_yx=None)
    with pytest.raises(InputError, match="guidance must be 1"):
        published.sample(given, Sampling(guidance=2.0))


def test_cancel_and_progress(generator: FoundationGenerator) -> None:
    told: list[tuple[int, int]] = []
    shape = (9, 40, 40)
    given = inputs(shape, organs=np.full(shape, labels.BODY, np.uint8))
    generator.sample(given, Sampling(steps=3), progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]
    assert len({total for _, total in told}) == 1
    with pytest.raises(Cancelled):
        generator.sample(given, Sampling(steps=3), cancel=lambda: True)


# --- the released way ------------------------------------------------------------------------------------------------


def test_released_bookkeeping_of_300_slices() -> None:
    assert released.windows(300) == [(0, 65), (65, 65), (130, 65), (195, 65), (235, 40)]
    assert released.windows(130) == [(0, 65), (65, 65)]
    taken = np.zeros(300, int)
    for joint in released.joints(300):
        taken[joint - 16 : min(joint + 16, 300)] = 1
    change = np.flatnonzero(np.diff(taken)) + 1
    assert change.tolist() == [49, 81, 113, 145, 177, 209, 241, 273]
    assert released.passes_needed(128) == 20 * (2 + 2)


@pytest.mark.parametrize("name", ["foundation-healthy", "foundation-multidisease"])
def test_released_way_runs_on_short_volumes_and_other_planes(name: str) -> None:
    generator = build(name, native_yx=16)
    shape = (5, 24, 32)
    rng = np.random.default_rng(0)
    organs = rng.choice([0, 28, 200], shape).astype(np.uint8)
    one, two = (generator.sample_as_published(inputs(shape, organs=organs, report="normal"), seed=1) for _ in range(2))
    assert one.shape == shape
    assert np.array_equal(one, two)
    with pytest.raises(InputError, match="trained with an organ mask"):
        generator.sample_as_published(inputs(shape), seed=1)
    default = generator.sample(inputs(shape, organs=organs), Sampling(steps=2))
    assert default.shape == shape


def test_embedded_model_has_no_released_way(generator: FoundationGenerator) -> None:
    with pytest.raises(InputError, match="no released code"):
        generator.sample_as_published(inputs((5, 16, 16)), seed=0)


# --- the task --------------------------------------------------------------------------------------------------------


def test_generate_keeps_the_grid_and_says_synthetic(generator: FoundationGenerator, drawn: Phantom) -> None:
    options = GenerateOptions(report=drawn.report.text, seed=9, **FAST)  # type: ignore[arg-type]
    result = generate(drawn.organs, drawn.diseases, generator=generator, options=options)
    result.geometry.assert_equal(drawn.organs.geometry)
    assert result.is_synthetic
    assert result.record is not None
    assert result.record.seed == 9
    assert result.record.options["report"] == drawn.report.text
    assert len(result.record.inputs) == 2
    assert np.array_equal(result.voxels, np.rint(result.voxels))
    assert "quality" in result.record.results


def test_the_healthy_twin_judges_what_changed_elsewhere(generator: FoundationGenerator, drawn: Phantom) -> None:
    options = GenerateOptions(twin=True, **FAST)  # type: ignore[arg-type]
    result = generate(drawn.organs, drawn.diseases, generator=generator, options=options)
    assert result.record is not None
    names = [check["name"] for check in result.record.results["quality"]["checks"]]
    assert "hallucination" in names


def test_further_tries_take_the_next_seed_and_the_best_stays(generator: FoundationGenerator, drawn: Phantom) -> None:
    options = GenerateOptions(tries=3, seed=4, **FAST)  # type: ignore[arg-type]
    result = generate(drawn.organs, generator=generator, options=options)  # random weights: no try can pass
    assert result.record is not None
    note = next(note for note in result.record.notes if "was kept out of 3 tries" in note)
    assert f"Seed {result.record.seed} " in note
    assert all(f"seed {seed}: failed" in note for seed in (4, 5, 6))
    alone = generate(drawn.organs, generator=generator, options=replace(options, tries=1, seed=result.record.seed))
    assert np.array_equal(alone.voxels, result.voxels)


def test_axes_of_the_mask_do_not_matter(generator: FoundationGenerator, drawn: Phantom) -> None:
    """The same patient stored along other axes gives the same CT, stored along those axes."""
    options = GenerateOptions(**FAST)  # type: ignore[arg-type]
    plain = generate(drawn.organs, generator=generator, options=options)
    g = drawn.organs.geometry
    flipped = drawn.organs.voxels[:, ::-1, ::-1].transpose(1, 0, 2)  # stored along A, S, R
    size = flipped.shape[::-1]
    spacing = (g.spacing_mm[0], g.spacing_mm[2], g.spacing_mm[1])
    corner = g.affine_lps() @ np.array([g.size_xyz[0] - 1, g.size_xyz[1] - 1, 0, 1])
    direction = (-1.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 1.0, 0.0)
    other = LabelMap(np.ascontiguousarray(flipped), Geometry(size, spacing, tuple(corner[:3]), direction))
    turned = generate(other, generator=generator, options=options)
    assert np.array_equal(turned.voxels, plain.voxels[:, ::-1, ::-1].transpose(1, 0, 2))


def test_preview_spacing_and_reference_choose_the_grid(drawn: Phantom) -> None:
    big = with_spacing(drawn.organs.geometry, (1.0, 1.0, 1.0))
    organs = LabelMap(resample(drawn.organs.voxels, drawn.organs.geometry, big, order=0), big)
    found = prepare(organs, None, options=GenerateOptions(preview=True))
    assert max(found.geometry.shape_zyx[1:]) <= 128
    assert found.geometry.shape_zyx[0] <= 64
    field = np.array(found.geometry.size_xyz) * found.geometry.spacing_mm
    assert field == pytest.approx(np.array(big.size_xyz) * big.spacing_mm)
    coarse = prepare(organs, None, options=GenerateOptions(spacing_mm=(8.0, 8.0, 20.0)))
    assert coarse.organs is not None
    assert coarse.organs.shape == coarse.geometry.shape_zyx
    reference = drawn.ct
    assert prepare(organs, None, reference=reference, options=GenerateOptions()).geometry == reference.geometry


def test_without_a_mask_a_procedural_chest_stands_in(drawn: Phantom) -> None:
    found = prepare(None, None, options=GenerateOptions(seed=3))
    assert found.geometry.shape_zyx == (64, 128, 128)
    assert found.organs is not None
    assert np.array_equal(found.organs.voxels, phantom.chest((64, 128, 128), seed=3).organs.voxels)
    assert "procedural chest 3" in " ".join(map(str, found.problems))
    with_disease = prepare(None, drawn.diseases, options=GenerateOptions())
    assert with_disease.organs is not None
    assert with_disease.geometry == drawn.diseases.geometry


def test_residuals_are_undone_exactly() -> None:
    spec = build().spec
    assert spec.residual_std
    torch.manual_seed(0)
    latents, conditions = torch.randn(2, 16, 3, 4, 4), torch.randn(2, spec.channels(16), 3, 4, 4)
    drawn = spec.to_drawn(latents, conditions, axis=1)
    std = torch.tensor(spec.residual_std).view(-1, 1, 1, 1)
    assert torch.allclose(drawn * std + conditions[:, 16:32], latents, atol=1e-5)
    assert torch.allclose(spec.to_latents(drawn, conditions, axis=1), latents, atol=1e-6)
    turned = spec.to_drawn(latents.transpose(1, 2), conditions.transpose(1, 2), axis=2)
    assert torch.equal(turned.transpose(1, 2), drawn)
    with pytest.raises(InputError, match="needs the tissue sketch"):
        replace(spec, tissue=False)


def test_contradictions_are_refused(drawn: Phantom) -> None:
    for options, words in (
        ({"tries": 0}, "tries must be 1 to 20"),
        ({"preview": True, "spacing_mm": (2.0, 2.0, 2.0)}, "not both"),
        ({"spacing_mm": (0.01, 1.0, 1.0)}, "0.3 to 10 mm"),
        ({"solver": "euler"}, "There is no solver called 'euler'"),
        ({"model": "foundation-embeded"}, "Did you mean 'foundation-embedded'"),
        ({"faithful": True, "preview": True}, "faithful repeats"),
    ):
        with pytest.raises(InputError, match=words):
            GenerateOptions(**options).check()  # type: ignore[arg-type]
    away = Geometry(drawn.organs.geometry.size_xyz, drawn.organs.geometry.spacing_mm, (900.0, 0.0, 0.0))
    with pytest.raises(InputError, match="grids of organ mask and disease mask"):
        prepare(drawn.organs, LabelMap(drawn.diseases.voxels, away), options=GenerateOptions())
    with pytest.raises(InputError, match="do not overlap"):
        prepare(drawn.organs, None, reference=Volume(drawn.ct.voxels, away), options=GenerateOptions())


# --- editing ---------------------------------------------------------------------------------------------------------


def test_edit_changes_the_region_alone(generator: FoundationGenerator, drawn: Phantom) -> None:
    region = np.zeros(drawn.ct.shape, np.uint8)
    region[6:11, 14:22, 8:18] = 1
    label = LabelMap(region, drawn.ct.geometry)
    feather = 12.0
    options = EditOptions(report="Left pleural effusion.", feather_mm=feather, **FAST)  # type: ignore[arg-type]
    result = edit(drawn.ct, label, generator=generator, options=options)
    from scipy.ndimage import distance_transform_edt

    far = distance_transform_edt(region == 0, sampling=drawn.ct.geometry.spacing_zyx) >= feather
    assert np.array_equal(result.voxels[far], drawn.ct.voxels[far])
    assert np.abs(result.voxels - drawn.ct.voxels)[region > 0].mean() > 1
    assert result.is_synthetic
    assert result.record is not None
    assert result.record.results["disease_class"] == 159
    result.geometry.assert_equal(drawn.ct.geometry)


def test_edit_refuses_empty_regions_and_other_grids(generator: FoundationGenerator, drawn: Phantom) -> None:
    with pytest.raises(InputError, match="region is empty"):
        edit(drawn.ct, LabelMap(np.zeros(drawn.ct.shape, np.uint8), drawn.ct.geometry), generator=generator)
    with pytest.raises(InputError, match="grids of CT and region"):
        edit(drawn.ct, LabelMap(np.ones((4, 8, 8), np.uint8), Geometry((8, 8, 4))), generator=generator)
    with pytest.raises(InputError, match="strength must be above 0"):
        EditOptions(strength=0.0).check()


# --- grids -----------------------------------------------------------------------------------------------------------


def test_axis_plan_is_undone_exactly() -> None:
    rng = np.random.default_rng(0)
    array = rng.random((3, 4, 5))
    for _ in range(20):
        order = rng.permutation(3)
        matrix = np.zeros((3, 3))
        matrix[order, np.arange(3)] = rng.choice([-1, 1], 3)
        plan = AxisPlan.to_lps(Geometry((5, 4, 3), direction=tuple(matrix.ravel())))
        assert np.array_equal(plan.undo(plan.apply(array)), array)
    assert AxisPlan.to_lps(Geometry((5, 4, 3))).apply(array) is not None
    assert np.array_equal(AxisPlan.to_lps(Geometry((5, 4, 3))).apply(array), array)


def test_resampling_follows_the_world() -> None:
    source = Geometry((8, 6, 4), (1.0, 2.0, 3.0), (5.0, -3.0, 2.0))
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32) + 5, (4, 6, 8))  # x in mm
    target = with_spacing(source, (2.0, 2.0, 3.0))
    assert target.size_xyz == (4, 6, 4)
    halved = resample(ramp, source, target, order=1)
    assert halved[0, 0] == pytest.approx([5.5, 7.5, 9.5, 11.5])
    turned = Geometry((6, 8, 4), (2.0, 1.0, 3.0), (5.0, -3.0, 2.0), (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
    assert np.array_equal(resample(ramp, source, turned, order=0), ramp.transpose(0, 2, 1))
    shifted = Geometry((8, 6, 4), (1.0, 2.0, 3.0), (8.0, -3.0, 2.0))
    assert resample(ramp, source, shifted, order=0, fill=-1)[0, 0].tolist() == [8, 9, 10, 11, 12, -1, -1, -1]


def test_zooming_a_plane_keeps_its_field() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 3, 8))
    assert zoom_plane(ramp, (3, 4), 1)[0, 0] == pytest.approx([0.5, 2.5, 4.5, 6.5])
    assert zoom_plane(ramp, (3, 16), 0)[0, 0].tolist() == np.repeat(np.arange(8), 2).tolist()
    assert zoom_plane(zoom_plane(ramp, (6, 16), 0), (3, 8), 1) == pytest.approx(ramp)
