"""Weights on this machine: a cache folder that only ever fills on request, with licences and checksums.

The cache is ``$CTGEN_HOME`` or ``~/.cache/ctgen``. Each codec, generator or extractor has a folder in it with
safetensors and ``index.json``: which published file each came from, both checksums, and when the licence was accepted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import CTGenError, InputError, WeightsError
from .zoo import Row, WeightFile, find, load_class

if TYPE_CHECKING:
    from torch import Tensor

PACKAGED = Path(__file__).parent / "weights"


def cache_folder() -> Path:
    """``$CTGEN_HOME``, else ``~/.cache/ctgen``."""
    home = os.environ.get("CTGEN_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "ctgen"


def sha256(path: Path) -> str:
    """Checksum of a file, hex."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


# --- what is here ----------------------------------------------------------------------------------------------------


def missing_files(row: Row) -> list[WeightFile]:
    """The weight files that are not on this machine."""
    return [file for file in row.weights if not (_path(row, file) and _path(row, file).is_file())]  # type: ignore[union-attr]


def installed(name: str) -> Path | None:
    """The folder that holds all weights of the codec, generator or extractor, or None while anything is missing.

    Raises:
        InputError: unknown name.
    """
    row = find(name)
    if why_unavailable(row):
        return None
    return _folder(row) if row.needs_weights else PACKAGED


def presence(row: Row) -> str:
    """``packaged`` (weights that come with CTGen, or none needed), ``installed`` or ``missing``."""
    if why_unavailable(row):
        return "missing"
    return "installed" if row.needs_weights or row.program else "packaged"


def origin(row: Row) -> str:
    """Where its weights are to be had, in a few words."""
    if row.program:
        return "your own copy"
    if not row.weights:
        return "none needed"
    if not row.needs_weights:
        return "in CTGen"
    repositories = dict.fromkeys(f"hf.co/{file.repo}" for file in row.weights if file.repo)
    return ", ".join(repositories) or row.source


def size_bytes(row: Row) -> int | None:
    """Size of its weights on this machine, or None where any is missing, or in a program of the user's own."""
    paths = [_path(row, file) for file in row.weights]
    return None if row.program or missing_files(row) else sum(path.stat().st_size for path in paths if path is not None)


def locate(name: str) -> Path:
    """As :func:`installed`, for those who need the weights now.

    Raises:
        WeightsError: a file is missing; the message has the next command.
    """
    folder = installed(name)
    if folder is None:
        raise WeightsError(why_unavailable(find(name)))
    return folder


def why_unavailable(row: Row) -> str:
    """What is missing and how to get it; empty when it can be used."""
    unnamed = [name for name in row.program if not Path(os.environ.get(name, "")).is_file()]
    if unnamed:
        values = ", ".join(f"{name} ('{os.environ[name]}')" if os.environ.get(name) else name for name in unnamed)
        return (
            f"{row.kind.capitalize()} '{row.name}' runs in your own copy of {row.source}, license {row.license}, which "
            f"CTGen does not contain. Set the environment variables {row.program[0]} to a Python interpreter and "
            f"{row.program[1]} to a script, as docs/codecs.md shows. No file yet: {values}."
        )
    missing = missing_files(row)
    if not missing:
        return ""
    names = ", ".join(Path(file.filename).name for file in missing)
    if not row.needs_weights:
        return f"The weights of {row.kind} '{row.name}' ({names}) should have come with ctgencore: install it again."
    if all(file.repo for file in missing):
        how = (
            f"Run: ctgencore download {row.name}   (or, from files you have: ctgencore download {row.name} --from PATH)"
        )
    else:
        how = f"Get {names} from {row.source}, then run: ctgencore download {row.name} --from FOLDER"
    return f"The weights of {row.kind} '{row.name}' are not on this machine ({names}; license {row.license}). {how}"


def license_accepted(row: Row) -> bool:
    """Whether the licence needs no acceptance (weights that ship with CTGen, or none) or was accepted here."""
    return not row.needs_weights or bool(_index(row).get("license_accepted_utc"))


def accept_license(name: str) -> None:
    """Record in the cache that the user accepts the licence of these weights."""
    row = find(name)
    index = _index(row)
    if not license_accepted(row):
        _write_index(row, {**index, "license": row.license, "license_accepted_utc": _now()})


