"""``ctgencore phantom``: draw a procedural chest with its masks and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from .common import Overwrite, Quiet, Seed, Verbose, reporting, talk, undone

FILES = ("ct.nii.gz", "organs.nii.gz", "diseases.nii.gz", "report.txt", "facts.json")


def phantom(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for CT, masks and report.")],
    shape: Annotated[tuple[int, int, int], typer.Option(metavar="Z Y X", help="Voxels.")] = (64, 128, 128),
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="X Y Z", help="Voxel size in mm; by default the grid covers the chest."),
    ] = None,
    seed: Seed = 0,
    finding: Annotated[
        list[str] | None, typer.Option(help="One of the 18 findings; repeat for several, or give `random`.")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Draw a chest CT by rule: anatomy, findings, masks and a report that agree. Not of any patient."""
    with reporting(verbose=verbose):
        from .. import phantom as phantoms
        from ..labels import FINDINGS

        undone([output / name for name in FILES], overwrite=overwrite)
        if output.is_file():
            raise InputError(f"--output is a folder; {output} is a file.")
        drawn = phantoms.chest(shape, spacing, seed, None if finding == ["random"] else tuple(finding or ()))
        output.mkdir(parents=True, exist_ok=True)
        drawn.ct.save(output / "ct.nii.gz")
        drawn.organs.save(output / "organs.nii.gz")
        drawn.diseases.save(output / "diseases.nii.gz")
        (output / "report.txt").write_text(drawn.report.text + "\n", encoding="utf-8")
        facts = {
            "seed": seed,
            "findings": {row.name: row.name in drawn.finding_names for row in FINDINGS},
        }
        (output / "facts.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if not quiet:
            talk(drawn.report.text)
        print(output.resolve())
