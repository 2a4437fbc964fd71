"""What only a mutant of the claim showed that no test looked at (`make mutants ARGS=claim`)."""

from __future__ import annotations

import pytest

from qworker.broker.values import Stand
from qworker.model import Line
from support.brokers import (
    ALL_NEEDS,
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    full,
    ids,
    lose_twice,
    name,
    seed,
    take,
)

PREFIX = "qw:{t.q}:"
TWO_POOLS = [(("process",), 1), (("thread",), 1)]


def claim(broker: TwiceBroker, claim: str, rooms: list[tuple[tuple[str, ...], int]], *, alone: bool) -> list[str]:
    return ids(
        broker.claim(QUEUE, claim=name(claim), worker=WORKER, rooms=rooms, lease_ms=LEASE_MS, alone=alone)  # type: ignore[arg-type]
    )


def test_an_idle_claim_is_left_standing_on_a_full_server_where_nobody_holds_anything(broker: TwiceBroker) -> None:
    take(broker, "c0")  # the first claim of all has more to write

    with full(broker):
        assert take(broker, "c1", stand=Stand(name("s1"), WORKER, ALL_NEEDS, LEASE_MS)).tasks == ()

    assert broker.client.zcard(PREFIX + "standing") == 1


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_what_waits_for_either_of_two_pools_is_taken(broker: TwiceBroker, pool: str) -> None:
    seed(broker, "a", line=Line(pool))  # type: ignore[arg-type]

    assert claim(broker, "c1", TWO_POOLS, alone=False) == ["a"]


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_suspect_of_either_of_two_pools_is_taken(broker: TwiceBroker, pool: str) -> None:
    seed(broker, "a", line=Line(pool))  # type: ignore[arg-type]
    lose_twice(broker, "a")

    assert claim(broker, "c1", TWO_POOLS, alone=True) == ["a"]


def test_of_two_suspects_one_is_taken(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    lose_twice(broker, "a", "b")

    assert ids(take(broker, "c1", alone=True)) == ["a"]
    assert take(broker, "c2").suspects == 1


@pytest.mark.parametrize("gone", ["bodies", "tasks"])
def test_a_suspect_of_which_something_is_gone_is_passed_over_for_good(broker: TwiceBroker, gone: str) -> None:
    seed(broker, "a", "b")
    lose_twice(broker, "a", "b")
    broker.client.hdel(PREFIX + gone, "a")

    assert ids(take(broker, "c1", alone=True)) == ["b"]
    assert broker.client.llen(PREFIX + "suspects") == 0


def test_a_window_is_filled_up_to_its_last_byte(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    size = broker.client.hstrlen(PREFIX + "bodies", "a")

    assert ids(take(broker, "c1", max_bytes=2 * size)) == ["a", "b"]
    assert ids(take(broker, "c2", max_bytes=2 * size)) == ["c"]


def test_an_amnesty_where_nobody_holds_anything_wakes_nobody(broker: TwiceBroker) -> None:
    seed(broker, "a", delay_ms=3_600_000)
    broker.twice = False  # else there are two

    assert take(broker, "c1", stalled=True).next_due_ms == START_MS + 3_600_000


def test_who_takes_the_last_of_its_pool_rings_for_nobody(broker: TwiceBroker) -> None:
    """Also when something waits in the line that comes next, which is of another pool."""
    seed(broker, "a")
    seed(broker, "b", line=Line("process", "high"))
    broker.client.delete(PREFIX + "bell:default", PREFIX + "bell:process")

    assert ids(take(broker, "c1", 1, needs=("default",))) == ["a"]

    assert not broker.client.exists(PREFIX + "bell:default", PREFIX + "bell:process")
