"""CT-CLIP against reference outputs of the original classes, on deterministic weights; its files, and what is none."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from ctgencore.checkpoint import load_published
from ctgencore.errors import InputError, WeightsError
from ctgencore.networks import ctclip
from ctgencore.networks.ctclip import CTClip, convert
from ctgencore.zoo import EXTRACTORS, NETWORKS, ExtractorRow, build_network
from test_networks import GOLDEN, array, fill
from torch import Tensor

NUMBERS = json.loads((GOLDEN / "ctclip.json").read_text())
KEYS = [line.split("\t") for line in (GOLDEN / "ctclip.keys.txt").read_text().splitlines() if line[0] != "#"]
SIZES = {"tiny": NETWORKS["ctclip"].tiny, "mid": {"volume": (30, 80, 80)}, "full": {}}


def fill_clip(name: str, shape: tuple[int, ...], *, strong: bool) -> Tensor:
    """As ``fill``, with gains around one; ``strong`` cases have scales around one too."""
    value = fill(name, shape)
    return 1 + value if name.endswith(".gamma") or (strong and name.endswith("_scale")) else value


def filled(case: str) -> CTClip:
    size, _, strong = case.partition("_")
    with torch.device("meta"):
        names = {k: tuple(v.shape) for k, v in build_network("ctclip", **SIZES[size]).state_dict().items()}
    net = build_network("ctclip", **SIZES[size])
    load_published(net, {name: fill_clip(name, shape, strong=bool(strong)) for name, shape in names.items()})
    assert isinstance(net, CTClip)
    return net


def published_tiny() -> dict[str, Tensor]:
    """A whole file as published, unread tensors included, at small sizes."""
    tensors = dict(build_network("ctclip", **SIZES["tiny"]).state_dict())
    for name, shape, *unused in KEYS:
        if unused:
            small = tuple(min(n, 3) for n in ast.literal_eval(shape))
            tensors[name] = torch.zeros(small, dtype=torch.int64 if name.endswith("_ids") else torch.float32)
    return tensors


def record(net: CTClip, case: str) -> dict[str, Tensor]:
    """Everything that the reference numbers speak of, in their order of axes."""
    given = NUMBERS[case]["input"]
    volume = array(given["name"], given["shape"], given["scale"])
    ids, mask = torch.tensor(given["token_ids"]), torch.tensor(given["attention_mask"], dtype=torch.bool)
    found: dict[str, Tensor] = {}
    image = net.visual_transformer
    spatial, temporal = image.enc_spatial_transformer, image.enc_temporal_transformer
    codes: list[tuple[Tensor, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda _, __, output, name=name: found.update({name: output}))
        for name, module in {
            "position_bias": image.spatial_rel_pos_bias,
            "patch_embedding": image.to_patch_emb,
            "spatial_layer0_peg": spatial.layers[0][0],
            "spatial_layer0_attn": spatial.layers[0][1],
            "spatial_layer0_ff": spatial.layers[0][3],
            "after_spatial": spatial.norm_out,
            "temporal_layer0_peg": temporal.layers[0][0],
            "after_temporal": temporal.norm_out,
            "text_projected": net.to_text_latent,
            "image_projected": net.to_visual_latent,
        }.items()
    ]
    handles += [
        image.vq.register_forward_pre_hook(lambda _, inputs: found.update(tokens_before_vq=inputs[0])),
        image.vq.register_forward_hook(lambda _, __, output: codes.append(output)),
        image.register_forward_hook(lambda _, __, output: found.update(tokens_after_vq=output)),
        net.to_visual_latent.register_forward_pre_hook(lambda _, inputs: found.update(pooled_flat=inputs[0])),
        net.text_transformer.register_forward_hook(
            lambda _, __, output: found.update(text_last_hidden=output.last_hidden_state)
        ),
    ]
    found["text_latent"] = net.encode_text(ids, mask)
    found["image_latent"] = net.encode_image(volume)
    found["text_cls"] = found["text_last_hidden"][:, 0]
    found["code_indices"] = codes[0][1]
    for handle in handles:
        handle.remove()
    return found


def assert_matches(output: Tensor, entry: dict, *, relative: bool) -> None:
    assert list(output.shape) == entry["shape"]
    flat = output.double().flatten().numpy()
    assert np.linalg.norm(flat) == pytest.approx(entry["l2"], rel=1e-5)
    assert flat.std() == pytest.approx(entry["std"], rel=1e-5)
    np.testing.assert_allclose(flat[entry["idx"]], entry["values"], rtol=1e-4, atol=0 if relative else 2e-5)


@torch.inference_mode()
def check(case: str, flips: int = 0) -> None:
    """Compare everything; of ``code_indices``, ``flips`` may differ, and what follows them then only nearly agrees."""
    net = filled(case)
    numbers, found = NUMBERS[case], record(net, case)
    index = found.pop("code_indices").flatten().numpy().astype("<i4")
    codes = numbers["code_indices"]
    exact = hashlib.sha256(index.tobytes()).hexdigest() == codes["int32_le_sha256"]
    assert exact or flips
    assert np.count_nonzero(index[:24] != codes["first24"]) <= flips
    assert set(found) == set(numbers) - {"input", "code_indices", "logits", "softmax_over_batch"}
    for name, output in found.items():
        if exact or name not in ("tokens_after_vq", "pooled_flat", "image_projected", "image_latent"):
            small = name in ("tokens_after_vq", "pooled_flat", "image_projected")
            assert_matches(output, numbers[name], relative=small)
    logits = (found["text_latent"] * found["image_latent"]).sum(-1) * net.temperature.exp()
    np.testing.assert_allclose(logits, numbers["logits"], atol=1e-5 if exact else 1e-3)


def test_published_names_and_shapes() -> None:
    with torch.device("meta"):
        net = build_network("ctclip")
    published = {name: tuple(ast.literal_eval(shape)) for name, shape, *unused in KEYS if not unused}
    assert {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == published
    kept = CTClip.remap_keys({name: torch.zeros(0) for name, *_ in KEYS})
    assert set(kept) == set(published)


@pytest.mark.parametrize("case", ["tiny", "tiny_strong"])
def test_equals_the_original(case: str) -> None:
    check(case)


@pytest.mark.heavy
@pytest.mark.parametrize("case", ["mid", "mid_strong"])
def test_equals_the_original_at_published_widths(case: str) -> None:
    check(case)


@pytest.mark.heavy
def test_equals_the_original_at_full_size() -> None:
    """13824 tokens, some with two codes equally near to the last digit: a handful may differ."""
    check("full", flips=5)


@torch.inference_mode()
def test_a_batch_does_not_mix() -> None:
    net = filled("tiny_strong")
    volumes = torch.randn(3, 1, 30, 60, 40, generator=torch.Generator().manual_seed(1))
    together = net.encode_image(volumes)
    for one, latent in zip(volumes, together, strict=True):
        torch.testing.assert_close(net.encode_image(one[None])[0], latent, atol=2e-6, rtol=0)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(3))


@torch.inference_mode()
def test_padding_does_not_change_a_text() -> None:
    net = filled("tiny")
    ids = torch.tensor([[2, 17, 33, 101, 3]])
    padded, mask = torch.zeros(1, 64, dtype=torch.int64), torch.zeros(1, 64, dtype=torch.bool)
    padded[:, :5], mask[:, :5] = ids, True
    plain = net.encode_text(ids, torch.ones_like(ids, dtype=torch.bool))
    torch.testing.assert_close(net.encode_text(padded, mask), plain, atol=2e-6, rtol=0)
    assert (net.encode_text(padded, torch.ones_like(mask)) - plain).abs().max() > 1e-3


@torch.inference_mode()
def test_position_bias_is_that_of_every_pair() -> None:
    module = filled("tiny").visual_transformer.spatial_rel_pos_bias
    rows, columns = 3, 4
    cells = [(row, column) for row in range(rows) for column in range(columns)]
    pairs = [[(a[0] - b[0], a[1] - b[1]) for b in cells] for a in cells]
    feature = torch.tensor(pairs).float()
    expected = module.net(torch.sign(feature) * torch.log(feature.abs() + 1)).permute(2, 0, 1)
    torch.testing.assert_close(module(rows, columns), expected, atol=1e-6, rtol=0)


def test_codes_are_found_in_pieces_and_given_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    book = ctclip.Codebook(40, 6)
    embed = book.get_buffer("_codebook.embed")
    embed.mul_(torch.linspace(0.2, 3, 40)[:, None])  # codes of many lengths: only their directions count
    x = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(ctclip, "CHUNK", 4)
    codes, index = book(x)
    e = embed[0].double().numpy()
    cosine = x.double().numpy() @ (e / np.linalg.norm(e, axis=1, keepdims=True)).T
    np.testing.assert_array_equal(index, cosine.argmax(-1))
    assert torch.equal(codes, embed[0][index])


def test_another_size_is_refused() -> None:
    net = build_network("ctclip", **SIZES["tiny"])
    with pytest.raises(InputError, match=r"\(30, 60, 40\); got \(1, 1, 30, 40, 60\)"):
        net.encode_image(torch.zeros(1, 1, 30, 40, 60))
    with pytest.raises(InputError, match="whole patches"):
        build_network("ctclip", volume=(240, 470, 480))


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> ExtractorRow:
    """The published row with a small network."""
    monkeypatch.setitem(NETWORKS, "ctclip", replace(NETWORKS["ctclip"], config=SIZES["tiny"]))
    return EXTRACTORS["ctclip"]


def test_a_published_file_keeps_what_is_read(row: ExtractorRow) -> None:
    published = published_tiny()
    kept = convert(row, published)
    unread = {name for name, _, *unused in KEYS if unused}
    assert kept.keys() == published.keys() - unread
    assert unread & published.keys()
    assert all(kept[name] is published[name] for name in kept)
    assert convert(row, kept).keys() == kept.keys()
    load_published(build_network("ctclip"), published)  # also as it is


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.update({ctclip.PATCHES: torch.zeros(64, 6000)}), r"6000 values.*before October 2024"),
        (lambda s: s.update({ctclip.PROJECTION: torch.zeros(32, 500)}), r"500 values.*before October 2024"),
        (lambda s: s.pop("to_text_latent.weight"), "1 missing: to_text_latent.weight"),
        (lambda s: s.update({"visual_transformer.vq.project_in.weight": torch.zeros(1)}), "1 unexpected: visual_"),
        (lambda s: s.update({"temperature": torch.zeros(2)}), r"1 of another shape: temperature is \(2,\)"),
    ],
)
def test_what_does_not_fit_is_refused(
    row: ExtractorRow, change: Callable[[dict[str, Tensor]], object], words: str
) -> None:
    tensors = published_tiny()
    change(tensors)
    with pytest.raises(WeightsError, match=words):
        convert(row, tensors)


def test_the_fine_tuned_classifier_is_refused(row: ExtractorRow) -> None:
    tensors = {f"trained_model.{name}": tensor for name, tensor in published_tiny().items()}
    with pytest.raises(WeightsError, match="CT-LiPro"):
        convert(row, tensors | {"classifier.weight": torch.zeros(18, 32)})
