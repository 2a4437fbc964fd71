"""Fixtures of the end-to-end tests: real workers, a producer's app, and an execution log beside the queue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.daemon import Worker, start_worker

BASIC = "support.apps.basic:app"
TREE = "support.apps.tree:app"


@pytest.fixture
def execution_log(tmp_path: Path) -> Path:
    path = tmp_path / "executions.log"
    path.touch()
    return path


@pytest.fixture
def start(url: str, tmp_path: Path, execution_log: Path) -> Iterator[Callable[..., Worker]]:
    """Start workers that end with the test, on the test's server unless told otherwise."""
    workers: list[Worker] = []

    def start(*args: str, target: str = BASIC, server_url: str | None = url, **options: Any) -> Worker:
        env = {"EXECUTION_LOG": str(execution_log), **options.pop("env", {})}
        worker = start_worker(server_url, target, *args, log_dir=tmp_path, env=env, **options)
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.close()


@pytest.fixture
def tasks(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The user's module, with its app bound to the test's server."""
    yield from bound_tasks(url, monkeypatch)


@pytest.fixture
def tree(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """The user's module of tasks that open groups and submit others; start its workers with `target=TREE`."""
    yield from bound_tasks(url, monkeypatch, "support.apps.tree")


def bound_tasks(
    url: str, monkeypatch: pytest.MonkeyPatch, name: str = "support.apps.basic"
) -> Iterator[SimpleNamespace]:
    """Import a user's module afresh, so that its app finds this server."""
    import importlib
    import sys

    monkeypatch.setenv("QWORKER_URL", url)
    sys.modules.pop(name, None)
    module = importlib.import_module(name)
    yield module  # type: ignore[misc]
    module.app.close()


def executions(path: Path, event: str = "start") -> list[list[str]]:
    """The lines of the execution log: [event, id, attempt, pid, when, fields]."""
    return [line.split(" ", 5) for line in path.read_text().splitlines() if line.startswith(f"{event} ")]


def starts_by_id(path: Path) -> dict[str, int]:
    """How often each task started, by its own account."""
    counts: dict[str, int] = {}
    for line in executions(path):
        counts[line[1]] = counts.get(line[1], 0) + 1
    return counts
