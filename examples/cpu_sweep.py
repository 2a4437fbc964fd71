"""A CPU sweep through `qworker.Executor`: which compressor, at which level, packs these files best for its time?

    python examples/cpu_sweep.py                        the modules of Python itself, all CPUs
    python examples/cpu_sweep.py ~/notes --workers 4

Written for `concurrent.futures`: with `from concurrent.futures import ProcessPoolExecutor as Executor` and its
`max_workers` it is the same program. With `Executor(url=…)` it runs on every host that has
`qworker start --allow cpu_sweep`.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import os
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path

from qworker import Executor

COMPRESSORS = {
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "lzma": lambda data, level: lzma.compress(data, preset=level),
}
LEVELS = (1, 3, 6, 9)


def measure(compressor: str, level: int, paths: list[str]) -> tuple[str, int, float, float]:
    """Compress each file; return how large the result is compared with the files, and the CPU seconds it took."""
    before = after = 0
    began = time.process_time()
    for path in paths:
        data = Path(path).read_bytes()
        before += len(data)
        after += len(COMPRESSORS[compressor](data, level))
    return compressor, level, after / max(1, before), time.process_time() - began


def best(found: list[tuple[str, int, float, float]]) -> Iterator[tuple[str, int, float, float]]:
    """Yield, quickest first, what packs tighter than all that is quicker."""
    tightest = float("inf")
    for one in sorted(found, key=lambda one: one[3]):
        if one[2] < tightest:
            tightest = one[2]
            yield one


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", nargs="?", type=Path, default=Path(json.__file__).parents[1])
    parser.add_argument("--files", type=int, default=60, help="at most so many (60)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="slots (one for each CPU)")
    given = parser.parse_args()

    paths = [str(path) for path in sorted(given.directory.expanduser().glob("*.py"))[: given.files]]
    if not paths:
        print(f"no *.py files in {given.directory}", file=sys.stderr)
        return 1
    began = time.monotonic()
    found = []
    with Executor(workers=given.workers) as executor:
        futures = [executor.submit(measure, name, level, paths) for name in COMPRESSORS for level in LEVELS]
        for future in as_completed(futures, timeout=600):
            name, level, ratio, took_s = future.result()
            found.append((name, level, ratio, took_s))
            print(f"{name:>5} -{level}  {ratio:6.1%}  {took_s:7.3f} s")

    wall_s, cpu_s = time.monotonic() - began, sum(one[3] for one in found)
    print(f"{len(found)} measurements of {len(paths)} files: {cpu_s:.1f} s of CPU in {wall_s:.1f} s")
    print("worth their time: " + ", ".join(f"{name} -{level}" for name, level, _, _ in best(found)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
