"""The keeper: leases are renewed, lost claims are let go and killed, stops and marks travel with it."""

from __future__ import annotations

import asyncio

import pytest

from qworker import clock, codec
from qworker.broker.values import Note
from qworker.errors import BrokerUnavailable, ServerFull
from qworker.model import Progress, Release, StopOrder, Told
from qworker.worker.notes import WATCHED_S
from support.roles import renewal, roles, task, window


def test_all_claims_of_a_queue_are_renewed_in_one_call() -> None:
    async def scenario() -> None:
        async with roles(queues=("one", "two"), process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.accept(task("b"), claim="c2", queue="one")
            w.accept(task("c"), claim="c3", queue="two")

            await w.keeper.renew()

            calls = {call["queue"]: call["claims"] for call in w.broker.calls["renew"]}
            assert calls == {"one": ["c1", "c2"], "two": ["c3"]}

    asyncio.run(scenario())


def test_many_claims_are_renewed_in_several_short_calls_and_the_lease_moves_with_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qworker.worker.keeper.CLAIMS_PER_CALL", 2)

    async def scenario() -> None:
        async with roles(process=8) as w:
            for n in range(5):
                w.accept(task(f"a{n}"), claim=f"c{n}")
            w.held("a4").claim.opened -= 2.0
            w.pool.started = {w.pool.number_of("a4"): 1.5}
            before = w.state.lease.until
            w.broker.script("renew", renewal(lost=["c1"]), BrokerUnavailable("gone"))

            assert not await w.keeper.renew()
            assert w.state.lease.until == before
            assert await w.keeper.renew()
            assert w.state.lease.until > before

            calls = [(call["claims"], len(call["started"])) for call in w.broker.calls["renew"]]
            assert calls == [
                (["c0", "c1"], 1), (["c2", "c3"], 0),
                (["c0", "c2"], 0), (["c3", "c4"], 0),
            ]  # fmt: skip

    asyncio.run(scenario())


def test_the_lease_moves_only_when_every_queue_has_answered() -> None:
    async def scenario() -> None:
        async with roles(queues=("one", "two"), process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.accept(task("c"), claim="c3", queue="two")
            before = w.state.lease.until
            w.broker.script("renew", renewal(), BrokerUnavailable("gone"))

            await w.keeper.renew()
            assert w.state.lease.until == before

            await w.keeper.renew()
            assert w.state.lease.until > before
            assert w.pool.allowed_ns == int(w.state.lease.start_until * 1e9)

    asyncio.run(scenario())


def test_a_window_beside_what_only_waits_to_be_settled_has_a_lease_of_its_own() -> None:
    """That of the other one may have lapsed long ago."""

    async def scenario() -> None:
        async with roles(queues=("one", "two"), process=8) as w:
            w.accept(task("a"), claim="c1", queue="one")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            w.state.lease.until = 0.0
            assert w.fetcher._may_claim()

            w.accept(task("b"), claim="c2", queue="two")

            assert w.pool.allowed_ns > clock.now_ns()
            assert w.fetcher._may_claim()

    asyncio.run(scenario())


def test_a_lost_claim_is_let_go_before_its_tasks_are_killed() -> None:
    """What the pool tells while it kills them is another worker's affair: nothing of it is settled."""

    async def scenario() -> None:
        async with roles(process=4) as w:
            w.accept(task("runs"), task("waits"), claim="c1")
            w.accept(task("kept"), claim="c2")
            w.pool.started[w.pool.number_of("runs")] = 5.0
            w.broker.script("renew", renewal(lost=["c1"]))

            await w.keeper.renew()

            assert set(w.state.ledger.claims) == {"c2"}
            assert len(w.pool.forgotten) == 2
            assert w.settler.pending == 0
            assert not w.collector.outlived
            assert w.state.counters["fenced"] == 2
            (told,) = w.told("claim.lost")
            assert (told["tasks"], told["first"]) == (2, "default:runs")

    asyncio.run(scenario())


def test_a_lost_claim_whose_tasks_have_all_ended_waits_for_its_settle_to_be_refused() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            w.broker.script("renew", renewal(lost=["c1"]))

            await w.keeper.renew()

            assert not w.told("claim.lost")
            assert w.settler.pending == 1

    asyncio.run(scenario())


def test_a_claim_that_was_settled_while_its_renewal_was_under_way_is_not_lost() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"))
            answer = w.broker.later("renew")
            renewing = asyncio.ensure_future(w.keeper.renew())
            await w.broker.called("renew")
            w.pool.end(w.pool.number_of("a"), "returned", payload=b"\xc0")
            await w.settler.wait_empty()

            answer.set_result(renewal(lost=["c1"]))
            await renewing

            assert not w.told("claim.lost")

    asyncio.run(scenario())


def test_a_window_that_comes_late_while_others_are_renewed_starts_nothing() -> None:
    """It was left standing, filled and taken away again while this worker heard nothing."""

    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            answer = w.broker.later("renew")
            renewing = asyncio.ensure_future(w.keeper.renew())
            await w.broker.called("renew")
            w.dispatcher.accept(window("c2", task("b")), clock.now() - 3600, alone=False)

            answer.set_result(renewal())
            await renewing
            assert w.state.lease.uncertain(clock.now())

            await w.keeper.renew()
            assert not w.state.lease.uncertain(clock.now())

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [BrokerUnavailable("gone"), ServerFull("full")])
def test_an_unanswered_renewal_is_said_once_when_the_lease_becomes_uncertain(error) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.state.lease.until = 0.0
            w.broker.script("renew", error, error)

            await w.keeper.renew()
            await w.keeper.renew()
            assert len(w.told("lease.uncertain")) == 1
            assert w.answers == [False, False]
            assert not w.pool.forgotten, "what runs goes on"

            await w.keeper.renew()
            assert len(w.told("lease.certain")) == 1

    asyncio.run(scenario())


def test_after_an_unanswered_renewal_the_next_one_follows_at_once() -> None:
    """It took long to be given up, and a worker that is answered before this one may rescue."""

    async def scenario() -> None:
        async with roles() as w:
            w.keeper._every_s = 3600.0
            w.accept(task("a"))
            w.broker.script("renew", BrokerUnavailable("gone"))
            w.state.mark_soon.set()
            w.run(w.keeper.run())

            await w.broker.called("renew", 2)
            assert w.answers[0] is False

    asyncio.run(scenario())


def test_a_task_that_has_run_for_a_second_is_marked_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("long", delivery="at_least_once"), task("short"))
            for held in w.state.ledger.tasks.values():
                held.claim.opened -= 2.0
            w.pool.started = {w.pool.number_of("long"): 1.5, w.pool.number_of("short"): 0.4}

            await w.keeper.renew()
            await w.keeper.renew()

            first, second = (call["started"] for call in w.broker.calls["renew"])
            assert first == [("c1", "long", 1500, False)]
            assert second == []

    asyncio.run(scenario())


