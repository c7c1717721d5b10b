"""Findings that follow the surface of the lung: fluid around it and thick septa below it."""

from __future__ import annotations

import numpy as np

from .findings_brush import AIRWAY, LOBES, VESSEL, Brush, lobes_of
from .findings_fields import cells, faded, smoothstep
from .scene import Fact


def effusion(brush: Brush, fact: Fact, look: str) -> bool:
    """Free fluid of a supine patient: a crescent along the back wall, thickest low down, thin horns in front."""
    lobes = lobes_of(fact.side)
    points = brush.points(lobes)
    bounds = brush.bounds(lobes)
    if bounds is None:
        return False
    low, high = np.quantile(points, 0.01, axis=0), np.quantile(points, 0.99, axis=0)
    size = high - low
    horn = high[1] - (0.35 + 0.4 * fact.severity) * size[1]  # how far to the front the fluid reaches
    summit = low[2] + (0.45 + 0.6 * fact.severity) * size[2]
    hu = 4 + 14 * np.random.default_rng((fact.seed, 2)).uniform()
    touched = False
    start = np.array([bounds[0][0], horn - 3, bounds[0][2]])
    for box in brush.slabs(start, np.array([bounds[1][0], bounds[1][1], min(bounds[1][2], summit)])):
        z = brush.mm(box)[2]
        wall, gap = brush.behind(lobes, box)
        rise = smoothstep(wall, horn, high[1] - 0.1 * size[1])
        taper = np.sqrt(((summit - z) / (summit - low[2])).clip(0, 1))
        thickness = fact.size_mm * rise * np.minimum(1.25 * taper, 1)
        wave = 0.9 * brush.noise(box, 26, fact.seed)
        cover = smoothstep(gap - thickness + wave, 1.0, -1.0) * (thickness > 1)
        inside = brush.territory(box, (*lobes, AIRWAY), rim=True)
        cover = cover * inside
        part = brush.scene.hu[box]
        part += cover * np.where(brush.among(box, (*lobes, AIRWAY, VESSEL)), hu - part, (hu - part).clip(0, None))
        marked = (cover > 0.5) & brush.among(box, (*lobes, AIRWAY, VESSEL))
        brush.mark(box, marked, fact.disease)
        touched = touched or bool(marked.any())
    return touched


def septal_thickening(brush: Brush, fact: Fact, look: str) -> bool:
    """A net of lines around the secondary lobules below the pleura, more at the bases."""
    lobes = lobes_of(fact.side, fact.lobe)
    bounds = brush.bounds(lobes)
    if bounds is None:
        return False
    bottom, top = bounds[0][2] + 6, bounds[1][2] - 6
    band = 10 + 14 * fact.severity
    thick = 0.8 + 0.5 * fact.severity
    edge = float(brush.spacing.mean())
    touched = False
    for box in brush.slabs(*bounds):
        height = (brush.mm(box)[2] - bottom) / (top - bottom)
        weight = 1.1 - 0.9 * height
        field = weight - brush.sample(brush.depth, box) / band + 0.35 * brush.noise(box, 22, fact.seed)
        inside = brush.territory(box, lobes)
        density, marked = faded(field, 0.0, 0.5)
        density *= inside
        index = np.nonzero(density > 0.02)
        if not len(index[0]):
            continue
        brush.fill(box, 0.05 * density, 20)
        x, y, z = (
            axis[part][i] + 1.8 * brush.noise(box, 9, fact.seed + number)[index]  # septa are not straight
            for number, (axis, part, i) in enumerate(zip(brush.axes, box[::-1], index[::-1], strict=True), 1)
        )
        first, second = cells(x, y, z, 14.0, fact.seed)
        line = ((thick + edge) / 2 - (second - first) / 2).clip(0, min(thick, edge)) / edge  # box-filtered line
        line *= smoothstep(brush.noise(box, 8, fact.seed + 4)[index], -1.1, 0.6)  # some septa stay thin
        part = brush.scene.hu[box]
        there = part[index]
        part[index] = there + 0.9 * line * density[index] * (20 - there).clip(0, None)
        brush.mark(box, marked & inside & brush.among(box, (*LOBES, VESSEL)), fact.disease)
        touched = True
    return touched
