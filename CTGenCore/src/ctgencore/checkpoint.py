"""Tensors in files: read without running foreign code, write as safetensors, load into a network strictly."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
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
    """All tensors of a safetensors file or torch checkpoint (its ``state_dict`` or ``params``, if any), on the CPU.

    A checkpoint is a pickle, and a pickle is a program. Here it can build tensors, containers and numbers only; in the
    place of anything else that it names (a trainer's callbacks, its options, ``os.system``) comes an empty placeholder:
    nothing is imported or called.

    Raises:
        WeightsError: no such file, or a damaged one, or one without named tensors.
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

    is_zip = zipfile.is_zipfile(path)
    if is_zip:
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise WeightsError(
                    f"{path.name} is a TorchScript program, not a weights file. Allowed: safetensors and checkpoints."
                )
    try:
        content: Any = torch.load(
            path, map_location="cpu", weights_only=False, mmap=is_zip, pickle_module=_restricted_pickle()
        )
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path.name} is damaged or not a weights file ({reason}). Download or import it again."
        ) from error
    for wrapper in ("state_dict", "params"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    tensors = (
        {str(k): v for k, v in content.items() if isinstance(v, torch.Tensor)} if isinstance(content, Mapping) else {}
    )
    if not tensors:
        raise WeightsError(f"{path.name} holds no named tensors. A state dict, or a dict with 'state_dict', is needed.")
    return {name: tensor.detach() for name, tensor in tensors.items()}


class _Placeholder:
    """Stands for an object of a class that is not allowed: takes whatever the pickle does to it, and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> _Placeholder:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        """Forget it."""

    def extend(self, items: Any) -> None:
        """Forget them."""

    def add(self, item: Any) -> None:
        """Forget it."""


class _Allowed:
    """A function that the pickle may call and not otherwise touch (its state could be overwritten otherwise)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("it changes a function")


def _restricted_pickle() -> Any:
    """A stand-in for the module ``pickle`` whose unpickler imports nothing."""
    import torch

    utils: Any = torch._utils
    names = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    allowed: dict[tuple[str, str], Any] = {("torch._utils", name): _Allowed(getattr(utils, name)) for name in names}
    allowed |= {("torch", name): value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
    allowed[("torch", "Size")] = torch.Size
    allowed[("collections", "OrderedDict")] = OrderedDict
    placeholders: dict[tuple[str, str], type] = {}

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            key = (module, name)  # storage types do not come here: torch.load looks them up itself
            if key not in allowed and key not in placeholders:
                placeholders[key] = type(name, (_Placeholder,), {})
            return allowed.get(key) or placeholders[key]

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__="pickle", Unpickler=Unpickler, load=load, UnpicklingError=pickle.UnpicklingError)


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
    net.load_state_dict(check_names(net, tensors))


def check_names(net: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under the network's own names; it may be on the meta device.

    Raises:
        WeightsError: as :func:`load_published`.
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
        f"{len(names)} {word}: {listed(names)}"
        for word, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(
            f"These weights do not fit {type(net).__name__}: {'; '.join(problems)}. "
            "Check that they are of this very network and size."
        )
    return given


def listed(names: list[str]) -> str:
    """The first names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
