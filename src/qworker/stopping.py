"""What `Future.stop` does, and the receipt that it writes: each says what is known, and None where nobody can tell.

stop ─► asked ─┬─ had not been handed out ─► cancelled here and now, it never starts
               ├─ has an outcome ──────────► it ended by itself first
               ├─ held by a worker ────────► wait for its outcome ─► how it ended, or what it is still doing
               └─ unknown
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from . import codec, durations, lending
from .errors import BrokerError, TaskNotFound, WaitTimeout
from .lifecycle import How, State
from .status import MAY_RUN, Status, describe, host_of, stopped_late
from .views import StopReceipt

if TYPE_CHECKING:
    from .future import Future
    from .model import Outcome
    from .options import Duration

__all__ = ["Answer", "never_started", "receipt_of", "stop", "stop_all", "stop_late"]

# A round may end with the task back in its line, where the next one cancels it at once, unless a worker is faster.
_ROUNDS = 3
_WAIT_S = 2.0  # of a waiter whose time is up


class Stopper(Protocol):
    """What stops many at once; `broker.owned.OwnedGroups` does."""

    def stop(self, group: str, *, grace_ms: int | None, reason: str) -> str: ...
    def sweep(self, tasks: Iterable[str], *, force: bool, grace_ms: int | None) -> None: ...


class Asked(Protocol):
    """What `stop_all` needs of an app."""

    def groups(self) -> Stopper: ...
    def future(self, id: str, /) -> Future[Any]: ...  # noqa: A002 - the public word


class Answer(Protocol):
    """What a stop or cancel met: cancelled, requested, held, ended or unknown."""

    @property
    def code(self) -> str: ...
    @property
    def worker(self) -> str: ...
    @property
    def outcome(self) -> bytes | None: ...


_HOW_NOTE: dict[How, str] = {
    How.NEVER_STARTED: "cancelled while it was queued: it will not start",
    How.RETURNED: "it ended by itself when it was asked to",
    How.RAISED: "it ended by itself when it was asked to",
    How.NOTICED: "it ended by itself when it was asked to",
    How.INTERRUPTED: "it was interrupted",
    How.KILLED: "its process was killed",
    How.LEFT_RUNNING: "it did not end when asked to, and its slot was given up",
    How.HOST_DIED: "the process that ran it died",
}


def never_started(outcome: Outcome) -> bool:
    """Whether the task was cancelled and its code never ran, nor may an earlier start of it."""
    return outcome.state is State.CANCELLED and outcome.how is How.NEVER_STARTED and not outcome.adrift


def stop(future: Future[Any], wait: Duration, grace: Duration | None) -> StopReceipt:
    """End the task of a future and return the receipt; see `Future.stop`."""
    began = time.monotonic()
    ends = began + durations.seconds(wait)
    grace_ms = None if grace is None else durations.milliseconds(grace)
    if future.outcome is not None:
        return _ended(future, future.outcome, began, asked=False)

    status: Status | None = None
    for _ in range(_ROUNDS):
        answer = future.client().stop(future.id, cancel_only=False, grace_ms=grace_ms)
        if answer.outcome is not None:
            outcome = codec.unpack_outcome(answer.outcome)
            future.learn(outcome)
            return _ended(future, outcome, began, asked=answer.code == "cancelled")
        if answer.code == "unknown":
            return _receipt(future, began, still_running=None, note="no task of this id is known on this server")
        with lending.unbroken():  # a task that was asked to end stops what it submitted, and wants to know
            ended = future.wait(max(0.0, ends - time.monotonic()))
        if ended and future.outcome is not None:
            return _ended(future, future.outcome, began, asked=True)
        try:
            inspection = future.client().inspect(future.id, timeout_s=1.0)
        except BrokerError as error:
            return _receipt(
                future, began, still_running=None, note=f"the stop is recorded, but the server is gone since: {error}"
            )
        if inspection.outcome is not None:
            outcome = codec.unpack_outcome(inspection.outcome)
            future.learn(outcome)
            return _ended(future, outcome, began, asked=True)
        status = describe(future.id, inspection)
        if status.state not in (State.QUEUED, State.SCHEDULED):
            break
    assert status is not None
    return _not_ended(future, status, began)


def stop_late(future: Future[Any], late: WaitTimeout) -> WaitTimeout:
    """Stop the task of a waiter whose time is up, and return the error that tells both; see `Future.result`."""
    try:
        return stopped_late(late, stop(future, _WAIT_S, None))
    except BrokerError as error:
        return stopped_late(late, None, trouble=str(error))


def stop_all(
    app: Asked, tasks: Sequence[str | Future[Any]], group: str | None, wait: Duration, grace: Duration | None
) -> list[StopReceipt]:
    """Stop tasks, or a group; see `App.stop`."""
    grace_ms = None if grace is None else durations.milliseconds(grace)
    if group is None:
        ends = time.monotonic() + durations.seconds(wait)
        futures = [app.future(task) if isinstance(task, str) else task for task in tasks]
        if len(futures) > 1:
            # All are asked before the first is waited for.
            app.groups().sweep([future.id for future in futures], force=True, grace_ms=grace_ms)
        return [stop(future, max(0.0, ends - time.monotonic()), grace) for future in futures]
    if tasks:
        raise TypeError("stop() was given tasks and a group: give it one or the other")
    if not app.groups().stop(group, grace_ms=grace_ms, reason="from outside"):
        raise TaskNotFound(f"group {group} is not known on this server: it never was, or it ended long ago", id=group)
    return []


def receipt_of(future: Future[Any], status: Status | None, began: float, *, asked: bool) -> StopReceipt:
    """Return the receipt of a task in a group that was left: how it ended, or where it is out of reach.

    Nothing is asked here: of one that was not waited for to its end it says only that.
    """
    if future.outcome is not None:
        return _ended(future, future.outcome, began, asked=asked)
    if status is not None:
        return _not_ended(future, status, began)
    if not future.done():
        note = "the wait for it was interrupted: whether its code runs is not known; status() asks what it is doing"
        return _receipt(future, began, still_running=None, note=note)
    return _receipt(future, began, still_running=None, note="nothing is known of it on this server any more")


def _ended(future: Future[Any], outcome: Outcome, began: float, *, asked: bool) -> StopReceipt:
    still_running: bool | None = outcome.still_running
    if outcome.state is State.CANCELLED:
        note = _HOW_NOTE[outcome.how]
    else:
        note = f"it {'ended by itself first' if asked else 'had ended before'}: {outcome.state.replace('_', ' ')}"
    if outcome.still_running and not asked:
        # The outcome says what was true when it was recorded; only its worker knows whether it still is.
        still_running = _survives(future, outcome)
    if still_running:
        note += "; its code is still running"
    elif still_running is None:
        note += f"; whether its code still runs is not known: {host_of(outcome.worker)} does not answer"
    elif outcome.adrift:
        still_running = None
        note += f"; {MAY_RUN}"
    return _receipt(future, began, still_running=still_running, note=note, outcome=outcome)


def _not_ended(future: Future[Any], status: Status, began: float) -> StopReceipt:
    silent = status.lease_left is not None and status.lease_left < 0
    still_running: bool | None
    if silent:
        still_running = None
        note = f"{host_of(status.worker)} cannot be reached: {status}"
    elif status.state is State.RUNNING:
        still_running, note = True, str(status)
    elif status.state is State.CLAIMED:
        # Handed out, and not long enough ago for its start to be recorded; its worker may tell.
        still_running, note = True if _is_shown_running(future, status.worker) else None, str(status)
    else:
        # Back in its line with the stop on it: whichever worker takes it next ends it unrun. Or it is gone.
        still_running = None if status.state is None or status.adrift else False
        note = f"{status}; it was asked to stop and will not start again" if status.state else str(status)
    return _receipt(future, began, still_running=still_running, note=note, state=status.state)


def _survives(future: Future[Any], outcome: Outcome) -> bool | None:
    record = future.client().worker(outcome.worker)
    if record is None:
        return None
    return record.beat_ms <= outcome.ended_ms or any(left.get("id") == future.id for left in record.survivors)


def _is_shown_running(future: Future[Any], worker: str) -> bool:
    record = future.client().worker(worker)
    return record is not None and any(task.get("id") == future.id for task in record.running)


def _receipt(
    future: Future[Any],
    began: float,
    *,
    still_running: bool | None,
    note: str,
    outcome: Outcome | None = None,
    state: State | None = None,
) -> StopReceipt:
    return StopReceipt(
        id=future.id,
        outcome=None if outcome is None else outcome.state,
        how=None if outcome is None else outcome.how,
        still_running=still_running,
        took=time.monotonic() - began,
        state=state,
        note=note,
    )
