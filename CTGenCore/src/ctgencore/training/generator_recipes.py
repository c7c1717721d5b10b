"""Named recipes of the latent-diffusion generators: data, conditions, network and stages, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from ..diffusion.conditions import ConditionSpec
from ..diffusion.schedule import Prediction
from ..zoo import GENERATORS, NETWORKS, RESIDUAL_STD

StageName = Literal["2d", "3d"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropout:
    """How often training hides a condition, so that each is optional when sampling (Ho & Salimans, *Classifier-Free
    Diffusion Guidance*, 2022). Zero everywhere, as published, leaves a model that cannot be guided.

    Attributes:
        everything: all conditions at once.
        report: of the rest, the report alone.
        findings: of reports with an impression, how often only that is read: people write short prompts.
        diseases: of those that keep a report, the disease mask. Both are never hidden while the organ mask is shown, so
            that no disease mask and no words mean a healthy chest, and guidance leads away from that.
        organs: the organ mask.
        groups: of those with an organ mask, how often only a random part of its organ groups is left.
        label_image: of those with an organ mask, how often only its tissue sketch is shown: editing makes such a sketch
            from a real CT, which has no labels.
        spacing: the voxel size, where the report encoder reads it.
    """

    everything: float = 0.0
    report: float = 0.0
    findings: float = 0.0
    diseases: float = 0.0
    organs: float = 0.0
    groups: float = 0.0
    label_image: float = 0.0
    spacing: float = 0.0

    @property
    def any(self) -> bool:
        """Whether anything is ever hidden."""
        return any(getattr(self, item.name) > 0 for item in fields(self))


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One stage of a training.

    Attributes:
        name: ``2d``: latent slices are independent images and the network has no slice convolutions; ``3d``: it has
            them, and starts from the last (not the averaged) weights of the stage before.
        steps: optimizer steps.
        batch: volumes per step and process.
        slices: latent slices taken of each volume's window, None for all (a 2D stage only).
        base_rate: the learning rate is ``base_rate * processes * batch``, as published.
        trainable: what the optimizer gets: ``all``, or only the slice convolutions.
        timesteps: ``slices``: uniform and independent for each latent slice; ``volumes``: one per volume, with
            probability proportional to 2000 - t.
        ema: decay of the averaged weights, which warms up as (1 + n) / (10 + n); 0 for none.
        warmup: steps of linear warm-up.
        descent: part of the steps, at the end, in which the rate falls linearly to zero; 0 for a constant rate.
        clip_norm: largest gradient norm, 0 for no clipping.
    """

    name: StageName
    steps: int
    batch: int
    slices: int | None = None
    base_rate: float
    trainable: Literal["all", "slices"] = "all"
    timesteps: Literal["slices", "volumes"]
    ema: float = 0.0
    warmup: int = 0
    descent: float = 0.0
    clip_norm: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorRecipe:
    """How to train a generator in the latent space of a frozen codec.

    Attributes:
        codec: row of :data:`ctgencore.zoo.CODECS`.
        conditions: the conditioning channels.
        network: keyword arguments of :class:`ctgencore.networks.unet_slices.SliceUNet`; ``in_channels`` follows from
            codec and conditions.
        text: ``embedded`` trains a report encoder along; ``cxrbert`` is frozen.
        text_config: keyword arguments of :class:`ctgencore.text.embedded.ReportEncoder` but its vocabulary.
        pieces: word pieces of that vocabulary at most.
        reading_steps: of an embedded report encoder before all stages, see :mod:`.reading`; it is not trained after. 0
            trains it along, from random numbers.
        prompt_format: of reports with several findings, see :mod:`ctgencore.text.prompts`.
        prediction: what the network predicts.
        reorients: turn volumes so that Z, Y, X run to head, back and left; the releases keep the order on disk.
        transpose: rows of a slice run along x, as in the releases, not along y.
        plane_yx: in-plane size that volumes are brought to, None to keep their own.
        window_zyx: latent cells that the network is trained on, cut out anywhere.
        clips_per_volume: windows of 65 slices drawn per volume and encoded one by one; 0 encodes whole volumes and cuts
            the window out of the latents.
        clear_background: volumes without a disease mask are air where the organ mask is 0, which removes the table.
        dropout: see :class:`Dropout`.
        stages: in order.
        phantoms: training volumes when they are phantoms.
        plane_mm, slice_mm: ranges of the phantoms' spacing.
        checkpointing: recompute activations in the backward pass, for memory.
        seed: of everything random.
    """

    name: str
    title: str
    codec: str
    conditions: ConditionSpec
    network: dict[str, Any] = field(default_factory=dict)
    text: Literal["embedded", "cxrbert"]
    text_config: dict[str, Any] = field(default_factory=dict)
    pieces: int = 1000
    reading_steps: int = 0
    prompt_format: Literal["plain", "bracket_list"] = "plain"
    prediction: Prediction = "epsilon"
    reorients: bool = True
    transpose: bool = False
    plane_yx: tuple[int, int] | None = None
    window_zyx: tuple[int, int, int]
    clips_per_volume: int = 0
    clear_background: bool = False
    dropout: Dropout = field(default_factory=Dropout)
    stages: tuple[Stage, ...]
    phantoms: int = 2000
    plane_mm: tuple[float, float] = (0.8, 3.0)
    slice_mm: tuple[float, float] = (1.0, 5.0)
    checkpointing: bool = False
    seed: int = 0


