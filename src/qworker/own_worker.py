"""A worker that belongs to this process: started with a server of its own, ended with it.

    OwnWorker(…) ─► python -m qworker.worker.private ─► {"ready": url} ─► wait_ready() ─► url
                                      └─ ended, unasked ─► on_end(why), in a thread of its own

Used by executor.py. The worker's end of the pipe is its stdin: when this process ends, however it ends, so does the
worker, and nothing of it is left.
"""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

__all__ = ["OwnWorker", "environment"]

_END_WITHIN_S = 8.0
# The path of a socket may be long, and a TMPDIR longer.
_LONGEST_PLACE = 103 - len("/qworker-12345678/server.sock")


class OwnWorker:
    """One private worker. Any thread may call anything; `on_end` is called at most once."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._on_end: Callable[[str], None] = lambda _why: None
        self._ready = threading.Event()
        self._ending = False
        self._failed = ""
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._listener: threading.Thread | None = None
        self._directory = _make_directory()
        self.url = "unix://" + quote(str(self._directory / "server.sock"))

    def start(
        self,
        *,
        slots: int,
        pool: str,
        queue: str,
        namespace: str,
        allow: tuple[str, ...],
        on_end: Callable[[str], None],
    ) -> None:
        """Start it; does not wait until it is ready. `on_end` is told why, if it ends before it is asked to."""
        self._on_end = on_end
        plan: dict[str, Any] = {
            "owner": self._pid, "directory": str(self._directory), "slots": slots, "pool": pool, "queue": queue,
            "namespace": namespace, "allow": allow,
        }  # fmt: skip
        reading, status = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "qworker.worker.private", json.dumps(plan), str(status)],
                stdin=subprocess.PIPE,
                pass_fds=(status,),
                env=environment(),
                start_new_session=True,  # Ctrl-C in a terminal is this process's to hear
            )
        except BaseException:
            os.close(reading)
            shutil.rmtree(self._directory, ignore_errors=True)
            raise
        finally:
            os.close(status)
        self._listener = threading.Thread(
            target=self._listen, args=(reading, self._process), name="qworker-own-worker", daemon=True
        )
        self._listener.start()

    def wait_ready(self, timeout_s: float = 30.0) -> None:
        """Return when it works, or nothing more is to be expected of it."""
        self._ready.wait(timeout_s)

    def end(self) -> None:
        """End it, and everything that it started; returns when it is gone."""
        if os.getpid() != self._pid:
            return  # a forked copy of its owner: it is not ours
        self._ending = True
        with self._lock:
            if self._process is not None:
                _say_end(self._process)
                try:
                    self._process.wait(_END_WITHIN_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()  # what it started ends with it
                    self._process.wait()
            shutil.rmtree(self._directory, ignore_errors=True)
        if self._listener is not None and self._listener is not threading.current_thread():
            self._listener.join()

    def _listen(self, fd: int, process: subprocess.Popen[bytes]) -> None:
        with os.fdopen(fd, "rb") as status:
            for line in status:
                said = json.loads(line)
                self._failed = said.get("failed", self._failed)
                if "ready" in said:
                    self._ready.set()
        code = process.wait()
        if not self._ending:
            how = f"exit status {code}" if code >= 0 else f"signal {-code}"
            self._on_end(self._failed or f"its process ended, with {how}")
        self._ready.set()


def _say_end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    if process.stdin.closed:
        return  # it was said before: a second Ctrl-C ended the wait for it, and the interpreter's exit waits again
    try:
        with process.stdin as life:
            life.write(b".")  # closing it may not do: a fork of this process may hold the pipe open
    except OSError:
        pass  # it has just ended by itself


def _make_directory() -> Path:
    place = tempfile.gettempdir()
    base = place if len(os.fsencode(place)) <= _LONGEST_PLACE else "/tmp"  # noqa: S108 - mkdtemp makes it private
    return Path(tempfile.mkdtemp(prefix="qworker-", dir=base))


def _absolute(path: str) -> Path | None:
    try:
        return Path(path or os.curdir).absolute()
    except FileNotFoundError:
        return None  # the working directory was removed: nothing is found there, and an interpreter would not begin


def environment() -> dict[str, str]:
    """Return an environment in which modules are found where this process finds them."""
    own = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()}
    own |= {str(Path(path) / "lib-dynload") for path in list(own)}
    here = [_absolute(path) for path in sys.path if not path.endswith(".zip")]
    found = [str(path) for path in here if path is not None and str(path) not in own]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(found))}
