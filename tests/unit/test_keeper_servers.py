"""The keeper on a cluster: leases of queues whose servers answer, and of those whose server is away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from qworker import clock
from qworker.errors import BrokerUnavailable
from qworker.model import Record, Release
from support.roles import World, renewal, roles, task, turn

TWO = {"one": "a", "two": "b"}


@contextlib.asynccontextmanager
async def two_that_run() -> AsyncIterator[World]:
    """A task of each queue: `a` of the one, `b` of the other."""
    async with roles(servers=TWO, process=8) as w:
        w.accept(task("a"), claim="c1", queue="one")
        w.accept(task("b"), claim="c2", queue="two")
        w.pool.started = {w.pool.number_of(local): 0.1 for local in "ab"}
        yield w


def test_what_only_waits_to_be_settled_holds_up_no_lease() -> None:
    """Its server is away, and nothing of it may start: the others' leases are what counts."""

    async def scenario() -> None:
        async with roles(servers=TWO, process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.accept(task("c"), claim="c3", queue="two")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            before = w.state.lease.until
            w.broker.script("renew", BrokerUnavailable("gone"))

            assert not await w.keeper.renew()

            assert w.state.lease.until > before
            assert w.pool.allowed_ns == int(w.state.lease.start_until * 1e9)

    asyncio.run(scenario())


def test_what_has_not_started_of_a_queue_goes_back_when_its_server_alone_does_not_answer() -> None:
    """Before it, too, could start without a lease: the others' are renewed from then on."""

    async def scenario() -> None:
        async with roles(servers=TWO, process=8) as w:
            recorded = w.broker.later("renew")
            w.accept(task("rescued", record=Record(deliveries=2)), claim="c0", queue="one")
            w.accept(task("waits"), claim="c1", queue="one")
            w.accept(task("b"), claim="c2", queue="two")
            await w.broker.called("renew")
            w.pool.started = {w.pool.number_of("b"): 0.1}
            before = w.state.lease.until
            w.broker.script("renew", BrokerUnavailable("gone"))

            await w.keeper.renew()
            assert [held.task.id for held in w.state.ledger.tasks.values() if not held.ended] == ["b"]
            assert w.state.lease.until > before
            w.run(w.settler.run())
            assert await w.settles(2) == [Release("rescued", "c0"), Release("waits", "c1")]
            await w.settler.wait_empty()
            recorded.set_result(renewal())
            await turn()
            assert list(w.pool.orders) == [w.held("b", "two").number], "nothing of it starts after all"

    asyncio.run(scenario())


def test_what_runs_of_a_queue_whose_server_is_away_keeps_the_lease_in_doubt() -> None:
    """It can see that (`current.lease_uncertain`): there is one instant for all that a worker runs."""

    async def scenario() -> None:
        async with two_that_run() as w:
            before = w.state.lease.until
            w.broker.script("renew", BrokerUnavailable("gone"))

            await w.keeper.renew()

            assert w.state.lease.until == before
            assert len(w.pool.orders) == 2
            assert not w.settler.pending

    asyncio.run(scenario())


def test_a_queue_that_is_silent_is_asked_beside_the_others_until_it_answers() -> None:
    async def scenario() -> None:
        async with two_that_run() as w:
            w.broker.script("renew", BrokerUnavailable("gone"), renewal())
            assert not await w.keeper.renew()

            # The others' answers are what its beat goes by, and bring their stops at once.
            silent = w.broker.later("renew")
            assert await w.keeper.renew()
            assert await w.keeper.renew()
            await turn()
            assert sorted(call["queue"] for call in w.broker.calls["renew"]) == ["one", "one", "two", "two", "two"]
            before = w.state.lease.until

            silent.set_result(renewal())
            await turn()
            assert await w.keeper.renew()
            assert w.state.lease.until > before

    asyncio.run(scenario())


def test_what_came_from_a_silent_queue_in_between_goes_back_when_it_stays_silent() -> None:
    """A claim was answered, and its renewal was not: nothing of it may start when its lease is over."""

    async def scenario() -> None:
        async with roles(servers=TWO, process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.pool.started = {w.pool.number_of("a"): 0.1}
            w.broker.script("renew", BrokerUnavailable("gone"), BrokerUnavailable("gone"))
            await w.keeper.renew()
            assert not w.settler.pending

            w.accept(task("late"), claim="c2", queue="one")
            await w.keeper.renew()
            await turn()

            w.run(w.settler.run())
            assert await w.settles(1) == [Release("late", "c2")]
            assert list(w.pool.orders) == [w.held("a", "one").number], "what runs goes on"

    asyncio.run(scenario())


def test_a_keeper_that_ends_leaves_no_renewal_behind() -> None:
    async def scenario() -> None:
        async with two_that_run() as w:
            w.broker.script("renew", BrokerUnavailable("gone"), renewal())
            silent = w.broker.later("renew")
            w.state.mark_soon.set()
            keeper = asyncio.ensure_future(w.keeper.run())
            await w.broker.called("renew", 3)

            keeper.cancel()
            await turn()

            assert silent.cancelled()

    asyncio.run(scenario())


@pytest.mark.parametrize("apart", [True, False], ids=["two servers", "one server"])
def test_what_one_server_of_a_cluster_answers_says_nothing_of_another(apart: bool) -> None:
    """Else nobody would tell the one that was away, and the tasks of living workers would be rescued there."""

    async def scenario() -> None:
        async with roles(servers=TWO if apart else {"one": "a", "two": "a"}, process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.accept(task("b"), claim="c2", queue="two")
            long_ago = clock.now() - w.state.lease.lease_s
            w.state.witness("one").asked(long_ago)  # and was not answered

            await w.keeper.renew()
            await w.keeper.renew()

            told = [(call["queue"], call["stalled"]) for call in w.broker.calls["renew"]]
            assert told == [("one", True), ("two", not apart), ("one", False), ("two", False)]

    asyncio.run(scenario())


def test_a_server_that_is_not_known_yet_is_followed_by_nobody() -> None:
    """What is heard of it must not be taken for another's, whose queue was not known either."""

    async def scenario() -> None:
        async with roles(queues=("one",), process=8) as w:
            w.state.server_of = lambda _: None
            w.accept(task("a"), claim="c1", queue="one")

            await w.keeper.renew()

            assert w.state.witnesses == {}
            assert w.state.witness("one").is_newcomer(clock.now())

    asyncio.run(scenario())
