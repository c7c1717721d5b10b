"""Weights come in only on request, checked, under an accepted license, and only as tensors."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from ctgencore import checkpoint, hub
from ctgencore.errors import InputError, WeightsError
from ctgencore.zoo import CODECS, GENERATORS, NETWORKS, CodecRow, WeightFile, build_network
from processes import Command, environment
from safetensors.torch import load_file, save_file

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int64)}


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """No test here may touch the user's cache."""


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A stand-in for LeanVAE's published file: same name and form, other tensors."""
    path = tmp_path / "LeanVAE-dim16.ckpt"
    torch.save({"args": {"latent_dim": 16}, "state_dict": TENSORS}, path)
    return path


def two_file_row(folder: Path) -> CodecRow:
    """A codec published in two files with bare names, as TAEF2 is."""
    files = []
    for value, part in enumerate(("encoder", "decoder"), start=1):
        path = folder / f"two_{part}.pth"
        torch.save({"0.weight": torch.full((2,), float(value))}, path)
        checksum = hub.sha256(path)
        files.append(WeightFile(filename=path.name, prefix=f"{part}.", sha256=checksum))
    facts = {"stride_zyx": (1, 1, 1), "latent_channels": 1, "tested": "contract"}
    about = {"title": "", "description": "", "codec": "", "license": "MIT", "source": "there"}
    return CodecRow(name="two", weights=tuple(files), **about, **facts)


def test_cache_is_ctgen_home_else_below_home(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub.cache_folder() == cache
    monkeypatch.delenv("CTGEN_HOME")
    assert hub.cache_folder() == Path.home() / ".cache" / "ctgen"


def test_import_keeps_every_tensor(published: Path, cache: Path) -> None:
    written = hub.import_weights("leanvae", published, accept_license=True)
    assert written == [cache / "weights" / "leanvae" / "LeanVAE-dim16.safetensors"]
    tensors, facts = hub.load_tensors(CODECS["leanvae"])
    assert tensors.keys() == TENSORS.keys()
    assert all(
        torch.equal(tensors[name], TENSORS[name]) and tensors[name].dtype == TENSORS[name].dtype for name in TENSORS
    )
    assert facts == [{"name": published.name, "sha256": hub.sha256(published), "license": "MIT"}]
    assert hub.installed("leanvae") == cache / "weights" / "leanvae"
    assert hub.why_unavailable(CODECS["leanvae"]) == ""


def test_single_file_codec_takes_any_name_and_folder(published: Path, tmp_path: Path) -> None:
    renamed = tmp_path / "mine" / "whatever.bin"
    renamed.parent.mkdir()
    shutil.copy(published, renamed)
    hub.import_weights("leanvae", renamed, accept_license=True)
    first = hub.load_tensors(CODECS["leanvae"])[0]
    hub.import_weights("leanvae", published.parent)
    assert all(torch.equal(first[name], TENSORS[name]) for name in TENSORS)


def test_files_of_a_codec_may_come_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = two_file_row(tmp_path)
    monkeypatch.setitem(CODECS, "two", row)
    hub.import_weights("two", tmp_path / "two_encoder.pth", accept_license=True)
    assert hub.installed("two") is None
    assert [file.filename for file in hub.missing_files(row)] == ["two_decoder.pth"]
    with pytest.raises(WeightsError, match=r"two_decoder\.pth.*ctgencore download two --from FOLDER"):
        hub.load_tensors(row)
    hub.import_weights("two", tmp_path / "two_decoder.pth")
    tensors, _ = hub.load_tensors(row)
    assert {name: float(value[0]) for name, value in tensors.items()} == {
        "encoder.0.weight": 1.0,
        "decoder.0.weight": 2.0,
    }


def test_wrong_checksum_is_refused_and_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = two_file_row(tmp_path)
    monkeypatch.setitem(CODECS, "two", row)
    torch.save({"0.weight": torch.zeros(2)}, tmp_path / "two_decoder.pth")
    with pytest.raises(
        WeightsError, match=r"two_decoder\.pth is not the published file: its sha256 is [0-9a-f]{64}, expected"
    ):
        hub.import_weights("two", tmp_path, accept_license=True)
    assert len(hub.missing_files(row)) == 2


def test_license_must_be_accepted_once(published: Path) -> None:
    row = CODECS["leanvae"]
    assert not hub.license_accepted(row)
    with pytest.raises(WeightsError, match=r"license MIT \(by westlake-repl/LeanVAE\).*--accept-license"):
        hub.import_weights("leanvae", published)
    assert hub.installed("leanvae") is None
    hub.accept_license("leanvae")
    assert hub.license_accepted(row)
    hub.import_weights("leanvae", published)
    index = json.loads((hub.cache_folder() / "weights" / "leanvae" / "index.json").read_text())
    assert index["license"] == "MIT"
    assert index["license_accepted_utc"]


@pytest.mark.parametrize(
    ("codec", "path", "error", "words"),
    [
        ("taef3", ".", InputError, "no codec, generator or extractor called 'taef3'. Did you mean 'taef2'"),
        ("identity", ".", InputError, "needs no weights"),
        ("taef2", "nowhere", InputError, "nothing at"),
        ("taef2", ".", WeightsError, "has no taef2_encoder.pth, which codec 'taef2' needs"),
        (
            "taef2",
            "LeanVAE-dim16.ckpt",
            WeightsError,
            "is none of the files of codec 'taef2': taef2_encoder.pth, taef2_decoder",
        ),
    ],
)
def test_wrong_import_says_what_is_needed(
    published: Path, codec: str, path: str, error: type[Exception], words: str
) -> None:
    with pytest.raises(error) as caught:
        hub.import_weights(codec, published.parent / path, accept_license=True)
    assert words in str(caught.value)


def test_pickle_with_more_than_tensors_gives_its_tensors(tmp_path: Path) -> None:
    path = tmp_path / "LeanVAE-dim16.ckpt"
    torch.save({"hyper": argparse.Namespace(x=1), "state_dict": TENSORS}, path)
    hub.import_weights("leanvae", path, accept_license=True)
    assert torch.equal(hub.load_tensors(CODECS["leanvae"])[0]["a.weight"], TENSORS["a.weight"])


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"PK\x03\x04broken", b"\x80\x02}q\x00."])
def test_a_file_that_is_no_weights_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"x\.ckpt"):
        hub.import_weights("leanvae", path, accept_license=True)
    assert hub.installed("leanvae") is None


