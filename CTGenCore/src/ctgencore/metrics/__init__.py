"""Image metrics, each named by its recipe."""
