"""RadImageNet's ResNet-50 without its head (Mei et al. 2022), as converted from Keras by Warvito/radimagenet-models.

It differs from torchvision's ResNet-50: every convolution has a bias, the stride sits on the first 1x1 convolution of a
stage, and batch norm's epsilon is Keras's. Tensor names are those of ``RadImageNet-ResNet50_notop.pth``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

EPSILON = 1.001e-5
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1 (with the stride), 3x3 and 1x1 convolution around a skip."""

    def __init__(self, inputs: int, width: int, stride: int, *, project: bool) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, stride)
        self.bn1 = nn.BatchNorm2d(width, EPSILON)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width, EPSILON)
        self.conv3 = nn.Conv2d(width, outputs, 1)
        self.bn3 = nn.BatchNorm2d(outputs, EPSILON)
        projection = (nn.Conv2d(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs, EPSILON))
        self.downsample = nn.Sequential(*projection) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        y = torch.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class RadImageNetResNet50(nn.Module):
    """Feature maps of pictures: ``(B, 3, H, W)`` to ``(B, 32 * width, H/32, W/32)``, H and W rounded up.

    Attributes:
        width: channels of the stem; 64 as published.
        blocks: of each stage.
    """

    def __init__(self, width: int = 64, blocks: tuple[int, ...] = (3, 4, 6, 3)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, stride=2, padding=3)
        self.bn1 = nn.BatchNorm2d(width, EPSILON)
        inputs = width
        for stage, count in enumerate(blocks):
            inner = width * 2**stage
            layers = []
            for i in range(count):
                stride = 2 if stage and i == 0 else 1
                layers.append(Bottleneck(inputs, inner, stride, project=i == 0))
                inputs = EXPANSION * inner
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.stages = len(blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = max_pool2d(torch.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        for stage in range(self.stages):
            x = self.get_submodule(f"layer{stage + 1}")(x)
        return x
