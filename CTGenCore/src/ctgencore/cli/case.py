"""``ctgencore case``: one CT and its labels into a data set for nnU-Net."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..jobs import Job, run_case
from .common import AsJson, Overwrite, Quiet, Verbose, print_event, reporting, stdout, talk


def case(
    input: Annotated[Path, typer.Option("-i", "--input", help="The CT: a volume file or a DICOM folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="nnU-Net data set; made when it is not there.")],
    name: Annotated[str, typer.Option(help="What the case is called in the data set.")],
    labels: Annotated[Path | None, typer.Option(help="Label file or DICOM SEG; none: a test case.")] = None,
    label: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="What a value of the label file means; by default as a file says."),
    ] = None,
    patient: Annotated[str, typer.Option(help="Whose it is; by default the case is a patient of its own.")] = "",
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Add a CT with its labels to a data set; names that it has keep their values."""
    with reporting(as_json=as_json, verbose=verbose):
        options = {"name": name, "patient": patient, "labels": dict(map(_pair, label or [])), "overwrite": overwrite}
        job = Job(id=name, task="case", input=input, mask=labels, output=output, options=options)

        def emit(event: dict[str, Any]) -> None:
            if as_json:
                print_event(event)
            elif event["event"] == "result":
                stdout.print(event["outputs"]["image"], markup=False, soft_wrap=True)
                if not quiet:
                    talk(f"{output.name} has {event['metrics']['cases']} training cases.")
            elif event["event"] == "warning" and not quiet:
                talk(event["message"], style="yellow")

        run_case(job, emit)


def _pair(text: str) -> tuple[str, int]:
    name, sign, value = text.rpartition("=")
    if not sign or not name or not value.isdigit():
        raise InputError(f"--label takes NAME=VALUE, such as tumor=1; got '{text}'.")
    return name, int(value)
