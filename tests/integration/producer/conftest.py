"""Fixtures: a server of the test's own, that anything may be done to, an app, and a worker that does as it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from qworker import App
from support.fake_worker import FakeWorker
from support.servers import Server


@pytest.fixture
def server(new_server: Callable[..., Server]) -> Server:
    return new_server()


@pytest.fixture
def app(server: Server) -> Iterator[App]:
    with App(server.url, connect_timeout=1.0) as app:
        yield app


@pytest.fixture
def worker(server: Server) -> Iterator[FakeWorker]:
    worker = FakeWorker(server.url)
    yield worker
    worker.close()
