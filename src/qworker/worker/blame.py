"""What becomes of a task: pure decisions over what Redis knew of it and what the pool saw.

    claimed ──► on_claim  ──► None (run it) | Verdict (bury it unrun)
    ended   ──► on_ending ──► Verdict

A Verdict is either an outcome to record, or a way back into the queue. Nothing here waits, draws a clock or speaks to
Redis; randomness for jitter is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from ..durations import text
from ..lifecycle import How, State
from ..model import Ending, Header, Reason, Record

MAX_DELIVERIES = 20  # in a row, without a sign of it (a release, a retry, a loss begins anew): it kills who takes it
MAX_BACKOFF_MS = 600_000

Back = Literal["release", "again", "lose"]


class Verdict(NamedTuple):
    """Record `outcome` (with `how`, `reason`), or send the task back. Exactly one of the two is set."""

    outcome: State | None = None
    how: How | None = None
    reason: str = ""
    back: Back | None = None
    delay_ms: int = 0
    exact: bool = False

    @property
    def final(self) -> bool:
        """Whether this ends the run."""
        return self.outcome is not None


RELEASE = Verdict(back="release")
SUCCESS = Verdict(State.SUCCEEDED, How.RETURNED)


def on_claim(record: Record, header: Header, *, remaining_ms: int | None) -> Verdict | None:
    """Decide whether a task that was just handed out must be buried unrun; None lets it run."""
    if record.stop is not None:
        return Verdict(State.CANCELLED, How.NEVER_STARTED, "stopped before it started again")
    if record.once:
        reason = "its worker died when it may have started, and delivery is at_most_once"
        return Verdict(State.CRASHED, How.HOST_DIED, reason)
    if record.losses >= header.max_crashes and record.exact:
        return Verdict(State.CRASHED, How.HOST_DIED, f"what ran it died {record.losses} times")
    if record.deliveries > MAX_DELIVERIES:
        return Verdict(
            State.CRASHED, How.NEVER_STARTED, f"undeliverable: handed out {record.deliveries} times, never started"
        )
    if remaining_ms is not None and remaining_ms <= 0:
        return Verdict(State.EXPIRED, How.NEVER_STARTED, "its deadline passed before it started")
    return None


def on_ending(
    ending: Ending, record: Record, header: Header, *, remaining_ms: int | None, jitter: Callable[[], float]
) -> Verdict:
    """Decide what becomes of a task that a pool has finished with.

    `remaining_ms` is what is left of its deadline (None: it has none); `jitter` returns a number in [0, 1).
    """
    kind, asked = ending.kind, ending.asked
    if kind == "returned":
        return SUCCESS
    if kind == "unstarted":
        if remaining_ms is not None and remaining_ms <= 0:
            return Verdict(State.EXPIRED, How.NEVER_STARTED, "its deadline passed before it started")
        return RELEASE
    if kind == "refused":
        return Verdict(State.FAILED, How.RAISED, ending.detail)
    if kind == "host_died" and header.delivery == "at_least_once":
        return RELEASE
    if kind in ("child_died", "host_died"):
        return _on_death(ending, record, header)
    if asked is not None:
        return _on_asked(ending, asked, record, header, remaining_ms, jitter)
    if kind == "killed":
        # Killed without having been asked: its worker ended in disorder.
        return _on_asked(ending, "drain", record, header, remaining_ms, jitter)
    # Nobody asked: it raised (an interrupt of its own making counts as any other exception).
    if kind == "retry":
        delay_ms = _backoff_ms(record, header, jitter) if ending.delay_s is None else max(0, int(ending.delay_s * 1000))
        return _retry_or(Verdict(State.FAILED, How.RAISED), record, header, remaining_ms, delay_ms)
    failed = Verdict(State.FAILED, How.RAISED)
    if not ending.retryable:
        return failed
    return _retry_or(failed, record, header, remaining_ms, _backoff_ms(record, header, jitter))


def _on_death(ending: Ending, record: Record, header: Header) -> Verdict:
    reason = f"its child died ({ending.detail})" if ending.detail else "its child died"
    if ending.asked == "stop":
        return Verdict(State.CANCELLED, How.HOST_DIED, f"asked to stop, then {reason}")
    if header.delivery == "at_most_once":
        return Verdict(State.CRASHED, How.HOST_DIED, f"{reason}, and delivery is at_most_once")
    losses = record.losses + 1
    if ending.exact and losses >= header.max_crashes:
        return Verdict(State.CRASHED, How.HOST_DIED, f"{reason}, {losses} {'time' if losses == 1 else 'times'} in all")
    return Verdict(back="lose", reason=reason, exact=ending.exact)


_HOW_OF_ENDING = {
    "raised": How.NOTICED,
    "retry": How.NOTICED,
    "interrupted": How.NOTICED,
    "thrown": How.INTERRUPTED,
    "killed": How.KILLED,
    "left_running": How.LEFT_RUNNING,
}


def how_of(ending: Ending | None) -> How:
    """In which way an attempt ended whose way back a stop has closed: it is recorded as cancelled instead."""
    if ending is None or ending.kind == "unstarted":
        return How.NEVER_STARTED
    return _HOW_OF_ENDING.get(ending.kind, How.HOST_DIED)


def _on_asked(
    ending: Ending,
    asked: Reason,
    record: Record,
    header: Header,
    remaining_ms: int | None,
    jitter: Callable[[], float],
) -> Verdict:
    how = _HOW_OF_ENDING[ending.kind]
    if asked == "stop":
        return Verdict(State.CANCELLED, how, "stopped while it ran")
    if asked == "timeout":
        limit = "" if header.timeout_ms is None else f"timeout {text(header.timeout_ms / 1000)}"
        timed_out = Verdict(State.TIMED_OUT, how, limit)
        return _retry_or(timed_out, record, header, remaining_ms, _backoff_ms(record, header, jitter))
    if asked == "deadline":
        return Verdict(State.EXPIRED, how, "its deadline passed while it ran")
    # drain, recycle, fenced: the worker's doing, not the task's. It goes back uncharged, unless it may start only once.
    if header.delivery == "at_most_once":
        return Verdict(State.CRASHED, how, f"interrupted by a {asked} of its worker, and delivery is at_most_once")
    return RELEASE


def _retry_or(final: Verdict, record: Record, header: Header, remaining_ms: int | None, delay_ms: int) -> Verdict:
    """Return a retry if the task has one left and it fits into its deadline, else `final`."""
    failures = record.attempt - 1 - record.losses
    if failures >= header.retries or header.delivery == "at_most_once":
        return final
    if remaining_ms is not None and delay_ms >= remaining_ms:
        return Verdict(final.outcome, final.how, "; ".join(filter(None, (final.reason, "no time left for a retry"))))
    return Verdict(back="again", delay_ms=delay_ms, how=final.how, reason=final.reason)


def _backoff_ms(record: Record, header: Header, jitter: Callable[[], float]) -> int:
    """Exponential back-off from the failures so far; with jitter between half of it and all of it."""
    failures = max(0, record.attempt - 1 - record.losses)
    delay = min(header.backoff_ms * (1 << min(failures, 30)), MAX_BACKOFF_MS)
    return int(delay * (0.5 + jitter() / 2)) if header.jitter else delay
