"""A report encoder learns to read before a generator listens to it: which findings a text names, and where.

Trained along from random numbers, the encoder's tokens are noise to the denoiser, which learns to ignore them before
they mean anything, and then nothing teaches them. Questions cost no image: phantoms' reports are written from facts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ..labels import FINDINGS, LUNG_LOBES
from ..phantom.scene import Fact
from ..text.embedded import ReportEncoder
from ..text.prompts import prompt
from .readers import PhantomReader

SIDES = ("left", "right", "bilateral")
NAMES = [finding.name for finding in FINDINGS]
QUESTIONS = 1 + len(SIDES) + len(LUNG_LOBES)  # about each finding: there at all, by side, by lobe
LESSONS = 6000  # phantoms whose reports are read
BATCH = 32
ALIKE = 500  # lessons next to each other by length, of which a batch is drawn
RATE = 1e-3
WARMUP = 50


@dataclass(frozen=True, slots=True)
class Lesson:
    """A text and what it says.

    Attributes:
        text: as the generator will read it.
        answers: (18 * :data:`QUESTIONS`,) float32, 1 for yes.
    """

    text: str
    answers: np.ndarray


def lessons(reader: PhantomReader, count: int = LESSONS) -> list[Lesson]:
    """The reports, whole and their impressions alone, of so many phantoms."""
    learned = []
    for facts, report in reader.reports(count):
        said = answers(facts)
        learned += [Lesson(prompt(report.text), said), Lesson(prompt(report.impression), said)]
    return learned


def answers(facts: Sequence[Fact]) -> np.ndarray:
    """What a report of these facts says, as :class:`Lesson` holds it."""
    found = np.zeros((len(NAMES), QUESTIONS), np.float32)
    for fact in facts:
        row = found[NAMES.index(fact.finding)]
        row[0] = 1
        if fact.side in SIDES:
            row[1 + SIDES.index(fact.side)] = 1
        if fact.lobe in LUNG_LOBES:
            row[1 + len(SIDES) + LUNG_LOBES.index(fact.lobe)] = 1
    return found.ravel()


class Reader(nn.Module):
    """The encoder with a linear answer to every question from the mean of its tokens; only the encoder is kept."""

    def __init__(self, encoder: ReportEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.answers = nn.Linear(encoder.width, len(NAMES) * QUESTIONS)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """Logits ``(B, 18 * QUESTIONS)``."""
        ids, mask = self.encoder.pieces(texts)
        length = int(mask.sum(dim=1).max())
        tokens = self.encoder.read(ids[:, :length].to(self.encoder.device), mask[:, :length].to(self.encoder.device))
        kept = mask[:, :length, None].to(tokens)
        return self.answers((tokens * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))


def learn_to_read(encoder: ReportEncoder, lessons: Sequence[Lesson], steps: int, seed: int) -> float:
    """Train the encoder on the lessons, in place.

    Returns:
        The mean loss (binary cross-entropy per question) of the last tenth of the steps.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        reader = Reader(encoder)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=RATE, weight_decay=0.01)
    rng = np.random.default_rng((seed, 2))
    lessons = sorted(lessons, key=lambda lesson: len(lesson.text))
    losses = []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARMUP) * (1 - step / steps)
        near = lessons[int(rng.integers(max(1, len(lessons) - ALIKE))) :][:ALIKE]  # of one length: little padding
        chosen = [near[int(i)] for i in rng.integers(len(near), size=BATCH)]
        wanted = torch.from_numpy(np.stack([lesson.answers for lesson in chosen])).to(encoder.device)
        loss = nn.functional.binary_cross_entropy_with_logits(reader([lesson.text for lesson in chosen]), wanted)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return float(np.mean(losses[-max(1, steps // 10) :]))
