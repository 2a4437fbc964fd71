"""What the flight recorder saw, in words."""

from __future__ import annotations

import pytest

from qworker import TaskCancelled, TaskTimedOut
from qworker.lifecycle import How, State
from qworker.model import Outcome, Sighting
from qworker.sightings import place, told
from qworker.verdict import error_of

INNER = '  File "/app/deep.py", line 7 in inner'
STACK = f'{INNER}\n  File "/app/deep.py", line 3 in outer'


def test_a_sighting_tells_stack_progress_and_last_lines():
    seen = Sighting("asked", 5.0, STACK, (3.0, 10.0, "third"), ("one", "two"))

    [paragraph] = told([seen])
    assert paragraph.split("\n") == [
        "where it was when it was asked to end, after 5.0 s, innermost call first:",
        *STACK.split("\n"),
        "  progress: 3 of 10, third",
        "  the last that it printed or logged:",
        "    one",
        "    two",
    ]


def test_what_has_not_changed_is_not_told_twice():
    asked = Sighting("asked", 5.0, STACK, (3.0, None, ""), ("one",))
    forced = asked._replace(why="forced", ran_s=9.98)

    assert told([asked, forced])[1] == "where it was shortly before it was ended by force, after 10 s:\n  still there"


def test_what_has_changed_is_told():
    asked = Sighting("asked", 5.0, STACK, (3.0, None, ""), ("one",))
    forced = Sighting("forced", 9.98, INNER, (4.0, None, ""), ("two",))

    assert told([asked, forced])[1].split("\n")[1:] == [
        INNER,
        "  progress: 4",
        "  the last that it printed or logged:",
        "    two",
    ]


def test_a_stack_that_could_not_be_taken_is_said():
    assert told([Sighting("asked", 0.5, "")]) == [
        "where it was when it was asked to end, after 0.5 s:\n  (its stack could not be taken)"
    ]


def test_the_place_is_the_innermost_frame_that_was_seen_last():
    seen = [Sighting("asked", 5.0, STACK), Sighting("forced", 9.0, "")]

    assert place(seen) == "/app/deep.py:7 in inner"
    assert place([]) == place(seen[1:]) == ""


def an_outcome(state: State, how: How, *lines: str) -> Outcome:
    return Outcome("q:1", state, how, flight=(Sighting("asked", 1.0, STACK, None, lines),))


@pytest.mark.parametrize(
    ("state", "how", "kind"),
    [
        (State.TIMED_OUT, How.NOTICED, TaskTimedOut),
        (State.TIMED_OUT, How.KILLED, TaskTimedOut),
        (State.CANCELLED, How.KILLED, TaskCancelled),
        (State.CANCELLED, How.LEFT_RUNNING, TaskCancelled),
    ],
)
def test_the_error_of_a_task_that_was_stuck_says_where(state, how, kind):
    error = error_of(an_outcome(state, how), shown="task q:1")

    assert isinstance(error, kind)
    assert error.__notes__ == [f"where it was when it was asked to end, after 1.0 s, innermost call first:\n{STACK}"]


def test_the_error_of_a_task_that_was_stopped_and_went_has_no_such_note():
    error = error_of(an_outcome(State.CANCELLED, How.NOTICED), shown="task q:1")

    assert not hasattr(error, "__notes__")


def test_what_a_task_printed_cannot_rule_the_terminal_that_shows_its_error():
    error = error_of(an_outcome(State.TIMED_OUT, How.KILLED, "\x1b[2J"), shown="task q:1")

    assert error is not None
    assert error.__notes__[0].endswith("    \\x1b[2J")