def load_tensors(row: Row) -> tuple[dict[str, Tensor], list[dict[str, str]]]:
    """All tensors under their published names, and what the record says of the files.

    Returns:
        ``(tensors, [{"name", "sha256", "license"}])``; sha256 is that of the published file. Vocabularies are among the
        files; :func:`load_vocabulary` reads them.

    Raises:
        WeightsError: weights are missing, changed since their import, or damaged.
    """
    from .checkpoint import read_tensors

    locate(row.name)
    tensors: dict[str, Tensor] = {}
    facts = []
    for file in row.weights:
        path, published = _verified(row, file)
        if not file.is_text:
            tensors.update({file.prefix + name: tensor for name, tensor in read_tensors(path).items()})
        facts.append({**published, "license": row.license})
    return tensors, facts


def load_vocabulary(row: Row) -> list[str]:
    """The pieces of the row's vocabulary.

    Raises:
        WeightsError: it is missing, or changed since its import.
    """
    from .text.base import read_vocabulary

    locate(row.name)
    [file] = [file for file in row.weights if file.is_text]
    return read_vocabulary(_verified(row, file)[0])


def _verified(row: Row, file: WeightFile) -> tuple[Path, dict[str, str]]:
    """Where a weight file lies, and name and checksum of the published file it came from."""
    name = Path(file.filename).name
    path = _path(row, file)
    assert path is not None
    found = sha256(path)
    if file.packaged:
        return path, {"name": name, "sha256": file.sha256 or found}
    entry = _index(row)["files"][name]
    if entry["sha256"] != found:
        raise WeightsError(
            f"{path} changed since its import (sha256 {found[:12]}..., expected {entry['sha256'][:12]}...). "
            f"Import it again: ctgencore download {row.name}"
        )
    return path, {"name": entry.get("source", name), "sha256": entry["source_sha256"]}


# --- getting it here -------------------------------------------------------------------------------------------------


def import_weights(name: str, path: str | Path, *, accept_license: bool = False) -> list[Path]:
    """Take weights from disk into the cache as safetensors.

    Args:
        name: a codec, generator or extractor of :mod:`ctgencore.zoo`.
        path: a folder that holds the published files, or one of them. Where only one file holds tensors, it may have
            any name.
        accept_license: the user accepts the licence of the weights; needed the first time.

    Returns:
        The files written. Where there are several, they may come one at a time.

    Raises:
        InputError: unknown name, one without weights to import, or no such path.
        WeightsError: licence not accepted, file not found, checksum differs from the published one, or unreadable.
    """
    row = find(name)
    path = Path(path).expanduser()
    if not row.needs_weights:
        raise InputError(f"{row.kind.capitalize()} '{name}' needs no weights from outside.")
    if not path.exists():
        raise InputError(f"There is nothing at {path}.")
    _demand_license(row, accept_license)
    pairs = _match(row, path)
    checksums = {file: _checked(file, source) for file, source in pairs}
    return [_store(row, file, source, checksums[file]) for file, source in pairs]


def download(name: str, *, offline: bool = False, accept_license: bool = False) -> list[Path]:
    """Fetch weights from the Hugging Face hub into the cache (the only function that uses the network).

    Raises:
        InputError: unknown name, or one without weights to fetch.
        WeightsError: offline, licence not accepted, not on the hub, or the download failed.
    """
    row = find(name)
    if not row.needs_weights:
        raise InputError(f"{row.kind.capitalize()} '{name}' needs no download.")
    missing = missing_files(row)
    if not missing:
        return []
    if not all(file.repo for file in missing):
        raise WeightsError(why_unavailable(row))
    if offline:
        raise WeightsError(
            f"{row.kind.capitalize()} '{name}' must be downloaded "
            f"({', '.join(f'{f.repo}: {f.filename}' for f in missing)}), and "
            f"--offline forbids it. Import files that you have with: ctgencore download {name} --from PATH"
        )
    _demand_license(row, accept_license)
    incoming = _folder(row) / "incoming"  # kept when interrupted: the hub client resumes what it finds there
    written = []
    for file in missing:
        source = _fetch(row, file, incoming)
        written.append(_store(row, file, source, _checked(file, source)))
    shutil.rmtree(incoming, ignore_errors=True)
    return written


def _fetch(row: Row, file: WeightFile, folder: Path) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import GatedRepoError

    assert file.repo is not None
    try:
        return Path(hf_hub_download(file.repo, file.filename, local_dir=folder))
    except GatedRepoError as error:
        raise WeightsError(
            f"{file.repo} asks you to accept its terms on its hub page first; then run `hf auth login` and try again."
        ) from error
    except Exception as error:  # the client's HTTP library, and so its errors, changed between its versions
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{file.filename} could not be downloaded from {file.repo}: {reason} "
            f"Try again, or import files that you have: ctgencore download {row.name} --from PATH"
        ) from error


