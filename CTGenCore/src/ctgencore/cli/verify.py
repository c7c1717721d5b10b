"""``ctgencore verify``: did CTGen make this file, and how?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import AsJson, Verbose, print_event, reporting


def verify(
    file: Annotated[Path, typer.Argument(help="A volume file or DICOM folder.")],
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Tell from a file alone whether it is synthetic or processed, and by what."""
    with reporting(as_json=as_json, verbose=verbose):
        from ..provenance import verify as check

        found = check(file)
        if not as_json:
            print(found.message)
            return
        print_event(
            {
                "path": str(found.path),
                "verdict": found.verdict,
                "how": found.how,
                "by": found.by,
                "tag": found.tag,
                "sidecar": str(found.sidecar) if found.sidecar else None,
                "voxels_match_record": found.voxels_match_record,
                "message": found.message,
            }
        )
