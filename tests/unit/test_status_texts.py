"""Every sentence that says what a task is doing."""

from __future__ import annotations

import pytest

from qworker import codec
from qworker.lifecycle import How, State
from qworker.model import Header, Line, Outcome, Record, StopOrder
from qworker.status import Status, describe, wait_timeout
from qworker.views import Inspection

ID = "default:t1"
WORKER = "box-2:4711:ab"
BLOB = codec.pack_envelope(
    header=codec.pack_header(Header("tasks.f", retries=3)),
    body=codec.pack_body((), {}),
    line=Line(),
    client=codec.NOBODY,
    sent_ms=0,
)
IN_A_THREAD = codec.pack_envelope(
    header=codec.pack_header(Header("tasks.f")),
    body=codec.pack_body((), {}),
    line=Line("thread"),
    client=codec.NOBODY,
    sent_ms=0,
)
NOW = 1_000_000


def inspection(state: State | None, record: Record | None = None, **more: object) -> Inspection:
    return Inspection("t1", state, record or Record(), now_ms=NOW, **{"blob": BLOB, "workers": 1, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Inspection("t1", None), "no task of this id is known"),
        (inspection(State.QUEUED, before=120), "queued, about 120 before it"),
        (inspection(State.QUEUED, before=0), "queued, next in its line"),
        (inspection(State.QUEUED), "queued"),
        (
            inspection(State.QUEUED, before=0, workers=0),
            "queued, next in its line; no worker serves queue 'default' on this server",
        ),
        (
            inspection(State.SCHEDULED, due_ms=NOW + 4_200, strangers=frozenset({"tasks.f"})),
            (
                "scheduled, due in 4.2 s; no worker of queue 'default' knows tasks.f: a typing mistake, or start a "
                "worker that has it"
            ),
        ),
        (
            inspection(State.QUEUED, before=0, blob=IN_A_THREAD, pools=frozenset({"process", "async"})),
            "queued, next in its line; no worker of queue 'default' has thread slots: start one with -c thread=8",
        ),
        (
            inspection(State.QUEUED, before=0, blob=IN_A_THREAD, pools=frozenset({"thread"}), strangers=frozenset("g")),
            "queued, next in its line",
        ),
        (inspection(State.SCHEDULED, due_ms=NOW + 4_200), "scheduled, due in 4.2 s"),
        (
            inspection(State.SCHEDULED, Record(attempt=2), due_ms=NOW - 5),
            "scheduled for attempt 2 of 4, due in 0 ms",
        ),
        (
            inspection(State.CLAIMED, worker=WORKER, lease_ms=NOW + 1000),
            "handed to box-2 and perhaps running, attempt 1 of 4",
        ),
        (
            inspection(State.RUNNING, Record(started_ms=NOW - 4_200), worker=WORKER, lease_ms=NOW + 1000),
            "running on box-2 for 4.2 s, attempt 1 of 4",
        ),
        (
            inspection(
                State.RUNNING, Record(started_ms=NOW - 4_200, stop=StopOrder()), worker=WORKER, lease_ms=NOW - 2_000
            ),
            (
                "running on box-2 for 4.2 s, attempt 1 of 4, asked to stop; that worker is silent: its lease ended"
                " 2.0 s ago"
            ),
        ),
    ],
)
def test_what_a_task_is_doing_is_said_in_a_sentence(found: Inspection, text: str) -> None:
    assert str(describe(ID, found)) == text


def test_an_outcome_is_described_from_what_was_recorded() -> None:
    outcome = Outcome(
        ID, State.TIMED_OUT, How.LEFT_RUNNING, worker=WORKER, ran_s=2.0, reason="timeout 1.0 s", still_running=True
    )

    status = describe(ID, Inspection("t1", None, outcome=codec.pack_outcome(outcome)))

    # Not "is": nothing was asked, and the code may have ended long ago.
    told = "its code was still running then; see qworker dessert"
    assert str(status) == f"timed out on box-2 after 2.0 s (timeout 1.0 s); {told}"
    assert (status.ended, status.how, status.ran_for) == (True, How.LEFT_RUNNING, 2.0)


def test_the_name_and_the_number_of_attempts_come_from_the_header() -> None:
    status = describe(ID, inspection(State.QUEUED))

    assert (status.name, status.attempt, status.attempts) == ("tasks.f", 1, 4)


def test_a_header_that_cannot_be_read_does_not_hide_the_rest() -> None:
    status = describe(ID, Inspection("t1", State.QUEUED, Record(), blob=b"nonsense", before=3, workers=1))

    assert str(status) == "queued, about 3 before it"
    assert status.name == "(its header cannot be read)"


def test_a_wait_timeout_carries_the_facts_beside_the_sentence() -> None:
    status = Status(ID, State.RUNNING, worker=WORKER, ran_for=4.2, attempt=1, attempts=4)

    error = wait_timeout(status, shown=f"task {ID}", waited_s=5.0)

    assert str(error) == "task default:t1 has not ended within 5.0 s: running on box-2 for 4.2 s, attempt 1 of 4"
    assert (error.state, error.worker, error.ran_for) == ("running", WORKER, 4.2)
