"""What the commands share: options, consoles, and how errors end a command."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no talk.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tracebacks when something fails.")]
Offline = Annotated[bool, typer.Option("--offline", help="Forbid any use of the network.")]
Device = Annotated[str, typer.Option("-d", "--device", metavar="NAME", help="auto, cpu, cuda:0, ...")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def talk(message: str, *, style: str = "") -> None:
    """A line for people, on stderr; the message may hold any characters."""
    stderr.print(escape(message), style=style or None, soft_wrap=True)


def talk_error(event: dict[str, Any]) -> None:
    """An error event for people."""
    unexpected = "Unexpected error (-v shows where), please report it: " if event["code"] == "internal" else ""
    talk(unexpected + event["message"], style="red")


def print_event(event: dict[str, Any]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


@contextmanager
def reporting(*, as_json: bool = False, verbose: bool = False) -> Iterator[None]:
    """Turn an error into its message (or error event) and its exit code; SIGTERM counts as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        from ..jobs import error_event

        event = error_event(error)
        if verbose:
            traceback.print_exc()
        if as_json:
            print_event(event)
        else:
            talk_error(event)
        raise typer.Exit(event["exit_code"]) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def forbid_network() -> None:
    """For this process: the hub client and whatever builds on it refuse to connect."""
    os.environ["HF_HUB_OFFLINE"] = "1"
