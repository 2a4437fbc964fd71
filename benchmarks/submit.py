"""What a submit costs its producer: one by one, in bulk, from a hundred coroutines; CPU and wall time, no worker.

    python -m benchmarks.submit [--rounds 3] [--source DIR …]

Each `--source` is a folder that holds the package `qworker`, such as `src` of another checkout: they take turns, a
fresh process each, on one private server (TCP, nothing written to disk). Beside them a PING of the driver, by itself.
Tasks are submitted in blocks, and the least and the lower quartile of the blocks are shown, in µs per task: what the
machine does meanwhile only ever adds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis

from qworker import call

from .noop import noop  # its app finds the server in QWORKER_URL
from .server import Server


def best(work: Callable[[int], object], tasks: int, blocks: int) -> str:
    """Do the work in blocks of so many tasks; say what one task costs."""
    cpu, wall = [], []
    for _ in range(blocks):
        began, used = time.perf_counter(), time.process_time()
        work(tasks)
        cpu.append((time.process_time() - used) / tasks * 1e6)
        wall.append((time.perf_counter() - began) / tasks * 1e6)
    shown = (min(cpu), sorted(cpu)[blocks // 4], min(wall), sorted(wall)[blocks // 4])
    return "  cpu {:6.1f} / {:6.1f}   wall {:6.1f} / {:6.1f}".format(*shown)


def measure(url: str) -> None:
    """Measure the qworker that this process imports."""

    def one_by_one(count: int) -> None:
        for _ in range(count):
            noop.submit()

    async def at_once(count: int) -> None:
        async def some() -> None:
            for _ in range(count // 100):
                await noop.asubmit()

        await asyncio.gather(*(some() for _ in range(100)))

    def ping(count: int) -> None:
        for _ in range(count):
            client.ping()

    with redis.Redis.from_url(url) as client:
        noop.submit()
        print("ping       ", best(ping, 200, 20))
        print("one by one ", best(one_by_one, 200, 20))
        print("bulk       ", best(lambda count: noop.submit_many([call() for _ in range(count)]), 5000, 8))
        print("coroutines ", best(lambda count: asyncio.run(at_once(count)), 1000, 8), flush=True)
        client.flushdb()


def main() -> None:
    """Let the sources take turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--source", action="append", type=Path)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.url:
        measure(options.url)
        return
    root = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder)) as server:
        for _ in range(options.rounds):
            for source in options.source or [root / "src"]:
                print(f"{source}: µs a task, least / lower quartile", flush=True)
                env = {**os.environ, "PYTHONPATH": str(source.absolute()), "QWORKER_URL": server.url}
                command = [sys.executable, "-m", "benchmarks.submit", "--url", server.url]
                subprocess.run(command, cwd=root, env=env, check=True)


if __name__ == "__main__":
    main()
