"""The papers' tables: their published numbers, and which metric of ours fills each column. Needs no torch.

The numbers are in ``papers.json``, transcribed from the papers' text, with what is doubtful about them. A recipe's
folder holds ``reference`` (real volumes), ``labels``, ``reports``, ``findings.csv``, one folder of volumes for each
row, and beside it that row's segmentations, ``ROW.labels``. Names of files are equal throughout.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

from ..labels import AIRWAY, LUNG_LOBES, VESSEL, name_of
from .extractors import MEDSYN2_WINDOWS, PLANES

Cell: TypeAlias = float | tuple[float, float] | None  # a number, mean and standard deviation, or nothing

REFERENCE = "reference"  # the folder of real volumes
HEART, PANCREAS, PANCREATIC_TUMOR, NODULE, RIBS = 115, 4, 24, 161, range(63, 87)
_LUNG, _RIB = LUNG_LOBES[0], RIBS[0]  # what lobes and ribs are merged into
_THORAX = {**dict.fromkeys(LUNG_LOBES, _LUNG), HEART: HEART, VESSEL: VESSEL}
_OBJECTS = {**_THORAX, **{label: label for label in (AIRWAY, 150, 154, 158, 159, NODULE)}}  # 158, other: pericardium


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """One comparison of folders.

    Attributes:
        folder: below the recipe's folder; empty for that itself.
        test, labels, test_labels: folders in it; ``{row}`` stands for the row's name.
        renumber: labels in the files -> CTGen's ids; others are left out. Empty keeps all.
    """

    folder: str = ""
    test: str = "{row}"
    labels: str = "labels"
    test_labels: str = "{row}.labels"
    renumber: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One column of a table.

    Attributes:
        key: as in ``papers.json``.
        metric: that fills it; ``{NAME}`` stands for a choice. Empty when ``why`` says why nothing can.
        region: of the metric.
        part: key of the recipe's parts.
        scale: what the metric is multiplied with to be on the paper's scale.
        why: reason for an empty column.
    """

    key: str
    metric: str = ""
    region: str = "all"
    part: str = ""
    scale: float = 1.0
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What a paper leaves open.

    Attributes:
        values: answer -> what it puts into :attr:`Column.metric`; the first is the default.
        about: the question, and why the default is what it is.
    """

    values: Mapping[str, str]
    about: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """How to fill one table.

    Attributes:
        title: what the table is about.
        columns: in the paper's order.
        parts: name -> comparison.
        choices: name -> question.
        real: the published row that the folder ``reference`` belongs to; empty when it has none.
        regions: for tables whose rows are organs: row -> region.
        study: for tables of trained networks: the command that makes the numbers.
    """

    title: str
    columns: tuple[Column, ...]
    parts: Mapping[str, Part] = field(default_factory=lambda: {"": Part()})
    choices: Mapping[str, Choice] = field(default_factory=dict)
    real: str = ""
    regions: Mapping[str, str] = field(default_factory=dict)
    study: str = ""

    def chosen(self, choices: Mapping[str, str]) -> dict[str, str]:
        """The answer to each question, defaults filled in.

        Raises:
            InputError: there is no such question or answer.
        """
        from ..zoo import lookup

        for name, value in choices.items():
            lookup(dict(lookup(dict(self.choices), name, "choice in this recipe").values), value, f"answer to '{name}'")
        return {name: choices.get(name, next(iter(choice.values))) for name, choice in self.choices.items()}


@dataclass(frozen=True, slots=True)
class Published:
    """A table as published.

    Attributes:
        paper, where: source.
        columns: keys of the columns.
        rows: row -> its cells.
        doubts: what a reader should know about the numbers.
    """

    paper: str
    where: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[Cell, ...]]
    doubts: tuple[str, ...]


def published(name: str) -> Published:
    """The numbers that the paper has in the table of this recipe."""
    table = _tables()[name]
    rows = {
        row: tuple((cell[0], cell[1]) if isinstance(cell, list) else cell for cell in cells)
        for row, cells in table["rows"].items()
    }
    return Published(table["paper"], table["where"], tuple(table["columns"]), rows, tuple(table["doubts"]))


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return dict(json.loads(Path(__file__).with_name("papers.json").read_text(encoding="utf-8")))


# --- the recipes -----------------------------------------------------------------------------------------------------

FVD = Choice(
    values={"ctclip": "fvd_ctclip", "ctnet": "fvd_ctnet_full", "ctnet_chunk4": "fvd_ctnet_chunk4"},
    about="Features of FVD. The text says CT-CLIP, the default; the toolkit it points to takes CT-Net in chunks of 4.",
)
SSIM = Choice(
    values={"slices": "ssim_slices_w2000", "3d": "ssim3d_w2000"},
    about="SSIM is not said to be 3D. Slices are the default: the code of these VAEs measures frames.",
)
THRESHOLD = Choice(
    values={"youden": "youden", "half": "p50"},
    about="Threshold of a finding. Not stated; the default is zero-shot CT-CLIP's own rule, chosen on the test cases.",
)
F1 = Choice(
    values={"weighted": "f1_weighted", "two_class": "f1_two_class", "present": "f1"},
    about="Which F1. Not stated; weighted over present and absent, the default, is zero-shot CT-CLIP's own.",
)
_GENERATION = (
    ("fvd", "{fvd}", "all"),
    ("fid_axial", "fid25d_maisi_v1", "xy"),
    ("fid_sagittal", "fid25d_maisi_v1", "yz"),
    ("fid_coronal", "fid25d_maisi_v1", "zx"),
    ("fid_avg", "fid25d_maisi_v1", "average"),
    ("i2i", "clip_i2i", "all"),
    ("t2i", "clip_t2i", "all"),
    ("clip_avg", "clip_mean", "all"),
)
_OVERLAP = (("dice", "dice", 100.0), ("jaccard", "jaccard", 100.0), ("hd95", "hd95_mm", 1.0), ("asd", "asd_mm", 1.0))


def _segmentation(part: str, *targets: tuple[str, int]) -> list[Column]:
    return [
        Column(key=f"{part} {name}{suffix}", metric=metric, region=name_of(label), part=part, scale=100.0)
        for suffix, label in targets
        for name, metric in (("dsc", "dice"), ("nsd", "nsd"))
    ]


_TABLE1_VOXELS = (("psnr", "psnr_255_w2000"), ("ssim", "{ssim}"), ("mse", "mse_255_w2000"))

RECIPES: dict[str, Recipe] = {
    "table1": Recipe(
        title="Reconstruction and segmentation, MSD Task06 Lung and Task07 Pancreas",
        parts={
            "lung": Part(folder="lung", renumber={1: NODULE}),
            "pancreas": Part(folder="pancreas", renumber={1: PANCREAS, 2: PANCREATIC_TUMOR}),
        },
        columns=(
            *(Column(key=f"{p} {k}", metric=m, part=p) for p in ("lung", "pancreas") for k, m in _TABLE1_VOXELS),
            *_segmentation("lung", ("", NODULE)),
            *_segmentation("pancreas", ("1", PANCREAS), ("2", PANCREATIC_TUMOR)),
        ),
        choices={"ssim": SSIM},
        real="Real Data",
    ),
    "table2": Recipe(
        title="Generation, normal and disease splits",
        parts={split: Part(folder=split) for split in ("normal", "disease")},
        columns=tuple(
            Column(key=f"{split} {key}", metric=metric, region=region, part=split)
            for split in ("normal", "disease")
            for key, metric, region in _GENERATION
        ),
        choices={"fvd": FVD},
    ),
    "table3": Recipe(
        title="Organ-mask adherence",
        parts={"": Part(renumber={**_THORAX, **dict.fromkeys(RIBS, _RIB)})},
        columns=tuple(
            Column(key=f"{organ} {key}", metric=metric, region=name_of(label), scale=100.0)
            for organ, label in (("lung", _LUNG), ("heart", HEART), ("vessel", VESSEL), ("rib", _RIB))
            for key, metric in (("dice", "dice"), ("iou", "jaccard"))
        ),
    ),
    "table4": Recipe(
        title="AUC of a classifier trained on real and synthetic volumes",
        columns=tuple(
            Column(key=key, metric="auc", region="mean" if key == "average" else key, scale=100.0)
            for key in published("table4").columns
        ),
        study="ctgencore study classify -o FOLDER",
    ),
    "table5": Recipe(
        title="Conditioning signals",
        columns=tuple(
            Column(key=key, metric=metric, region=region)
            for key, metric, region in _GENERATION
            if key in ("fvd", "fid_avg", "clip_avg")
        ),
        choices={"fvd": FVD},
    ),
    "medsyn2-table1": Recipe(
        title="FID per window, reports only",
        columns=tuple(
            Column(key=f"{window.name} {key}", metric="fid_windowed_medsyn2", region=f"{window.name} {region}")
            for window in MEDSYN2_WINDOWS
            for key, region in (*zip(PLANES, PLANES, strict=True), ("mean", "average"))
        ),
    ),
    "medsyn2-table2": Recipe(
        title="CLIP scores, reports only",
        columns=(
            Column(key="t2i", metric="clip_t2i"),
            Column(key="i2i", metric="clip_i2i"),
            *(Column(key=f"pillar {key}", why="Pillar-0, which CTGen does not have") for key in ("t2i", "i2i")),
        ),
        real="Real",
    ),
    "medsyn2-table3": Recipe(
        title="Zero-shot findings, reports only",
        columns=(
            Column(key="accuracy", metric="factual18_zeroshot_accuracy_{threshold}"),
            Column(key="precision", metric="factual18_zeroshot_precision_{threshold}"),
            Column(key="auroc", metric="factual18_zeroshot_auroc"),
            Column(key="f1", metric="factual18_zeroshot_{f1}_{threshold}"),
        ),
        choices={"threshold": THRESHOLD, "f1": F1},
        real="Real",
    ),
    "medsyn2-table5": Recipe(
        title="Segmentation of opacities, trained on real and synthetic images",
        columns=(
            Column(key="dice", metric="dice", region="mean", scale=100.0),
            *(
                Column(key=key, why="a study that measures it; ours has Dice and NSD")
                for key in ("jaccard", "asd", "hd95")
            ),
        ),
        study="ctgencore study segment -o FOLDER",
    ),
    "medsyn2-table7": Recipe(
        title="Segmentations of generated volumes and reconstructed masks",
        parts={
            name: Part(test="generated", labels=labels, test_labels=test_labels, renumber=_OBJECTS)
            for name, labels, test_labels in (
                ("generated", "labels", "generated.labels"),
                ("reconstructed", "labels", "reconstructed.labels"),
                ("between", "reconstructed.labels", "generated.labels"),
            )
        },
        columns=tuple(
            Column(key=f"{part} {key}", metric=metric, part=part, scale=scale)
            for part in ("generated", "reconstructed", "between")
            for key, metric, scale in _OVERLAP
        ),
        regions={
            "Lobe": name_of(_LUNG),
            "Airway": name_of(AIRWAY),
            "Vessel": name_of(VESSEL),
            "Heart": name_of(HEART),
            "Ground Glass Opacity": name_of(154),
            "Consolidation": name_of(150),
            "Pleural Effusion": name_of(159),
            "Pericardial Effusion": name_of(158),
            "Nodule": name_of(NODULE),
        },
    ),
    "trace-table1": Recipe(
        title="Consistency of slices, and anatomy",
        columns=(
            Column(key="subject", metric="subject_consistency"),
            Column(key="background", metric="background_consistency"),
            Column(key="flicker", metric="temporal_flicker"),
            Column(key="motion", metric="motion_smoothness"),
            *(Column(key=key, why="VBench's network for videos") for key in ("quality", "overall")),
            Column(key="jaccard", metric="jaccard", scale=100.0),
            Column(key="dice", metric="dice", scale=100.0),
            Column(key="hd95", metric="hd95_mm"),
            Column(key="fps", why="the generator's own clock"),
        ),
        real="GT",
    ),
    "trace-table2": Recipe(
        title="Generation, by GenerateCT's framework",
        columns=(
            Column(key="fid", why="the Inception network of GenerateCT's framework"),
            Column(key="fvd", metric="fvd_i3d"),
            Column(key="clip", metric="clip_t2i"),
        ),
        real="GT/GT",
    ),
}
