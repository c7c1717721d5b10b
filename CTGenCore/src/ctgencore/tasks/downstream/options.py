"""What shapes a downstream study. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ...errors import InputError
from ...intensity import Window
from ...zoo import CODECS, GENERATORS, lookup


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train a network.

    Attributes:
        views: of the training cases that it learns from.
        start: arm whose weights it goes on from; empty to start from random ones.
    """

    views: tuple[str, ...]
    start: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOptions:
    """What both studies share.

    Attributes:
        data: what to train on: folders or lists, see ``docs/downstream.md``; phantoms by default.
        test: what to test on, of other patients; a share of ``data`` by default.
        held_out: that share of the patients, when ``test`` is not given (nnU-Net's fold 0 is a fifth).
        root: folder below which the volumes of a list lie.
        apply_rescale: a list's CTs are raw: apply its slope and intercept.
        scheme: numbering of a folder's organ masks, see :func:`ctgencore.labels.convert`.
        phantoms, test_phantoms: how many, when ``data`` is empty.
        arms: which to run, in the order of the class's ``ARMS``; empty for the default.
        seeds: of networks, batches and augmentation. Data and split are the same for all.
        steps: optimizer steps of each arm.
        batch: volumes or patches per step.
        rate: peak of AdamW's learning rate, which falls to zero along a half cosine in each arm.
        window: HU range that the network sees; see :meth:`ctgencore.intensity.Window.parse`.
        spacing_mm: (x, y, z) that volumes are resampled to.
        draws: bootstrap samples of the confidence intervals.
        cache: folder of prepared volumes, which studies may share; by default inside the study's.
        device: ``auto``, ``cpu``, ``cuda:0``, ...
        threads: CPU threads; None keeps torch's choice.
    """

    ARMS: ClassVar[Mapping[str, Arm]] = {}
    DEFAULT_ARMS: ClassVar[tuple[str, ...]] = ()

    data: tuple[Path, ...] = ()
    test: tuple[Path, ...] = ()
    held_out: float = 0.2
    root: Path | None = None
    apply_rescale: bool = False
    scheme: str = "ctgen"
    phantoms: int = 24
    test_phantoms: int = 24
    arms: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    steps: int = 300
    batch: int = 2
    rate: float = 5e-3
    window: str = "wide"
    spacing_mm: tuple[float, float, float] = (5.6, 5.6, 5.0)
    draws: int = 2000
    cache: Path | None = None
    device: str = "auto"
    threads: int | None = None

    @property
    def chosen_arms(self) -> tuple[str, ...]:
        """Arms to run, those that others start from before them."""
        asked = self.arms or self.DEFAULT_ARMS
        return tuple(name for name in self.ARMS if name in asked)

    def check(self) -> None:
        """Refuse what cannot run.

        Raises:
            InputError: an unknown name or a number out of range.
        """
        for arm in self.arms:
            lookup(dict(self.ARMS), arm, "arm")
        Window.parse(self.window)
        at_least = {"steps": 1, "batch": 1, "draws": 100, "phantoms": 2, "test_phantoms": 2}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}; got {getattr(self, name)}.")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise InputError(f"seeds are different whole numbers from 0 on, at least one; got {self.seeds}.")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out is the share of patients to test on, between 0 and 1; got {self.held_out:g}.")
        if not 0 < self.rate <= 1:
            raise InputError(f"rate is a learning rate, above 0 and at most 1; got {self.rate:g}. Usual: 0.001.")
        if not all(0.3 <= mm <= 20 for mm in self.spacing_mm):
            raise InputError(f"spacing_mm must be three numbers of 0.3 to 20 mm; got {self.spacing_mm}.")
        if self.test and not self.data:
            raise InputError(
                "test names held-out cases of data by path; without data, phantoms are tested on phantoms."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassifyOptions(StudyOptions):
    """A classifier of the 18 findings, trained on real volumes, and on real and synthetic ones.

    Foundation VAE, section 4.5 and Table 4: a classifier (Draelos et al. 2021) is trained on 500 real volumes, and
    fine-tuned on them and 500 synthetic ones of the same prompts and masks; macro AUC of the 18 findings on 200 others.

    Attributes:
        network: ``small``, a 3D ResNet of four blocks (MONAI), or ``ctnet``, that of Draelos et al.
        backbone: file of an ImageNet ResNet-18 with torchvision's names, from which ``ctnet`` starts as Draelos et al.
            do; random weights by default.
        shape_zyx: voxels that the network sees, from the middle of each volume.
        labels: tables with the column ``VolumeName`` (or ``name``) and one for each finding, 0 or 1.
        synthetic: volumes drawn beforehand, as ``data``; by default ``generator`` draws them.
        conditions: whose masks and reports the generator follows: ``same``, the training cases' own, as in the paper;
            ``other``, those of as many further phantoms; ``auto``: ``other`` for phantoms, ``same`` for data by path.
        generator: name in ``ctgencore info``.
        sampling_steps, solver: of the generator.
    """

    ARMS: ClassVar[Mapping[str, Arm]] = {
        "real": Arm(("real",)),
        "real-longer": Arm(("real",), start="real"),
        "real+synthetic": Arm(("real", "synthetic"), start="real"),
        "synthetic": Arm(("synthetic",)),
    }
    DEFAULT_ARMS: ClassVar[tuple[str, ...]] = ("real", "real-longer", "real+synthetic")

    phantoms: int = 32
    test_phantoms: int = 40
    steps: int = 150
    batch: int = 4
    rate: float = 1e-3
    network: str = "small"
    backbone: Path | None = None
    shape_zyx: tuple[int, int, int] = (48, 64, 64)
    labels: tuple[Path, ...] = ()
    synthetic: tuple[Path, ...] = ()
    conditions: str = "auto"
    generator: str = "foundation-embedded"
    sampling_steps: int = 20
    solver: str = "ddim"

    def check(self) -> None:
        """Refuse what cannot run; see :meth:`StudyOptions.check`."""
        StudyOptions.check(self)
        lookup(GENERATORS, self.generator, "generator")
        lookup(dict.fromkeys(("small", "ctnet")), self.network, "classifier")
        lookup(dict.fromkeys(("auto", "same", "other")), self.conditions, "choice of conditions")
        if min(self.shape_zyx) < 16:
            raise InputError(f"shape_zyx must be at least 16 voxels along each axis; got {self.shape_zyx}.")
        if self.data and self.conditions == "other":
            raise InputError(
                "conditions 'other' draws further phantoms. With data by path, give the volumes that were drawn from "
                "other masks with synthetic, or choose 'same'."
            )
        if self.backbone is not None and self.network != "ctnet":
            raise InputError("backbone is what the network 'ctnet' starts from; choose that network, or leave it out.")
        z, y, x = self.shape_zyx
        if self.network == "ctnet" and (z % 3 or y != x or y < 192):
            raise InputError(
                "The network 'ctnet' takes triplets of square slices: shape_zyx must be a multiple of 3, and twice the "
                f"same number from 192 on; got {self.shape_zyx}. Published: (402, 420, 420)."
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class SegmentOptions(StudyOptions):
    """A U-Net trained on original volumes, on their reconstructions, and on both.

    Foundation VAE, section 2 and Table 1: nnU-Net is trained on MSD lung and pancreas tumors and on reconstructions of
    these volumes by frozen VAEs; labels stay as they are. Ours is MONAI's U-Net.

    Attributes:
        targets: what to segment: names of organs or organ groups, of disease classes, or ``lesion`` for any of these;
            later ones are painted over earlier ones. Empty: the labels of an MSD folder, else lung, heart, liver and
            pleural effusion.
        codec: what reconstructs; name in ``ctgencore info``.
        test_view: what is tested on; the paper does not say. ``original``: unchanged volumes for all arms;
            ``matched``: reconstructions for the arm that knows nothing else.
        tolerance_mm: of the normalized surface distance; the paper's is not known.
        patch_zyx: voxels of a training patch, a multiple of 8.
        channels: of the U-Net's levels.
    """

    ARMS: ClassVar[Mapping[str, Arm]] = {
        "original": Arm(("original",)),
        "reconstructed": Arm(("reconstructed",)),
        "both": Arm(("original", "reconstructed")),
    }
    DEFAULT_ARMS: ClassVar[tuple[str, ...]] = ("original", "reconstructed", "both")

    targets: tuple[str, ...] = ()
    codec: str = "embedded"
    test_view: str = "original"
    tolerance_mm: float = 2.0
    patch_zyx: tuple[int, int, int] = (32, 48, 48)
    channels: tuple[int, ...] = (16, 32, 64, 128)

    def check(self) -> None:
        """Refuse what cannot run; see :meth:`StudyOptions.check`."""
        StudyOptions.check(self)
        lookup(CODECS, self.codec, "codec")
        lookup(dict.fromkeys(("original", "matched")), self.test_view, "test view")
        if len(self.channels) < 2 or min(self.channels) < 1:
            raise InputError(f"channels are of two levels at least; got {self.channels}. Usual: 16 32 64 128.")
        least = 2 ** (len(self.channels) - 1)
        if any(n < least or n % least for n in self.patch_zyx):
            raise InputError(
                f"patch_zyx must be multiples of {least}, for {len(self.channels)} levels of channels; "
                f"got {self.patch_zyx}."
            )
        if self.tolerance_mm <= 0:
            raise InputError(f"tolerance_mm must be above 0; got {self.tolerance_mm:g}.")
