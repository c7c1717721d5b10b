"""What the rows say of the codecs is so: rate, parameters, how they are tested; and what ``info`` makes of it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ctgencore import hub
from ctgencore.cli import app
from ctgencore.codecs.base import Codec
from ctgencore.intensity import Window
from ctgencore.zoo import CODECS, NETWORKS, TESTED
from typer.testing import CliRunner, Result

HERE = Path(__file__).parent


def goldens(parameters: int) -> list[tuple[Path, dict[str, Any]]]:
    """Reference numbers of autoencoders with so many parameters, and the files they are in."""
    files = {path: json.loads(path.read_text()) for path in (HERE.parent / "data" / "golden").glob("*.json")}
    entries = [(path, entry) for path, content in files.items() for entry in content.values()]
    return [pair for pair in entries if isinstance(pair[1], dict) and pair[1].get("n_parameters") == parameters]


@pytest.mark.parametrize("name", [name for name, row in CODECS.items() if not row.program])
@torch.inference_mode()
def test_rate_and_parameters_are_those_of_the_network(name: str) -> None:
    row, codec = CODECS[name], Codec.without_weights(name, grey=False)
    assert codec.stride_zyx == row.stride_zyx
    step, height, width = row.stride_zyx
    slices = codec.window or 2 * step + codec.causal
    shape = (slices, 2 * height, 2 * width)
    if codec.network is None:
        assert row.parameters == 0
        z = codec.encode(np.random.default_rng(0).uniform(-1000, 1000, shape).astype(np.float32), Window.parse("wide"))
    else:
        assert sum(parameter.numel() for parameter in codec.network.parameters()) == row.parameters
        z = codec._encode(torch.empty(1, codec.channels, *shape, device="meta"), {}, first=True)
    frames = (slices - codec.causal) // step + codec.causal
    assert tuple(z.shape) == (1, row.latent_channels, frames, 2, 2)


@pytest.mark.parametrize("name", list(CODECS))
def test_tested_as_the_row_says(name: str) -> None:
    row = CODECS[name]
    from_library = row.network is not None and NETWORKS[row.network].cls.startswith("library:")
    same = goldens(row.parameters)
    assert (row.tested == "library") == from_library
    assert (row.tested == "golden") == bool(same)
    assert (row.tested == "weights") == (bool(row.weights) and not row.needs_weights)
    assert (row.tested == "program") == bool(row.program)
    tests = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    for path, entry in same:
        encode, (_, height, width) = entry["encode"]["shape"], row.stride_zyx
        assert row.latent_channels in encode[1:3]
        assert encode[3:] == [math.ceil(32 / height), math.ceil(48 / width)]
        assert f'"{path.name}"' in tests, "reference numbers that nothing is held against"


def test_rates_in_words() -> None:
    rates = {name: CODECS[name].rate for name in ("leanvae", "taef2", "wan2.2", "medvae-8x", "identity")}
    assert rates == {
        "leanvae": "4x8x8, 16 ch, 16:1",
        "taef2": "1x8x8, 32 ch, 2:1",
        "wan2.2": "4x16x16, 48 ch, 21.3:1",
        "medvae-8x": "8x8x8, 1 ch, 512:1",
        "identity": "1x1x1, 1 ch, 1:1",
    }


# --- info ------------------------------------------------------------------------------------------------------------


def info(*arguments: str, columns: int = 100) -> Result:
    done = CliRunner().invoke(app, ["info", *arguments], env={"COLUMNS": str(columns), "NO_COLOR": "1"})
    assert done.exit_code == 0, done.stderr
    return done


def test_info_says_it_of_every_codec(cache: Path) -> None:
    rows = {row["name"]: row for row in json.loads(info("--json").stdout)["codecs"]}
    assert list(rows) == list(CODECS)
    for name, row in CODECS.items():
        facts = rows[name]
        assert facts["rate"] == row.rate
        assert (facts["stride_zyx"], facts["latent_channels"]) == (list(row.stride_zyx), row.latent_channels)
        assert facts["compression"] == pytest.approx(math.prod(row.stride_zyx) / row.latent_channels, abs=1e-3)
        assert (facts["parameters"], facts["float32_mb"]) == (row.parameters, round(row.parameters * 4 / 1e6, 1))
        assert (facts["tested"], facts["tested_how"]) == (row.tested, TESTED[row.tested])
        outside = bool(row.needs_weights or row.program)
        assert facts["weights"] == ("missing" if outside else "packaged")
        assert (facts["installed_mb"] is None) == outside
        assert facts["available"] == (facts["weights"] != "missing")
    shipped = hub.PACKAGED / "embedded_codec.safetensors"
    assert rows["embedded"]["installed_mb"] == round(shipped.stat().st_size / 1e6, 1)
    assert rows["leanvae"]["weights_from"] == "hf.co/Yumic/LeanVAE"
    assert rows["taef2"]["weights_from"] == "github.com/madebyollin/taesd"
    assert rows["dct16"]["weights_from"] == "none needed"


def test_table_of_codecs(cache: Path) -> None:
    shown = info("--codecs").stdout
    lines = shown.splitlines()
    for name, row in CODECS.items():
        [line] = [line for line in lines if line.split()[:1] == [name] and row.rate in line]
        assert row.tested in line.split()
        assert ("missing" if row.needs_weights or row.program else "packaged") in line
    assert "39.8 M" in shown
    assert "159 MB" in shown
    assert "hf.co/Yumic/LeanVAE" in shown
    assert all(how in shown for how in TESTED.values())
    facts = json.loads(info("--codecs", "--json").stdout)
    assert (len(facts["codecs"]), facts["generators"]) == (len(CODECS), [])
    both = CliRunner().invoke(app, ["info", "taef2", "--codecs"])
    assert both.exit_code == 2


def test_info_of_one_codec(cache: Path) -> None:
    shown = info("wan2.1").stdout
    assert "16 numbers for 4x8x8 voxels: 16 voxels per number" in shown
    assert "126.9 M parameters, 507.6 MB in float32" in shown
    assert f"golden: {TESTED['golden']}" in shown
    assert "hf.co/Wan-AI/Wan2.1-T2V-1.3B-Diffusers" in shown
    assert "MB on this machine" in info("embedded").stdout
    assert "no network" in info("identity").stdout


def test_installed_weights_show_their_size(cache: Path, tmp_path: Path) -> None:
    from ctgencore.checkpoint import write_safetensors

    path = tmp_path / "taef1.safetensors"
    write_safetensors(path, {"a": torch.zeros(250_000)}, {})
    hub.import_weights("taef1", path, accept_license=True)
    [row] = json.loads(info("taef1", "--json").stdout)["codecs"]
    assert (row["weights"], row["installed_mb"]) == ("installed", 1.0)
