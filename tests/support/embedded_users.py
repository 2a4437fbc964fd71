"""Processes that use the embedded server of a project, and what the tests ask of it.

A `User` is a process that calls `ensure`, prints what it got and lives until it is told to leave or killed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import redis

from qworker.broker import embedded, places
from support.processes import is_running
from support.waiting import wait_until

SRC = Path(embedded.__file__).parents[2]
LONG_S = 60.0  # a grace that no test waits for
SHORT_S = 0.3

USER = """
import json, os, sys
from pathlib import Path
from qworker.broker import embedded
from qworker.errors import QWorkerError
cwd, grace_s = Path(sys.argv[1]), float(sys.argv[2])
if "nobody" in sys.argv:
    os.setuid(65534)
if "wait" in sys.argv:
    sys.stdin.readline()
try:
    found = embedded.ensure(cwd=cwd, grace_s=grace_s, timeout_s=20)
except QWorkerError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
    sys.exit(1)
print(json.dumps({"url": found.url, "root": str(found.root), "started": found.started, "line": found.line}), flush=True)
if "fork" in sys.argv:
    child = os.fork()
    if child:
        print(json.dumps(child), flush=True)
        os._exit(0)
sys.stdin.read()
"""


class User:
    """A process that uses the embedded server of a directory."""

    def __init__(self, cwd: Path, grace_s: float, *flags: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(cwd), str(grace_s), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SRC), **env},
        )
        self._found: dict[str, Any] | None = None

    @property
    def found(self) -> dict[str, Any]:
        """What `ensure` returned there; waits for it."""
        if self._found is None:
            self._found = self.read()
        return self._found

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return str(self.found["url"])

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def leave(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()  # ends only if neither guardian nor server has inherited the pipe


def processes_of(root: Path) -> list[int]:
    """The guardians and servers that run for a root: by their command line and by their working directory."""
    state = root / places.STATE_DIR
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            inside = (entry / "cwd").readlink() == state
        except OSError:
            continue
        if inside and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found


def facts(root: Path) -> embedded.Status:
    seen = embedded.status(root)
    assert seen.running
    assert seen.guardian is not None
    assert seen.server is not None
    return seen


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=None)


def gone(root: Path, *pids: int | None) -> None:
    """Wait for the end of these processes, and of everything else of that root."""
    wait_until(
        lambda: not any(is_running(pid) for pid in pids if pid) and not processes_of(root),
        description=f"the end of {pids}",
    )


def run_here(code: str, project: Path, runtime: Path) -> str:
    """Run code in a process of its own, with `ensure`, `project` and `guardian` at hand; return what it printed."""
    head = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom qworker.broker import embedded, guardian\n"
        "project = Path(sys.argv[1])\nensure = lambda: embedded.ensure(root=project)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(SRC), "XDG_RUNTIME_DIR": str(runtime)}
    command = [sys.executable, "-W", "error", "-c", head + code, str(project)]
    return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True, timeout=30).stdout
