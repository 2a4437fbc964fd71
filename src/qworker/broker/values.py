"""What goes into the broker's verbs and comes out of them, where model.py has no word for it yet.

Plain values; nothing here imports redis. Ids are local parts: the queue is always named beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..model import PoolNeed, Settled, StopOrder

WATCH = "watch"  # begins the message that is a WatchHint
WINDOW = b"window "  # and this the one that brings a window: see worker_calls.handed

# ok: queued now; same: the same task is already there, live; ended: the same task already has an outcome.
SubmitCode = Literal["ok", "same", "ended"]
# cancelled: it had not been handed out and never will be; requested: its worker is told to end it; held: a worker has
# it, and a cancel leaves it alone; ended: it has an outcome; unknown: no such task.
StopCode = Literal["cancelled", "requested", "held", "ended", "unknown"]
# waiting: it is queued or scheduled, and its deadline (if any) has not passed.
ExpireCode = Literal["expired", "waiting", "held", "ended", "unknown"]


class SubmitItem(NamedTuple):
    """One task to queue: its blob, and what remains until it is due and until its deadline (0: none)."""

    id: str
    blob: bytes
    delay_ms: int = 0
    deadline_ms: int = 0
    body: bytes = b""  # what follows in the blob: a large body, which nobody copies into it


class Submitted(NamedTuple):
    """The answer to a submit: one code per item, in order. `now_ms` is the server's time."""

    now_ms: int
    codes: tuple[SubmitCode, ...]


class Stand(NamedTuple):
    """A claim that an idle worker leaves standing, for a submit to fill; its id is 12 characters, as every claim's."""

    claim: str
    worker: str
    needs: tuple[PoolNeed, ...]
    lease_ms: int


class StartedTask(NamedTuple):
    """A task that a renewal marks as running: it started `ran_ms` ago. `once`: it must never be started again."""

    claim: str
    id: str
    ran_ms: int
    once: bool = False


class Note(NamedTuple):
    """What a task told of itself since the last renewal, which keeps it; empty: nothing of the kind."""

    claim: str
    id: str
    client: str  # 12 characters, as in the envelope: who is told of the progress
    cursor: bytes
    progress: bytes  # codec.pack_told


@dataclass(frozen=True, slots=True)
class SettleReply:
    """The answer to a settle: one code per item, in order, and the stops that wait for the claims it named."""

    codes: tuple[Settled, ...]
    stops: tuple[tuple[str, str, StopOrder], ...]  # (claim, id, order)


@dataclass(frozen=True, slots=True)
class StopAnswer:
    """What a stop or cancel met. `claim` and `worker` are set when it is held, `outcome` when it has one."""

    id: str
    code: StopCode
    claim: str = ""
    worker: str = ""
    outcome: bytes | None = None


@dataclass(frozen=True, slots=True)
class ExpireAnswer:
    """What an expire met; `outcome` is set when the task has one."""

    id: str
    code: ExpireCode
    outcome: bytes | None = None


@dataclass(frozen=True, slots=True)
class StopHint:
    """A stop, pushed to the worker that holds the task. Only a hint: renewals and settles carry the flag itself."""

    queue: str
    claim: str
    id: str
    order: StopOrder


@dataclass(frozen=True, slots=True)
class WatchHint:
    """Somebody watches a task: its worker is to tell what it prints, too, for some seconds. Only a hint, sent again."""

    queue: str
    id: str


@dataclass(frozen=True, slots=True)
class BellRing:
    """The doorbell of a queue rang for tasks of a pool need. Only a hint: whoever wakes claims."""

    queue: str
    pool: PoolNeed


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What `doctor` and the start of a worker want to know of the server; None where it would not say."""

    software: str  # redis or valkey
    version: str
    now_ms: int
    latency_s: float
    eviction_policy: str | None = None
    max_memory: int | None = None
    used_memory: int | None = None
    append_only: bool | None = None
    snapshots: str | None = None  # the `save` setting; empty: none
    cluster: bool | None = None
    role: str | None = None  # master or replica
    withheld: tuple[str, ...] = ()  # the commands that the server refused to answer


class ServerMemory(NamedTuple):
    """How full a server is, in bytes as it counts them; and what it does then."""

    used: int
    limit: int  # 0: none
    policy: str

    @property
    def is_full(self) -> bool:
        """Whether it refuses what needs memory."""
        return 0 < self.limit < self.used

    @property
    def deletes_tasks(self) -> bool:
        """Whether it may delete queued tasks when it is full."""
        return self.policy.startswith("allkeys-")