def test_a_mark_that_was_not_answered_is_sent_again() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            w.held("a").claim.opened -= 2.0
            w.pool.started = {w.pool.number_of("a"): 1.5}
            w.broker.script("renew", BrokerUnavailable("gone"))

            await w.keeper.renew()
            await w.keeper.renew()

            assert [len(call["started"]) for call in w.broker.calls["renew"]] == [1, 1]

    asyncio.run(scenario())


def test_the_pages_are_not_read_while_nothing_can_need_a_mark() -> None:
    """With a thousand slots, reading them all is what a renewal would cost most."""

    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("young"), claim="c1")
            w.accept(task("marked"), claim="c2")
            w.held("marked").claim.opened -= 60.0
            w.held("marked").start_recorded = True

            await w.keeper.renew()

            assert w.pool.pages_read == 0

    asyncio.run(scenario())


def test_a_stopped_task_is_marked_at_once_so_that_who_asked_can_see_whether_it_runs() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.keeper.run())
            w.accept(task("a"))
            w.pool.started = {w.pool.number_of("a"): 0.01}

            w.dispatcher.stop("default", "c1", "a", StopOrder())

            async with asyncio.timeout(0.5):
                call = await w.broker.called("renew")
            assert call["started"] == [("c1", "a", 10, False)]

    asyncio.run(scenario())


