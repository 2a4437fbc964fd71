"""The dispatcher: what of a window runs, what is buried, put aside, or recorded before it starts."""

from __future__ import annotations

import asyncio

import pytest

from qworker import clock, codec
from qworker.errors import BrokerUnavailable
from qworker.lifecycle import How, State
from qworker.model import End, Outcome, Park, Record, Release, StopOrder
from qworker.worker.state import MOST_UNKNOWN, OTHERS, Phase
from support.roles import NOW_MS, renewal, roles, task, window


def outcome_of(settle: object) -> Outcome:
    assert isinstance(settle, End), settle
    return codec.unpack_outcome(settle.value)


def test_tasks_go_to_the_pool_that_they_need() -> None:
    async def scenario() -> None:
        async with roles(process=2, thread=2) as w:
            w.accept(task("a"), task("b", need="thread"), task("c", need="process"))

            assert w.pools["process"].batches == [["a", "c"]]
            assert w.pools["thread"].batches == [["b"]]

    asyncio.run(scenario())


def test_a_task_of_a_name_that_nobody_here_knows_is_put_aside_and_told_of_once() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a", name="other"), task("b", name="other"))

            assert [type(item) for item in await w.settles(2)] == [Park, Park]
            assert len(w.told("task.unknown")) == 1
            assert w.state.unknown == {"other": 2}
            assert not w.pool.orders

    asyncio.run(scenario())


def test_unknown_names_are_counted_without_end_but_kept_only_so_many() -> None:
    """Anybody may submit any name; a worker that runs for months must not keep them all."""

    async def scenario() -> None:
        async with roles() as w:
            for n in range(MOST_UNKNOWN + 50):
                w.accept(task(f"a{n}", name=f"name{n}"), claim=f"c{n}")

            assert len(w.state.unknown) == MOST_UNKNOWN + 1
            assert w.state.unknown[OTHERS] == 50
            assert len(w.told("task.unknown")) == MOST_UNKNOWN

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "content",
    [
        b"\0" * 8 + b"b",  # as short as a script lets it pass
        b"\0" * 8 + b"b" + b"\xff" * 12 + b"\0" * 40,  # a client that is no text
        b"\0" * 8 + b"b" + b" " * 12 + b"\0" * 8 + b"\x00\x02" + b"\xc1\xc1",  # a header that is no msgpack
    ],
)
def test_a_blob_that_cannot_be_read_fails_its_task_and_harms_nobody(content) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("bad", content=content), task("good"))

            (end,) = await w.settles(1)
            assert outcome_of(end).state is State.FAILED
            assert "cannot be read" in outcome_of(end).reason
            assert w.pool.batches == [["good"]]

    asyncio.run(scenario())


def test_a_task_whose_deadline_has_passed_is_buried_unrun() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("late", record=Record(deliveries=1, deadline_ms=NOW_MS - 1)),
                     task("early", record=Record(deliveries=1, deadline_ms=NOW_MS + 60_000)))  # fmt: skip

            (end,) = await w.settles(1)
            assert (outcome_of(end).id, outcome_of(end).state) == ("default:late", State.EXPIRED)
            (order,) = w.pool.orders.values()
            assert order.deadline_s == pytest.approx(60, abs=0.1)

    asyncio.run(scenario())