def test_cut_off_safetensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(WeightsError, match="is damaged"):
        hub.import_weights("leanvae", path, accept_license=True)


def test_change_in_the_cache_is_noticed(published: Path) -> None:
    [path] = hub.import_weights("leanvae", published, accept_license=True)
    tensors = load_file(path)
    tensors["a.weight"][0, 0] = 9
    save_file(tensors, path)
    with pytest.raises(WeightsError, match="changed since its import"):
        hub.load_tensors(CODECS["leanvae"])


def test_offline_forbids_and_names_repository_and_file() -> None:
    for codec, repo, filename in [
        ("leanvae", "Yumic/LeanVAE", "LeanVAE-dim16.ckpt"),
        ("wan2.1", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "vae/diffusion_pytorch_model.safetensors"),
        ("foundation-healthy", "qicq1c/Foundation-VAE", "epoch=000070.ckpt"),
        ("foundation-healthy", "microsoft/BiomedVLP-CXR-BERT-specialized", "vocab.txt"),
    ]:
        with pytest.raises(WeightsError, match="--offline forbids it") as caught:
            hub.download(codec, offline=True, accept_license=True)
        assert f"{repo}: {filename}" in str(caught.value)


def test_names_are_unique_across_tables() -> None:
    assert not CODECS.keys() & GENERATORS.keys()
    assert all(row.codec in CODECS and row.network in NETWORKS for row in GENERATORS.values())


def test_generators_are_listed_and_say_what_they_need(command: Command) -> None:
    facts = json.loads(command("info", "--json").stdout)
    rows = {row["name"]: row for row in facts["generators"]}
    assert list(rows) == list(GENERATORS)
    assert rows["foundation-embedded"]["guidance"]
    assert not rows["foundation-healthy"]["guidance"]
    assert not rows["foundation-healthy"]["available"]
    one = command("info", "foundation-multidisease")
    assert "482 M parameters" in one.stdout
    assert "epoch=000061.ckpt, vocab.txt" in one.stdout
    assert json.loads(command("info", "taef2", "--json").stdout)["generators"] == []
    table = command("info").stdout
    assert all(name in table for name in (*CODECS, *GENERATORS))


