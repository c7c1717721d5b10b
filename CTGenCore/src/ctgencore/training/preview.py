"""A look at a generator in training: one volume drawn with a validation sample's conditions."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from ..codecs.base import Codec
from ..diffusion.solvers import sample
from ..geometry import Geometry
from ..intensity import WINDOWS, round_hu
from ..provenance import RunRecord
from ..volume import Volume
from .denoiser import Denoiser
from .generator_recipes import GeneratorRecipe
from .latents import Hidden, read_latents, voxels_of

SOLVER_STEPS = 12


@torch.no_grad()
def preview(denoiser: Denoiser, codec: Codec, recipe: GeneratorRecipe, cached: Path, folder: Path, step: int) -> Tensor:
    """Draw a volume and write it to ``folder/step-NNNNNN.nii.gz``; the same noise every time.

    Args:
        denoiser: with the weights to look at, in evaluation mode.
        codec: decodes.
        recipe: the denoiser's.
        cached: file of the cache whose conditions are used.
        folder: for the volume.
        step: for its name.

    Returns:
        Its middle slice, (Y, X) in 0..1 over the wide window.
    """
    device = denoiser.unet.device
    z, y, x = (slice(n) for n in recipe.window_zyx)
    one = read_latents(cached, recipe.conditions, (z, y, x), Hidden()).to(device)
    batch = one._replace(ct=one.ct[None], conditions=one.conditions[None], spacing_mm=one.spacing_mm[None])
    noise = torch.randn(batch.ct.shape, generator=torch.Generator().manual_seed(0)).to(device)

    def denoise(x: Tensor, t: int) -> Tensor:
        return denoiser(x, torch.full((x.shape[0] * x.shape[1],), t, device=device), batch)

    drawn = sample(denoise, noise, solver="dpm++", steps=SOLVER_STEPS, prediction=recipe.prediction)
    latents = recipe.conditions.to_latents(drawn, batch.conditions, axis=2)
    shape = voxels_of(recipe.window_zyx)
    hu = codec.decode(latents.transpose(1, 2).cpu(), shape, WINDOWS["wide"])
    with safe_open(cached, "pt") as file:
        spacing = json.loads(file.metadata()["spacing_mm"])
    record = RunRecord(
        task="train",
        synthetic=True,
        codec=recipe.codec,
        weights=codec.weights,
        options={"recipe": recipe.name, "conditions_of": cached.name},
        results={"step": float(step)},
    )
    folder.mkdir(parents=True, exist_ok=True)
    volume = Volume(round_hu(hu), Geometry(shape[::-1], spacing), record=record)
    volume.save(folder / f"step-{step:06d}.nii.gz")
    return torch.from_numpy(WINDOWS["wide"].to_unit(hu[len(hu) // 2])) / 2 + 0.5
