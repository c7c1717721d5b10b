"""The training loop: one process or many (accelerate), resumable, with averaged weights."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor
from torch.utils.data import DataLoader

from ..networks.leanvae import LeanVAE
from .clips import Clips
from .codec_init import start_from_principal_components
from .recipes import CodecRecipe
from .records import load_state, save_state, update_average

Log = Callable[[str], None]


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """Root mean square error of each clip, averaged, plus a little L1: easy and hard clips pull alike."""
    error = output - target
    per_clip = error.square().mean(dim=(1, 2, 3, 4))
    return (per_clip + 1e-6).sqrt().mean() + 0.05 * error.abs().mean()


def _rate(recipe: CodecRecipe, step: int) -> float:
    """Warm up, hold, and come down linearly over the last quarter: a run can be prolonged while it holds."""
    return recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup, (recipe.steps - step) / (0.25 * recipe.steps))


def train_codec(
    recipe: CodecRecipe,
    folder: Path,
    *,
    steps: int | None = None,
    seed: int = 0,
    workers: int = 1,
    save_every: int = 500,
    log: Log = print,
) -> Path:
    """Train the recipe's codec and write it to ``folder/final`` (``from_pretrained`` loads it).

    Args:
        recipe: see :class:`CodecRecipe`.
        folder: checkpoints and the log go here; a run found in it is resumed.
        steps: overrides the recipe's number of steps (the schedule shrinks with it).
        seed: of the clips and the initial weights.
        workers: processes that make clips.
        save_every: steps between checkpoints.
        log: receives one line of text every 50 steps.

    Returns:
        The folder of the averaged weights, fp32 safetensors with config.json.
    """
    if steps is not None:
        recipe = CodecRecipe(**{**asdict(recipe), "steps": steps})
    folder.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    accelerator = Accelerator()
    net = LeanVAE(**recipe.network)
    optimizer = torch.optim.AdamW(net.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    state_file = folder / "state.pt"
    state = load_state(state_file)
    step = state["step"] if state else 0

    voxels = recipe.batch * torch.tensor(recipe.clip_zyx[0]).prod().item()
    streams = []
    for k, size in enumerate(recipe.clip_zyx):
        batch = max(1, round(voxels / torch.tensor(size).prod().item()))
        clips = Clips(
            size, seed=(seed + 1) * 1000 + k + 100 * step
        )  # a resumed run sees new clips, not the first again
        streams.append(iter(accelerator.prepare(DataLoader(clips, batch_size=batch, num_workers=workers))))
    if state is None:
        pool = torch.cat([next(streams[0]).cpu() for _ in range(24)])
        start_from_principal_components(net, pool / 2)
    else:
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
    net, optimizer = accelerator.prepare(net, optimizer)
    bare = accelerator.unwrap_model(net)
    average = {k: v.clone() for k, v in (state["average"] if state else bare.state_dict()).items()}

    started, shown = time.monotonic(), step
    losses: list[float] = []
    while step < recipe.steps:
        for group in optimizer.param_groups:
            group["lr"] = _rate(recipe, step)
        clip = next(streams[step % len(streams)]) / 2  # [-1, 1] -> the network's [-0.5, 0.5]
        loss = reconstruction_loss(net(clip), clip)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        update_average(average, bare.state_dict(), recipe.ema, step)
        losses.append(loss.item())
        if step % 50 == 0 or step == recipe.steps:
            rate = (step - shown) / (time.monotonic() - started)
            line = {"step": step, "loss": round(sum(losses) / len(losses), 5), "steps_per_s": round(rate, 2)}
            losses.clear()
            if accelerator.is_main_process:
                log(json.dumps(line))
        if (step % save_every == 0 or step == recipe.steps) and accelerator.is_main_process:
            tensors = {"net": bare.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save_state(state_file, {"step": step, **tensors})
    final = LeanVAE(**recipe.network)
    final.load_state_dict(average)
    if accelerator.is_main_process:
        final.save_pretrained(folder / "final")
    return folder / "final"
