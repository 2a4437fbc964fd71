"""What only a mutant of the scripts beside claim, settle and submit showed that no test looked at (`make mutants`)."""

from __future__ import annotations

from typing import Any

import pytest

from qworker.broker import group_calls
from qworker.broker.group_calls import KEPT_MS
from qworker.model import Again, Line, Window
from qworker.views import WorkerRecord
from support.blobs import make_blob, make_value
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    full,
    ids,
    item,
    lose_twice,
    name,
    seed,
    take,
)  # fmt: skip

PREFIX = "qw:{t.q}:"


def by_id(broker: TwiceBroker, claim: str, *wanted: str, **options: Any) -> Window:
    options.setdefault("lease_ms", LEASE_MS)
    return broker.claim_ids(QUEUE, wanted, claim=name(claim), worker=WORKER, **options)


def worker() -> WorkerRecord:
    return WorkerRecord("w:1:a", "h", 1, "b", "n", 1, ("q",), "running", 1, {})


# ── workers tell of themselves


def test_a_worker_is_announced_once_and_forgotten_when_it_says_nothing(broker: TwiceBroker) -> None:
    heard = broker.client.pubsub()
    heard.subscribe("qw:t:hello")
    assert heard.get_message(timeout=5)["type"] == "subscribe"

    broker.beat(worker(), ttl_ms=30_000)
    broker.beat(worker(), ttl_ms=30_000)

    assert heard.get_message(timeout=5)["type"] == "message"
    assert heard.get_message(timeout=0.05) is None
    assert 0 < broker.client.pttl("qw:t:worker:w:1:a") <= 30_000
    heard.close()


def test_a_worker_tells_of_itself_and_opens_a_queue_on_a_full_server(broker: TwiceBroker) -> None:
    with full(broker):
        broker.beat(worker(), ttl_ms=30_000)
        take(broker, "c1")

    assert broker.client.hexists("qw:t:worker:w:1:a", "record")
    assert broker.client.hget(PREFIX + "meta", "schema") == b"1"


# ── claims by id


def test_a_claim_by_id_tells_what_is_due_next_and_that_nothing_is_elsewhere(broker: TwiceBroker) -> None:
    seed(broker, "a")
    seed(broker, "b", delay_ms=200)
    seed(broker, "c", delay_ms=300)

    window = by_id(broker, "c1", "a")

    assert (ids(window), window.next_due_ms, window.elsewhere) == (["a"], START_MS + 200, 0)


