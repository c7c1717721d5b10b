"""``ctgencore run`` and ``ctgencore worker``: the forms that programs call."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from .. import worker as workers
from .common import Offline, forbid_network, reporting
from .env import collect as collect_env
from .info import collect as collect_info


def run(
    job: Annotated[Path, typer.Argument(metavar="JOB.JSON", help="A worker's run request in a file.")],
    offline: Offline = False,
) -> None:
    """Run one job from a file, with JSON events on stdout. A file called `cancel` beside it cancels."""
    with reporting(as_json=True):
        if offline:
            forbid_network()
        raise typer.Exit(workers.run_file(job, workers.EventWriter()))


def worker(offline: Offline = False) -> None:
    """Serve jobs as JSON lines on stdin and stdout; codecs stay loaded between them."""
    with reporting():
        if offline:
            forbid_network()
        workers.Worker(workers.EventWriter(), collect_env, collect_info).serve(sys.stdin)
