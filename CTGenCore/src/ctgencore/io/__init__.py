"""Reading and writing volumes: the only place that knows files and their axis order."""

from .dicom_export import write_series
from .dicom_seg import read_seg, write_seg
from .files import FORMATS, list_volumes, output_name, read, read_labels, sidecar_path, write, write_all

__all__ = [
    "FORMATS",
    "list_volumes",
    "output_name",
    "read",
    "read_labels",
    "read_seg",
    "sidecar_path",
    "write",
    "write_all",
    "write_seg",
    "write_series",
]
