"""Two terminals and no URL anywhere: the worker and the producer of one project find each other."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from qworker.broker import embedded
from support.daemon import start_worker
from support.processes import is_running
from support.waiting import wait_until

SRC = Path(__file__).parents[2] / "src"

TASKS = """
from qworker import App
app = App()

@app.task
def double(number: int) -> int:
    return 2 * number
"""
PRODUCER = """
import tasks
print(sum(future.result(timeout=20) for future in [tasks.double.submit(n) for n in range(100)]))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's project, with a runtime directory that is this test's."""
    runtime = tempfile.mkdtemp(prefix="qw-")
    monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    for name in [name for name in os.environ if name.startswith("QWORKER_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "shop"
    root.mkdir()
    (root / "pyproject.toml").touch()
    (root / "tasks.py").write_text(TASKS)
    (root / "producer.py").write_text(PRODUCER)
    yield root
    embedded.stop(root)
    shutil.rmtree(runtime)


def produce(project: Path) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-W", "error", "producer.py"]
    return subprocess.Popen(command, cwd=project, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def says_one_line_with(url: str, errors: str) -> bool:
    """Whether that is all a producer says of itself: which server it uses."""
    return url in errors and errors.count("\n") == 1


def test_a_worker_and_a_producer_of_one_project_need_no_url(project, tmp_path):
    worker = start_worker(None, "tasks:app", "-c", "2", log_dir=tmp_path, cwd=project)
    try:
        out, errors = produce(project).communicate(timeout=40)

        assert out == "9900\n"
        assert errors == "", "only who starts a server says so unasked; who uses it logs that at level INFO"
        note = worker.wait_event("server.embedded")["note"]
        assert str(project) in note
        assert embedded.status(project).url in note
    finally:
        worker.close()


def test_the_producer_may_come_first(project, tmp_path):
    producer = produce(project)
    wait_until(lambda: embedded.status(project).answer == "+PONG", description="the server that the producer starts")

    worker = start_worker(None, "tasks:app", "-c", "2", log_dir=tmp_path, cwd=project)
    try:
        out, errors = producer.communicate(timeout=40)

        assert out == "9900\n"
        assert says_one_line_with(embedded.status(project).url, errors)
    finally:
        producer.kill()
        worker.close()


def test_a_worker_serves_again_after_its_embedded_server_was_killed(project, tmp_path):
    worker = start_worker(None, "tasks:app", "-c", "2", log_dir=tmp_path, cwd=project)
    try:
        before = embedded.status(project)
        assert before.server is not None

        os.kill(before.server, signal.SIGKILL)
        wait_until(lambda: not is_running(before.server or 0), description="the end of the server")
        out, errors = produce(project).communicate(timeout=40)

        assert out == "9900\n"
        assert says_one_line_with(before.url, errors)
        assert embedded.status(project).url == before.url
        assert worker.process.poll() is None
    finally:
        worker.close()


def test_an_embedded_server_that_dies_is_started_again_by_the_worker_alone(project: Path) -> None:
    worker = start_worker(None, "tasks:app", log_dir=project, cwd=project)
    try:
        server = embedded.status(project).server
        assert server is not None

        os.kill(server, signal.SIGKILL)

        worker.wait_event("redis.back", timeout=30)
        again = embedded.status(project).server
        assert again not in (None, server)
        producer = produce(project)
        assert producer.communicate(timeout=30)[0].strip() == "9900"
    finally:
        worker.close()
