"""Every codec row as a small, real codec with deterministic weights."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from ctgencore.codecs.base import Codec
from ctgencore.codecs.external import ExternalCodec
from ctgencore.zoo import CODECS, NETWORKS, build_network, load_class

EXTERNAL_PROGRAM = Path(__file__).parents[1] / "external_program.py"  # stands in for a user's own copy of a network


def tiny_codec(name: str, *, grey: bool = True) -> Codec:
    """The codec ``name`` around the small network of its row."""
    row = CODECS[name]
    network = None
    if row.network is not None:
        torch.manual_seed(0)
        network = build_network(row.network, **NETWORKS[row.network].tiny)
    codec = load_class("codecs", row.codec)(row, network)
    if isinstance(codec, ExternalCodec):
        codec.command = [sys.executable, str(EXTERNAL_PROGRAM)]
    if grey:
        codec.fold_grey()
    return codec


@pytest.fixture(params=list(CODECS))
def codec(request: pytest.FixtureRequest) -> Codec:
    """One codec after the other."""
    return tiny_codec(request.param)
