"""Draft a disease mask from a report: the findings that it names, painted into the lungs of an organ mask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import labels
from ..geometry import AxisPlan, Geometry, PadPlan
from ..labels import LUNG_LOBES, ORGANS, name_of
from ..phantom.findings import BOTH, KINDS, LEFT, PAINTED, RIGHT, SIDE_OF_LOBE, apply, variant
from ..phantom.findings_brush import Brush, lobes_of
from ..phantom.scene import Fact, Patient, Scene
from ..text.consistency import DEGREES, EFFUSION, NODULE, Mention, mentions
from ..volume import LabelMap

STREAM = 22  # of random numbers
DRAWS = 100  # of the simulator, for facts that fit the words
CLOSEST = 5  # of those facts, by size
LONGEST_MM = 150.0
THINNEST_MM = 24.0  # of a scan: painters look at places 4 mm apart
MORE_NODULES = 2  # where a report has a plural without a number
NODULES = re.compile(r"\bnodules\b", re.IGNORECASE)
OTHER_CLASS = {  # the second class of a finding, and how a report asks for it
    "Lung nodule": (157, re.compile(r"micronodul|millimet\w+(?:[\s-]\w+){0,2} nodules", re.IGNORECASE)),
    "Pulmonary fibrotic sequela": (155, re.compile("honeycomb", re.IGNORECASE)),
}
WHOLE_LUNG_MM = 150.0  # an upper lobe that is as tall, without other lobes on its side, stands for the lung
HILA = {LEFT: (0.03, 0.5, 0.55), RIGHT: (0.97, 0.5, 0.55)}  # quantiles (x, y, z) of a lung's points

Place = tuple[str, int]  # side and lobe, empty and 0 where the report leaves them open


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """A disease mask that follows a report.

    Attributes:
        diseases: class ids 150..162 on the grid of the organs, or None when nothing could be drafted.
        drawn: what it shows, one fact per place.
        left: what the report names and the mask does not show, each with the reason.
    """

    diseases: LabelMap | None = None
    drawn: tuple[Fact, ...] = ()
    left: tuple[str, ...] = ()

    def __str__(self) -> str:
        """What it shows: ``Pleural effusion (left), Lung nodule (right lung upper lobe)``."""
        return ", ".join(dict.fromkeys(_in_words(fact) for fact in self.drawn))


def draft_diseases(organs: LabelMap, report: str, seed: int = 0) -> Draft:
    """Paint the findings that a report affirms into the lungs of an organ mask, as the procedural chest has them.

    Side, lobes, size, degree (``mild``; moderate without one) and look (``paraseptal``) are those of the report. The
    rest is drawn from the seed, for each finding and place by itself: a further sentence moves nothing.

    Args:
        organs: organ ids on any grid (:func:`ctgencore.labels.convert` brings other numberings to them); a tilted grid
            counts as a straight one.
        report: English text.
        seed: of what the report leaves open.

    Returns:
        The mask, and what it shows.

    Raises:
        InputError: no value of the mask is an organ id.
    """
    told = [mention for mention in mentions(report) if not mention.negated]
    if not told:
        return Draft()
    plan, pad = AxisPlan.to_lps(organs.geometry), _padding(organs.geometry)
    scene = _scene(labels.convert(organs, "ctgen").labels, plan, pad)
    lobes = frozenset(lobe for lobe in LUNG_LOBES if (scene.organs == lobe).any())
    facts, left = _facts(told, lobes, seed)
    with np.errstate(divide="ignore", invalid="ignore"):  # a mere tip of a lung has no height
        shown = apply(scene, facts)
    voxels = np.ascontiguousarray(pad.crop(plan.undo(scene.diseases)))
    drawn = tuple(fact for fact in shown if (voxels == fact.disease).any())
    left += [f"{_in_words(fact)}: no room for it, or another finding hides it" for fact in facts if fact not in drawn]
    names = {fact.disease: name_of(fact.disease) for fact in drawn}
    diseases = LabelMap(voxels, organs.geometry, names) if drawn else None
    return Draft(diseases=diseases, drawn=drawn, left=tuple(left))


def _padding(geometry: Geometry) -> PadPlan:
    """Makes a scan of a few slices one that painters can work on, by repeating its outer slices."""
    lacking = [max(0.0, THINNEST_MM - n * mm) for n, mm in zip(geometry.shape_zyx, geometry.spacing_zyx, strict=True)]
    z, y, x = (int(np.ceil(0.5 * gap / mm)) for gap, mm in zip(lacking, geometry.spacing_zyx, strict=True))
    return PadPlan((z, y, x), (z, y, x))


def _scene(organs: LabelMap, plan: AxisPlan, pad: PadPlan) -> Scene:
    """The organs as a scene around the origin: painters place things in mm, wherever the patient lies in the world."""
    voxels = np.ascontiguousarray(plan.apply(pad.apply(organs.voxels)))
    spacing = plan.reorder(organs.geometry.spacing_zyx)
    _divide_whole_lungs(voxels, spacing[0])
    typical = np.full(256, -1000, np.float32)
    typical[list(ORGANS)] = [organ.hu[1] for organ in ORGANS.values()]
    origin = [-(n - 1) / 2 * mm for n, mm in zip(voxels.shape, spacing, strict=True)]
    scene = Scene(
        patient=Patient(seed=0),
        geometry=Geometry(voxels.shape[::-1], spacing[::-1], tuple(origin[::-1])),
        hu=typical[voxels],
        organs=voxels,
        diseases=np.zeros_like(voxels),
    )
    brush = Brush(scene)
    for side, at in HILA.items():
        hilum = brush.place(lobes_of(side), np.array(at))
        if hilum is not None:
            scene.landmarks[f"{side}_hilum"] = hilum
    return scene


def _divide_whole_lungs(voxels: np.ndarray, slice_mm: float) -> None:
    """Give a lung that is one label its lobes, in place: masks of whole lungs come as upper lobes.

    Args:
        voxels: (Z, Y, X) organ ids, from feet to head and from front to back.
        slice_mm: between slices.
    """
    for upper, middle, lower in ((28, None, 29), (30, 31, 32)):
        inside = voxels == upper
        z, y, _ = np.nonzero(inside)
        if not len(z) or np.ptp(z) * slice_mm < WHOLE_LUNG_MM or np.isin(voxels, [middle or lower, lower]).any():
            continue
        height, front = (z - z.min()) / np.ptp(z), (y.max() - y) / max(int(np.ptp(y)), 1)
        lobe = np.where(height < 0.5, middle or upper, upper)  # the horizontal fissure
        voxels[inside] = np.where(height < 0.8 - 0.8 * front, lower, lobe)  # the oblique one


# --- words to facts --------------------------------------------------------------------------------------------------


def _facts(told: Sequence[Mention], lobes: frozenset[int], seed: int) -> tuple[list[Fact], list[str]]:
    """Facts that fit the mentions, in the order in which they are painted; and what cannot be painted."""
    facts: list[Fact] = []
    left: list[str] = []
    for number, (name, kind) in enumerate(KINDS.items()):
        own = [mention for mention in told if mention.finding == name]
        if own and not (kind.disease and lobes):
            left.append(f"{name}: " + ("the organ mask has no lungs" if kind.disease else "no disease class shows it"))
            continue
        for disease in dict.fromkeys(_class_of(mention) for mention in own):
            stream = (seed % 2**32, STREAM, number, disease)
            rng = np.random.default_rng(stream)
            pool = [fact for _ in range(DRAWS) for fact in kind.draw(name, kind, rng)]
            pool = [fact for fact in pool if fact.disease == disease and _inside(fact, lobes)]
            for fact in _chosen([mention for mention in own if _class_of(mention) == disease], pool, stream):
                if _inside(fact, lobes):
                    facts.append(fact)
                else:
                    left.append(f"{_in_words(fact)}: the organ mask does not reach there")
    return sorted(facts, key=lambda fact: PAINTED.index(fact.finding)), left


def _class_of(mention: Mention) -> int:
    other, words = OTHER_CLASS.get(mention.finding, (0, None))
    return other if words and words.search(mention.text) else KINDS[mention.finding].disease


def _inside(fact: Fact, lobes: frozenset[int]) -> bool:
    return not lobes.isdisjoint(lobes_of(fact.side, fact.lobe))


def _chosen(told: Sequence[Mention], pool: Sequence[Fact], stream: tuple[int, ...]) -> list[Fact]:
    """Facts for all mentions of one finding; reports repeat themselves, the most exact mention of a place counts."""

    def vagueness(each: Mention) -> tuple[bool, ...]:
        side, lobe = _places(each)[0]
        return not lobe, not side, not each.size_mm, not each.degree

    chosen: list[tuple[Fact, float]] = []  # with the size that was said
    for mention in sorted(told, key=vagueness):
        said = mention.size_mm
        places = [
            place
            for place in _places(mention)
            if not any(_covers(fact, place) and (not said or not own or said == own) for fact, own in chosen)
        ]
        if places == [(LEFT, 0), (RIGHT, 0)] and any(fact.side == BOTH for fact in pool):
            places = [(BOTH, 0)]
        for side, lobe in places:
            free = [fact for fact in pool if all(fact.seed != other.seed for other, _ in chosen)]
            rng = np.random.default_rng((*stream, ("", LEFT, RIGHT, BOTH).index(side), lobe))
            chosen += [(fact, said) for fact in _fitting(free, side, lobe, mention, rng)]
    return [fact for fact, _ in chosen]


def _places(mention: Mention) -> list[Place]:
    """Where a mention's finding lies. Fluid is not of a lobe."""
    lobes = [(SIDE_OF_LOBE[lobe], lobe) for lobe in mention.lobes]
    if KINDS[mention.finding].disease == EFFUSION:
        lobes = list(dict.fromkeys((side, 0) for side, _ in lobes))
    sides = (LEFT, RIGHT) if mention.side == BOTH else (mention.side,)
    return lobes + [(side, 0) for side in sides if side and side not in dict(lobes)] or [("", 0)]


