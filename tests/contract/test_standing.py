"""A claim that an idle worker leaves standing: which submit fills it, what its worker is told, and when it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fakeredis
import pytest

from qworker.broker.values import Stand
from qworker.broker.worker_calls import handed
from qworker.errors import ServerFull
from qworker.lifecycle import State
from qworker.model import Again, Line, Lose, Window
from support.brokers import (
    ALL_NEEDS,
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
    record,
    seed,
    snapshot,
    state,
    take,
)  # fmt: skip

OTHER = "host:2:bbbb"
STANDS_MS = 2_500


class Ear:
    """What some workers are told on their channels."""

    def __init__(self, broker: TwiceBroker, *workers: str) -> None:
        self._heard = broker.client.pubsub()
        self._heard.subscribe(*(f"qw:t:stops:{worker}" for worker in workers))
        for _ in workers:
            assert self._heard.get_message(timeout=5)["type"] == "subscribe"

    def window(self) -> Window | None:
        """The next window that was pushed, if there is one."""
        message = self._heard.get_message(timeout=0.2)
        return None if message is None else handed(message["data"])

    def close(self) -> None:
        self._heard.close()


@pytest.fixture
def ear(broker: TwiceBroker) -> Iterator[Ear]:
    """The one of WORKER."""
    made = Ear(broker, WORKER)
    yield made
    made.close()


def stand(claim: str, *, worker: str = WORKER, needs: tuple[Any, ...] = ALL_NEEDS) -> Stand:
    return Stand(name(claim), worker, needs, LEASE_MS)


def leave(broker: TwiceBroker, claim: str, **options: Any) -> Stand:
    """Leave a claim standing, as an idle worker does whose own claim brings nothing."""
    left = stand(claim, **options)
    assert take(broker, f"by{claim}", stand=left, worker=left.worker).tasks == ()
    return left


def standing(broker: TwiceBroker) -> list[str]:
    """The claims that stand."""
    return [entry.decode()[:12].rstrip("x") for entry in broker.client.zrange("qw:{t.q}:standing", 0, -1)]


def test_a_lone_task_fills_the_claim_as_if_that_had_taken_it(broker: TwiceBroker, ear: Ear) -> None:
    leave(broker, "s1")

    answer = broker.submit(QUEUE, Line(), [item("a")], given=False)

    assert answer.codes == ("ok",)
    window = ear.window()
    assert window is not None
    assert (window.queue, window.claim, window.now_ms) == (QUEUE, name("s1"), START_MS)
    assert window.fence == next_fence(0, START_MS)
    assert window.epoch == take(broker, "c1").epoch
    assert [(task.id, task.blob) for task in window.tasks] == [("a", item("a").blob)]
    assert window.tasks[0].record == record(broker, "a")
    assert state(broker, "a") is State.CLAIMED
    assert broker.client.zscore("qw:{t.q}:leases", name("s1")) == START_MS + LEASE_MS
    assert counters(broker) == {"submitted": 1, "claimed": 1}
    assert standing(broker) == []
    assert ear.window() is None, "it is told once, though the submit was sent twice"
    assert broker.client.exists("qw:{t.q}:bell:default") == 0, "nobody else is to look"


def test_what_fills_a_claim_has_a_larger_fence_than_all_before(broker: TwiceBroker, ear: Ear) -> None:
    """Also in one and the same millisecond, and behind claims that were not filled."""
    for claim in ("s1", "s2"):
        leave(broker, claim)
        seed(broker, claim)
    first, second = ear.window(), ear.window()
    seed(broker, "a")

    assert first is not None
    assert second is not None
    assert first.fence < second.fence < take(broker, "c1").fence


def test_what_filled_a_claim_is_settled_renewed_and_rescued_like_any_other(broker: TwiceBroker, ear: Ear) -> None:
    for claim, local in (("s1", "a"), ("s2", "b"), ("s3", "c")):
        leave(broker, claim)
        seed(broker, local)

    assert broker.renew(QUEUE, claims=[name("s1"), name("s2")], lease_ms=LEASE_MS).lost == ()
    assert broker.settle(QUEUE, [end("a", "s1")]).codes == ("ok",)
    assert broker.rescue_worker(QUEUE, WORKER).tasks == 2
    assert state(broker, "b") is state(broker, "c") is State.QUEUED
    found = record(broker, "c")
    assert found is not None
    assert found.losses == 0, "its worker has not been heard of since"
    assert broker.settle(QUEUE, [end("b", "s2")]).codes == ("lost",)


def test_the_claim_that_has_stood_longest_is_filled_first(broker: TwiceBroker) -> None:
    ear = Ear(broker, WORKER, OTHER)
    leave(broker, "s1", worker=OTHER)
    broker.at(1)
    leave(broker, "s2")

    seed(broker, "a")

    window = ear.window()
    ear.close()
    assert window is not None
    assert window.claim == name("s1")
    assert standing(broker) == ["s2"]


def test_a_worker_that_does_not_hear_is_passed_over(broker: TwiceBroker, ear: Ear) -> None:
    leave(broker, "s1", worker=OTHER)
    broker.at(1)
    leave(broker, "s2")

    seed(broker, "a")

    window = ear.window()
    assert window is not None
    assert window.claim == name("s2")


def test_when_nobody_hears_the_task_waits_in_its_line_and_the_bell_rings(broker: TwiceBroker) -> None:
    leave(broker, "s1")

    seed(broker, "a")

    assert state(broker, "a") is State.QUEUED
    assert broker.client.lrange("qw:{t.q}:bell:default", 0, -1) == [b"1"]
    assert ids(take(broker, "c1")) == ["a"]


@pytest.mark.parametrize(
    ("after_ms", "filled"), [(STANDS_MS - 1, True), (STANDS_MS, False), (-LEASE_MS, True)]
)  # a clock that went back
def test_it_stands_for_two_seconds_and_a_half(broker: TwiceBroker, ear: Ear, after_ms: int, filled: bool) -> None:
    """Longer than from one claim of an idle worker to its next."""
    leave(broker, "s1")
    broker.at(after_ms)

    seed(broker, "a")

    assert (ear.window() is not None) is filled


def test_a_claim_is_not_filled_with_what_its_worker_has_no_pool_for(broker: TwiceBroker, ear: Ear) -> None:
    leave(broker, "s1", needs=("thread", "default"))

    seed(broker, "a", line=Line("process"))
    assert ear.window() is None
    leave_nothing = ids(take(broker, "c1"))
    leave(broker, "s2", needs=("thread", "default"))
    seed(broker, "b", line=Line("thread"))

    assert leave_nothing == ["a"]
    window = ear.window()
    assert window is not None
    assert ids(window) == ["b"]


@pytest.mark.parametrize(
    "items", [[item("a"), item("b")], [item("a", delay_ms=5)], [item("a", deadline_ms=5)]]
)  # windows and what has a record of its own are claimed
def test_only_a_lone_task_that_is_due_fills_a_claim_and_else_none_stands_any_more(
    broker: TwiceBroker, ear: Ear, items: list[Any]
) -> None:
    """What is queued comes first: a later task must not overtake it."""
    leave(broker, "s1")

    broker.submit(QUEUE, Line(), items, given=True)

    assert ear.window() is None
    assert standing(broker) == []


def test_a_task_that_was_there_already_fills_nothing(broker: TwiceBroker, ear: Ear) -> None:
    seed(broker, "a")
    take(broker, "c1")
    leave(broker, "s1")

    assert broker.submit(QUEUE, Line(), [item("a")], given=True).codes == ("same",)

    assert ear.window() is None
    assert standing(broker) == ["s1"]


def test_no_claim_is_left_while_anything_is_queued(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("async", "low"))

    assert take(broker, "c1", needs=("process",), stand=stand("s1")).tasks == ()
    assert standing(broker) == []


def test_no_claim_is_left_while_a_suspect_waits(broker: TwiceBroker) -> None:
    seed(broker, "a")
    for claim in ("c1", "c2"):
        broker.claim_ids(QUEUE, ["a"], claim=name(claim), worker=WORKER, lease_ms=LEASE_MS)
        broker.settle(QUEUE, [Lose("a", name(claim), True)])

    assert take(broker, "c3", stand=stand("s1")).tasks == ()
    assert standing(broker) == []


def test_a_suspect_that_comes_due_ends_all_that_stand(broker: TwiceBroker) -> None:
    """Found by the model: a lone task would have come before it, and no bell had told the idle workers."""
    seed(broker, "a")
    for claim in ("c1", "c2"):
        take(broker, claim)
        broker.settle(QUEUE, [Lose("a", name(claim), True)])
    take(broker, "c3", alone=True)
    broker.settle(QUEUE, [Again("a", name("c3"), 100)], stand=stand("s1"))
    broker.client.delete("qw:{t.q}:bell:default")
    assert standing(broker) == ["s1"]
    broker.at(100)

    assert take(broker, "c4").tasks == ()

    assert standing(broker) == []
    assert broker.client.llen("qw:{t.q}:bell:default") == 1


def test_a_claim_that_brings_something_leaves_none(broker: TwiceBroker) -> None:
    seed(broker, "a")

    assert ids(take(broker, "c1", stand=stand("s1"))) == ["a"]
    assert standing(broker) == []


def test_the_last_settle_of_a_worker_leaves_one_unless_it_gave_something_back(broker: TwiceBroker, ear: Ear) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")

    broker.settle(QUEUE, [Lose("a", name("c1"), True)], stand=stand("s1"))
    assert standing(broker) == []
    take(broker, "c2")
    broker.settle(QUEUE, [end("a", "c2"), end("b", "c1")], stand=stand("s2"))
    assert standing(broker) == ["s2"]
    seed(broker, "c")

    window = ear.window()
    assert window is not None
    assert window.claim == name("s2")


def test_what_comes_back_into_a_line_ends_all_that_stand(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    leave(broker, "s1")

    broker.rescue_worker(QUEUE, WORKER)

    assert standing(broker) == []


def test_the_next_claim_ends_those_that_it_names_and_leaves_another(broker: TwiceBroker) -> None:
    left = [leave(broker, "s1"), leave(broker, "s2")]

    take(broker, "c1", standing=left, stand=stand("s3"))

    assert standing(broker) == ["s3"]


@pytest.mark.parametrize("filled", ["s1", "s2"])
def test_a_claim_brings_the_window_of_one_that_was_filled_in_the_place_of_its_own(
    broker: TwiceBroker, ear: Ear, filled: str
) -> None:
    """The push was lost, or is on its way: its worker is there, and its lease begins anew."""
    leave(broker, filled)
    seed(broker, "a")
    seed(broker, "b")
    broker.at(100)

    window = take(broker, "c1", standing=[stand("s1"), stand("s2")], stand=stand("s3"), alone=True)

    assert (window.claim, window.fence, ids(window)) == (name(filled), next_fence(0, START_MS), ["a"])
    assert window.tasks[0].record.claim == name(filled)
    assert broker.client.zscore("qw:{t.q}:leases", name(filled)) == START_MS + 100 + LEASE_MS
    assert standing(broker) == []
    assert ids(take(broker, "c2")) == ["b"]


def test_a_call_that_comes_late_leaves_no_claim_that_is_held(broker: TwiceBroker, ear: Ear) -> None:
    """Cut off on its way, it was repeated and answered long ago: the next task must not replace the first."""
    broker.twice = False
    leave(broker, "s1")
    seed(broker, "a")
    ear.window()

    take(broker, "by1", stand=stand("s1"))
    broker.renew(QUEUE, claims=[name("s1")], lease_ms=LEASE_MS)
    seed(broker, "b")

    assert ear.window() is None
    assert ids(take(broker, "c1")) == ["b"]
    assert broker.settle(QUEUE, [end("a", "s1")]).codes == ("ok",)


def test_a_claim_that_names_a_settled_one_is_a_claim_like_any_other(broker: TwiceBroker, ear: Ear) -> None:
    left = leave(broker, "s1")
    seed(broker, "a")
    broker.settle(QUEUE, [end("a", "s1")])
    seed(broker, "b")

    window = take(broker, "c1", standing=[left])

    assert (window.claim, ids(window)) == (name("c1"), ["b"])


def test_a_lone_task_whose_worker_may_not_be_told_of_it_is_queued(broker: TwiceBroker, ear: Ear) -> None:
    if isinstance(broker.client, fakeredis.FakeRedis):
        pytest.skip("fakeredis has no users")
    leave(broker, "s1")
    broker.client.acl_setuser("default", enabled=True, commands=["-publish"])
    try:
        seed(broker, "a")
    finally:
        broker.client.acl_setuser("default", enabled=True, commands=["+publish"])

    assert ear.window() is None
    assert ids(take(broker, "c1")) == ["a"]


def test_a_full_server_takes_no_task_and_leaves_what_stands(broker: TwiceBroker, ear: Ear) -> None:
    if isinstance(broker.client, fakeredis.FakeRedis):
        pytest.skip("it has no limit of its memory")
    left = leave(broker, "s1")
    broker.client.config_set("maxmemory", 1)
    try:
        before = snapshot(broker.client)
        with pytest.raises(ServerFull):
            broker.submit(QUEUE, Line(), [item("a")], given=False)
        assert snapshot(broker.client) == before
        take(broker, "c1", standing=[left], stand=stand("s2"))
        assert standing(broker) == ["s2"]
    finally:
        broker.client.config_set("maxmemory", 0)
    assert ear.window() is None
