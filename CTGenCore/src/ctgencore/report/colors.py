"""A color for every label: neighbors differ, and tissues keep to the hues that anatomy atlases gave them."""

from __future__ import annotations

import colorsys

from ..labels import DISEASES, MAP_OFFSET, ORGANS

_GOLDEN = 0.618034  # multiples of it spread evenly
_HUES = {  # group of organs: hue from, hue to (degrees), saturation, lightness
    "lung": (185, 250, 0.62, 0.62),
    "lung_vessel": (350, 375, 0.60, 0.55),
    "airway": (165, 185, 0.75, 0.60),
    "vessel": (345, 375, 0.78, 0.60),
    "heart": (335, 360, 0.72, 0.55),
    "spine": (38, 58, 0.62, 0.72),
    "rib": (28, 62, 0.55, 0.66),
    "bone_cartilage": (30, 55, 0.45, 0.78),
    "muscle": (8, 24, 0.55, 0.56),
    "kidney": (20, 40, 0.85, 0.58),
    "neuro": (55, 70, 0.85, 0.66),
    "organ": (75, 165, 0.55, 0.58),
    "tumor": (290, 320, 0.85, 0.66),
    "cyst": (290, 320, 0.60, 0.75),
    "body": (210, 211, 0.10, 0.60),
}
_DISEASE = (280, 330, 0.95, 0.68)
_OTHER = (0, 360, 0.65, 0.62)


def color_of(value: int) -> str:
    """The color of a label of CTGen's numbering as ``#rrggbb``; any other number gets one of its own."""
    ill = value in DISEASES or value - MAP_OFFSET in DISEASES
    start, end, saturation, lightness = _DISEASE if ill else _HUES[ORGANS[value].group] if value in ORGANS else _OTHER
    hue = (start + (end - start) * (value * _GOLDEN % 1)) % 360
    red, green, blue = (round(255 * part) for part in colorsys.hls_to_rgb(hue / 360, lightness, saturation))
    return f"#{red:02x}{green:02x}{blue:02x}"
