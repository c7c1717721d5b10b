"""``ctgencore info``: which codecs, generators and extractors there are and which can be used now. Loads no torch."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from .. import __version__, hub
from ..errors import InputError
from ..zoo import CODECS, EXTRACTORS, GENERATORS, TESTED, CodecRow, ExtractorRow, GeneratorRow, Row, find
from .common import AsJson, Verbose, print_event, reporting, stdout, wide


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
        "weights": hub.presence(row),
        "weights_from": hub.origin(row),
        "source": row.source,
        "description": row.description,
    }
    if isinstance(row, CodecRow):
        size = hub.size_bytes(row)
        facts |= {
            "is_2d": row.is_2d,
            "rate": row.rate,
            "stride_zyx": list(row.stride_zyx),
            "latent_channels": row.latent_channels,
            "compression": round(row.compression, 3),
            "parameters": row.parameters,
            "float32_mb": round(row.parameters * 4 / 1e6, 1),
            "installed_mb": None if size is None else round(size / 1e6, 1),
            "tested": row.tested,
            "tested_how": TESTED[row.tested],
        }
    if isinstance(row, GeneratorRow):
        facts |= {"codec": row.codec, "guidance": row.trained_with_dropout}
    return facts


def collect(name: str | None = None, *, codecs: bool = False) -> dict[str, Any]:
    """What ``info --json`` prints.

    Args:
        name: of one codec, generator or extractor; None takes all.
        codecs: leave generators and extractors out.

    Raises:
        InputError: there is no codec, generator or extractor of that name.
    """
    others = [] if codecs else [*GENERATORS.values(), *EXTRACTORS.values()]
    rows = [find(name)] if name else [*CODECS.values(), *others]
    return {
        "version": __version__,
        "codecs": [describe(row) for row in rows if isinstance(row, CodecRow)],
        "generators": [describe(row) for row in rows if isinstance(row, GeneratorRow)],
        "extractors": [describe(row) for row in rows if isinstance(row, ExtractorRow)],
        "cache": str(hub.cache_folder()),
    }


def info(
    name: Annotated[str | None, typer.Argument(help="Show this codec, generator or extractor only.")] = None,
    codecs: Annotated[bool, typer.Option("--codecs", help="Show rate, size, weights and tests of all codecs.")] = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the codecs, generators and extractors: what they are, their license, and whether they can be used now."""
    with reporting(as_json=as_json, verbose=verbose):
        if name and codecs:
            raise InputError("--codecs shows all codecs; leave the name out, or the option.")
        facts = collect(name, codecs=codecs)
        if as_json:
            print_event(facts)
        elif codecs:
            _print_codecs(facts["codecs"])
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
            missing = "weights missing" if row["needs_weights"] else "not set up"
            ready = "[green]yes[/green]" if row["available"] else f"[yellow]{missing}[/yellow]"
            table.add_row(escape(row["name"]), ready, escape(row["license"]), escape(row["description"]))
        stdout.print(table)
    stdout.print(f"Weights are kept in {escape(facts['cache'])}. To get some: ctgencore download NAME", soft_wrap=True)


def _print_one(row: dict[str, Any]) -> None:
    from rich.markup import escape

    stdout.print(f"[bold]{escape(row['name'])}[/bold]: {escape(row['title'])}", soft_wrap=True)
    stdout.print(escape(row["description"]), soft_wrap=True)
    if row["source"]:
        origin = dict.fromkeys((row["weights_from"], row["source"]))
        stdout.print(f"Weights: {escape(', '.join(origin))}; license {escape(row['license'])}", soft_wrap=True)
    if "rate" in row:
        places = "x".join(map(str, row["stride_zyx"]))
        ratio = f"{row['compression']:.3g} voxels per number"
        stdout.print(f"Rate: {row['latent_channels']} numbers for {places} voxels: {ratio}", soft_wrap=True)
        stdout.print(f"Size: {escape(_size(row))}", soft_wrap=True)
        stdout.print(f"Tested: {row['tested']}: {escape(row['tested_how'])}", soft_wrap=True)
    stdout.print("Ready to use." if row["available"] else escape(row["why"]), soft_wrap=True)


def _print_codecs(rows: list[dict[str, Any]]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Column, Table

    columns = [Column(name, no_wrap=True) for name in ("codec", "rate", "size", "tested")]
    table = Table(*columns, Column("weights", overflow="fold"), box=SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        size = f"{row['parameters'] / 1e6:.1f} M\n{_megabytes(row):.0f} MB" if row["parameters"] else "-"
        state = f"[{'yellow' if row['weights'] == 'missing' else 'green'}]{row['weights']}[/]"
        weights = f"{state}, {escape(row['license'])}\n{escape(row['weights_from'])}"
        table.add_row(escape(row["name"]), row["rate"], size, row["tested"], weights)
    wide().print(table)
    notes = (
        "rate: voxels per latent (Z x Y x X), numbers per latent (channels), voxels per number",
        "size: parameters, and MB of the weights here or (where they are missing) of the network in float32",
        "tested, besides the suite that every codec passes (sizes, streaming, tiles, grey folding, determinism):",
        *(f"    {name}: {how}" for name, how in TESTED.items()),
    )
    for note in notes:
        stdout.print(escape(note), soft_wrap=True)


def _megabytes(row: dict[str, Any]) -> float:
    return row["float32_mb"] if row["installed_mb"] is None else row["installed_mb"]


def _size(row: dict[str, Any]) -> str:
    if not row["parameters"]:
        return "no network"
    where = "in float32" if row["installed_mb"] is None else "on this machine"
    return f"{row['parameters'] / 1e6:.1f} M parameters, {_megabytes(row):.1f} MB {where}"
