"""CT-CLIP: a text tower and an image tower whose latents can be compared (Hamamci et al., 2024, version 2).

The text tower is a BERT; the image tower, CTViT, cuts a CT into blocks, lets them attend to each other within a slab,
then along the body, replaces each token by its nearest code, averages along the body and projects. Everything here is
written from a description of the published computation; tensor names and shapes are those of ``CT-CLIP_v2.pt``, and
its peculiarities are kept, because the weights expect them (they are marked below).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from einops.layers.torch import Rearrange
from torch import Tensor, nn

from ..checkpoint import check_names
from ..errors import InputError, WeightsError
from ..zoo import build_empty

if TYPE_CHECKING:
    from ..zoo import ExtractorRow

SCORE_FACTOR = 8.0  # of queries and keys of unit length, whatever their width
LEAK = 0.1  # of the position network
CHUNK = 1024  # tokens compared with all codes at a time
PATCHES, PROJECTION = "visual_transformer.to_patch_emb.2.weight", "to_visual_latent.weight"
# What the published file holds and inference does not read: a second pair of projections, the pooler, the way of a
# first frame and back to pixels, norms for cross-attention, and states of training.
UNUSED = re.compile(
    r"to_(text|visual)_latent_extra\.|text_transformer\.(pooler\.|embeddings\.(position|token_type)_ids$)"
    r"|visual_transformer\.(to_patch_emb_first_frame|to_pixels|to_pixels_first_frame)\."
    r"|visual_transformer\..*\.(null_kv$|context_norm\.)|visual_transformer\.vq\._codebook\.(initted|cluster_size)$"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CTClipSpec:
    """Sizes; the defaults are the published ones. ``volume`` and ``patch`` are (z, x, y), see :class:`CTClip`."""

    volume: tuple[int, int, int] = (240, 480, 480)
    patch: tuple[int, int, int] = (10, 20, 20)
    width: int = 512
    heads: int = 8
    head_width: int = 32
    spatial_layers: int = 4
    temporal_layers: int = 4
    codes: int = 8192
    latent: int = 512
    vocabulary: int = 30522
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    text_inner: int = 3072
    max_tokens: int = 512

    def __post_init__(self) -> None:
        if any(size % patch for size, patch in zip(self.volume, self.patch, strict=True)):
            raise InputError(f"The volume must be whole patches of {self.patch}; got {self.volume} (z, x, y).")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along z, x, y."""
        z, x, y = (size // patch for size, patch in zip(self.volume, self.patch, strict=True))
        return (z, x, y)


class Norm(nn.Module):
    """Layer norm under the published names; ``beta`` is not trained but part of the file."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))
        self.register_buffer("beta", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma, self.get_buffer("beta"))


class PositionBias(nn.Module):
    """A small network that turns the offset between two cells of a slab into a bias of their attention, per head.

    It sees ``sign(d) ln(1 + |d|)`` of the offset query minus key in rows and columns. Cells with the same offset share
    the result, so it runs once per offset: ``(2 rows - 1)(2 columns - 1)`` times.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Sequential(nn.Linear(2, width), nn.LeakyReLU(LEAK)),
            nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(LEAK)),
            nn.Linear(width, heads),
        )

    def forward(self, rows: int, columns: int) -> Tensor:
        """``(heads, rows columns, rows columns)``, queries first."""
        device = next(self.parameters()).device
        down, right = torch.arange(1 - rows, rows, device=device), torch.arange(1 - columns, columns, device=device)
        offsets = torch.stack(torch.meshgrid(down, right, indexing="ij"), -1).float()
        bias = self.net(offsets.sign() * offsets.abs().log1p())
        row, column = (torch.arange(n, device=device) for n in (rows, columns))
        row, column = row.repeat_interleave(columns), column.repeat(rows)
        return bias[row[:, None] - row + rows - 1, column[:, None] - column + columns - 1].permute(2, 0, 1)


