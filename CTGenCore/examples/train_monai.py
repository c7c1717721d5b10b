"""Train a small segmentation network with MONAI on CT that is reconstructed at random.

    python train_monai.py                                  # phantoms, a minute on a CPU
    python train_monai.py --data Dataset006_Lung --steps 5000 --codec wan2.1 --device cuda:0

``--data`` is any data set that CTGen recognizes: nnU-Net v2, MSD, BIDS, pairs, a manifest. The last patients are held
out; the network is trained with and without the transform, and both Dice scores are printed.
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import repeat
from pathlib import Path

import numpy as np
import torch
from ctgencore import phantom
from ctgencore.adapters.monai import RandReconstructd
from ctgencore.labels import LUNG_LOBES
from ctgencore.tasks.augment.addition import CaseOptions, add_case
from ctgencore.tasks.augment.sources import read_dataset
from ctgencore.volume import LabelMap
from monai.data import CacheDataset, DataLoader
from monai.inferers import sliding_window_inference
from monai.losses import DiceCELoss
from monai.metrics import DiceMetric
from monai.networks.nets import UNet
from monai.transforms import (
    Compose,
    EnsureChannelFirstd,
    LoadImaged,
    Orientationd,
    RandCropByPosNegLabeld,
    RandFlipd,
    ScaleIntensityRanged,
    SpatialPadd,
)
from monai.utils import set_determinism

KEYS = ["image", "label"]
Files = dict[str, str]


def main() -> None:
    """Train twice, tell both scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a data set; phantoms are drawn without one")
    parser.add_argument("--codec", nargs="+", default=["embedded"], help="one, or several to choose from")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--patch", type=int, default=48, help="voxels along each side")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or draw_phantoms(Path(folder) / "Dataset501_Phantoms")
        training, test, classes = split(data)
        print(f"{len(training)} cases to train on, {len(test)} to test on")
        for name, prob in (("original", 0.0), ("with reconstructions", 0.5)):
            print(f"{name}: Dice {train(training, test, classes, prob, options):.3f}")


def draw_phantoms(folder: Path, count: int = 4) -> Path:
    """A data set of nnU-Net's layout with the lungs of a few phantoms."""
    for seed in range(count):
        drawn = phantom.chest((40, 64, 64), seed=seed)
        lungs = LabelMap(np.isin(drawn.organs.voxels, LUNG_LOBES).astype(np.uint8), drawn.organs.geometry)
        ct, mask = drawn.ct.save(folder.parent / "ct.nii.gz"), lungs.save(folder.parent / "lungs.nii.gz")
        add_case(folder, ct, mask, CaseOptions(name=f"phantom{seed}", labels={"lung": 1}))
    return folder


def split(path: Path) -> tuple[list[Files], list[Files], int]:
    """Files of training and test cases, a quarter of the patients held out, and how many labels there are."""
    dataset = read_dataset(path)
    unusable = {problem.case for problem in dataset.problems if problem.fatal}
    if "" in unusable or len(dataset.channels) > 1:
        raise SystemExit(
            f"Not a data set of CT alone, or unusable: {[problem.message for problem in dataset.problems]}"
        )
    cases = [case for case in dataset.cases if case.label is not None and case.name not in unusable]
    patients = sorted({case.patient for case in cases})
    held_out = patients[-max(1, len(patients) // 4) :]
    files = [[], []]
    for case in cases:
        files[case.patient in held_out].append({"image": str(case.images[0]), "label": str(case.label)})
    return files[0], files[1], max(np.hstack(list(dataset.labels.values()))) + 1


def train(training: list[Files], test: list[Files], classes: int, prob: float, options: argparse.Namespace) -> float:
    """Train from scratch; returns the mean Dice of the test cases."""
    set_determinism(options.seed)
    read = [LoadImaged(KEYS), EnsureChannelFirstd(KEYS), Orientationd(KEYS, axcodes="RAS", labels=None)]
    scale = ScaleIntensityRanged("image", -1000, 1000, -1, 1, clip=True)
    size = (options.patch,) * 3
    learn = Compose(
        [
            *read,
            SpatialPadd(KEYS, size),
            RandCropByPosNegLabeld(KEYS, "label", size),  # what comes before it is cached
            RandReconstructd(
                "image", options.codec, prob, residual=(0.0, 0.5), noise=(0.0, 0.1), device=options.device
            ),
            scale,
            RandFlipd(KEYS, 0.5, 0),
        ]
    )
    loader = DataLoader(CacheDataset(training, learn, progress=False), batch_size=2, shuffle=True)
    network = UNet(3, 1, classes, (8, 16, 32), (2, 2), norm="instance").to(options.device)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    loss = DiceCELoss(to_onehot_y=True, softmax=True)
    for _, batch in zip(range(options.steps), (batch for _ in repeat(None) for batch in loader), strict=False):
        optimizer.zero_grad()
        loss(network(batch["image"].to(options.device)), batch["label"].to(options.device)).backward()
        optimizer.step()
    network.eval()
    dice = DiceMetric(include_background=False, num_classes=classes)
    with torch.inference_mode():
        for item in CacheDataset(test, Compose([*read, scale]), progress=False):
            scores = sliding_window_inference(item["image"][None].to(options.device), size, 2, network)
            dice(scores.argmax(1, keepdim=True).cpu(), item["label"][None])
    return float(dice.aggregate())


if __name__ == "__main__":
    main()