def test_other_published_names_and_bad_vocabularies(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(WeightsError, match=r"vocab\.txt is no text in UTF-8"):
        hub.import_weights("foundation-multidisease", tmp_path / "vocab.txt", accept_license=True)
    torch.save(TENSORS, tmp_path / "epoch=000095.ckpt")
    with pytest.raises(WeightsError, match=r"no checkpoint of a Foundation-VAE generator: 2 tensors .*a\.weight, b"):
        hub.import_weights("foundation-multidisease", tmp_path / "epoch=000095.ckpt", accept_license=True)
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"has no epoch=000061\.ckpt or epoch=000095\.ckpt or"):
        hub.import_weights("foundation-multidisease", tmp_path / "empty", accept_license=True)


def test_weights_that_no_hub_has_name_their_source() -> None:
    with pytest.raises(
        WeightsError, match=r"from github\.com/madebyollin/taesd, then run: ctgencore download taef2 --from"
    ):
        hub.download("taef2", accept_license=True)


@contextmanager
def own_hub(files: dict[str, bytes]) -> Iterator[tuple[str, list[str]]]:
    """A hub on this machine that knows these files; its address, and the paths it was asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def _head(self) -> bytes:
            asked.append(self.path)
            content = files.get(self.path)
            self.send_response(404 if content is None else 200)
            if content is not None:
                self.send_header("ETag", '"0123456789abcdef0123456789abcdef"')
                self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            return content or b""

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            self.wfile.write(self._head())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def download(*flags: str, hub_address: str, cache: Path) -> subprocess.CompletedProcess[str]:
    env = environment() | {"HF_ENDPOINT": hub_address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-m", "ctgencore", "download", "leanvae", *flags],
        env=env | {"no_proxy": "127.0.0.1", "HF_HOME": str(cache / "hf")},
        capture_output=True,
        text=True,
        timeout=120,
        stdin=subprocess.DEVNULL,
    )


def test_download_asks_the_hub_for_exactly_the_published_file(published: Path, cache: Path) -> None:
    """The real hub client against a hub of our own."""
    wanted = "/Yumic/LeanVAE/resolve/main/LeanVAE-dim16.ckpt"
    with own_hub({wanted: published.read_bytes()}) as (address, asked):
        refused = download(hub_address=address, cache=cache)
        assert refused.returncode == 3
        assert "--accept-license" in refused.stderr
        assert asked == []
        done = download("--accept-license", hub_address=address, cache=cache)
    assert done.returncode == 0, done.stderr
    assert set(asked) == {wanted}
    assert Path(done.stdout.strip()) == cache / "weights" / "leanvae" / "LeanVAE-dim16.safetensors"
    assert torch.equal(hub.load_tensors(CODECS["leanvae"])[0]["a.weight"], TENSORS["a.weight"])
    assert not (cache / "weights" / "leanvae" / "incoming").exists()
    assert os.listdir(cache / "weights") == ["leanvae"]


def test_failed_download_says_how_to_go_on(cache: Path) -> None:
    with own_hub({}) as (address, _):
        done = download("--accept-license", hub_address=address, cache=cache)
    assert done.returncode == 3
    assert "could not be downloaded from Yumic/LeanVAE" in done.stderr
    assert "ctgencore download leanvae --from PATH" in done.stderr
    assert "Traceback" not in done.stderr


def test_shared_storage_is_written_apart(tmp_path: Path) -> None:
    base = torch.arange(10.0)
    tensors = {"all": base, "again": base, "part": base[2:5], "turned": base.reshape(2, 5).T}
    back = checkpoint.read_tensors(checkpoint.write_safetensors(tmp_path / "x.safetensors", tensors))
    assert all(torch.equal(back[name], value) for name, value in tensors.items())
    assert os.listdir(tmp_path) == ["x.safetensors"]


def test_loading_is_strict_and_all_or_nothing() -> None:
    net = build_network("taef2", dim=4, latent_channels=2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    given = {name: value + 1 for name, value in before.items()}
    names = list(given)
    given["extra"] = given.pop(names[0])
    given[names[1]] = torch.zeros(3)
    with pytest.raises(WeightsError) as caught:
        checkpoint.load_published(net, given)
    for words in (
        f"1 missing: {names[0]}",
        "1 unexpected: extra",
        f"1 of another shape: {names[1]} is (3,), the network has",
    ):
        assert words in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    checkpoint.load_published(net, {name: value + 1 for name, value in before.items()})
    assert all(torch.equal(value, before[name] + 1) for name, value in net.state_dict().items())
