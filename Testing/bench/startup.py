"""Start-up times as whole processes: ``--help``, ``info``, ``import ctgencore``, beside a bare interpreter and torch.

python Testing/bench/startup.py [--runs 9]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import ctgencore": ["-c", "import ctgencore"],
    "ctgencore --help": ["-m", "ctgencore", "--help"],
    "ctgencore info": ["-m", "ctgencore", "info"],
    "import torch": ["-c", "import torch"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    arguments = parser.parse_args()
    print("| command | median s | min s | max s |\n|---|---|---|---|")
    for name, command in COMMANDS.items():
        times = []
        for _ in range(arguments.runs + 1):
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, capture_output=True)
            times.append(time.perf_counter() - started)
        times = times[1:]  # the first one warms the disk cache
        print(f"| `{name}` | {statistics.median(times):.2f} | {min(times):.2f} | {max(times):.2f} |")


if __name__ == "__main__":
    main()
