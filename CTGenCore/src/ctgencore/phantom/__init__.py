"""Procedural phantoms: CT-like volumes with labels and reports from a seed, free of patients and licences."""

from .chest import chest
from .scene import Fact, Patient, Phantom, Report, Scene, Tube

__all__ = ["Fact", "Patient", "Phantom", "Report", "Scene", "Tube", "chest"]
