"""The tasks of docs/stopping.md, run in a real worker, and stopped as the page says."""

from __future__ import annotations

import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qworker import App, How, State, TaskTimedOut
from support.daemon import Worker, start_worker
from support.servers import any_kind, start_server
from support.waiting import wait_until

PAGE = Path(__file__).resolve().parents[2] / "docs" / "stopping.md"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[App, Worker]]:
    """The page's tasks in a worker with two process slots."""
    folder = tmp_path_factory.mktemp("page")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "tasks.py").write_text(code)
    server = start_server(any_kind(), folder)
    try:
        worker = start_worker(server.url, "tasks:app", "-c", "2", log_dir=folder, cwd=folder)
        try:
            with App(server.url) as app:
                yield app, worker
        finally:
            worker.close()
    finally:
        server.stop()


def test_a_task_that_checks_ends_by_itself(running):
    app, _ = running

    assert app.submit("tasks.convert", ["a", "b"]).result(timeout=15) == 2
    assert app.submit("tasks.book", ["a"]).result(timeout=15) == 1


def test_a_task_blocked_in_recv_is_woken(running):
    app, _ = running
    with socket.create_server(("127.0.0.1", 0)) as silent:
        future = app.submit("tasks.listen", *silent.getsockname())
        connection, _ = silent.accept()
        with connection:
            receipt = future.stop(wait=10)

    assert (receipt.outcome, receipt.how, receipt.still_running) == (State.CANCELLED, How.NOTICED, False)
    assert receipt.took < 2


def test_the_program_that_a_task_runs_ends_with_it(running, tmp_path):
    app, _ = running
    mark = tmp_path / "pid"
    code = f"import os, pathlib, time; pathlib.Path({str(mark)!r}).write_text(str(os.getpid())); time.sleep(600)"
    future = app.submit("tasks.render", [sys.executable, "-c", code])
    pid = int(wait_until(lambda: mark.exists() and mark.read_text(), description="the program to run"))

    assert future.stop(wait=10).still_running is False

    wait_until(lambda: not Path(f"/proc/{pid}").exists(), description="the program to be gone")


def test_code_that_cannot_check_is_interrupted(running):
    app, _ = running
    future = app.submit(app.named("tasks.compute").options(timeout=1, interrupt=True), 10**12)

    with pytest.raises(TaskTimedOut):
        future.result(timeout=20)

    assert future.outcome is not None
    assert future.outcome.how is How.INTERRUPTED


def test_an_import_goes_through_all_of_its_rows(running):
    app, worker = running

    future = app.submit("tasks.import_rows", ["one", "two"])

    assert future.result(timeout=15) is None
    worker.wait_event("task.output", task=future.id, text="two")
