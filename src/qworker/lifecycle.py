"""The states of a task, its outcomes, and every arrow between them: written here, once.

    scheduled ──► queued ──► claimed ──► running ──► one outcome
        ▲           ▲           │           │
        │           └─ release ─┤           │        release gives back what never started, uncharged
        │           └─ rescue ──┴───────────┤        rescue gives back what a dead worker held
        └────────────── retry ──────────────┘        retry waits for its backoff

Each Lua script names its transitions in its header; tests/meta compares them with `TRANSITIONS`.
"""

from __future__ import annotations

from enum import StrEnum
from types import MappingProxyType


class State(StrEnum):
    """Where a task is, or how it ended. The value is the word that users see."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    CLAIMED = "claimed"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    CRASHED = "crashed"
    EXPIRED = "expired"


class How(StrEnum):
    """In which way an outcome came about: the second half of the ledger."""

    RETURNED = "returned"
    RAISED = "raised"
    NOTICED = "noticed"  # it was asked to end and ended by itself, within its grace
    INTERRUPTED = "interrupted"  # asyncio's cancellation, or interrupt=True
    KILLED = "killed"  # its process was killed
    LEFT_RUNNING = "left_running"  # the outcome is recorded, the code runs on: a survivor
    NEVER_STARTED = "never_started"
    HOST_DIED = "host_died"  # what ran it died: its child, the fork server or the whole worker


LIVE = frozenset({State.SCHEDULED, State.QUEUED, State.CLAIMED, State.RUNNING})
HELD = frozenset({State.CLAIMED, State.RUNNING})
OUTCOMES = frozenset(State) - LIVE
# These keep their body in the dead set, so that `retry` can start run + 1.
KEPT_FOR_RETRY = frozenset({State.FAILED, State.TIMED_OUT, State.CRASHED, State.EXPIRED})

ARROWS: MappingProxyType[State, frozenset[State]] = MappingProxyType(
    {
        State.SCHEDULED: frozenset({State.QUEUED, State.CANCELLED, State.EXPIRED}),
        State.QUEUED: frozenset({State.CLAIMED, State.CANCELLED, State.EXPIRED}),
        State.CLAIMED: frozenset({State.RUNNING, State.QUEUED, State.SCHEDULED}) | OUTCOMES,
        # Rescue and loss bring a running task back to its line, a retry to the later set. What started is never
        # "released", except by a drain, which is a rescue that the worker does itself.
        State.RUNNING: frozenset({State.QUEUED, State.SCHEDULED}) | OUTCOMES,
    }
)

# transition -> (from, to); the names stand in the header of the script that makes it.
TRANSITIONS: MappingProxyType[str, tuple[frozenset[State], frozenset[State]]] = MappingProxyType(
    {
        "submit": (frozenset(), frozenset({State.QUEUED, State.SCHEDULED})),
        "due": (frozenset({State.SCHEDULED}), frozenset({State.QUEUED})),
        "claim": (frozenset({State.QUEUED}), frozenset({State.CLAIMED})),
        "start": (frozenset({State.CLAIMED}), frozenset({State.RUNNING})),
        "release": (HELD, frozenset({State.QUEUED})),
        "park": (frozenset({State.CLAIMED}), frozenset({State.SCHEDULED})),
        "rescue": (HELD, frozenset({State.QUEUED})),
        "lose": (HELD, frozenset({State.QUEUED})),
        "retry": (HELD, frozenset({State.SCHEDULED})),
        "end": (HELD, OUTCOMES),
        "cancel": (frozenset({State.SCHEDULED, State.QUEUED}), frozenset({State.CANCELLED})),
        "expire": (frozenset({State.SCHEDULED, State.QUEUED}), frozenset({State.EXPIRED})),
    }
)

# One letter each, for what is stored: short on the wire, and never shown.
CODES: MappingProxyType[State, str] = MappingProxyType(
    {
        State.SCHEDULED: "s",
        State.QUEUED: "q",
        State.CLAIMED: "c",
        State.RUNNING: "r",
        State.SUCCEEDED: "S",
        State.FAILED: "F",
        State.TIMED_OUT: "T",
        State.CANCELLED: "X",
        State.CRASHED: "K",
        State.EXPIRED: "E",
    }
)
STATE_OF: MappingProxyType[str, State] = MappingProxyType({code: state for state, code in CODES.items()})


def may(before: State, after: State) -> bool:
    """Say whether a task in state `before` may go to state `after`."""
    return after in ARROWS.get(before, frozenset())
