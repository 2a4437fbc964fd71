"""The fixtures; see the package's docstring. Loaded by pytest at its start, so nothing heavy is imported up here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qworker import App

    from .server import PrivateServer
    from .worker import RealWorker

__all__ = ["qworker_app", "qworker_server", "qworker_worker"]


@pytest.fixture(scope="session")
def _qworker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateServer]:
    from .server import PrivateServer

    server = PrivateServer(tmp_path_factory.mktemp("qworker-server"))
    yield server
    server.stop()


@pytest.fixture
def qworker_server(_qworker_server: PrivateServer) -> PrivateServer:
    """A Valkey or Redis server of this test session alone, in memory, empty at the start of each test; see `.url`."""
    _qworker_server.flush()
    return _qworker_server


@pytest.fixture
def qworker_app(request: pytest.FixtureRequest) -> Iterator[Callable[..., App]]:
    """`qworker_app(app, inline=False)`: bind an app to the private server, or make it inline, until the test ends.

    `app` is an `App`, or where it is ("shop.tasks:app"); without it a new one is made. What it submits is noted, for
    `assert_submitted`. Inline, no server is started.
    """
    from .bound import Bound

    bound: list[Bound] = []

    def bind(app: App | str | None = None, *, inline: bool = False) -> App:
        url = None if inline else request.getfixturevalue("qworker_server").url
        bound.append(Bound(app, url=url))
        return bound[-1].app

    yield bind
    for one in reversed(bound):
        one.undo()


@pytest.fixture
def qworker_worker(qworker_server: PrivateServer, tmp_path: Path) -> Iterator[Callable[..., RealWorker]]:
    """`qworker_worker(app, pool="process", slots=2, *args)`: a real worker for this app, ended with the test.

    `app` is one that `qworker_app` bound, or where it is; it must be in a module that a worker can import. Further
    `args` go to `qworker start`. Returns when the worker serves.
    """
    from .worker import RealWorker

    workers: list[RealWorker] = []

    def start(app: App | str, *args: str, pool: str = "process", slots: int = 2, **options: Any) -> RealWorker:
        workers.append(
            RealWorker(app, *args, url=qworker_server.url, pool=pool, slots=slots, directory=tmp_path, **options)
        )
        workers[-1].wait_ready()
        return workers[-1]

    yield start
    for worker in workers:
        worker.stop()
