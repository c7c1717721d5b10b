"""CT-CLIP scores and zero-shot findings: input, features, values, and the arithmetic of all cases together."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from ctgencore import hub
from ctgencore.cli import app
from ctgencore.errors import InputError, WeightsError
from ctgencore.geometry import Geometry
from ctgencore.metrics import semantics
from ctgencore.metrics.base import Case, Context, Value
from ctgencore.metrics.ctclip_input import clean_report, prepare
from ctgencore.metrics.semantics import METRICS, NAMES, PROMPTS
from ctgencore.networks.ctclip import CTClip
from ctgencore.text.base import SPECIAL
from ctgencore.volume import Volume
from ctgencore.zoo import NETWORKS, build_network
from numpy.random import default_rng
from scipy import ndimage
from test_networks import GOLDEN, array
from typer.testing import CliRunner

PREPARED = json.loads((GOLDEN / "ctclip.json").read_text())["preprocess"]
TINY = NETWORKS["ctclip"].tiny
WORDS = sorted({word for prompt in PROMPTS for word in prompt.lower().removesuffix(".").split()})
VOCABULARY = [*SPECIAL, ".", "'", "(", ")", *WORDS]
VOCABULARY += [f"[unused{n}]" for n in range(TINY["vocabulary"] - len(VOCABULARY))]
ROWS = {row.name: row for row in METRICS}
POOLED = frozenset(name for name, row in ROWS.items() if row.kind == "set")
CLIP = frozenset({"clip_i2i", "clip_t2i", "clip_mean"})


# --- input -----------------------------------------------------------------------------------------------------------


def volume(shape_zyx: tuple[int, int, int], spacing_mm: tuple[float, float, float], seed: int = 0) -> Volume:
    voxels = default_rng(seed).normal(0, 600, shape_zyx).round()
    return Volume(voxels, Geometry(shape_zyx[::-1], spacing_mm))


@pytest.mark.parametrize("name", ["pad", "crop", "crop_z"])
def test_input_equals_the_original_loader(name: str) -> None:
    given, expected = PREPARED[name]["input"], PREPARED[name]["output"]
    raw = array(given["name"], given["shape_xyz"], given["scale"]).double().numpy().round()
    if "then subtract intercept" in given["post"]:
        raw -= given["intercept"]
    hu = raw * given["slope"] + given["intercept"]
    spacing = (given["xy_spacing"], given["xy_spacing"], given["z_spacing"])
    found = prepare(Volume(hu.transpose(2, 1, 0), Geometry(hu.shape, spacing)))[None]  # axes x and y of LPS
    assert found.dtype == np.float32
    assert list(found.shape) == expected["shape"]
    np.testing.assert_array_equal(found.ravel()[expected["idx"]], np.float32(expected["values"]))
    assert found.mean(dtype=np.float64) == pytest.approx(expected["mean"], abs=1e-9)
    inside = [np.flatnonzero((found[0] != -1).any(axis)) for axis in ((1, 2), (0, 2), (0, 1))]
    assert [[int(ends[0]) for ends in inside], [int(ends[-1]) for ends in inside]] == expected["nonpad_box_zxy"]
    block = found[0, 100:140, 220:260, 225:255]
    entry = expected["central_block_z100_140_x220_260_y225_255"]
    assert np.linalg.norm(block.astype(np.float64)) == pytest.approx(entry["l2"], rel=1e-7)
    np.testing.assert_allclose(block.ravel()[entry["idx"]], entry["values"], atol=1e-7)


def oracle(hu_zyx: np.ndarray, spacing_mm: tuple[float, float, float], pad: str, size: tuple[int, ...]) -> np.ndarray:
    """The recipe once more: resampling by scipy, cutting and padding one voxel plane at a time."""
    x, y, z = spacing_mm
    hu = np.clip(hu_zyx, -1000, 1000).astype(np.float64).transpose(0, 2, 1)
    mm = (z, y, x) if pad == "vlm3d" else (z, x, y)
    sizes = [n * (a / b) for n, a, b in zip(hu.shape, mm, (1.5, 0.75, 0.75), strict=True)]
    sizes = [int(np.rint(n)) if pad == "vlm3d" else int(np.floor(n)) for n in sizes]
    zoom = [new / old for new, old in zip(sizes, hu.shape, strict=True)]
    out = ndimage.zoom(hu, zoom, order=1, mode="nearest", grid_mode=True)
    assert list(out.shape) == sizes
    for axis, want in enumerate(size):
        front = pad == "vlm3d"  # which end loses the first voxel of a surplus; the other gains that of a lack
        while out.shape[axis] > want:
            out = np.delete(out, 0 if front else -1, axis)
            front = not front
        front = False
        while out.shape[axis] < want:
            edges = [(0, 0)] * 3
            edges[axis] = (int(front), int(not front))
            out = np.pad(out, edges, constant_values=-1.0 if pad == "vlm3d" else -1000.0)
            front = not front
    return out / 1000


@pytest.mark.parametrize("pad", ["air", "vlm3d"])
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((9, 21, 30), (0.9, 0.8, 2.0)), ((40, 70, 61), (1.1, 0.7, 1.3)), ((1, 40, 33), (0.5, 0.5, 5.0))],
)
def test_input_equals_a_slow_restatement(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], pad: str
) -> None:
    size = (30, 60, 40)
    ct = volume(shape, spacing)
    expected = oracle(ct.voxels, spacing, pad, size)
    found = prepare(ct, pad, size)
    np.testing.assert_allclose(found, expected, atol=1e-5 if pad == "vlm3d" else 1e-7)
    if shape[0] < 40:
        assert found[0, 0, 0] == np.float32(-0.001 if pad == "vlm3d" else -1)


def test_input_does_not_depend_on_the_order_of_axes() -> None:
    """All 48 ways to store one patient."""
    ct = volume((7, 9, 11), (0.9, 0.7, 1.7))
    for pad in ("air", "vlm3d"):
        expected = prepare(ct, pad, (30, 60, 40))
        for axes in itertools.permutations(range(3)):
            for signs in itertools.product((1, -1), repeat=3):
                stored = np.flip(ct.voxels.transpose(axes), [n for n in range(3) if signs[n] < 0])
                world = [2 - axis for axis in axes][::-1]  # of the stored i, j, k
                direction = np.zeros((3, 3))
                direction[world, range(3)] = signs[::-1]
                spacing = [ct.geometry.spacing_mm[axis] for axis in world]
                grid = Geometry(stored.shape[::-1], spacing, direction=tuple(direction.ravel()))
                np.testing.assert_array_equal(prepare(Volume(stored, grid), pad, (30, 60, 40)), expected)


def test_input_knows_its_sides() -> None:
    """Bone at the patient's head, left and back ends up last on every axis: z, then x, then y."""
    voxels = np.full((40, 80, 80), -1000.0)
    voxels[30:, 60:, 70:] = 1000  # z, y, x of LPS: head, back, left
    found = np.argwhere(prepare(Volume(voxels, Geometry((80, 80, 40), (0.75, 0.75, 1.5))), "air", (40, 80, 80)) > 0)
    np.testing.assert_array_equal(found.min(0), (30, 70, 60))
    np.testing.assert_array_equal(found.max(0), (39, 79, 79))


