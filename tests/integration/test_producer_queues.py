"""What cannot be asked of one queue keeps nobody from the results of the others."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from qworker import App, Task, unserved
from qworker.broker.broker import Subscription
from qworker.broker.keys import Keyspace
from qworker.errors import BrokerError, BrokerUnavailable, TaskExpired
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
    worker = FakeWorker(server.url, queue="good")
    yield worker
    worker.close()


def task_of(app: App) -> Task[..., Any]:
    return app.tasks.get("tasks.f") or app.task(name="tasks.f")(lambda: None)


def test_a_queue_whose_keys_are_spoiled_does_not_deafen_the_client(
    app: App, worker: FakeWorker, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    task = task_of(app)
    bad, good = (task.options(queue=queue).submit() for queue in ("bad", "good"))
    inbox = app.client()._ear._subscription
    with redis.Redis.from_url(server.url) as client:
        client.set(Keyspace("default").queue("bad").prefix + "bodies", "spoiled")
    handles = [app.future(bad.id), app.future(good.id)]  # nothing is pushed for these

    assert not handles[0].wait(0.3)
    worker.succeed(worker.claim_one(), 2)

    assert handles[1].result(10) == 2
    assert good.result(10) == 2
    assert app.client()._ear._subscription is inbox
    assert sum("results of queue 'bad' are late" in record.message for record in caplog.records) == 1


def test_a_deadline_is_asked_for_again_when_that_failed_of_another_queue(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = app.client()._look
    expire, failed = look.expire, []

    def fails_once(queue: str, *args: Any, **more: Any) -> Any:
        if not failed:
            failed.append(queue)
            raise BrokerUnavailable("it is gone")
        return expire(queue, *args, **more)

    monkeypatch.setattr(look, "expire", fails_once)
    futures = [task_of(app).options(queue=queue, deadline=0.2).submit() for queue in ("one", "other")]

    assert all(future.wait(10) for future in futures)  # which never looks itself
    assert [type(future.exception()) for future in futures] == [TaskExpired, TaskExpired]
    assert len(failed) == 1


def test_a_handle_that_waits_learns_of_a_deadline_that_somebody_else_has_set(
    app: App, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unserved, "AFTER_S", 0.05)
    with App(server.url) as other:
        id_ = task_of(other).options(deadline=0.5).submit().id

    began = time.monotonic()
    with pytest.raises(TaskExpired):
        app.future(id_).result(15)
    assert time.monotonic() - began < 10, "it was found by the look of a wait whose time is up"


def test_messages_without_a_pause_are_no_reason_not_to_submit(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.client()
    monkeypatch.setattr(Subscription, "next", lambda *_: b"\x90")  # a push of nothing, and always one more

    async def submit() -> str:
        return (await asyncio.wait_for(task_of(app).asubmit(), 10)).id

    assert asyncio.run(submit()).startswith("default:")


def test_a_signals_handler_may_close_the_app_that_its_thread_is_about_to_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which takes connections, and never answers
        app = App(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", connect_timeout=1.0)
        before = signal.signal(signal.SIGALRM, lambda *_: app.close())
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        began = time.monotonic()
        try:
            with pytest.raises(BrokerError):
                app.client()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - began < 10
