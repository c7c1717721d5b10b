"""The words of generated reports: every finding in several wordings, and what is said when a region is normal."""

from __future__ import annotations

from dataclasses import dataclass

LOBE_WORDS = {
    28: ("left upper lobe", "upper lobe of the left lung", "left lung upper lobe"),
    29: ("left lower lobe", "lower lobe of the left lung", "left lung lower lobe"),
    30: ("right upper lobe", "upper lobe of the right lung", "right lung upper lobe"),
    31: ("right middle lobe", "middle lobe of the right lung", "right lung middle lobe"),
    32: ("right lower lobe", "lower lobe of the right lung", "right lung lower lobe"),
}
SIDE_WORDS = {
    "left": ("left lung",),
    "right": ("right lung",),
    "bilateral": ("both lungs", "both lung fields"),
}
DEGREES = (("minimal", "slight", "mild"), ("moderate",), ("marked", "pronounced", "severe"))


@dataclass(frozen=True, slots=True)
class Wording:
    """How a finding is said.

    Placeholders: ``{in_}`` (in the left upper lobe), ``{side}`` (left), ``{size}`` (12 mm), ``{how}`` (mild),
    ``{look}`` (what :func:`ctgencore.phantom.findings.variant` says). With a capital they begin a sentence.

    Attributes:
        section: ``heart``, ``vessels``, ``nodes``, ``hernia``, ``lung``, ``pleura`` or ``material``.
        sentences: for the findings.
        short: for the impression, without a full stop.
        plain: for a template, with ``{in_}`` and ``{side}`` at most; the first sentence where that is plain enough.
    """

    section: str
    sentences: tuple[str, ...]
    short: tuple[str, ...]
    plain: str = ""


