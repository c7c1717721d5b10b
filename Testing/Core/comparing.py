"""What the tests of comparisons ask for and look at."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ctgencore.jobs import Job, run_comparison
from ctgencore.tasks.compare import CompareOptions
from processes import Event

COLUMNS = (  # other programs read them in this order
    *("codec", "psnr", "mae_hu", "edge_shift_mm", "seconds", "peak_bytes", "seam_hu"),
    *("license", "weights", "volume", "difference", "error"),
)
TABLES = ["comparison.csv", "comparison.json"]


def options(*codecs: str, **more: Any) -> CompareOptions:
    return CompareOptions(codecs=codecs, device="cpu", threads=1, **more)


def job(source: Path, folder: Path, *codecs: str, **more: Any) -> Job:
    chosen = {"codecs": list(codecs), "device": "cpu", "threads": 1, **more}
    return Job(id="C", task="compare", input=source, output=folder / "comparison.json", options=chosen)


def run(asked: Job, **more: Any) -> tuple[int, list[Event]]:
    events: list[Event] = []
    return run_comparison(asked, events.append, **more), events


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(codec: str, stem: str = "ct") -> list[str]:
    return [f"{stem}_{codec}{end}.{kind}" for end in ("", "_difference") for kind in ("json", "nii.gz")]


def stages(events: list[Event]) -> list[str]:
    return [event["stage"] for event in events if event["event"] == "stage"]


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "comparison.json").read_text())["rows"]
    return rows
