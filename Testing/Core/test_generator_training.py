"""Generator training: recipes, latent cache, the two stages, kill and resume, export."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore import labels
from ctgencore.checkpoint import write_safetensors
from ctgencore.codecs.base import Codec
from ctgencore.diffusion.conditions import encode_conditions
from ctgencore.errors import InputError
from ctgencore.geometry import Geometry
from ctgencore.intensity import WINDOWS
from ctgencore.labels import LUNG_LOBES
from ctgencore.networks.unet_slices import SliceUNet
from ctgencore.phantom.scene import Fact
from ctgencore.text.embedded import ReportEncoder, train_vocabulary
from ctgencore.training import latents
from ctgencore.training.diffusion import Data, draw_timesteps, learning_rate, train_generator
from ctgencore.training.export import export_generator
from ctgencore.training.generator_recipes import GENERATOR_RECIPES, Dropout
from ctgencore.training.latents import CacheSettings, Hidden, LatentBatches, fill_cache, list_cache, read_latents
from ctgencore.training.readers import PhantomReader, Sample
from ctgencore.training.reading import NAMES, QUESTIONS, Reader, answers, learn_to_read, lessons
from ctgencore.training.records import NotFinite, read_curve
from ctgencore.volume import LabelMap, Volume
from processes import environment
from safetensors import safe_open
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TINY = GENERATOR_RECIPES["tiny-generator"]
PHANTOMS = PhantomReader(count=6, shapes_zyx=((65, 32, 32), (81, 48, 48)), plane_mm=TINY.plane_mm)
Lines = list[str]


@pytest.fixture(scope="module")
def codec() -> Codec:
    return Codec.from_pretrained("embedded", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("cache")
    held_out = replace(PHANTOMS, first_seed=800_000, count=2)
    for reader, name in ((PHANTOMS, "training"), (held_out, "validation")):
        fill_cache(reader, CacheSettings.of(TINY), folder / name, log=print)
    return Data(
        training=folder / "training",
        validation=folder / "validation",
        reports=PHANTOMS.texts(30),
        lessons=lessons(PHANTOMS, 30),
    )


# --- recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["foundation.healthy", "foundation.multidisease"])
def test_published_learning_rates(name: str) -> None:
    first, second = GENERATOR_RECIPES[name].stages
    rates = [learning_rate(stage, step, gpus) for stage in (first, second) for gpus in (4, 1) for step in (0, 8000)]
    assert rates == pytest.approx([1.6e-5] * 2 + [4e-6] * 2 + [8e-5] * 2 + [2e-5] * 2)
    assert (first.trainable, first.ema, second.trainable, second.ema) == ("all", 0.9999, "slices", 0)
    assert not GENERATOR_RECIPES[name].dropout.any


def test_timesteps_are_drawn_as_published() -> None:
    first, second = GENERATOR_RECIPES["foundation.healthy"].stages
    generator = torch.Generator().manual_seed(0)
    uniform = draw_timesteps(first, 4000, 17, generator).reshape(4000, 17)
    assert (uniform[:, 0] != uniform[:, 1]).float().mean() > 0.99
    assert uniform.float().mean().item() == pytest.approx(499.5, abs=4)
    biased = draw_timesteps(second, 40_000, 17, generator).reshape(40_000, 17)
    assert (biased == biased[:, :1]).all()
    t = np.arange(1000)
    assert biased[:, 0].double().mean().item() == pytest.approx(np.average(t, weights=2000 - t), abs=5)
    assert (int(uniform.min()), int(uniform.max()), int(biased.min()), int(biased.max())) == (0, 999, 0, 999)


def test_the_embedded_generator_fits_the_shipping_size(codec: Codec) -> None:
    from ctgencore.training.denoiser import build

    recipe = GENERATOR_RECIPES["foundation.embedded"]
    pieces = [*ReportEncoder().config.vocabulary, *map(str, range(recipe.pieces - 5))]
    denoiser = build(recipe, recipe.stages[1], codec, pieces, None)
    assert sum(parameter.numel() for parameter in denoiser.parameters()) * 2 < 7_900_000


# --- cache -----------------------------------------------------------------------------------------------------------


def test_a_cached_file_is_what_sampling_will_encode(data: Data, codec: Codec) -> None:
    ill = next(i for i in range(len(PHANTOMS)) if PHANTOMS.load(i).diseases.voxels.any())  # type: ignore[union-attr]
    sample = PHANTOMS.load(ill)
    assert sample.organs is not None
    assert sample.diseases is not None
    path = data.training / list_cache(data.training)[ill]
    frames = codec.latent_shape(sample.ct.shape)
    one = read_latents(path, TINY.conditions, (slice(0, frames[0]), slice(None), slice(None)), Hidden())
    ct = codec.encode(sample.ct.voxels, WINDOWS["wide"])[0]
    assert torch.equal(one.ct.transpose(0, 1), ct.half().float())
    shown = encode_conditions(codec, sample.organs.voxels, sample.diseases.voxels, TINY.conditions, sample.ct.shape)
    assert torch.equal(one.conditions.transpose(0, 1), shown.half().float())
    healthy = encode_conditions(codec, sample.organs.voxels, None, TINY.conditions, sample.ct.shape).half().float()
    everywhere = (slice(None),) * 3
    hidden = read_latents(path, TINY.conditions, everywhere, Hidden(diseases=True, report=True, spacing=True))
    assert torch.equal(hidden.conditions.transpose(0, 1), healthy)
    assert not torch.equal(shown.half().float(), healthy)
    assert (hidden.reports, one.reports) == ([""], [sample.report])
    assert (hidden.spacing_mm.tolist(), one.spacing_mm.tolist()) == (
        [0] * 3,
        pytest.approx(sample.ct.geometry.spacing_mm),
    )
    nothing = read_latents(path, TINY.conditions, everywhere, Hidden(organs=True, diseases=True))
    assert not nothing.conditions.any()
    short = read_latents(path, TINY.conditions, everywhere, Hidden(findings=True))
    assert short.reports == [sample.impression]


def test_missing_organ_groups_become_body() -> None:
    organs = np.zeros((2, 4, 8), dtype=np.uint8)
    organs[..., 1:] = labels.BODY
    organs[..., 2], organs[..., 3], organs[..., 4] = 28, 33, 115
    seen = set()
    for seed in range(40):
        left = latents.without_groups(organs, np.random.default_rng(seed))
        changed = left != organs
        assert (left[changed] == labels.BODY).all()
        seen |= {(int(value), bool(gone)) for value, gone in zip(organs[0, 0], changed[0, 0], strict=True)}
    assert seen == {(0, False), (labels.BODY, False), *((v, gone) for v in (28, 33, 115) for gone in (True, False))}


def test_filling_goes_on_where_it_stopped_and_notices_changes(tmp_path: Path) -> None:
    settings = CacheSettings.of(TINY)
    reader = replace(PHANTOMS, count=2, shapes_zyx=((65, 32, 32),))
    fill_cache(reader, settings, tmp_path, indices=[0], log=print)
    [first] = tmp_path.iterdir()
    written = first.stat().st_mtime_ns
    assert fill_cache(reader, settings, tmp_path, log=print) == 2
    assert first.stat().st_mtime_ns == written
    assert len(list(tmp_path.iterdir())) == 2  # and no temporary file is left
    fill_cache(replace(reader, plane_mm=(9.0, 9.0)), settings, tmp_path, indices=[0], log=print)
    assert len(list(tmp_path.iterdir())) == 3
    assert [name.split(".")[0] for name in list_cache(tmp_path)] == ["phantom-000000", "phantom-000001"]
    assert first.name not in list_cache(tmp_path)
    root = tmp_path / "root"
    other = replace(settings, variants=False)
    assert latents.cache_folder(root, settings) != latents.cache_folder(root, other)


def test_workers_write_what_one_process_writes(tmp_path: Path) -> None:
    settings = CacheSettings.of(TINY)
    reader = replace(PHANTOMS, count=2, shapes_zyx=((65, 32, 32),))
    for workers in (0, 2):
        fill_cache(reader, settings, tmp_path / str(workers), workers=workers, log=print)
    for path in (tmp_path / "0").iterdir():
        ours, theirs = load_file(path), load_file(tmp_path / "2" / path.name)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name].float(), theirs[name].float(), atol=2e-3) for name in ours)


def test_published_windows_start_at_disease() -> None:
    settings = replace(CacheSettings.of(TINY), clips_per_volume=8, plane_yx=(32, 32))
    sample = replace(PHANTOMS, shapes_zyx=((200, 16, 16),)).load(0)
    diseases = np.zeros(sample.ct.shape, dtype=np.uint8)
    diseases[90:93] = 158
    ill = replace(sample, diseases=labels_of(sample, diseases))
    clips = list(latents.clips(ill, settings, np.random.default_rng(0)))
    assert {clip.hu.shape for clip in clips} == {(65, 32, 32)}
    assert all(clip.diseases is not None and clip.diseases[0].all() for clip in clips)
    diseases[:] = 0
    diseases[150:] = 158  # no 65 slices are left from there
    late = list(
        latents.clips(replace(sample, diseases=labels_of(sample, diseases)), settings, np.random.default_rng(0))
    )
    assert len({clip.hu.sum() for clip in late}) > 4


def labels_of(sample: Sample, voxels: np.ndarray) -> LabelMap:
    return LabelMap(voxels, sample.ct.geometry)


def test_the_table_goes_only_where_nothing_is_ill() -> None:
    settings = replace(CacheSettings.of(TINY), clear_background=True)
    sample = replace(PHANTOMS, shapes_zyx=((65, 32, 32),)).load(0)
    assert sample.organs is not None
    outside = sample.organs.voxels == 0
    sample.ct.voxels[outside] = 50
    clear = latents.whole_clip(replace(sample, diseases=None), settings)
    assert (clear.hu[outside] == -1000).all()
    ill = latents.whole_clip(
        replace(sample, diseases=labels_of(sample, np.full(outside.shape, 158, np.uint8))), settings
    )
    assert (ill.hu[outside] == 50).all()


def test_volumes_are_turned_as_the_generator_will_turn_them() -> None:
    sample = replace(PHANTOMS, shapes_zyx=((65, 32, 48),)).load(0)
    settings = CacheSettings.of(TINY)
    plain = latents.whole_clip(sample, settings)
    grid = sample.ct.geometry
    corner = grid.affine_lps() @ np.array([grid.size_xyz[0] - 1, grid.size_xyz[1] - 1, 0, 1])
    ras = Geometry(grid.size_xyz, grid.spacing_mm, tuple(corner[:3]), (-1, 0, 0, 0, -1, 0, 0, 0, 1))
    turned = Volume(sample.ct.voxels[:, ::-1, ::-1], ras)
    other = latents.whole_clip(Sample(name="ras", ct=turned, organs=None, diseases=None, report=""), settings)
    assert np.array_equal(other.hu, plain.hu)
    rows_along_x = latents.whole_clip(sample, replace(settings, transpose=True, reorients=False))
    assert np.array_equal(rows_along_x.hu, plain.hu.transpose(0, 2, 1))


def test_hidden_conditions_follow_the_recipe() -> None:
    dropout = Dropout(everything=0.1, report=0.2, findings=0.3, diseases=0.25, organs=0.05, groups=0.3, spacing=0.1)
    rng = np.random.default_rng(0)
    draws = [Hidden.draw(dropout, rng, has_report=True) for _ in range(20_000)]
    share = {name: np.mean([getattr(d, name) for d in draws]) for name in ("report", "organs", "groups", "spacing")}
    assert share["report"] == pytest.approx(0.1 + 0.9 * 0.2, abs=0.01)
    assert share["organs"] == pytest.approx(0.1 + 0.9 * 0.05, abs=0.01)
    assert share["groups"] == pytest.approx(0.3, abs=0.01)
    assert share["spacing"] == pytest.approx(0.1 + 0.9 * 0.1, abs=0.01)
    assert not any(d.report and d.diseases and not d.organs for d in draws)  # that is what healthy looks like
    assert np.mean([d.diseases for d in draws if not d.report]) == pytest.approx(0.25, abs=0.015)
    alone = [Hidden.draw(dropout, rng, has_report=False) for _ in range(2000)]
    assert all(d.organs for d in alone if d.diseases)


def test_batches_are_a_function_of_their_number(data: Data) -> None:
    def batches(rank: int = 0, processes: int = 1) -> LatentBatches:
        names = list_cache(data.training)
        return LatentBatches(
            data.training, names, TINY.conditions, TINY.window_zyx, TINY.dropout, batch=2, slices=4, seed=(0, 0),
            first_step=10, rank=rank, processes=processes,
        )  # fmt: skip

    for step in (10, 14):
        a, b = batches()[step], batches()[step]
        assert torch.equal(a.ct, b.ct)
        assert a.reports == b.reports
        assert a.ct.shape == (2, 4, 16, 4, 4)
    one_epoch = [batches()._name(i) for i in range(6)]
    assert sorted(one_epoch) == list_cache(data.training)
    assert not torch.equal(batches(0, 2)[11].ct, batches(1, 2)[11].ct)


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_encoder_learns_to_read_what_is_there_and_where() -> None:
    taught, unseen = lessons(PHANTOMS, 400), lessons(replace(PHANTOMS, first_seed=5000), 100)
    torch.manual_seed(0)
    encoder = ReportEncoder(
        train_vocabulary([lesson.text for lesson in taught], 400), width=32, layers=1, max_tokens=96
    )
    first = learn_to_read(encoder, taught, 10, 0)
    assert learn_to_read(encoder, taught, 250, 0) < 0.3 * first
    reader = Reader(encoder)
    short = [lesson for lesson in unseen if len(lesson.text) < 150]
    with torch.inference_mode():
        ids, mask = encoder.pieces([lesson.text for lesson in short])
        tokens = encoder.read(ids, mask) * mask[..., None]
        means = tokens.sum(1) / mask.sum(1, keepdim=True)
    effusion = np.array([lesson.answers.reshape(18, -1)[NAMES.index("Pleural effusion"), 0] for lesson in short]) > 0
    axis = means[effusion].mean(0) - means[~effusion].mean(0)
    scores = (means @ axis).numpy()
    above = np.mean(scores[effusion][:, None] > scores[~effusion][None])
    assert above > 0.9  # tokens of reports that were never seen tell a pleural effusion
    assert reader([""]).shape == (1, 18 * QUESTIONS)


def test_answers_name_sides_and_lobes() -> None:
    facts = [Fact(finding="Pleural effusion", side="left"), Fact(finding="Lung nodule", lobe=LUNG_LOBES[4])]
    table = answers(facts).reshape(18, QUESTIONS)
    assert table.sum() == 4
    assert table[NAMES.index("Pleural effusion"), :4].tolist() == [1, 1, 0, 0]
    assert table[NAMES.index("Lung nodule"), [0, 8]].tolist() == [1, 1]


def test_reading_needs_reports_with_facts(data: Data, codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="teaches its report encoder from facts"):
        train_generator(TINY, tmp_path, replace(data, lessons=()), codec, log=print)


# --- training --------------------------------------------------------------------------------------------------------


def test_stages_resume_and_export(data: Data, codec: Codec, tmp_path: Path) -> None:
    second = replace(TINY.stages[1], trainable="slices", ema=0.0, clip_norm=0.0)
    recipe = replace(TINY, stages=(TINY.stages[0], second))
    lines: Lines = []
    final = train_generator(recipe, tmp_path, data, codec, save_every=4, log=lines.append)
    reader = load_file(tmp_path / "reader.safetensors")
    flat, deep = (torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("2d", "3d"))
    read = [
        name for name in reader if name.startswith(("token_embedding", "position_embedding", "blocks", "final_norm"))
    ]
    assert all(torch.equal(reader[name], flat["net"][f"text.{name}"]) for name in read)  # learned before, not after
    assert not torch.equal(reader["pad"], flat["net"]["text.pad"])
    own = {name for name in deep["net"] if ".temporal_conv." in name}
    assert own
    assert all(torch.equal(deep["net"][name], flat["net"][name]) for name in flat["net"])  # raw, and nothing else moved
    assert not all(torch.equal(flat["net"][name], flat["average"][name]) for name in flat["net"])
    assert flat["net"].keys() | own == deep["net"].keys()
    start = torch.nn.init.dirac_(torch.empty(16, 16, 3))
    assert any(not torch.equal(deep["net"][name], start) for name in own if deep["net"][name].shape == start.shape)
    assert [step for step, _ in read_curve(tmp_path / "2d" / "curve.jsonl")] == list(range(1, 9))
    assert [step for step, _ in read_curve(tmp_path / "3d" / "curve.jsonl", "validation")] == [4, 6]
    assert sorted(path.name for path in (tmp_path / "3d" / "samples").glob("*.nii.gz")) == [
        "step-000004.nii.gz",
        "step-000006.nii.gz",
    ]

    board = EventAccumulator(str(tmp_path / "3d" / "tensorboard"), size_guidance={"scalars": 0, "images": 0}).Reload()
    assert [event.step for event in board.Scalars("loss")] == list(range(1, 7))
    assert [event.value for event in board.Scalars("loss")] == pytest.approx(
        [value for _, value in read_curve(tmp_path / "3d" / "curve.jsonl")]
    )
    assert [event.step for event in board.Images("sample")] == [4, 6]

    words = export_generator(final, tmp_path / "small.safetensors")
    with safe_open(tmp_path / "small.safetensors", "pt") as file:
        facts = file.metadata()
    tensors = load_file(tmp_path / "small.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    unet = SliceUNet(**json.loads(facts["unet"]))
    unet.load_state_dict({n.removeprefix("unet."): t.float() for n, t in tensors.items() if n.startswith("unet.")})
    text = ReportEncoder(words.read_text(encoding="utf-8").splitlines(), **json.loads(facts["text"]))
    text.load_state_dict({n.removeprefix("text."): t.float() for n, t in tensors.items() if n.startswith("text.")})
    assert json.loads(facts["generator"])["prediction"] == "v_prediction"

    again = train_generator(recipe, tmp_path, data, codec, save_every=4, log=lines.append)  # nothing is left to do
    assert load_file(again / "unet" / "diffusion_pytorch_model.safetensors").keys() == unet.state_dict().keys()


def test_too_large_an_export_is_refused(tmp_path: Path) -> None:
    ReportEncoder(width=32).save_pretrained(tmp_path / "text")
    SliceUNet(channels=64, multipliers=(1, 2, 4), attention_levels=(2,), groups=8).save_pretrained(tmp_path / "unet")
    (tmp_path / "generator.json").write_text(json.dumps({"text": "embedded"}))
    with pytest.raises(InputError, match="8 MB at most; these are"):
        export_generator(tmp_path, tmp_path / "large.safetensors")
    assert not (tmp_path / "large.safetensors").exists()


def test_a_loss_that_is_not_finite_stops_the_run(data: Data, codec: Codec, tmp_path: Path) -> None:
    poisoned = tmp_path / "cache"
    for name in list_cache(data.training):
        tensors = load_file(data.training / name)
        tensors["ct"][:] = float("nan")
        with safe_open(data.training / name, "pt") as file:
            write_safetensors(poisoned / name, tensors, file.metadata())
    sick = replace(data, training=poisoned)
    train_generator(TINY, tmp_path / "run", data, codec, steps=4, save_every=4, log=print)
    before = (tmp_path / "run" / "2d" / "state.pt").read_bytes()
    with pytest.raises(NotFinite, match=r"loss is nan at step 5; .* since step 4"):
        train_generator(TINY, tmp_path / "run", sick, codec, steps=8, save_every=4, log=print)
    assert (tmp_path / "run" / "2d" / "state.pt").read_bytes() == before


def test_stopping_inside_an_epoch_changes_nothing(
    data: Data, codec: Codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ctgencore.training.diffusion.SHORTEST_EPOCH", 3)
    recipe = replace(TINY, stages=TINY.stages[:1])
    train_generator(recipe, tmp_path / "a", data, codec, steps=9, save_every=9, log=print)
    for steps in (5, 9):
        train_generator(recipe, tmp_path / "b", data, codec, steps=steps, save_every=9, log=print)
    assert read_curve(tmp_path / "a" / "2d" / "curve.jsonl") == read_curve(tmp_path / "b" / "2d" / "curve.jsonl")


def test_a_killed_process_goes_on_with_the_same_losses(data: Data, tmp_path: Path) -> None:
    cache = latents.cache_folder(tmp_path / "cache", CacheSettings.of(TINY))
    shutil.copytree(data.training, cache / "training")
    shutil.copytree(data.validation, cache / "validation")

    def start(folder: Path) -> subprocess.Popen[bytes]:
        options = ["--cache", tmp_path / "cache", "--use-cache", "--steps", 15, "--save-every", 4, "--workers", 0]
        command = [sys.executable, "-m", "ctgencore", "train", "tiny-generator", "-o", folder, *options]
        return subprocess.Popen(list(map(str, command)), env=environment(), stdout=subprocess.DEVNULL)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = start(whole)  # side by side with the other
    process = start(broken)
    curve = broken / "3d" / "curve.jsonl"
    deadline = time.monotonic() + 120
    while not curve.is_file() or len(curve.read_bytes().splitlines()) < 7:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    state = torch.load(broken / "3d" / "state.pt", weights_only=True)
    assert state["step"] in (4, 8, 12)
    assert start(broken).wait(120) == 0
    assert undisturbed.wait(120) == 0
    for stage in ("2d", "3d"):
        for value in ("loss", "validation"):
            ours, theirs = (read_curve(run / stage / "curve.jsonl", value) for run in (broken, whole))
            assert ours == theirs
            assert ours[-1][0] == 15
    ends = [load_file(run / "final" / "unet" / "diffusion_pytorch_model.safetensors") for run in (whole, broken)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
