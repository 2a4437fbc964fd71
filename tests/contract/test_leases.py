"""Leases: renewed by those who live, rescued from those who do not, and held when the server itself stood still."""

from __future__ import annotations

from qworker.broker import StartedTask
from qworker.lifecycle import State
from qworker.model import Header, Line, StopOrder
from qworker.worker.blame import MAX_DELIVERIES, on_claim
from support.brokers import (
    LEASE_MS,
    QUEUE,
    START_MS,
    WORKER,
    TwiceBroker,
    counters,
    end,
    ids,
    name,
    only,
    record,
    seed,
    snapshot,
    state,
    stop,
    take,
)  # fmt: skip

OTHER = "host:2:bbbb"


def renew(broker: TwiceBroker, *claims: str, started: list[StartedTask] | None = None, expected_ms: int | None = None,
          stalled: bool = False, lease_ms: int = LEASE_MS):  # fmt: skip
    return broker.renew(
        QUEUE, worker=WORKER, claims=[name(claim) for claim in claims], started=started or (), lease_ms=lease_ms,
        expected_ms=expected_ms, stalled=stalled,
    )  # fmt: skip


def test_a_renewed_claim_outlives_its_first_lease(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS - 1)

    renewal = renew(broker, "c1")

    assert (renewal.lost, renewal.now_ms) == ((), START_MS + LEASE_MS - 1)
    broker.at(2 * LEASE_MS - 2)
    assert take(broker, "c2").rescued == 0


