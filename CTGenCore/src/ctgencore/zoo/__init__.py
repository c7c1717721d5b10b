"""What there is: codecs, networks and generators as literal tables. Needs no torch; feeds CLI, docs and Slicer."""

from __future__ import annotations

import difflib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import InputError
from . import causal_video, codecs, external, extractors, generators, library, tiny_video, windowed
from .extractors import EXTRACTORS
from .generators import GENERATORS, RESIDUAL_STD
from .rows import TESTED, CodecRow, ExtractorRow, GeneratorRow, NetworkRow, Row, WeightFile

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "CODECS",
    "EXTRACTORS",
    "GENERATORS",
    "NETWORKS",
    "RESIDUAL_STD",
    "TESTED",
    "CodecRow",
    "ExtractorRow",
    "GeneratorRow",
    "NetworkRow",
    "Row",
    "WeightFile",
    "build_network",
    "find",
    "load_class",
    "lookup",
]

CODECS: dict[str, CodecRow] = {
    **codecs.CODECS,
    **library.CODECS,
    **tiny_video.CODECS,
    **causal_video.CODECS,
    **windowed.CODECS,
    **external.CODECS,
}
NETWORKS: dict[str, NetworkRow] = {
    **codecs.NETWORKS,
    **library.NETWORKS,
    **tiny_video.NETWORKS,
    **causal_video.NETWORKS,
    **windowed.NETWORKS,
    **generators.NETWORKS,
    **extractors.NETWORKS,
}


def find(name: str) -> Row:
    """The codec, generator or extractor called ``name``.

    Raises:
        InputError: there is none.
    """
    return lookup({**CODECS, **GENERATORS, **EXTRACTORS}, name, "codec, generator or extractor")


def lookup(table: dict[str, Any], name: str, kind: str) -> Any:
    """The row called ``name``.

    Raises:
        InputError: no such row; names the nearest one and all that are allowed.
    """
    if name in table:
        return table[name]
    near = difflib.get_close_matches(name, table, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise InputError(f"There is no {kind} called '{name}'.{hint} Known: {', '.join(table)}.")


def load_class(package: str, path: str) -> Any:
    """The class at ``module:Class`` below ``ctgencore.<package>``."""
    module, _, cls = path.partition(":")
    return getattr(import_module(f"ctgencore.{package}.{module}"), cls)


def build_network(name: str, **config: Any) -> nn.Module:
    """A bare network with random weights, at its published size unless ``config`` says otherwise (imports torch).

    Raises:
        InputError: unknown name.
    """
    row = lookup(NETWORKS, name, "network")
    return load_class("networks", row.cls)(**{**row.config, **config}).eval()


def build_empty(name: str, **config: Any) -> nn.Module:
    """As :func:`build_network`, without memory for the weights: all tensors are on the ``meta`` device.

    Raises:
        InputError: unknown name.
    """
    import torch

    row = lookup(NETWORKS, name, "network")
    cls = load_class("networks", row.cls)  # before the device is set: libraries make constants when they are imported
    with torch.device("meta"):
        network = cls(**{**row.config, **config})
    return network.eval().to("meta")
