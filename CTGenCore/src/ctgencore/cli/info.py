"""``ctgencore info``: which codecs there are and which can be used now. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__, hub
from ..zoo import CODECS, CodecRow, lookup
from .common import AsJson, Verbose, print_event, reporting, stdout


def describe(row: CodecRow) -> dict[str, Any]:
    """A codec as plain data."""
    why = hub.why_unavailable(row)
    return {
        "name": row.name,
        "title": row.title,
        "available": not why,
        "why": why,
        "license": row.license,
        "license_accepted": hub.license_accepted(row),
        "needs_weights": row.needs_weights,
        "is_2d": row.is_2d,
        "source": row.source,
        "description": row.description,
    }


def collect(codec: str | None = None) -> dict[str, Any]:
    """What ``info --json`` prints.

    Raises:
        InputError: unknown codec.
    """
    rows = [lookup(CODECS, codec, "codec")] if codec else list(CODECS.values())
    return {"version": __version__, "codecs": [describe(row) for row in rows], "cache": str(hub.cache_folder())}


def info(
    codec: Annotated[str | None, typer.Argument(help="Show this codec only.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the codecs: what they are, their license, and whether they can be used now."""
    with reporting(as_json=as_json, verbose=verbose):
        facts = collect(codec)
        if as_json:
            print_event(facts)
        elif codec:
            _print_one(facts["codecs"][0])
        else:
            _print_all(facts)


def _print_all(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "codec", "ready", "license", "what it is", title=f"CTGenCore {facts['version']}", title_justify="left"
    )
    for row in facts["codecs"]:
        ready = "[green]yes[/green]" if row["available"] else "[yellow]weights missing[/yellow]"
        table.add_row(escape(row["name"]), ready, escape(row["license"]), escape(row["description"]))
    stdout.print(table)
    stdout.print(f"Weights are kept in {escape(facts['cache'])}. To get some: ctgencore download CODEC", soft_wrap=True)


def _print_one(row: dict[str, Any]) -> None:
    from rich.markup import escape

    stdout.print(f"[bold]{escape(row['name'])}[/bold]: {escape(row['title'])}", soft_wrap=True)
    stdout.print(escape(row["description"]), soft_wrap=True)
    if row["source"]:
        stdout.print(f"Weights: {escape(row['source'])}, license {escape(row['license'])}", soft_wrap=True)
    stdout.print("Ready to use." if row["available"] else escape(row["why"]), soft_wrap=True)
