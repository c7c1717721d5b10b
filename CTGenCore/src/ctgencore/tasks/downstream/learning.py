"""Networks, their batches, and the loop that trains them: the same numbers again from the same seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...checkpoint import read_tensors
from ...codecs.base import Cancel
from ...diffusion.conditions import AIR_HU
from ...errors import Cancelled, InputError
from ...intensity import Window
from ...networks.ctnet import CTNet
from ...training.records import NotFinite
from .options import ClassifyOptions, SegmentOptions
from .views import Prepared

SHIFT, SCALE, OFFSET = 3, 0.1, 0.1  # augmentation: voxels, share of the contrast, of the half window
FOREGROUND = 0.5  # of the patches are centered on a voxel of a target, all targets in equal measure
REMEMBERED = 2000  # voxels of each target of a case that patches can be centered on

Batch: TypeAlias = tuple[Tensor, Tensor]


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's own random numbers from ``seed`` and deterministic convolutions inside; outside all is as before."""
    gpus = [device] if device.type == "cuda" else []
    flags = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    with torch.random.fork_rng(devices=gpus):
        torch.manual_seed(seed)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        finally:
            torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = flags


# --- classification --------------------------------------------------------------------------------------------------


class CTNetClassifier(nn.Module):
    """Draelos et al.'s network with its last layer: ``(B, 1, Z, Y, X)`` to one logit for each finding."""

    def __init__(self, shape_zyx: tuple[int, int, int], classes: int) -> None:
        super().__init__()
        self.net = CTNet(triplets=shape_zyx[0] // 3, edge=shape_zyx[1], classes=classes)

    def forward(self, x: Tensor) -> Tensor:
        """Three neighboring slices are the colors of a picture."""
        return self.net.classifier[5:](self.net(x[:, 0].unflatten(1, (-1, 3))))


def build_classifier(options: ClassifyOptions, classes: int) -> nn.Module:
    """The network that the options name, with random weights or an ImageNet backbone.

    Raises:
        WeightsError: the backbone cannot be read.
        InputError: it is no ResNet-18.
    """
    if options.network == "ctnet":
        network = CTNetClassifier(options.shape_zyx, classes)
        if options.backbone is not None:
            load_backbone(network.net, options.backbone)
        return network
    from monai.networks.nets import ResNet

    return ResNet(
        "basic",
        [1, 1, 1, 1],
        [8, 16, 32, 64],
        n_input_channels=1,
        conv1_t_size=3,
        conv1_t_stride=2,
        no_max_pool=True,
        num_classes=classes,
        norm=("group", {"num_groups": 4}),
    )


def load_backbone(network: CTNet, path: Path) -> None:
    """Start from a ResNet-18 with torchvision's names, as Draelos et al. do.

    Raises:
        WeightsError: the file cannot be read.
        InputError: its tensors are not those of a ResNet-18.
    """
    places = {"conv1": "0", "bn1": "1", **{f"layer{n}": str(n + 3) for n in (1, 2, 3, 4)}}
    parts = [(name.partition("."), tensor) for name, tensor in read_tensors(path).items()]
    tensors = {f"{places.get(head, head)}.{rest}": tensor for (head, _, rest), tensor in parts if head != "fc"}
    try:
        network.features.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise InputError(f"{path} is no ResNet-18 with torchvision's names ({reason}). Give that file.") from None


def classifier_batches(items: Sequence[Prepared], options: ClassifyOptions) -> Callable[[int, tuple[int, ...]], Batch]:
    """``(step, seed) -> (B, 1, Z, Y, X) in [-1, 1], (B, findings)``, a function of its arguments alone."""
    window = Window.parse(options.window)

    def draw(step: int, seed: tuple[int, ...]) -> Batch:
        rng = np.random.default_rng((*seed, 1, step))
        volumes = []
        chosen = [items[place] for place in _places(step, seed, len(items), options.batch)]
        for item in chosen:
            hu = np.asarray(item.array()[0], dtype=np.float32)
            shifts = rng.integers(-SHIFT, SHIFT + 1, 3)
            hu = _shifted(hu, shifts)
            if rng.random() < 0.5:
                hu = hu[:, :, ::-1]  # no finding is of one side
            volumes.append(_jittered(window.to_unit(hu), rng))
        return torch.from_numpy(np.stack(volumes)[:, None]), torch.tensor([item.findings for item in chosen]).float()

    return draw


def _shifted(hu_ZYX: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Moved by whole voxels; the border is repeated."""
    index = [np.clip(np.arange(n) - shift, 0, n - 1) for n, shift in zip(hu_ZYX.shape, shifts, strict=True)]
    return hu_ZYX[np.ix_(*index)]


@torch.no_grad()
def predict_findings(network: nn.Module, item: Prepared, options: ClassifyOptions, device: torch.device) -> list[float]:
    """Probabilities of the findings."""
    unit = Window.parse(options.window).to_unit(np.asarray(item.array()[0], dtype=np.float32))
    return torch.sigmoid(network(torch.from_numpy(unit)[None, None].to(device)))[0].double().tolist()


# --- segmentation ----------------------------------------------------------------------------------------------------


def build_segmenter(options: SegmentOptions, classes: int) -> nn.Module:
    """MONAI's U-Net (Kerfoot et al. 2018, without residual units); ``classes`` counts the background."""
    from monai.networks.nets import UNet

    return UNet(3, 1, classes, options.channels, (2,) * (len(options.channels) - 1))


def segmenter_batches(items: Sequence[Prepared], options: SegmentOptions) -> Callable[[int, tuple[int, ...]], Batch]:
    """``(step, seed) -> patches (B, 1, Z, Y, X) in [-1, 1], classes (B, 1, Z, Y, X)``."""
    window = Window.parse(options.window)
    found = [_foreground(item) for item in items]

    def draw(step: int, seed: tuple[int, ...]) -> Batch:
        rng = np.random.default_rng((*seed, 1, step))
        images, labels = [], []
        for place in _places(step, seed, len(items), options.batch):
            array = items[place].array()
            centers = found[place]
            if centers and rng.random() < FOREGROUND:
                target = centers[int(rng.integers(len(centers)))]
                middle = target[int(rng.integers(len(target)))]
            else:
                middle = np.array([rng.integers(n) for n in array.shape[1:]])
            hu, classes = _patch(array, middle, options.patch_zyx)
            images.append(_jittered(window.to_unit(hu.astype(np.float32)), rng))
            labels.append(classes.astype(np.int64))
        return torch.from_numpy(np.stack(images)[:, None]), torch.from_numpy(np.stack(labels)[:, None])

    return draw


def _foreground(item: Prepared) -> list[np.ndarray]:
    """Some voxels of each target that the case has, (n, 3)."""
    classes = item.array()[1]
    rng = np.random.default_rng(0)
    places = [np.flatnonzero(classes == number) for number in range(1, len(item.targets) + 1)]
    kept = [rng.choice(place, min(len(place), REMEMBERED), replace=False) for place in places if len(place)]
    return [np.stack(np.unravel_index(np.sort(place), classes.shape), 1) for place in kept]


def _patch(
    array_CZYX: np.ndarray, middle: np.ndarray, shape_zyx: tuple[int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """A box about ``middle``, inside the volume where that is large enough, filled up with air and background."""
    box, pads = [], []
    for have, want, at in zip(array_CZYX.shape[1:], shape_zyx, middle, strict=True):
        start = int(np.clip(at - want // 2, 0, max(have - want, 0)))
        box.append(slice(start, start + want))
        pads.append(((want - have) // 2, want - have - (want - have) // 2) if have < want else (0, 0))
    hu, classes = array_CZYX[(slice(None), *box)]
    return np.pad(hu, pads, constant_values=AIR_HU), np.pad(classes, pads)


@torch.no_grad()
def predict_classes(network: nn.Module, item: Prepared, options: SegmentOptions, device: torch.device) -> np.ndarray:
    """Classes on the case's own grid, (Z, Y, X) uint8: probabilities are resampled, not classes."""
    from monai.inferers import sliding_window_inference

    assert item.native is not None
    own = np.load(item.native, mmap_mode="r", allow_pickle=False)
    unit = Window.parse(options.window).to_unit(np.asarray(item.array()[0], dtype=np.float32))
    x = torch.from_numpy(unit)[None, None].to(device)
    probabilities = sliding_window_inference(x, options.patch_zyx, 1, network, mode="gaussian").softmax(1)
    best: Tensor | None = None
    chosen = torch.zeros(own.shape, dtype=torch.uint8, device=device)
    for number, one in enumerate(probabilities[0]):  # one at a time: a scan's own grid is large
        full = F.interpolate(one[None, None], own.shape, mode="trilinear", align_corners=False)[0, 0]
        if best is None:
            best = full
            continue
        chosen[full > best] = number
        best = torch.maximum(best, full)
    return chosen.cpu().numpy()


# --- both ------------------------------------------------------------------------------------------------------------


def _places(step: int, seed: tuple[int, ...], count: int, batch: int) -> list[int]:
    """Cases of a batch: all cases once in random order, then all of them again in another one."""
    places = []
    for position in range(step * batch, (step + 1) * batch):
        turn, place = divmod(position, count)
        places.append(int(np.random.default_rng((*seed, 0, turn)).permutation(count)[place]))
    return places


def _jittered(unit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Contrast and brightness changed a little."""
    return (unit * rng.uniform(1 - SCALE, 1 + SCALE) + rng.uniform(-OFFSET, OFFSET)).astype(np.float32)


def train(
    network: nn.Module,
    draw: Callable[[int, tuple[int, ...]], Batch],
    loss: Callable[[Tensor, Tensor], Tensor],
    options: ClassifyOptions | SegmentOptions,
    device: torch.device,
    seed: tuple[int, ...],
    *,
    tick: Callable[[int], None],
    cancel: Cancel | None = None,
) -> list[float]:
    """Train a network on ``device``; AdamW, the rate falling to zero along a half cosine.

    Args:
        network: is changed.
        draw: batches, see :func:`classifier_batches`.
        loss: of outputs and truth.
        options: of the study.
        device: where.
        seed: of batches, augmentation and dropout.
        tick: told the number of steps done.
        cancel: asked before each step.

    Returns:
        The loss of every step.

    Raises:
        Cancelled: ``cancel`` answered True.
        NotFinite: training diverged.
    """
    network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    losses = []
    for step in range(options.steps):
        if cancel is not None and cancel():
            raise Cancelled("Cancelled while training; arms that are done are kept, and the same command goes on.")
        x, y = draw(step, seed)
        value = loss(network(x.to(device)), y.to(device))
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise NotFinite(
                f"The loss is {losses[-1]} at step {step}; it must be finite. Lower rate (now {options.rate:g}), or "
                "look for broken volumes."
            )
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()
        tick(step + 1)
    network.eval()
    return losses
