"""What only a mutant of a script showed that no test looked at (`make mutants`)."""

from __future__ import annotations

from qworker.broker.worker_calls import rescue_some
from qworker.lifecycle import State
from qworker.model import Again, Line, Park
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    end,
    ids,
    item,
    name,
    only,
    seed,
    take,
)  # fmt: skip

CLIENT = "cccccccccccc"
LATER = "qw:{t.q}:later"


def bell(pool: str) -> str:
    return f"qw:{{t.q}}:bell:{pool}"


def test_outcomes_of_two_kinds_go_to_their_client_in_one_message(broker: TwiceBroker) -> None:
    broker.twice = False
    with broker.subscribe(CLIENT) as inbox:
        seed(broker, "a", "b")
        take(broker, "c1")
        items = [end("a", "c1", client=CLIENT), end("b", "c1", client=CLIENT, state=State.FAILED)]

        broker.settle(QUEUE, items)

        assert inbox.next(5) == items[0].value + items[1].value


def test_a_refused_outcome_tells_its_client_nothing(broker: TwiceBroker) -> None:
    with broker.subscribe(CLIENT) as inbox:
        seed(broker, "a")

        assert broker.settle(QUEUE, [end("a", "c1", client=CLIENT)]).codes == ("lost",)

        assert inbox.next(0.05) is None


def test_a_parked_task_counts_the_windows_that_were_lost_on_their_way(broker: TwiceBroker) -> None:
    """Its deliveries go down by the one of this claim, not to nothing: else it would never look undeliverable."""
    seed(broker, "a")
    for at in (0, 1, 2):
        broker.at(at * (LEASE_MS + 1))
        take(broker, f"c{at}")

    broker.settle(QUEUE, [Park("a", name("c2"), 0)])

    assert only(take(broker, "c3")).record.deliveries == 3


def test_a_retry_rings_for_another_worker(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("thread"))
    take(broker, "c1")
    broker.client.delete(bell("thread"))

    broker.settle(QUEUE, [Again("a", name("c1"), 0)])

    assert broker.client.llen(bell("thread")) == 1


def test_a_claim_rings_for_what_became_due_in_a_pool_that_it_does_not_serve(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("thread"), delay_ms=100)
    broker.client.delete(bell("thread"))
    broker.at(100)

    assert ids(take(broker, "c1", needs=("default",))) == []

    assert broker.client.llen(bell("thread")) == 1


def test_a_claim_tells_when_the_next_task_is_due_after_those_that_it_took(broker: TwiceBroker) -> None:
    seed(broker, "a", delay_ms=100)
    seed(broker, "b", delay_ms=200)
    seed(broker, "c", delay_ms=300)
    broker.at(100)

    window = take(broker, "c1")
    again = take(broker, "c1")

    assert (ids(window), window.next_due_ms) == (["a"], START_MS + 200)
    assert (ids(again), again.next_due_ms) == (["a"], START_MS + 200)


def test_what_is_due_and_is_no_task_is_dropped(broker: TwiceBroker) -> None:
    seed(broker, "a", delay_ms=100)
    broker.client.zadd(LATER, {"ghost": START_MS + 50})
    broker.at(100)

    assert ids(take(broker, "c1")) == ["a"]
    assert broker.client.zcard(LATER) == 0


def test_a_claim_passes_over_ids_that_nobody_can_have_given(broker: TwiceBroker) -> None:
    longest = "x" * 64
    seed(broker, "two words", longest, "y" * 65)

    assert ids(take(broker, "c1")) == [longest]


def test_a_claim_that_reaches_its_limit_of_bytes_leaves_the_rest_in_its_order(broker: TwiceBroker) -> None:
    names = [f"t{n:02}" for n in range(40)]
    seed(broker, *names, size=1_000)

    window = take(broker, "c1", max_bytes=5_500)

    assert ids(window) == names[:5]
    assert ids(take(broker, "c2")) == names[5:]


def test_only_what_has_something_to_say_gets_a_record(broker: TwiceBroker) -> None:
    broker.submit(QUEUE, Line(), [item("a"), item("b", delay_ms=1), item("c", deadline_ms=1)], given=True)
    broker.submit(QUEUE, Line(), [item("a"), item("d")], given=True)

    assert set(broker.client.hkeys("qw:{t.q}:tasks")) == {b"b", b"c"}


def test_one_call_puts_back_a_bounded_part_of_what_a_dead_worker_held(broker: TwiceBroker) -> None:
    broker.twice = False
    for claim in ("c1", "c2", "c3"):
        seed(broker, *(f"{claim}-{n}" for n in range(600)))
        take(broker, claim, 600)

    parts = [broker.run(rescue_some(broker.owner, QUEUE, WORKER)) for _ in range(3)]

    assert [(some.tasks, bool(more)) for some, more in parts] == [(1_200, True), (600, False), (0, False)]


def test_a_task_of_one_millisecond_is_scheduled_and_rung_for_like_any_other(broker: TwiceBroker) -> None:
    seed(broker, "a", delay_ms=1)
    assert broker.client.llen(bell("default")) == 1
    assert broker.client.llen("qw:{t.q}:ready:default:normal") == 0

    seed(broker, "b", deadline_ms=1)
    assert only(take(broker, "c1")).record.deadline_ms == START_MS + 1


def test_a_submit_to_a_server_that_lost_its_data_begins_a_new_epoch(broker: TwiceBroker) -> None:
    seed(broker, "a")
    broker.client.flushall()

    seed(broker, "b")

    assert broker.client.hexists("qw:{t.q}:meta", "epoch")


def test_what_ends_badly_is_kept_with_the_number_of_its_run(broker: TwiceBroker) -> None:
    """A retry of it is the next one; a task whose record nobody wrote counts as in its first."""
    seed(broker, "a", "b")
    take(broker, "c1")
    tasks, dead = "qw:{t.q}:tasks", "qw:{t.q}:dead_bodies"
    record = broker.client.hget(tasks, "a").split(b" ")
    broker.client.hset(tasks, "a", b" ".join([*record[:4], b"3", *record[5:]]))
    broker.client.hset(tasks, "b", b" ".join([*record[:4], b"x", *record[5:]]))

    broker.settle(QUEUE, [end(local, "c1", state=State.FAILED) for local in ("a", "b")])

    assert broker.client.hget(dead, "a").startswith(b"3 ")
    assert broker.client.hget(dead, "b").startswith(b"1 ")
