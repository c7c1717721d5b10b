"""Reading and writing volumes: the only place that knows files and their axis order."""

from .files import FORMATS, list_volumes, output_name, read, read_labels, sidecar_path, write, write_all

__all__ = ["FORMATS", "list_volumes", "output_name", "read", "read_labels", "sidecar_path", "write", "write_all"]
