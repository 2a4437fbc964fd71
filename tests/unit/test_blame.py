"""What becomes of a task: each way a task can end, and each way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qworker.lifecycle import How, State
from qworker.model import Ending, Header, Record, StopOrder
from qworker.worker.blame import MAX_DELIVERIES, on_claim, on_ending

PLAIN = Header("t")


def ended(kind, *, record=Record(attempt=1), header=PLAIN, remaining_ms=None, **ending):  # noqa: B008
    return on_ending(Ending(1, kind, **ending), record, header, remaining_ms=remaining_ms, jitter=lambda: 1.0)


@pytest.mark.parametrize(
    ("record", "header", "remaining_ms", "outcome", "how"),
    [
        (Record(stop=StopOrder()), PLAIN, None, State.CANCELLED, How.NEVER_STARTED),
        (Record(once=True), PLAIN, None, State.CRASHED, How.HOST_DIED),
        (Record(losses=3, exact=True), PLAIN, None, State.CRASHED, How.HOST_DIED),
        (Record(deliveries=MAX_DELIVERIES + 1), PLAIN, None, State.CRASHED, How.NEVER_STARTED),
        (Record(), PLAIN, 0, State.EXPIRED, How.NEVER_STARTED),
    ],
)
def test_what_must_not_run_is_buried_when_it_is_claimed(record, header, remaining_ms, outcome, how) -> None:
    verdict = on_claim(record, header, remaining_ms=remaining_ms)

    assert (verdict.outcome, verdict.how) == (outcome, how)


@pytest.mark.parametrize(
    "record",
    [
        Record(),
        Record(losses=2, exact=True),
        Record(losses=3, exact=False),  # suspicion is not proof: it runs alone once more
        Record(deliveries=MAX_DELIVERIES),
    ],
)
def test_what_may_run_is_let_run(record) -> None:
    assert on_claim(record, PLAIN, remaining_ms=None) is None


def test_a_value_is_a_success_even_after_the_ask() -> None:
    verdict = ended("returned", asked="timeout")

    assert verdict.outcome is State.SUCCEEDED


@pytest.mark.parametrize("kind", ["raised", "interrupted"])
@pytest.mark.parametrize(
    ("asked", "outcome"),
    [("timeout", State.TIMED_OUT), ("stop", State.CANCELLED), ("deadline", State.EXPIRED)],
)
def test_an_exception_after_the_ask_is_the_asked_end_noticed(kind, asked, outcome) -> None:
    verdict = ended(kind, asked=asked)

    assert (verdict.outcome, verdict.how) == (outcome, How.NOTICED)


@pytest.mark.parametrize(
    ("asked", "outcome"),
    [("timeout", State.TIMED_OUT), ("stop", State.CANCELLED), ("deadline", State.EXPIRED)],
)
def test_what_was_thrown_into_it_and_came_out_is_told_as_interrupted(asked, outcome) -> None:
    verdict = ended("thrown", asked=asked)

    assert (verdict.outcome, verdict.how) == (outcome, How.INTERRUPTED)


def test_a_thread_that_would_not_stop_is_told_as_left_running() -> None:
    assert ended("left_running", asked="timeout").how is How.LEFT_RUNNING


@pytest.mark.parametrize("kind", ["interrupted", "thrown", "killed", "left_running"])
@pytest.mark.parametrize("asked", ["drain", "recycle"])
def test_what_the_shutdown_interrupts_goes_back_uncharged(kind, asked) -> None:
    assert ended(kind, asked=asked).back == "release"


def test_what_the_shutdown_interrupts_ends_if_it_may_start_only_once() -> None:
    verdict = ended("killed", asked="drain", header=Header("t", delivery="at_most_once"))

    assert verdict.outcome is State.CRASHED


def test_a_failure_without_retries_is_final() -> None:
    assert ended("raised").outcome is State.FAILED


def test_a_failure_with_a_retry_left_runs_again_after_its_backoff() -> None:
    verdict = ended("raised", header=Header("t", retries=2, backoff_ms=1000))

    assert (verdict.back, verdict.delay_ms) == ("again", 1000)


def test_the_backoff_doubles_with_each_failure() -> None:
    header = Header("t", retries=9, backoff_ms=1000)
    delays = [ended("raised", record=Record(attempt=n), header=header).delay_ms for n in (1, 2, 3)]

    assert delays == [1000, 2000, 4000]


def test_losses_use_no_retries() -> None:
    verdict = ended("raised", record=Record(attempt=3, losses=2), header=Header("t", retries=1))

    assert verdict.back == "again"


def test_a_timeout_uses_a_retry() -> None:
    assert ended("killed", asked="timeout", header=Header("t", retries=1)).back == "again"


def test_a_retry_that_cannot_fit_into_the_deadline_is_not_made() -> None:
    verdict = ended("raised", header=Header("t", retries=1, backoff_ms=5000), remaining_ms=4000)

    assert verdict.outcome is State.FAILED
    assert "no time left for a retry" in verdict.reason


def test_an_asked_for_retry_waits_as_long_as_it_asked() -> None:
    verdict = ended("retry", delay_s=7.5, header=Header("t", retries=1))

    assert (verdict.back, verdict.delay_ms) == ("again", 7500)


def test_an_exception_that_retry_for_does_not_name_is_final() -> None:
    assert ended("raised", retryable=False, header=Header("t", retries=5)).outcome is State.FAILED


def test_a_dead_child_sends_its_task_back_with_a_loss() -> None:
    verdict = ended("child_died", detail="signal 9")

    assert (verdict.back, verdict.exact) == ("lose", True)
    assert "signal 9" in verdict.reason


def test_the_third_death_that_can_be_nobody_elses_fault_is_a_crash() -> None:
    verdict = ended("child_died", record=Record(attempt=3, losses=2), detail="signal 11")

    assert (verdict.outcome, verdict.how) == (State.CRASHED, How.HOST_DIED)
    assert verdict.reason == "its child died (signal 11), 3 times in all"


def test_a_death_among_neighbours_never_ends_a_task() -> None:
    assert ended("child_died", record=Record(attempt=9, losses=8), exact=False).back == "lose"


def test_the_death_of_the_fork_server_is_nobodys_fault() -> None:
    assert ended("host_died", record=Record(losses=2)).back == "release"


def test_an_undecodable_body_fails_for_good() -> None:
    assert ended("refused", header=Header("t", retries=5)).outcome is State.FAILED


KINDS = [
    *("returned", "raised", "retry", "interrupted", "thrown", "refused", "unstarted"),
    *("child_died", "host_died", "killed"),
]


@given(
    kind=st.sampled_from([*KINDS, "left_running"]),
    asked=st.sampled_from([None, "timeout", "deadline", "stop", "drain", "recycle"]),
    attempt=st.integers(1, 10),
    losses=st.integers(0, 5),
    retries=st.integers(0, 5),
    max_crashes=st.integers(1, 5),
    exact=st.booleans(),
    once=st.booleans(),
    remaining_ms=st.none() | st.integers(-1000, 100_000),
)
def test_every_ending_gets_exactly_one_verdict(
    kind, asked, attempt, losses, retries, max_crashes, exact, once, remaining_ms
) -> None:
    if kind in ("killed", "left_running") and asked is None:
        asked = "timeout"  # the ladder forces only what it has asked
    header = Header("t", retries=retries, max_crashes=max_crashes, delivery="at_most_once" if once else "at_least_once")
    record = Record(attempt=attempt + losses, losses=losses)

    verdict = on_ending(
        Ending(1, kind, asked=asked, exact=exact), record, header, remaining_ms=remaining_ms, jitter=lambda: 0.5
    )

    assert (verdict.outcome is None) != (verdict.back is None)
    if verdict.back == "again":
        assert attempt - 1 < retries  # attempts never exceed their maximum
        assert not once
        assert remaining_ms is None or verdict.delay_ms < remaining_ms
    if once and kind != "unstarted":
        assert verdict.back is None  # what may start only once never starts again
