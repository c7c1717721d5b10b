"""Does a CT show what it should? CT-CLIP compares it with a real one, with its report, and with 18 findings.

Each volume passes CT-CLIP's image tower once (20 s on one CPU core, 3 GB); every text its text tower once per process.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .. import hub
from ..errors import InputError, WeightsError
from ..labels import FINDINGS
from ..volume import Volume
from .base import Case, Context, Extractor, Metric, Value
from .ctclip_input import clean_report, prepare

if TYPE_CHECKING:
    import torch

    from ..networks.ctclip import CTClip
    from ..text.base import WordPieces

WEIGHTS, IMAGE, ZERO_SHOT = "ctclip", "ctclip_image", "ctclip_findings"  # a row of the zoo, two extractors
PROBABILITY = "factual18_zeroshot_probability"
NAMES = tuple(finding.name for finding in FINDINGS)
PROMPTS = tuple(f"{name} is {word}." for name in NAMES for word in ("present", "not present"))


# --- CT-CLIP, once per process ---------------------------------------------------------------------------------------


@dataclass(eq=False, slots=True)
class _Towers:
    net: CTClip
    pieces: WordPieces
    device: torch.device
    known: dict[str, np.ndarray] = field(default_factory=dict)

    def image(self, voxels_ZXY: np.ndarray) -> np.ndarray:
        """``(1, latent)`` of unit length."""
        import torch

        with torch.inference_mode():
            return self.net.encode_image(torch.from_numpy(voxels_ZXY)[None, None].to(self.device)).cpu().numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """``(n, latent)`` of unit length. Padding is masked, so it may end with the longest text."""
        import torch

        new = [text for text in texts if text not in self.known]
        if new:
            ids, mask = self.pieces(new)
            longest = int(mask.sum(1).max())
            with torch.inference_mode():
                latents = self.net.encode_text(*(part[:, :longest].to(self.device) for part in (ids, mask)))
            self.known.update(zip(new, latents.cpu().numpy(), strict=True))
        return np.stack([self.known[text] for text in texts])


def _towers(context: Context) -> _Towers:
    return _load((hub.locate(WEIGHTS) / "index.json").read_text(encoding="utf-8"), context.device)


@lru_cache(maxsize=1)
def _load(index: str, device: str) -> _Towers:
    """The towers; ``index``, which holds the files' checksums, tells other weights from those in memory."""
    import torch

    from ..checkpoint import load_published
    from ..networks.ctclip import CTClip
    from ..runtime import resolve_device
    from ..text.base import WordPieces
    from ..zoo import EXTRACTORS as ROWS
    from ..zoo import build_network

    row = ROWS[WEIGHTS]
    target = resolve_device(device)
    tensors, _ = hub.load_tensors(row)
    vocabulary = hub.load_vocabulary(row)
    with torch.random.fork_rng(devices=[]):  # start values, overwritten at once: the caller's stream stays
        net = build_network(row.network)
    assert isinstance(net, CTClip)
    if len(vocabulary) != net.spec.vocabulary:
        raise WeightsError(
            f"CT-CLIP has {net.spec.vocabulary} word pieces, its vocabulary here {len(vocabulary)}. Import the "
            "vocab.txt of microsoft/BiomedVLP-CXR-BERT-specialized: ctgencore download ctclip --from vocab.txt"
        )
    load_published(net, tensors)
    return _Towers(net.to(target).requires_grad_(False), WordPieces(vocabulary, net.spec.max_tokens), target)


# --- features --------------------------------------------------------------------------------------------------------


def image_latents(volume: Volume, context: Context) -> np.ndarray:
    """``(1, 512)`` float32 of unit length; ``context.options["clip_pad"]`` is that of :func:`ctclip_input.prepare`."""
    towers = _towers(context)
    return towers.image(prepare(volume, str(context.options.get("clip_pad", "air")), towers.net.spec.volume))


def finding_probabilities(volume: Volume, context: Context) -> np.ndarray:
    """``(1, 18)`` float32: how much nearer a volume is to "X is present." than to "X is not present.", for each X.

    The softmax over the two prompts of a finding, of cosines times the trained exp(temperature).
    """
    from scipy.special import softmax

    towers = _towers(context)
    cosines = towers.texts(PROMPTS) @ context.features(IMAGE, volume)[0]
    logits = cosines.reshape(-1, 2) * float(towers.net.temperature.exp())
    return softmax(logits, axis=1)[None, :, 0]


# --- cases -----------------------------------------------------------------------------------------------------------