def test_spacing_of_a_float32_header_counts_as_written() -> None:
    ct = volume((8, 40, 36), (0.9, 0.9, 2.0))
    header = Geometry(ct.geometry.size_xyz, tuple(float(np.float32(mm)) for mm in ct.geometry.spacing_mm))
    np.testing.assert_array_equal(
        prepare(Volume(ct.voxels, header), "air", (30, 60, 60)), prepare(ct, "air", (30, 60, 60))
    )


def test_bad_input_is_refused() -> None:
    ct = volume((8, 9, 10), (1, 1, 1))
    with pytest.raises(InputError, match="clip_pad must be one of air, vlm3d; got 'water'"):
        prepare(ct, "water")
    ct.voxels[3, 3, 3] = np.nan
    with pytest.raises(InputError, match="NaN"):
        prepare(ct)


def test_reports_are_cleaned_as_for_training() -> None:
    assert clean_report('Lungs ("both") aren\'t clear.', "No effusion.") == "Lungs both arent clear.No effusion."
    assert clean_report("Not given.", "Normal.") == "Normal."
    assert clean_report("Contrast: Not given.") == "Contrast: Not given."
    assert clean_report(" Not given. ", "Not given.") == ""


# --- features and cases ----------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CTClip:
    """A small CT-CLIP, imported by command line from a file as published; the network that is in it."""
    monkeypatch.setitem(NETWORKS, "ctclip", replace(NETWORKS["ctclip"], config=TINY))
    torch.manual_seed(7)
    net = build_network("ctclip")
    assert isinstance(net, CTClip)
    for tensor in net.parameters():
        if tensor.ndim > 1:
            torch.nn.init.normal_(tensor.data, std=3 * tensor[0].numel() ** -0.5)
    published = dict(net.state_dict())
    published["text_transformer.embeddings.position_ids"] = torch.arange(512)[None]
    published["to_visual_latent_extra.weight"] = torch.zeros(3, 3)
    torch.save(published, tmp_path / "CT-CLIP_v2.pt")
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    for name in ("CT-CLIP_v2.pt", "vocab.txt"):
        done = CliRunner().invoke(app, ["download", "ctclip", "--from", str(tmp_path / name), "--accept-license"])
        assert done.exit_code == 0, done.output
    return net


