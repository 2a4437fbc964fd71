"""The drain: what goes back at once, what may finish, what is asked and killed, and what is recorded at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from qworker import codec
from qworker.errors import BrokerUnavailable
from qworker.lifecycle import State
from qworker.model import Record, Release
from qworker.worker import drain as drain_module
from qworker.worker.drain import GRACE_CAP_S, Drain
from qworker.worker.signals import Signals
from qworker.worker.state import Phase
from support.roles import Call, World, roles, task, turn, window


class Draining:
    """A world that a test drains, with the signals that it sends."""

    def __init__(self, w: World) -> None:
        self.w = w
        self.signals = Signals(w.state, dump=lambda: None, changed=lambda: None)
        self.drain = Drain(w.state, w.fetcher, w.lender, w.dispatcher, w.collector, w.settler, self.signals)

    def begin(self) -> asyncio.Task[None]:
        return asyncio.ensure_future(self.drain.run(changed=lambda: None))

    async def said(self, name: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while not self.w.told(name):
                await asyncio.sleep(0)
        return self.w.told(name)[0]


@asynccontextmanager
async def draining(**options: Any) -> AsyncIterator[Draining]:
    async with roles(**options) as w:
        w.run(w.settler.run())
        yield Draining(w)


def start(w: World, *locals_: str, ran_s: float = 1.0) -> None:
    """Have these run."""
    for local in locals_:
        w.pool.started[w.pool.number_of(local)] = ran_s


def test_what_never_started_goes_back_at_once_in_its_order_while_the_rest_finishes() -> None:
    async def scenario() -> None:
        async with draining(process=4) as d:
            d.w.accept(*(task(local) for local in "abcd"))
            start(d.w, "b")

            ended = d.begin()
            assert await d.w.settles(3) == [Release(local, "c1") for local in "acd"]
            assert not ended.done()
            d.w.pool.end(d.w.pool.number_of("b"), "returned", payload=b"\xc0")
            await ended

            (*_, end) = await d.w.settles(4)
            assert codec.unpack_outcome(end.value).state is State.SUCCEEDED
            assert d.w.state.killed == 0
            assert not d.w.state.ledger.tasks
            assert not d.w.pool.asked

    asyncio.run(scenario())


def test_what_is_about_to_start_is_not_given_back() -> None:
    """Its child has taken its token, and its page does not show it yet: given back, it would run twice."""

    async def scenario() -> None:
        async with draining() as d:
            d.w.accept(task("a"))
            start(d.w, "a", ran_s=-1.0)

            ended = d.begin()
            await d.said("worker.draining")
            assert d.w.settler.pending == 0
            assert len(d.w.state.ledger.tasks) == 1

            d.w.pool.end(d.w.pool.number_of("a"), "returned", payload=b"\xc0")
            await ended
            (end,) = await d.w.settles(1)
            assert not isinstance(end, Release)

    asyncio.run(scenario())


@pytest.mark.parametrize("once", [False, True])
def test_what_waits_for_the_record_of_its_start_goes_back_and_does_not_start(once: bool) -> None:
    async def scenario() -> None:
        async with draining() as d:
            recorded = d.w.broker.later("renew")
            if once:
                d.w.accept(task("a", delivery="at_most_once"))
                d.w.collector.permit_wanted([d.w.pool.number_of("a")])
            else:
                d.w.accept(task("a", record=Record(deliveries=2)))
            await d.w.broker.called("renew")

            await d.begin()

            assert await d.w.settles(1) == [Release("a", "c1")]
            assert recorded.cancelled()
            assert not d.w.pool.permitted
            assert len(d.w.pool.batches) == once

    asyncio.run(scenario())


def test_a_claim_that_is_under_way_is_waited_for_and_its_window_goes_back() -> None:
    """Left alone, it would hold its tasks for a lease."""

    async def scenario() -> None:
        async with draining() as d:
            answer = d.w.broker.later("claim")
            d.w.run(d.w.fetcher.run())
            await d.w.broker.called("claim")

            ended = d.begin()
            await d.said("worker.draining")
            for _ in range(20):
                await asyncio.sleep(0)
            assert not ended.done()
            answer.set_result(window("c9", task("late")))
            await ended

            assert await d.w.settles(1) == [Release("late", "c9")]
            assert not d.w.pool.batches

    asyncio.run(scenario())


def test_the_bell_is_not_listened_to_any_more_when_the_first_task_goes_back() -> None:
    """Its release rings the bell for the other workers."""

    async def scenario() -> None:
        async with draining(process=4) as d:
            bell = d.w.broker.later("wait_bell")
            d.w.run(d.w.fetcher.run())
            await d.w.broker.called("wait_bell")
            d.w.accept(task("a"))
            listening: list[bool] = []
            settle = d.w.broker.settle

            async def watched(*args: Any, **more: Any) -> Any:
                listening.append(not bell.cancelled())
                return await settle(*args, **more)

            d.w.broker.settle = watched
            await d.begin()

            assert listening == [False]

    asyncio.run(scenario())


def test_what_outlives_the_drain_timeout_is_asked_with_its_own_grace_at_most_the_cap() -> None:
    async def scenario() -> None:
        async with draining(process=4, settings={"drain_timeout_s": 0.0}) as d:
            d.w.accept(task("short", grace_ms=500), task("long", grace_ms=60_000))
            start(d.w, "short", "long")
            numbers = {local: d.w.pool.number_of(local) for local in ("short", "long")}

            ended = d.begin()
            await d.said("worker.stopping")
            assert d.w.pool.asked == [(numbers["short"], "drain", 0.5), (numbers["long"], "drain", GRACE_CAP_S)]
            for number in numbers.values():
                d.w.pool.end(number, "killed", asked="drain")
            await ended

            assert {type(item) for item in await d.w.settles(2)} == {Release}
            assert d.w.state.killed == 2

    asyncio.run(scenario())


def test_a_second_signal_skips_the_waiting_and_a_third_the_grace() -> None:
    async def scenario() -> None:
        async with draining() as d:
            d.w.accept(task("a", grace_ms=60_000))
            start(d.w, "a")
            number = d.w.pool.number_of("a")
            d.signals._on_end(15)
            ended = d.begin()
            await d.said("worker.draining")
            assert not d.w.pool.asked

            d.signals._on_end(15)
            await d.said("worker.stopping")
            assert d.w.pool.asked == [(number, "drain", GRACE_CAP_S)]

            d.signals._on_end(15)
            async with asyncio.timeout(5):
                while len(d.w.pool.asked) < 2:
                    await asyncio.sleep(0)
            assert d.w.pool.asked[1] == (number, "drain", 0.0)
            d.w.pool.end(number, "killed", asked="drain")
            await ended
            assert d.w.pool.closed_with == 0.0

    asyncio.run(scenario())


def test_signals_that_came_before_the_drain_count() -> None:
    async def scenario() -> None:
        async with draining() as d:
            d.w.accept(task("a", grace_ms=60_000))
            start(d.w, "a")
            number = d.w.pool.number_of("a")
            for _ in range(3):
                d.signals._on_end(15)

            ended = d.begin()
            await d.said("worker.stopping")

            assert d.w.pool.asked[0] == (number, "drain", 0.0)
            d.w.pool.end(number, "killed", asked="drain")
            await ended

    asyncio.run(scenario())


def test_a_pool_that_does_not_answer_is_closed_all_the_same_and_its_tasks_go_back(monkeypatch) -> None:
    monkeypatch.setattr(drain_module, "GRACE_CAP_S", -1.0)

    async def scenario() -> None:
        async with draining(settings={"drain_timeout_s": 0.0}) as d:
            d.w.accept(task("a"))
            start(d.w, "a")

            await d.begin()

            assert d.w.pool.closed_with == drain_module.CLOSE_S
            assert await d.w.settles(1) == [Release("a", "c1")]
            assert d.w.state.killed == 1

    asyncio.run(scenario())


def test_without_redis_the_drain_ends_in_time_and_says_how_many_it_could_not_record(monkeypatch) -> None:
    monkeypatch.setattr(drain_module, "SETTLE_S", 0.05)

    async def scenario() -> None:
        async with draining(process=4) as d:
            d.w.broker.script("settle", *[BrokerUnavailable("gone")] * 100)
            d.w.accept(task("a"), task("b"))

            await d.begin()

            assert (await d.said("worker.unsettled"))["tasks"] == 2

    asyncio.run(scenario())


def test_the_wait_for_what_runs_survives_a_lost_wake_up(monkeypatch) -> None:
    """The fetcher clears the same event: a wake-up that it takes must not cost the whole drain timeout."""
    monkeypatch.setattr(drain_module, "LOOK_S", 0.01)

    async def scenario() -> None:
        async with draining() as d:
            d.w.accept(task("a"))
            start(d.w, "a")
            ended = d.begin()
            await d.said("worker.draining")
            d.w.state.wake.set = d.w.settler._on_empty = lambda: None  # type: ignore[method-assign]

            d.w.pool.end(d.w.pool.number_of("a"), "returned", payload=b"\xc0")

            async with asyncio.timeout(2):
                await ended

    asyncio.run(scenario())


@pytest.mark.parametrize("phase", [Phase.RUNNING, Phase.QUIET])
def test_a_worker_drains_from_wherever_it_is(phase) -> None:
    async def scenario() -> None:
        async with draining() as d:
            d.w.state.phase = phase
            d.w.accept(task("a"))

            await d.begin()

            assert d.w.state.phase is Phase.DRAINING
            assert await d.w.settles(1) == [Release("a", "c1")]

    asyncio.run(scenario())


async def begin_during_a_claim(d: Draining) -> tuple[Call, asyncio.Task[None]]:
    """Begin to drain while a claim is under way, and return when that is what the drain waits for."""
    d.w.run(d.w.fetcher.run())
    call = await d.w.broker.called("claim")
    ended = d.begin()
    await d.said("worker.draining")
    await turn()
    return call, ended


def test_what_fills_a_claim_that_was_being_left_when_the_drain_began_goes_back_before_it_ends() -> None:
    """Found by the simulation: the window came when nobody was there to give it back, and the worker ended in error."""

    async def scenario() -> None:
        async with draining() as d:
            left, withdrawn = d.w.broker.later("claim"), d.w.broker.later("claim")
            call, ended = await begin_during_a_claim(d)

            left.set_result(window(call["claim"]))
            again = await d.w.broker.called("claim", 2)
            await turn()
            assert not ended.done()
            withdrawn.set_result(window(call["stand"].claim, task("a")))
            await ended

            assert again["standing"] == [call["stand"]]
            assert await d.w.settles(1) == [Release("a", call["stand"].claim)]
            assert d.w.settler.pending == 0

    asyncio.run(scenario())


def test_a_withdrawal_without_an_answer_is_given_up_and_what_comes_later_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drain_module, "SETTLE_S", 0.05)

    async def scenario() -> None:
        async with draining() as d:
            left, withdrawn = d.w.broker.later("claim"), d.w.broker.later("claim")
            call, ended = await begin_during_a_claim(d)
            left.set_result(window(call["claim"]))
            await d.w.broker.called("claim", 2)

            await ended

            assert withdrawn.cancelled()
            assert d.w.told("worker.unsettled")

    asyncio.run(scenario())
