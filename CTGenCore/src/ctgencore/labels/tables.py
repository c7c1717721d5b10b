"""The label tables of the Foundation-VAE system: organs, disease-mask classes and findings.

Sources: Foundation VAE, Appendix D (Table 6: findings, Table 7: organs) and the class lists released with it; the organ
ids are VISTA3D's 1..132 with 133 (vessel) and 200 (body) added. HU ranges are ours: see `docs/labels.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

BODY = 200
VESSEL = 133
AIRWAY = 132
TRACHEA = 57
LUNG_LOBES = (28, 29, 30, 31, 32)
MAP_OFFSET = 100  # a disease class painted into an organ map has this added


@dataclass(frozen=True, slots=True)
class Organ:
    """One organ id.

    Attributes:
        index: its value in a label map.
        name: as in the paper's Table 7.
        group: ``organ``, ``kidney``, ``vessel``, ``lung``, ``lung_vessel``, ``airway``, ``spine``, ``rib``,
            ``bone_cartilage``, ``muscle``, ``heart``, ``neuro``, ``tumor``, ``cyst`` or ``body``.
        hu: (lowest, typical, highest) plausible median HU. The range spans unenhanced, arterial and venous phases;
            the typical value is of a venous phase.
    """

    index: int
    name: str
    group: str
    hu: tuple[int, int, int]

    @property
    def side(self) -> str:
        """``left``, ``right`` or empty."""
        first = self.name.split()[0]
        return first if first in ("left", "right") and self.index != 108 else ""  # there is no right counterpart of 108


@dataclass(frozen=True, slots=True)
class Disease:
    """One disease-mask class (ReXGroundingCT's categories).

    Attributes:
        class_id: 150..162, the value in a disease map.
        name: as published.
        code: ReXGroundingCT's category.
        direction: +1 raises the mean HU of the lung it lies in, -1 lowers it, 0 may do either.
        typical_hu: mean HU inside its mask.
    """

    class_id: int
    name: str
    code: str
    direction: int
    typical_hu: int

    @property
    def map_value(self) -> int:
        """The value when painted over an organ map: 250..262."""
        return self.class_id + MAP_OFFSET


@dataclass(frozen=True, slots=True)
class Finding:
    """One of CT-RATE's 18 report labels.

    Attributes:
        name: as published.
        abbreviation: the paper's.
        disease: the mask class that shows it, None when there is none.
    """

    name: str
    abbreviation: str
    disease: int | None


_GROUP_HU = {
    "lung": (-980, -850, -550),
    "airway": (-1024, -950, -600),
    "lung_vessel": (-500, 0, 450),  # thin vessels share their voxels with lung
    "spine": (50, 250, 700),
    "rib": (50, 350, 1000),
    "bone_cartilage": (80, 300, 1100),
    "muscle": (-50, 55, 120),
    "heart": (15, 130, 500),
    "vessel": (10, 150, 700),
    "kidney": (5, 170, 350),
    "cyst": (-20, 10, 100),
    "tumor": (-30, 65, 200),
    "organ": (-20, 60, 220),
    "neuro": (-10, 35, 100),
    "body": (-150, -20, 90),  # what is left between the organs: fat, muscle, skin
}
_HU = {  # where an organ differs from its group
    1: (-10, 105, 200),
    3: (20, 115, 230),
    4: (-20, 90, 200),
    6: (15, 160, 700),
    7: (10, 125, 350),
    10: (-20, 10, 150),
    11: (-200, 35, 130),  # with swallowed air
    12: (-600, 20, 400),  # gas, food or oral contrast
    13: (-200, 40, 400),
    15: (-20, 8, 600),  # excreted contrast
    19: (-200, 40, 400),
    62: (-900, -30, 500),
    110: (10, 140, 2000),  # undiluted contrast on its way in
    111: (10, 140, 2000),
    114: (30, 110, 400),
    120: (200, 700, 1500),
    122: (20, 180, 600),
    123: (10, 160, 900),
    124: (10, 160, 900),
    125: (10, 140, 2000),
    126: (20, 130, 350),
}
_ROWS = (  # id, name, group
    (1, "liver", "organ"),
    (3, "spleen", "organ"),
    (4, "pancreas", "organ"),
    (5, "right kidney", "kidney"),
    (6, "aorta", "vessel"),
    (7, "inferior vena cava", "vessel"),
    (8, "right adrenal gland", "organ"),
    (9, "left adrenal gland", "organ"),
    (10, "gallbladder", "organ"),
    (11, "esophagus", "organ"),
    (12, "stomach", "organ"),
    (13, "duodenum", "organ"),
    (14, "left kidney", "kidney"),
    (15, "bladder", "organ"),
    (17, "portal vein and splenic vein", "vessel"),
    (19, "small bowel", "organ"),
    (22, "brain", "neuro"),
    (24, "pancreatic tumor", "tumor"),
    (25, "hepatic vessel", "vessel"),
    (26, "hepatic tumor", "tumor"),
    (27, "colon cancer primaries", "tumor"),
    (28, "left lung upper lobe", "lung"),
    (29, "left lung lower lobe", "lung"),
    (30, "right lung upper lobe", "lung"),
    (31, "right lung middle lobe", "lung"),
    (32, "right lung lower lobe", "lung"),
    (33, "vertebrae L5", "spine"),
    (34, "vertebrae L4", "spine"),
    (35, "vertebrae L3", "spine"),
    (36, "vertebrae L2", "spine"),
    (37, "vertebrae L1", "spine"),
    (38, "vertebrae T12", "spine"),
    (39, "vertebrae T11", "spine"),
    (40, "vertebrae T10", "spine"),
    (41, "vertebrae T9", "spine"),
    (42, "vertebrae T8", "spine"),
    (43, "vertebrae T7", "spine"),
    (44, "vertebrae T6", "spine"),
    (45, "vertebrae T5", "spine"),
    (46, "vertebrae T4", "spine"),
    (47, "vertebrae T3", "spine"),
    (48, "vertebrae T2", "spine"),
    (49, "vertebrae T1", "spine"),
    (50, "vertebrae C7", "spine"),
    (51, "vertebrae C6", "spine"),
    (52, "vertebrae C5", "spine"),
    (53, "vertebrae C4", "spine"),
    (54, "vertebrae C3", "spine"),
    (55, "vertebrae C2", "spine"),
    (56, "vertebrae C1", "spine"),
    (57, "trachea", "airway"),
    (58, "left iliac artery", "vessel"),
    (59, "right iliac artery", "vessel"),
    (60, "left iliac vena", "vessel"),
    (61, "right iliac vena", "vessel"),
    (62, "colon", "organ"),
    (63, "left rib 1", "rib"),
    (64, "left rib 2", "rib"),
    (65, "left rib 3", "rib"),
    (66, "left rib 4", "rib"),
    (67, "left rib 5", "rib"),
    (68, "left rib 6", "rib"),
    (69, "left rib 7", "rib"),
    (70, "left rib 8", "rib"),
    (71, "left rib 9", "rib"),
    (72, "left rib 10", "rib"),
    (73, "left rib 11", "rib"),
    (74, "left rib 12", "rib"),
    (75, "right rib 1", "rib"),
    (76, "right rib 2", "rib"),
    (77, "right rib 3", "rib"),
    (78, "right rib 4", "rib"),
    (79, "right rib 5", "rib"),
    (80, "right rib 6", "rib"),
    (81, "right rib 7", "rib"),
    (82, "right rib 8", "rib"),
    (83, "right rib 9", "rib"),
    (84, "right rib 10", "rib"),
    (85, "right rib 11", "rib"),
    (86, "right rib 12", "rib"),
    (87, "left humerus", "bone_cartilage"),
    (88, "right humerus", "bone_cartilage"),
    (89, "left scapula", "bone_cartilage"),
    (90, "right scapula", "bone_cartilage"),
    (91, "left clavicula", "bone_cartilage"),
    (92, "right clavicula", "bone_cartilage"),
    (93, "left femur", "bone_cartilage"),
    (94, "right femur", "bone_cartilage"),
    (95, "left hip", "bone_cartilage"),
    (96, "right hip", "bone_cartilage"),
    (97, "sacrum", "spine"),
    (98, "left gluteus maximus", "muscle"),
    (99, "right gluteus maximus", "muscle"),
    (100, "left gluteus medius", "muscle"),
    (101, "right gluteus medius", "muscle"),
    (102, "left gluteus minimus", "muscle"),
    (103, "right gluteus minimus", "muscle"),
    (104, "left autochthon", "muscle"),
    (105, "right autochthon", "muscle"),
    (106, "left iliopsoas", "muscle"),
    (107, "right iliopsoas", "muscle"),
    (108, "left atrial appendage", "heart"),
    (109, "brachiocephalic trunk", "vessel"),
    (110, "left brachiocephalic vein", "vessel"),
    (111, "right brachiocephalic vein", "vessel"),
    (112, "left common carotid artery", "vessel"),
    (113, "right common carotid artery", "vessel"),
    (114, "costal cartilages", "bone_cartilage"),
    (115, "heart", "heart"),
    (116, "left kidney cyst", "cyst"),
    (117, "right kidney cyst", "cyst"),
    (118, "prostate", "organ"),
    (119, "pulmonary vein", "vessel"),
    (120, "skull", "bone_cartilage"),
    (121, "spinal cord", "neuro"),
    (122, "sternum", "bone_cartilage"),
    (123, "left subclavian artery", "vessel"),
    (124, "right subclavian artery", "vessel"),
    (125, "superior vena cava", "vessel"),
    (126, "thyroid gland", "organ"),
    (127, "vertebrae S1", "spine"),
    (132, "airway", "airway"),
    (133, "vessel", "lung_vessel"),
    (200, "body", "body"),
)
ORGANS: dict[int, Organ] = {
    index: Organ(index, name, group, _HU.get(index, _GROUP_HU[group])) for index, name, group in _ROWS
}

DISEASES: dict[int, Disease] = {
    row[0]: Disease(*row)
    for row in (
        (150, "Atelectasis, consolidation", "2b", 1, 40),
        (151, "Bronchial wall thickening", "1a", 1, -400),
        (152, "Bronchiectasis", "1b", 1, -600),  # walls outweigh the wider lumen
        (153, "Emphysema", "1c", -1, -960),
        (154, "Groundglass opacity", "2c", 1, -550),
        (155, "Honeycombing", "2f", 1, -600),  # fibrous walls outweigh the cysts
        (156, "Linear", "2a", 1, -300),
        (157, "Micronodules", "1e", 1, -500),
        (158, "Other", "1f/2h", 0, -500),
        (159, "Pleural effusion or thickening", "2e", 1, 15),
        (160, "Pneumothorax", "2g", -1, -990),
        (161, "Pulmonary nodules/masses", "2d", 1, 30),
        (162, "Septal thickening", "1d", 1, -600),
    )
}

# In the order of CT-RATE's columns. Table 6 stars eight that have masks; bronchial wall thickening and linear opacities
# are the mask classes nearest to two more.
FINDINGS: tuple[Finding, ...] = (
    Finding("Medical material", "MedMat", None),
    Finding("Arterial wall calcification", "ArtCal", None),
    Finding("Cardiomegaly", "Cardio", None),
    Finding("Pericardial effusion", "PeriEf", None),
    Finding("Coronary artery wall calcification", "CorCal", None),
    Finding("Hiatal hernia", "Hernia", None),
    Finding("Lymphadenopathy", "Lymph", None),
    Finding("Emphysema", "Emph", 153),
    Finding("Atelectasis", "Atel", 150),
    Finding("Lung nodule", "Nodule", 161),
    Finding("Lung opacity", "Opacity", 154),
    Finding("Pulmonary fibrotic sequela", "FibSeq", 156),
    Finding("Pleural effusion", "PleEf", 159),
    Finding("Mosaic attenuation pattern", "Mosaic", None),
    Finding("Peribronchial thickening", "PeriTh", 151),
    Finding("Consolidation", "Cons", 150),
    Finding("Bronchiectasis", "Bronch", 152),
    Finding("Interlobular septal thickening", "SeptTh", 162),
)


def name_of(value: int) -> str:
    """The name of an organ id, a disease class or a painted disease (250..262); its number as text when unknown."""
    if value in ORGANS:
        return ORGANS[value].name
    disease = DISEASES.get(value if value in DISEASES else value - MAP_OFFSET)
    return disease.name if disease else str(value)


def opposite(index: int) -> int | None:
    """The same organ on the other side, None when it has no side."""
    organ = ORGANS[index]
    if not organ.side:
        return None
    other = "right" if organ.side == "left" else "left"
    return next((o.index for o in ORGANS.values() if o.name == organ.name.replace(organ.side, other, 1)), None)