def make_context(**options: object) -> Context:
    """As the evaluate task makes it: features of a volume once per run."""
    known: dict[tuple[str, int], np.ndarray] = {}
    functions: dict[str, Callable[[Volume, Context], np.ndarray]] = {
        row.name: getattr(semantics, row.function.partition(":")[2]) for row in semantics.EXTRACTORS
    }

    def features(name: str, ct: Volume) -> np.ndarray:
        if (name, id(ct)) not in known:
            known[name, id(ct)] = functions[name](ct, context)
        return known[name, id(ct)]

    context = Context(options=options, features=features)
    return context


def tokens(text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Word pieces by hand."""
    words = text.lower().replace(".", " .").split()
    numbers = [VOCABULARY.index(piece) for piece in ("[CLS]", *words, "[SEP]")]
    return torch.tensor([numbers]), torch.ones(1, len(numbers), dtype=torch.bool)


CTS = [volume((30, 60, 50), (0.75, 0.75, 1.5), seed) for seed in range(3)]


@torch.inference_mode()
def test_scores_are_cosines_of_latents(tiny: CTClip) -> None:
    report = "Lung nodule is present. Emphysema is not present."
    context = make_context()
    image, other = (
        tiny.encode_image(torch.from_numpy(prepare(ct, "air", TINY["volume"]))[None, None])[0] for ct in CTS[:2]
    )
    text = tiny.encode_text(*tokens(report))[0]
    case = Case(name="a", test=CTS[0], reference=CTS[1], report=report)
    found = {value.metric: value.value for value in semantics.clip_scores(case, CLIP, context)}
    i2i, t2i = (max(100 * float(image @ latent), 0) for latent in (other, text))
    assert found == pytest.approx({"clip_i2i": i2i, "clip_t2i": t2i, "clip_mean": (i2i + t2i) / 2}, abs=1e-3)
    swapped = replace(case, test=CTS[1], reference=CTS[0])
    [back] = semantics.clip_scores(swapped, frozenset({"clip_i2i"}), context)
    assert back.value == pytest.approx(i2i, abs=1e-9)
    [same] = semantics.clip_scores(replace(case, reference=CTS[0]), frozenset({"clip_i2i"}), context)
    assert same.value == pytest.approx(100, abs=1e-9)
    feature = context.features("ctclip_image", CTS[0])
    assert feature.shape == (1, TINY["latent"])
    assert feature.dtype == np.float32


def test_scores_stop_at_zero(tiny: CTClip) -> None:
    latents = {id(CTS[0]): np.float32([[1, 0]]), id(CTS[1]): np.float32([[-0.6, 0.8]])}
    context = Context(features=lambda _, ct: latents[id(ct)])
    case = Case(name="a", test=CTS[0], reference=CTS[1])
    assert semantics.clip_scores(case, frozenset({"clip_i2i"}), context) == [Value("clip_i2i", 0.0)]


def test_reports_that_are_empty_or_too_long_say_so(tiny: CTClip) -> None:
    context = make_context()
    for report in ("Not given.", " ", "''"):
        values = semantics.clip_scores(Case(name="a", test=CTS[0], reference=CTS[0], report=report), CLIP, context)
        notes = {value.metric: (np.isnan(value.value), value.note) for value in values}
        assert notes == {
            "clip_i2i": (False, ""),
            "clip_t2i": (True, "the report is empty"),
            "clip_mean": (True, "the report is empty"),
        }
    case = Case(name="a", test=CTS[0], report="present " * 100)
    [value] = semantics.clip_scores(case, frozenset({"clip_t2i"}), context)
    assert value.note == "the first 64 of the report's 102 word pieces were read"


def test_vlm3d_reads_reports_as_they_are(tiny: CTClip) -> None:
    def found(report: str, pad: str) -> list[float]:
        context, name = make_context(clip_pad=pad), frozenset({"clip_t2i"})
        cases = [Case(name="a", test=ct, report=report) for ct in CTS]
        return [semantics.clip_scores(case, name, context)[0].value for case in cases]

    plain, quoted = "Lung nodule.", "('Lung' nodule)."
    assert found(plain, "air") == found(quoted, "air")
    assert found(plain, "vlm3d") != found(quoted, "vlm3d")
    assert found(plain, "vlm3d") != found(plain, "air")  # the volume is narrower than the input: other padding


@torch.inference_mode()
def test_probabilities_are_softmax_over_two_prompts(tiny: CTClip) -> None:
    context = make_context()
    image = tiny.encode_image(torch.from_numpy(prepare(CTS[0], "air", TINY["volume"]))[None, None])[0]
    expected = []
    for name in NAMES:
        pair = [tiny.encode_text(*tokens(f"{name} is {word}."))[0] @ image for word in ("present", "not present")]
        expected.append(torch.softmax(torch.stack(pair) * torch.exp(tiny.temperature), dim=0)[0])
    found = context.features("ctclip_findings", CTS[0])
    assert found.shape == (1, 18)
    np.testing.assert_allclose(found[0], torch.stack(expected), atol=1e-5)
    assert found.std() > 0.01
    values = semantics.finding_values(Case(name="a", test=CTS[0]), frozenset({semantics.PROBABILITY}), context)
    assert [value.region for value in values] == list(NAMES)
    np.testing.assert_array_equal([value.value for value in values], found[0].astype(float))


def test_texts_and_volumes_pass_the_network_once(tiny: CTClip, monkeypatch: pytest.MonkeyPatch) -> None:
    semantics._load.cache_clear()
    passed: Counter[str] = Counter()

    def count(name: str) -> None:
        run = getattr(CTClip, name)

        def counted(net: CTClip, x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            passed[name] += len(x)
            return run(net, x, *rest)

        monkeypatch.setattr(CTClip, name, counted)

    count("encode_text")
    count("encode_image")
    context = make_context()
    for ct in CTS:
        case = Case(name="a", test=ct, reference=CTS[0], report="Lung nodule is present.")
        semantics.clip_scores(case, CLIP, context)
        semantics.finding_values(case, frozenset({semantics.PROBABILITY}), context)
    assert passed == {"encode_text": 36, "encode_image": 3}, "the report is one of the prompts"


def test_other_weights_are_noticed(tiny: CTClip, tmp_path: Path) -> None:
    before = make_context().features("ctclip_image", CTS[0])
    torch.save({name: tensor * 1.5 + 0.01 for name, tensor in tiny.state_dict().items()}, tmp_path / "other.pt")
    hub.import_weights("ctclip", tmp_path / "other.pt")
    assert np.abs(make_context().features("ctclip_image", CTS[0]) - before).max() > 1e-3


def test_missing_weights_and_a_wrong_vocabulary_say_what_to_do(tiny: CTClip, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY[:-1]), encoding="utf-8")
    hub.import_weights("ctclip", tmp_path / "vocab.txt")
    with pytest.raises(WeightsError, match=r"200 word pieces, its vocabulary here 199.*ctgencore download ctclip"):
        make_context().features("ctclip_image", CTS[0])
    (hub.cache_folder() / "weights" / "ctclip" / "index.json").unlink()
    with pytest.raises(WeightsError, match=r"CT-CLIP_v2\.pt, vocab\.txt.*ctgencore download ctclip --from FOLDER"):
        make_context().features("ctclip_image", CTS[0])


# --- all cases together ----------------------------------------------------------------------------------------------


def scores(p: np.ndarray, y: np.ndarray, names: frozenset[str] = POOLED) -> dict[tuple[str, str], Value]:
    values = semantics.finding_scores([row[None] for row in p], [row[None] for row in y], names)
    found = {(value.metric.removeprefix("factual18_zeroshot_"), value.region): value for value in values}
    assert len(found) == len(values)
    return found


def random_cases(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities in steps of 0.1, so that ties are many, and findings that they hint at."""
    rng = default_rng(seed)
    y = rng.random((n, 18)) < 0.35
    y[0], y[1] = True, False
    return ((rng.normal(0.45 + 0.15 * y, 0.2).clip(0, 1) * 10).round() / 10).astype(np.float32), y.astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_counting(seed: int) -> None:
    """Every number of every finding, from its definition, by loops."""
    p, y = random_cases(40, seed)
    found = scores(p, y)
    assert {score for score, _ in found} == {name.removeprefix("factual18_zeroshot_") for name in POOLED}
    for column, finding in enumerate(NAMES):
        pairs = list(zip(p[:, column].astype(float), y[:, column] == 1, strict=True))
        yes, no = [a for a, b in pairs if b], [a for a, b in pairs if not b]
        wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in yes for b in no]
        assert found["auroc", finding].value == pytest.approx(100 * sum(wins) / len(wins))

        def rates(at: float) -> Fraction:
            return Fraction(sum(a >= at for a in yes), len(yes)) - Fraction(sum(a >= at for a in no), len(no))  # noqa: B023

        best = max(sorted({a for a, _ in pairs}, reverse=True), key=rates)
        for rule, threshold in (("youden", best), ("p50", 0.5)):
            tp, fn = sum(a >= threshold for a in yes), sum(a < threshold for a in yes)
            fp, tn = sum(a >= threshold for a in no), sum(a < threshold for a in no)
            precision, recall = tp / max(tp + fp, 1), tp / (tp + fn)
            absent = (tn / max(tn + fn, 1), tn / (tn + fp))
            f1, f1_absent = (2 * a * b / (a + b) if a + b else 0 for a, b in ((precision, recall), absent))
            expected = {
                "accuracy": (tp + tn) / len(pairs),
                "precision": precision,
                "recall": recall,
                "f1": f1,
                "f1_two_class": (f1 + f1_absent) / 2,
                "f1_weighted": (len(yes) * f1 + len(no) * f1_absent) / len(pairs),
            }
            for score, value in expected.items():
                assert found[f"{score}_{rule}", finding].value == pytest.approx(100 * value), (score, rule, finding)
    for score in {score for score, _ in found}:
        mean = np.mean([found[score, finding].value for finding in NAMES])
        assert found[score, "all"].value == pytest.approx(mean)
        assert found[score, "all"].note == "mean of 18 findings"


