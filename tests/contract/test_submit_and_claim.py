"""What a submit queues, what a claim hands out, and in which order."""

from __future__ import annotations

import fakeredis
import pytest

from qworker.broker import SubmitItem
from qworker.errors import Conflict
from qworker.lifecycle import State
from qworker.model import Line, PoolNeed, Priority, Record, Release
from support.blobs import make_blob
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    counters,
    end,
    ids,
    item,
    name,
    next_fence,
    only,
    record,
    seed,
    snapshot,
    state,
    stop,
    take,
)  # fmt: skip


def test_an_empty_queue_has_nothing_due(broker) -> None:
    """Else a worker would look again at once, for ever."""
    window = take(broker, "c1")

    assert (window.tasks, window.next_due_ms) == ((), None)


def test_a_plain_submit_writes_no_record(broker: TwiceBroker) -> None:
    answer = broker.submit(QUEUE, Line(), [item("a"), item("b")], given=False)

    assert answer.codes == ("ok", "ok")
    assert answer.now_ms == START_MS
    assert b"qw:{t.q}:tasks" not in snapshot(broker.client)
    assert broker.client.lrange("qw:{t.q}:ready:default:normal", 0, -1) == [b"a", b"b"]
    assert broker.second.codes == ("same", "same")


def test_a_claim_hands_out_the_oldest_first_with_their_blobs_and_a_fence(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")

    window = take(broker, "c1", 2)

    assert ids(window) == ["a", "b"]
    assert window.tasks[0].blob == item("a").blob
    assert window.tasks[0].record == Record(state=State.CLAIMED, claim=name("c1"), deliveries=1)
    assert (window.fence, window.now_ms, window.rescued, window.suspects) == (next_fence(0, START_MS), START_MS, 0, 0)
    assert broker.second == window


@pytest.mark.parametrize("key", ["bodies", "tasks"])
def test_a_large_window_is_kept_in_tables_and_not_in_lists(broker: TwiceBroker, key: str) -> None:
    """The server keeps a small hash as a list, and searches that from end to end for each task."""
    names = [f"t{n}" for n in range(40)]
    seed(broker, *names)

    take(broker, "c1", 40)

    assert sorted(broker.client.hkeys(f"qw:{{t.q}}:{key}")) == sorted(name.encode() for name in names)
    if not isinstance(broker.client, fakeredis.FakeRedis):  # it knows no encodings
        assert broker.client.object("encoding", f"qw:{{t.q}}:{key}") == b"hashtable"


def test_each_claim_that_brings_something_draws_a_larger_fence(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")

    fences = [take(broker, claim, 1).fence for claim in ("c1", "c2")]
    broker.at(-60_000)
    fences += [take(broker, claim, 1).fence for claim in ("c3", "c4")]

    first = next_fence(0, START_MS)
    assert fences == [first, first + 1, first + 2, 0]


def test_fences_grow_even_when_the_server_has_forgotten_them(broker: TwiceBroker) -> None:
    """As after a failover to a replica that lags, or with a server that came back empty."""
    seed(broker, "a")
    before = take(broker, "c1", 1).fence
    broker.client.flushall()
    broker.at(1_000)
    seed(broker, "b")

    assert take(broker, "c2", 1).fence > before


def test_a_replayed_claim_brings_the_same_window_without_what_has_been_settled(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    first = take(broker, "c1", 2)
    broker.settle(QUEUE, [end("a", "c1")])

    again = take(broker, "c1", 2)

    assert ids(again) == ["b"]
    assert again.fence == first.fence


def test_the_same_id_and_content_is_the_same_task(broker: TwiceBroker) -> None:
    seed(broker, "a")

    assert broker.submit(QUEUE, Line(), [item("a"), item("b")], given=True).codes == ("same", "ok")
    assert ids(take(broker, "c1")) == ["a", "b"]
    assert counters(broker)["submitted"] == 2


def test_the_same_task_twice_in_one_call_is_queued_once(broker: TwiceBroker) -> None:
    answer = broker.submit(QUEUE, Line(), [item("a"), item("b"), item("a")], given=True)

    assert answer.codes == ("ok", "ok", "ok")
    assert ids(take(broker, "c1")) == ["a", "b"]


def test_an_id_taken_by_other_content_is_refused_and_nothing_of_the_call_is_queued(broker: TwiceBroker) -> None:
    seed(broker, "a")
    before = snapshot(broker.client)

    with pytest.raises(Conflict, match=r"cannot submit task q:a: that id is taken by a task with other arguments"):
        broker.submit(QUEUE, Line(), [item("b"), item("a", content=b"other")], given=True)

    assert snapshot(broker.client) == before


def test_a_conflict_within_one_call_is_refused_before_it_is_sent(broker: TwiceBroker) -> None:
    with pytest.raises(Conflict, match="task q:a"):
        broker.submit(QUEUE, Line(), [item("a"), item("a", content=b"other")], given=True)

    assert state(broker, "a") is None


def test_a_given_id_that_has_ended_is_not_run_again_while_its_outcome_is_kept(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1")])

    assert broker.submit(QUEUE, Line(), [item("a")], given=True).codes == ("ended",)
    with pytest.raises(Conflict):
        broker.submit(QUEUE, Line(), [item("a", content=b"other")], given=True)
    assert take(broker, "c2").tasks == ()


def test_priorities_go_before_age(broker: TwiceBroker) -> None:
    for priority in ("low", "normal", "high"):
        seed(broker, f"{priority}1", f"{priority}2", line=Line("default", priority))

    assert ids(take(broker, "c1", 5)) == ["high1", "high2", "normal1", "normal2", "low1"]


def test_rooms_are_counted_per_pool_and_nothing_is_claimed_for_a_full_one(broker: TwiceBroker) -> None:
    seed(broker, "d1", "d2", line=Line("default"))
    seed(broker, "p1", "p2", line=Line("process"))
    seed(broker, "t1", "t2", line=Line("thread"))
    rooms = [(("default", "process"), 3), (("thread",), 0), (("async",), 5)]

    window = broker.claim(QUEUE, claim=name("c1"), worker=WORKER, rooms=rooms, lease_ms=LEASE_MS)

    assert sorted(ids(window)) == ["d1", "d2", "p1"]
    assert ids(take(broker, "c2", needs=("thread",))) == ["t1", "t2"]


def test_the_lists_of_one_pool_take_turns_at_being_first(broker: TwiceBroker) -> None:
    seed(broker, *[f"d{n}" for n in range(4)], line=Line("default"))
    seed(broker, *[f"p{n}" for n in range(4)], line=Line("process"))

    first = [only(take(broker, f"c{n}", 1, needs=("default", "process"))).id for n in range(4)]

    assert first == ["d0", "p0", "d1", "p1"]


def test_a_window_stops_at_its_byte_limit_but_holds_one_task_and_keeps_the_order(broker: TwiceBroker) -> None:
    seed(broker, *[f"t{n}" for n in range(6)], size=1000)

    assert ids(take(broker, "c1", max_bytes=2_200)) == ["t0", "t1"]
    assert ids(take(broker, "c2", max_bytes=10)) == ["t2"]
    assert ids(take(broker, "c3")) == ["t3", "t4", "t5"]


def test_a_large_window_comes_whole_and_in_order(broker: TwiceBroker) -> None:
    names = [f"t{n:04}" for n in range(2_300)]
    for start in range(0, len(names), 600):
        seed(broker, *names[start : start + 600])
    broker.twice = False

    window = take(broker, "c1", 2_300, max_bytes=1 << 30)

    assert ids(window) == names
    reply = broker.settle(QUEUE, [end(local, "c1") for local in names[:1_500]])
    assert set(reply.codes) == {"ok"}
    broker.settle(QUEUE, [Release(local, name("c1")) for local in names[1_500:]])
    assert ids(take(broker, "c2", 2_300)) == names[1_500:]


def test_a_claim_that_passes_over_a_thousand_entries_says_that_it_has_not_seen_the_end(broker: TwiceBroker) -> None:
    """They are of cancelled tasks, and behind them is one that can be had: with the next call."""
    gone = [f"g{n}" for n in range(1_100)]
    broker.submit(QUEUE, Line(), [item(local) for local in gone], given=True)
    seed(broker, "a")
    broker.client.hdel("qw:{t.q}:bodies", *gone)
    broker.twice = False

    first, second, third = (take(broker, f"c{n}") for n in range(3))

    assert (first.tasks, first.cut, first.next_due_ms) == ((), True, START_MS)
    assert (ids(second), second.cut) == (["a"], False)
    assert (third.tasks, third.cut) == ((), False)


def test_a_claim_that_brings_due_tasks_to_others_says_that_more_are_due(broker: TwiceBroker) -> None:
    """One that is for this worker may be among them."""
    names = [f"d{n:04}" for n in range(600)]
    broker.submit(QUEUE, Line("thread"), [item(local, delay_ms=1_000) for local in names], given=True)
    seed(broker, "z", delay_ms=1_001)
    broker.at(1_001)
    broker.twice = False

    first, second = (take(broker, f"c{n}", needs=("default",)) for n in range(2))

    assert (first.tasks, first.cut) == ((), True)
    assert (ids(second), second.cut) == (["z"], False)


def test_a_claim_that_leaves_lapsed_ones_says_so(broker: TwiceBroker) -> None:
    for n in range(33):
        seed(broker, f"t{n}", line=Line("thread"))
        take(broker, f"d{n}", 1)
    seed(broker, "z")
    take(broker, "dz", 1)
    broker.at(LEASE_MS)
    broker.twice = False

    first, second = (take(broker, f"c{n}", needs=("default",)) for n in range(2))

    assert (first.rescued, first.tasks, first.cut) == (32, (), True)
    assert (second.rescued, ids(second), second.cut) == (2, ["z"], False)


def test_a_claim_that_puts_back_as_many_tasks_as_one_may_says_so(broker: TwiceBroker) -> None:
    seed(broker, *(f"t{n}" for n in range(501)), line=Line("thread"))
    for claim, size in (("d1", 500), ("d2", 1)):
        take(broker, claim, size)
    broker.at(LEASE_MS)
    broker.twice = False

    first, second = (take(broker, f"c{n}", needs=("default",)) for n in range(2))

    assert (first.rescued, first.cut) == (500, True)
    assert (second.rescued, second.cut) == (1, False)


def test_a_window_that_is_full_of_bytes_says_that_there_is_more(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    size = broker.client.hstrlen("qw:{t.q}:bodies", "a")
    broker.twice = False

    assert take(broker, "c1", 10, max_bytes=2 * size).cut
    assert not take(broker, "c2", 1, max_bytes=size).cut, "there was no room for more"
    assert not take(broker, "c3", 3, max_bytes=2 * size).cut


def test_a_delayed_task_comes_when_it_is_due_at_the_back_of_its_line(broker: TwiceBroker) -> None:
    seed(broker, "later", delay_ms=1_000)
    seed(broker, "sooner", delay_ms=500)
    assert state(broker, "later") is State.SCHEDULED

    early = take(broker, "c1")
    broker.at(499)
    assert take(broker, "c2").tasks == ()
    broker.at(1_000)
    seed(broker, "queued")

    assert (early.tasks, early.next_due_ms) == ((), START_MS + 500)
    assert ids(take(broker, "c3")) == ["queued", "sooner", "later"]


def test_a_deadline_becomes_server_time_and_travels_with_the_task(broker: TwiceBroker) -> None:
    seed(broker, "a", deadline_ms=5_000)

    assert only(take(broker, "c1")).record.deadline_ms == START_MS + 5_000


def test_a_cancelled_and_resubmitted_id_is_handed_out_once(broker: TwiceBroker) -> None:
    """The list holds the id twice: the first entry is a tombstone that came to life again."""
    seed(broker, "a", "b")
    stop(broker, "a", mode="cancel")
    broker.client.delete("qw:{t.q}:result:a")
    seed(broker, "a")

    assert sorted(ids(take(broker, "c1"))) == ["a", "b"]
    assert take(broker, "c2").tasks == ()


def test_a_resubmitted_id_does_not_jump_the_line_that_it_had_before(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("default", "high"))
    seed(broker, "b")
    stop(broker, "a", mode="cancel")
    broker.client.delete("qw:{t.q}:result:a")
    seed(broker, "a", line=Line("default", "low"))

    assert ids(take(broker, "c1")) == ["b", "a"]


def test_a_cancelled_and_resubmitted_delayed_id_waits_for_its_time(broker: TwiceBroker) -> None:
    seed(broker, "a")
    stop(broker, "a", mode="cancel")
    broker.client.delete("qw:{t.q}:result:a")
    seed(broker, "a", delay_ms=100)

    assert take(broker, "c1").tasks == ()
    broker.at(100)
    assert ids(take(broker, "c2")) == ["a"]


def test_a_claim_looks_at_a_bounded_number_of_tombstones_and_rings_to_go_on(broker: TwiceBroker) -> None:
    broker.twice = False
    names = [f"t{n:04}" for n in range(2_500)]
    for start in range(0, len(names), 500):
        seed(broker, *names[start : start + 500])
        broker.stop(QUEUE, names[start : start + 500], mode="cancel", value_of=lambda _: b"\x93\xc4\x08" + b"0" * 40)
    seed(broker, "alive")
    bell = "qw:{t.q}:bell:default"
    broker.client.delete(bell)

    windows = [take(broker, "c1")]
    left = broker.client.llen("qw:{t.q}:ready:default:normal")
    rung = broker.client.lpop(bell)
    while not windows[-1].tasks:
        windows.append(take(broker, f"d{len(windows)}"))

    assert windows[0].tasks == ()
    assert left >= 1_300
    assert rung
    assert ids(windows[-1]) == ["alive"]
    assert len(windows) == 3


def test_a_push_rings_once_and_a_claim_that_leaves_work_rings_again(broker: TwiceBroker) -> None:
    bell = "qw:{t.q}:bell:default"
    seed(broker, "a", "b")
    seed(broker, "c")
    assert broker.client.lrange(bell, 0, -1) == [b"1"]
    broker.client.delete(bell)

    take(broker, "c1", 2)
    assert broker.client.lrange(bell, 0, -1) == [b"1"]
    broker.client.delete(bell)

    take(broker, "c2", 2)
    assert broker.client.lrange(bell, 0, -1) == []


@pytest.mark.parametrize("priority", ["high", "normal", "low"])
@pytest.mark.parametrize("need", ["default", "process", "thread", "async"])
def test_a_claim_rings_for_what_it_leaves_in_any_line(broker: TwiceBroker, need: PoolNeed, priority: Priority) -> None:
    bell = f"qw:{{t.q}}:bell:{need}"
    seed(broker, "a", "b", line=Line(need, priority))
    broker.client.delete(bell)

    take(broker, "c1", 1, needs=(need,))

    assert broker.client.lrange(bell, 0, -1) == [b"1"]


def test_claim_by_id_takes_exactly_the_queued_ones(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    seed(broker, "later", delay_ms=1_000)
    take(broker, "c1", 1)

    window = broker.claim_ids(
        QUEUE, ["c", "a", "later", "nobody", "c"], claim=name("c2"), worker=WORKER, lease_ms=LEASE_MS
    )

    assert ids(window) == ["c"]
    assert broker.second == window
    assert window.fence == next_fence(0, START_MS) + 1
    assert counters(broker)["claimed"] == 2
    assert only(window).record.claim == name("c2")
    assert ids(take(broker, "c3")) == ["b"]
    assert broker.settle(QUEUE, [end("c", "c2")]).codes == ("ok",)


def test_what_was_claimed_by_id_and_released_is_handed_out_once(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    broker.claim_ids(QUEUE, ["b"], claim=name("c1"), worker=WORKER, lease_ms=LEASE_MS)
    broker.settle(QUEUE, [Release("b", name("c1"))])

    assert ids(take(broker, "c2")) == ["b", "a"]
    assert take(broker, "c3").tasks == ()


def test_blobs_pass_through_untouched(broker: TwiceBroker) -> None:
    blob = make_blob(bytes(range(256)) * 3)
    broker.submit(QUEUE, Line(), [SubmitItem("a", blob)], given=False)

    assert only(take(broker, "c1")).blob == blob
    assert record(broker, "a") is not None


def test_a_task_with_an_unreadable_record_is_passed_over(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    broker.client.hset("qw:{t.q}:tasks", "a", b"\xff no record")

    assert ids(take(broker, "c1")) == ["b"]
