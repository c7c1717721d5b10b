"""Published generator checkpoints: read without running them, taken apart strictly, usable afterwards."""

from __future__ import annotations

import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ctgencore import hub
from ctgencore.checkpoint import load_published, read_tensors
from ctgencore.cli import app
from ctgencore.errors import WeightsError
from ctgencore.generators.base import Generator
from ctgencore.generators.published import SCHEDULE, convert
from ctgencore.networks.unet_slices import SliceUNet
from ctgencore.text.base import SPECIAL
from ctgencore.text.cxrbert import build_bert
from ctgencore.zoo import GENERATORS, NETWORKS, GeneratorRow, build_network
from torch import Tensor
from typer.testing import CliRunner

NAME = "foundation-healthy"
BERT = {"layers": 1, "width": 32, "heads": 2, "max_tokens": 16}
VOCABULARY = [*SPECIAL, "no", "nodule", "left", "."]


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """No test here may touch the user's cache."""


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> GeneratorRow:
    """The published healthy generator with small networks."""
    sizes = {**NETWORKS["foundation-unet"].tiny, "in_channels": 8, "out_channels": 4}
    config = {**sizes, **GENERATORS[NAME].network_config}
    small = replace(GENERATORS[NAME], network_config=config, text_config=BERT)
    monkeypatch.setitem(GENERATORS, NAME, small)
    monkeypatch.setitem(NETWORKS, "leanvae", replace(NETWORKS["leanvae"], config=NETWORKS["leanvae"].tiny))
    return small


def checkpoint(row: GeneratorRow, *, two_d: bool = False) -> dict[str, Tensor]:
    """The state dict of a published checkpoint, with its exact names."""
    torch.manual_seed(5)
    unet = build_network(row.network, **row.network_config, slice_convs=not two_d).state_dict()
    unet = {name: torch.randn_like(tensor) for name, tensor in unet.items()}
    bert = {name: torch.randn_like(tensor) for name, tensor in build_bert(len(VOCABULARY), **BERT).state_dict().items()}
    bert["embeddings.position_ids"] = torch.arange(16)[None]
    bert |= {"pooler.dense.weight": torch.zeros(32, 32), "pooler.dense.bias": torch.zeros(32)}
    state = {f"model.diffusion_model.{name}": tensor for name, tensor in unet.items()}
    state |= {name: torch.zeros(1000) for name in SCHEDULE}
    if two_d:
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
        state |= {f"model_ema.diffusion_model{name.replace('.', '')}": tensor + 1 for name, tensor in unet.items()}
    state |= {f"text_transformer.{name}": tensor for name, tensor in bert.items()}
    return state | {f"first_stage_model.{k}": v for k, v in build_network("leanvae").state_dict().items()}


def save_as_lightning(path: Path, state: dict[str, Tensor]) -> Path:
    """As Lightning 1.4 saves: callback states keyed by classes, options as objects; none can be imported afterwards."""
    module = types.ModuleType("lightning_that_is_not_here")
    callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
    options = type("AttributeDict", (dict,), {"__module__": module.__name__})
    listed = type("ListConfig", (list,), {"__module__": module.__name__})
    module.ModelCheckpoint, module.AttributeDict, module.ListConfig = callback, options, listed
    sys.modules[module.__name__] = module
    held = callback()
    held.best = torch.zeros(3)
    content = {
        "epoch": 70,
        "global_step": 12345,
        "callbacks": {callback: {"best_model_score": torch.tensor(0.1), "object": held}},
        "hyper_parameters": options(lr=5e-7, sizes=listed([1, 2])),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(4)}}}],
        "state_dict": OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in state.items()),
    }
    try:
        torch.save(content, path)
    finally:
        del sys.modules[module.__name__]
    return path


def test_a_lightning_checkpoint_becomes_a_generator(row: GeneratorRow, tmp_path: Path) -> None:
    state = checkpoint(row)
    path = save_as_lightning(tmp_path / "epoch=000070.ckpt", state)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # so a plain reader refuses it
    (tmp_path / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["download", NAME, "--from", str(path), "--accept-license"])
    assert done.exit_code == 0, done.output
    assert "vocab.txt" in done.stderr
    assert hub.installed(NAME) is None
    assert CliRunner().invoke(app, ["download", NAME, "--from", str(tmp_path / "vocab.txt")]).exit_code == 0
    tensors, facts = hub.load_tensors(row)
    assert [fact["name"] for fact in facts] == ["epoch=000070.ckpt", "vocab.txt"]
    assert facts[0]["sha256"] == hub.sha256(path)
    assert {name.partition(".")[0] for name in tensors} == {"unet", "text", "codec"}
    generator = Generator.from_pretrained(NAME, device="cpu")
    assert generator.weights == facts
    assert all(
        torch.equal(value, state[f"model.diffusion_model.{name}"])
        for name, value in generator.unet.state_dict().items()
    )
    vae = generator.codec.network.state_dict()
    assert torch.equal(vae["latent_bottleneck.phi"], state["first_stage_model.latent_bottleneck.phi"])
    assert generator.text.encode(["No nodule.", ""]).shape == (2, 16, 32)
    words = generator.text.model.state_dict()["embeddings.word_embeddings.weight"]
    assert torch.equal(words, state["text_transformer.embeddings.word_embeddings.weight"])
    hub.import_weights(NAME, tmp_path)  # the folder with both, again