def test_stops_that_a_renewal_brings_reach_the_tasks_and_come_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            stop = ("c1", "a", StopOrder(500))
            w.broker.script("renew", renewal(stops=[stop]), renewal(stops=[stop]))

            await w.keeper.renew()
            await w.keeper.renew()

            assert w.pool.asked == [(w.pool.number_of("a"), "stop", 0.5)]

    asyncio.run(scenario())


def test_a_worker_that_holds_nothing_asks_nothing() -> None:
    async def scenario() -> None:
        async with roles() as w:
            await w.keeper.renew()

            assert not w.broker.calls["renew"]

    asyncio.run(scenario())


def test_what_tasks_told_goes_with_the_renewal_and_only_when_it_changed() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a", client="client-00001"), task("silent"))
            number = w.held("a").number
            w.pool.started[number] = 0.1
            w.collector.cursor(number, b"one")
            w.collector.progressed(number, 0)
            w.pool.shown[number] = Progress(1, 4, "rows")

            await w.keeper.renew()
            await w.keeper.renew()
            w.collector.cursor(number, b"two")
            await w.keeper.renew()
            w.pool.shown[number] = Progress(2, 4, "rows")
            await w.keeper.renew()

            told = [codec.pack_told(Told("default:a", Progress(done, 4, "rows"))) for done in (1, 2)]
            assert [call["notes"] for call in w.broker.calls["renew"]] == [
                [Note("c1", "a", "client-00001", b"one", told[0])],
                [],
                [Note("c1", "a", "client-00001", b"two", b"")],
                [Note("c1", "a", "client-00001", b"", told[1])],
            ]
            assert w.pool.pages_read == 0

    asyncio.run(scenario())


def test_what_a_task_prints_is_told_while_somebody_watches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            now = [100.0]
            monkeypatch.setattr("qworker.worker.notes.time.monotonic", lambda: now[0])
            w.accept(task("a"))
            number = w.held("a").number
            w.pool.printed[number] = ["one"]

            await w.keeper.renew()
            assert w.state.notes.watch(w.held("a"))
            await w.keeper.renew()
            assert not w.state.notes.watch(w.held("a")), "it is watched already"
            now[0] += WATCHED_S
            w.pool.printed[number] = ["one", "two"]
            await w.keeper.renew()

            told = codec.pack_told(Told("default:a", None, ("one",)))
            notes = [[note.progress for note in call["notes"]] for call in w.broker.calls["renew"]]
            assert notes == [[], [told], []]

    asyncio.run(scenario())


def test_notes_that_were_not_answered_are_sent_again_and_those_of_ended_tasks_never() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"), task("b"))
            number = w.held("a").number
            w.collector.cursor(number, b"one")
            w.broker.script("renew", BrokerUnavailable("gone"))

            await w.keeper.renew()
            await w.keeper.renew()
            w.collector.cursor(number, b"two")
            w.pool.end(number, "returned", payload=codec.pack_value(1))
            await w.keeper.renew()

            assert [[note.cursor for note in call["notes"]] for call in w.broker.calls["renew"]] == [
                [b"one"],
                [b"one"],
                [],
            ]
            assert not len(w.state.notes)

    asyncio.run(scenario())


def test_what_thousands_of_tasks_told_does_not_hold_up_the_renewal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qworker.worker.keeper.NOTES_PER_CALL", 2)

    async def scenario() -> None:
        async with roles() as w:
            w.accept(*(task(local) for local in "abcde"))
            for held in list(w.state.ledger.tasks.values()):
                w.collector.cursor(held.number, b"here")
            w.broker.script("renew", renewal(), renewal(), BrokerUnavailable("gone"))

            await w.keeper.renew()
            await w.keeper.renew()

            calls = w.broker.calls["renew"]
            assert [(len(call["claims"]), [note.id for note in call["notes"]]) for call in calls] == [
                (1, ["a", "b"]), (0, ["c", "d"]), (0, ["e"]), (1, ["e"]),
            ]  # fmt: skip

    asyncio.run(scenario())


def test_a_way_back_takes_the_newest_cursor_along_and_the_next_order_brings_it() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a")._replace(cursor=b"old"))
            number = w.held("a").number
            assert w.pool.orders[number].cursor == b"old"

            w.collector.cursor(number, b"new")
            w.pool.end(number, "interrupted", asked="drain")

            assert await w.settles(1) == [Release("a", "c1", b"new")]

    asyncio.run(scenario())
