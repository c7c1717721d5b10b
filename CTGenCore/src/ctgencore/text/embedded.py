"""The embedded report encoder: a small transformer with its own word pieces, trained together with the generator."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from tokenizers import normalizers, pre_tokenizers
from torch import Tensor, nn

from ..errors import InputError
from .base import CONTINUES, SPECIAL, WordPieces


class ReportEncoder(ModelMixin, ConfigMixin):
    """Word pieces and positions, pre-norm transformer layers, final norm (Vaswani et al., 2017; Xiong et al., 2020).

    Every report gives ``max_tokens`` tokens, whatever else is in the batch: padding is masked inside, and what leaves
    at its place is the words' mean and one learned vector, because the U-Net's cross-attention has no mask: in that
    vector alone a handful of words would drown. The empty report is the dropped condition of classifier-free guidance.

    Args:
        vocabulary: pieces in the order of their numbers, from :func:`train_vocabulary`.
        width: features per token.
        layers: transformer layers.
        heads: attention heads.
        max_tokens: word pieces that are read.
        reads_spacing: append a token that holds the voxel size.
    """

    @register_to_config
    def __init__(
        self,
        vocabulary: Sequence[str] = SPECIAL,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        max_tokens: int = 128,
        reads_spacing: bool = False,
    ) -> None:
        super().__init__()
        if width % heads:
            raise InputError(f"width must be divisible by heads; got {width} and {heads}.")
        self.pieces = WordPieces(vocabulary, max_tokens)
        self.token_embedding = nn.Embedding(len(vocabulary), width)
        self.position_embedding = nn.Parameter(0.02 * torch.randn(max_tokens, width))
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.final_norm = nn.LayerNorm(width)
        self.pad = nn.Parameter(0.02 * torch.randn(width))
        if reads_spacing:
            self.spacing = nn.Linear(3, width)
            self.unknown_spacing = nn.Parameter(0.02 * torch.randn(width))

    @property
    def width(self) -> int:
        """Features per token."""
        return self.config.width

    @property
    def max_tokens(self) -> int:
        """Word pieces that are read."""
        return self.config.max_tokens

    def forward(self, ids: Tensor, mask: Tensor, spacing_mm: Tensor | None = None) -> Tensor:
        """Encode word pieces.

        Args:
            ids: ``(B, max_tokens)`` int64.
            mask: ``(B, max_tokens)``, False at padding.
            spacing_mm: ``(B, 3)`` voxel size x, y, z; a row that is not all positive is an unknown size, as None is.

        Returns:
            ``(B, max_tokens, width)``, one token more with ``reads_spacing``.

        Raises:
            InputError: a spacing for an encoder that reads none.
        """
        if spacing_mm is not None and not self.config.reads_spacing:
            raise InputError("This report encoder was not trained with voxel sizes: leave `spacing_mm` out.")
        words, shown = self.read(ids, mask), mask[..., None]
        mean = words.masked_fill(~shown, 0).sum(dim=1, keepdim=True) / shown.sum(dim=1, keepdim=True).clamp(min=1)
        x = torch.where(shown, words, mean + self.pad)
        if not self.config.reads_spacing:
            return x
        size = x.new_zeros(len(x), 3) if spacing_mm is None else spacing_mm.to(x)
        known = (size > 0).all(dim=1, keepdim=True)
        token = torch.where(known, self.spacing(size.clamp(min=1e-3).log()), self.unknown_spacing)
        return torch.cat((x, token[:, None]), dim=1)

    def read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Tokens of the words alone, ``(B, L, width)`` with L up to ``max_tokens``; those at padding mean nothing."""
        x = self.token_embedding(ids) + self.position_embedding[: ids.shape[1]]
        padding = torch.zeros(mask.shape, dtype=x.dtype, device=x.device).masked_fill(~mask, -torch.inf)
        for block in self.blocks:
            x = block(x, src_key_padding_mask=padding)
        return self.final_norm(x)

    def reading_parameters(self) -> Iterator[nn.Parameter]:
        """Those of :meth:`read`, which may have been trained before."""
        yield self.position_embedding
        for module in (self.token_embedding, self.blocks, self.final_norm):
            yield from module.parameters()

    def encode(self, reports: Sequence[str], spacing_mm: Tensor | None = None) -> Tensor:
        """Tokens of report texts, on the encoder's device; gradients flow if they are enabled."""
        ids, mask = self.pieces(reports)
        return self(ids.to(self.device), mask.to(self.device), spacing_mm)

    def count(self, report: str) -> int:
        """Word pieces of a whole report; what exceeds ``max_tokens`` is not read."""
        return self.pieces.count(report)


def train_vocabulary(texts: Iterable[str], size: int) -> list[str]:
    """Word pieces for these texts: special ones, every character, then the most frequent pairs joined.

    Byte-pair merging (Sennrich et al., ACL 2016) in WordPiece's spelling. Ties go by spelling, so that equal texts give
    equal pieces; the trainer of the `tokenizers` library gives other ones at every run.

    Args:
        texts: the training texts; lower-cased as the tokenizer does.
        size: pieces to make at most; fewer when nothing is left to join.

    Raises:
        InputError: ``size`` does not even hold the characters.
    """
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    characters = sorted({character for word in counts for character in word})
    vocabulary = [*SPECIAL, *characters, *(CONTINUES + character for character in characters)]
    if size < len(vocabulary):
        raise InputError(f"size must be at least {len(vocabulary)}: these texts use {len(characters)} characters.")
    words = {word: [word[0], *(CONTINUES + character for character in word[1:])] for word in sorted(counts)}
    pairs: Counter[tuple[str, str]] = Counter()
    homes: defaultdict[tuple[str, str], set[str]] = defaultdict(set)

    def enter(word: str, sign: int) -> None:
        for pair in zip(words[word], words[word][1:], strict=False):
            pairs[pair] += sign * counts[word]
            homes[pair].add(word)

    for word in words:
        enter(word, 1)
    known = set(vocabulary)
    while len(vocabulary) < size:
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] <= 0:
            break
        joined = best[0] + best[1].removeprefix(CONTINUES)
        for word in sorted(homes.pop(best)):
            enter(word, -1)
            words[word] = _join(words[word], best, joined)
            enter(word, 1)
        del pairs[best]
        if joined not in known:  # "a" + "##bc" and "ab" + "##c" spell the same piece
            known.add(joined)
            vocabulary.append(joined)
    return vocabulary


def _join(pieces: list[str], pair: tuple[str, str], joined: str) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        if out and (out[-1], piece) == pair:
            out[-1] = joined
        else:
            out.append(piece)
    return out
