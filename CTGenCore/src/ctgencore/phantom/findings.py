"""The 18 findings: which ones a patient has, what that changes in the patient, and painting them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from . import findings_airway, findings_chest, findings_device, findings_focal, findings_lung, findings_pleura
from .findings_brush import LOBES, Brush
from .scene import Fact, Patient, Scene

PLAN_STREAM = 20
LEFT, RIGHT, BOTH = "left", "right", "bilateral"
SIDE_OF_LOBE = {28: LEFT, 29: LEFT, 30: RIGHT, 31: RIGHT, 32: RIGHT}


@dataclass(frozen=True, slots=True)
class Kind:
    """How a finding is drawn at random.

    Attributes:
        weight: how often, from the counts of CT-RATE's training reports (Table 6 of the Foundation VAE paper).
        disease: class id of its mask, 0 without.
        direction: what it does to HU inside its mask.
        draw: makes its facts.
        paint: paints one fact; returns whether it lies inside the field of view.
        variants: its looks, see :func:`variant`.
    """

    weight: int
    disease: int
    direction: int
    draw: Callable[[str, Kind, np.random.Generator], list[Fact]]
    paint: Callable[[Brush, Fact, str], bool] | None
    variants: tuple[str, ...] = ("",)


def plan(patient: Patient, seed: int, wanted: Sequence[str] | None = None) -> tuple[Fact, ...]:
    """Decide what is wrong with a patient, before the anatomy is built.

    Args:
        patient: age makes calcified arteries more likely.
        seed: same seed, same facts; each finding has its own stream, so that wanting one more leaves the others alone.
        wanted: names of findings, ``()`` for a healthy chest, None to choose 0 to 4 at random.

    Returns:
        Facts in the order in which they are painted; a finding may have several (three nodules, fluid on both sides).

    Raises:
        InputError: an unknown name.
    """
    if wanted is None:
        wanted = _choose(patient, np.random.default_rng((seed, PLAN_STREAM)))
    unknown = sorted(set(wanted) - set(KINDS))
    if unknown:
        raise InputError(
            f"A phantom knows the 18 findings of CT-RATE; got {', '.join(map(repr, unknown))}. "
            f"Choose from: {', '.join(KINDS)}."
        )
    facts: list[Fact] = []
    for number, (name, kind) in enumerate(KINDS.items()):
        if name in wanted:
            facts += kind.draw(name, kind, np.random.default_rng((seed, PLAN_STREAM, number)))
    return tuple(sorted(facts, key=lambda fact: PAINTED.index(fact.finding)))


def adapt(patient: Patient, facts: Sequence[Fact]) -> Patient:
    """The patient that the anatomy is built from: cardiomegaly enlarges the heart."""
    for fact in facts:
        if fact.finding == "Cardiomegaly":
            return replace(patient, heart_scale=1.16 + 0.2 * fact.severity)
    return patient


def apply(scene: Scene, facts: Sequence[Fact]) -> tuple[Fact, ...]:
    """Paint facts into ``scene.hu`` and ``scene.diseases`` (a hernia into ``scene.organs`` too).

    Returns:
        The facts that can be seen, in the given order: not those outside the field of view, nor those that a later one
        covers (a nodule under fluid).
    """
    brush = Brush(scene)
    shown = []
    for fact in facts:
        paint = KINDS[fact.finding].paint
        brush.marked = []
        if paint is None or paint(brush, fact, variant(fact)):
            shown.append((fact, brush.marked))
    return tuple(fact for fact, marked in shown if not fact.disease or brush.still_visible(marked, fact.disease))


def variant(fact: Fact) -> str:
    """The look of a finding (``linear``, ``spiculated``, ``pacemaker`` ...), drawn from the fact's own seed."""
    names = KINDS[fact.finding].variants
    return names[int(np.random.default_rng((fact.seed, 1)).integers(len(names)))]


def _choose(patient: Patient, rng: np.random.Generator) -> list[str]:
    """0 to 4 findings; every fourth chest is healthy."""
    count = int(rng.choice(5, p=(0.25, 0.25, 0.22, 0.17, 0.11)))
    old = (patient.age / 60) ** 2
    # The square root keeps rare findings from vanishing: the generator trained on phantoms must see all of them.
    weights = np.array([kind.weight * (old if "calcification" in name else 1) for name, kind in KINDS.items()]) ** 0.5
    return [str(name) for name in rng.choice(list(KINDS), size=count, replace=False, p=weights / weights.sum())]


