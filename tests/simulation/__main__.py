"""Runs simulated schedules of the real library; see the package.

``--seeds 1000000`` runs as many random ones; ``--deviations 3`` runs all those of the small cases that deviate at most
so often from the first choice; ``--breaks`` says which seed finds each deliberate break.
"""

# ruff: noqa: T201 - a command

import argparse
import multiprocessing
import sys
import time
import warnings

from . import find_break, run_all, run_seed
from .breaks import BREAKS
from .promises import BrokenPromise


def run(seed: int) -> tuple[int, str] | None:
    warnings.simplefilter("ignore")
    try:
        run_seed(seed)
    except BrokenPromise as broken:
        return seed, "\n".join([str(broken), *broken.__notes__])
    return None


def first_seed(name: str) -> tuple[str, int | None]:
    warnings.simplefilter("ignore")
    return name, find_break(name, range(20_000))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=0)
    parser.add_argument("--deviations", type=int)
    parser.add_argument("--breaks", action="store_true")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    began = time.monotonic()
    if options.breaks:
        with multiprocessing.Pool() as pool:
            for name, seed in pool.imap_unordered(first_seed, BREAKS):
                print(f"{name}: {'not found' if seed is None else f'seed {seed}'}", flush=True)
    if options.deviations is not None:
        print(run_all(options.deviations), "schedules", flush=True)
    failures = 0
    with multiprocessing.Pool() as pool:
        for failed in pool.imap_unordered(run, range(options.first, options.first + options.seeds), chunksize=100):
            if failed:
                failures += 1
                print(f"seed {failed[0]}: {failed[1]}\n", flush=True)
    print(f"{options.seeds} seeds, {failures} broken promises, {time.monotonic() - began:.0f} s")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
