"""`qworker demo`, as a stranger runs it: the whole of it, small; interrupted; and with a worker that dies on it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qworker.demo import processes
from support.waiting import wait_until

pytestmark = [pytest.mark.timeout(150), pytest.mark.valkey]

FILES = 40


class Demo:
    """A demo that runs, in a temporary directory of its own."""

    def __init__(self, directory: Path, *args: str) -> None:
        self.directory = directory
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}
        environment |= {"TMPDIR": str(directory), "QWORKER_URL": "redis://nobody.invalid:1", "QWORKER_POOL": "fibre"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "qworker", "demo", "--files", str(FILES), *args],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.output += line

    def wait_for(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.poll() is None, self.output
            return re.search(pattern, self.output)

        return wait_until(found, timeout=60, description=f"{pattern!r} in the demo's output")  # type: ignore[return-value]

    def end(self) -> int:
        """Wait for its end; return its exit code."""
        code = self.process.wait(120)
        self._reader.join()
        return code

    def leftovers(self) -> list[str]:
        """What is left of it: processes that were started with its TMPDIR or work in there, files, its directory.

        The directory for this user's sockets stays, empty: every embedded server of the user has its socket there.
        """
        running = processes.belonging_to(self.directory, mark="TMPDIR")
        files = [path.name for path in self.directory.rglob("*") if path != self.directory / f"qworker-{os.getuid()}"]
        return [*(processes.command(pid) for pid in running), *files]


@pytest.fixture
def start_demo(tmp_path: Path) -> Iterator[Callable[..., Demo]]:
    demos: list[Demo] = []

    def start(*args: str) -> Demo:
        directory = tmp_path / "tmp"
        directory.mkdir()
        demos.append(Demo(directory, *args))
        return demos[-1]

    yield start
    for demo in demos:
        if demo.process.poll() is None:
            demo.process.terminate()
        demo.end()


def test_the_demo_keeps_every_promise_and_leaves_nothing_behind(start_demo: Callable[..., Demo]) -> None:
    """With settings around that belong to another project, and are none of its business."""
    demo = start_demo("--json")

    code = demo.end()

    told = json.loads(demo.output)
    assert told["problems"] == []
    assert (code, told["ok"], told["lost"], told["left_behind"], told["survivors_left"]) == (0, True, [], [], 0)
    outcomes = {(row["state"], row["how"]): row["tasks"] for row in told["outcomes"]}
    assert outcomes == {
        ("succeeded", "returned"): 2 * FILES + 10 + 20,  # the work, the census, what was flaky
        ("failed", "raised"): 5,
        ("timed_out", "killed"): 4,
        ("timed_out", "left_running"): 1,
        ("timed_out", "noticed"): 1,
        ("cancelled", "killed"): 2,
        ("cancelled", "never_started"): 25,
        ("cancelled", "noticed"): 2,
    }
    assert told["started_again"]["its child was killed -9"] == 1
    assert told["started_again"]["its worker was killed -9"] >= 1
    assert "no reason known" not in told["started_again"]
    assert told["killed_worker"]["held"] >= told["killed_worker"]["running"] >= 1
    assert told["work"]["same"]
    assert told["work"]["queue"]["files"] == FILES
    assert demo.leftovers() == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_demo_that_is_interrupted_leaves_no_process_and_no_directory(
    start_demo: Callable[..., Demo], number: int, code: int
) -> None:
    demo = start_demo()
    demo.wait_for("tasks that never end")  # a server, two workers, and what hangs in them

    demo.process.send_signal(number)

    assert demo.end() == code
    assert "Traceback" not in demo.output
    assert demo.leftovers() == []


def test_a_demo_whose_worker_is_killed_by_somebody_else_says_so_and_ends_1(start_demo: Callable[..., Demo]) -> None:
    demo = start_demo()
    worker = int(demo.wait_for(r"B is there \(pid (\d+)\)")[1])

    processes.kill(worker)

    assert demo.end() == 1
    assert "qworker demo: worker B ended by itself, with status -9:" in demo.output
    assert demo.leftovers() == []
