"""Turn an outcome into what `result()` returns or raises, in the thread that asks for it.

Outcome ─► value_of ─► the value            succeeded
        └► error_of ─► the exception        anything else, or a value that is not kept or cannot be read
"""

from __future__ import annotations

from typing import Any

from . import codec, durations, sightings
from .errors import (
    DecodeError,
    ResultExpired,
    Retry,
    TaskCancelled,
    TaskCrashed,
    TaskError,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
    TaskTimedOut,
)
from .lifecycle import How, State
from .log import escape
from .model import Outcome
from .status import MAY_RUN, RAN_ON, host_of

__all__ = ["error_of", "not_found", "result_expired", "value_of"]

_CLASSES: dict[State, type[TaskError]] = {
    State.TIMED_OUT: TaskTimedOut,
    State.CANCELLED: TaskCancelled,
    State.CRASHED: TaskCrashed,
    State.EXPIRED: TaskExpired,
}
_WORDS: dict[State, str] = {
    State.TIMED_OUT: "ran out of its time",
    State.CANCELLED: "was cancelled",
    State.CRASHED: "crashed",
    State.EXPIRED: "did not end before its deadline",
}
_WORDS_UNSTARTED: dict[State, str] = {
    State.TIMED_OUT: "ran out of its time before it started",
    State.CANCELLED: "was cancelled before it was started",
    State.CRASHED: "crashed its workers before it started",
    State.EXPIRED: "was not started before its deadline",
}
_NOT_BY_ITSELF = frozenset({How.KILLED, How.LEFT_RUNNING})
_HOW: dict[How, str] = {
    How.RETURNED: "it returned",
    How.RAISED: "it raised",
    How.NOTICED: "it ended by itself after it was asked to",
    How.INTERRUPTED: "it was interrupted",
    How.KILLED: "its process was killed",
    How.LEFT_RUNNING: "it did not end when asked to",
    How.NEVER_STARTED: "it never started",
    How.HOST_DIED: "the process that ran it died",
}


def value_of(outcome: Outcome, *, shown: str) -> Any:
    """Return the value of a task that succeeded, or raise what stands in its place."""
    error = error_of(outcome, shown=shown)
    if error is not None:
        raise error
    assert outcome.value is not None
    return codec.unpack_value(outcome.value)


def error_of(outcome: Outcome, *, shown: str) -> Exception | None:
    """Return the exception that stands for this outcome, None for a value. `shown` is the task's id and name."""
    if outcome.state is State.SUCCEEDED:
        if outcome.value is not None:
            return None
        return ResultExpired(f"{shown} succeeded, but its value was not kept (result_ttl=0)", id=outcome.id)
    cause = _remote(outcome)
    if outcome.state is State.FAILED:
        if cause is not None:
            return _not_retried(cause, outcome) if type(cause) is Retry else cause
        if outcome.tombstone:
            return ResultExpired(f"{shown} failed, but its exception was not kept (result_ttl=0)", id=outcome.id)
        return TaskFailed(f"{shown} failed: {outcome.reason or 'no reason was recorded'}", id=outcome.id)
    error = _CLASSES[outcome.state](_sentence(outcome, shown), id=outcome.id)
    error.__cause__ = cause
    if outcome.state is not State.CANCELLED or outcome.how in _NOT_BY_ITSELF:
        # "Where was it stuck". One that was stopped and went was not.
        for paragraph in sightings.told(outcome.flight):
            error.add_note("\n".join(map(escape, paragraph.split("\n"))))
    return error


def not_found(id: str, *, shown: str) -> TaskNotFound:  # noqa: A002 - the public word
    """Return the error for an id that the server does not know and that was not submitted here."""
    return TaskNotFound(
        f"{shown} is not known on this server: it never was, or it ended longer ago than its result_ttl", id=id
    )


def result_expired(id: str, *, shown: str) -> ResultExpired:  # noqa: A002 - the public word
    """Return the error for a task that was submitted here and of which the server knows nothing any more."""
    return ResultExpired(
        f"{shown} was queued, and the server knows nothing of it any more: it ended longer ago than its result_ttl, "
        "or the server lost its data",
        id=id,
    )


def _not_retried(error: Retry, outcome: Outcome) -> Retry:
    """Return a Retry that came to nothing, with why it did."""
    why = "it may not be run again: retries=0, or delivery is at_most_once"
    if outcome.reason:
        why = outcome.reason
    elif outcome.attempt > 1:
        why = f"its retries are used: this was attempt {outcome.attempt}"
    said = Retry(f"{error}, but {why}", delay=error.delay)
    said.__cause__ = error.__cause__
    for note in getattr(error, "__notes__", ()):
        said.add_note(note)
    return said


def _remote(outcome: Outcome) -> Exception | None:
    if outcome.error is None:
        return None
    try:
        return codec.rebuild_error(codec.unpack_error(outcome.error), id=outcome.id)
    except DecodeError as error:
        return TaskFailed(f"task {outcome.id} raised something that cannot be read here: {error}", id=outcome.id)


def _sentence(outcome: Outcome, shown: str) -> str:
    reason = f" ({outcome.reason})" if outcome.reason else ""
    silent = f"; {MAY_RUN}" if outcome.adrift else ""
    if outcome.how is How.NEVER_STARTED:
        return f"{shown} {_WORDS_UNSTARTED[outcome.state]}{reason}{silent}"
    where = f" on {host_of(outcome.worker)}" if outcome.worker else ""
    after = "" if outcome.ran_s is None else f" after {durations.text(outcome.ran_s)}"
    if outcome.still_running:
        end = f", and {RAN_ON}"
    else:
        end = "" if outcome.took_s is None else f", {durations.text(outcome.took_s)} after it was asked"
    if outcome.shielded_s is not None:
        end += f" (force waited {durations.text(outcome.shielded_s)} for its shield)"
    return f"{shown} {_WORDS[outcome.state]}{where}{after}{reason}: {_HOW[outcome.how]}{end}{silent}"
