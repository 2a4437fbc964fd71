"""How a claimed task ends or goes back, and what a claim that lost it can no longer do."""

from __future__ import annotations

import pytest

from qworker.lifecycle import KEPT_FOR_RETRY, OUTCOMES, State
from qworker.model import Again, Line, Lose, Park, Release, Settle
from support.blobs import make_value
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    TwiceBroker,
    counters,
    end,
    ids,
    item,
    name,
    only,
    record,
    seed,
    snapshot,
    state,
    stop,
    take,
)  # fmt: skip

CLIENT = "abcdefghijkl"


@pytest.mark.parametrize("outcome", sorted(OUTCOMES))
def test_an_end_leaves_the_outcome_and_nothing_else_of_the_task(broker: TwiceBroker, outcome: State) -> None:
    seed(broker, "a")
    take(broker, "c1")
    ended = end("a", "c1", state=outcome, ttl_ms=5_000)

    reply = broker.settle(QUEUE, [ended])

    assert reply.codes == ("ok",)
    assert broker.second.codes == ("again",)
    (peeked,) = broker.peek(QUEUE, ["a"])
    assert peeked.outcome == ended.value
    assert 0 < broker.client.pttl("qw:{t.q}:result:a") <= 5_000
    assert counters(broker)[outcome.value] == 1
    left = {key.decode().rpartition("}:")[2] for key in snapshot(broker.client)}
    kept = {"dead", "dead_bodies"} if outcome in KEPT_FOR_RETRY else set()
    assert left == {"meta", "stats", "bell:default", "result:a", "qw:t:queues", *kept}


