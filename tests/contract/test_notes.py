"""What tasks tell of themselves: kept with a renewal or a way back, handed to the next attempt, gone with the task."""

from __future__ import annotations

import pytest

from qworker.broker.values import Note
from qworker.lifecycle import State
from qworker.model import Again, Lose, Park, Release
from support.brokers import LEASE_MS, QUEUE, WORKER, TwiceBroker, end, name, only, seed, stop, take

ME = "client-00001"


def note(local: str, claim: str, *, cursor: bytes = b"", progress: bytes = b"", client: str = ME) -> Note:
    return Note(name(claim), local, client, cursor, progress)


def renew(broker: TwiceBroker, claim: str, *notes: Note) -> None:
    broker.renew(QUEUE, worker=WORKER, claims=[name(claim)], notes=notes, lease_ms=LEASE_MS)


def kept(broker: TwiceBroker) -> tuple[dict[bytes, bytes], dict[bytes, bytes]]:
    """The two hashes, as they are."""
    keys = broker.keyspace.queue(QUEUE)
    cursors, progress = keys.of(("cursors", "progress"))
    return broker.client.hgetall(cursors), broker.client.hgetall(progress)


def test_a_cursor_that_a_renewal_kept_is_handed_out_with_the_rescued_task(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1", 2)
    renew(broker, "c1", note("b", "c1", cursor=b"\x00here"))
    broker.at(LEASE_MS)

    window = take(broker, "c2")

    assert window.rescued == 2
    assert [(task.id, task.cursor) for task in window.tasks] == [("a", None), ("b", b"\x00here"), ("c", None)]


def test_a_claim_that_is_sent_again_brings_the_same_cursors(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.settle(QUEUE, [Release("a", name("c1"), b"A"), Release("b", name("c1"), b"B")])

    window = take(broker, "c2")

    assert [task.cursor for task in window.tasks] == [b"A", b"B"]
    assert [task.cursor for task in broker.second.tasks] == [b"A", b"B"]
    assert broker.second.tasks == window.tasks


def test_a_claim_by_id_brings_cursors_too(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.settle(QUEUE, [Release("a", name("c1")), Release("b", name("c1"), b"B")])

    window = broker.claim_ids(QUEUE, ["b", "a"], claim=name("c2"), worker=WORKER, lease_ms=LEASE_MS)

    assert [(task.id, task.cursor) for task in window.tasks] == [("b", b"B"), ("a", None)]
    assert broker.second.tasks == window.tasks


@pytest.mark.parametrize(
    "way_back",
    [
        Release("a", name("c1"), b"new"),
        Again("a", name("c1"), 0, b"new"),
        Again("a", name("c1"), 1_000, b"new"),
        Lose("a", name("c1"), False, b"new"),
    ],
)
def test_every_way_back_takes_the_cursor_along(broker: TwiceBroker, way_back) -> None:
    seed(broker, "a")
    take(broker, "c1")
    renew(broker, "c1", note("a", "c1", cursor=b"old"))

    assert broker.settle(QUEUE, [way_back], worker=WORKER).codes == ("ok",)

    broker.at(1_000)
    assert only(take(broker, "c2")).cursor == b"new"


@pytest.mark.parametrize("way_back", [Release("a", name("c1")), Park("a", name("c1"), 0)])
def test_a_way_back_that_names_no_cursor_leaves_the_one_that_is_kept(broker: TwiceBroker, way_back) -> None:
    seed(broker, "a")
    take(broker, "c1")
    renew(broker, "c1", note("a", "c1", cursor=b"old"))

    broker.settle(QUEUE, [way_back], worker=WORKER)

    assert only(take(broker, "c2")).cursor == b"old"


def test_what_a_claim_that_was_lost_tells_is_not_kept(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS)
    take(broker, "c2", worker="host:2:bbbb")

    renew(broker, "c1", note("a", "c1", cursor=b"late", progress=b"late"))
    broker.settle(QUEUE, [Release("a", name("c1"), b"late")], worker=WORKER)

    assert kept(broker) == ({}, {})


def test_a_way_back_that_a_stop_refuses_keeps_no_cursor(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    stop(broker, "a")

    assert broker.settle(QUEUE, [Release("a", name("c1"), b"here")], worker=WORKER).codes == ("stopped",)

    assert kept(broker) == ({}, {})


def test_progress_is_kept_for_those_who_ask(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    renew(broker, "c1", note("a", "c1", progress=b"one"))
    renew(broker, "c1", note("a", "c1", progress=b"two"))

    assert broker.inspect(QUEUE, "a").progress == b"two"
    assert broker.inspect(QUEUE, "b").progress is None
    assert broker.progress(QUEUE, ["b", "a", "gone"]) == (None, b"two", None)


def test_progress_is_pushed_to_each_client_in_one_message(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1")
    with broker.subscribe(ME) as inbox:
        renew(
            broker, "c1",
            note("a", "c1", progress=b"A"), note("b", "c1", progress=b"B", cursor=b"x"), note("c", "c1", cursor=b"y"),
        )  # fmt: skip

        assert inbox.next(1.0) == b"AB"


def test_nobody_is_told_of_a_task_that_has_no_client(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    with broker.subscribe(" " * 12) as inbox:
        renew(broker, "c1", note("a", "c1", progress=b"A", client=" " * 12))

        assert inbox.next(0.05) is None
    assert kept(broker)[1] == {b"a": b"A"}


@pytest.mark.parametrize("how", ["end", "cancel", "expire"])
def test_what_was_told_goes_with_the_task(broker: TwiceBroker, how: str) -> None:
    seed(broker, "a", "other", deadline_ms=5_000)
    take(broker, "c1")
    told = [note(local, "c1", cursor=b"here", progress=b"P") for local in ("a", "other")]
    renew(broker, "c1", *told)

    if how == "end":
        broker.settle(QUEUE, [end("a", "c1", state=State.FAILED)])
    else:
        broker.settle(QUEUE, [Release("a", name("c1"))])
        broker.at(5_000)
        if how == "cancel":
            stop(broker, "a", mode="cancel")
        else:
            broker.expire(QUEUE, ["a"], value_of=lambda local: b"expired " + local.encode() + b" " * 20)

    assert kept(broker) == ({b"other": b"here"}, {b"other": b"P"})
