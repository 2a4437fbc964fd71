"""How the demo finds out what is left of it: real processes, found by where they came from."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qworker.demo import processes
from support.waiting import wait_until

SLEEP = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)"]
MARK = "QWDEMO_TEST_DIR"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    running: list[subprocess.Popen[bytes]] = []
    yield running
    for process in running:
        process.kill()
        process.wait()


def test_a_process_with_the_mark_is_found_though_it_works_elsewhere_in_a_session_of_its_own(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    env = os.environ | {MARK: str(tmp_path)}
    started.append(subprocess.Popen(SLEEP, env=env, cwd="/", start_new_session=True))

    # Just after its exec a process may show no environment yet.
    wait_until(
        lambda: processes.belonging_to(tmp_path, mark=MARK) == {started[0].pid}, description="the process to be found"
    )


def test_a_process_that_works_in_the_directory_is_found_without_the_mark(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    inside = tmp_path / "deeper"
    inside.mkdir()
    started.append(subprocess.Popen(SLEEP, cwd=inside))

    assert processes.belonging_to(tmp_path, mark=MARK) == {started[0].pid}


def test_other_processes_are_not_found_nor_this_one(
    tmp_path: Path, started: list[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    started.append(subprocess.Popen(SLEEP, cwd="/", env=os.environ | {MARK: f"{tmp_path}-of-another"}))

    assert processes.belonging_to(tmp_path, mark=MARK) == set()


def test_a_zombie_does_not_run_and_is_not_found(tmp_path: Path, started: list[subprocess.Popen[bytes]]) -> None:
    child = subprocess.Popen(SLEEP, cwd=tmp_path)
    started.append(child)
    assert processes.is_running(child.pid)

    processes.kill(child.pid)

    wait_until(lambda: not processes.is_running(child.pid), description="the killed process ends, still unreaped")
    assert processes.belonging_to(tmp_path, mark=MARK) == set()


def test_a_thread_is_there_until_it_ends() -> None:
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    number = thread.native_id
    assert number is not None
    assert processes.is_running(os.getpid(), number)

    leave.set()
    thread.join()

    wait_until(lambda: not processes.is_running(os.getpid(), number), description="the thread is gone from /proc")


def test_a_kill_of_what_has_ended_is_no_error(started: list[subprocess.Popen[bytes]]) -> None:
    child = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""])
    child.wait()

    processes.kill(child.pid)

    assert processes.command(child.pid) == "(gone)"
