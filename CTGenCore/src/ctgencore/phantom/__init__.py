"""Procedural phantoms: CT-like volumes from a seed, free of patients and licences."""

from .chest import chest

__all__ = ["chest"]
