"""A host that was suspended for an hour: its monotonic clocks stood still, and its leases did not."""

from __future__ import annotations

import asyncio
import os
import select
import socket
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from qworker import clock
from qworker.model import End, Order, Record
from qworker.pool import frames, tokens
from qworker.pool.inbox import Inbox
from qworker.pool.page import Page, SlotCells
from qworker.pool.slots import Runner
from support.roles import NOW_MS, renewal, roles, task, turn, window
from support.suspend import suspend

HOUR_MS = 3_600_000


class Child(NamedTuple):
    """The way into a child, which holds one order, and its way out."""

    inbox: Inbox
    page: Page
    token_read: int

    def waits(self) -> bool:
        """Is its token still there, to be taken back?"""
        return bool(select.select([self.token_read], [], [], 0)[0])


@pytest.fixture(autouse=True)
def slept_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clocks differ from the start: whoever mixes them is found out."""
    suspend(monkeypatch, 864_000)


@pytest.fixture
def child(slept_before: None) -> Iterator[Child]:
    ours, theirs = socket.socketpair()
    token_read, token_write = tokens.open_pipe()
    page = Page.create(1, clock.now_ns() + 10 * 10**9)
    ours.sendall(frames.pack_order(Order(7, "q:a", b"")))
    tokens.give(token_write, [7])
    yield Child(Inbox(theirs, token_read, page), page, token_read)
    page.close()
    for end in (ours, theirs):
        end.close()
    for fd in (token_read, token_write):
        os.close(fd)


def is_over(allowed_ns: int) -> bool:
    """Would nothing start under this?"""
    return clock.now_ns() >= allowed_ns


# ── a child ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_waits_in_a_child_does_not_start_when_it_wakes(child, monkeypatch) -> None:
    assert child.inbox.may_start()

    suspend(monkeypatch)

    assert not child.inbox.may_start()
    assert child.inbox.take() is None
    assert child.waits()


def test_what_a_child_had_just_taken_when_the_host_fell_asleep_is_given_back(child, monkeypatch) -> None:
    take, now_ns, asleep_ns = tokens.take, clock.now_ns, [0]

    def take_and_sleep(fd: int) -> int | None:
        number = take(fd)
        asleep_ns[0] = 3600 * 10**9
        return number

    monkeypatch.setattr(clock, "now_ns", lambda: now_ns() + asleep_ns[0])
    monkeypatch.setattr(tokens, "take", take_and_sleep)

    order = child.inbox.take()

    assert order is not None
    assert runner_in(child).open(order, SlotCells(child.page, 0, 7, bytes))[0] == frames.UNSTARTED


def runner_in(child: Child) -> Runner:
    return Runner(lambda _: None, child.page, output=None, send=bytes)  # type: ignore[arg-type]


def test_it_starts_once_the_lease_is_known_to_hold(child, monkeypatch) -> None:
    suspend(monkeypatch)
    assert child.inbox.take() is None

    child.page.start_until_ns = clock.now_ns() + 10 * 10**9

    order = child.inbox.take()
    assert order is not None
    assert order[1] == 7


def test_what_runs_sees_that_the_lease_is_uncertain(child, monkeypatch) -> None:
    cells = SlotCells(child.page, 0, 7, bytes)
    assert not cells.lease_uncertain()

    suspend(monkeypatch)

    assert cells.lease_uncertain()


def test_what_is_out_of_time_by_then_does_not_start(child, monkeypatch) -> None:
    runner = runner_in(child)

    def became() -> object:
        limits = {"deadline_s": 600.0, "handed": clock.now()}
        (order,) = frames.Frames().feed(frames.pack_order(Order(7, "q:a", b"", **limits)))  # type: ignore[arg-type]
        suspended()
        opened = runner.open(order, SlotCells(child.page, 0, 7, bytes))
        return opened[0]

    suspended: Callable[[], None] = lambda: None  # noqa: E731
    assert became() == frames.REFUSED, "its blob is none, and that is looked at later"

    suspended = lambda: suspend(monkeypatch)  # noqa: E731
    assert became() == frames.UNSTARTED


def test_what_was_taken_and_waited_for_its_turn_does_not_start_either(child, monkeypatch) -> None:
    runner = runner_in(child)
    order = child.inbox.take()

    suspend(monkeypatch)

    assert runner.open(order, SlotCells(child.page, 0, 7, bytes))[0] == frames.UNSTARTED


# ── its worker ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_renewal_that_was_sent_before_the_sleep_confirms_nothing_and_the_next_one_does(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            answer = w.broker.later("renew")
            renewing = asyncio.ensure_future(w.keeper.renew())
            await w.broker.called("renew")

            suspend(monkeypatch)
            answer.set_result(renewal())
            await renewing

            assert is_over(w.pool.allowed_ns)
            await w.keeper.renew()
            assert not is_over(w.pool.allowed_ns)

    asyncio.run(scenario())


def test_a_claim_that_was_sent_before_the_sleep_starts_nothing_before_it_is_renewed(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            answer = w.broker.later("claim")
            w.run(w.fetcher.run())
            call = await w.broker.called("claim")

            suspend(monkeypatch)
            answer.set_result(window(call["claim"], task("a")))
            await turn()

            assert w.held("a")
            assert is_over(w.pool.allowed_ns)
            assert w.state.mark_soon.is_set(), "it is renewed at once"

    asyncio.run(scenario())


def test_a_push_that_came_during_the_sleep_starts_nothing_before_it_is_renewed(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.fetcher.run())
            left = (await w.broker.called("claim"))["stand"].claim
            await turn()

            suspend(monkeypatch)
            w.fetcher.handed(window(left, task("a")))

            assert w.held("a")
            assert is_over(w.pool.allowed_ns)
            assert w.state.mark_soon.is_set()

    asyncio.run(scenario())


def test_a_push_that_comes_when_the_host_is_awake_starts_at_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.fetcher.run())
            left = (await w.broker.called("claim"))["stand"].claim
            await turn()

            w.fetcher.handed(window(left, task("a")))

            assert not is_over(w.pool.allowed_ns)

    asyncio.run(scenario())


def test_an_idle_worker_is_as_one_that_has_just_come_and_blames_no_server(monkeypatch) -> None:
    """It has not heard for an hour who lives: it must not rescue, nor hold up those who may."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.fetcher.run())
            await w.broker.called("claim")
            await turn()
            assert not w.state.witness("default").stalled("default", clock.now())

            suspend(monkeypatch)
            w.broker.script("claim", window("c1", now_ms=NOW_MS + HOUR_MS))
            w.fetcher._bell.rung = True
            w.state.wake.set()
            call = await w.broker.called("claim", 2)
            await turn()

            assert call["newcomer"]
            assert not call["stalled"]
            assert abs(call["expected_ms"] - NOW_MS - HOUR_MS) < 5_000
            assert not w.told("redis.clock_stepped"), "the server's clock is where it should be"

    asyncio.run(scenario())


