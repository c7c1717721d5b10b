"""CT-Net (Draelos et al. 2020, MIT): a ResNet-18 on triplets of axial slices, then 3D convolutions over its maps.

The version of the VLM3D challenge: 18 classes, 96 features. Tensor names are those of its checkpoint, whose entry
``params`` holds them behind ``module.``.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

FEATURES = 96


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a skip."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        projection = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.downsample = nn.Sequential(*projection) if stride != 1 else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class CTNet(nn.Module):
    """Features of volumes: ``(B, triplets, 3, edge, edge)`` to ``(B, 96)``, those behind the last hidden ReLU.

    Attributes:
        triplets: groups of three axial slices; 134 as published.
        edge: pixels of a slice's side; 420 as published.
        classes: of the published classifier, whose last layer is loaded and not used here.
    """

    def __init__(self, triplets: int = 134, edge: int = 420, classes: int = 18) -> None:
        super().__init__()
        self.triplets, self.edge = triplets, edge
        widths = (64, 64, 128, 256, 512)
        stages = [nn.Sequential(BasicBlock(a, b, 1 if a == b else 2), BasicBlock(b, b, 1)) for a, b in pairwise(widths)]
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            *stages,
        )
        self.reducingconvs = nn.Sequential(  # the triplets are channels here; the depth axis is the 512 feature maps
            nn.Conv3d(triplets, 64, 3, stride=(3, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(64, 32, 3, stride=(3, 1, 1)),
            nn.ReLU(),
            nn.Conv3d(32, 16, (3, 2, 2), stride=(3, 2, 2)),
            nn.ReLU(),
        )
        side = (-(-edge // 32) - 4) // 2
        self.classifier = nn.Sequential(
            nn.Linear(16 * 18 * side**2, 128),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(128, FEATURES),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(FEATURES, classes),
        )

    def forward(self, x: Tensor, batch: int | None = None) -> Tensor:
        """Features; the ResNet sees ``batch`` pictures at once (None: all)."""
        maps = torch.cat([self.features(part) for part in x.flatten(0, 1).split(batch or x.shape[0] * x.shape[1])])
        reduced = self.reducingconvs(maps.unflatten(0, x.shape[:2])).flatten(1)
        return self.classifier[:5](reduced)

    @staticmethod
    def remap_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take off the prefix of ``DataParallel``."""
        return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
