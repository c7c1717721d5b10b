"""Named training recipes: everything that a run needs, as data. ``ctgencore train NAME`` runs one."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecRecipe:
    """How to train a small codec on procedural clips.

    Attributes:
        network: keyword arguments of :class:`ctgencore.networks.leanvae.LeanVAE`.
        clip_zyx: clip sizes in voxels, one drawn per step in turn; Z is 1 + 4k, Y and X multiples of 8.
        batch: clips per step at the first clip size; other sizes keep the number of voxels.
        steps, learning_rate, warmup: AdamW with linear warm-up and a linear descent over the last quarter.
        ema: decay of the averaged weights, the ones that are exported.
    """

    name: str
    title: str
    network: dict[str, int] = field(default_factory=dict)
    clip_zyx: tuple[tuple[int, int, int], ...] = ((17, 64, 64),)
    batch: int = 8
    steps: int = 10_000
    learning_rate: float = 1.5e-3
    warmup: int = 200
    ema: float = 0.999


RECIPES: dict[str, CodecRecipe] = {
    recipe.name: recipe
    for recipe in (
        CodecRecipe(
            name="embedded-codec",
            title="The embedded codec: LeanVAE at a quarter of its width, one grey channel, on procedural clips",
            network={"channels": 1, "l_dim": 32, "h_dim": 96},
            clip_zyx=((17, 64, 64), (33, 48, 48), (9, 88, 88)),
        ),
        CodecRecipe(
            name="tiny",
            title="A few steps of a very small codec: shows that training works, in seconds",
            network={"channels": 1, "l_dim": 16, "h_dim": 32, "sep_num_layer": 1, "fusion_num_layer": 1},
            clip_zyx=((5, 32, 32),),
            batch=2,
            steps=20,
            warmup=2,
        ),
    )
}
