"""What the steps of the procedural chest hand to one another."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..geometry import Geometry
from ..volume import LabelMap, Volume


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """Who is scanned and how. Lengths in mm, angles in degrees.

    Attributes:
        seed: every other random choice starts from it.
        sex: ``female`` or ``male``.
        age: years.
        scale_xyz: size of the body relative to a standard one.
        fat_mm: thickness of the subcutaneous fat.
        rotation_deg: of the body on the table, about the head-foot axis.
        breath: 0 = end of expiration, 1 = deep inspiration (moves the domes of the diaphragm).
        phase: contrast: ``none``, ``arterial`` or ``venous``.
        kernel_mm: standard deviation of the reconstruction kernel's blur.
        noise_hu: standard deviation of the dose noise in soft tissue.
        heart_scale: 1 = normal; cardiomegaly draws it larger.
    """

    seed: int
    sex: str = "male"
    age: int = 60
    scale_xyz: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fat_mm: float = 14.0
    rotation_deg: float = 0.0
    breath: float = 0.8
    phase: str = "venous"
    kernel_mm: float = 0.6
    noise_hu: float = 12.0
    heart_scale: float = 1.0

    @classmethod
    def draw(cls, seed: int) -> Patient:
        """Choose a patient and a scan by seed."""
        rng = np.random.default_rng((seed, 0))
        sex = ("female", "male")[int(rng.integers(2))]
        size = rng.normal(0.965 if sex == "female" else 1.02, 0.03)
        width, depth, height = np.clip(size + rng.normal(0, (0.022, 0.04, 0.03)), 0.88, 1.1)
        sharp = rng.uniform()
        return cls(
            seed=seed,
            sex=sex,
            age=int(rng.integers(25, 86)),
            scale_xyz=(float(width), float(depth), float(height)),
            fat_mm=float(np.clip(rng.gamma(6, 2.3) + (2 if sex == "female" else 0), 5, 26)),
            rotation_deg=float(np.clip(rng.normal(0, 2.5), -7, 7)),
            breath=float(rng.uniform(0.5, 1.0)),
            phase=("none", "venous", "arterial")[int(rng.choice(3, p=(0.45, 0.35, 0.2)))],
            kernel_mm=float(0.75 - 0.4 * sharp),
            noise_hu=float(rng.uniform(8, 14) * (1 + sharp)),
        )


@dataclass(frozen=True, slots=True)
class Tube:
    """A piece of airway or vessel: a polyline in world LPS mm with a radius at each point.

    Attributes:
        kind: ``airway``, ``artery``, ``vein`` or ``coronary``.
        points_mm: (n, 3).
        radius_mm: (n,) outer radius.
        lobe: lung-lobe id (28..32) it runs in, 0 outside the lungs.
        generation: 0 = trachea or trunk.
    """

    kind: str
    points_mm: np.ndarray
    radius_mm: np.ndarray
    lobe: int = 0
    generation: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One finding as drawn and as reported.

    Attributes:
        finding: one of the 18 names of :data:`ctgencore.labels.FINDINGS`.
        disease: class id 150..162 of its mask, 0 when it has none.
        side: ``left``, ``right``, ``bilateral`` or empty.
        lobe: lung-lobe id (28..32), 0 when it is not of one lobe.
        size_mm: its extent as a report would give it; 0 when it has none.
        severity: 0 (faint) .. 1 (severe).
        direction: +1 raises HU inside its mask, -1 lowers it, 0 neither.
        seed: of the finding's own random choices.
    """

    finding: str
    disease: int = 0
    side: str = ""
    lobe: int = 0
    size_mm: float = 0.0
    severity: float = 0.5
    direction: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """A radiology report in two parts."""

    findings: str
    impression: str

    @property
    def text(self) -> str:
        """Findings and impression joined as CT-RATE joins them."""
        return f"{self.findings} {self.impression}"


@dataclass(kw_only=True)
class Scene:
    """A chest being drawn.

    Attributes:
        patient: who.
        geometry: axis-aligned grid (identity direction).
        hu: (Z, Y, X) float32, without noise and blur.
        organs: (Z, Y, X) uint8 organ ids.
        diseases: (Z, Y, X) uint8 class ids 150..162.
        tubes: airways, pulmonary vessels and coronary arteries.
        landmarks: name to LPS mm: ``carina``, ``heart_center``, ``aortic_arch``, ``hiatus``, ``left_dome``,
            ``right_dome``, ``left_hilum``, ``right_hilum``, ``left_apex``, ``right_apex``, ``sternum``.
    """

    patient: Patient
    geometry: Geometry
    hu: np.ndarray
    organs: np.ndarray
    diseases: np.ndarray
    tubes: list[Tube] = field(default_factory=list)
    landmarks: dict[str, np.ndarray] = field(default_factory=dict)

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """World coordinates of the voxels, broadcastable to (Z, Y, X): ``x (1,1,X)``, ``y (1,Y,1)``, ``z (Z,1,1)``."""
        x, y, z = (
            (np.arange(n) * s + o).astype(np.float32)
            for n, s, o in zip(self.geometry.size_xyz, self.geometry.spacing_mm, self.geometry.origin_mm, strict=True)
        )
        return x[None, None, :], y[None, :, None], z[:, None, None]


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """A drawn chest with everything that is known about it.

    Attributes:
        ct: HU.
        organs: organ ids (healthy anatomy; disease overlays it).
        diseases: class ids 150..162, 0 elsewhere.
        facts: what was drawn.
        report: findings and impression.
        patient: who.
    """

    ct: Volume
    organs: LabelMap
    diseases: LabelMap
    facts: tuple[Fact, ...]
    report: Report
    patient: Patient

    @property
    def finding_names(self) -> frozenset[str]:
        """Names of the findings present; order them with :data:`ctgencore.labels.FINDINGS` for the 18-label vector."""
        return frozenset(fact.finding for fact in self.facts)
