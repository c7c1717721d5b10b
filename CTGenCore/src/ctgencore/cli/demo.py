"""``ctgencore demo``: reconstruct a phantom and CTs that are given, generate from its masks; one page shows it all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .common import Device, Quiet, Verbose, reporting, stdout, talk
from .progress import Display

if TYPE_CHECKING:
    from ..report import Case

FINDINGS = ("Pleural effusion", "Lung nodule")  # of the phantom


def demo(
    inputs: Annotated[
        list[Path] | None, typer.Argument(metavar="[PATH]...", help="CTs to add: volume files or folders.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for the results; replaced files are its own.")
    ] = Path("demo_output"),
    codec: Annotated[str, typer.Option(help="A codec of `ctgencore info`.")] = "embedded",
    device: Device = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Reconstruct a procedural chest (and CTs of yours), generate from its masks and report, write one page."""
    with reporting(verbose=verbose):
        from .. import io, phantom
        from ..report import write_page

        given = [found for path in inputs or [] for found in _volumes(path)]
        for path in given:
            io.read(path).check_ct()  # a wrong path should not cost the time of the phantom
        output.mkdir(parents=True, exist_ok=True)
        drawn = phantom.chest(findings=FINDINGS)
        paths = {
            "chest": drawn.ct.save(output / "phantom_chest.nii.gz"),
            "organs": drawn.organs.save(output / "phantom_organs.nii.gz"),
            "diseases": drawn.diseases.save(output / "phantom_diseases.nii.gz"),
        }
        with Display(quiet=quiet, total=len(given) + 2) as display:
            cases = _reconstruct([paths["chest"], *given], output, codec, device, display)
            cases[0] = replace(cases[0], labels=drawn.organs, synthetic=True)
            cases.append(_generate(paths, drawn.report.text, output, device, display))
        page = write_page(output / "index.html", cases)
        _print_table(cases)
        if not quiet:
            talk(f"Volumes and their records are in {output.resolve()}")
        print(page.resolve())


def _volumes(path: Path) -> list[Path]:
    """The volumes that an argument stands for: itself, or all that its folder holds."""
    from .. import io

    return (path.is_dir() and io.list_volumes(path)) or [path]


def _reconstruct(paths: list[Path], output: Path, codec: str, device: str, display: Display) -> list[Case]:
    from .. import io, jobs
    from ..report import Case

    models = jobs.Models()
    options = {"codec": codec, "device": device}
    cases = []
    taken: set[Path] = set()
    for number, path in enumerate(paths):
        target = output / io.output_name(path, "_recon")
        if io.sidecar_path(target) in taken:  # two inputs of one name
            target = target.with_name(f"{number}_{target.name}")
        taken.add(io.sidecar_path(target))
        job = jobs.Job(id=path.name, input=path, output=target, options=options)
        before, after = jobs.run(job, display, models=models)
        assert before is not None
        cases.append(Case.of(path, before, after))
    return cases


def _generate(paths: dict[str, Path], report: str, output: Path, device: str, display: Display) -> Case:
    from .. import io, jobs
    from ..report import Case
    from ..tasks.generate import prepare

    job = jobs.Job(
        id="generate",
        task="generate",
        mask=paths["organs"],
        disease=paths["diseases"],
        output=output / "generated_chest.nii.gz",
        options={"report": report, "device": device, "preview": True},
    )
    _, result = jobs.run(job, display)
    masks = [io.read_labels(paths[name]) for name in ("organs", "diseases")]
    found = prepare(*masks, options=jobs.parse_options(job.options, "generate"))
    assert found.combined is not None
    return Case.generated("Generated from the masks and report of the phantom", found.combined, result)


def _print_table(cases: list[Case]) -> None:
    from rich.markup import escape
    from rich.table import Table

    from ..report.page import METRIC_FACTS

    reconstructed = [case for case in cases if "psnr" in case.metrics]
    table = Table("", *(escape(case.title) for case in reconstructed))
    for name, facts in METRIC_FACTS.items():
        unit = f", {facts['unit']}" if facts["unit"] else ""
        table.add_row(f"{facts['title']}{unit}", *(f"{case.metrics[name]:.4g}" for case in reconstructed))
    stdout.print(table)
