"""Where and how to compute: device, precision, threads, memory."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    import torch

DTYPES = ("float32", "float16", "bfloat16")
LOOK_EVERY_S = 0.01  # at the resident memory
UNITS = {"": 1, "B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def parse_memory(text: str) -> int:
    """``"8GiB"`` -> bytes.

    Raises:
        InputError: not a number with a unit of :data:`UNITS`.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([A-Za-z]*)\s*", text)
    if not match or match[2] not in UNITS:
        raise InputError(f"A memory size is a number and a unit, such as 8GiB or 500MB; got '{text}'.")
    return int(float(match[1]) * UNITS[match[2]])


def resolve_device(name: str) -> torch.device:
    """``auto`` (the first GPU, else the CPU), ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Raises:
        InputError: unknown or absent device. A missing GPU is never replaced by the CPU in silence.
    """
    import torch

    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"Unknown device '{name}'. Use auto, cpu, cuda, cuda:N or mps.") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not present.get(device.type, False):
        raise InputError(f"Device '{name}' is not available here. Use --device cpu, or check `ctgencore env`.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"There is no '{name}': this machine has {torch.cuda.device_count()} CUDA device(s).")
    return device


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The torch type called ``name``.

    Raises:
        InputError: unknown name, or half precision on a CPU (measured 2 to 100 times slower than float32 there).
    """
    import torch

    if name not in DTYPES:
        raise InputError(f"Unknown dtype '{name}'. Allowed: {', '.join(DTYPES)}.")
    if name != "float32" and device.type == "cpu":
        raise InputError(f"{name} on a CPU is up to 100 times slower than float32. Use --dtype float32, or a GPU.")
    return getattr(torch, name)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on the device (for a CPU: available RAM)."""
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux: psutil knows, and accelerate depends on it
        import psutil

        return psutil.virtual_memory().available


class PeakMemory:
    """Memory that work inside takes: ``with PeakMemory(device) as peak: ...``, then ``peak.bytes``.

    On a GPU the most that was allocated, the weights included; on a CPU by how much the process's resident memory grew
    at most, looked at a hundred times a second.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        import psutil

        gc.collect()
        if sys.platform == "linux":  # give back what was freed, or the allocator takes it again unseen
            trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc alone has it
            if trim is not None:
                trim(0)
        process, self._over = psutil.Process(), Event()
        before = process.memory_info().rss

        def look() -> None:
            while True:
                over = self._over.wait(LOOK_EVERY_S)
                self.bytes = max(self.bytes, process.memory_info().rss - before)
                if over:
                    return

        self._looking = Thread(target=look, daemon=True)
        self._looking.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self.device.type == "cuda":
            import torch

            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._over.set()
        self._looking.join()
