"""What only a mutant of the claim showed that no test looked at (`make mutants ARGS=claim`)."""

from __future__ import annotations

import pytest

from qworker.broker.records import write_record
from qworker.broker.values import Stand
from qworker.model import Line, Record
from support.blobs import make_blob
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


def seed_suspects(broker: TwiceBroker, *locals_: str, pool: str) -> None:
    """Many, in this order, as if each had been lost twice."""
    line = Line(pool)  # type: ignore[arg-type]
    record = write_record(Record(losses=2), line)
    broker.client.hset(PREFIX + "bodies", mapping=dict.fromkeys(locals_, make_blob(line=line)))
    broker.client.hset(PREFIX + "tasks", mapping=dict.fromkeys(locals_, record))
    broker.client.rpush(PREFIX + "suspects", *locals_)


@pytest.mark.parametrize(("before", "brought"), [(999, [["b"], ["c"], []]), (1_000, [[], ["b"], ["c"]])])
def test_suspects_of_a_pool_that_nobody_serves_do_not_hide_those_behind_them(
    broker: TwiceBroker, before: int, brought: list[list[str]]
) -> None:
    """One look goes that far; what it passed over goes behind the others, in its order."""
    others = [f"a{number}" for number in range(before)]
    seed_suspects(broker, *others, pool="async")
    seed_suspects(broker, "b", "c", pool="process")
    broker.twice = False  # a claim that brings nothing, sent again, is one look more

    rooms: list[tuple[tuple[str, ...], int]] = [(("process", "default"), 4)]
    assert [claim(broker, f"c{look}", rooms, alone=True) for look in range(3)] == brought

    assert [id_.decode() for id_ in broker.client.lrange(PREFIX + "suspects", 0, -1)] == others
    assert claim(broker, "c9", [(("async",), 4)], alone=True) == ["a0"]


def test_what_is_no_suspect_any_more_is_gone_after_one_look_however_much_of_it_there_is(broker: TwiceBroker) -> None:
    broker.client.rpush(PREFIX + "suspects", *(f"gone{number}" for number in range(1_000)))
    seed_suspects(broker, "b", pool="process")
    broker.twice = False

    assert [claim(broker, f"c{look}", TWO_POOLS, alone=True) for look in range(2)] == [[], ["b"]]

    assert broker.client.llen(PREFIX + "suspects") == 0


def test_a_look_at_suspects_of_other_pools_leaves_a_short_list_as_it_is(broker: TwiceBroker) -> None:
    seed_suspects(broker, "a", "b", pool="async")
    seed_suspects(broker, "c", "d", pool="process")

    brought = [claim(broker, f"c{look}", TWO_POOLS, alone=True) for look in range(3)]

    assert brought == [["c"], ["d"], []]
    assert broker.client.lrange(PREFIX + "suspects", 0, -1) == [b"a", b"b"]


def test_what_was_passed_over_stays_in_front_when_a_suspect_is_taken(broker: TwiceBroker) -> None:
    seed_suspects(broker, "a", pool="async")
    seed_suspects(broker, "b", "c", pool="process")

    assert claim(broker, "c1", TWO_POOLS, alone=True) == ["b"]

    assert broker.client.lrange(PREFIX + "suspects", 0, -1) == [b"a", b"c"]


def test_suspects_that_are_none_are_gone_from_before_those_that_are(broker: TwiceBroker) -> None:
    """Whatever its pool: what is among them, and not queued as one of them, stands in the way of others."""
    seed_suspects(broker, "ended", "a", pool="async")
    seed_suspects(broker, "twice", "b", pool="process")
    broker.client.hset(PREFIX + "tasks", "twice", write_record(Record(losses=1), Line("process")))
    broker.client.hdel(PREFIX + "bodies", "ended")
    broker.client.lpush(PREFIX + "suspects", "no id")
    broker.client.hset(PREFIX + "bodies", "no id", "x")
    broker.client.hset(PREFIX + "tasks", "no id", write_record(Record(losses=2), Line("process")))

    assert claim(broker, "c1", TWO_POOLS, alone=True) == ["b"]

    assert broker.client.lrange(PREFIX + "suspects", 0, -1) == [b"a"]


@pytest.mark.parametrize("body", ["abc", "A BODY OF SOME OTHER KIND"])
def test_a_suspect_whose_body_names_no_line_is_handed_out_by_its_record(broker: TwiceBroker, body: str) -> None:
    seed_suspects(broker, "a", "b", pool="process")
    broker.client.hset(PREFIX + "bodies", mapping={"a": make_blob(line=Line("async")), "b": body})

    assert claim(broker, "c1", TWO_POOLS, alone=True) == ["b"], "the other one is of another task"


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


def test_a_line_that_is_taken_in_several_batches_does_not_hide_the_next_one(broker: TwiceBroker) -> None:
    first, second = [f"a{number}" for number in range(40)], ["b0", "b1"]
    seed(broker, *first, line=Line("process", "high"))
    seed(broker, *second, line=Line("process", "normal"))

    assert claim(broker, "c1", [(("process",), 100)], alone=False) == [*first, *second]
