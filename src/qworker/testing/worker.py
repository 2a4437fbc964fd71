"""A real worker for one test: `qworker start` as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..app import App
from ..own_worker import environment
from .bound import find, target_of

__all__ = ["RealWorker"]

_READY_WITHIN_S = 30.0
_END_WITHIN_S = 10.0


class RealWorker:
    """One worker. Made by the fixture `qworker_worker`, which ends it."""

    def __init__(
        self, app: App | str, *args: str, url: str, pool: str, slots: int, directory: Path, drain_timeout: float = 1.0
    ) -> None:
        bound = find(app)
        queues = dict.fromkeys(["default", *(task.settings.queue for task in bound.tasks.values())])
        self._log_path = directory / f"qworker-{time.monotonic_ns()}.log"
        settings = {
            **{name: value for name, value in environment().items() if not name.startswith("QWORKER_")},
            "QWORKER_URL": url,
            "QWORKER_NAMESPACE": bound.namespace,
        }
        command = [
            sys.executable, "-m", "qworker", "start", target_of(app), "--pool", pool, "-c", f"{pool}={slots}",
            "-q", ",".join(queues), "--drain-timeout", f"{drain_timeout:g}", "--log-format", "json", *args,
        ]  # fmt: skip
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=settings, cwd=Path.cwd()
            )

    @property
    def pid(self) -> int:
        """The worker's process."""
        return self._process.pid

    def log(self) -> str:
        """What it has logged, a JSON object a line."""
        return self._log_path.read_text(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """The logged events of this name, as `task.ended`."""
        found = []
        for line in self.log().splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # what a task wrote to the real stream, or a line half written
            if isinstance(event, dict) and event.get("event") == name:
                found.append(event)
        return found

    def wait_ready(self) -> None:
        """Return when it serves.

        Raises:
            AssertionError: it ended, or did not come up; the text has its log.
        """
        ends = time.monotonic() + _READY_WITHIN_S
        while not self.events("worker.started"):
            if self._process.poll() is not None or time.monotonic() > ends:
                self.stop()
                raise AssertionError(f"the worker did not start:\n{self.log()[-4000:]}")
            time.sleep(0.01)

    def stop(self) -> None:
        """End it, as TERM does: what runs may finish for a moment."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_END_WITHIN_S)
            except subprocess.TimeoutExpired:
                os.kill(self._process.pid, 9)  # its children end with it
        self._process.wait()
