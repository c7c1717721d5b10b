"""Downstream studies: what reconstructed and synthetic volumes are worth to a network that is trained on them."""

from .options import ClassifyOptions, SegmentOptions
from .study import Study, study

__all__ = ["ClassifyOptions", "SegmentOptions", "Study", "study"]
