"""What is between the producer and its server: silent, slow, in crumbs, cut anywhere. Results come, and limits hold."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qworker import App, BrokerUnavailable, WaitTimeout
from qworker.broker.broker import Subscription
from qworker.broker.scripts import load
from support.fake_worker import FakeWorker
from support.proxy import Do, Proxy
from support.servers import Server
from support.waiting import wait_until

SUBMIT = load("submit").sha.encode()


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    proxy = Proxy(one_server.socket_path, tcp=True)
    yield proxy
    proxy.close()


@pytest.fixture
def app(proxy: Proxy) -> Iterator[App]:
    with App(proxy.url, connect_timeout=3.0) as app:
        yield app


@pytest.fixture
def worker(one_server: Server) -> Iterator[FakeWorker]:
    worker = FakeWorker(one_server.url)
    yield worker
    worker.close()


def test_a_push_that_stalls_in_the_middle_holds_up_no_wait_with_a_limit_and_is_not_lost(
    worker: FakeWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)  # nobody asks: only the push can bring it
    app = App(proxy.url, connect_timeout=9.0)  # so that the wire would be waited for three seconds
    future = app.submit("tasks.f")
    task = worker.claim_one()
    stalled = proxy.on(b"message", "stall within", way="answers")

    def answer() -> None:
        wait_until(lambda: app.client()._ear._hearer is not None, description="the main thread to hear")
        worker.succeed(task, "value" * 100)

    thread = threading.Thread(target=answer)
    thread.start()
    began = time.monotonic()
    with contextlib.suppress(WaitTimeout):  # or the question at the limit, on another connection, brings the value
        future.result(timeout=1.0)
    took = time.monotonic() - began
    thread.join()
    assert stalled.seen
    proxy.release()

    assert took < 2.0, "the limit, and the question what it is doing"
    assert future.result(timeout=10) == "value" * 100
    app.close()


def test_a_wire_that_went_dead_without_a_word_is_found_out_and_results_are_pushed_again(
    app: App, worker: FakeWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 0.3)
    waited_for = app.submit("tasks.f", "never")
    worker.claim_one()
    assert isinstance(waited_for.id, str)
    before = proxy.accepted

    proxy.half_open()

    wait_until(lambda: app.client()._ear.connected and proxy.accepted >= before + 2, description="a new subscription")
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)
    app.client()._round_at = 1e18
    with worker.serving(lambda n: n):
        assert [app.submit("tasks.f", n).result(timeout=5) for n in range(5)] == list(range(5))


def test_a_wire_that_is_alive_and_has_nothing_to_say_is_left_alone(
    app: App, worker: FakeWorker, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 0.02)
    checks = 0
    check = Subscription.check

    def counted(self: Subscription) -> None:
        nonlocal checks
        check(self)
        checks += 1

    monkeypatch.setattr(Subscription, "check", counted)
    future = app.submit("tasks.f")
    task = worker.claim_one()
    subscription = app.client()._ear._subscription

    threading.Timer(0.5, worker.succeed, (task, 1)).start()

    assert future.result(timeout=10) == 1
    assert checks >= 3
    assert app.client()._ear._subscription is subscription


@pytest.mark.parametrize("when", ["reading", "before"])
def test_a_read_that_ctrl_c_interrupts_is_no_reason_to_say_that_the_server_is_gone(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, when: str
) -> None:
    caplog.set_level(logging.DEBUG, "qworker.client")
    futures = [app.submit("tasks.f", n) for n in range(3)]
    tasks = worker.claim(3)
    link = type(app.client()._ear._subscription._link)  # type: ignore[union-attr]
    take, main = link.take, threading.current_thread()

    def interrupted(self: object, *, came: bool = False) -> object:
        reply = take(self, came=came) if when == "reading" else None  # type: ignore[arg-type]
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        return reply if when == "reading" else take(self, came=came)  # type: ignore[arg-type]

    monkeypatch.setattr(link, "take", interrupted)

    def answer() -> None:
        wait_until(lambda: app.client()._ear._hearer is not None, description="the main thread to hear")
        for task in tasks:
            worker.succeed(task, task.args[0])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        futures[0].result(20)
    thread.join()
    monkeypatch.setattr(link, "take", take)

    assert [future.result(timeout=10) for future in futures] == [0, 1, 2]
    said = lambda words: [text for record in caplog.records if words in (text := record.getMessage())]  # noqa: E731
    wait_until(lambda: said("interrupted in the middle"), description="the I/O thread to listen anew")
    assert not said("the server is gone")


@pytest.mark.parametrize("do", ["cut before", "cut within", "cut answer", "cut within answer", "mute"])
def test_a_submit_that_is_cut_anywhere_is_sent_again_and_queued_once(
    app: App, worker: FakeWorker, proxy: Proxy, do: Do
) -> None:
    app.submit("tasks.f", "first")
    cut = proxy.on(SUBMIT, do)

    future = app.submit("tasks.f", "second")

    assert cut.seen == 2
    assert [task.args[0] for task in worker.claim(10)] == ["first", "second"]
    assert future.status().state == "claimed"


@pytest.mark.parametrize("slow", [lambda proxy: proxy.trickle(24), lambda proxy: proxy.delay(0.05)])
def test_over_a_slow_wire_everything_comes_only_later(
    app: App, worker: FakeWorker, proxy: Proxy, slow: Callable[[Proxy], None]
) -> None:
    slow(proxy)
    with worker.serving(lambda n: "x" * n):
        futures = app.submit_many([app.named("tasks.f").call(n) for n in range(30)])
        assert [len(future.result(timeout=20)) for future in futures] == list(range(30))


def test_large_values_come_over_a_wire_on_which_they_take_longer_than_an_attempt_may(
    app: App, worker: FakeWorker, proxy: Proxy
) -> None:
    """Four megabytes a second: a few large values in one answer are under way for three times as long."""
    futures = [app.submit("tasks.f", n) for n in range(4)]
    tasks = worker.claim(4)
    proxy.trickle(32_768, "answers", every_s=0.008)
    for task in tasks:
        worker.succeed(task, str(task.args[0]) * 900_000)

    assert [future.result(timeout=20)[:2] for future in futures] == ["00", "11", "22", "33"]


def test_large_tasks_are_submitted_over_a_wire_on_which_they_take_longer_than_an_attempt_may(
    worker: FakeWorker, proxy: Proxy
) -> None:
    with App(proxy.url, connect_timeout=1.5) as app:
        app.submit("tasks.f", "first")
        proxy.trickle(32_768, "requests", every_s=0.016)

        app.submit_many([app.named("tasks.f").call("x" * 900_000) for _ in range(4)])

    assert len(worker.claim(10)) == 5


def test_an_answer_that_never_comes_is_a_typed_error_in_time_and_the_next_call_works(app: App, proxy: Proxy) -> None:
    app.submit("tasks.f", "first")
    proxy.blackhole("answers")
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable):
        app.future("default:x").status()

    assert time.monotonic() - began < 5
    proxy.release()
    assert app.submit("tasks.f", "after").status().state == "queued"
