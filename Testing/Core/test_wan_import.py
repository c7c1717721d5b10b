"""The official files of WAN 2.1 and 2.2: every name, a round trip through the cache, and the original's outputs."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ctgencore import hub
from ctgencore.cli import app
from ctgencore.codecs.base import Codec
from ctgencore.errors import WeightsError
from ctgencore.networks.wan import Wan, convert, diffusers_name
from ctgencore.zoo import CODECS, NETWORKS, build_network
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from test_networks import GOLDEN, array, fill
from torch import Tensor
from typer.testing import CliRunner

NUMBERS = json.loads((GOLDEN / "wan_official.json").read_text())
KEYS = {"wan2.1": "wan21", "wan2.2": "wan22"}
VERSIONS = list(KEYS)


def names(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    lines = (GOLDEN / f"{KEYS[name]}_{layout}.keys.txt").read_text().splitlines()[1:]
    return {key: ast.literal_eval(shape) for key, shape, _ in (line.split("\t") for line in lines)}


def official_tiny(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A small network's tensors as the official file has them, and as diffusers does."""
    torch.manual_seed(0)
    tensors = dict(build_network(name, **NETWORKS[name].tiny).state_dict())
    return {key: tensors[diffusers_name(key)] for key in names(name, "official")}, tensors


@pytest.fixture
def _tiny(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    """The rows with small networks, and an own cache."""
    for name in VERSIONS:
        row = NETWORKS[name]
        monkeypatch.setitem(NETWORKS, name, replace(row, config={**row.config, **row.tiny}))


@pytest.mark.parametrize("name", VERSIONS)
def test_every_official_name_has_its_place(name: str) -> None:
    """At full size: the names and shapes that come out are those of diffusers' own file."""
    with torch.device("meta"):
        official = {key: torch.empty(shape) for key, shape in names(name, "official").items()}
    found = convert(CODECS[name], official)
    assert {key: tuple(value.shape) for key, value in found.items()} == names(name, "diffusers")


def test_the_names_are_those_of_diffusers_converter() -> None:
    """For 2.1; diffusers 0.42.1 cannot read the official file of 2.2."""
    official = {key: torch.tensor(i) for i, key in enumerate(names("wan2.1", "official"))}
    theirs = convert_wan_vae_to_diffusers(dict(official))
    assert {diffusers_name(key): int(value) for key, value in official.items()} == {
        key: int(value) for key, value in theirs.items()
    }


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize("name", VERSIONS)
@pytest.mark.parametrize("layout", ["official", "diffusers"])
def test_a_file_from_disk_becomes_the_codec(name: str, layout: str, tmp_path: Path) -> None:
    official, tensors = official_tiny(name)
    path = tmp_path / f"Wan{name.removeprefix('wan')}_VAE.pth"
    torch.save(official if layout == "official" else tensors, path)
    done = CliRunner().invoke(app, ["download", name, "--from", str(path), "--accept-license"])
    assert done.exit_code == 0, done.output
    codec = Codec.from_pretrained(name, device="cpu", grey=False)
    assert codec.weights == [{"name": path.name, "sha256": hub.sha256(path), "license": "Apache-2.0"}]
    assert codec.network is not None
    found = codec.network.state_dict()
    assert found.keys() == tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in found.items())
    hub.import_weights(name, tmp_path)  # the folder that holds it, too


@pytest.mark.usefixtures("_tiny")
@pytest.mark.parametrize(("name", "other"), [VERSIONS, VERSIONS[::-1]])
def test_the_other_version_is_refused(name: str, other: str, tmp_path: Path) -> None:
    path = tmp_path / "vae.pth"
    torch.save(official_tiny(other)[0], path)
    with pytest.raises(WeightsError, match=r"These weights do not fit Wan: .* missing"):
        hub.import_weights(name, path, accept_license=True)
    assert hub.installed(name) is None


@pytest.mark.heavy
@pytest.mark.parametrize("name", VERSIONS)
@torch.inference_mode()
def test_it_equals_the_official_network(name: str) -> None:
    """127 and 705 million numbers are drawn: half a minute, and 6 GB for 2.2."""
    numbers = NUMBERS[f"{KEYS[name]}_official"]
    tensors = convert(CODECS[name], {key: fill(key, shape) for key, shape in names(name, "official").items()})
    with torch.device("meta"):
        net = build_network(name)
    assert isinstance(net, Wan)
    net.load_state_dict(tensors, assign=True)
    assert sum(p.numel() for p in net.parameters()) == numbers["n_parameters"]
    z = net.encode(array(numbers["x"], numbers["input_shape"], 0.5))
    assert_close(z, numbers["encode"])
    z = array(numbers["z"], numbers["encode"]["shape"], 1.0)
    assert_close(net.decode(z), numbers["decode"])


def assert_close(output: Tensor, entry: dict) -> None:
    """Within the tolerance of the reference numbers."""
    assert list(output.shape) == entry["shape"]
    flat = output.double().flatten()
    assert float(flat.norm()) == pytest.approx(entry["l2"], rel=1e-3)
    torch.testing.assert_close(flat[entry["idx"]], torch.tensor(entry["values"], dtype=flat.dtype), atol=5e-3, rtol=0)
