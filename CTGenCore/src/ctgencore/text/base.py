"""What every report encoder offers, and the WordPiece tokenizer that they share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor

from ..errors import InputError

PAD, UNKNOWN, CLASS, SEPARATOR, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"  # before a piece that does not start a word


class TextEncoder(Protocol):
    """Reports in, tokens for cross-attention out.

    Attributes:
        width: features per token.
        max_tokens: word pieces that are read; longer reports are cut.
    """

    @property
    def width(self) -> int: ...  # noqa: D102

    @property
    def max_tokens(self) -> int: ...  # noqa: D102

    def encode(self, reports: Sequence[str]) -> Tensor:
        """Tokens ``(B, L, width)``. A report's tokens do not depend on the others in the batch."""
        ...

    def count(self, report: str) -> int:
        """Word pieces of a whole report; what exceeds ``max_tokens`` is not read."""
        ...


class WordPieces:
    """BERT's word pieces (Devlin et al., 2019), lower case: ``[CLS] pieces [SEP]``, padded and cut to one length.

    Args:
        vocabulary: pieces in the order of their numbers, the special ones included.
        max_tokens: length of every sequence.

    Raises:
        InputError: a special piece is missing, or a piece occurs twice.
    """

    def __init__(self, vocabulary: Sequence[str], max_tokens: int) -> None:
        numbers = {piece: number for number, piece in enumerate(vocabulary)}
        missing = [piece for piece in SPECIAL if piece not in numbers]
        if missing or len(numbers) != len(vocabulary):
            wrong = f"{', '.join(missing)} missing" if missing else "a piece occurs twice"
            raise InputError(
                f"This is no WordPiece vocabulary ({len(vocabulary)} lines, {wrong}). One piece per line is needed, "
                f"{', '.join(SPECIAL)} among them: the file vocab.txt of a BERT model."
            )
        self.max_tokens = max_tokens
        self._whole = _tokenizer(numbers)
        self._fixed = _tokenizer(numbers)
        self._fixed.enable_truncation(max_tokens)
        self._fixed.enable_padding(length=max_tokens, pad_id=numbers[PAD], pad_token=PAD)

    def __call__(self, reports: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Numbers ``(B, max_tokens)`` int64, and a mask of the same shape that is False at padding."""
        if not len(reports):
            raise InputError("No report given: at least one is needed; an empty text is a report too.")
        found = self._fixed.encode_batch(list(reports))
        ids = torch.tensor([entry.ids for entry in found])
        return ids, torch.tensor([entry.attention_mask for entry in found], dtype=torch.bool)

    def count(self, report: str) -> int:
        """Word pieces of a whole report, the two special ones included."""
        return len(self._whole.encode(report).ids)


def _tokenizer(numbers: dict[str, int]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocab=numbers, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing((SEPARATOR, numbers[SEPARATOR]), (CLASS, numbers[CLASS]))
    return tokenizer


def read_vocabulary(path: str | Path) -> list[str]:
    """The pieces of a ``vocab.txt``, one per line.

    Raises:
        InputError: no such file, or not UTF-8 text.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The vocabulary {path} cannot be read ({error}). A text file, one piece per line.") from error
    return text.removesuffix("\n").split("\n")  # not splitlines: a line separator of Unicode can be a piece itself
