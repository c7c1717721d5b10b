"""The command line: ``ctgencore`` and ``python -m ctgencore``. One file per command; only this package prints."""

from __future__ import annotations

from typing import Annotated

import typer

from .. import __version__
from . import (
    augment,
    batch,
    case,
    demo,
    dicom,
    download,
    edit,
    env,
    evaluate,
    generate,
    info,
    labels,
    phantom,
    plan,
    reconstruct,
    report,
    study,
    train,
    verify,
    worker,
)

app = typer.Typer(
    name="ctgencore",
    help="Frozen foundation VAEs at work on 3D CT. Results are for research, not for diagnosis.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"ctgencore {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Keep the options that stand before a command."""


app.command()(info.info)
app.command()(download.download)
app.command()(plan.plan)
app.command()(reconstruct.reconstruct)
app.command()(generate.generate)
app.command()(edit.edit)
app.command()(augment.augment)
app.command()(evaluate.evaluate)
app.command()(batch.batch)
app.command()(case.case)
app.command()(report.report)
app.command()(labels.labels)
app.command()(phantom.phantom)
app.command()(verify.verify)
app.command()(env.env)
app.command()(demo.demo)
app.command()(train.train)
app.add_typer(study.app, name="study")
app.add_typer(dicom.app, name="dicom")
app.command()(worker.run)
app.command()(worker.worker)


def main() -> None:
    """Run the command line and exit."""
    app(prog_name="ctgencore")
