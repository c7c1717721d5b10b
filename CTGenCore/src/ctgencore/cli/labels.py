"""``ctgencore labels``: the label tables, and which label a segment's name stands for."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from .common import AsJson, Verbose, print_event, reporting, stdout


def collect() -> dict[str, Any]:
    """The tables as plain data; every finding has a sentence to start a report from."""
    from .. import labels
    from ..phantom.report import template

    return {
        "organs": [{"id": row.index, "name": row.name, "group": row.group} for row in labels.ORGANS.values()],
        "diseases": [{"id": row.class_id, "name": row.name, "code": row.code} for row in labels.DISEASES.values()],
        "findings": [
            {"name": row.name, "abbreviation": row.abbreviation, "disease": row.disease, "template": template(row.name)}
            for row in labels.FINDINGS
        ],
    }


def labels(
    suggest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help='JSON list of {"name": ..., "terminology": ...}: suggest a label for each.'),
    ] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """List the organ labels, disease classes and findings, or suggest labels for segment names."""
    with reporting(as_json=as_json, verbose=verbose):
        facts = collect() if suggest is None else {"suggestions": _suggestions(suggest)}
        if as_json:
            print_event(facts)
        elif suggest is None:
            _print_tables(facts)
        else:
            for each in facts["suggestions"]:
                stdout.print("-" if each is None else f"{each['id']} {each['name']}", soft_wrap=True)


def _suggestions(path: Path) -> list[dict[str, Any] | None]:
    from ..labels import suggest

    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(names, list):
            raise TypeError(f"it holds a {type(names).__name__}")
        pairs = [(str(item["name"]), str(item.get("terminology", ""))) for item in names]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f'{path} must hold a JSON list of objects like {{"name": "left lung"}}; it does not ({error}).'
        ) from None
    found = [suggest(name, terminology) for name, terminology in pairs]
    return [None if each is None else asdict(each) for each in found]


def _print_tables(facts: dict[str, Any]) -> None:
    from rich.table import Table

    for title, kind, columns in (
        ("Organs", "organs", ("id", "name", "group")),
        ("Diseases", "diseases", ("id", "name", "code")),
        ("Findings", "findings", ("name", "abbreviation", "template")),
    ):
        table = Table(*columns, title=title)
        for row in facts[kind]:
            table.add_row(*(str(row[column]) for column in columns))
        stdout.print(table)
