"""The command as a real process, for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable

Command = Callable[..., subprocess.CompletedProcess[str]]


def environment() -> dict[str, str]:
    """The environment for child processes: one thread, plain output, no network."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "200", "HF_HUB_OFFLINE": "1"}