def test_the_running_average_is_preferred(row: GeneratorRow) -> None:
    state = checkpoint(row, two_d=True)
    name = "input_blocks.1.0.in_layers.2.weight"
    raw = state[f"model.diffusion_model.{name}"]
    assert torch.equal(convert(row, state)[f"unet.{name}"], raw + 1)
    assert torch.equal(convert(row, state, average=False)[f"unet.{name}"], raw)
    del state["model_ema.diffusion_modelout0weight"]
    with pytest.raises(WeightsError, match=r"1 missing \(diffusion_modelout0weight\)"):
        convert(row, state)


@torch.inference_mode()
def test_a_2d_checkpoint_gets_identity_slice_convolutions(row: GeneratorRow) -> None:
    state = checkpoint(row, two_d=True)
    given = {k.removeprefix("unet."): v for k, v in convert(row, state).items() if k.startswith("unet.")}
    deep = build_network(row.network, **row.network_config)
    load_published(deep, given)
    flat = build_network(row.network, **row.network_config, slice_convs=False)
    load_published(flat, {name: given[name] for name in flat.state_dict()})
    x, context = torch.randn(3, 8, 8, 8), torch.randn(1, 4, 32)
    t = torch.tensor([5])
    assert isinstance(deep, SliceUNet)
    torch.testing.assert_close(deep(x, t, context, num_slices=3), flat(x, t, context, num_slices=3))


def test_converting_twice_changes_nothing(row: GeneratorRow) -> None:
    once = convert(row, checkpoint(row))
    twice = convert(row, once)
    assert once.keys() == twice.keys()
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("model.diffusion_model.out.0.weight"), "1 missing: out.0.weight"),
        (lambda s: s.update({"model.diffusion_model.x": torch.zeros(1)}), "1 unexpected: x"),
        (lambda s: s.update({"cond_stage_model.x": torch.zeros(1)}), "cond_stage_model.x"),
        (lambda s: s.update({"first_stage_model.encoder.x": torch.zeros(1)}), "1 unexpected: encoder.x"),
        (lambda s: s.pop("text_transformer.embeddings.LayerNorm.bias"), "1 missing: embeddings.LayerNorm.bias"),
        (lambda s: s.pop("text_transformer.embeddings.word_embeddings.weight"), "The text encoder is missing"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("model.diffusion_model.")], "0 of its denoiser"),
    ],
)
def test_what_does_not_fit_is_listed_and_nothing_is_stored(
    row: GeneratorRow, tmp_path: Path, change: object, words: str
) -> None:
    state = checkpoint(row)
    change(state)  # type: ignore[operator]
    path = save_as_lightning(tmp_path / "epoch=000070.ckpt", state)
    with pytest.raises(WeightsError) as caught:
        hub.import_weights(NAME, path, accept_license=True)
    assert words in str(caught.value)
    assert not list((hub.cache_folder() / "weights" / NAME).glob("*.safetensors"))


class Evil:
    """Runs a command when unpickled."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple:
        return self.call


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("function", [os.system, eval, os.mkdir])
def test_a_malicious_pickle_does_not_run(tmp_path: Path, function: object, legacy: bool) -> None:
    trace = tmp_path / "it_ran"
    argument = {os.system: f"touch {trace}", eval: f"open({str(trace)!r}, 'w')", os.mkdir: str(trace)}[function]
    path = tmp_path / "evil.ckpt"
    content = {"state_dict": {"a": torch.ones(2)}, "callbacks": {"x": Evil(function, argument)}}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    assert torch.equal(read_tensors(path)["a"], torch.ones(2))
    assert not trace.exists()
    torch.load(path, weights_only=False)
    assert trace.exists(), "the file would have done harm"


def test_a_pickle_cannot_change_what_it_may_call(tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    before = torch._utils._rebuild_tensor_v2.__defaults__
    # GLOBAL the function, (None, {"__defaults__": ()}) as its state, BUILD
    payload = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__)s\x86b."
    torch.save({"state_dict": {"a": torch.ones(2)}}, path)
    rewritten = tmp_path / "rewritten.ckpt"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, payload if name.endswith("data.pkl") else old.read(name))
    with pytest.raises(WeightsError, match="changes a function"):
        read_tensors(rewritten)
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "program.pt"
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
    with pytest.raises(WeightsError, match="TorchScript program"):
        read_tensors(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool])
def test_all_kinds_of_tensors_are_read(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"whole": torch.arange(6).to(dtype).reshape(2, 3), "scalar": torch.tensor(1).to(dtype)}
    tensors["turned"] = tensors["whole"].T
    for legacy in (False, True):
        torch.save(tensors, tmp_path / "x.pt", _use_new_zipfile_serialization=not legacy)
        back = read_tensors(tmp_path / "x.pt")
        assert all(torch.equal(back[k], v) and back[k].dtype == dtype for k, v in tensors.items())
