"""What the machine, Redis and Python allow at most: the figures that no task queue here can pass.

redis-benchmark   one client that waits for each reply, and one that pipelines: what the server can answer
redis-py          one round trip at a time, and windows of LPUSH in one pipeline: what a Python client can ask
socket            one PING at a time without any library: what a round trip costs at least
msgpack           packing and unpacking a small message
socketpair        frames to another process and back, each alone and 32 at a time: what handing out a task costs
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgpack

from .server import Server

LASTS_S = 1.0
WINDOWS = (32, 256)
MESSAGE = {"id": "default:01J00000000000000000000000", "task": "work.noop", "body": b"0123456789abcdef", "attempt": 1}
FRAME = msgpack.packb(MESSAGE)


def measure(server: Server, *, quick: bool = False) -> Iterator[tuple[str, float]]:
    """Yield each limit, per second, once."""
    lasts_s = LASTS_S / 10 if quick else LASTS_S
    calls = 2_000 if quick else 20_000
    server.empty()
    yield "redis-benchmark, one by one", _redis_benchmark(server, calls, pipeline=1)
    yield "redis-benchmark, 256 at a time", _redis_benchmark(server, calls * 20, pipeline=256)
    yield "redis-py, one by one", _rate(server.client.ping, lasts_s)
    for window in WINDOWS:
        yield f"redis-py, LPUSH, {window} at a time", _pipelined(server, window, lasts_s)
        server.empty()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield "socket, PING, one by one", _rate(lambda: _exchange(connection, b"PING\r\n", len(b"+PONG\r\n")), lasts_s)
    yield "msgpack, pack", _rate(lambda: msgpack.packb(MESSAGE), lasts_s)
    yield "msgpack, unpack", _rate(lambda: msgpack.unpackb(FRAME), lasts_s)
    for frames in (1, 32):
        yield f"socketpair to a process and back, {frames} at a time", _echoed(frames, lasts_s)


def _rate(call: Callable[[], Any], lasts_s: float, each: int = 1) -> float:
    """Return how often something can be done in a second; `each` things per call."""
    call()
    done, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < lasts_s:
        for _ in range(50):
            call()
        done += 50
    return done * each / (now - started)


def _redis_benchmark(server: Server, calls: int, pipeline: int) -> float:
    binary = shutil.which("redis-benchmark")
    if binary is None:
        raise SystemExit("no redis-benchmark on PATH: it comes with your system's package redis-server or redis-tools")
    command = [binary, "-p", str(server.port), "-c", "1", "-n", str(calls), "-P", str(pipeline), "-t", "lpush", "--csv"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(printed.splitlines()[-1].split(",")[1].strip('"'))


def _pipelined(server: Server, window: int, lasts_s: float) -> float:
    def one_window() -> None:
        with server.client.pipeline(transaction=False) as pipe:
            for _ in range(window):
                pipe.lpush("list", FRAME)
            pipe.execute()

    return _rate(one_window, lasts_s, each=window)


def _echoed(frames: int, lasts_s: float) -> float:
    """Send frames to a process that sends back what it gets."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        ours.close()
        while heard := theirs.recv(1 << 16):
            theirs.sendall(heard)
        os._exit(0)
    theirs.close()
    sent = FRAME * frames
    try:
        return _rate(lambda: _exchange(ours, sent, len(sent)), lasts_s, each=frames)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _exchange(connection: socket.socket, sent: bytes, expected: int) -> None:
    """Send, and receive so many bytes."""
    connection.sendall(sent)
    while expected:
        expected -= len(connection.recv(expected))