def test_what_ended_badly_keeps_its_body_and_run_for_a_retry(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")

    broker.settle(QUEUE, [end("a", "c1", state=State.FAILED)])

    assert broker.client.hget("qw:{t.q}:dead_bodies", "a") == b"1 " + item("a").blob
    assert broker.client.zscore("qw:{t.q}:dead", "a") == START_MS


def test_the_dead_set_is_trimmed_by_number_and_age(broker: TwiceBroker) -> None:
    dead, bodies = "qw:{t.q}:dead", "qw:{t.q}:dead_bodies"
    broker.client.zadd(dead, {f"old{n:05}": START_MS - 1_000 + n // 100 for n in range(10_000)})
    broker.client.zadd(dead, {"ancient": START_MS - 8 * 24 * 3_600_000})
    broker.client.hset(bodies, mapping={"old00000": b"1 x", "old00001": b"1 x", "ancient": b"1 x"})
    seed(broker, "a")
    take(broker, "c1")

    broker.settle(QUEUE, [end("a", "c1", state=State.CRASHED)])

    assert broker.client.zcard(dead) == 10_000
    assert set(broker.client.hkeys(bodies)) == {b"old00001", b"a"}


def test_a_window_of_many_outcomes_is_pushed_as_one_message_per_client(broker: TwiceBroker) -> None:
    other = "zzzzzzzzzzzz"
    broker.twice = False
    with broker.subscribe(CLIENT) as inbox, broker.subscribe(other) as other_inbox:
        seed(broker, "a", "b", "c", "d")
        take(broker, "c1")
        items = [
            end("a", "c1", client=CLIENT),
            end("b", "c1", client=other),
            end("c", "c1", client=CLIENT, hint=b"\xa3q:c"),
            end("d", "c1"),
        ]

        broker.settle(QUEUE, items)

        assert inbox.next(5) == items[0].value + b"\xa3q:c"
        assert other_inbox.next(5) == items[1].value
        assert inbox.next(0.05) is None


def test_a_claim_goes_with_its_last_task(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")

    broker.settle(QUEUE, [end("a", "c1")])
    assert broker.client.zscore("qw:{t.q}:leases", name("c1")) == START_MS + LEASE_MS
    broker.settle(QUEUE, [Release("b", name("c1"))])

    assert broker.client.exists("qw:{t.q}:leases", "qw:{t.q}:held") == 0


def test_a_settle_by_a_claim_that_lost_the_task_changes_nothing_but_a_counter(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.at(LEASE_MS)
    take(broker, "c2", 1, worker="host:2:bbbb")
    before = snapshot(broker.client)

    reply = broker.settle(QUEUE, [end("a", "c1"), Release("b", name("c1"))])

    after = snapshot(broker.client)
    assert reply.codes == ("lost", "lost")
    stats = b"qw:{t.q}:stats"
    assert after[stats].pop(b"refused_late") == b"2"
    assert after == before


def test_a_refusal_of_something_sent_again_is_not_counted(broker: TwiceBroker) -> None:
    reply = broker.settle(QUEUE, [end("a", "c1"), Lose("b", name("c1"), True)], resend=True)

    assert reply.codes == ("lost", "lost")
    assert "refused_late" not in counters(broker)


def test_an_outcome_does_not_change_once_recorded(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1", text=b"first")])

    reply = broker.settle(QUEUE, [end("a", "c1", text=b"second", state=State.FAILED)])

    assert reply.codes == ("again",)
    assert broker.peek(QUEUE, ["a"])[0].outcome == end("a", "c1", text=b"first").value
    assert "failed" not in counters(broker)


def test_released_tasks_come_first_again_in_their_order_and_uncharged(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", "d")
    take(broker, "c1", 3)

    reply = broker.settle(QUEUE, [Release(local, name("c1")) for local in ("a", "b", "c")])

    assert reply.codes == ("ok",) * 3
    assert broker.second.codes == ("again",) * 3
    window = take(broker, "c2")
    assert ids(window) == ["a", "b", "c", "d"]
    assert {(task.record.attempt, task.record.deliveries, task.record.losses) for task in window.tasks} == {(1, 1, 0)}


def test_a_release_goes_back_to_its_own_line(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("thread", "high"))
    take(broker, "c1")

    broker.settle(QUEUE, [Release("a", name("c1"))])

    assert broker.client.lrange("qw:{t.q}:ready:thread:high", 0, -1) == [b"a"]
    assert broker.client.llen("qw:{t.q}:bell:thread") == 1


def test_a_retry_waits_for_its_delay_as_the_next_attempt(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")

    assert broker.settle(QUEUE, [Again("a", name("c1"), 2_000)]).codes == ("ok",)

    assert state(broker, "a") is State.SCHEDULED
    assert take(broker, "c2").next_due_ms == START_MS + 2_000
    broker.at(2_000)
    assert only(take(broker, "c3")).record.attempt == 2
    assert counters(broker)["retried"] == 1


def test_a_retry_without_delay_goes_to_the_back_of_its_line(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1)

    broker.settle(QUEUE, [Again("a", name("c1"), 0)])

    window = take(broker, "c2")
    assert ids(window) == ["b", "a"]
    assert window.tasks[1].record.attempt == 2


def test_a_parked_task_waits_uncharged(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")

    broker.settle(QUEUE, [Park("a", name("c1"), 700)])

    assert take(broker, "c2").tasks == ()
    broker.at(700)
    record = only(take(broker, "c3")).record
    assert (record.attempt, record.deliveries) == (1, 1)


def test_a_loss_charges_and_puts_the_task_to_the_front(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1)

    broker.settle(QUEUE, [Lose("a", name("c1"), exact=True)])

    window = take(broker, "c2")
    assert ids(window) == ["a", "b"]
    record = window.tasks[0].record
    assert (record.losses, record.attempt, record.exact) == (1, 2, True)


def test_after_two_losses_a_task_waits_to_be_run_alone(broker: TwiceBroker) -> None:
    seed(broker, "bad", "good", line=Line("thread"))
    for claim in ("c1", "c2"):
        take(broker, claim, 1)
        broker.settle(QUEUE, [Lose("bad", name(claim), exact=False)])

    crowd = take(broker, "c3")
    other_pool = take(broker, "c4", alone=True, needs=("default", "process"))
    lone = take(broker, "c5", alone=True)

    assert (ids(crowd), crowd.suspects, crowd.alone) == (["good"], 1, False)
    assert other_pool.tasks == ()
    assert (ids(lone), lone.suspects, lone.alone) == (["bad"], 0, True)
    assert only(lone).record.losses == 2


@pytest.mark.parametrize("way_back", [
    Again("bad", name("c3"), delay_ms=0),
    Again("bad", name("c3"), delay_ms=500),
    Park("bad", name("c3"), delay_ms=500),
], ids=["again", "again later", "parked"])  # fmt: skip
def test_a_suspect_that_comes_back_alive_still_waits_to_be_run_alone(broker: TwiceBroker, way_back: Settle) -> None:
    seed(broker, "bad")
    for claim in ("c1", "c2"):
        take(broker, claim)
        broker.settle(QUEUE, [Lose("bad", name(claim), exact=False)])
    take(broker, "c3", alone=True)

    broker.settle(QUEUE, [way_back])
    broker.at(500)

    crowd, lone = take(broker, "c4"), take(broker, "c5", alone=True)
    assert (ids(crowd), crowd.suspects) == ([], 1)
    assert (ids(lone), lone.alone) == (["bad"], True)


def test_a_lone_claim_without_suspects_is_a_plain_one(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")

    window = take(broker, "c1", alone=True)

    assert (ids(window), window.alone) == (["a", "b"], False)


@pytest.mark.parametrize("move", [Release("a", name("c1")), Park("a", name("c1"), 5), Again("a", name("c1"), 5),
                                  Lose("a", name("c1"), True)], ids=lambda move: type(move).__name__)  # fmt: skip
def test_a_waiting_stop_goes_before_any_move(broker: TwiceBroker, move: Release | Park | Again | Lose) -> None:
    seed(broker, "a")
    take(broker, "c1")
    stop(broker, "a", grace_ms=100)
    before = snapshot(broker.client)

    reply = broker.settle(QUEUE, [move])

    assert reply.codes == ("stopped",)
    assert [(claim, local, order.grace_ms) for claim, local, order in reply.stops] == [(name("c1"), "a", 100)]
    assert snapshot(broker.client) == before
    assert broker.settle(QUEUE, [end("a", "c1", state=State.CANCELLED)]).codes == ("ok",)
    assert broker.client.exists("qw:{t.q}:stops") == 0


def test_a_settle_reports_the_stops_of_further_claims_that_it_is_asked_for(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1)
    take(broker, "c2", 1)
    stop(broker, "b")

    quiet = broker.settle(QUEUE, [])
    reply = broker.settle(QUEUE, [end("a", "c1")], claims=[name("c2")])

    assert quiet.stops == ()
    assert [(claim, local, order.grace_ms) for claim, local, order in reply.stops] == [(name("c2"), "b", None)]


def test_codes_come_in_the_order_of_the_items_however_they_are_grouped(broker: TwiceBroker) -> None:
    seed(broker, *"abcdef")
    take(broker, "c1")
    stop(broker, "d")

    reply = broker.settle(
        QUEUE,
        [
            Release("a", name("c1")),
            end("b", "c1", state=State.FAILED),
            end("nobody", "c1"),
            Release("d", name("c1")),
            end("c", "c1"),
            end("e", "c1", client=CLIENT),
            Park("f", name("c2"), 10),
        ],
    )

    assert reply.codes == ("ok", "ok", "lost", "stopped", "ok", "ok", "lost")
    assert {local: found.alive for local, found in zip("abcdef", broker.peek(QUEUE, "abcdef"), strict=True)} == {
        "a": True, "b": False, "c": False, "d": True, "e": False, "f": True,
    }  # fmt: skip


def test_two_items_for_one_task_are_refused_before_they_are_sent(broker: TwiceBroker) -> None:
    with pytest.raises(ValueError, match="cannot settle in queue 'q': two items name the same task"):
        broker.settle(QUEUE, [end("a", "c1"), Release("a", name("c1"))])


def test_an_outcome_may_hold_any_bytes(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    value = make_value(bytes(range(255)), claim=name("c1"))

    broker.settle(QUEUE, [end("a", "c1").__class__("a", name("c1"), State.SUCCEEDED, value, 1_000, CLIENT)])

    assert broker.peek(QUEUE, ["a"])[0].outcome == value


def test_a_delivery_counts_until_it_is_released_or_the_attempt_ends(broker: TwiceBroker) -> None:
    seed(broker, "a")
    for n in range(3):  # claimed and never seen by its worker: each counts
        take(broker, f"lost{n}")
        broker.at((n + 1) * LEASE_MS)
    take(broker, "c1")
    deliveries = record(broker, "a")
    broker.settle(QUEUE, [Release("a", name("c1"))])
    take(broker, "c2")
    released = record(broker, "a")
    broker.settle(QUEUE, [Again("a", name("c2"), 0)])
    take(broker, "c3")
    retried = record(broker, "a")

    assert deliveries is not None
    assert released is not None
    assert retried is not None
    assert [deliveries.deliveries, released.deliveries, retried.deliveries] == [4, 4, 1]
