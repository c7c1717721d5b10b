"""CXR-BERT-specialized, the frozen text encoder of the published Foundation-VAE generators.

Boecking et al., *Making the Most of Text Semantics to Improve Biomedical Vision-Language Processing*, ECCV 2022
(``microsoft/BiomedVLP-CXR-BERT-specialized``). It is loaded as a plain BERT-base: the U-Net attends to all 512 last
hidden states, those at padding included; the pooler and the projection of the original are not used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import load_published, read_tensors
from ..errors import InputError, WeightsError
from .base import WordPieces, read_vocabulary

PREFIX = "text_transformer."  # in the generators' checkpoints
PUBLISHED: dict[str, int] = {"layers": 12, "width": 768, "heads": 12, "max_tokens": 512}
WEIGHTS_NAMES = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
VOCABULARY_NAME = "vocab.txt"
_UNUSED = ("pooler.", "cls.", "cls_projection_head.", "bert.pooler.")


class CXRBert:
    """The encoder. From tensors: ``CXRBert(tensors, vocabulary)``; from a folder: :meth:`from_folder`.

    Args:
        tensors: BERT's under their names in ``transformers`` (prefix ``bert.`` or ``text_transformer.`` allowed;
            poolers, heads and ``position_ids`` are left out).
        vocabulary: the pieces of its ``vocab.txt``.
        sizes: ``layers``, ``width``, ``heads``, ``max_tokens`` where they differ from BERT-base.

    Raises:
        WeightsError: tensors are missing, unexpected or of another shape, or do not fit the vocabulary.
    """

    def __init__(self, tensors: Mapping[str, Tensor], vocabulary: Sequence[str], **sizes: int) -> None:
        self.pieces = WordPieces(vocabulary, (PUBLISHED | sizes)["max_tokens"])
        given = bert_tensors(tensors)
        words = given.get("embeddings.word_embeddings.weight")
        if words is not None and len(words) != len(vocabulary):
            raise WeightsError(
                f"The text encoder has {len(words)} word pieces, the vocabulary {len(vocabulary)}. Use the "
                "vocab.txt that was published with it."
            )
        with torch.random.fork_rng(devices=[]):  # start values, overwritten at once: the caller's stream stays
            self.model = build_bert(len(vocabulary), **sizes)
        load_published(self.model, given)
        self.model.eval().requires_grad_(False)

    @classmethod
    def from_folder(cls, folder: str | Path, **sizes: int) -> CXRBert:
        """From a folder that holds ``vocab.txt`` and the weights as published (safetensors or ``pytorch_model.bin``).

        Raises:
            InputError: no weights or no vocabulary there.
            WeightsError: damaged or other weights.
        """
        folder = Path(folder)
        found = next((folder / name for name in WEIGHTS_NAMES if (folder / name).is_file()), None)
        if found is None:
            raise InputError(f"{folder} has none of {', '.join(WEIGHTS_NAMES)}: the folder of a BERT model is needed.")
        return cls(read_tensors(found), read_vocabulary(folder / VOCABULARY_NAME), **sizes)

    @property
    def width(self) -> int:
        """Features per token."""
        return self.model.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """Word pieces that are read."""
        return self.pieces.max_tokens

    def to(self, device: str | torch.device) -> CXRBert:
        """Move the network; returns self."""
        self.model.to(device)
        return self

    @torch.no_grad()
    def encode(self, reports: Sequence[str]) -> Tensor:
        """Last hidden states ``(B, 512, 768)`` of all positions, on the encoder's device; padding is masked inside."""
        ids, mask = (tensor.to(self.model.device) for tensor in self.pieces(reports))
        return self.model(input_ids=ids, attention_mask=mask.long()).last_hidden_state

    def count(self, report: str) -> int:
        """Word pieces of a whole report; what exceeds ``max_tokens`` is not read."""
        return self.pieces.count(report)


def build_bert(pieces: int, **sizes: int) -> Any:
    """A bare BERT without pooler, random weights; ``sizes`` where they differ from :data:`PUBLISHED`."""
    from transformers import BertConfig, BertModel

    size = PUBLISHED | sizes
    config: Any = BertConfig(
        vocab_size=pieces,
        hidden_size=size["width"],
        num_hidden_layers=size["layers"],
        num_attention_heads=size["heads"],
        intermediate_size=4 * size["width"],
        max_position_embeddings=size["max_tokens"],
    )
    return BertModel(config, add_pooling_layer=False)


def bert_tensors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the bare BERT among these, under their plain names."""
    plain = {name.removeprefix(PREFIX).removeprefix("bert."): tensor for name, tensor in tensors.items()}
    return {
        name: tensor
        for name, tensor in plain.items()
        if not name.startswith(_UNUSED) and not name.endswith("position_ids")
    }
