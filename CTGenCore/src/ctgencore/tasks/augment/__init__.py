"""Data sets for segmentation with reconstructed views beside, or instead of, their originals; labels untouched."""
