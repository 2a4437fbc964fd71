"""The one private Redis server of a run, over TCP on loopback; emptied before each measurement."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import redis

from .processes import Process

SETTINGS = ("--save", "", "--appendonly", "no", "--maxclients", "10000")
READY_WITHIN_S = 10.0
HANGS_AFTER_S = 10.0


class Server:
    """A redis-server with nothing written to disk. A context manager; it runs from the first on."""

    def __init__(self, folder: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise SystemExit("no redis-server on PATH: install your system's package redis-server")
        self.port = _free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), *SETTINGS]
        self._folder = folder
        self.client = redis.Redis.from_url(self.url)
        self._looks = 0
        self._start()

    def _start(self) -> None:
        log = self._folder / "redis.log"
        self.process = Process(self._command, env=dict(os.environ), cwd=self._folder, log=log)
        try:
            self._wait_until_ready()
        except BaseException:
            self.process.stop()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop the server."""
        self.client.close()
        self.process.stop()

    def revive(self) -> None:
        """Start it again, should it have ended or hang: whatever did that to it, the others have their turns."""
        try:
            with redis.Redis.from_url(self.url, socket_timeout=HANGS_AFTER_S) as other:
                other.ping()
        except redis.RedisError:
            self.process.kill()
            self._looks = 0
            self._start()

    def _wait_until_ready(self) -> None:
        ends = time.monotonic() + READY_WITHIN_S
        while True:
            try:
                self.client.ping()
            except redis.ConnectionError:
                if self.process.ended or time.monotonic() > ends:
                    raise SystemExit(f"redis-server does not answer{self.process.said()}") from None
                time.sleep(0.01)
            else:
                return

    def empty(self) -> None:
        """Drop all data, and what was counted."""
        self.client.flushall()
        self.client.script_flush()
        self.client.config_resetstat()

    def used_memory(self) -> int:
        """Return the bytes that the server holds, without the buffers of its connections."""
        memory: dict[str, Any] = self.client.info("memory")
        return int(memory["used_memory"]) - int(memory["mem_clients_normal"])

    def used_memory_alone(self, within_s: float = 10.0) -> int:
        """Return the bytes that the server holds when every other client is gone, and its buffers with it."""
        ends = time.monotonic() + within_s
        while len(self.client.client_list()) > 1:
            if time.monotonic() > ends:
                raise TimeoutError("clients of the server do not leave")
            time.sleep(0.01)
        return int(self.client.info("memory")["used_memory"])

    def traffic(self) -> tuple[int, int]:
        """Return how many commands the server has run (those in scripts, too) and how many messages it has read.

        What this method itself adds from one call to the next is not counted.
        """
        self._looks += 1
        stats: dict[str, Any] = self.client.info("commandstats")
        commands = sum(row["calls"] for row in stats.values())
        messages = int(self.client.info("stats")["total_reads_processed"])
        return commands - 2 * self._looks, messages - 2 * self._looks

    def version(self) -> str:
        """Return the server's version."""
        return str(self.client.info("server")["redis_version"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