def test_perfect_reversed_and_constant_probabilities() -> None:
    _, y = random_cases(12, 5)
    perfect, reverse, same = (scores(p, y) for p in (0.2 + 0.6 * y, 0.8 - 0.6 * y, np.full_like(y, 0.7)))
    assert {value.value for value in perfect.values()} == {100.0}
    assert perfect["f1_youden", "Emphysema"].note == "threshold 0.8000"
    assert reverse["auroc", "all"].value == reverse["accuracy_p50", "all"].value == 0
    assert reverse["recall_youden", "all"].value == 0  # worse than chance at every threshold: nothing is called
    assert reverse["precision_youden", "all"].value == 0
    assert reverse["precision_youden", "Emphysema"].note == "no case is called present"
    assert same["auroc", "all"].value == 50
    assert same["recall_p50", "all"].value == 100


def test_of_equally_good_thresholds_the_highest_is_taken() -> None:
    truth = np.array([True, False, True, False, True, False])  # at 0.9: 1/3 - 0; at 0.6: 2/3 - 1/3; at 0.4: 3/3 - 2/3
    assert semantics.youden_threshold(np.array([0.9, 0.7, 0.6, 0.5, 0.4, 0.2]), truth) == 0.9
    assert semantics.youden_threshold(np.array([0.9, 0.7, 0.6, 0.1, 0.4, 0.2]), truth) == 0.4
    assert semantics.youden_threshold(np.array([0.1, 0.7, 0.6, 0.8, 0.4, 0.9]), truth) == np.inf