def test_a_deadline_counts_from_when_the_server_answered_not_from_when_the_answer_is_read() -> None:
    """A worker that was frozen, or whose answer was on its way for long, started what was out of time."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            now, lost = clock.now(), [task(local, record=Record(deliveries=1, deadline_ms=NOW_MS + ms))
                                      for local, ms in (("late", 2_000), ("early", 60_000))]  # fmt: skip

            w.dispatcher.accept(window("c1", *lost), now - 8.0, alone=False)

            (end,) = await w.settles(1)
            assert (outcome_of(end).id, outcome_of(end).state) == ("default:late", State.EXPIRED)
            (order,) = w.pool.orders.values()
            assert order.deadline_s == pytest.approx(52, abs=0.5)

    asyncio.run(scenario())


def test_a_claim_that_stood_for_long_before_it_was_filled_takes_no_time_from_its_task() -> None:
    """Its call was sent long ago; the answers since then tell what time it is there."""

    async def scenario() -> None:
        async with roles() as w:
            now = clock.now()
            w.state.hear(w.state.witness("default"), "default", now - 1.002, NOW_MS - 1_000, told=False)
            limited = task("a", record=Record(deliveries=1, deadline_ms=NOW_MS + 2_000))

            w.dispatcher.accept(window("c1", limited), now - 10.0, alone=False)

            (order,) = w.pool.orders.values()
            assert order.deadline_s == pytest.approx(2, abs=0.5)

    asyncio.run(scenario())


def test_a_stop_that_overtook_the_claims_reply_buries_the_task() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.dispatcher.stop("default", "c1", "a", StopOrder(0))

            w.accept(task("a"), task("b"))

            (end,) = await w.settles(1)
            assert (outcome_of(end).state, outcome_of(end).how) == (State.CANCELLED, How.NEVER_STARTED)
            assert w.pool.batches == [["b"]]

    asyncio.run(scenario())


def test_an_early_stop_of_another_claim_does_not_touch_the_task() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.dispatcher.stop("default", "elsewhere", "a", StopOrder(0))

            w.accept(task("a"))

            assert w.pool.batches == [["a"]]

    asyncio.run(scenario())


def test_early_stops_are_forgotten_after_a_lease(monkeypatch) -> None:
    async def scenario() -> None:
        async with roles() as w:
            for n in range(100):
                w.dispatcher.stop("default", f"c{n}", "a", StopOrder(0))
            assert len(w.dispatcher._early_stops) == 100
            later = asyncio.get_running_loop().time() + w.state.lease.lease_s + 1
            monkeypatch.setattr("qworker.worker.dispatch.time.monotonic", lambda: later)

            w.dispatcher.stop("default", "new", "a", StopOrder(0))

            assert len(w.dispatcher._early_stops) == 1

    asyncio.run(scenario())


def test_a_stop_that_comes_again_is_passed_on_once_and_a_shorter_grace_again() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(task("a"))
            number = w.pool.number_of("a")

            for order in (StopOrder(), StopOrder(), StopOrder(0)):
                w.dispatcher.stop("default", "c1", "a", order)

            assert w.pool.asked == [(number, "stop", None), (number, "stop", 0.0)]
            assert w.state.mark_soon.is_set()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("record", "once"),
    [(Record(deliveries=1, losses=1), False), (Record(deliveries=1, losses=1), True), (Record(deliveries=2), False)],
)
def test_a_start_that_must_count_is_recorded_before_it_happens(record, once) -> None:
    async def scenario() -> None:
        async with roles() as w:
            recorded = w.broker.later("renew")
            header = {"delivery": "at_most_once"} if once else {}
            w.accept(task("a", record=record, **header), task("b"))

            call = await w.broker.called("renew")
            assert w.pool.batches == [], "what stands behind it must not take its slot meanwhile"
            assert call["started"] == [("c1", "a", 0, once)]

            recorded.set_result(renewal())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert w.pool.batches == [["a", "b"]]
            assert w.pool.orders[w.pool.number_of("a")].alone is (record.losses > 0)
            assert not w.pool.orders[w.pool.number_of("a")].on_permit
            assert w.held("a").start_recorded
            assert not w.held("b").start_recorded

    asyncio.run(scenario())


@pytest.mark.parametrize("record", [Record(deliveries=1), Record(deliveries=3)])
def test_what_may_start_once_is_recorded_when_a_slot_is_free_for_it_and_starts_then(record) -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.accept(*(task(local, record=record, delivery="at_most_once") for local in "abc"), task("d"))
            numbers = [w.pool.number_of(local) for local in "abc"]
            assert w.pool.batches == [["a", "b", "c", "d"]]
            assert [w.pool.orders[n].on_permit for n in (*numbers, w.pool.number_of("d"))] == [True] * 3 + [False]
            assert not w.broker.calls["renew"], "which of them have a slot is for their pool to say"

            recorded = w.broker.later("renew")
            w.collector.permit_wanted(numbers[:1])
            call = await w.broker.called("renew")
            w.collector.permit_wanted(numbers[1:])  # meanwhile: in one call, when this one is answered
            assert (call["claims"], call["started"]) == (["c1"], [("c1", "a", 0, True)])
            assert not w.pool.permitted
            recorded.set_result(renewal())

            call = await w.broker.called("renew", 2)
            assert call["started"] == [("c1", "b", 0, True), ("c1", "c", 0, True)]
            await asyncio.gather(*w.dispatcher._starting)
            assert w.pool.permitted == numbers
            assert [w.held(local).start_recorded for local in "abcd"] == [True] * 3 + [False]

            w.accept(task("e", delivery="at_most_once"), claim="c2")
            w.collector.permit_wanted([w.pool.number_of("e")])
            assert (await w.broker.called("renew", 3))["claims"] == ["c2"]

    asyncio.run(scenario())


def test_of_several_claims_only_what_is_still_held_may_start() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("renew", renewal(lost=["c1"]))
            w.accept(task("a", delivery="at_most_once"))
            w.accept(task("b", delivery="at_most_once"), claim="c2")

            w.collector.permit_wanted([w.pool.number_of("a"), w.pool.number_of("b"), 99])
            await asyncio.gather(*w.dispatcher._starting)

            assert w.pool.permitted == [w.pool.number_of("b")]
            assert not w.held("a").start_recorded

    asyncio.run(scenario())


def test_a_drain_permits_nothing_more() -> None:
    async def scenario() -> None:
        async with roles() as w:
            recorded = w.broker.later("renew")
            w.accept(task("a", delivery="at_most_once"), task("b", delivery="at_most_once"))
            w.collector.permit_wanted([w.pool.number_of("a")])
            await w.broker.called("renew")
            w.collector.permit_wanted([w.pool.number_of("b")])

            w.dispatcher.cancel_starts()
            await asyncio.gather(*w.dispatcher._starting, return_exceptions=True)
            recorded.cancel()

            assert not w.pool.permitted
            assert len(w.broker.calls["renew"]) == 1

    asyncio.run(scenario())


def test_a_start_that_could_not_be_recorded_is_tried_again_and_does_not_happen_meanwhile() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("renew", BrokerUnavailable("gone"))
            w.accept(task("a", delivery="at_most_once"))
            w.collector.permit_wanted([w.pool.number_of("a")])

            await w.broker.called("renew")
            await asyncio.sleep(0)
            assert not w.pool.permitted
            await w.broker.called("renew", 2)

    asyncio.run(scenario())


def test_a_start_under_a_claim_that_is_lost_does_not_happen() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("renew", renewal(lost=["c1"]))
            w.accept(task("a", record=Record(deliveries=2)))

            (start,) = w.dispatcher._starting
            await start

            assert not w.pool.batches

    asyncio.run(scenario())


def test_a_stop_that_arrives_while_the_start_is_recorded_wins() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            recorded = w.broker.later("renew")
            w.accept(task("a", record=Record(deliveries=2)))
            await w.broker.called("renew")

            w.dispatcher.stop("default", "c1", "a", StopOrder())
            recorded.set_result(renewal())

            (end,) = await w.settles(1)
            assert (outcome_of(end).state, outcome_of(end).how) == (State.CANCELLED, How.NEVER_STARTED)
            assert not w.pool.batches

    asyncio.run(scenario())


def test_a_failure_in_a_recorded_start_is_not_swallowed() -> None:
    """Its tasks would be held and renewed for ever, and never run."""

    async def scenario() -> None:
        async with roles() as w:
            w.broker.script("renew", RuntimeError("a bug"))
            with pytest.raises(ExceptionGroup):
                async with asyncio.TaskGroup() as group:
                    w.state.spawn = group.create_task
                    w.accept(task("a", delivery="at_most_once"))
                    w.collector.permit_wanted([w.pool.number_of("a")])

    asyncio.run(scenario())


def test_a_window_that_arrives_after_the_drain_began_goes_back_unrun_in_its_order() -> None:
    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.state.phase = Phase.DRAINING

            w.accept(task("a"), task("b", name="other"), task("c", delivery="at_most_once"))

            assert await w.settles(3) == [Release(local, "c1") for local in "abc"]
            assert not w.pool.batches
            assert not w.broker.calls["renew"]

    asyncio.run(scenario())


def test_what_may_start_once_and_did_is_buried_by_a_drain_too() -> None:
    """Given back it would be without its mark, and start a second time."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.state.phase = Phase.DRAINING

            w.accept(task("a", delivery="at_most_once", record=Record(once=True, attempt=2, losses=1, deliveries=1)))

            (end,) = await w.settles(1)
            assert (outcome_of(end).state, outcome_of(end).how) == (State.CRASHED, How.HOST_DIED)

    asyncio.run(scenario())


