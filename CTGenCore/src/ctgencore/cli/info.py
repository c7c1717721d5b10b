"""``ctgencore info``: which codecs, generators and extractors there are and which can be used now. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__, hub
from ..zoo import CODECS, EXTRACTORS, GENERATORS, CodecRow, ExtractorRow, GeneratorRow, Row, find
from .common import AsJson, Verbose, print_event, reporting, stdout


def describe(row: Row) -> dict[str, Any]:
    """A codec, generator or extractor as plain data."""
    why = hub.why_unavailable(row)
    facts: dict[str, Any] = {
        "name": row.name,
        "title": row.title,
        "available": not why,
        "why": why,
        "license": row.license,
        "license_accepted": hub.license_accepted(row),
        "needs_weights": row.needs_weights,
        "source": row.source,
        "description": row.description,
    }
    if isinstance(row, CodecRow):
        facts["is_2d"] = row.is_2d
    if isinstance(row, GeneratorRow):
        facts |= {"codec": row.codec, "guidance": row.trained_with_dropout}
    return facts


def collect(name: str | None = None) -> dict[str, Any]:
    """What ``info --json`` prints.

    Raises:
        InputError: there is no codec, generator or extractor of that name.
    """
    rows = [find(name)] if name else [*CODECS.values(), *GENERATORS.values(), *EXTRACTORS.values()]
    return {
        "version": __version__,
        "codecs": [describe(row) for row in rows if isinstance(row, CodecRow)],
        "generators": [describe(row) for row in rows if isinstance(row, GeneratorRow)],
        "extractors": [describe(row) for row in rows if isinstance(row, ExtractorRow)],
        "cache": str(hub.cache_folder()),
    }


def info(
    name: Annotated[str | None, typer.Argument(help="Show this codec, generator or extractor only.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the codecs, generators and extractors: what they are, their license, and whether they can be used now."""
    with reporting(as_json=as_json, verbose=verbose):
        facts = collect(name)
        if as_json:
            print_event(facts)
        elif name:
            _print_one((facts["codecs"] + facts["generators"] + facts["extractors"])[0])
        else:
            _print_all(facts)


def _print_all(facts: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Column, Table

    stdout.print(f"CTGenCore {escape(facts['version'])}", soft_wrap=True)
    for kind in ("codec", "generator", "extractor"):
        table = Table(Column(kind, no_wrap=True), "ready", "license", "what it is")
        for row in facts[f"{kind}s"]:
            ready = "[green]yes[/green]" if row["available"] else "[yellow]weights missing[/yellow]"
            table.add_row(escape(row["name"]), ready, escape(row["license"]), escape(row["description"]))
        stdout.print(table)
    stdout.print(f"Weights are kept in {escape(facts['cache'])}. To get some: ctgencore download NAME", soft_wrap=True)


def _print_one(row: dict[str, Any]) -> None:
    from rich.markup import escape

    stdout.print(f"[bold]{escape(row['name'])}[/bold]: {escape(row['title'])}", soft_wrap=True)
    stdout.print(escape(row["description"]), soft_wrap=True)
    if row["source"]:
        stdout.print(f"Weights: {escape(row['source'])}, license {escape(row['license'])}", soft_wrap=True)
    stdout.print("Ready to use." if row["available"] else escape(row["why"]), soft_wrap=True)
