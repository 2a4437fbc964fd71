"""How steady the machine is: the same small work, measured again between all runs."""

from __future__ import annotations

import statistics
import time

from .server import Server

LOOP = 300_000
PINGS = 300


def look(server: Server) -> dict[str, float]:
    """Measure a fixed loop of additions, and the round trip of a PING."""
    return {"loop_ms": _loop() * 1e3, "ping_us": _ping(server) * 1e6}


def spread(looks: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Sum up: median, least, most, and the most by the least."""
    summed = {}
    for name in looks[0] if looks else ():
        values = [one[name] for one in looks]
        summed[name] = {
            "median": statistics.median(values),
            "min": min(values),
            "max": max(values),
            "max_by_min": max(values) / min(values),
        }
    return summed


def _loop() -> float:
    started = time.perf_counter()
    total = 0
    for number in range(LOOP):
        total += number
    return time.perf_counter() - started


def _ping(server: Server) -> float:
    times = []
    for _ in range(PINGS):
        started = time.perf_counter()
        server.client.ping()
        times.append(time.perf_counter() - started)
    return statistics.median(times)