def test_a_task_that_comes_back_under_a_new_claim_is_killed_under_the_old_one_first() -> None:
    """The worker's own claim put back what its lapsed lease held: the same id would run twice here."""

    async def scenario() -> None:
        async with roles() as w:
            w.run(w.settler.run())
            w.accept(task("a"), task("b"), claim="old")
            before = w.pool.number_of("a")
            w.pool.started[before] = 1.0

            w.accept(task("a"), claim="new")

            assert w.pool.forgotten == [before]
            assert before not in w.state.ledger.tasks
            assert w.held("a").claim.id == "new"
            assert w.pool.number_of("a") == w.held("a").number
            assert not w.broker.calls["settle"], "what the pool told of the old one was nobody's"
            assert w.held("b").claim.id == "old"

    asyncio.run(scenario())


def test_with_older_claims_past_their_lease_a_new_window_waits_for_a_renewal() -> None:
    async def scenario() -> None:
        async with roles() as w:
            now = clock.now()
            w.accept(task("a"), claim="old")
            w.state.lease.until = now - 1  # an outage, while a claim was under way

            w.accept(task("b"), claim="new")

            assert w.pool.allowed_ns < now * 1e9
            assert w.state.mark_soon.is_set(), "the renewal is hurried"

    asyncio.run(scenario())
