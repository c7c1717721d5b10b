"""Report encoders: the same tokens whatever the batch, the published tokenization and states, refusals that help."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ctgencore.errors import InputError, WeightsError
from ctgencore.text.base import SPECIAL, TextEncoder, WordPieces, read_vocabulary
from ctgencore.text.cxrbert import CXRBert, build_bert
from ctgencore.text.embedded import ReportEncoder, train_vocabulary
from ctgencore.text.prompts import prompt
from processes import environment
from safetensors.torch import save_file
from transformers import BertModel, BertTokenizer

TEXTS = [
    "No pleural effusion or pneumothorax.",
    "8 mm solid nodule in the right upper lobe; no lymphadenopathy.",
    "Cardiomegaly. Left pleural effusion (3.5 cm), with atelectasis.",
    "Emphysema in both upper lobes.",
]
VOCABULARY = train_vocabulary(TEXTS, 150)
BERT = {"layers": 2, "width": 32, "heads": 2, "max_tokens": 24}


def encoder(**config: object) -> ReportEncoder:
    torch.manual_seed(0)
    return ReportEncoder(vocabulary=VOCABULARY, **{"width": 32, "max_tokens": 24} | config).eval()


def bert() -> BertModel:
    torch.manual_seed(0)
    return build_bert(len(VOCABULARY), **BERT).eval()


# --- word pieces -----------------------------------------------------------------------------------------------------


def test_word_pieces_are_those_of_bert(tmp_path: Path) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    theirs = BertTokenizer(vocab=str(path), do_lower_case=True)
    ours = WordPieces(read_vocabulary(path), 24)
    for text in [*TEXTS, "", "Émphysème ÜBER", "unknown \u4e2d\u6587 ~ words", "a" * 300, "two\nlines\tand tabs"]:
        wanted = theirs(text, padding="max_length", truncation=True, max_length=24)
        ids, mask = ours([text])
        assert ids[0].tolist() == wanted["input_ids"], text
        assert mask[0].int().tolist() == wanted["attention_mask"]


def test_count_sees_the_whole_report() -> None:
    pieces = WordPieces(VOCABULARY, 5)
    assert pieces.count("") == 2
    assert pieces.count(TEXTS[1]) > 5
    assert pieces([TEXTS[1]])[0].shape == (1, 5)
    assert encoder(max_tokens=5).count(TEXTS[1]) == pieces.count(TEXTS[1])


@pytest.mark.parametrize(
    ("vocabulary", "words"),
    [
        (["a", "b"], r"2 lines, \[PAD\], \[UNK\], \[CLS\], \[SEP\], \[MASK\] missing"),
        ([*SPECIAL, "a", "a"], "a piece occurs twice"),
    ],
)
def test_no_vocabulary(vocabulary: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        WordPieces(vocabulary, 8)


def test_unreadable_vocabulary_and_no_reports(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\x00")
    for name in ("vocab.txt", "none.txt"):
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            read_vocabulary(tmp_path / name)
    with pytest.raises(InputError, match="at least one"):
        encoder().encode([])


def test_a_line_separator_can_be_a_piece(tmp_path: Path) -> None:
    pieces = [*SPECIAL, "a", "\u2028", "\x85", "b"]
    for end in ("", "\n"):
        (tmp_path / "vocab.txt").write_text("\n".join(pieces) + end, encoding="utf-8")
        assert read_vocabulary(tmp_path / "vocab.txt") == pieces


def test_training_a_vocabulary() -> None:
    assert VOCABULARY[:5] == list(SPECIAL)
    assert len(VOCABULARY) == len(set(VOCABULARY)) == 150
    whole = train_vocabulary(TEXTS, 10_000)
    assert {"pleural", "effusion", "nodule", "8", "emphysema"} <= set(whole)
    assert len(whole) < 300
    assert whole[:150] == VOCABULARY
    pieces = WordPieces(VOCABULARY, 64)
    ids, _ = pieces(["Quiz pleura"])  # a letter that no text had is unknown; the rest is spelled out
    assert VOCABULARY.index("[UNK]") in ids
    assert VOCABULARY.index("[UNK]") not in pieces(["plural"])[0]
    with pytest.raises(InputError, match="size must be at least"):
        train_vocabulary(TEXTS, 20)


def test_a_vocabulary_depends_on_the_texts_alone() -> None:
    code = (
        "import sys, json; from ctgencore.text.embedded import train_vocabulary; "
        "print(json.dumps(train_vocabulary(json.loads(sys.argv[1]), 150)))"
    )
    mixed = random.Random(1).sample(TEXTS, len(TEXTS))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(mixed)],
        env=environment() | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == VOCABULARY


# --- the embedded encoder --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
def test_tokens_do_not_depend_on_the_batch(training: bool) -> None:
    net = encoder(reads_spacing=True).train(training)
    spacing = torch.tensor([[0.7, 0.7, 1.0], [0.0, 0.0, 0.0], [1.5, 1.5, 5.0], [0.7, 0.7, 1.0], [1.0, 1.0, 1.0]])
    together = net.encode([*TEXTS, ""], spacing)
    assert together.shape == (5, 25, 32)
    for row, text in enumerate([*TEXTS, ""]):
        torch.testing.assert_close(net.encode([text], spacing[row : row + 1])[0], together[row], atol=1e-5, rtol=1e-4)


def test_padding_is_masked_inside_and_the_words_mean_outside() -> None:
    net = encoder()
    ids, mask = net.pieces(["no effusion."])
    tokens = net(ids, mask)
    assert 0 < int(mask.sum()) < 24
    mean = tokens[0, mask[0]].mean(dim=0) + net.pad
    torch.testing.assert_close(tokens[0, ~mask[0]], mean.expand(int((~mask).sum()), 32))
    other = torch.where(mask, ids, 9)
    assert torch.equal(net(other, mask), tokens)
    assert len({tuple(net.encode([text])[0, 0].tolist()) for text in [*TEXTS, ""]}) == 5


def test_spacing_is_a_token_of_its_own() -> None:
    net = encoder(reads_spacing=True)
    plain = net.encode(["x"])
    near, far = (net.encode(["x"], torch.tensor([[1.0, 1.0, z]])) for z in (1.0, 5.0))
    assert torch.equal(near[:, :-1], plain[:, :-1])
    assert torch.equal(plain[0, -1], net.unknown_spacing)
    torch.testing.assert_close(near[0, -1], net.spacing.bias)  # log 1 = 0
    assert not torch.equal(near[0, -1], far[0, -1])
    for unknown in ([0.0, 1.0, 1.0], [float("nan"), 1.0, 1.0]):
        assert torch.equal(net.encode(["x"], torch.tensor([unknown])), plain)
    with pytest.raises(InputError, match="not trained with voxel sizes"):
        encoder().encode(["x"], torch.ones(1, 3))


def test_every_parameter_learns() -> None:
    net = encoder(reads_spacing=True).train()
    net.encode([*TEXTS, ""], torch.tensor([[1.0, 1.0, 2.0]] * 4 + [[0.0] * 3])).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in net.parameters())


def test_saved_and_loaded_again(tmp_path: Path) -> None:
    net = encoder(reads_spacing=True)
    net.save_pretrained(tmp_path)
    again = ReportEncoder.from_pretrained(tmp_path)
    assert torch.equal(again.encode(TEXTS), net.encode(TEXTS))
    assert (again.width, again.max_tokens) == (32, 24)
    with pytest.raises(InputError, match="width must be divisible by heads"):
        encoder(heads=5)


# --- CXR-BERT --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "bert.", "text_transformer."])
def test_all_last_hidden_states_of_bert(prefix: str) -> None:
    theirs = bert()
    tensors = {prefix + name: tensor for name, tensor in theirs.state_dict().items()}
    tensors |= {prefix + "embeddings.position_ids": torch.arange(24)[None], prefix + "pooler.dense.bias": torch.ones(3)}
    ours: TextEncoder = CXRBert(tensors, VOCABULARY, **BERT)
    ids, mask = WordPieces(VOCABULARY, 24)(TEXTS)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    tokens = ours.encode(TEXTS)
    torch.testing.assert_close(tokens, wanted)
    assert (ours.width, ours.max_tokens) == (32, 24)
    torch.testing.assert_close(ours.encode(TEXTS[2:3])[0], tokens[2], atol=1e-5, rtol=1e-4)
    assert not tokens.requires_grad
    assert not torch.equal(tokens[0, -1], tokens[1, -1])  # padding reads the report too, as published


def test_published_sizes() -> None:
    with torch.device("meta"):
        net = build_bert(30522)
    shapes = {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}
    assert len(shapes) == 197  # 199 with the pooler
    assert shapes["embeddings.position_embeddings.weight"] == (512, 768)
    assert shapes["encoder.layer.11.intermediate.dense.weight"] == (3072, 768)


def test_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has none of model\.safetensors"):
        CXRBert.from_folder(tmp_path)
    tensors = {f"bert.{name}": tensor.contiguous() for name, tensor in bert().state_dict().items()}
    tensors["cls_projection_head.dense_to_hidden.weight"] = torch.zeros(2, 2)
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be read"):
        CXRBert.from_folder(tmp_path, **BERT)
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    first = CXRBert.from_folder(tmp_path, **BERT).encode(TEXTS)
    save_file(tensors, tmp_path / "model.safetensors")
    assert torch.equal(CXRBert.from_folder(tmp_path, **BERT).encode(TEXTS), first)


def test_other_weights_are_refused() -> None:
    tensors = bert().state_dict()
    with pytest.raises(WeightsError, match="has 150 word pieces, the vocabulary 149"):
        CXRBert(tensors, VOCABULARY[:-1], **BERT)
    del tensors["encoder.layer.1.output.dense.bias"]
    with pytest.raises(WeightsError, match=r"1 missing: encoder\.layer\.1\.output\.dense\.bias"):
        CXRBert(tensors, VOCABULARY, **BERT)
    with pytest.raises(WeightsError, match="unexpected"):
        CXRBert(bert().state_dict(), VOCABULARY, **BERT | {"layers": 1})


def test_loading_leaves_the_callers_random_stream_alone() -> None:
    tensors, before = bert().state_dict(), torch.get_rng_state()
    CXRBert(tensors, VOCABULARY, **BERT)
    assert torch.equal(torch.get_rng_state(), before)


# --- prompts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("report", "style", "wanted"),
    [
        ("Nodule.", "plain", "Nodule."),
        ('A "big" (3.5 mm) nodule.\nIt\'s left.', "plain", "A big 3.5 mm nodule. Its left."),
        (["Nodule.", "Effusion."], "plain", "Nodule. Effusion."),
        ("", "plain", ""),
        ("", "bracket_list", ""),
        ([], "bracket_list", ""),
        ("Nodule of 3.5 mm. Effusion.", "bracket_list", "[Nodule of 3.5 mm., Effusion.]"),
        (["Nodule (left).", "", "Effusion."], "bracket_list", "[Nodule left., Effusion.]"),
        (["Nodule.", "Nodule."], "bracket_list", "[Nodule., Nodule.]"),
        ("['Nodule.', 'Effusion.']", "bracket_list", "[Nodule., Effusion.]"),
    ],
)
def test_prompts(report: str | list[str], style: str, wanted: str) -> None:
    assert prompt(report, style) == wanted  # type: ignore[arg-type]


def test_unknown_prompt_format() -> None:
    with pytest.raises(InputError, match="prompt_format must be one of plain, bracket_list; got 'list'"):
        prompt("x", "list")  # type: ignore[arg-type]