def test_auroc_and_youden_see_order_only() -> None:
    p, y = random_cases(30, 6)
    names = frozenset({"factual18_zeroshot_auroc", "factual18_zeroshot_f1_youden"})
    plain, bent = scores(p, y, names), scores(p**3, y, names)
    assert {key: value.value for key, value in plain.items()} == {key: value.value for key, value in bent.items()}
    assert {score for score, _ in plain} == {"auroc", "f1_youden"}


def test_a_finding_without_contrast_is_left_out() -> None:
    p, y = random_cases(10, 7)
    y[:, NAMES.index("Hiatal hernia")], y[:, NAMES.index("Lung nodule")] = 0, 1
    found = scores(p, y)
    for score in ("auroc", "accuracy_p50", "f1_youden"):
        hernia, nodule, mean = (found[score, region] for region in ("Hiatal hernia", "Lung nodule", "all"))
        assert np.isnan(hernia.value)
        assert hernia.note == "no case has it"
        assert np.isnan(nodule.value)
        assert nodule.note == "all cases have it"
        assert mean.note == "mean of 16 findings; without Hiatal hernia: no case has it, Lung nodule: all cases have it"
        assert mean.value == pytest.approx(np.nanmean([found[score, name].value for name in NAMES]))
    one = scores(p[:1], y[:1])
    assert np.isnan(one["auroc", "all"].value)
    assert one["auroc", "all"].note.startswith("mean of 0 findings; without Medical material")


