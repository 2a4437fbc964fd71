"""What only a mutant of what all scripts share showed that no test looked at (`make mutants ARGS=lib`)."""

from __future__ import annotations

import pytest

from qworker.lifecycle import State
from support.blobs import make_value
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    TwiceBroker,
    counters,
    end,
    full,
    ids,
    name,
    next_fence,
    seed,
    take,
)

DEAD, BODIES, LEASES = "qw:{t.q}:dead", "qw:{t.q}:dead_bodies", "qw:{t.q}:leases"
OTHER = "host:2:bbbb"
WEEK_MS = 7 * 24 * 3_600_000


@pytest.mark.parametrize("lost", [False, True], ids=["a witness", "what it had is lost"])
def test_a_claim_passes_on_a_full_server_where_nothing_is(broker: TwiceBroker, lost: bool) -> None:
    broker.twice = False  # a second witness would be another one
    take(broker, "c0")

    with full(broker):
        if lost:
            broker.client.flushall()
        assert take(broker, "c1", stalled=not lost).tasks == ()


def crash(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1", state=State.CRASHED)])


def test_what_ended_badly_is_kept_for_a_week(broker: TwiceBroker) -> None:
    broker.client.zadd(DEAD, {"older": START_MS - WEEK_MS - 1_000, "younger": START_MS - WEEK_MS + 1_000})
    broker.client.hset(BODIES, mapping={"older": b"1 x", "younger": b"1 x"})

    crash(broker)

    assert broker.client.zrange(DEAD, 0, -1) == [b"younger", b"a"]
    assert set(broker.client.hkeys(BODIES)) == {b"younger", b"a"}


def test_the_dead_set_holds_as_many_as_it_may(broker: TwiceBroker) -> None:
    broker.client.zadd(DEAD, {f"old{n}": START_MS - 1_000 for n in range(9_999)})

    crash(broker)

    assert broker.client.zcard(DEAD) == 10_000


def test_what_expires_is_kept_with_its_run_and_no_more_than_may_be(broker: TwiceBroker) -> None:
    broker.client.zadd(DEAD, {f"old{n}": START_MS - 1_000 for n in range(10_000)})
    seed(broker, "a", deadline_ms=100)
    broker.client.hset("qw:{t.q}:tasks", "a", broker.client.hget("qw:{t.q}:tasks", "a").replace(b" - 1 ", b" - 2 "))
    broker.at(100)

    assert [each.code for each in broker.expire(QUEUE, ["a"], value_of=lambda _: make_value(b"expired"))] == ["expired"]

    assert broker.client.hget(BODIES, "a").startswith(b"2 ")
    assert broker.client.zcard(DEAD) == 10_000


def test_a_fence_is_the_next_that_is_no_smaller_than_the_time(broker: TwiceBroker) -> None:
    seed(broker, "t")
    last = take(broker, "c").fence
    for n in range(12):
        now = last + 60 + n
        broker.at(now - START_MS)
        seed(broker, f"t{n}")
        fence = take(broker, f"c{n}").fence
        assert fence == next_fence(last, now)
        last = fence


def test_the_first_longer_lease_leaves_those_that_are_there_as_they_are(broker: TwiceBroker) -> None:
    """Also after the clock has stepped back, when they end later than any lease was long before."""
    broker.at(5_000)
    seed(broker, "a", "b")
    take(broker, "c1", 1, lease_ms=10_000)
    broker.at(0)

    assert ids(take(broker, "c2", 1, worker=OTHER, lease_ms=60_000)) == ["b"]

    assert broker.client.zscore(LEASES, name("c1")) == START_MS + 15_000


@pytest.mark.parametrize(("share", "amnesties"), [(0.4, 0), (0.6, 1)])
def test_a_clock_has_stepped_when_it_is_off_by_more_than_half_a_lease(
    broker: TwiceBroker, share: float, amnesties: int
) -> None:
    broker.twice = False  # the second sending would see the step once more

    take(broker, "c1", expected_ms=START_MS - int(share * LEASE_MS))

    assert counters(broker).get("amnesties", 0) == amnesties