def _of_zoo(network: str) -> dict[str, Any]:
    """Sizes of a network; its input channels follow from codec and conditions."""
    return {key: value for key, value in NETWORKS[network].config.items() if key != "in_channels"}


def _published(name: str, title: str, *, steps: tuple[int, int], divisor: float, **values: Any) -> GeneratorRecipe:
    """What the two published releases share (Foundation VAE, section 4 and released code).

    Their steps are epochs times steps per epoch at the published four GPUs. Deliberate differences: all of a list is
    used (the code keeps the first 80 %), the frozen text encoder runs without its dropout, and latents of masks and CTs
    have the codec's scale, that of the 3D stage, in both stages.
    """
    first, second = steps
    return GeneratorRecipe(
        name=name,
        title=title,
        codec="leanvae",
        conditions=ConditionSpec(label_divisor=divisor),
        text="cxrbert",
        reorients=False,
        transpose=True,
        plane_yx=(512, 512),
        window_zyx=(17, 64, 64),
        clips_per_volume=4,
        clear_background=True,
        stages=(
            Stage(name="2d", steps=first, batch=8, base_rate=5e-7, timesteps="slices", ema=0.9999),
            Stage(name="3d", steps=second, batch=4, base_rate=5e-6, timesteps="volumes", trainable="slices"),
        ),
        checkpointing=True,
        seed=23,
        **values,
    )


GENERATOR_RECIPES: dict[str, GeneratorRecipe] = {
    recipe.name: recipe
    for recipe in (
        GeneratorRecipe(
            name="foundation.embedded",
            title="The embedded generator: a small slice U-Net and its own report encoder, on procedural chests",
            codec="embedded",
            conditions=ConditionSpec(
                label_divisor=300.0, tissue=True, disease_channels=True, residual_std=RESIDUAL_STD
            ),
            network=_of_zoo("foundation-unet-embedded"),
            text="embedded",
            text_config=GENERATORS["foundation-embedded"].text_config,
            reading_steps=1200,
            prediction="v_prediction",
            window_zyx=(17, 16, 16),
            dropout=Dropout(
                report=0.3,
                findings=0.5,
                diseases=0.5,
                groups=0.3,
                label_image=0.15,
                spacing=0.1,
            ),
            stages=(
                Stage(
                    name="2d",
                    steps=3000,
                    batch=8,
                    slices=8,
                    base_rate=1e-3 / 8,
                    timesteps="slices",
                    ema=0.999,
                    warmup=200,
                    clip_norm=1.0,
                ),
                Stage(
                    name="3d",
                    steps=4500,
                    batch=4,
                    base_rate=8e-4 / 4,
                    timesteps="volumes",
                    ema=0.999,
                    warmup=100,
                    descent=0.5,
                    clip_norm=1.0,
                ),
            ),
        ),
        _published(
            "foundation.healthy",
            "The published healthy generator, from a list of CT-RATE volumes",
            steps=(64_000, 9_000),
            divisor=400.0,
            network={"slice_padding": "zeros"},
        ),
        _published(
            "foundation.multidisease",
            "The published multi-disease generator, from lists of ReXGroundingCT and CT-RATE volumes",
            steps=(39_400, 15_400),
            divisor=300.0,
            network={"slice_padding": "reflect"},
            prompt_format="bracket_list",
        ),
        GeneratorRecipe(
            name="tiny-generator",
            title="A few steps of a very small generator on small phantoms: shows that training works, in seconds",
            codec="embedded",
            conditions=ConditionSpec(label_divisor=None, tissue=True, disease_channels=True),
            network={
                "channels": 16,
                "multipliers": (1, 2),
                "res_blocks": 1,
                "attention_levels": (1,),
                "head_width": 16,
                "context_width": 32,
                "groups": 8,
            },
            text="embedded",
            text_config={"width": 32, "layers": 1, "max_tokens": 24, "reads_spacing": True},
            reading_steps=20,
            prediction="v_prediction",
            window_zyx=(17, 4, 4),
            dropout=Dropout(
                everything=0.1, report=0.1, findings=0.3, diseases=0.1, organs=0.1, groups=0.3, spacing=0.1
            ),
            stages=(
                Stage(
                    name="2d", steps=8, batch=2, slices=4, base_rate=5e-4, timesteps="slices", ema=0.99, clip_norm=1.0
                ),
                Stage(name="3d", steps=6, batch=2, base_rate=5e-4, timesteps="volumes", ema=0.99, clip_norm=1.0),
            ),
            phantoms=8,
            plane_mm=(6.0, 12.0),
        ),
    )
}