def _fact(name: str, kind: Kind, rng: np.random.Generator, **values: object) -> Fact:
    drawn: dict[str, object] = {
        "disease": kind.disease,
        "direction": kind.direction,
        "severity": float(np.round(rng.uniform(0.1, 1), 2)),
        "seed": int(rng.integers(2**31)),
    }
    lobe = values.get("lobe")
    if lobe:
        drawn["side"] = SIDE_OF_LOBE[int(lobe)]  # type: ignore[call-overload]
    return Fact(finding=name, **(drawn | values))  # type: ignore[arg-type]


def _size(rng: np.random.Generator, low: float, high: float) -> float:
    """A length in whole mm, smaller ones more often; 0 for findings without one."""
    if not low:
        return 0.0
    return float(np.rint(low * (high / low) ** rng.uniform(0, 1)))


def _share(size: float, low: float, high: float) -> float:
    return float(np.round((size - low) / (high - low), 2))


def _in_lobes(
    low: float, high: float, most: int, odds: tuple[float, ...]
) -> Callable[[str, Kind, np.random.Generator], list[Fact]]:
    """One fact per lobe, in 1 to ``most`` lobes chosen with ``odds`` (in the order 28..32)."""

    def draw(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
        lobes = rng.choice(LOBES, size=int(rng.integers(1, most + 1)), replace=False, p=np.array(odds) / sum(odds))
        return [_fact(name, kind, rng, lobe=int(lobe), size_mm=_size(rng, low, high)) for lobe in lobes]

    return draw


def _of_sides(low: float, high: float, both: float) -> Callable[[str, Kind, np.random.Generator], list[Fact]]:
    """One fact for a side or, with probability ``both``, one for the two together."""

    def draw(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
        side = BOTH if rng.uniform() < both else str(rng.choice((LEFT, RIGHT)))
        return [_fact(name, kind, rng, side=side, size_mm=_size(rng, low, high))]

    return draw


def _single(low: float, high: float) -> Callable[[str, Kind, np.random.Generator], list[Fact]]:
    """One fact without a side; one with a size is as severe as it is large."""

    def draw(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
        fact = _fact(name, kind, rng, size_mm=_size(rng, low, high))
        return [replace(fact, severity=_share(fact.size_mm, low, high)) if low else fact]

    return draw


def _opacity(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    """Every third is spread over both lungs, the others lie in one to three lobes."""
    if rng.uniform() < 0.35:
        return [_fact(name, kind, rng, side=BOTH)]
    return _in_lobes(22, 60, 3, (1, 2, 1, 1, 2))(name, kind, rng)


def _nodules(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    """One to three nodules, or many tiny ones in a lobe or everywhere."""
    if rng.uniform() < 0.15:
        lobe = int(rng.choice(LOBES)) if rng.uniform() < 0.5 else 0
        return [_fact(name, kind, rng, disease=157, lobe=lobe, size_mm=4.0, **({} if lobe else {"side": BOTH}))]
    lobes = rng.choice(LOBES, size=int(rng.integers(1, 4)), p=np.array((1, 1.2, 1, 0.7, 1.2)) / 5.1)
    facts = [_fact(name, kind, rng, lobe=int(lobe), size_mm=_size(rng, 5, 28)) for lobe in lobes]
    # calcified granulomas stay small
    return [replace(fact, size_mm=min(fact.size_mm, 9.0)) if variant(fact) == "calcified" else fact for fact in facts]


def _fibrosis(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    """Apical scars mostly; every fifth is honeycombing at both bases."""
    if rng.uniform() < 0.2:
        return [_fact(name, kind, rng, disease=155, side=BOTH, severity=float(np.round(rng.uniform(0.5, 1), 2)))]
    return _in_lobes(18, 40, 2, (3, 1, 3, 1, 1))(name, kind, rng)


def _effusion(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    """Fluid on one side or, with a thickness of its own on each, on both."""
    sides = (RIGHT, LEFT) if rng.uniform() < 0.4 else (str(rng.choice((LEFT, RIGHT))),)
    facts = []
    for side in sides:
        size = _size(rng, 9, 55)
        facts.append(_fact(name, kind, rng, side=side, size_mm=size, severity=_share(size, 9, 55)))
    return facts


def _nodes(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    """One to three enlarged nodes at different stations."""
    facts: list[Fact] = []
    for _ in range(int(rng.integers(1, 4))):
        fact = _fact(name, kind, rng, size_mm=_size(rng, 11, 24))
        if variant(fact) not in [variant(other) for other in facts]:
            facts.append(replace(fact, side=findings_chest.SIDE_OF_STATION[variant(fact)]))
    return facts


def _material(name: str, kind: Kind, rng: np.random.Generator) -> list[Fact]:
    fact = _fact(name, kind, rng)
    return [replace(fact, side=findings_device.SIDE_OF_DEVICE[variant(fact)])]


# In CT-RATE's column order.
KINDS: dict[str, Kind] = {
    "Medical material": Kind(195, 0, 0, _material, findings_device.material, tuple(findings_device.SIDE_OF_DEVICE)),
    "Arterial wall calcification": Kind(308, 0, 0, _single(0, 0), findings_chest.arterial_calcification),
    "Cardiomegaly": Kind(111, 0, 0, _single(0, 0), None),
    "Pericardial effusion": Kind(116, 0, 0, _single(6, 22), findings_chest.pericardial_effusion),
    "Coronary artery wall calcification": Kind(291, 0, 0, _single(0, 0), findings_chest.coronary_calcification),
    "Hiatal hernia": Kind(40, 0, 0, _single(30, 65), findings_chest.hiatal_hernia),
    "Lymphadenopathy": Kind(475, 0, 0, _nodes, findings_chest.lymphadenopathy, tuple(findings_chest.SIDE_OF_STATION)),
    "Emphysema": Kind(411, 153, -1, _of_sides(0, 0, 0.8), findings_lung.emphysema, ("centrilobular", "paraseptal")),
    "Atelectasis": Kind(
        571,
        150,
        1,
        _in_lobes(22, 60, 2, (1, 2, 0.3, 1, 2)),
        findings_focal.atelectasis,
        ("linear", "linear", "dependent"),
    ),
    "Lung nodule": Kind(
        1301,
        161,
        1,
        _nodules,
        findings_focal.nodule,
        ("smooth", "smooth", "lobulated", "spiculated", "subsolid", "calcified"),
    ),
    "Lung opacity": Kind(1096, 154, 1, _opacity, findings_lung.opacity),
    "Pulmonary fibrotic sequela": Kind(574, 156, 1, _fibrosis, findings_focal.fibrosis),
    "Pleural effusion": Kind(200, 159, 1, _effusion, findings_pleura.effusion),
    "Mosaic attenuation pattern": Kind(101, 0, 0, _of_sides(0, 0, 1.0), findings_lung.mosaic),
    "Peribronchial thickening": Kind(184, 151, 1, _of_sides(0, 0, 0.6), findings_airway.wall_thickening),
    "Consolidation": Kind(490, 150, 1, _in_lobes(28, 80, 2, (1, 2, 1, 1, 2)), findings_lung.consolidation),
    "Bronchiectasis": Kind(
        234,
        152,
        1,
        _in_lobes(0, 0, 2, (1, 2, 1, 1.5, 2)),
        findings_airway.bronchiectasis,
        ("cylindrical", "varicose", "cystic"),
    ),
    "Interlobular septal thickening": Kind(154, 162, 1, _of_sides(0, 0, 0.7), findings_pleura.septal_thickening),
}
# What is spread out comes first, what is small or solid covers it.
PAINTED = (
    "Cardiomegaly",
    "Mosaic attenuation pattern",
    "Emphysema",
    "Lung opacity",
    "Interlobular septal thickening",
    "Pulmonary fibrotic sequela",
    "Peribronchial thickening",
    "Consolidation",
    "Bronchiectasis",
    "Atelectasis",
    "Lung nodule",
    "Hiatal hernia",
    "Pericardial effusion",
    "Pleural effusion",
    "Lymphadenopathy",
    "Arterial wall calcification",
    "Coronary artery wall calcification",
    "Medical material",
)