def _demand_license(row: Row, accepted_now: bool) -> None:
    if accepted_now:
        accept_license(row.name)
    elif not license_accepted(row):
        raise WeightsError(
            f"The weights of {row.kind} '{row.name}' are under the license {row.license} (by {row.source}). "
            f"Accept it first: add --accept-license"
        )


def _match(row: Row, path: Path) -> list[tuple[WeightFile, Path]]:
    """Which published file each file on disk is."""
    if path.is_file():
        named = [file for file in row.weights if path.name in _names(file)]
        alike = [file for file in row.weights if file.is_text == (path.suffix == ".txt")]
        if named or len(alike) == 1:
            return [((named or alike)[0], path)]
        expected = ", ".join(Path(file.filename).name for file in row.weights)
        raise WeightsError(f"{path.name} is none of the files of {row.kind} '{row.name}': {expected}.")
    pairs = []
    missing = missing_files(row)
    for file in row.weights:
        candidates = [path / file.filename, *(path / name for name in _names(file))]
        found = next((candidate for candidate in candidates if candidate.is_file()), None)
        if found is not None:
            pairs.append((file, found))
        elif file in missing:
            raise WeightsError(f"{path} has no {' or '.join(_names(file))}, which {row.kind} '{row.name}' needs.")
    return pairs


def _names(file: WeightFile) -> list[str]:
    """File names to accept: published ones and, where the checksum is not known, their conversions to safetensors."""
    names = [Path(name).name for name in (file.filename, *file.also)]
    if not file.sha256 and not file.is_text:
        names += [f"{Path(name).stem}.safetensors" for name in names]
    return list(dict.fromkeys(names))


def _checked(file: WeightFile, source: Path) -> str:
    found = sha256(source)
    if file.sha256 and file.sha256 != found:
        raise WeightsError(
            f"{source.name} is not the published file: its sha256 is {found}, expected {file.sha256}. Get it again."
        )
    return found


def _store(row: Row, file: WeightFile, source: Path, source_sha256: str) -> Path:
    from .checkpoint import is_safetensors, read_tensors, write_safetensors

    name = Path(file.filename).name
    target = _folder(row) / (name if file.is_text else f"{Path(name).stem}.safetensors")
    target.parent.mkdir(parents=True, exist_ok=True)
    if file.is_text:
        _check_text(source)
        _copy(source, target)
    else:
        tensors = read_tensors(source)  # refuses damaged files, also those that are copied as they are
        if file.convert:
            package, _, function = file.convert.rpartition(".")
            tensors = load_class(package, function)(row, tensors)
        if is_safetensors(source) and not file.convert:
            _copy(source, target)
        else:
            write_safetensors(target, tensors, {"source": name, "source_sha256": source_sha256})
    index = _index(row)
    entry = {
        "file": target.name,
        "sha256": sha256(target),
        "source": source.name if source.name in file.also else name,
        "source_sha256": source_sha256,
        "imported_utc": _now(),
    }
    _write_index(row, {**index, "files": {**index.get("files", {}), name: entry}})
    return target


def _copy(source: Path, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _check_text(path: Path) -> None:
    try:
        empty = not path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError:
        empty = True
    if empty:
        raise WeightsError(f"{path.name} is no text in UTF-8. Get the published file again.")


# --- the index -------------------------------------------------------------------------------------------------------


def _folder(row: Row) -> Path:
    return cache_folder() / "weights" / row.name


def _path(row: Row, file: WeightFile) -> Path | None:
    """Where a weight file lies, or None when the cache has no entry for it."""
    if file.packaged:
        return PACKAGED / file.filename
    entry = _index(row).get("files", {}).get(Path(file.filename).name)
    return _folder(row) / entry["file"] if entry else None


def _index(row: Row) -> dict[str, Any]:
    path = _folder(row) / "index.json"
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, OSError) as error:
        raise CTGenError(
            f"{path} cannot be read ({error}). Delete that folder and import the weights again."
        ) from error


def _write_index(row: Row, index: dict[str, Any]) -> None:
    path = _folder(row) / "index.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".index.{os.getpid()}.tmp")
    temporary.write_text(json.dumps({"name": row.name, **index}, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
