"""What is seen by those who ask: of a task, a queue, a worker, a group, a stop.

    inspect, stats, workers, show_group ─► Inspection, QueueStats, WorkerRecord, GroupView ─► `status()`, the CLI
    peek ─► Peeked ─► a client that waits      close_group ─► Closed ─► the block of a group
    stop ─► StopReceipt ─► who stopped

What tasks themselves travel in, from producer to slot and back, is in model.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .lifecycle import How, State
from .model import Record


@dataclass(frozen=True, slots=True)
class Peeked:
    """What is known of an id: its outcome, or that it lives, or nothing."""

    id: str
    outcome: bytes | None = None
    alive: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """Everything that Redis knows of one task, for `status()`, WaitTimeout and `qworker show`."""

    id: str
    state: State | None  # None: unknown
    record: Record | None = None
    blob: bytes | None = None
    outcome: bytes | None = None
    before: int | None = None  # queued: about so many before it; None: not known
    due_ms: int | None = None
    worker: str = ""
    lease_ms: int | None = None  # server time at which the claim's lease ends
    now_ms: int = 0
    workers: int | None = None  # workers that serve its queue; None: it does not wait for one, so they are not counted
    strangers: frozenset[str] = frozenset()  # names of tasks that each of these has seen, and none of them knows
    pools: frozenset[str] = frozenset()  # the kinds of slots that these have
    progress: bytes | None = None  # what it told last of its progress (codec.unpack_told)


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What `qworker status` shows of a queue. Counts are exact; ready per line may include cancelled entries."""

    queue: str
    ready: int
    claimed: int
    scheduled: int
    suspects: int
    oldest_wait_s: float | None
    lines: Mapping[str, int]
    counters: Mapping[str, int]  # submitted, claimed, succeeded, failed, …, refused_late, rescued
    now_ms: int = 0


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """What a worker tells of itself every few seconds, and what `qworker status` and `dessert` show of it."""

    id: str
    host: str
    pid: int
    boot_id: str  # with pid namespace and start time: is that very process still there?
    pid_ns: str
    start_time: int
    queues: tuple[str, ...]
    state: str  # running, quiet, draining
    started_ms: int
    slots: Mapping[str, int]  # pool kind -> slots
    running: tuple[Mapping[str, Any], ...] = ()  # id, name, child, slot, ran_s, asked
    survivors: tuple[Mapping[str, Any], ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)  # task names nobody here knows -> how often seen
    counters: Mapping[str, int] = field(default_factory=dict)
    beat_ms: int = 0
    lent: Mapping[str, int] = field(default_factory=dict)  # pool kind -> tasks in places that waiting tasks lend


@dataclass(frozen=True, slots=True)
class GroupView:
    """Everything that Redis knows of one task group, and a part of its members."""

    id: str
    state: str  # open, detached, late (its owner has not been heard for its lease), stopped, closed; empty: not known
    name: str = ""
    owner: str = ""  # the full id of the task that opened it, or the process
    on_loss: str = ""  # what becomes of it when its owner is gone: cancel or detach
    path: tuple[str, ...] = ()  # the groups above it, the outermost first
    reason: str = ""  # why it was stopped
    opened_ms: int = 0
    deadline_ms: int | None = None
    stopped_ms: int | None = None
    closed_ms: int | None = None
    survivors: tuple[str, ...] = ()  # tasks whose code ran on when its block was left
    count: int = 0  # of all members
    members: tuple[str, ...] = ()  # full ids of tasks, and ids of groups, which have no colon
    now_ms: int = 0


class Closed(NamedTuple):
    """What the close of a group met."""

    state: str  # before it; `more`: it has other members, and nothing was done; empty: it is not known
    reason: str = ""  # why it was stopped
    size: int = 0  # how many members it has
    above: str = ""  # the outermost group above it that was stopped


@dataclass(frozen=True, slots=True)
class StopReceipt:
    """What a stop did, told truthfully.

    `outcome` is the task's outcome, or None while there is none (or none is known); `how` the way it came;
    `still_running` is True while its code runs on, False when it does not, None when nobody can tell;
    `took` the seconds from the request to the answer. Truthy exactly when the code is known not to run.
    """

    id: str
    outcome: State | None
    how: How | None
    still_running: bool | None
    took: float
    state: State | None = None  # the live state, when there is no outcome yet; None and no outcome: unknown id
    note: str = ""

    def __bool__(self) -> bool:
        return self.still_running is False
