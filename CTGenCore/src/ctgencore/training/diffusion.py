"""Training of the latent-diffusion generators: 2D on independent slices, then the slice convolutions; resumable.

Foundation VAE, section 4 and released code. Everything random in step k is a function of the seed, the stage, k and the
process, so that a run that was killed goes on with the very numbers it would have seen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from ..checkpoint import write_safetensors
from ..codecs.base import Codec
from ..diffusion.schedule import TIMESTEPS, add_noise, target
from ..errors import InputError
from ..text.embedded import ReportEncoder, train_vocabulary
from .denoiser import Denoiser, build, start_from
from .generator_recipes import Dropout, GeneratorRecipe, Stage
from .latents import LatentBatches, Latents, Log, list_cache, read_report
from .preview import preview
from .reading import Lesson, learn_to_read
from .records import Curve, check_finite, load_state, save_state, update_average

SHOWN_EVERY = 50  # steps between lines for people
SHORTEST_EPOCH = 50  # steps; a cache that is still being filled is listed again after each epoch
WAIT_S = 5.0  # between looks at a cache that has too little to start with
VALIDATION_BATCHES = 8
VOCABULARY_REPORTS = 2000
TOLD = 10.0  # weight of the error where a disease is that only the report tells of
READER = "reader.safetensors"  # the report encoder that can read, in the run's folder
TIMESTEP_BIAS = 2 * TIMESTEPS  # p(t) ~ 2000 - t in the published 3D stage


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Cache folders (see :mod:`.latents`).

    Attributes:
        training, validation: of latents; an empty validation folder means no validation.
        reports: texts to make the vocabulary from; by default those in the cache.
        lessons: what a report encoder learns to read from, for the recipes whose encoder does so first.
    """

    training: Path
    validation: Path
    reports: Sequence[str] = ()
    lessons: Sequence[Lesson] = ()


def learning_rate(stage: Stage, step: int, processes: int) -> float:
    """The published scaling ``base * processes * batch``, with warm-up and descent where the stage has them."""
    rate = stage.base_rate * processes * stage.batch
    up = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    down = min(1.0, (stage.steps - step) / (stage.descent * stage.steps)) if stage.descent else 1.0
    return rate * min(up, down)


def draw_timesteps(stage: Stage, volumes: int, slices: int, generator: torch.Generator) -> Tensor:
    """``(volumes * slices,)`` timesteps 0..999, as the stage draws them."""
    if stage.timesteps == "slices":
        return torch.randint(0, TIMESTEPS, (volumes * slices,), generator=generator)
    weights = TIMESTEP_BIAS - torch.arange(TIMESTEPS, dtype=torch.float64)
    return torch.multinomial(weights, volumes, replacement=True, generator=generator).repeat_interleave(slices)


def diffusion_loss(
    denoiser: Any, batch: Latents, stage: Stage, recipe: GeneratorRecipe, generator: torch.Generator
) -> Tensor:
    """Mean squared error of the prediction (DDPM, equation 14; velocity for ``v_prediction``).

    Where differences to a tissue sketch are drawn, a volume whose sketch says little (a partial mask) has large ones;
    it weighs less by their mean square, or it would be all that is learned. Where a disease is that only the report
    tells of, the error weighs :data:`TOLD` times more: a small part of the volume, and all there is to learn words by.
    Noise and timesteps are drawn on the CPU, so that they do not depend on the device.
    """
    volumes, slices = batch.ct.shape[:2]
    timesteps = draw_timesteps(stage, volumes, slices, generator).to(batch.ct.device)
    noise = torch.randn(batch.ct.shape, generator=generator).to(batch.ct.device)
    clean, noise = batch.ct.flatten(0, 1), noise.flatten(0, 1)
    noisy = add_noise(clean, noise, timesteps).unflatten(0, (volumes, slices))
    wanted = target(clean, noise, timesteps, recipe.prediction)
    error = (denoiser(noisy, timesteps, batch).flatten(0, 1).float() - wanted).square()
    if recipe.conditions.residual_std:
        size = batch.ct.square().mean(dim=(1, 2, 3, 4)).clamp(min=1).repeat_interleave(slices)
        error = error / size.view(-1, 1, 1, 1)
    weight = 1 + (TOLD - 1) * batch.told.flatten(0, 1)[:, None]
    return (error * weight).mean() / weight.mean()


