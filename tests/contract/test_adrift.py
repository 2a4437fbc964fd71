"""An earlier start of a task that may run still: marked where that is so, kept to the end, and told by its outcome."""

from __future__ import annotations

from typing import Any

import pytest

from qworker import codec
from qworker.broker.unstarted import never_started
from qworker.lifecycle import State
from qworker.model import Again, Lose, Release
from support.brokers import LEASE_MS, QUEUE, WORKER, TwiceBroker, name, record, seed, stop, take

ELSEWHERE = ("async",)  # what nobody asks for here: such a claim looks after what lapsed, and takes nothing


def is_adrift(broker: TwiceBroker, local: str) -> bool:
    found = record(broker, local)
    return found is not None and found.adrift


def lapse(broker: TwiceBroker, claim: str, *locals_: str, **options: Any) -> None:
    """Have a worker go silent that holds these, and another one notice."""
    seed(broker, *locals_, **options)
    take(broker, claim)
    broker.at(LEASE_MS)
    take(broker, f"after-{claim}", 1, worker="other:1:aaaa", needs=ELSEWHERE)


def test_what_a_silent_worker_had_is_adrift_and_stays_so(broker: TwiceBroker) -> None:
    lapse(broker, "c1", "a")
    assert is_adrift(broker, "a")

    for n, move in enumerate((Again, Release, Lose)):
        claim = f"d{n}"
        window = take(broker, claim, alone=True)
        assert window.tasks[0].record.adrift
        more = (0,) if move is Again else (False,) if move is Lose else ()
        broker.settle(QUEUE, [move("a", name(claim), *more)])  # type: ignore[operator]
        assert is_adrift(broker, "a"), move


def test_what_a_dead_worker_had_is_not_adrift_for_its_code_died_with_it(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")

    broker.rescue_worker(QUEUE, WORKER)

    assert not is_adrift(broker, "a")


@pytest.mark.parametrize("delay_ms", [0, 500])
def test_what_is_tried_again_while_its_code_runs_on_is_adrift(broker: TwiceBroker, delay_ms: int) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")

    broker.settle(QUEUE, [Again("a", name("c1"), delay_ms), Again("b", name("c1"), delay_ms, runs_on=True)])

    assert [is_adrift(broker, local) for local in "ab"] == [False, True]


def test_who_ends_it_from_outside_writes_that_it_is_adrift_and_is_told(broker: TwiceBroker) -> None:
    lapse(broker, "c1", "a")
    seed(broker, "b")
    value_of = never_started(QUEUE, State.CANCELLED, 5)

    answers = broker.stop(QUEUE, ["a", "b"], mode="cancel", grace_ms=None, value_of=value_of)

    assert [answer.code for answer in answers] == ["cancelled", "cancelled"]
    assert [answer.code for answer in broker.second] == ["cancelled", "cancelled"], "it knows its own"
    assert answers[1].outcome is None, "as the caller has packed it"
    for told in (answers[0].outcome, *broker.outcomes(QUEUE, ["a"])):
        assert told is not None
        outcome = codec.unpack_outcome(told)
        assert (outcome.adrift, outcome.claim, outcome.state) == (True, "", "cancelled")
    (plain,) = broker.outcomes(QUEUE, ["b"])
    assert plain is not None
    assert not codec.unpack_outcome(plain).adrift


def test_who_finds_it_past_its_deadline_writes_that_it_is_adrift(broker: TwiceBroker) -> None:
    lapse(broker, "c1", "a", deadline_ms=LEASE_MS)

    (answer,) = broker.expire(QUEUE, ["a"], value_of=never_started(QUEUE, State.EXPIRED, 5))

    assert answer.code == "expired"
    assert broker.second[0].code == "expired"
    assert answer.outcome is not None
    assert codec.unpack_outcome(answer.outcome).adrift


def test_a_stop_that_meets_another_outcome_does_not_take_it_for_its_own(broker: TwiceBroker) -> None:
    lapse(broker, "c1", "a")
    broker.stop(QUEUE, ["a"], mode="cancel", grace_ms=None, value_of=never_started(QUEUE, State.CANCELLED, 5))

    (answer,) = stop(broker, "a")

    assert answer.code == "ended"