def test_truth_is_by_name_and_one_per_case() -> None:
    row = semantics.truth(frozenset({"Emphysema", "Medical material"}))
    assert row.shape == (1, 18)
    assert np.flatnonzero(row[0]).tolist() == [0, NAMES.index("Emphysema")]
    assert not semantics.truth(()).any()
    with pytest.raises(InputError, match="no finding called 'Fracture'"):
        semantics.truth({"Emphysema", "Fracture"})
    with pytest.raises(InputError, match="got 1 for 2 cases"):
        semantics.finding_scores([row, row], [row], POOLED)
    with pytest.raises(InputError, match="got 0 for 0 cases"):
        semantics.finding_scores([], [], POOLED)


def test_rows_say_what_they_need() -> None:
    assert all(
        callable(getattr(semantics, row.function.partition(":")[2])) for row in (*METRICS, *semantics.EXTRACTORS)
    )
    assert {name: ROWS[name].needs for name in CLIP} == {
        "clip_i2i": ("reference",),
        "clip_t2i": ("report",),
        "clip_mean": ("reference", "report"),
    }
    assert len(POOLED) == 1 + 2 * len(semantics.SCORES)
    assert all(ROWS[name].needs == ("findings",) for name in POOLED)
    assert PROMPTS[:2] == ("Medical material is present.", "Medical material is not present.")
    assert PROMPTS[-1] == "Interlobular septal thickening is not present."