def clip_scores(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """CT-CLIP scores of one volume: 100 times the cosine of two latents, not below 0.

    The report is cleaned as for the training of CT-CLIP; with ``clip_pad=vlm3d`` it is read as it is.
    """
    image = context.features(IMAGE, case.test)[0]
    notes = dict.fromkeys(("clip_i2i", "clip_t2i", "clip_mean"), "")
    scores: dict[str, float] = {}
    if names & {"clip_i2i", "clip_mean"}:
        assert case.reference is not None
        scores["clip_i2i"] = _score(image, context.features(IMAGE, case.reference)[0])
    if names & {"clip_t2i", "clip_mean"}:
        scores["clip_t2i"], notes["clip_t2i"] = _report_score(image, case.report, context)
    if "clip_mean" in names:
        scores["clip_mean"] = (scores["clip_i2i"] + scores["clip_t2i"]) / 2
        notes["clip_mean"] = notes["clip_t2i"]
    return [Value(name, scores[name], note=notes[name]) for name in notes if name in names]


def _score(one: np.ndarray, two: np.ndarray) -> float:
    one, two = one.astype(np.float64), two.astype(np.float64)
    return max(100.0 * float(one @ two / np.sqrt((one @ one) * (two @ two))), 0.0)


def _report_score(image: np.ndarray, report: str, context: Context) -> tuple[float, str]:
    text = report if context.options.get("clip_pad") == "vlm3d" else clean_report(report)
    if not text.strip():
        return float("nan"), "the report is empty"
    towers = _towers(context)
    count, limit = towers.pieces.count(text), towers.pieces.max_tokens
    note = f"the first {limit} of the report's {count} word pieces were read" if count > limit else ""
    return _score(image, towers.texts([text])[0]), note


def finding_values(case: Case, names: frozenset[str], context: Context) -> list[Value]:
    """The probability of each of the 18 findings in one volume."""
    probabilities = context.features(ZERO_SHOT, case.test)[0]
    return [Value(PROBABILITY, float(p), name) for name, p in zip(NAMES, probabilities, strict=True)]


# --- all cases together ----------------------------------------------------------------------------------------------

SCORES = {
    "accuracy": "share of the cases that are right",
    "precision": "share of the cases called present that are",
    "recall": "share of the cases present that are called so",
    "f1": "harmonic mean of precision and recall",
    "f1_two_class": "mean of the F1 of present and of absent",
    "f1_weighted": "as f1_two_class, weighted by how many cases are present and absent",
}
RULES = {
    "youden": "threshold per finding where the true positive rate most exceeds the false positive rate",
    "p50": "threshold 0.5",
}


def truth(findings: Collection[str]) -> np.ndarray:
    """``(1, 18)`` float32, 1 where a finding is there; what :func:`finding_scores` has as reference.

    Raises:
        InputError: a name that is none of the 18.
    """
    unknown = sorted(set(findings) - set(NAMES))
    if unknown:
        raise InputError(f"There is no finding called '{unknown[0]}'. The 18 of CT-RATE are: {', '.join(NAMES)}.")
    return np.array([[name in findings for name in NAMES]], dtype=np.float32)


def finding_scores(
    test: list[np.ndarray], reference: list[np.ndarray], names: frozenset[str], context: Context | None = None
) -> list[Value]:
    """How well probabilities of findings tell which cases have them, per finding and (region ``all``) on average.

    A finding that all cases have, or none, is nan and left out of the average, as nothing can be told apart.
    Precision is 0 where no case is called present. Thresholds of the ``youden`` rule are chosen on these very cases
    (the highest, when several are equally good), as zero-shot CT-CLIP does; that flatters accuracy and F1.

    Args:
        test: probabilities, ``(1, 18)`` per case, of :func:`finding_probabilities`.
        reference: what is there, ``(1, 18)`` of 0 and 1 per case, of :func:`truth`.
        names: rows of ``METRICS`` to give.
        context: not needed.

    Raises:
        InputError: not one truth per case.
    """
    if len(test) != len(reference) or not test:
        raise InputError(
            f"Zero-shot findings need the findings of each case: got {len(reference)} for {len(test)} cases."
        )
    p, y = np.concatenate(test).astype(np.float64), np.concatenate(reference) > 0.5
    found: dict[str, list[Value]] = {row.name: [] for row in METRICS if row.name in names}
    for column, finding in enumerate(NAMES):
        for value in _scores_of(p[:, column], y[:, column], finding, names):
            found[value.metric].append(value)
    return [value for name, values in found.items() for value in (*values, _average(name, values))]


def _scores_of(p: np.ndarray, y: np.ndarray, finding: str, names: frozenset[str]) -> list[Value]:
    if y.all() or not y.any():
        why = "all cases have it" if y.all() else "no case has it"
        return [Value(name, float("nan"), finding, note=why) for name in names]
    values = [Value("factual18_zeroshot_auroc", 100 * auroc(p, y), finding)]
    for rule, threshold in (("youden", youden_threshold(p, y)), ("p50", 0.5)):
        called = p >= threshold
        note = f"threshold {threshold:.4f}" if rule == "youden" else ""
        note = "no case is called present" if not called.any() else note
        for score, value in confusion_scores(called, y).items():
            values.append(Value(f"factual18_zeroshot_{score}_{rule}", 100 * value, finding, note=note))
    return [value for value in values if value.metric in names]


def _average(metric: str, values: Sequence[Value]) -> Value:
    numbers = [value.value for value in values if not np.isnan(value.value)]
    left_out = [f"{value.region}: {value.note}" for value in values if np.isnan(value.value)]
    note = f"mean of {len(numbers)} findings" + (f"; without {', '.join(left_out)}" if left_out else "")
    return Value(metric, float(np.mean(numbers)) if numbers else float("nan"), note=note)


def auroc(p: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve: how often a case with the finding has the higher value, ties counting half.

    Args:
        p: ``(n,)`` values.
        y: ``(n,)`` truth; both kinds must occur.
    """
    from scipy.stats import rankdata

    present = int(y.sum())
    return float((rankdata(p)[y].sum() - present * (present + 1) / 2) / (present * (len(y) - present)))


def youden_threshold(p: np.ndarray, y: np.ndarray) -> float:
    """The value from which on "present" most exceeds chance (Youden, 1950); inf where nothing does."""
    thresholds = np.unique(p)[::-1]
    called = p >= thresholds[:, None]
    gain = called[:, y].sum(1) * (~y).sum() - called[:, ~y].sum(1) * y.sum()  # whole numbers, so that ties are ties
    best = int(gain.argmax())
    return float(thresholds[best]) if gain[best] > 0 else float("inf")


def confusion_scores(called: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """The numbers of :data:`SCORES`, 0..1, from two ``(n,)`` masks; ``y`` must have cases of both kinds."""
    tp, fp = int((called & y).sum()), int((called & ~y).sum())
    fn, tn = int((~called & y).sum()), int((~called & ~y).sum())
    f1, f1_absent = 2 * tp / (2 * tp + fp + fn), 2 * tn / (2 * tn + fp + fn)
    return {
        "accuracy": (tp + tn) / len(y),
        "precision": tp / (tp + fp) if tp + fp else 0.0,
        "recall": tp / (tp + fn),
        "f1": f1,
        "f1_two_class": (f1 + f1_absent) / 2,
        "f1_weighted": ((tp + fn) * f1 + (tn + fp) * f1_absent) / len(y),
    }


# --- rows ------------------------------------------------------------------------------------------------------------

_CTCLIP = "CT-CLIP version 2 (Hamamci et al., 2024)"
_VLM3D = f"{_CTCLIP}; VLM3D challenge, CLIPScore. clip_pad=vlm3d follows its code, padding with water included"
_FACTUAL = f"{_CTCLIP}, zero-shot; MedSyn2, Table 3"

EXTRACTORS = (
    Extractor(name=IMAGE, function="semantics:image_latents", weights=WEIGHTS, size=512, source=_CTCLIP),
    Extractor(name=ZERO_SHOT, function="semantics:finding_probabilities", weights=WEIGHTS, size=18, source=_CTCLIP),
)

METRICS: tuple[Metric, ...] = (
    Metric(
        name="clip_i2i",
        title="CT-CLIP score, image to image",
        unit="%",
        better="higher",
        needs=("reference",),
        function="semantics:clip_scores",
        extractor=IMAGE,
        source=_VLM3D,
    ),
    Metric(
        name="clip_t2i",
        title="CT-CLIP score, text to image",
        unit="%",
        better="higher",
        needs=("report",),
        function="semantics:clip_scores",
        extractor=IMAGE,
        source=_VLM3D,
    ),
    Metric(
        name="clip_mean",
        title="CT-CLIP score, mean of both",
        unit="%",
        better="higher",
        needs=("reference", "report"),
        function="semantics:clip_scores",
        extractor=IMAGE,
        source=_VLM3D,
    ),
    Metric(
        name=PROBABILITY,
        title="Probability of a finding",
        function="semantics:finding_values",
        extractor=ZERO_SHOT,
        source=_FACTUAL,
    ),
    Metric(
        name="factual18_zeroshot_auroc",
        title="Zero-shot findings, area under the ROC curve",
        unit="%",
        better="higher",
        kind="set",
        needs=("findings",),
        function="semantics:finding_scores",
        extractor=ZERO_SHOT,
        source=_FACTUAL,
    ),
    *(
        Metric(
            name=f"factual18_zeroshot_{score}_{rule}",
            title=f"Zero-shot findings, {score.replace('_', ' ')}: {meaning} ({threshold})",
            unit="%",
            better="higher",
            kind="set",
            needs=("findings",),
            function="semantics:finding_scores",
            extractor=ZERO_SHOT,
            source=f"{_FACTUAL}, which does not say how thresholds and F1 were chosen",
        )
        for score, meaning in SCORES.items()
        for rule, threshold in RULES.items()
    ),
)
