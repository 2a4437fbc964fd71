"""Stop, cancel, expire, and everything that only looks."""

from __future__ import annotations

import pytest

from qworker.broker import ExpireAnswer, StopAnswer
from qworker.lifecycle import State
from qworker.model import Line, Lose, StopOrder
from qworker.views import WorkerRecord
from support.blobs import make_value
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    cancelled,
    counters,
    end,
    ids,
    item,
    name,
    record,
    seed,
    snapshot,
    state,
    stop,
    take,
)  # fmt: skip

CLIENT = "abcdefghijkl"


@pytest.mark.parametrize("mode", ["cancel", "stop"])
def test_what_no_worker_has_is_cancelled_and_never_starts(broker: TwiceBroker, mode: str) -> None:
    seed(broker, "a", "b")
    seed(broker, "later", delay_ms=50)

    answers = stop(broker, "a", "later", mode=mode)

    assert [answer.code for answer in answers] == ["cancelled", "cancelled"]
    assert [answer.code for answer in broker.second] == ["cancelled", "cancelled"]
    assert broker.client.exists("qw:{t.q}:tasks", "qw:{t.q}:later") == 0
    broker.at(100)
    assert ids(take(broker, "c1")) == ["b"]
    assert counters(broker)["cancelled"] == 2


def test_a_cancelled_outcome_carries_the_digest_of_its_task_and_is_pushed_to_the_client(broker: TwiceBroker) -> None:
    broker.twice = False
    with broker.subscribe(CLIENT) as inbox:
        seed(broker, "a", client=CLIENT)

        broker.stop(QUEUE, ["a"], mode="cancel", value_of=cancelled, ttl_ms=9_000)

        digest = item("a").blob[:8]
        value = make_value(b"cancelled a", blob=digest)
        assert inbox.next(5) == value
        assert broker.peek(QUEUE, ["a"])[0].outcome == value
        assert 0 < broker.client.pttl("qw:{t.q}:result:a") <= 9_000


