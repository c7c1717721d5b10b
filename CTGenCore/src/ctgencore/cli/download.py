"""``ctgencore download``: weights into the cache, from the hub or from files at hand."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import hub
from ..zoo import Row, find
from .common import Offline, Quiet, Verbose, forbid_network, reporting, talk


def download(
    name: Annotated[str, typer.Argument(help="A codec, generator or extractor of `ctgencore info`.")],
    source: Annotated[
        Path | None, typer.Option("--from", metavar="PATH", help="Import this file or folder instead of downloading.")
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept the license of the weights without being asked.")
    ] = False,
    offline: Offline = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Get the weights of a codec, generator or extractor. This is the only command that uses the network."""
    with reporting(verbose=verbose):
        if offline:
            forbid_network()
        row = find(name)
        if not row.needs_weights:
            if not quiet:
                ready = f"{row.kind.capitalize()} '{name}' needs nothing from outside; it is ready to use."
                talk(hub.why_unavailable(row) or ready)
            return
        obtainable = source is not None or (not offline and all(file.repo for file in hub.missing_files(row)))
        if obtainable and not accept_license and not hub.license_accepted(row):
            accept_license = _ask(row)
        if source is not None:
            written = hub.import_weights(name, source, accept_license=accept_license)
        else:
            written = hub.download(name, offline=offline, accept_license=accept_license)
        for path in written:
            print(path)
        if not quiet:
            talk(hub.why_unavailable(row) or f"{row.kind.capitalize()} '{name}' is ready to use.")


def _ask(row: Row) -> bool:
    """Show the licence; on a terminal, ask for its acceptance."""
    talk(f"The weights of '{row.name}' come from {row.source}, under the license {row.license}.")
    return sys.stdin.isatty() and typer.confirm("Do you accept this license?", err=True)