def train_generator(
    recipe: GeneratorRecipe,
    folder: Path,
    data: Data,
    codec: Codec,
    *,
    steps: int | None = None,
    workers: int = 0,
    save_every: int = 500,
    text_folder: Path | None = None,
    log: Log = print,
) -> Path:
    """Run the recipe's stages and write the result to ``folder/final``.

    Args:
        recipe: see :class:`GeneratorRecipe`.
        folder: gets ``2d`` and ``3d`` (checkpoint, curve, samples) and ``final``; a run found in it is resumed.
        data: cached latents; listed again after each epoch, so that another process may be filling the cache.
        codec: the recipe's; decodes the samples.
        steps: of each stage, instead of the recipe's.
        workers: processes that read the cache; 0 reads in this one.
        save_every: steps between checkpoints, each with a validation loss and a sample.
        text_folder: of the report encoder, if it is frozen.
        log: receives a line of JSON every 50 steps, from the main process.

    Returns:
        ``folder/final``, see :func:`ctgencore.training.export.write_final`.

    Raises:
        InputError: the data do not fit the recipe.
        NotFinite: the loss or its gradient is not finite.
    """
    from .export import write_final

    accelerator = Accelerator()
    set_seed(recipe.seed)  # of the random weights; steps have streams of their own
    say: Log = log if accelerator.is_main_process else (lambda line: None)
    stages = [stage if steps is None else replace(stage, steps=steps) for stage in recipe.stages]
    vocabulary = _vocabulary(recipe, folder, data, stages[0].batch, accelerator, say)
    if recipe.reading_steps and accelerator.is_main_process:
        _read_first(recipe, folder, vocabulary, data.lessons, say)
    accelerator.wait_for_everyone()
    before: dict[str, Tensor] | None = None
    for number, stage in enumerate(stages):
        run = _StageRun(recipe, stage, number, folder / stage.name, data, codec, accelerator, say)
        run.start(build(recipe, stage, codec, vocabulary, text_folder), before)
        run.train(workers, save_every)
        before = run.raw()
        result = run.result()
    if accelerator.is_main_process:
        denoiser = build(recipe, stages[-1], codec, vocabulary, text_folder)
        denoiser.load_state_dict(result)
        write_final(denoiser, recipe, folder / "final")
    accelerator.wait_for_everyone()
    return folder / "final"


