"""Ctrl-C in the main thread, while it tells others of what has ended: each of them is told, and only once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from types import CodeType
from typing import Any

import pytest

from qworker import App, Future, TaskCancelled
from qworker.broker.client import Client
from qworker.broker.heard import Heard
from qworker.broker.registry import Registry
from qworker.loops import Entrance
from support.fake_worker import FakeWorker
from support.interrupts import raises_at
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)

SETTLING: set[CodeType] = {
    function.__code__
    for function in (
        *(
            Client._take_heard,
            Heard.take,
            Heard.settle,
            Heard.learn,
            Registry.entries,
            Registry.leave,
            Registry._replace,
        ),
        *(Future.settle_alone, Future.settle, Future.learn, Future._take, Future._wake, Entrance.let_in),
        *(asyncio.BaseEventLoop.call_soon_threadsafe,),
        *(concurrent.futures.Future.set_result, concurrent.futures.Future.cancel, threading.Condition.notify_all),
        *(concurrent.futures.Future.set_running_or_notify_cancel, threading.Condition.notify),
    )
}


class Others:
    """One who waits for a result, one for a list, one who awaits, and a callback: each for a task of its own."""

    def __init__(self, futures: list[Future[Any]]) -> None:
        self.futures, self.told = futures, list[str]()
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self._waits, self._lists, self._awaits)]
        futures[3].add_done_callback(lambda _: self.told.append("called"))
        for thread in self.threads:
            thread.start()
        waits, lists, awaits = futures[:3]
        wait_until(
            lambda: (waits._wakers or waits._condition._waiters) and lists._waiters and awaits._wakers,  # type: ignore[attr-defined]
            description="three who wait",
        )

    def check(self) -> None:
        for thread in self.threads:
            thread.join(10)
        wait_until(lambda: len(self.told) >= 4, description="the callback")
        assert sorted(self.told) == ["awaited", "called", "listed", "waited"]

    def _waits(self) -> None:
        if self.futures[0].wait(60):
            self.told.append("waited")

    def _lists(self) -> None:
        self.told += ["listed"] * len(concurrent.futures.wait(self.futures[1:2], timeout=60).done)

    def _awaits(self) -> None:
        async def awaits() -> None:
            try:
                await asyncio.wait_for(self.futures[2], 60)
            except TaskCancelled:
                pass
            self.told.append("awaited")

        asyncio.run(awaits())


def test_ctrl_c_at_any_moment_of_settling_leaves_nobody_waiting(
    app: App, worker: FakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the interrupt has left is told at once, not by the client's next round.
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)
    ear = app.client()._ear
    at, interrupted, heard = 1, True, True
    while interrupted or not heard:
        *theirs, mine = futures = [app.submit("tasks.f", n) for n in range(5)]
        others: list[Others] = []

        def answer(theirs: list[Any] = theirs, mine: Any = mine, others: list[Others] = others) -> None:
            nonlocal heard
            wait_until(lambda: ear._hearer or mine._condition._waiters, description="the main thread to wait")
            heard = ear._hearer is not None  # else the I/O thread had not done with what came before
            others.append(Others(theirs))
            for task in worker.claim(5):
                worker.succeed(task, task.args[0])

        thread = threading.Thread(target=answer)
        thread.start()
        interrupted = raises_at(lambda mine=mine: mine.result(60), SETTLING, at)  # type: ignore[misc]
        thread.join()
        others[0].check()
        assert [future.result(20) for future in futures] == [0, 1, 2, 3, 4]
        at += heard

    assert at > 40


def test_ctrl_c_at_any_moment_of_a_cancel_leaves_nobody_waiting(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 0.05)
    at, interrupted = 1, True
    while interrupted:
        futures = [app.submit("tasks.f") for _ in range(4)]
        others = Others(futures)

        interrupted = raises_at(lambda futures=futures: [future.cancel() for future in futures], SETTLING, at)  # type: ignore[misc]

        for future in futures:
            assert future.cancel()
        others.check()
        at += 1

    assert at > 20