def test_a_claim_that_was_never_renewed_counts_as_not_delivered(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1", 2)
    broker.at(LEASE_MS)

    window = take(broker, "c2", worker=OTHER)

    assert (window.rescued, window.rescued_names) == (2, ((name("c1"), "a"), (name("c1"), "b")))
    assert ids(window) == ["a", "b", "c"]
    first = window.tasks[0].record
    assert (first.attempt, first.losses, first.deliveries) == (1, 0, 2)


def test_a_renewed_claim_that_lapses_charges_what_it_holds(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1", 2)
    renew(broker, "c1")
    broker.at(LEASE_MS)

    window = take(broker, "c2", worker=OTHER)

    assert ids(window) == ["a", "b", "c"]
    assert [(task.record.attempt, task.record.losses, task.record.exact) for task in window.tasks] == [
        (2, 1, False), (2, 1, False), (1, 0, False),
    ]  # fmt: skip
    assert counters(broker)["rescued"] == 2


def test_a_claim_that_settled_something_has_been_seen_by_its_worker(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1")])
    broker.at(LEASE_MS)

    assert only(take(broker, "c2")).record.losses == 1


def test_the_loss_of_a_lone_suspect_is_exact(broker: TwiceBroker) -> None:
    seed(broker, "a")
    for n in range(2):
        take(broker, f"c{n}")
        renew(broker, f"c{n}")
        broker.at((n + 1) * LEASE_MS)
    assert take(broker, "c2").tasks == ()

    assert ids(take(broker, "c3", alone=True)) == ["a"]
    renew(broker, "c3")
    broker.at(4 * LEASE_MS)
    rescue = take(broker, "c4")
    lone = only(take(broker, "c5", alone=True))

    assert (rescue.rescued, rescue.suspects) == (1, 1)
    assert (lone.record.losses, lone.record.exact, lone.record.attempt) == (3, True, 4)


def test_rescued_claims_keep_the_order_in_which_they_were_taken(broker: TwiceBroker) -> None:
    seed(broker, *"abcdef")
    take(broker, "c1", 2)
    broker.at(10)
    take(broker, "c2", 2)
    broker.at(LEASE_MS + 10)

    assert ids(take(broker, "c3")) == list("abcdef")


def test_a_renewal_names_the_claims_that_are_gone_and_never_makes_them_anew(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1)
    broker.at(LEASE_MS)
    take(broker, "c2", worker=OTHER)

    assert renew(broker, "c1", "c2", "never").lost == (name("c1"), name("never"))
    assert broker.client.zscore("qw:{t.q}:leases", name("c1")) is None


def test_a_renewal_marks_what_has_started(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.at(3_000)
    claim = name("c1")

    renew(broker, "c1", started=[StartedTask(claim, "a", 1_200), StartedTask(claim, "b", 10, once=True)])

    first, second = record(broker, "a"), record(broker, "b")
    assert first is not None
    assert second is not None
    assert (first.state, first.started_ms, first.once) == (State.RUNNING, START_MS + 1_800, False)
    assert (second.state, second.started_ms, second.once) == (State.RUNNING, START_MS + 2_990, True)
    assert broker.settle(QUEUE, [end("a", "c1")]).codes == ("ok",)


def test_what_runs_can_be_marked_later_as_what_may_not_start_again(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    marked = []
    for once in (False, True, False):
        renew(broker, "c1", started=[StartedTask(name("c1"), "a", 5, once=once)])
        found = record(broker, "a")
        assert found is not None
        marked.append(found.once)

    assert marked == [False, True, True]


def test_a_start_cannot_be_marked_by_a_claim_that_lost_the_task(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS)
    take(broker, "c2", worker=OTHER)

    renew(broker, "c1", started=[StartedTask(name("c1"), "a", 5, once=True)])

    found = record(broker, "a")
    assert found is not None
    assert (found.state, found.claim, found.once) == (State.CLAIMED, name("c2"), False)


def test_the_mark_of_an_at_most_once_start_survives_a_rescue(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    renew(broker, "c1", started=[StartedTask(name("c1"), "a", 5, once=True)])
    broker.at(LEASE_MS)

    assert only(take(broker, "c2")).record.once is True


def test_a_renewal_brings_the_stops_that_wait_for_its_claims_only(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1", 2)
    take(broker, "c2", 1, worker=OTHER)
    stop(broker, "b", grace_ms=250)
    stop(broker, "c")

    assert renew(broker, "c1").stops == ((name("c1"), "b", StopOrder(250)),)
    assert renew(broker, "c2").stops == ((name("c2"), "c", StopOrder(None)),)


def test_a_stop_survives_a_rescue_and_is_handed_out_with_the_task(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    stop(broker, "a", grace_ms=0)
    broker.at(LEASE_MS)

    task = only(take(broker, "c2", worker=OTHER))

    assert task.record.stop == StopOrder(0)
    assert renew(broker, "c2").stops == ((name("c2"), "a", StopOrder(0)),)
    broker.settle(QUEUE, [end("a", "c2", state=State.CANCELLED)])
    assert broker.client.exists("qw:{t.q}:stops") == 0


def test_a_worker_that_saw_the_server_stall_holds_all_rescues_for_one_lease(broker: TwiceBroker) -> None:
    broker.twice = False  # the second sending would be counted as a witness of its own
    seed(broker, "a", "b")
    take(broker, "c1", 1)
    broker.at(LEASE_MS + 5_000)

    assert take(broker, "c2", 1, worker=OTHER, stalled=True).rescued == 0
    assert renew(broker, "c1").lost == ()
    assert counters(broker)["amnesties"] == 1

    broker.at(3 * LEASE_MS + 5_000)
    assert take(broker, "c3", 1, worker=OTHER).rescued == 2


def test_a_step_of_the_clock_holds_all_rescues_for_one_lease(broker: TwiceBroker) -> None:
    broker.twice = False  # the second sending would see the step once more
    seed(broker, "a")
    take(broker, "c1")
    broker.at(3_600_000)

    stepped = take(broker, "c2", worker=OTHER, expected_ms=START_MS + 1_000)
    small = take(broker, "c3", worker=OTHER, expected_ms=START_MS + 3_600_000 - LEASE_MS // 2)

    assert (stepped.rescued, small.rescued) == (0, 0)
    broker.at(3_600_000 + LEASE_MS)
    assert take(broker, "c4", worker=OTHER).rescued == 1


def test_a_claim_tells_when_the_first_lease_lapses_so_that_its_worker_is_there(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1)
    broker.at(1_000)
    take(broker, "c2", 1)

    assert take(broker, "c3", worker=OTHER).next_due_ms == START_MS + LEASE_MS
    seed(broker, "later", delay_ms=500)
    assert take(broker, "c4", worker=OTHER).next_due_ms == START_MS + 1_500


def test_a_lease_that_has_lapsed_is_told_as_due_when_the_hold_ends(broker: TwiceBroker) -> None:
    """And not at once: its worker would ask again and again for what it may not have."""
    broker.twice = False  # the second sending would be counted as a witness of its own
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS + 10)

    assert take(broker, "c2", worker=OTHER, newcomer=True, expected_ms=START_MS).next_due_ms is None
    held = take(broker, "c3", worker=OTHER, stalled=True)

    assert (held.rescued, held.next_due_ms) == (0, START_MS + 2 * LEASE_MS + 10)
    broker.at(2 * LEASE_MS + 10)
    assert take(broker, "c4", worker=OTHER).rescued == 1


def test_a_newcomer_rescues_nothing_and_holds_nothing(broker: TwiceBroker) -> None:
    """It cannot tell a lease that lapsed from a clock that stepped before it came."""
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS)

    new = take(broker, "c2", worker=OTHER, newcomer=True, expected_ms=START_MS)

    assert (new.rescued, counters(broker).get("amnesties", 0)) == (0, 0)
    assert take(broker, "c3", worker=OTHER, expected_ms=START_MS + LEASE_MS).rescued == 1


def test_silence_alone_holds_nothing(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.at(24 * 3_600_000)

    assert take(broker, "c2", worker=OTHER).rescued == 1


def test_after_a_backward_step_no_lease_ends_later_than_a_lease_is_long(broker: TwiceBroker) -> None:
    broker.at(3_600_000)
    seed(broker, "a")
    take(broker, "c1")
    broker.at(0)

    assert take(broker, "c2", worker=OTHER).tasks == ()
    broker.at(LEASE_MS)
    assert take(broker, "c3", worker=OTHER).rescued == 1


def test_what_a_dead_worker_held_is_put_back_at_once(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", "d")
    take(broker, "c1", 1)
    take(broker, "c2", 1, worker=OTHER)
    take(broker, "c3", 1)
    renew(broker, "c1", "c3")

    assert broker.rescue_worker(QUEUE, WORKER) == (2, ((name("c1"), "a"), (name("c3"), "c")))

    window = take(broker, "c4", worker=OTHER)
    assert ids(window) == ["a", "c", "d"]
    assert [task.record.losses for task in window.tasks] == [1, 1, 0]
    assert state(broker, "b") is State.CLAIMED
    assert broker.rescue_worker(QUEUE, WORKER) == (0, ())


def test_rescue_is_bounded_per_call_and_goes_on_in_the_next(broker: TwiceBroker) -> None:
    broker.twice = False
    names = [f"t{n:04}" for n in range(2_400)]
    for start in range(0, len(names), 300):
        seed(broker, *names[start : start + 300])
        take(broker, f"c{start}", 300)
    broker.at(LEASE_MS)

    rescued = [take(broker, f"d{n}", 1, needs=("async",)).rescued for n in range(5)]

    assert rescued == [600, 600, 600, 600, 0]
    assert sorted(ids(take(broker, "e", 3_000))) == names


def test_many_claims_of_a_dead_worker_are_put_back_in_one_verb(broker: TwiceBroker) -> None:
    broker.twice = False
    names = [f"t{n:04}" for n in range(2_400)]
    for start in range(0, len(names), 600):
        seed(broker, *names[start : start + 600])
        take(broker, f"c{start}", 600)

    rescued = broker.rescue_worker(QUEUE, WORKER)
    assert rescued.tasks == 2_400
    assert rescued.names == tuple((name("c0"), f"t{n:04}") for n in range(20)), "the first 20 of the first call"


def test_a_rescue_rings_for_the_pools_that_get_work(broker: TwiceBroker) -> None:
    seed(broker, "a", line=Line("thread"))
    take(broker, "c1")
    broker.client.delete("qw:{t.q}:bell:thread")
    broker.at(LEASE_MS)

    take(broker, "c2", needs=("process",))

    assert broker.client.llen("qw:{t.q}:bell:thread") == 1


def test_every_claim_and_renewal_carries_the_epoch_and_a_server_that_lost_its_data_has_another(
    broker: TwiceBroker,
) -> None:
    seed(broker, "a")
    epoch = take(broker, "c1").epoch
    assert renew(broker, "c1").epoch == epoch
    broker.client.flushall()

    renewal = renew(broker, "c1")

    assert renewal.lost == (name("c1"),)
    assert renewal.epoch != epoch, "although it was the very same broker that gave both lives their names"
    seed(broker, "a")
    assert broker.queues() == (QUEUE,)
    assert take(broker, "c2").epoch == renewal.epoch


def test_a_claim_that_meets_its_own_lapsed_window_takes_a_new_lease(broker: TwiceBroker) -> None:
    """The worker lives and has sent its claim again: what it is shown must not be rescued under its hands."""
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS - 1)

    take(broker, "c1")

    broker.at(2 * LEASE_MS - 2)
    assert take(broker, "c2").rescued == 0


def test_a_settled_task_is_not_rescued(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1")])
    broker.at(LEASE_MS)

    assert ids(take(broker, "c2")) == ["b"]
    assert b"a" not in snapshot(broker.client)[b"qw:{t.q}:tasks"]


def test_a_shorter_lease_of_one_worker_does_not_pull_in_the_longer_one_of_another(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1", 1, lease_ms=60_000)

    take(broker, "c2", 1, worker=OTHER, lease_ms=1_000)
    renew(broker, "c2", lease_ms=1_000)

    assert broker.client.zscore("qw:{t.q}:leases", name("c1")) == START_MS + 60_000


def test_what_kills_its_workers_before_it_starts_is_undeliverable_in_the_end(broker: TwiceBroker) -> None:
    """No claim of it is ever renewed, so no death is charged to it: its deliveries are what tells."""
    seed(broker, "poison")

    for delivery in range(1, MAX_DELIVERIES + 2):
        broker.at(delivery * LEASE_MS)
        task = only(take(broker, f"c{delivery}"))
        verdict = on_claim(task.record, Header("t"), remaining_ms=None)
        assert (task.record.deliveries, task.record.losses, task.record.attempt) == (delivery, 0, 1)
        assert (verdict is None) == (delivery <= MAX_DELIVERIES)

    assert verdict is not None
    assert verdict.outcome is State.CRASHED
    assert "undeliverable" in verdict.reason