def _covers(fact: Fact, place: Place) -> bool:
    side, lobe = place
    here = not side or fact.side in (side, BOTH)
    return here and (not lobe or fact.lobe in (lobe, 0))


def _fitting(pool: Sequence[Fact], side: str, lobe: int, mention: Mention, rng: np.random.Generator) -> list[Fact]:
    """One of the facts that fit a mention best (or some nodules), moved to its place."""
    near = list(pool)
    if side and near:
        misses = [(fact.side != side, fact.lobe != lobe) for fact in near]
        near = [fact for fact, miss in zip(near, misses, strict=True) if miss == min(misses)]
    text = mention.text.lower()
    near = [fact for fact in near if variant(fact) and variant(fact) in text] or near
    if not near:
        return []
    like = near[int(rng.integers(len(near)))]
    near = [fact for fact in near if bool(fact.size_mm) == bool(like.size_mm)]  # what is spread out has no size
    if mention.size_mm and like.size_mm:
        near = sorted(near, key=lambda fact: abs(fact.size_mm - mention.size_mm))[:CLOSEST]
    else:
        near.sort(key=lambda fact: fact.size_mm or fact.severity)
        third = list(DEGREES).index(mention.degree or "moderate") * len(near) // 3
        near = near[third : third + max(1, len(near) // 3)]
    many = like.disease == NODULE and not mention.size_mm and NODULES.search(mention.text)
    picks = rng.permutation(len(near))[: MORE_NODULES if many else 1]
    moved = []
    for fact in (near[int(pick)] for pick in picks):
        if side:
            fact = replace(fact, side=side, lobe=lobe or (fact.lobe if fact.side == side else 0))
        if fact.size_mm and mention.size_mm:
            fact = replace(fact, size_mm=min(mention.size_mm, LONGEST_MM))
        moved.append(fact)
    return moved


def _in_words(fact: Fact) -> str:
    place = name_of(fact.lobe) if fact.lobe else fact.side
    return f"{fact.finding} ({place})" if place else fact.finding
