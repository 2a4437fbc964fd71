"""A real worker for end-to-end tests: `qworker start` as a process of its own, its log read as events.

worker = start_worker(url, "support.apps.basic:app", "-c", "2")     # has started when this returns
worker.kill(); worker.freeze(); worker.thaw(); worker.term()
worker.wait_event("task.ended", task=fut.id)
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.waiting import wait_until

TESTS = Path(__file__).resolve().parents[1]


class Worker:
    """One `qworker start`. Made by `start_worker`; owned by one test."""

    def __init__(self, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.process = process
        self.log_path = log_path

    @property
    def pid(self) -> int:
        return self.process.pid

    def events(self, name: str | None = None, /, **fields: Any) -> list[dict[str, Any]]:
        """The events logged so far, of that name and with these fields."""
        found = []
        for line in self.log_path.read_text(errors="replace").splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue  # something that a task wrote to the real stderr, or a line half written
            if (name is None or event.get("event") == name) and all(event.get(k) == v for k, v in fields.items()):
                found.append(event)
        return found

    def wait_event(self, name: str, /, *, timeout: float = 15.0, **fields: Any) -> dict[str, Any]:
        """Wait for an event and return the first."""
        return self.wait_events(name, 1, timeout=timeout, **fields)[0]

    def wait_events(self, name: str, count: int, /, *, timeout: float = 15.0, **fields: Any) -> list[dict[str, Any]]:
        """Wait for so many events and return all. A worker writes its log behind its work: a result may come first."""

        def look() -> list[dict[str, Any]]:
            found = self.events(name, **fields)
            if len(found) < count and self.process.poll() is not None:
                found = self.events(name, **fields)  # it wrote the rest before it ended
                if len(found) < count:
                    raise AssertionError(
                        f"the worker ended ({self.process.returncode}) without {name} {fields}:\n{self.log()}"
                    )
            return found if len(found) >= count else []

        return wait_until(look, timeout=timeout, description=f"{count} of event {name} {fields} of the worker")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")[-6000:]

    def processes(self) -> list[int]:
        """The pids of the worker and of everything below it."""
        return [self.pid, *descendants(self.pid)]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def term(self) -> None:
        self.process.terminate()

    def wait(self, timeout: float = 40.0) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker did not end within {timeout:g} s:\n{self.log()}") from None

    def close(self) -> None:
        """End it, whatever state it is in, and everything below it."""
        below = descendants(self.pid)
        if self.process.poll() is None:
            self.thaw()
            self.kill()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def spawn_worker(
    url: str | None, *args: str, log_dir: Path, env: dict[str, str] | None = None, cwd: Path | None = None,
    prefix: Sequence[str] = (),
) -> Worker:  # fmt: skip
    """Start `qworker start` without waiting for anything; `prefix` is a command that becomes it."""
    log_path = log_dir / f"worker-{time.monotonic_ns()}.log"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWORKER_")}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), environment.get("PYTHONPATH", "")])
    if url is not None:
        environment["QWORKER_URL"] = url
    environment.update(env or {})
    with log_path.open("wb") as stream:
        process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "qworker", "start", *args, "--log-format", "json"],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=environment, cwd=cwd or log_dir,
        )  # fmt: skip
    return Worker(process, log_path)


def start_worker(
    url: str | None, *args: str, log_dir: Path, env: dict[str, str] | None = None, cwd: Path | None = None,
    prefix: Sequence[str] = (),
) -> Worker:  # fmt: skip
    """Start `qworker start` and return once it serves."""
    worker = spawn_worker(url, *args, log_dir=log_dir, env=env, cwd=cwd, prefix=prefix)
    try:
        worker.wait_event("worker.started", timeout=20)
    except BaseException:
        worker.close()
        raise
    return worker


def descendants(pid: int) -> list[int]:
    """The pids of all processes below one, deepest last."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z":
                    children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for parent in level for child in children.get(parent, [])]
        found += level
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
