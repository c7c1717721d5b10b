"""A program that is a codec, for tests: `python external_program.py [FAULT]`. numpy only, so that it starts at once.

Its network pools over the whole slab, as norms do: what a slice becomes depends on the slab it lies in.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np

MOST = 96 * 96  # voxels of a slice that fit, of the fault `memory`


def network(x: np.ndarray) -> np.ndarray:
    deviation = x.std() + 0.1
    return np.tanh(0.5 * (x - x.mean()) / deviation).astype(np.float32)


def tell(**event: Any) -> None:
    print(json.dumps(event), flush=True)


def broken(fault: str, number: str, y: np.ndarray) -> np.ndarray:
    """What is wrong with the second and all later slabs."""
    if fault == "crash":
        print("loading the checkpoint", file=sys.stderr)
        print("Segmentation fault, as it were", file=sys.stderr, flush=True)
        os._exit(7)
    if fault == "silent":
        time.sleep(600)
    if fault == "garbage":
        print("Loading model from sota-4-16z.ckpt ...", flush=True)
    if fault == "number":
        tell(event="result", id="S999")
    if fault == "refuse":
        raise ValueError("no such checkpoint")
    if fault == "alive":
        for _ in range(4):
            time.sleep(0.3)
            tell(event="log", id=number, message="still at it")
    return {"shape": y[:, :, :-1], "nan": np.where(y > 0.5, np.nan, y), "integers": y.astype(int)}.get(fault, y)


def serve(fault: str) -> None:
    if fault == "mute":
        time.sleep(600)
    tell(event="hello", protocol=2 if fault == "protocol" else 1)
    for count, line in enumerate(sys.stdin):
        request = json.loads(line)
        number = request["id"]
        try:
            x = np.load(request["input"])
            if fault == "memory" and x[0, 0, 0].size > MOST:
                tell(event="error", id=number, code="memory", message="CUDA out of memory")
                continue
            y = network(x)
            y = broken(fault, number, y) if count else y
            if fault == "nothing" and count:
                tell(event="result", id=number)
                continue
            np.save(request["output"], y)
            if fault == "text" and count:
                with open(request["output"], "w") as stream:
                    stream.write("not an array")
            tell(event="result", id=number)
        except ValueError as error:
            tell(event="error", id=number, code="internal", message=str(error))


if __name__ == "__main__":
    serve(sys.argv[1] if len(sys.argv) > 1 else "")