WORDINGS: dict[str, Wording] = {
    "Medical material": Wording("material", ("Medical material is present in the chest.",), ("Medical material",)),
    "Arterial wall calcification": Wording(
        "vessels",
        (
            "There are calcifications in the wall of the thoracic aorta.",
            "{How} calcified plaques line the wall of the aorta and its arch.",
            "{How} atherosclerotic wall calcifications of the thoracic aorta are noted.",
            "The aortic wall shows {how} calcified atheroma.",
        ),
        ("Aortic wall calcifications", "Calcified plaques of the thoracic aorta", "Atherosclerosis of the aorta"),
    ),
    "Coronary artery wall calcification": Wording(
        "vessels",
        (
            "There are calcifications in the walls of the coronary arteries.",
            "{How} calcified plaques are seen along the coronary arteries.",
            "The coronary arteries show {how} wall calcification.",
            "{How} coronary artery calcification is present.",
        ),
        ("Coronary artery calcifications", "Calcified coronary plaques"),
    ),
    "Cardiomegaly": Wording(
        "heart",
        (
            "The heart is enlarged.",
            "There is {how} cardiomegaly.",
            "Heart size is {how} increased.",
            "The cardiothoracic ratio is increased, in keeping with {how} cardiomegaly.",
        ),
        ("Cardiomegaly", "Enlarged heart"),
    ),
    "Pericardial effusion": Wording(
        "heart",
        (
            "There is a pericardial effusion measuring {size}.",
            "A pericardial effusion up to {size} thick surrounds the heart.",
            "Fluid is present in the pericardial space, {size} at the thickest point.",
            "{How} pericardial effusion is seen, reaching a thickness of {size}.",
        ),
        ("Pericardial effusion ({size})", "Pericardial effusion"),
        plain="There is a pericardial effusion.",
    ),
    "Hiatal hernia": Wording(
        "hernia",
        (
            "There is a hiatal hernia.",
            "A sliding hiatal hernia of about {size} is seen behind the heart.",
            "Part of the stomach lies above the diaphragm, consistent with a hiatal hernia ({size}).",
            "A hiatal hernia measuring {size} is noted.",
        ),
        ("Hiatal hernia", "Sliding hiatal hernia"),
    ),
    "Lymphadenopathy": Wording(
        "nodes",
        (
            "There is an enlarged {look} lymph node with a short axis of {size}.",
            "An enlarged {look} lymph node measures {size} in its short axis.",
            "Pathologically enlarged lymph node at the {look} station, short axis {size}.",
            "{Look} lymphadenopathy is seen, {size} in short axis.",
        ),
        ("{Look} lymphadenopathy", "Enlarged {look} lymph node ({size})"),
        plain="There are enlarged mediastinal lymph nodes.",
    ),
    "Emphysema": Wording(
        "lung",
        (
            "There are emphysematous areas {in_}.",
            "{How} {look} emphysema is seen {in_}.",
            "{How} emphysematous destruction, more prominent towards the apex, is present {in_}.",
            "Low-attenuation areas consistent with {how} {look} emphysema are noted {in_}.",
        ),
        ("{How} emphysema {in_}", "Emphysematous areas {in_}"),
    ),
    "Atelectasis": Wording(
        "lung",
        (
            "There is {look} atelectasis {in_}.",
            "A band of {look} atelectasis about {size} long is seen {in_}.",
            "{Look} atelectasis with an extent of {size} is present {in_}.",
            "Atelectatic changes, {look} in appearance and {size} in extent, are noted {in_}.",
        ),
        ("{Look} atelectasis {in_}", "Atelectasis {in_}"),
        plain="There is atelectasis {in_}.",
    ),
    "Lung nodule": Wording(
        "lung",
        (
            "There is a nodule measuring {size} {in_}.",
            "A {look} nodule with a diameter of {size} is seen {in_}.",
            "A {look} pulmonary nodule, {size} in diameter, is present {in_}.",
            "{In_} a {look} nodule of {size} is noted.",
        ),
        ("Nodule of {size} {in_}", "{Look} pulmonary nodule {in_} ({size})"),
        plain="There is a nodule {in_}.",
    ),
    "Lung opacity": Wording(
        "lung",
        (
            "There are ground-glass opacities {in_}.",
            "{How} patchy ground-glass opacities are seen {in_}.",
            "Areas of {how} ground-glass density are present {in_}.",
            "{In_} there are ground-glass areas through which the vessels remain visible.",
            "{How} hazy opacity of ground-glass type is noted {in_}.",
        ),
        ("Ground-glass opacities {in_}", "Patchy ground-glass areas {in_}"),
    ),
    "Pulmonary fibrotic sequela": Wording(
        "lung",
        (
            "There are fibrotic sequela changes {in_}.",
            "Linear fibrotic bands with {how} distortion are seen {in_}.",
            "Pleuroparenchymal sequelae are noted {in_}.",
            "{How} fibrotic streaks of sequela type are present {in_}.",
        ),
        ("Fibrotic sequela changes {in_}", "Pleuroparenchymal sequelae {in_}"),
    ),
    "Pleural effusion": Wording(
        "pleura",
        (
            "There is a {side} pleural effusion measuring {size}.",
            "A {side} pleural effusion up to {size} thick is seen.",
            "{Side} pleural effusion with a thickness of {size} is present.",
            "Free pleural fluid on the {side}, {size} at its thickest point.",
        ),
        ("{Side} pleural effusion", "{Side} pleural effusion ({size})"),
        plain="There is a {side} pleural effusion.",
    ),
    "Mosaic attenuation pattern": Wording(
        "lung",
        (
            "There is a mosaic attenuation pattern in both lungs.",
            "Both lungs show a {how} mosaic attenuation pattern.",
            "A {how} mosaic pattern of attenuation is seen in both lungs, possibly from small airway disease.",
        ),
        ("Mosaic attenuation in both lungs", "Mosaic attenuation pattern"),
    ),
    "Peribronchial thickening": Wording(
        "lung",
        (
            "There is peribronchial thickening {in_}.",
            "{How} bronchial wall thickening is seen {in_}.",
            "The bronchial walls are {how} thickened {in_}.",
            "{How} peribronchial cuffing is present {in_}.",
        ),
        ("Peribronchial thickening {in_}", "Bronchial wall thickening {in_}"),
    ),
    "Consolidation": Wording(
        "lung",
        (
            "There is a consolidation {in_}.",
            "A consolidation of about {size} with air bronchograms is seen {in_}.",
            "Consolidated lung measuring {size} is present {in_}.",
            "{In_} there is a consolidation with an extent of {size}.",
        ),
        ("Consolidation {in_}", "Consolidation {in_}, pneumonia should be considered"),
    ),
    "Bronchiectasis": Wording(
        "lung",
        (
            "There is bronchiectasis {in_}.",
            "{Look} bronchiectasis is seen {in_}.",
            "The bronchi are widened {in_}, consistent with {how} {look} bronchiectasis.",
            "{How} bronchiectatic changes are noted {in_}.",
        ),
        ("Bronchiectasis {in_}", "{Look} bronchiectasis {in_}"),
    ),
    "Interlobular septal thickening": Wording(
        "lung",
        (
            "There is interlobular septal thickening {in_}.",
            "{How} thickening of the interlobular septa is seen {in_}.",
            "The interlobular septa are {how} thickened {in_}, more at the bases.",
            "{How} smooth interlobular septal thickening is present {in_}.",
        ),
        ("Interlobular septal thickening {in_}", "Septal thickening {in_}"),
    ),
}
DEVICES = {
    "pacemaker": (
        "A cardiac pacemaker lies below the left clavicle with its lead in the right ventricle.",
        "Pacemaker",
    ),
    "port": (
        "A venous port lies in the right chest wall; its catheter ends in the superior vena cava.",
        "Port catheter",
    ),
    "wires": ("Sternotomy wires are present.", "Sternal wires after sternotomy"),
    "electrodes": ("ECG electrodes lie on the skin of the chest.", "ECG electrodes"),
}
MICRONODULES = (
    ("Numerous micronodules of about {size} are scattered {in_}.", "Multiple millimetric nodules are seen {in_}."),
    ("Micronodules {in_}", "Multiple millimetric nodules {in_}"),
)
HONEYCOMBING = (
    ("Subpleural honeycombing with fibrotic changes is seen at the bases of both lungs.",
     "There are {how} fibrotic sequela changes with honeycomb cysts {in_}, below the pleura of the bases."),
    ("Fibrosis with honeycombing in both lungs", "Fibrotic sequela with honeycombing {in_}"),
)  # fmt: skip
NORMAL = {
    "airway": (
        "The trachea and the main bronchi are patent.",
        "Trachea and central bronchi have open lumens.",
        "No obstruction of the trachea or the main bronchi is seen.",
        "The central airways are free.",
    ),
    "heart": (
        "The heart is of normal size and shape.",
        "Heart size is within normal limits.",
        "No pericardial effusion.",
        "The pericardium is thin and there is no pericardial effusion. The heart is not enlarged.",
    ),
    "vessels": (
        "The great vessels of the mediastinum have a normal caliber.",
        "The aorta is of normal width.",
        "The thoracic aorta and the pulmonary arteries are not dilated.",
    ),
    "nodes": (
        "No enlarged mediastinal or hilar lymph nodes.",
        "Lymph nodes of pathological size are not observed.",
        "There is no mediastinal lymphadenopathy.",
        "No node of the mediastinum or the hila is enlarged.",
    ),
    "hernia": ("The esophagus appears normal.", "The wall of the esophagus is not thickened.", ""),
    "lung": (
        "Both lungs are well aerated.",
        "There is no consolidation, nodule or ground-glass opacity in either lung.",
        "The lung parenchyma is clear on both sides.",
        "No nodule or infiltrate is seen in the lungs.",
    ),
    "pleura": (
        "No pleural effusion is seen.",
        "There is no pleural effusion or thickening.",
        "The pleural spaces are free.",
        "Pleural effusion is not observed on either side.",
    ),
    "abdomen": (
        "The visible part of the upper abdomen is unremarkable.",
        "Upper abdominal organs in the field of view look normal.",
        "No free fluid in the visible upper abdomen.",
    ),
    "bones": (
        "The bones show no destructive lesion.",
        "Vertebral bodies keep their height.",
        "No fracture or lytic lesion in the visible skeleton.",
        "Bony structures are age-appropriate.",
    ),
    "contrast": (
        "The mediastinum can be judged only partly, since no contrast medium was given.",
        "This is an unenhanced scan, which limits the assessment of the mediastinum.",
    ),
}
HEALTHY = (
    "Normal chest CT.",
    "No pathological finding in the chest.",
    "Chest CT within the limits of normal.",
    "Unremarkable examination.",
)
ABSENT = {  # may be denied explicitly where the section reports something else
    "Lung nodule": ("No pulmonary nodule is seen.", "There is no nodule."),
    "Consolidation": ("No consolidation is observed.", "There is no consolidation."),
    "Lung opacity": ("No ground-glass opacity is seen.",),
    "Emphysema": ("No emphysema.",),
    "Bronchiectasis": ("Bronchiectasis is not observed.",),
    "Pericardial effusion": ("No pericardial effusion is seen.", "There is no pericardial effusion."),
    "Cardiomegaly": ("No cardiomegaly.",),
    "Lymphadenopathy": ("No lymphadenopathy is observed.",),
}
