"""Quality of every offline codec on real CT: the table of BENCHMARKS.md.

    python Testing/bench/reconstruct_ct.py ../shared/data/ct [-o rows.jsonl] [--only CASE ...] [--codecs NAME ...]

One JSON line per volume and codec, then the Markdown table. Rows already in the file are kept, so a run can be
interrupted. ``taef2+calibrate`` fits the plain pass's output, as ``--calibrate`` does.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import ctgencore as ctg
import numpy as np
from ctgencore.codecs.base import Codec
from ctgencore.intensity import Window
from ctgencore.metrics.voxel import reconstruction_metrics
from ctgencore.tasks.reconstruct import ReconstructOptions, apply_affine, fit_affine, reconstruct
from ctgencore.volume import Volume

VARIANTS = {
    "identity": ("identity", {}),
    "dct16": ("dct16", {}),
    "embedded": ("embedded", {}),
    "taef2": ("taef2", {}),
    "taef2+triplanar": ("taef2", {"triplanar": True}),
}
COLUMNS = ("psnr", "mse_255", "ssim", "mae_hu", "bias_hu", "dice_lung", "dice_bone", "seconds")


def calibrated(output: Volume, reference: Volume) -> Volume:
    """What ``--calibrate`` does to a finished pass."""
    window = Window.parse("wide")
    gain, offset = fit_affine(output.voxels, reference.voxels, window)
    hu = output.voxels.copy()
    apply_affine(hu, gain, offset, window)
    return output.with_voxels(np.rint(hu))


def measure(case: str, volume: Volume, name: str, codec: Codec, options: ReconstructOptions) -> list[dict]:
    started = time.perf_counter()
    output = reconstruct(volume, codec, options)
    row = {"case": case, "codec": name, "seconds": time.perf_counter() - started}
    rows = [{**row, **reconstruction_metrics(output, volume)}]
    if name.startswith("taef2"):
        rows.append({**row, "codec": f"{name}+calibrate", **reconstruction_metrics(calibrated(output, volume), volume)})
    return rows


def table(rows: list[dict]) -> str:
    lines = [
        "| CT | codec | PSNR dB | MSE 0..255 | SSIM | MAE HU | bias HU | Dice lung | Dice bone | s |",
        "|" + "---|" * 10,
    ]
    for row in sorted(rows, key=lambda r: (r["case"], r["order"])):
        values = [f"{row[c]:.{3 if 'dice' in c or c == 'ssim' else 1 if c == 'seconds' else 2}f}" for c in COLUMNS]
        lines.append(f"| {row['case']} | {row['codec']} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one folder per case, each with a file or DICOM series of CT")
    parser.add_argument("-o", "--output", type=Path, default=Path("reconstruct_ct.jsonl"))
    parser.add_argument("--only", nargs="*", help="cases to run")
    parser.add_argument("--codecs", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.output.read_text().splitlines()] if arguments.output.exists() else []
    done = {(row["case"], row["codec"]) for row in rows}
    for folder in sorted(p for p in arguments.folder.iterdir() if p.is_dir()):
        wanted = [v for v in arguments.codecs if (folder.name, v) not in done]
        if not wanted or (arguments.only and folder.name not in arguments.only):
            continue
        series = folder / "dicom"
        volume = ctg.read(series if series.is_dir() else folder / "ct.nii.gz")
        for name in wanted:
            codec, extra = VARIANTS[name]
            options = replace(ReconstructOptions(codec=codec, device="cpu"), **extra)
            for row in measure(folder.name, volume, name, Codec.from_pretrained(codec, device="cpu"), options):
                row["order"] = list(VARIANTS).index(name) + (0.5 if "calibrate" in row["codec"] else 0)
                rows.append(row)
                with arguments.output.open("a") as lines:
                    lines.write(json.dumps(row) + "\n")
                print(json.dumps(row), flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
