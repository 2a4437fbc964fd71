"""A thread that waits for a result listens for it itself; whatever disturbs it, nobody's answer is lost."""

from __future__ import annotations

import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from qworker import App, Future
from qworker.broker.broker import Subscription
from qworker.broker.listening import Listening
from qworker.errors import BrokerUnavailable
from support.fake_worker import FakeWorker
from support.interrupts import raises_at
from support.servers import Server
from support.waiting import wait_until


@pytest.fixture(autouse=True)
def _never_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is found by the client's rounds: what arrives was heard."""
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)


class Waiter(threading.Thread):
    """Waits for a future's result; hears for all, if it is the first to wait."""

    def __init__(self, app: App, future: Future[Any]) -> None:
        super().__init__(daemon=True)
        self.future = future
        self.value: Any = None
        self.start()
        wait_until(lambda: app.client()._ear._hearer is not None, description="a thread that hears")

    def run(self) -> None:
        try:
            self.value = self.future.result(20)
        except BaseException as error:
            self.value = error

    def told(self) -> Any:
        self.join(20)
        return self.value


def test_the_thread_that_waits_is_the_one_that_settles(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled_by: list[threading.Thread] = []
    monkeypatch.setattr(Future, "_invoke_callbacks", lambda _: settled_by.append(threading.current_thread()))
    waiter = Waiter(app, app.submit("tasks.f"))

    worker.succeed(worker.claim_one(), 1)

    assert waiter.told() == 1
    assert settled_by == [waiter]


def test_it_settles_what_others_wait_for_too_and_then_leaves_the_ear_to_the_io_thread(
    app: App, worker: FakeWorker
) -> None:
    first, second, third = (app.submit("tasks.f", n) for n in range(3))
    waiters = [Waiter(app, first), Waiter(app, second)]
    tasks = {task.args[0]: task for task in worker.claim(3)}

    worker.succeed(tasks[1], "second")
    assert waiters[1].told() == "second"
    worker.succeed(tasks[0], "first")
    assert waiters[0].told() == "first"

    worker.succeed(tasks[2], "third")
    wait_until(third.done, description="the I/O thread to hear")
    assert third.result() == "third"


def test_a_value_that_is_too_large_for_a_push_is_asked_for_while_it_listens_on(app: App, worker: FakeWorker) -> None:
    waiter = Waiter(app, app.submit("tasks.f"))

    worker.succeed(worker.claim_one(), "x" * 10_000)

    waiter.join(3)  # the I/O thread looks round by itself after 5 s
    assert waiter.value == "x" * 10_000


def test_it_returns_when_another_thread_settles_its_future(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f")
    waiter = Waiter(app, future)

    assert future.cancel()

    assert type(waiter.told()).__name__ == "TaskCancelled"
    again = app.submit("tasks.f")
    worker.succeed(worker.claim_one(), 2)
    assert again.result(20) == 2


def test_a_limit_ends_the_hearing_and_the_next_wait_hears_again(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f")
    for _ in range(3):
        with pytest.raises(TimeoutError):
            future.result(timeout=0.05)

    worker.succeed(worker.claim_one(), 3)

    assert future.result(20) == 3


def test_an_interrupt_from_the_keyboard_ends_the_wait_and_nothing_else(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f")

    def interrupt() -> None:
        wait_until(lambda: app.client()._ear._hearer is not None, description="the main thread to hear")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        future.result(20)
    thread.join()

    worker.succeed(worker.claim_one(), 4)
    wait_until(future.done, description="the I/O thread to hear")
    assert future.result() == 4


def test_a_server_that_goes_away_and_comes_back_is_heard_again(app: App, server: Server) -> None:
    waiter = Waiter(app, app.submit("tasks.f"))
    server.kill()
    wait_until(lambda: not app.client()._ear.connected, description="the client to notice")
    server.start()
    worker = FakeWorker(server.url)

    worker.succeed(worker.claim_one(), 5)

    assert waiter.told() == 5
    worker.close()


def test_the_next_wait_hears_what_the_one_before_has_left_unread(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The I/O thread is woken to read the rest, and comes too late: this thread hears again by then."""
    first, second = app.submit("tasks.f", 1), app.submit("tasks.f", 2)
    monkeypatch.setattr(app.client()._ear, "take_messages", lambda _: None)
    for task in sorted(worker.claim(2), key=lambda task: int(task.args[0])):
        worker.succeed(task, task.args[0])
    worker.claim(1)  # the server has sent both outcomes before it answers this: they are read as one

    assert first.result(20) == 1
    inbox = app.client()._ear._subscription
    assert inbox is not None
    assert inbox.held()
    assert second.wait(5)


def test_a_connection_that_is_checked_again_at_once_is_not_taken_for_lost(app: App) -> None:
    """As after a Ctrl-C, and another one: everything is asked for each time, and the inbox for a sign of life."""
    inbox = app.client()._ear._subscription
    assert inbox is not None

    for _ in range(20):
        inbox.check()

    assert not inbox.failed


def test_closing_the_app_ends_the_hearing(app: App) -> None:
    waiter = Waiter(app, app.submit("tasks.f"))

    app.close()

    assert "the app was closed" in str(waiter.told())


def test_a_limit_may_be_longer_than_the_kernel_can_wait(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f")
    answer = threading.Timer(0.05, lambda: worker.succeed(worker.claim_one(), 6))
    answer.start()

    assert future.wait(timeout=30 * 24 * 3600.0)
    answer.join()


def test_it_returns_with_its_own_answer_however_much_else_comes(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [b""] * 1000
    taken: list[str] = []
    read = Subscription.read

    def following(self: Subscription, _timeout_s: float = 0.0, *, came: bool = False) -> bytes | None:
        taken.append(threading.current_thread().name)
        if len(taken) == 1:
            return read(self, came=came)
        return others.pop() if others else None

    monkeypatch.setattr(Subscription, "read", following)
    monkeypatch.setattr(Subscription, "held", lambda _: bool(taken and others))
    monkeypatch.setattr(Subscription, "next", following)
    waiter = Waiter(app, app.submit("tasks.f"))
    worker.succeed(worker.claim_one(), 8)

    assert waiter.told() == 8
    assert taken.count(waiter.name) <= 2
    wait_until(lambda: not others, description="the I/O thread to take the rest")


def test_ctrl_c_in_the_middle_of_settling_loses_no_answer(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    futures = [app.submit("tasks.f", n) for n in range(3)]
    settle = Future.set_result
    main = threading.current_thread()

    def interrupted(self: Future[Any], value: Any) -> None:
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        settle(self, value)

    monkeypatch.setattr(Future, "set_result", interrupted)

    def answer() -> None:
        wait_until(lambda: app.client()._ear._hearer is not None, description="the main thread to hear")
        for n, task in enumerate(worker.claim(3)):
            worker.succeed(task, n)

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        futures[0].result(20)
    thread.join()

    done, missing = concurrent.futures.wait(futures, timeout=20)
    assert (len(done), len(missing)) == (3, 0)
    assert sorted(future.result() for future in futures) == [0, 1, 2]


@pytest.fixture
def signalled() -> Iterator[Callable[[App, Callable[[], object]], threading.Thread]]:
    """Have something done by a signal's handler in the main thread, as soon as that hears."""

    def arrange(app: App, work: Callable[[], object]) -> threading.Thread:
        signal.signal(signal.SIGUSR1, lambda *_: work())

        def send() -> None:
            wait_until(lambda: app.client()._ear._hearer is not None, description="the main thread to hear")
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

        thread = threading.Thread(target=send)
        thread.start()
        return thread

    before = signal.getsignal(signal.SIGUSR1)
    yield arrange
    signal.signal(signal.SIGUSR1, before)


def test_a_signals_handler_may_wait_in_the_middle_of_a_wait(app: App, worker: FakeWorker, signalled: Any) -> None:
    outer, inner = app.submit("tasks.f", "outer"), app.submit("tasks.f", "inner")
    tasks = {task.args[0]: task for task in worker.claim(2)}
    told: list[Any] = []

    def work() -> None:
        worker.succeed(tasks["inner"], 1)
        told.append(inner.wait(10))
        worker.succeed(tasks["outer"], 2)

    thread = signalled(app, work)

    assert outer.result(20) == 2
    assert told == [True]
    assert inner.result() == 1
    thread.join()


def test_a_handler_that_waits_while_the_server_is_lost_keeps_nobody_from_his_answer(
    app: App, worker: FakeWorker, signalled: Any
) -> None:
    """The I/O thread may not wait for the thread that hears, for that waits, in its handler, for the I/O thread."""
    outer, inner = app.submit("tasks.f", "outer"), app.submit("tasks.f", "inner")
    tasks = {task.args[0]: task for task in worker.claim(2)}
    look, told = app.client()._look, []
    peek = look.peek

    def lost(*_: Any) -> Any:
        look.peek = peek
        raise BrokerUnavailable("it is gone")

    def work() -> None:
        look.peek = lost
        worker.succeed(tasks["inner"], 1)
        told.append(inner.wait(10))
        worker.succeed(tasks["outer"], 2)

    thread = signalled(app, work)

    assert outer.result(20) == 2
    assert told == [True]
    thread.join()


def test_a_handler_that_waits_for_long_is_no_sign_of_a_lost_server(
    app: App, worker: FakeWorker, signalled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 0.02)
    monkeypatch.setattr("qworker.broker.broker.SILENT_S", 0.01)
    outer, inner = app.submit("tasks.f", "outer"), app.submit("tasks.f", "inner")
    tasks = {task.args[0]: task for task in worker.claim(2)}
    inbox, asked = app.client()._ear._subscription, []
    monkeypatch.setattr(app.client().registry, "next_round", lambda **_: asked.append(1) or [inner.id])

    def work() -> None:
        threading.Thread(target=after_rounds).start()
        inner.wait(10)
        worker.succeed(tasks["outer"], 2)

    def after_rounds() -> None:
        seen = len(asked)
        wait_until(lambda: len(asked) > seen + 10, description="some rounds")
        worker.succeed(tasks["inner"], 1)

    thread = signalled(app, work)

    assert outer.result(20) == 2
    assert app.client()._ear._subscription is inbox
    thread.join()


def test_a_signals_handler_that_closes_the_app_waits_for_nobody(
    app: App, signalled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = app.client()
    join, ear = client._thread.join, client._ear
    joined_while_hearing: list[bool] = []

    def joined(wait_s: float) -> None:
        joined_while_hearing.append(ear.heard_here)
        join(wait_s)

    monkeypatch.setattr(client._thread, "join", joined)
    future = app.submit("tasks.f")
    thread = signalled(app, app.close)

    with pytest.raises(RuntimeError, match="the app was closed while"):
        future.result(20)

    assert joined_while_hearing == [False]
    assert not client._thread.is_alive()
    thread.join()


def test_ctrl_c_at_any_moment_of_a_wait_takes_the_ear_from_nobody(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f")
    ear = app.client()._ear
    functions = (Listening.hear, Listening._watch, Listening._unwatch, Future.add_waker, Future.remove_waker)
    selector = type(ear._selector)
    codes = {function.__code__ for function in (*functions, selector.register, selector.unregister)}
    codes |= {threading.Condition.__enter__.__code__, threading.Condition.__exit__.__code__}
    taken: list[int] = []

    def try_locks(at: int) -> None:
        for lock in (ear._reading, future._condition):
            if lock.acquire(timeout=2):
                lock.release()
            else:
                taken.append(at)

    def interrupts(at: int) -> bool:
        # Again for a while: a wait that finds the I/O thread reading, which the interrupt before has woken, is shorter.
        ends = time.monotonic() + 2.0
        while not (found := raises_at(lambda: future.wait(0.0), codes, at)) and time.monotonic() < ends:
            pass
        return found

    at = 1
    while not taken and interrupts(at):
        thread = threading.Thread(target=try_locks, args=(at,))
        thread.start()
        thread.join()
        at += 1

    assert taken == []
    assert at > 15
    worker.succeed(worker.claim_one(), 3)
    assert future.result(20) == 3
    fds = {key.fd for key in ear._selector.get_map().values()}
    assert len(fds) == 2, "the bell and the inbox are watched"