def test_a_worker_that_holds_something_claims_nothing_before_it_has_renewed_that(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(task("a"))
            assert w.fetcher._may_claim()
            assert w.lender._may_claim()

            suspend(monkeypatch)
            assert not w.fetcher._may_claim()
            assert not w.lender._may_claim()

            await w.keeper.renew()
            assert w.fetcher._may_claim()
            assert w.lender._may_claim()

    asyncio.run(scenario())


def test_the_keeper_says_that_it_stood_still_and_has_the_pools_look(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.run(w.keeper.run())
            await turn()

            suspend(monkeypatch)
            w.state.mark_soon.set()
            await w.broker.called("renew")

            (told,) = w.told("worker.stood_still")
            assert 3590 < told["stood_s"] <= 3600
            assert w.pool.looked_again == 1, "deadlines came nearer"

    asyncio.run(scenario())


def test_the_keeper_says_so_too_when_it_stood_still_in_the_middle_of_a_renewal(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            reply = w.broker.later("renew")
            w.run(w.keeper.run())
            w.state.mark_soon.set()
            await w.broker.called("renew")

            suspend(monkeypatch)
            reply.set_result(renewal())
            w.state.mark_soon.set()
            await w.broker.called("renew", 2)

            (told,) = w.told("worker.stood_still")
            assert 3590 < told["stood_s"] <= 3600
            assert w.pool.looked_again == 1

    asyncio.run(scenario())


def test_a_retry_that_no_longer_fits_into_its_deadline_is_none(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a", record=Record(deliveries=1, deadline_ms=NOW_MS + 600_000), retries=3))

            suspend(monkeypatch)
            w.pool.end(w.pool.number_of("a"), "raised")

            (end,) = await w.settles(1)
            assert isinstance(end, End)

    asyncio.run(scenario())


def test_groups_that_were_read_before_the_sleep_are_read_again_before_anything_of_them_starts(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a", extra={"g": ["g-1"]}))
            await w.broker.called("read_groups")
            await turn()
            assert w.pool.batches == [["a"]]

            suspend(monkeypatch)
            w.broker.script("read_groups", (("stopped", None),))
            w.accept(task("b", extra={"g": ["g-1"]}), claim="c2")
            await turn()

            assert w.pool.batches == [["a"]]
            assert w.held("b").ended

    asyncio.run(scenario())
