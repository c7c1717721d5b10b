"""One options dataclass and one function per task."""