class Neighbors(nn.Module):
    """Depthwise 3x3x3 convolution over the grid of tokens, that looks back along z: two slabs before, none behind.

    A peculiarity: tokens are read in memory order as (batch, z, x, y). In the stack along the body they lie as
    (batch, x, y, z), so that what counts as a neighbor there is scrambled; the trained weights expect it.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dsconv = nn.Conv3d(width, width, 3, groups=width)

    def forward(self, x_NLC: Tensor, grid: tuple[int, int, int]) -> Tensor:
        z, x, y = grid
        cells = x_NLC.reshape(-1, z, x, y, x_NLC.shape[-1]).permute(0, 4, 1, 2, 3)
        cells = self.dsconv(F.pad(cells, (1, 1, 1, 1, 2, 0)))
        return cells.permute(0, 2, 3, 4, 1).reshape(x_NLC.shape)


class Attention(nn.Module):
    """Attention by cosine: queries and keys of unit length, scaled per feature, their product times eight.

    A peculiarity: keys and values come from the tokens as they are; only queries see the norm.
    """

    def __init__(self, width: int, heads: int, head_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = Norm(width)
        self.to_q = nn.Linear(width, heads * head_width, bias=False)
        self.to_kv = nn.Linear(width, 2 * heads * head_width, bias=False)
        self.to_out = nn.Linear(heads * head_width, width, bias=False)
        self.q_scale = nn.Parameter(torch.ones(head_width))
        self.k_scale = nn.Parameter(torch.ones(head_width))

    def forward(self, x_NLC: Tensor, bias: Tensor | None) -> Tensor:
        parts = (self.to_q(self.norm(x_NLC)), *self.to_kv(x_NLC).chunk(2, dim=-1))
        q, k, v = (rearrange(part, "n l (h d) -> n h l d", h=self.heads) for part in parts)
        q, k = F.normalize(q, dim=-1) * self.q_scale, F.normalize(k, dim=-1) * self.k_scale
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=SCORE_FACTOR)
        return self.to_out(rearrange(out, "n h l d -> n l (h d)"))


class Gated(nn.Module):
    """The first half of the features times GELU of the second."""

    def forward(self, x: Tensor) -> Tensor:
        value, gate = x.chunk(2, dim=-1)
        return value * F.gelu(gate)


class Stack(nn.Module):
    """Layers of neighbors, attention and feed-forward, each added to what it got; a norm at the end."""

    def __init__(self, spec: CTClipSpec, layers: int) -> None:
        super().__init__()
        inner = int(4 * (2 / 3) * spec.width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                (
                    Neighbors(spec.width),
                    Attention(spec.width, spec.heads, spec.head_width),
                    nn.Identity(),  # the published slot of a cross-attention that is not there
                    nn.Sequential(
                        nn.LayerNorm(spec.width),
                        nn.Linear(spec.width, 2 * inner, bias=False),
                        Gated(),
                        nn.Identity(),  # the published slot of a dropout that is off
                        nn.Linear(inner, spec.width, bias=False),
                    ),
                )
            )
            for _ in range(layers)
        )
        self.norm_out = Norm(spec.width)

    def forward(self, x_NLC: Tensor, grid: tuple[int, int, int], bias: Tensor | None = None) -> Tensor:
        x = x_NLC
        layer: Any
        for layer in self.layers:
            neighbors, attention, _, feed_forward = layer
            x = x + neighbors(x, grid)
            x = x + attention(x, bias)
            x = x + feed_forward(x)
        return self.norm_out(x)


class Codebook(nn.Module):
    """The codes, under their published name ``_codebook.embed``."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self._codebook = nn.Module()
        self._codebook.register_buffer("embed", torch.randn(1, codes, width))

    def forward(self, x_BLC: Tensor) -> tuple[Tensor, Tensor]:
        """For each token the code that points most nearly its way, as it is stored, and its number ``(B, L)``."""
        codes = self._codebook.get_buffer("embed")[0]
        directions = F.normalize(codes, dim=-1).T
        tokens = F.normalize(x_BLC, dim=-1).flatten(0, 1)
        index = torch.cat([(part @ directions).argmax(-1) for part in tokens.split(CHUNK)]).view(x_BLC.shape[:2])
        return codes[index], index


