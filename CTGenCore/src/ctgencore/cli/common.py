"""What the commands share: options, consoles, and how errors end a command."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from ..errors import InputError

PIPED = 120  # columns of tables where there is no terminal
_LISTED = 5  # files named in a message before "and N more"

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress and no talk.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Tracebacks when something fails.")]
Offline = Annotated[bool, typer.Option("--offline", help="Forbid any use of the network.")]
Device = Annotated[str, typer.Option("-d", "--device", metavar="NAME", help="auto, cpu, cuda:0, ...")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of every random choice.")]
Memory = Annotated[str | None, typer.Option(help="Budget for activations, such as 8GiB.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads.")]
Precision = Annotated[str, typer.Option(help="Network precision: float32, float16 or bfloat16.")]
PrecisionOrAuto = Annotated[
    str,
    typer.Option(help="Network precision: float32, float16, bfloat16, or auto: float32 unless that needs tiles."),
]
SkipExisting = Annotated[bool, typer.Option("--skip-existing", help="Leave outputs that are there.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace outputs that are there.")]
Model = Annotated[str, typer.Option(help="A generator of `ctgencore info`.")]
Steps = Annotated[int, typer.Option(help="Network passes of the solver.")]
Solver = Annotated[str, typer.Option(help="ddim (as published), dpm++ or unipc.")]
Guidance = Annotated[float, typer.Option(help="How strongly to follow report and disease mask; 1 is plain.")]

stderr = Console(stderr=True, highlight=False)
stdout = Console(highlight=False)


def talk(message: str, *, style: str = "") -> None:
    """A line for people, on stderr; the message may hold any characters."""
    stderr.print(escape(message), style=style or None, soft_wrap=True)


def talk_error(event: dict[str, Any]) -> None:
    """An error event for people."""
    unexpected = "Unexpected error (-v shows where), please report it: " if event["code"] == "internal" else ""
    talk(unexpected + event["message"], style="red")


def wide() -> Console:
    """The console of stdout, wide enough for tables where it is no terminal."""
    return stdout if stdout.is_terminal else Console(width=max(stdout.width, PIPED), highlight=False)


def number(value: float | str | None) -> str:
    """A number of a result event for people."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def print_event(event: dict[str, Any]) -> None:
    """One JSON line on stdout."""
    sys.stdout.write(json.dumps(event, allow_nan=False) + "\n")
    sys.stdout.flush()


def undone(
    outputs: Sequence[Path], *, skip_existing: bool = False, overwrite: bool = False, alone: Sequence[Path] = ()
) -> list[Path]:
    """The outputs to make; refuses to touch those that are there unless told how.

    Args:
        outputs: main results.
        skip_existing: leave those that are there.
        overwrite: replace them.
        alone: further files that would be replaced.

    Raises:
        InputError: both flags, or a file exists and neither is given.
    """
    if skip_existing and overwrite:
        raise InputError("--skip-existing and --overwrite exclude each other. Give one of them.")
    if overwrite:
        return list(outputs)
    if skip_existing:
        return [path for path in outputs if not path.exists()]
    present = [str(path) for path in (*outputs, *alone) if path.exists()]
    if present:
        raise InputError(
            f"Output exists: {some(present)}. Add --overwrite to replace it or --skip-existing to leave it."
        )
    return list(outputs)


def some(names: Sequence[str]) -> str:
    """The first few names."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


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
