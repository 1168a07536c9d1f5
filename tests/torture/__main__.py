"""``python -m tests.torture --minutes 10``: tortures three mongods and two drivers, or ``--place sqlite``."""

# ruff: noqa: T201 - a command

import argparse
import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from . import torture


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.torture", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--place", choices=["mongodb", "sqlite"], default="mongodb")
    options = parser.parse_args()
    with TemporaryDirectory() as directory:
        report = asyncio.run(torture(options.place, options.minutes * 60, Path(directory), print))
    print("\n".join([*report.broken, str(report)]))
    sys.exit(bool(report.broken))


if __name__ == "__main__":
    main()