def test_a_claim_by_id_that_is_asked_for_again_renews_its_lease(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    first = by_id(broker, "c1", "a", "b")
    broker.at(5_000)

    again = by_id(broker, "c1", "a", "b")

    assert (ids(again), again.fence, again.elsewhere) == (["a", "b"], first.fence, 0)
    assert broker.inspect(QUEUE, "a").lease_ms == START_MS + 5_000 + LEASE_MS


@pytest.mark.parametrize(("bytes_", "taken"), [(0, 1), (1, 1), (-1, 2), (-2, 1)])
def test_a_claim_by_id_takes_one_task_and_as_many_more_as_it_has_bytes_for(
    broker: TwiceBroker, bytes_: int, taken: int
) -> None:
    """-1: exactly two of them; -2: one byte less."""
    seed(broker, "a", "b", "c", size=100)
    two = 2 * len(make_blob(b"a", size=100))

    window = by_id(broker, "c1", "a", "b", "c", max_bytes=two + bytes_ + 1 if bytes_ < 0 else bytes_)

    assert ids(window) == ["a", "b", "c"][:taken]


def test_a_stop_that_waits_on_a_queued_task_goes_with_a_claim_by_id(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.stop(QUEUE, ["a"], mode="stop", grace_ms=500, value_of=lambda _: make_value())
    broker.at(LEASE_MS + 1)
    take(broker, "c2", needs=("thread",))  # puts it back
    assert broker.client.zcard(PREFIX + "stops") == 0

    by_id(broker, "c3", "a")

    assert broker.client.zrange(PREFIX + "stops", 0, -1, withscores=True) == [(f"{name('c3')} a".encode(), 0.0)]


# ── expired


def test_what_expires_keeps_the_outcome_that_was_packed_for_it_and_other_ends_are_told(broker: TwiceBroker) -> None:
    broker.twice = False
    broker.submit(QUEUE, Line(), [item("a", deadline_ms=10), item("b", deadline_ms=10), item("c")], given=True)
    broker.stop(QUEUE, ["c"], mode="stop", grace_ms=None, value_of=lambda _: make_value(b"cancelled"))
    broker.at(10)

    answers = broker.expire(QUEUE, ["a", "b", "c"], value_of=lambda local: make_value(b"expired " + local.encode()))

    assert [answer.code for answer in answers] == ["expired", "expired", "ended"]
    for local in ("a", "b"):
        stored = broker.client.get(f"{PREFIX}result:{local}")
        assert stored == make_value(b"expired " + local.encode(), blob=make_blob(local.encode()))


# ── groups


def opened(broker: TwiceBroker, group: str, *path: str, lease_ms: int = 30_000) -> None:
    broker.open_group(
        group, path=path, on_loss="cancel", lease_ms=lease_ms, timeout_ms=0, opener="me", name="n"
    )  # fmt: skip


def test_who_beats_reads_or_joins_a_group_keeps_it(broker: TwiceBroker) -> None:
    key = "qw:t:group:g-1"
    opened(broker, "g-1")
    for keep in (
        lambda: broker.beat_groups(["g-1"]),
        lambda: broker.read_groups(["g-1"]),
        lambda: broker.join_group(["g-1"], ["q:a"]),
    ):
        broker.client.pexpire(key, KEPT_MS * 2 // 5)

        keep()

        assert broker.client.pttl(key) > KEPT_MS / 2


def test_a_read_leaves_alone_a_group_that_will_be_there_for_long(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    most = KEPT_MS // 2 + 60_000
    broker.client.pexpire("qw:t:group:g-1", most)

    broker.read_groups(["g-1"])

    assert broker.client.pttl("qw:t:group:g-1") <= most


def test_a_read_that_finds_owners_gone_tells_of_each_group_by_its_own_id(broker: TwiceBroker) -> None:
    heard = broker.client.pubsub()
    heard.subscribe("qw:t:groups")
    heard.get_message(timeout=5)
    opened(broker, "g-1")
    opened(broker, "g-2")
    for at in (30_001, 40_000):
        broker.at(at)
        broker.read_groups(["g-1", "g-2"])

    assert [heard.get_message(timeout=5)["data"] for _ in range(2)] == [b"g-1 -", b"g-2 -"]
    heard.close()


def test_a_group_whose_owner_knows_of_none_of_its_tasks_stays_open(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    broker.join_group(["g-1"], ["q:a"])

    assert broker.close_group("g-1", seen=0).state == "more"


def test_thousands_join_at_once(broker: TwiceBroker) -> None:
    opened(broker, "g-1")

    broker.join_group(["g-1"], [f"q:{n}" for n in range(1_200)])

    assert broker.show_group("g-1").count == 1_200


def test_the_last_place_of_a_group_may_be_a_groups(broker: TwiceBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_calls, "MOST_MEMBERS", 3)
    opened(broker, "g-1")
    broker.join_group(["g-1"], ["q:1", "q:2"])

    opened(broker, "g-2", "g-1")

    assert broker.show_group("g-1").count == 3


def test_an_owner_without_a_lease_is_never_late_and_one_of_a_millisecond_soon(broker: TwiceBroker) -> None:
    opened(broker, "g-0", lease_ms=0)
    opened(broker, "g-1", lease_ms=1)
    broker.at(100)

    assert [state for state, _ in broker.read_groups(["g-0", "g-1"])] == ["open", "late"]


# ── looks


def test_a_suspect_is_looked_for_among_the_suspects(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    for local in ("a", "b"):
        lose_twice(broker, local)
    seed(broker, *(f"t{n}" for n in range(5)))

    assert [broker.inspect(QUEUE, local).before for local in ("a", "b")] == [0, 1]
    stats = broker.stats(QUEUE)
    assert (stats.ready, stats.suspects) == (5, 2)


def test_before_a_task_are_those_of_its_own_pool_that_come_first(broker: TwiceBroker) -> None:
    seed(broker, "x", "y", "z")
    seed(broker, "h1", "h2", line=Line("thread", "high"))
    seed(broker, "n1", "n2", line=Line("thread"))
    seed(broker, "p", line=Line("process", "high"))

    assert broker.inspect(QUEUE, "n2").before == 3


def test_how_long_the_oldest_waits_is_told_of_the_first_that_is_still_there(broker: TwiceBroker) -> None:
    """What is behind it may have been sent earlier: it was delayed, or is a retry."""
    broker.twice = False
    items = [item(local)._replace(blob=make_blob(local.encode(), sent_ms=START_MS - ago)) for local, ago in (
        ("first", 1_000), ("second", 9_000),
    )]  # fmt: skip
    broker.submit(QUEUE, Line(), items, given=True)

    assert broker.stats(QUEUE).oldest_wait_s == 1.0


def test_a_retry_of_a_suspect_is_a_suspect(broker: TwiceBroker) -> None:
    seed(broker, "a")
    lose_twice(broker, "a")
    by_id(broker, "c1", "a")

    broker.settle(QUEUE, [Again("a", name("c1"), 0)])

    assert broker.stats(QUEUE).suspects == 1


# ── what all share


def test_without_a_test_the_clock_is_the_servers(broker: TwiceBroker) -> None:
    broker.twice = False
    seed(broker, "a")
    broker.owner.now_ms = ""
    seconds, micros = broker.client.time()

    now_ms = take(broker, "c1").now_ms

    assert 0 <= now_ms - (seconds * 1000 + micros // 1000) < 60_000


def test_a_record_that_nobody_wrote_holds_up_no_rescue(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.client.hset(PREFIX + "tasks", "a", f"c {name('c1')} nonsense")
    broker.at(LEASE_MS + 1)

    assert ids(take(broker, "c2")) == ["b"]
