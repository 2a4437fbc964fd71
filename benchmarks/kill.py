"""How punctual the ladder is, and how soon a killed slot works again: 100 kills of tasks that do not end by themselves.

    python benchmarks/kill.py [--kills 100] [--json]

Two process slots: one runs hung tasks in turn (asleep, busy, stuck in C, deaf with a grandchild), the other a sibling
that must not notice. Each hung task has a limit and a grace of 0.2 s. Measured, in milliseconds:

    ask      from the limit to the flag                     promised: 50 at the 99th percentile
    end      from the end of the grace to the ending told   promised: 50, with the process and its grandchild gone
    next     from the ending told to the slot's next task   promised: 25 at the 99th percentile

Exit code 1 when a process was left or the sibling was disturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qworker import codec
from qworker.model import Ending, Header, Line, Order
from qworker.pool.host import Host
from qworker.pool.pool import Pool

HERE = Path(__file__).parent
LIMIT_S = GRACE_S = 0.2


class Endings:
    """What the pool tells: endings, with the instant at which each was told."""

    def __init__(self) -> None:
        self.waits: dict[int, asyncio.Future[tuple[Ending, int]]] = {}

    def endings(self, endings: list[Ending]) -> None:
        now_ns = time.monotonic_ns()
        for ending in endings:
            self.waits.pop(ending.number).set_result((ending, now_ns))

    def started(self, numbers: list[int]) -> None: ...

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None: ...

    def event(self, name: str, level: str, **fields: Any) -> None: ...


def order(number: int, name: str, *args: Any, timeout_s: float | None = None) -> Order:
    """One order for a task of hung.py."""
    header = codec.pack_header(Header(name=f"hung.{name}"))
    body = codec.pack_body(args, {})
    blob = codec.pack_envelope(header=header, body=body, line=Line(), client=codec.NOBODY, sent_ms=0)
    return Order(
        number=number,
        id=f"bench:{number}",
        name=f"hung.{name}",
        blob=blob,
        fence=1,
        timeout_s=timeout_s,
        grace_s=GRACE_S,
    )


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def measure(kills: int) -> tuple[dict[str, list[float]], list[str]]:
    """Kill and measure; returns the figures, and what went wrong."""
    figures: dict[str, list[float]] = {"ask": [], "end": [], "next": []}
    wrong: list[str] = []
    heard, numbers = Endings(), itertools.count(1)
    host = Host()
    await host.start(["hung:app"], HERE)
    pool = Pool("process", 2, host, heard)
    loop = asyncio.get_running_loop()

    def put(name: str, *args: Any, timeout_s: float | None = None) -> asyncio.Future[tuple[Ending, int]]:
        number = next(numbers)
        heard.waits[number] = loop.create_future()
        pool.put([order(number, name, *args, timeout_s=timeout_s)])
        return heard.waits[number]

    with tempfile.TemporaryDirectory() as folder:
        pid_file = Path(folder) / "grandchild"
        try:
            await pool.start()
            for name in itertools.islice(itertools.cycle(("asleep", "busy", "in_c", "deaf")), kills):
                pid_file.unlink(missing_ok=True)
                sibling = put("rest", 0.6)
                stuck = put(name, *([str(pid_file)] if name == "deaf" else []), timeout_s=LIMIT_S)
                after = put("now_ns")
                ending, told_ns = await stuck
                left = [pid for pid in grandchildren(pid_file) if is_running(pid)]
                began = (await after)[0]
                while began.kind == "unstarted":  # it waited so long for the slot that the pool gave it back
                    began = (await put("now_ns"))[0]
                began_ns = codec.unpack_value(began.payload)
                rested = (await sibling)[0]
                if ending.kind != "killed" or left or rested.kind != "returned":
                    wrong.append(f"{name}: {ending.kind}, left {left}, sibling {rested.kind}")
                    continue
                figures["ask"].append(((ending.asked_after_s or 0) - LIMIT_S) * 1e3)
                figures["end"].append(((ending.took_s or 0) - GRACE_S) * 1e3)
                figures["next"].append((began_ns - told_ns) / 1e6)
        finally:
            await pool.close(kill_after_s=0.0)
            await host.close()
    return figures, wrong


def grandchildren(pid_file: Path) -> list[int]:
    """The pid that a deaf task wrote down."""
    return [int(pid_file.read_text())] if pid_file.exists() else []


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Punctuality of the ladder, and the time to replace a killed child.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    before = os.getloadavg()[0]
    figures, wrong = asyncio.run(measure(given.kills))
    rows = {
        name: {
            "median": statistics.median(values),
            "p99": statistics.quantiles(values, n=100, method="inclusive")[98],
            "max": max(values),
        }
        for name, values in figures.items()
    }
    if given.json:
        print(json.dumps({"ms": rows, "kills": given.kills, "wrong": wrong, "load_before": before}))
    else:
        print(f"{given.kills} kills, ms   median      p99      max     (load before: {before:.1f})")
        for name, row in rows.items():
            print(f"  {name:<14} {row['median']:8.1f} {row['p99']:8.1f} {row['max']:8.1f}")
        print(*wrong or ["no process left, no sibling disturbed"], sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
