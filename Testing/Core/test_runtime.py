"""Devices, precision and memory as users write them."""

from __future__ import annotations

import pytest
import torch
from ctgencore.errors import InputError
from ctgencore.randomness import frame_noise
from ctgencore.runtime import free_memory, parse_memory, resolve_device, resolve_dtype


@pytest.mark.parametrize(
    ("text", "size"), [("8GiB", 8 * 2**30), ("500MB", 500 * 10**6), ("1.5 GiB", 3 * 2**29), ("4096", 4096)]
)
def test_memory_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "8 gigs", "-3GiB", "GiB"])
def test_memory_nonsense(text: str) -> None:
    with pytest.raises(InputError, match="such as 8GiB"):
        parse_memory(text)


def test_devices() -> None:
    cpu = resolve_device("cpu")
    assert cpu == torch.device("cpu")
    assert resolve_dtype("float32", cpu) is torch.float32
    assert free_memory(cpu) > 2**20
    with pytest.raises(InputError, match="Unknown device"):
        resolve_device("gpu")
    with pytest.raises(InputError, match="Allowed"):
        resolve_dtype("float8", cpu)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="not available here"):
            resolve_device("cuda:0")


def test_noise_is_a_function_of_seed_and_frame() -> None:
    a, b = frame_noise(1, 2, (3, 4)), frame_noise(1, 2, (3, 4))
    assert (a == b).all()
    assert (a != frame_noise(1, 3, (3, 4))).any()
    assert (a != frame_noise(2, 2, (3, 4))).any()
