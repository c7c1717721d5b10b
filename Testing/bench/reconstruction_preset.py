"""The preset `reconstruction` of `ctgencore evaluate` for codecs on real CT: a table of BENCHMARKS.md.

    python Testing/bench/reconstruction_preset.py ../shared/data/ct [-o FOLDER] [--only CASE ...] [--codecs NAME ...]

Without labels: edges are those of body, lungs and bones in the reference. Every pair has its evaluation in FOLDER; one
that is there is read, not made again, so a run can be interrupted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import ctgencore as ctg

COLUMNS = {  # title: metric, region, digits
    "PSNR dB": ("psnr_255_w2000", "all", 2),
    "SSIM 3D": ("ssim3d_w2000", "all", 3),
    "SSIM slices": ("ssim_slices_w2000", "all", 3),
    "MSE 0..255": ("mse_255_w2000", "all", 2),
    "MAE HU": ("mae_hu", "all", 2),
    "bias HU": ("bias_hu", "all", 2),
    "noise power, all": ("nps_ratio", "all", 2),
    "edges body mm": ("edge_shift_mm", "body", 2),
    "edges lung mm": ("edge_shift_mm", "lung", 2),
    "edges bone mm": ("edge_shift_mm", "bone", 2),
}


def measure(ct: ctg.Volume, name: str, folder: Path) -> dict:
    """Rows of one pair: metric and region to value, and seconds of the evaluation."""
    path = folder / "row.json"
    if path.is_file():
        return json.loads(path.read_text())
    output = ctg.reconstruct(ct, name, ctg.ReconstructOptions(device="cpu"))
    started = time.perf_counter()
    found = ctg.evaluate(output, ct, metrics=["reconstruction"])
    row = {f"{line.metric} {line.region}": line.value for line in found.rows}
    row = {key: value if math.isfinite(value) else str(value) for key, value in row.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**row, "seconds": time.perf_counter() - started}, indent=1))
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one folder per case, each with a file or DICOM series of CT")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/reconstruction_preset"))
    parser.add_argument("--only", nargs="*", help="cases to run")
    parser.add_argument("--codecs", nargs="*", default=["identity", "dct16", "embedded"])
    arguments = parser.parse_args()
    print("| CT | codec | " + " | ".join(COLUMNS) + " | s |\n|" + "---|" * (len(COLUMNS) + 3))
    for folder in sorted(p for p in arguments.folder.iterdir() if p.is_dir()):
        if arguments.only and folder.name not in arguments.only:
            continue
        series = folder / "dicom"
        ct = ctg.read(series if series.is_dir() else folder / "ct.nii.gz")
        for name in arguments.codecs:
            row = measure(ct, name, arguments.output / folder.name / name)
            cells = []
            for metric, region, digits in COLUMNS.values():
                value = float(row.get(f"{metric} {region}", "nan"))
                cells.append("" if math.isnan(value) else f"{value:.{digits}f}")
            print(f"| {folder.name} | {name} | " + " | ".join(cells) + f" | {row['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    main()
