"""Where the demo plays: a directory that is a project of its own, its embedded server, and worker processes.

    with Stage(keep=False) as stage:
        a = stage.start_worker("A"); stage.wait_ready(a)
        stage.kill(a)                       kill -9, and only ever of processes that were started here
        stage.drain(b)                      TERM, and its exit code
        stage.end_server(); stage.left_behind()
                                            leaving it, however, ends everything and removes the directory

The directory is the working directory meanwhile, and variables and settings of the user's own project are out of
sight: the demo never touches a server that belongs to somebody.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from ..broker import Broker, embedded
from ..errors import QWorkerError
from ..pool.linux import check_platform
from . import notes, processes

__all__ = ["DemoFailed", "Stage", "Worker", "logged_at"]

POLL_S = 0.01
READY_WITHIN_S = 20.0
DRAIN_WITHIN_S = 25.0
END_WITHIN_S = 5.0
SLOTS = {"process": 3, "thread": 4}
_MINE = "QWORKER_"
_URL = "QWORKER_URL"


class DemoFailed(QWorkerError):
    """The demo itself could not go on; what it had seen until then is not judged."""


@dataclass(slots=True)
class Worker:
    """A worker process of the demo."""

    label: str
    process: subprocess.Popen[bytes]
    log: Path
    expected_dead: bool = False

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    def events(self, name: str) -> Iterator[dict[str, Any]]:
        """The events of that name that it has logged so far."""
        for line in self.log.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # not an event: a warning of Python's own, or a line that is being written
            if isinstance(event, dict) and event.get("event") == name:
                yield event

    def last_words(self) -> str:
        """Return the end of its log, for a message."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {line[:300]}" for line in lines[-8:]) or "  (its log is empty)"


class Stage:
    """The private world of one demo. Owned by the main thread."""

    def __init__(self, *, keep: bool = False) -> None:
        self.keep = keep
        self.began = time.monotonic()
        self.workers: list[Worker] = []
        self.server: embedded.Embedded
        self.directory: Path
        self._home = -1
        self._environment: dict[str, str] = {}
        self._on_close: list[Callable[[], None]] = []

    def __enter__(self) -> Stage:
        check_platform()
        self.directory = Path(tempfile.mkdtemp(prefix="qworker-demo-")).resolve()
        try:
            # What makes a directory a project, so that none of its parents is taken for one.
            (self.directory / "pyproject.toml").write_text("# The directory of a `qworker demo`.\n")
            (self.directory / "copies").mkdir()
            self._environment = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(_MINE)}
            self._home = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            os.chdir(self.directory)
            self.server = embedded.ensure(root=self.directory)
            os.environ[_URL] = self.server.url  # for this process; the workers find it by themselves
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def on_close(self, act: Callable[[], None]) -> None:
        """Have this done before the server ends."""
        self._on_close.append(act)

    def start_worker(self, label: str) -> Worker:
        """Start a worker as a user would in a terminal, with its log in a file."""
        command = [sys.executable, "-m", "qworker", "start", "qworker.demo.tasks:app"]
        command += ["-c", ",".join(f"{kind}={slots}" for kind, slots in SLOTS.items()), "--pool", "process"]
        command += ["--max-survivors", "1", "--log-format", "json", "--name", f"demo-{label}"]
        environment = {name: value for name, value in os.environ.items() if name != _URL}
        log = self.directory / f"worker-{label}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.directory,
                env=environment | {notes.DIRECTORY: str(self.directory), notes.WORKER: label},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is the demo's: it ends its workers in its own order
            )
        worker = Worker(label, process, log)
        self.workers.append(worker)
        return worker

    def wait_ready(self, worker: Worker) -> None:
        """Wait until the worker has told the server that it is there.

        Raises:
            DemoFailed: it ended, or is not there in time; with what it logged.
        """
        ends = time.monotonic() + READY_WITHIN_S
        with Broker(self.server.url) as broker:
            while worker.pid not in {record.pid for record in broker.workers()}:
                self.check()
                if time.monotonic() > ends:
                    raise DemoFailed(
                        f"worker {worker.label} is not ready after {READY_WITHIN_S:g} s:\n{worker.last_words()}"
                    )
                time.sleep(POLL_S)

    def check(self) -> None:
        """See to it that no worker has died by itself.

        Raises:
            DemoFailed: one has; with what it logged.
        """
        for worker in self.workers:
            if not worker.expected_dead and worker.process.poll() is not None:
                raise DemoFailed(
                    f"worker {worker.label} ended by itself, with status {worker.process.returncode}:\n"
                    f"{worker.last_words()}"
                )

    def freeze(self, worker: Worker) -> None:
        """Stop a worker's own process; return when it stands still, or has ended."""
        worker.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, worker.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def kill(self, worker: Worker) -> None:
        """kill -9 a worker, frozen or not."""
        worker.expected_dead = True
        worker.process.kill()
        worker.process.wait()

    def drain(self, worker: Worker) -> int | None:
        """Send a worker TERM and return its exit code; None if it does not end."""
        worker.expected_dead = True
        worker.process.terminate()
        try:
            return worker.process.wait(DRAIN_WITHIN_S)
        except subprocess.TimeoutExpired:
            return None

    def end_server(self) -> None:
        """End the server, and the clients of it in this process before."""
        while self._on_close:
            self._on_close.pop()()
        embedded.stop(self.directory)

    def left_behind(self, *, patience_s: float = 1.0) -> list[str]:
        """Return what is still running of all that the demo started, looked for in /proc."""
        ends = time.monotonic() + patience_s
        while (found := processes.belonging_to(self.directory, mark=notes.DIRECTORY)) and time.monotonic() < ends:
            time.sleep(POLL_S)
        return [f"pid {pid}: {processes.command(pid)}" for pid in sorted(found)]

    def close(self) -> None:
        """End whatever is left, by force if need be, and remove the directory."""
        before = _deaf_to_signals()
        try:
            self._end_workers()
            try:
                self.end_server()
            except QWorkerError:
                pass  # it is killed below, as a process of this directory
            for pid in processes.belonging_to(self.directory, mark=notes.DIRECTORY):
                processes.kill(pid)
            self.left_behind(patience_s=END_WITHIN_S)
        finally:
            if self._home >= 0:
                os.chdir(self._home)
                os.close(self._home)
                self._home = -1
            os.environ.pop(_URL, None)
            os.environ.update(self._environment)
            if not self.keep:
                shutil.rmtree(self.directory, ignore_errors=True)
            for number, handler in before.items():
                if handler is not None:  # None: it was not set by Python
                    signal.signal(number, handler)

    def _end_workers(self) -> None:
        running = [worker for worker in self.workers if worker.process.poll() is None]
        for worker in running:
            worker.expected_dead = True
            for _ in range(3):  # drain, stop, kill: each signal is one step
                worker.process.terminate()
                time.sleep(POLL_S)  # two of the same signal at once are one
        ends = time.monotonic() + END_WITHIN_S
        for worker in running:
            try:
                worker.process.wait(max(0.1, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.process.kill()
                worker.process.wait()


def logged_at(event: dict[str, Any]) -> float:
    """Return when a worker logged an event, in Unix time."""
    return datetime.fromisoformat(event["time"]).timestamp()


def _deaf_to_signals() -> dict[int, Any]:
    """Ignore Ctrl-C and TERM from now on; return what was to be done about them."""
    return {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
