"""A radiology report written from the facts of a phantom: findings and impression, in varied wording."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from .findings import KINDS, variant
from .report_words import (
    ABSENT,
    DEGREES,
    DEVICES,
    HEALTHY,
    HONEYCOMBING,
    LOBE_WORDS,
    MICRONODULES,
    NORMAL,
    SIDE_WORDS,
    WORDINGS,
)
from .scene import Fact, Patient, Report

REPORT_STREAM = 21
_MEDIASTINUM = ("vessels", "heart", "nodes", "hernia")
LUNGS_FIRST = ("airway", "lung", "pleura", "contrast", *_MEDIASTINUM, "material", "abdomen", "bones")
HEART_FIRST = ("contrast", "airway", *_MEDIASTINUM, "lung", "pleura", "abdomen", "bones", "material")


def write(facts: Sequence[Fact], patient: Patient, seed: int) -> Report:
    """Write the report of a phantom.

    Args:
        facts: what is there; nothing for a healthy chest.
        patient: an unenhanced scan is said to be one now and then.
        seed: of the wording; the content does not depend on it.

    Returns:
        Findings by region, with sentences for what is normal, and an impression.
    """
    rng = np.random.default_rng((seed, REPORT_STREAM))
    present = {fact.finding for fact in facts}
    said: dict[str, list[str]] = {}
    impression = []
    for group in _groups(facts):
        wording = WORDINGS[group[0].finding]
        said.setdefault(wording.section, []).extend(_say(fact, rng) for fact in group)
        impression.append(_conclude(group, rng))
    sections = []
    for section in LUNGS_FIRST if rng.uniform() < 0.5 else HEART_FIRST:
        if section in said:
            sentences = list(said[section])
            rng.shuffle(sentences)
            denied = [name for name in ABSENT if name not in present and WORDINGS[name].section == section]
            if denied and rng.uniform() < 0.4:
                sentences.append(_pick(rng, ABSENT[_pick(rng, denied)]))
            sections += sentences
        elif section == "contrast":
            if patient.phase == "none" and rng.uniform() < 0.6:
                sections.append(_pick(rng, NORMAL["contrast"]))
        elif section in NORMAL and rng.uniform() < 0.8:
            sections.append(_pick(rng, NORMAL[section]))
    order = rng.permutation(len(impression))
    closing = " ".join(impression[i] + "." for i in order) if impression else _pick(rng, HEALTHY)
    return Report(" ".join(sentence for sentence in sections if sentence), closing)


def template(finding: str, side: str = "", lobe: int = 0) -> str:
    """One plain sentence for a finding, to start a report from.

    Args:
        finding: one of the 18 names.
        side: ``left``, ``right``, ``bilateral`` or empty.
        lobe: lung-lobe id 28..32, 0 for none; it decides the side too.

    Raises:
        InputError: unknown finding, side or lobe.
    """
    if finding not in WORDINGS:
        raise InputError(
            f"There are templates for the 18 findings; got {finding!r}. Choose from: {', '.join(WORDINGS)}."
        )
    if side not in ("", *SIDE_WORDS) or lobe not in (0, *LOBE_WORDS):
        raise InputError(
            "A template's side is left, right, bilateral or empty, its lobe 28 to 32 or 0; "
            f"got {side!r} and {lobe}. Leave out what is not known."
        )
    if lobe:
        where = f"in the {LOBE_WORDS[lobe][0]}"
        side = LOBE_WORDS[lobe][0].split()[0]
    else:
        where = {"": "in the lungs", "bilateral": "in both lungs"}.get(side, f"in the {side} lung")
    text = WORDINGS[finding].plain or WORDINGS[finding].sentences[0]
    return " ".join(text.format(in_=where, side=side).split())


def _groups(facts: Sequence[Fact]) -> list[list[Fact]]:
    """Facts of one finding together, in the order of :data:`KINDS`."""
    return [group for name in KINDS if (group := [fact for fact in facts if fact.finding == name])]


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


def _where(fact: Fact, rng: np.random.Generator) -> str:
    if fact.lobe:
        return f"in the {_pick(rng, LOBE_WORDS[fact.lobe])}"
    if fact.side == "bilateral":
        return f"in {_pick(rng, SIDE_WORDS['bilateral'])}"
    return f"in the {_pick(rng, SIDE_WORDS[fact.side])}" if fact.side else ""


def _degree(fact: Fact, rng: np.random.Generator) -> str:
    return _pick(rng, DEGREES[min(int(fact.severity * 3), 2)])


def _size(fact: Fact, rng: np.random.Generator) -> str:
    """``12 mm``, or in cm when that is a round number."""
    if fact.size_mm >= 20 and fact.size_mm % 5 == 0 and rng.uniform() < 0.4:
        return f"{fact.size_mm / 10:g} cm"
    return f"{fact.size_mm:.0f} mm"


def _form(text: str, fact: Fact, rng: np.random.Generator) -> str:
    """Fill a wording's placeholders; one written with a capital starts the sentence."""
    look = variant(fact) if fact.finding != "Medical material" else ""
    how = _degree(fact, rng)
    if "{how} increased" in text or "{how} thickened" in text:
        how += "ly"
    words = {"in_": _where(fact, rng), "side": fact.side, "size": _size(fact, rng), "how": how, "look": look}
    capital = {key.capitalize(): value[:1].upper() + value[1:] for key, value in words.items()}
    return text.format(**words, **capital)


def _say(fact: Fact, rng: np.random.Generator) -> str:
    if fact.finding == "Medical material":
        return DEVICES[variant(fact)][0]
    return _form(_pick(rng, _wording(fact)[0]), fact, rng)


def _conclude(group: list[Fact], rng: np.random.Generator) -> str:
    """The line of a finding in the impression; several facts of one finding share a line."""
    if group[0].finding == "Medical material":
        return DEVICES[variant(group[0])][1]
    sides = {fact.side for fact in group}
    if group[0].finding == "Pleural effusion" and len(sides) > 1:
        return "Bilateral pleural effusion"
    return ". ".join(_form(_pick(rng, _wording(fact)[1]), fact, rng) for fact in group)


def _wording(fact: Fact) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if fact.disease == 157:
        return MICRONODULES
    if fact.disease == 155:
        return HONEYCOMBING
    return WORDINGS[fact.finding].sentences, WORDINGS[fact.finding].short