class _StageRun:
    """One stage: its state on disk and in memory."""

    def __init__(
        self,
        recipe: GeneratorRecipe,
        stage: Stage,
        number: int,
        folder: Path,
        data: Data,
        codec: Codec,
        accelerator: Accelerator,
        say: Log,
    ) -> None:
        self.recipe, self.stage, self.folder, self.data, self.codec = recipe, stage, folder, data, codec
        self.accelerator, self.say = accelerator, say
        self.seed = (recipe.seed, number)
        self.step = 0
        self.epoch_step = 0
        self.names: list[str] = []
        self.saved = 0

    def start(self, denoiser: Denoiser, before: dict[str, Tensor] | None) -> None:
        """Weights and optimizer from the checkpoint, else from the stage before, else random by the seed."""
        state = load_state(self.folder / "state.pt")
        if state is not None:
            denoiser.load_state_dict(state["net"])
        elif before is not None:
            start_from(denoiser, before)
        elif denoiser.can_read:
            denoiser.text.load_state_dict(load_file(self.folder.parent / READER))
        parameters = list(denoiser.trained(self.stage))
        optimizer = torch.optim.AdamW(parameters, lr=self.stage.base_rate, betas=(0.9, 0.999), weight_decay=0.01)
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            self.step, self.epoch_step, self.names = state["step"], state["epoch_step"], state["names"]
            self.saved = self.step
        self.net, self.optimizer = self.accelerator.prepare(denoiser, optimizer)
        self.bare: Denoiser = self.accelerator.unwrap_model(self.net)
        if self.bare.frozen is not None:
            self.bare.frozen.to(self.accelerator.device)
        self.average: dict[str, Tensor] = {}
        if self.stage.ema:
            source = state["average"] if state is not None else self.bare.state_dict()
            self.average = {k: v.detach().clone().to(self.accelerator.device) for k, v in source.items()}

    def train(self, workers: int, save_every: int) -> None:
        """Go on to the stage's last step."""
        main = self.accelerator.is_main_process
        curve = Curve(self.folder / "curve.jsonl", self.step) if main else None
        started, first, losses = time.monotonic(), self.step, []
        try:
            for batch in self._batches(workers):
                loss = self._step(batch)
                losses.append(loss)
                if curve is not None:
                    curve.add(self.step, loss=loss)
                last = self.step == self.stage.steps
                if self.step % SHOWN_EVERY == 0 or last:
                    rate = (self.step - first) / (time.monotonic() - started)
                    mean = round(sum(losses) / len(losses), 5)
                    facts = {"stage": self.stage.name, "step": self.step, "loss": mean, "steps_per_s": round(rate, 3)}
                    self.say(json.dumps({**facts, "volumes": len(self.names)}))
                    losses.clear()
                if (self.step % save_every == 0 or last) and curve is not None:
                    self._save()
                    self._look(curve)
        finally:
            if curve is not None:
                curve.close()
        self.accelerator.wait_for_everyone()

    def _step(self, batch: Latents) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stage, self.step, self.accelerator.num_processes)
        batch = batch.to(self.accelerator.device)
        generator = self._generator(self.step)
        with self.accelerator.autocast():
            loss = diffusion_loss(self.net, batch, self.stage, self.recipe, generator)
        value = self.accelerator.reduce(loss.detach(), "mean").item()
        check_finite(value, "loss", self.step + 1, self.saved)
        self.accelerator.backward(loss)
        if self.stage.clip_norm:
            norm = self.accelerator.clip_grad_norm_(self.bare.parameters(), self.stage.clip_norm)
            check_finite(float(norm), "gradient's norm", self.step + 1, self.saved)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.stage.ema:
            update_average(self.average, self.bare.state_dict(), self.stage.ema, self.step)
        return value

    def _generator(self, step: int) -> torch.Generator:
        words = np.random.SeedSequence((*self.seed, step, self.accelerator.process_index)).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 31 ^ int(words[1]))

    def _batches(self, workers: int) -> Iterator[Latents]:
        """Batches up to the stage's last step; the cache is listed anew at each epoch's end."""
        processes, stage = self.accelerator.num_processes, self.stage
        while self.step < stage.steps:
            present = all((self.data.training / name).is_file() for name in self.names)
            if not self.names or not present or self.step >= self.epoch_step + self._epoch_steps():
                self.names, self.epoch_step = self._list(), self.step
            batches = LatentBatches(
                self.data.training,
                self.names,
                self.recipe.conditions,
                self.recipe.window_zyx,
                self.recipe.dropout,
                batch=stage.batch,
                slices=stage.slices,
                seed=self.seed,
                first_step=self.epoch_step,
                rank=self.accelerator.process_index,
                processes=processes,
            )
            end = min(stage.steps, self.epoch_step + self._epoch_steps())
            yield from DataLoader(batches, batch_size=None, sampler=range(self.step, end), num_workers=workers)

    def _epoch_steps(self) -> int:
        return max(SHORTEST_EPOCH, len(self.names) // (self.stage.batch * self.accelerator.num_processes))

    def _list(self) -> list[str]:
        """The cached files: the main process looks, so that all see the same."""
        box: list[Any] = [list_cache(self.data.training) if self.accelerator.is_main_process else None]
        if self.accelerator.num_processes > 1:
            torch.distributed.broadcast_object_list(box)
        return box[0]

    def raw(self) -> dict[str, Tensor]:
        """The last weights, on the CPU: where the next stage starts."""
        return {name: tensor.detach().cpu().clone() for name, tensor in self.bare.state_dict().items()}

    def result(self) -> dict[str, Tensor]:
        """The averaged weights, or the last where the stage has no average."""
        return {name: tensor.cpu() for name, tensor in self.average.items()} if self.average else self.raw()

    def _save(self) -> None:
        state = {
            "step": self.step,
            "net": self.bare.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average,
            "epoch_step": self.epoch_step,
            "names": self.names,
        }
        save_state(self.folder / "state.pt", state)
        self.saved = self.step

    @contextmanager
    def _averaged(self) -> Iterator[Denoiser]:
        """The denoiser with its averaged weights for the time being."""
        own = {name: tensor.clone() for name, tensor in self.bare.state_dict().items()} if self.average else {}
        if own:
            self.bare.load_state_dict(self.average)
        self.bare.eval()
        try:
            yield self.bare
        finally:
            self.bare.train()
            if own:
                self.bare.load_state_dict(own)

    @torch.no_grad()
    def _look(self, curve: Curve) -> None:
        """Validation loss and a sample of the averaged weights; the same noise every time."""
        names = list_cache(self.data.validation)
        if not names:
            return
        batches = LatentBatches(
            self.data.validation,
            names,
            self.recipe.conditions,
            self.recipe.window_zyx,
            Dropout(),
            batch=self.stage.batch,
            slices=self.stage.slices,
            seed=(0,),
            first_step=0,
        )
        count = min(VALIDATION_BATCHES, -(-len(names) // self.stage.batch))
        with self._averaged() as denoiser, self.accelerator.autocast():
            losses = []
            for number in range(count):
                generator = torch.Generator().manual_seed(number)
                batch = batches[number].to(self.accelerator.device)
                losses.append(diffusion_loss(denoiser, batch, self.stage, self.recipe, generator).item())
            curve.add(self.step, validation=sum(losses) / count)
            first = self.data.validation / names[0]
            picture = preview(denoiser, self.codec, self.recipe, first, self.folder / "samples", self.step)
        curve.add_picture(self.step, "sample", picture)
        self.say(json.dumps({"stage": self.stage.name, "step": self.step, "validation": round(sum(losses) / count, 5)}))


def _read_first(
    recipe: GeneratorRecipe, folder: Path, vocabulary: list[str], lessons: Sequence[Lesson], say: Log
) -> None:
    """Teach the report encoder to read, unless this run has done so."""
    if (folder / READER).is_file():
        return
    if not lessons:
        raise InputError(
            f"Recipe '{recipe.name}' teaches its report encoder from facts and reports of phantoms, and there are "
            "none: leave out --data, or set the recipe's reading_steps to 0."
        )
    with torch.random.fork_rng(devices=[]):  # the denoiser's random weights must not depend on whether this ran
        torch.manual_seed(recipe.seed)
        encoder = ReportEncoder(vocabulary, **recipe.text_config)
    loss = learn_to_read(encoder, lessons, recipe.reading_steps, recipe.seed)
    write_safetensors(folder / READER, encoder.state_dict(), {"format": "pt"})
    say(json.dumps({"stage": "reading", "step": recipe.reading_steps, "loss": round(loss, 5)}))


def _vocabulary(
    recipe: GeneratorRecipe, folder: Path, data: Data, enough: int, accelerator: Accelerator, say: Log
) -> list[str]:
    """Wait for the first latents, then the word pieces: the run's own, else made from the reports there are."""
    while len(list_cache(data.training)) < enough:
        say(json.dumps({"waiting_for_latents": str(data.training), "there": len(list_cache(data.training))}))
        time.sleep(WAIT_S)
    if recipe.text != "embedded":
        return []
    path = folder / "vocabulary.txt"
    if accelerator.is_main_process and not path.is_file():
        cached = [read_report(data.training / name) for name in list_cache(data.training)[:VOCABULARY_REPORTS]]
        pieces = train_vocabulary(data.reports or cached, recipe.pieces)
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
    accelerator.wait_for_everyone()
    vocabulary = path.read_text(encoding="utf-8").splitlines()
    if len(vocabulary) < 8:
        raise InputError(f"{path} holds no word pieces. Remove it, and the run makes it anew from the reports.")
    return vocabulary
