"""A worker with a server of its own, for one program: what an Executor that was given `workers=` starts.

    owner ── stdin: open while it wants us ──► this process ──► server (memory only, a socket that only this user sees)
    owner ◄─ status: {"ready": url} ──────────      │
                     {"failed": why} ─────────      └──► fork server ──► children, as in any worker

It ends when its owner says so or is gone (the end of stdin, or its pidfd), and nothing is left then: the server dies
with this process, the fork server and the children with its end of their socket, and the directory is removed. Nobody
else can reach the server, so its worker runs any function that can be imported, as a process pool does. What tasks
print goes to the streams that the owner has, line by line; the log tells of errors only, unless QWORKER_LOG_LEVEL says
otherwise: how a task ended is told by its future.

Started as `python -m qworker.worker.private <plan as JSON> <status fd>` by own_worker.py.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import setproctitle

from .. import log, streams
from ..broker import guardian
from ..broker.embedded import find_binary
from ..broker.places import to_url
from ..config import Settings
from ..errors import QWorkerError
from .daemon import serve

SOCKET = "server.sock"
SERVER_LOG = "server.log"
_READY_WITHIN_S = 20.0
# From the owner's end: what runs is asked to stop at once, killed after this, and after twice this nobody waits.
_ASKED_S = 2.0
_MEMORY_ONLY = ("--save", "", "--appendonly", "no", "--maxmemory-policy", "noeviction", "--databases", "1")
# What a worker says of servers and settings in general, and what is meant to be so here.
_UNSAID = frozenset({"worker.allows_everything", "server.warning"})


class _Private:
    """The process's few parts: its server, its word to the owner, its end."""

    def __init__(self, plan: dict[str, Any], status_fd: int) -> None:
        self._plan = plan
        self._status_fd = status_fd
        self._directory = Path(plan["directory"])
        self._server: subprocess.Popen[bytes] | None = None
        self._over = False

    def run(self) -> int:
        """Serve until the owner has had enough; returns the exit code."""
        plan = self._plan
        try:
            url = self._start_server()
            settings = Settings(
                url=url, namespace=plan["namespace"], queues=(plan["queue"],), pool=plan["pool"],
                concurrency={plan["pool"]: plan["slots"]}, allow=tuple(plan["allow"]), drain_timeout_s=0.0,
                embedded=False,
            )  # fmt: skip
            self._watch()
            return serve(settings, [], emit=_emit(lambda: self._tell(ready=url)))
        except QWorkerError as error:
            self._tell(failed=str(error))
            return 1
        finally:
            self._clean_up()

    def _start_server(self) -> str:
        path = self._directory / SOCKET
        command = [find_binary(), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700", *_MEMORY_ONLY]
        with (self._directory / SERVER_LOG).open("wb") as said:
            self._server = subprocess.Popen(
                [*command, "--dir", str(self._directory)],
                stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=guardian.dies_with(os.getpid()),
            )  # fmt: skip
        ends = time.monotonic() + _READY_WITHIN_S
        while not guardian.is_up(guardian.ping(str(path))):
            if self._server.poll() is not None or time.monotonic() > ends:
                found = (self._directory / SERVER_LOG).read_text(errors="replace").strip().rpartition("\n")[2]
                raise QWorkerError(f"{command[0]} does not serve on {path}: {found or 'it said nothing'}")
            time.sleep(0.002)
        return to_url(str(path))

    def _watch(self) -> None:
        assert self._server is not None
        poll = select.poll()
        server = os.pidfd_open(self._server.pid)
        for fd in (server, sys.stdin.fileno()):
            poll.register(fd, select.POLLIN)
        try:
            # A copy of the owner's end of stdin may live on in what it forked.
            poll.register(os.pidfd_open(self._plan["owner"]), select.POLLIN)
        except ProcessLookupError:
            pass  # it is gone already, and so is its end
        threading.Thread(target=self._end_with_owner, args=(poll, server), name="qworker-owner", daemon=True).start()

    def _end_with_owner(self, poll: select.poll, server: int) -> None:
        if server in {fd for fd, _ in poll.poll()}:
            if self._over:
                return
            self._tell(failed="its server ended")
            self._clean_up()
            os._exit(1)
        for presses in (1, 2):  # of the three signals that end a worker: drain, then ask and kill
            for _ in range(presses):
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(_ASKED_S)
        self._clean_up()
        os.kill(os.getpid(), signal.SIGKILL)

    def _tell(self, **words: str) -> None:
        try:
            os.write(self._status_fd, json.dumps(words).encode() + b"\n")
        except OSError:
            pass  # the owner is gone

    def _clean_up(self) -> None:
        self._over = True
        if self._server is not None:
            self._server.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def _emit(ready: Callable[[], None]) -> log.Emit:
    """Return what is told of events: prints go out as they are, the rest to the log."""
    streams = {name: log.Writer(stream, str) for name, stream in (("stdout", sys.stdout), ("stderr", sys.stderr))}

    def emit(name: str, /, *, level: str = "info", **fields: object) -> None:
        stream = streams.get(str(fields.get("stream"))) if name == "task.output" else None
        if stream is not None:
            stream.put(f"{fields['text']}\n")
        elif name not in _UNSAID:
            log.event(name, level=level, **fields)
        if name == "worker.started":
            ready()
        elif name == "worker.stopped":
            for stream in streams.values():
                stream.close(1.0)

    return emit


def main() -> NoReturn:
    """Be a private worker; see the module."""
    streams.hold()
    plan, status_fd = json.loads(sys.argv[1]), int(sys.argv[2])
    os.set_inheritable(status_fd, False)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))  # until the worker has its own handlers
    setproctitle.setproctitle(f"qworker: private worker of {plan['owner']}")
    level = os.environ.get("QWORKER_LOG_LEVEL", "").lower()
    log.setup(
        "json" if os.environ.get("QWORKER_LOG_FORMAT", "").lower() == "json" else "console",
        level if level in log.LEVELS else "error",
    )
    try:
        code = _Private(plan, status_fd).run()
    finally:
        log.close()
    sys.exit(code)


if __name__ == "__main__":
    main()
