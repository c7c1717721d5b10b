"""``ctgencore env``: versions, devices, memory and folders, for bug reports and for Slicer."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import Any

from .. import __version__, hub
from ..jobs import PROTOCOL
from .common import AsJson, Verbose, print_event, reporting

PACKAGES = (
    *("numpy", "scipy", "SimpleITK", "safetensors", "huggingface-hub", "diffusers", "transformers", "tokenizers"),
    *("monai", "accelerate", "scikit-image"),
)


def collect() -> dict[str, Any]:
    """What ``env --json`` prints (imports torch)."""
    devices, torch_version = _devices()
    cache = hub.cache_folder()
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    return {
        "version": __version__,
        "protocol": PROTOCOL,
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "torch": torch_version,
        "devices": devices,
        "packages": {name: _version(name) for name in PACKAGES},
        "cache": str(cache),
        "cache_free_gib": _gib(shutil.disk_usage(existing).free),
    }


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    try:
        import torch
    except ImportError:
        return [], None
    from ..runtime import free_memory

    cpu = torch.device("cpu")
    devices = [
        {"id": "cpu", "name": platform.processor() or platform.machine(), "memory_free_gib": _gib(free_memory(cpu))}
    ]
    for index in range(torch.cuda.device_count()):
        device = torch.device("cuda", index)
        name = torch.cuda.get_device_name(device)
        devices.append({"id": str(device), "name": name, "memory_free_gib": _gib(free_memory(device))})
    if torch.backends.mps.is_available():
        devices.append({"id": "mps", "name": "Apple GPU", "memory_free_gib": _gib(free_memory(torch.device("mps")))})
    return devices, torch.__version__.split("+")[0]


def _gib(size: int) -> float:
    return round(size / 2**30, 2)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def env(as_json: AsJson = False, verbose: Verbose = False) -> None:
    """Show versions, devices, free memory and folders."""
    with reporting(as_json=as_json, verbose=verbose):
        facts = collect()
        if as_json:
            print_event(facts)
            return
        packages = ", ".join(f"{name} {version or '-'}" for name, version in facts.pop("packages").items())
        devices = facts.pop("devices")
        for key, value in facts.items():
            print(f"{key:15} {value}")
        print(f"{'packages':15} {packages}")
        for device in devices:
            print(f"{'device':15} {device['id']}: {device['name']}, {device['memory_free_gib']} GiB free")