class CTViT(nn.Module):
    """The image tower: ``(B, 1, z, x, y)`` to codes ``(B, z/10, x/20, y/20, width)``."""

    def __init__(self, spec: CTClipSpec) -> None:
        super().__init__()
        z, x, y = spec.patch
        self.to_patch_emb = nn.Sequential(
            Rearrange("b c (t z) (h x) (w y) -> b t h w (c z x y)", z=z, x=x, y=y),
            nn.LayerNorm(z * x * y),
            nn.Linear(z * x * y, spec.width),
            nn.LayerNorm(spec.width),
        )
        self.spatial_rel_pos_bias = PositionBias(spec.width, spec.heads)
        self.enc_spatial_transformer = Stack(spec, spec.spatial_layers)
        self.enc_temporal_transformer = Stack(spec, spec.temporal_layers)
        self.vq = Codebook(spec.codes, spec.width)

    def forward(self, volume_BCZXY: Tensor) -> Tensor:
        tokens = self.to_patch_emb(volume_BCZXY)
        batch, z, x, y, _ = tokens.shape
        bias = self.spatial_rel_pos_bias(x, y)
        tokens = self.enc_spatial_transformer(rearrange(tokens, "b z x y c -> (b z) (x y) c"), (z, x, y), bias)
        tokens = rearrange(tokens, "(b z) n c -> (b n) z c", b=batch)
        tokens = self.enc_temporal_transformer(tokens, (z, x, y))
        codes, _ = self.vq(rearrange(tokens, "(b n) z c -> b (z n) c", b=batch))
        return rearrange(codes, "b (z x y) c -> b z x y c", z=z, x=x)


class CTClip(nn.Module):
    """Both towers and their projections. How alike two latents are: their product, times exp(``temperature``).

    Volumes are ``(B, 1, z, x, y)`` in [-1, 1]: HU / 1000, z from feet to head, **x before y**, x from right to left, y
    from front to back, 1.5 x 0.75 x 0.75 mm. Run it in float32: which code is nearest can hang on the last digit.
    """

    def __init__(self, **sizes: Any) -> None:
        from transformers import BertConfig, BertModel

        super().__init__()
        self.spec = spec = CTClipSpec(**sizes)
        config: Any = BertConfig(
            vocab_size=spec.vocabulary,
            hidden_size=spec.text_width,
            num_hidden_layers=spec.text_layers,
            num_attention_heads=spec.text_heads,
            intermediate_size=spec.text_inner,
            max_position_embeddings=spec.max_tokens,
        )
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.text_transformer = BertModel(config, add_pooling_layer=False)
        self.visual_transformer = CTViT(spec)
        self.to_text_latent = nn.Linear(spec.text_width, spec.latent, bias=False)
        self.to_visual_latent = nn.Linear(spec.grid[1] * spec.grid[2] * spec.width, spec.latent, bias=False)

    @staticmethod
    def remap_keys(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The published tensors without those that inference does not read."""
        return {name: tensor for name, tensor in tensors.items() if not UNUSED.match(name)}

    def encode_text(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Latents ``(B, latent)`` of unit length from word pieces ``(B, L)`` and their mask, False at padding."""
        states = self.text_transformer(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        return F.normalize(self.to_text_latent(states[:, 0]), dim=-1)

    def encode_image(self, volume_BCZXY: Tensor) -> Tensor:
        """Latents ``(B, latent)`` of unit length.

        Raises:
            InputError: not of the size that the network was trained for.
        """
        if tuple(volume_BCZXY.shape[1:]) != (1, *self.spec.volume):
            raise InputError(
                f"CT-CLIP reads (batch, 1, z, x, y) of {self.spec.volume}; got {tuple(volume_BCZXY.shape)}. Prepare "
                "volumes with ctgencore.metrics.ctclip_input.prepare."
            )
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            codes = self.visual_transformer(volume_BCZXY.float())
        return F.normalize(self.to_visual_latent(codes.mean(1).flatten(1)), dim=-1)


def convert(row: ExtractorRow, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to keep of a published file: those that :class:`CTClip` has, all of them checked.

    Raises:
        WeightsError: a file of the first version, of the fine-tuned classifier, or of something else.
    """
    net = build_empty(row.network)
    wanted = net.state_dict()
    if any(name.startswith("trained_model.") for name in tensors):
        raise WeightsError(
            "This is CT-LiPro, a classifier tuned on labels; scores need the latents of CT-CLIP itself: CT-CLIP_v2.pt."
        )
    for name in (PATCHES, PROJECTION):
        if name in tensors and tensors[name].shape[-1] != wanted[name].shape[-1]:
            raise WeightsError(
                f"{name} reads {tensors[name].shape[-1]} values, CT-CLIP version 2 reads {wanted[name].shape[-1]}. "
                "Files from before October 2024 (version 1: 6000 and 2097152) cut, pool and scale CT otherwise and do "
                "not fit. Get CT-CLIP_v2.pt."
            )
    return check_names(net, tensors)