def test_a_cancel_leaves_a_held_task_alone(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    before = snapshot(broker.client)

    (answer,) = stop(broker, "a", mode="cancel")

    assert answer == StopAnswer("a", "held", name("c1"), WORKER)
    assert snapshot(broker.client) == before


def test_a_stop_of_a_held_task_is_flagged_and_pushed_to_its_worker(broker: TwiceBroker) -> None:
    broker.twice = False
    pubsub = broker.client.pubsub()
    pubsub.subscribe(broker.keyspace.stops(WORKER))
    assert pubsub.get_message(timeout=5)["type"] == "subscribe"
    seed(broker, "a")
    take(broker, "c1")

    (answer,) = stop(broker, "a", grace_ms=1_500)

    assert answer == StopAnswer("a", "requested", name("c1"), WORKER)
    assert pubsub.get_message(timeout=5)["data"] == f"q {name('c1')} a 1500".encode()
    found = record(broker, "a")
    assert found is not None
    assert found.stop == StopOrder(1_500)
    pubsub.close()


def test_a_second_stop_may_shorten_the_grace_but_a_plain_one_does_not_take_it_back(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")

    graces = []
    for grace_ms in (None, 0, None):
        stop(broker, "a", grace_ms=grace_ms)
        found = record(broker, "a")
        assert found is not None
        graces.append(found.stop)

    assert graces == [StopOrder(None), StopOrder(0), StopOrder(0)]


def test_a_stop_of_what_has_ended_or_never_was_says_so(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1")])

    ended, unknown = stop(broker, "a", "nobody")

    assert ended == StopAnswer("a", "ended", outcome=end("a", "c1").value)
    assert unknown == StopAnswer("nobody", "unknown")


def test_a_cancelled_suspect_leaves_the_suspects(broker: TwiceBroker) -> None:
    seed(broker, "a")
    for claim in ("c1", "c2"):
        take(broker, claim)
        broker.settle(QUEUE, [Lose("a", name(claim), exact=False)])

    stop(broker, "a", mode="cancel")

    assert broker.client.llen("qw:{t.q}:suspects") == 0
    assert take(broker, "c3", alone=True).tasks == ()


def test_an_unknown_mode_is_refused(broker: TwiceBroker) -> None:
    with pytest.raises(ValueError, match="mode='kill': expected 'cancel' or 'stop'"):
        stop(broker, "a", mode="kill")


def test_expire_ends_only_what_waits_past_its_deadline(broker: TwiceBroker) -> None:
    seed(broker, "late", "held", deadline_ms=100)
    seed(broker, "delayed", delay_ms=500, deadline_ms=100)
    seed(broker, "patient", deadline_ms=5_000)
    seed(broker, "endless")
    assert list(broker.expire(QUEUE, ["late"], value_of=cancelled)) == [ExpireAnswer("late", "waiting")]
    broker.claim_ids(QUEUE, ["held"], claim=name("c1"), worker=WORKER, lease_ms=LEASE_MS)
    broker.at(100)

    answers = broker.expire(
        QUEUE, ["late", "delayed", "held", "patient", "endless", "nobody"], value_of=lambda _: make_value(b"expired")
    )

    assert [answer.code for answer in answers] == ["expired", "expired", "held", "waiting", "waiting", "unknown"]
    assert [answer.code for answer in broker.second] == [answer.code for answer in answers]
    assert broker.client.hget("qw:{t.q}:dead_bodies", "late") == b"1 " + item("late").blob
    assert counters(broker)["expired"] == 2
    assert broker.client.zcard("qw:{t.q}:later") == 0


def test_a_peek_tells_the_outcome_or_that_it_lives_or_that_nothing_is_known(broker: TwiceBroker) -> None:
    seed(broker, "done", "alive")
    take(broker, "c1", 1)
    broker.settle(QUEUE, [end("done", "c1")])

    done, alive, nobody = broker.peek(QUEUE, ["done", "alive", "nobody"])

    assert (done.outcome, done.alive) == (end("done", "c1").value, False)
    assert (alive.outcome, alive.alive) == (None, True)
    assert (nobody.outcome, nobody.alive) == (None, False)


def test_inspect_tells_where_a_task_is(broker: TwiceBroker) -> None:
    seed(broker, "h", line=Line("default", "high"))
    seed(broker, "a", "b", "c")
    seed(broker, "later", delay_ms=700)

    queued = broker.inspect(QUEUE, "c")
    scheduled = broker.inspect(QUEUE, "later")
    take(broker, "c1", 2)
    held = broker.inspect(QUEUE, "a")
    broker.settle(QUEUE, [end("a", "c1")])
    ended = broker.inspect(QUEUE, "a")
    unknown = broker.inspect(QUEUE, "nobody")

    assert (queued.state, queued.before, queued.blob) == (State.QUEUED, 3, item("c").blob)
    assert (scheduled.state, scheduled.due_ms) == (State.SCHEDULED, START_MS + 700)
    assert (held.state, held.worker, held.lease_ms) == (State.CLAIMED, WORKER, START_MS + LEASE_MS)
    assert (ended.state, ended.outcome) == (None, end("a", "c1").value)
    assert (unknown.state, unknown.outcome, unknown.now_ms) == (None, None, START_MS)


def test_inspect_counts_the_workers_that_serve_the_queue(broker: TwiceBroker) -> None:
    seed(broker, "a")
    assert broker.inspect(QUEUE, "a").workers == 0

    broker.beat(worker("w1", queues=(QUEUE, "other")))
    broker.beat(worker("w2", queues=("other",)))

    assert broker.inspect(QUEUE, "a").workers == 1


def test_inspect_asks_for_no_workers_for_a_task_that_does_not_wait_for_one(broker: TwiceBroker) -> None:
    broker.beat(worker("w1"))
    seed(broker, "a")
    take(broker, "c1")

    held = broker.inspect(QUEUE, "a")
    broker.settle(QUEUE, [end("a", "c1")])

    assert (held.state, held.workers) == (State.CLAIMED, None)
    assert broker.inspect(QUEUE, "a").workers is None
    assert broker.inspect(QUEUE, "nobody").workers is None


def test_stats_counts_exactly(broker: TwiceBroker) -> None:
    broker.submit(QUEUE, Line(), [item(local) for local in "abcdef"], given=True)
    seed(broker, "t", line=Line("thread", "low"))
    seed(broker, "later", delay_ms=500)
    take(broker, "c1", 2)
    broker.settle(QUEUE, [end("a", "c1")])
    stop(broker, "f", mode="cancel")

    stats = broker.stats(QUEUE)

    assert (stats.ready, stats.claimed, stats.scheduled, stats.suspects) == (4, 1, 1, 0)
    assert stats.lines == {"default:normal": 4, "thread:low": 1}
    assert stats.counters == {"submitted": 8, "claimed": 2, "succeeded": 1, "cancelled": 1}


def test_stats_tells_how_long_the_oldest_task_has_waited(broker: TwiceBroker) -> None:
    from qworker.broker import SubmitItem
    from support.blobs import make_blob

    broker.submit(QUEUE, Line(), [SubmitItem("a", make_blob(sent_ms=START_MS - 2_500))], given=False)

    assert broker.stats(QUEUE).oldest_wait_s == 2.5
    take(broker, "c1")
    assert broker.stats(QUEUE).oldest_wait_s is None


def worker(local: str, *, queues: tuple[str, ...] = (QUEUE,), started_ms: int = 1) -> WorkerRecord:
    return WorkerRecord(
        id=local, host="host", pid=1, boot_id="boot", pid_ns="4026", start_time=7, queues=queues, state="running",
        started_ms=started_ms, slots={"process": 2}, running=({"id": "q:a", "ran_s": 1.5},), unknown={"m.f": 3},
    )  # fmt: skip


def test_workers_lists_those_that_told_of_themselves_lately(broker: TwiceBroker) -> None:
    broker.beat(worker("w2", started_ms=2))
    broker.beat(worker("w1", started_ms=1), ttl_ms=60_000)

    listed = broker.workers()

    assert [found.id for found in listed] == ["w1", "w2"]
    assert listed[0].beat_ms == START_MS
    assert listed[0].running == ({"id": "q:a", "ran_s": 1.5},)
    assert listed[0].slots == {"process": 2}


def test_a_worker_that_retires_or_falls_silent_is_no_longer_listed(broker: TwiceBroker) -> None:
    for local in ("w1", "w2", "w3"):
        broker.beat(worker(local))
    broker.retire("w1")
    broker.client.delete(broker.keyspace.worker("w2"))

    assert [found.id for found in broker.workers()] == ["w3"]
    broker.at(600_000)
    broker.beat(worker("w3"))

    assert broker.client.zrange(broker.keyspace.workers, 0, -1) == [b"w3"]


def test_a_worker_that_was_listed_lately_is_only_told_of(broker: TwiceBroker) -> None:
    broker.beat(worker("w1"))
    broker.at(60_000)
    broker.beat(worker("w1"), listed=True)

    assert broker.client.zscore(broker.keyspace.workers, "w1") == START_MS


def test_workers_that_are_known_are_not_asked_for(broker: TwiceBroker) -> None:
    for local in ("w1", "w2", "w3"):
        broker.beat(worker(local))

    assert [found.id for found in broker.workers(but={"w1", "w3"})] == ["w2"]


def test_a_worker_record_that_cannot_be_read_is_left_out(broker: TwiceBroker) -> None:
    broker.beat(worker("w1"))
    broker.client.hset(broker.keyspace.worker("w1"), "record", b"\xff{")

    assert broker.workers() == ()


def test_queues_are_registered_by_their_first_use(broker: TwiceBroker) -> None:
    seed(broker, "a")
    broker.claim("other", claim=name("c1"), worker=WORKER, rooms=[(("default",), 1)], lease_ms=LEASE_MS)

    assert broker.queues() == ("other", "q")


def test_nothing_is_left_of_tasks_that_have_ended_but_what_has_a_time_to_live(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", "d")
    take(broker, "c1", 3)
    stop(broker, "c", "d")
    broker.settle(QUEUE, [end("a", "c1"), end("b", "c1"), end("c", "c1", state=State.CANCELLED)])
    take(broker, "c2")

    left = {key for key in broker.client.scan_iter() if broker.client.ttl(key) == -1}
    assert left == {b"qw:{t.q}:meta", b"qw:{t.q}:stats", b"qw:{t.q}:bell:default", b"qw:t:queues"}
    assert state(broker, "d") is None
