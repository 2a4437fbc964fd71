"""`--allow`: functions of the named modules run without an app; nothing else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qworker import App, TaskError, WaitTimeout
from support.apps import plain
from support.daemon import Worker, start_worker

HERE = "support.apps.plain"


@pytest.fixture
def app(url: str) -> Iterator[App]:
    with App(url) as app:
        yield app


@pytest.fixture
def allow(url: str, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Start a worker without an app, which allows these modules."""
    workers: list[Worker] = []

    def start(modules: str, *args: str) -> Worker:
        workers.append(start_worker(url, "--allow", modules, "-c", "1", *args, log_dir=tmp_path))
        return workers[-1]

    yield start
    for worker in workers:
        worker.close()


def test_functions_of_an_allowed_module_run_without_an_app(app, allow) -> None:
    worker = allow(HERE)

    assert app.submit(plain.square, 12).result(timeout=10) == 144
    assert app.submit(plain.Box.double, 4).result(timeout=10) == 8
    assert app.submit(plain.later, "x").result(timeout=10) == "x"
    assert worker.events("worker.started", allow=HERE)
    assert not worker.events("worker.allows_everything")


def test_what_the_module_merely_imported_is_refused_and_what_is_elsewhere_waits(app, allow, tmp_path) -> None:
    worker = allow(HERE)
    reached = tmp_path / "reached"

    with pytest.raises(LookupError, match=r"cannot run .*\.os\.system: 'os' is a module that .* imported"):
        app.submit(f"{HERE}.os.system", f"touch {reached}").result(timeout=10)
    with pytest.raises(LookupError, match=r"what is found there is posix\.system, of another name"):
        app.submit(f"{HERE}.system", f"touch {reached}").result(timeout=10)
    elsewhere = app.submit("os.system", f"touch {reached}")
    worker.wait_event("task.unknown", name="os.system")

    with pytest.raises(WaitTimeout):
        elsewhere.result(timeout=0.2)
    assert elsewhere.cancel()
    assert not reached.exists()


def test_an_allowed_module_that_fails_at_import_ends_the_start_with_one_line(url, tmp_path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qworker", "start", "--url", url, "--allow", "support.apps.broken_import"],
        capture_output=True, text=True, timeout=30, cwd=Path(__file__).parents[1], check=False,
    )  # fmt: skip

    assert done.returncode == 2
    assert "cannot import support.apps.broken_import: RuntimeError: not today (" in done.stderr


def test_everything_may_be_allowed_and_the_log_says_what_that_means(app, allow) -> None:
    worker = allow("*")

    assert app.submit(pow, 2, 10).result(timeout=10) == 1024
    with pytest.raises((LookupError, TaskError), match=r"importing support\.apps\.broken_import failed: RuntimeError"):
        app.submit("support.apps.broken_import.f").result(timeout=10)
    (told,) = worker.events("worker.allows_everything", level="warning")
    assert "any function that can be imported here" in told["note"]


def test_children_that_are_fresh_interpreters_know_the_allowed_modules_too(app, allow) -> None:
    """The import of threaded_app leaves a thread, so that children are not forked."""
    worker = allow(f"support.apps.threaded_app,{HERE}")

    assert worker.events("app.warning")
    assert app.submit(plain.square, 5).result(timeout=10) == 25
