"""Views: how a case is reconstructed, written as one line of text, and what is drawn of it for each case."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...intensity import Window
from ...zoo import CODECS, lookup
from ..reconstruct import check_levels

NAME = re.compile(r"[A-Za-z0-9.-]+")
FORM = "[NAME=]CODEC[|CODEC...][,window=W[|W...]][,noise=A[..B]][,residual=A[..B]]"


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What was drawn for a case; all of its channels share it. The fields are those of ``ReconstructOptions``.

    Attributes:
        codec: name in ``ctgencore info``.
        window: HU range that the network sees.
        latent_noise: level of noise on the latents.
        residual: share of what the codec took away that is added back.
        seed: of the noise.
    """

    codec: str
    window: str
    latent_noise: float
    residual: float
    seed: int


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """What may be drawn for a case.

    Attributes:
        name: in file names, after the case's.
        codecs, windows: one of each is drawn.
        noise, residual: a level between the two numbers is drawn.
    """

    name: str
    codecs: tuple[str, ...]
    windows: tuple[str, ...]
    noise: tuple[float, float] = (0.0, 0.0)
    residual: tuple[float, float] = (0.0, 0.0)

    def draw(self, seed: int, case: str) -> Choice:
        """What this case gets: a function of the view's name, the seed and the case's name alone."""
        digest = hashlib.sha256("\0".join((self.name, str(seed), case)).encode()).digest()
        random = np.random.default_rng(np.frombuffer(digest, dtype="<u4"))
        codec, window = int(random.integers(len(self.codecs))), int(random.integers(len(self.windows)))
        noise, residual = (round(float(random.uniform(*limits)), 4) for limits in (self.noise, self.residual))
        return Choice(
            codec=self.codecs[codec],
            window=self.windows[window],
            latent_noise=noise,
            residual=residual,
            seed=int(random.integers(2**31)),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "name": self.name,
            "codecs": list(self.codecs),
            "windows": list(self.windows),
            "noise": list(self.noise),
            "residual": list(self.residual),
        }


def parse_view(text: str, window: str = "wide") -> View:
    """Read a view, such as ``grain=wan2.1|embedded,window=wide|-150 250,noise=0..0.2,residual=0.5``.

    Args:
        text: see :data:`FORM`; a blank separates the two numbers of a window.
        window: where the text names none.

    Raises:
        InputError: another form, an unknown codec, a window or a level that cannot be, or a name unfit for files.
    """
    first, *rest = (part.strip() for part in text.split(","))
    name, named, codecs = first.rpartition("=")
    chosen = tuple(codec.strip() for codec in codecs.split("|"))
    if not all(chosen):
        raise InputError(f"A view is {FORM}; got {text!r}, which names no codec. Example: embedded,noise=0..0.1")
    for codec in chosen:
        lookup(CODECS, codec, "codec")
    if not named:
        name = re.sub(r"[^A-Za-z0-9.-]", "", "-".join(chosen))
    if not NAME.fullmatch(name):
        raise InputError(f"A view's name has letters, digits, '.' and '-'; got {name!r} in {text!r}.")
    facts: dict[str, str] = {}
    for part in rest:
        key, given, value = part.partition("=")
        if not given or key not in ("window", "noise", "residual") or key in facts:
            raise InputError(
                f"A view is {FORM}; got {text!r}, where {part!r} cannot be. A window's two HU have a blank between."
            )
        facts[key] = value.strip()
    windows = tuple(Window.parse(part.strip()).name for part in facts.get("window", window).split("|"))
    noise, residual = (_limits(facts.get(key, "0"), key, text) for key in ("noise", "residual"))
    for one, other in zip(noise, residual, strict=True):
        check_levels(one, other)
    return View(name=name, codecs=chosen, windows=windows, noise=noise, residual=residual)


def _limits(value: str, key: str, text: str) -> tuple[float, float]:
    low, _, high = value.partition("..")
    try:
        numbers = float(low), float(high or low)
    except ValueError:
        numbers = (math.nan, math.nan)
    if not numbers[0] <= numbers[1]:
        raise InputError(
            f"{key} is a number or two, the smaller first, such as 0.1 or 0..0.2; got {value!r} in {text!r}."
        )
    return numbers
