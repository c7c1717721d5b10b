"""Tensors in files: read without running foreign code, write as safetensors, load into a network strictly."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

_SHOWN = 5  # names listed in a message before "and N more"


def is_safetensors(path: Path) -> bool:
    """Whether the file starts as safetensors does: the header's length, then a JSON object (the name says nothing)."""
    with path.open("rb") as stream:
        head = stream.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file or of a torch checkpoint (its ``state_dict``, when it has one), on the CPU.

    Raises:
        WeightsError: no such file, a damaged file, or a pickle that holds more than tensors and plain values; the
            message has the command that converts the last.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"There is no weights file at {path}.")
    return _read_safetensors(path) if is_safetensors(path) else _read_torch(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is damaged ({error}). Download or import it again.") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    import torch

    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "Unsupported" not in str(error) and "weights_only" not in str(error).lower():
            raise WeightsError(f"{path.name} is not a weights file ({error}).") from error
        raise WeightsError(
            f"{path.name} is a pickle that holds more than tensors, and reading that runs code from the file. "
            "Allowed: safetensors, or torch files of plain tensors. If you trust its source, convert it once:\n  "
            + convert_command(path)
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError) as error:
        raise WeightsError(
            f"{path.name} is damaged or not a weights file ({error}). Download or import it again."
        ) from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise WeightsError(f"{path.name} holds no named tensors. A state dict, or a dict with 'state_dict', is needed.")
    return tensors


def convert_command(path: Path) -> str:
    """The shell command that turns a full pickle into safetensors (it runs what the pickle holds)."""
    target = path.with_suffix(".safetensors").name
    code = (
        "import torch; from safetensors.torch import save_file; "
        f"s = torch.load('{path.name}', map_location='cpu', weights_only=False); s = s.get('state_dict', s); "
        f"save_file({{k: v.clone().contiguous() for k, v in s.items() if torch.is_tensor(v)}}, '{target}')"
    )
    return f'python -c "{code}"'


def write_safetensors(
    path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> Path:
    """Write tensors atomically (temporary name, then rename); those that share storage are copied apart."""
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    separate = {}
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = tensor.untyped_storage()
        whole = storage.nbytes() == tensor.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        separate[name] = tensor if whole else tensor.clone()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        save_file(separate, temporary, metadata=dict(metadata or {}))
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone; a lab shares its weights folder
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def load_published(net: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Fill a bare network with tensors under their published names, strictly.

    Args:
        net: from :func:`ctgencore.zoo.build_network`. If its class has ``remap_keys(tensors) -> tensors``, that
            renames (and where layouts differ, reshapes) the published tensors first.
        tensors: published name -> tensor.

    Raises:
        WeightsError: names are missing or unexpected, or shapes differ; all three are listed. Nothing is loaded then.
    """
    remap = getattr(type(net), "remap_keys", None)
    given = dict(remap(dict(tensors)) if remap is not None else tensors)
    wanted = net.state_dict()
    missing = sorted(wanted.keys() - given.keys())
    unexpected = sorted(given.keys() - wanted.keys())
    shapes = [
        f"{name} is {tuple(given[name].shape)}, the network has {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & given.keys())
        if given[name].shape != wanted[name].shape
    ]
    problems = [
        f"{len(names)} {word}: {_some(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(
            f"These weights do not fit {type(net).__name__}: {'; '.join(problems)}. "
            "Check that they are of this very network and size."
        )
    net.load_state_dict(given)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
