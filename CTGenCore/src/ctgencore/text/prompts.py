"""Report text as the published models were trained to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

from ..errors import InputError

PromptFormat = Literal["plain", "bracket_list"]

_DELETED = str.maketrans("", "", "\"'()")
_SENTENCE_END = re.compile(r"(?<=[.!?;])\s+(?=\S)")  # "3.5 mm" stays whole: no space follows its point


def prompt(report: str | Sequence[str], style: PromptFormat = "plain") -> str:
    """A report as a prompt.

    Args:
        report: a text, or its sentences (for ``bracket_list``, one per finding).
        style: ``plain``: the text. ``bracket_list``: ``[sentence 1, sentence 2]``, as the multi-disease release was
            trained; a text is split into its sentences. An empty report stays empty in both.

    Returns:
        The prompt, without quotes, apostrophes and parentheses, which training deleted, and on one line.

    Raises:
        InputError: unknown style.
    """
    if style not in get_args(PromptFormat):
        raise InputError(f"prompt_format must be one of {', '.join(get_args(PromptFormat))}; got '{style}'.")
    sentences = [report] if isinstance(report, str) else list(report)
    sentences = [" ".join(sentence.translate(_DELETED).split()) for sentence in sentences]
    if style == "plain":
        return " ".join(filter(None, sentences))
    already = isinstance(report, str) and sentences[0].startswith("[") and sentences[0].endswith("]")
    if already:
        return sentences[0]
    if isinstance(report, str):
        sentences = _SENTENCE_END.split(sentences[0])
    found = [sentence for sentence in sentences if sentence]
    return f"[{', '.join(found)}]" if found else ""
