"""The tasks that benchmarks/stop.py stops: some that listen, some that do not, and the load beside them.

Each tells its instants (CLOCK_MONOTONIC, the same for all processes of a host) to a datagram socket of the benchmark.
"""

from __future__ import annotations

import asyncio
import socket
import time

from qworker import App, current

app = App(namespace="bench")


def tell(address: str, word: str, number: int) -> None:
    """Send what happened, and when."""
    text = f"{word} {number} {time.monotonic_ns()}".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as speaker:
        speaker.sendto(text, address)


@app.task(grace=2, result_ttl=60)
def listening(address: str, number: int) -> None:
    """Work until it is asked to end, and tell when it saw that."""
    tell(address, "began", number)
    while not current.asked:
        time.sleep(0.000_5)
    tell(address, "saw", number)
    current.check()


@app.task(grace=2, result_ttl=60)
async def awaiting(address: str, number: int) -> None:
    """Wait like a coroutine does, and tell when its cancellation came."""
    tell(address, "began", number)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        tell(address, "saw", number)
        raise


@app.task(grace=0.2, result_ttl=60)
def deaf(address: str, number: int) -> None:
    """Hear nothing: only force ends it."""
    tell(address, "began", number)
    time.sleep(3600)


@app.task(result_ttl=0)
def load(seconds: float) -> None:
    """Use the processor for so long."""
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends:
        pass


@app.task(result_ttl=0)
async def light_load(seconds: float) -> None:
    """Let the loop do something else for so long."""
    await asyncio.sleep(seconds)
