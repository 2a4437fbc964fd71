"""Each receipt says what is known of a stop, and None where nobody can tell. No server: a fake channel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qworker import TaskCancelled, codec, stopping
from qworker.broker.values import StopAnswer
from qworker.future import Future
from qworker.lifecycle import How, State
from qworker.model import Outcome, Record, StopOrder
from qworker.views import Inspection, WorkerRecord
from support.outcomes import ID, FakeChannel, ended, succeeded

WORKER = "box-2:4711:ab"
REQUESTED = StopAnswer("t1", "requested", "claim", WORKER)
STOPPING = Record(stop=StopOrder())
EARLIER = "an earlier start of it may run still: its worker went silent, or could not end it"


def record(**more: Any) -> WorkerRecord:
    return WorkerRecord(WORKER, "box-2", 4711, "", "", 1, ("default",), "running", 1, {}, beat_ms=2_000, **more)


@pytest.fixture
def channel() -> FakeChannel:
    return FakeChannel()


@pytest.fixture
def future(channel: FakeChannel) -> Future[Any]:
    return Future(ID, link=channel)


def test_a_queued_task_is_cancelled_here_and_now(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [StopAnswer("t1", "cancelled", outcome=codec.pack_outcome(ended(State.CANCELLED)))]

    receipt = future.stop()

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "never_started", False)
    assert receipt.note == "cancelled while it was queued: it will not start"
    assert receipt
    assert future.cancelled()


def test_of_a_task_that_a_silent_worker_had_nobody_can_tell_whether_its_code_runs(
    future: Future[Any], channel: FakeChannel
) -> None:
    adrift = ended(State.CANCELLED, adrift=True)
    channel.answers = [StopAnswer("t1", "cancelled", outcome=codec.pack_outcome(adrift))]

    receipt = future.stop()

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("cancelled", "never_started", None)
    assert not receipt
    assert receipt.note == f"cancelled while it was queued: it will not start; {EARLIER}"
    assert not future.cancel(), "it is not known that it never runs"
    assert str(future.status()).endswith(f"; {EARLIER}")
    with pytest.raises(TaskCancelled, match=f"; {EARLIER}"):
        future.result()


@pytest.mark.parametrize("outcome", [succeeded(5, adrift=True), ended(State.TIMED_OUT, How.KILLED, adrift=True)])
def test_what_ended_elsewhere_says_so_of_its_earlier_start_too(
    future: Future[Any], channel: FakeChannel, outcome: Outcome
) -> None:
    channel.answers = [StopAnswer("t1", "ended", outcome=codec.pack_outcome(outcome))]

    receipt = future.stop()

    assert receipt.still_running is None
    assert receipt.note.endswith(f"; {EARLIER}")


def test_what_waits_again_after_its_worker_went_silent_may_run_still(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [REQUESTED] * 3
    channel.inspection = Inspection(ID, State.QUEUED, replace(STOPPING, adrift=True))

    receipt = future.stop(wait=0)

    assert receipt.still_running is None
    assert receipt.note.endswith(f"; {EARLIER}; it was asked to stop and will not start again")


def test_grace_is_passed_on_in_milliseconds(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [StopAnswer("t1", "unknown")] * 3

    future.stop()
    future.stop(grace=0)
    future.stop(grace="250ms")

    assert channel.asked == [(False, None), (False, 0), (False, 250)]


def test_a_task_that_ended_first_is_not_said_to_be_stopped(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [StopAnswer("t1", "ended", outcome=codec.pack_outcome(succeeded(5)))]

    receipt = future.stop()

    assert (receipt.outcome, receipt.how, receipt.still_running) == ("succeeded", "returned", False)
    assert receipt.note == "it had ended before: succeeded"
    assert future.result() == 5


def test_a_task_that_is_known_to_have_ended_is_not_asked_about(future: Future[Any], channel: FakeChannel) -> None:
    future.settle(succeeded())

    assert future.stop().outcome == "succeeded"
    assert channel.asked == []


@pytest.mark.parametrize(
    ("how", "running", "note"),
    [
        (How.NOTICED, False, "it ended by itself when it was asked to"),
        (How.KILLED, False, "its process was killed"),
        (
            How.LEFT_RUNNING,
            True,
            "it did not end when asked to, and its slot was given up; its code is still running",
        ),
    ],
)
def test_a_running_task_is_waited_for_and_its_end_reported(
    future: Future[Any], channel: FakeChannel, how: How, running: bool, note: str
) -> None:
    channel.answers = [REQUESTED]
    outcome = ended(State.CANCELLED, how, worker=WORKER, still_running=running)
    channel.watch = lambda future: future.settle(outcome)  # type: ignore[method-assign]

    receipt = future.stop(wait=5)

    assert (receipt.outcome, receipt.how, receipt.still_running, receipt.note) == ("cancelled", how, running, note)
    assert bool(receipt) is not running


def test_a_value_that_came_after_the_ask_is_told_as_what_it_is(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [REQUESTED]
    channel.watch = lambda future: future.settle(succeeded(1))  # type: ignore[method-assign]

    receipt = future.stop(wait=5)

    assert (receipt.outcome, receipt.note) == ("succeeded", "it ended by itself first: succeeded")


def running(**more: Any) -> Inspection:
    lasting = replace(STOPPING, started_ms=1_000)
    return Inspection("t1", State.RUNNING, lasting, worker=WORKER, now_ms=5_000, **{"lease_ms": 9_000, **more})


def test_a_task_that_goes_on_after_the_wait_is_still_running(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [REQUESTED]
    channel.inspection = running()

    receipt = future.stop(wait=0.01)

    assert (receipt.outcome, receipt.how, receipt.state, receipt.still_running) == (None, None, "running", True)
    assert receipt.note == "running on box-2 for 4.0 s, attempt 1, asked to stop"
    assert receipt.took >= 0.01
    assert not receipt


def test_nobody_can_tell_of_a_task_whose_worker_is_silent(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [REQUESTED]
    channel.inspection = running(lease_ms=3_000)

    receipt = future.stop(wait=0)

    assert receipt.still_running is None
    assert receipt.note.startswith("box-2 cannot be reached: running on box-2 for 4.0 s")


@pytest.mark.parametrize(("shown", "expected"), [(({"id": ID},), True), ((), None)])
def test_a_task_that_was_just_handed_out_runs_if_its_worker_says_so(
    future: Future[Any], channel: FakeChannel, shown: tuple[dict[str, Any], ...], expected: bool | None
) -> None:
    channel.answers = [REQUESTED]
    channel.inspection = Inspection("t1", State.CLAIMED, STOPPING, worker=WORKER, now_ms=5_000, lease_ms=9_000)
    channel.record = record(running=shown)

    receipt = future.stop(wait=0)

    assert (receipt.state, receipt.still_running) == ("claimed", expected)


def test_a_task_that_came_back_to_its_line_is_cancelled_there(future: Future[Any], channel: FakeChannel) -> None:
    cancelled = StopAnswer("t1", "cancelled", outcome=codec.pack_outcome(ended(State.CANCELLED)))
    channel.answers = [REQUESTED, cancelled]
    channel.inspection = Inspection("t1", State.QUEUED, STOPPING)

    assert future.stop(wait=0).how == "never_started"


def test_a_task_that_workers_keep_juggling_will_not_start_again(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [REQUESTED] * 3
    channel.inspection = Inspection("t1", State.QUEUED, STOPPING, workers=1)

    receipt = future.stop(wait=0)

    assert (receipt.outcome, receipt.state, receipt.still_running) == (None, "queued", False)
    assert receipt.note == "queued; it was asked to stop and will not start again"


def test_a_server_that_goes_after_the_stop_leaves_a_receipt_that_says_so(
    future: Future[Any], channel: FakeChannel
) -> None:
    channel.answers = [REQUESTED]

    receipt = future.stop(wait=0)

    assert receipt.still_running is None
    assert receipt.note == "the stop is recorded, but the server is gone since: the server is gone"


def test_an_unknown_id_is_unknown(future: Future[Any], channel: FakeChannel) -> None:
    channel.answers = [StopAnswer("t1", "unknown")]

    receipt = future.stop()

    assert (receipt.outcome, receipt.state, receipt.still_running) == (None, None, None)
    assert receipt.note == "no task of this id is known on this server"


@pytest.mark.parametrize(
    ("told", "expected", "words"),
    [
        (record(survivors=({"id": ID},)), True, "its code is still running"),
        (record(), False, ""),
        (None, None, "whether its code still runs is not known: box-2 does not answer"),
    ],
)
def test_of_an_earlier_survivor_only_its_worker_knows_whether_it_still_runs(
    future: Future[Any], channel: FakeChannel, told: WorkerRecord | None, expected: bool | None, words: str
) -> None:
    future.settle(ended(State.TIMED_OUT, How.LEFT_RUNNING, worker=WORKER, still_running=True, ended_ms=1_000))
    channel.record = told

    receipt = future.stop()

    assert receipt.still_running is expected
    assert receipt.note.endswith(words)


def test_of_a_task_that_a_group_did_not_wait_for_to_its_end_nothing_is_claimed(future: Future[Any]) -> None:
    receipt = stopping.receipt_of(future, None, 0.0, asked=True)

    assert receipt.still_running is None
    assert receipt.note == (
        "the wait for it was interrupted: whether its code runs is not known; status() asks what it is doing"
    )


def test_of_a_task_that_the_server_forgot_a_group_says_so(future: Future[Any]) -> None:
    future.give_up(submitted_here=True)

    receipt = stopping.receipt_of(future, None, 0.0, asked=True)

    assert (receipt.still_running, receipt.note) == (None, "nothing is known of it on this server any more")
