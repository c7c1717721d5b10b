"""``ctgencore dicom``: volumes and labels to and from DICOM."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from .common import AsJson, Overwrite, Verbose, print_event, reporting, talk, undone

app = typer.Typer(
    help="Write volumes as CT series and labels as segmentations; read segmentations.", no_args_is_help=True
)

Series = Annotated[Path, typer.Option(metavar="SERIES", help="The CT series: its folder, or one of its files.")]


@app.command()
def export(
    volume: Annotated[Path, typer.Argument(help="A volume file or DICOM folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FOLDER", help="Folder of the new series.")],
    like: Annotated[
        Path | None, typer.Option(metavar="SERIES", help="Source series whose study and technique to take over.")
    ] = None,
    description: Annotated[str, typer.Option(help="Rest of the series description, after SYNTHETIC.")] = "",
    burn_in: Annotated[bool, typer.Option("--burn-in", help="Write SYNTHETIC into the pixels of every slice.")] = False,
    keep_patient: Annotated[
        bool, typer.Option("--keep-patient", help="Keep the patient of --like instead of a pseudonym.")
    ] = False,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write a volume as a derived DICOM CT series that says how it was made."""
    with reporting(as_json=as_json, verbose=verbose):
        from .. import io
        from ..provenance import verify

        undone([output], overwrite=overwrite)
        made = verify(volume)
        ct = io.read(volume)
        if made.voxels_match_record:
            ct.record = made.record
        files = io.write_series(
            ct, output, like=like, description=description, burn_in=burn_in, keep_patient=keep_patient
        )
        if as_json:
            print_event({"event": "result", "folder": str(output), "slices": len(files), "verdict": made.verdict})
        else:
            talk(f"{output}: {len(files)} slices, {made.verdict}")


@app.command()
def seg(
    labels: Annotated[Path, typer.Argument(help="A label file on the series' grid.")],
    series: Series,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The SEG file to write.")],
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Write labels as a DICOM segmentation of a CT series; names come with the labels or from a JSON file beside."""
    with reporting(as_json=as_json, verbose=verbose):
        from .. import io
        from ..io.dicom_seg import values_of
        from ..labels.filenames import names_of_file

        undone([output], overwrite=overwrite)
        found = io.read_labels(labels)
        names = found.names or {value: name for value, (name, _) in names_of_file(labels).items()}
        io.write_seg(found, names, output, series)
        present = values_of(found)
        if as_json:
            print_event({"event": "result", "file": str(output), "labels": {str(v): names.get(v) for v in present}})
        else:
            talk(f"{output}: {len(present)} segments, {len([v for v in present if v in names])} of them with names")


@app.command("labels")
def from_seg(
    file: Annotated[Path, typer.Argument(metavar="SEG", help="A DICOM segmentation file.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The label file to write.")],
    like: Annotated[
        Path | None, typer.Option(metavar="VOLUME", help="Volume whose grid to use. Default: the segmentation's own.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Read a DICOM segmentation into a label file, and its names into a JSON file beside it."""
    with reporting(as_json=as_json, verbose=verbose):
        from .. import io

        table = io.sidecar_path(output)
        undone([output], overwrite=overwrite, alone=[table])
        found = io.read_seg(file, io.read(like).geometry if like is not None else None)
        io.write(found, output)
        names = {str(value): name for value, name in sorted(found.names.items())}
        new = table.with_name(f".ctgen-{os.getpid()}.json")
        new.write_text(json.dumps(names, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(new, table)
        if as_json:
            print_event({"event": "result", "file": str(output), "names": names})
        else:
            talk(f"{output}: {len(names)} labels, named in {table.name}")
