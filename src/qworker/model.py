"""The values that travel between the layers: plain, immutable, without behaviour beyond their own shape.

    producer ── Envelope ──► broker ── Claimed, Window ──► worker ── Order ──► pool
                                                           worker ◄─ Ending ── pool
    producer ◄── Outcome ─── broker ◄── Settle… ────────── worker

What is made once per task is a NamedTuple: as frozen as a frozen dataclass, and made in a third of its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from .lifecycle import How, State

PoolKind = Literal["process", "thread", "async"]
PoolNeed = Literal["default", "process", "thread", "async"]
Priority = Literal["high", "normal", "low"]
Delivery = Literal["at_least_once", "at_most_once"]
# Why a task is asked to end. `fenced`: its worker lost the lease. `shutdown`: the second signal.
Reason = Literal["timeout", "deadline", "stop", "drain", "fenced", "recycle"]

POOL_NEEDS: tuple[PoolNeed, ...] = ("default", "process", "thread", "async")
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")


class Line(NamedTuple):
    """One ready list of a queue: the pool that its tasks need, and their priority."""

    pool: PoolNeed = "default"
    priority: Priority = "normal"

    @property
    def code(self) -> str:
        """The one letter that stands for this line in a stored task: `a` to `l`."""
        return _CODES[self]

    @classmethod
    def of(cls, code: str) -> Line:
        """Return the line that a letter stands for."""
        pool, priority = divmod(ord(code) - ord("a"), 3)
        return cls(POOL_NEEDS[pool], PRIORITIES[priority])


_CODES = {Line.of(code): code for code in "abcdefghijkl"}


@dataclass(frozen=True, slots=True)
class Header:
    """What a worker must know of a task without decoding its body. The same bytes for each task of the same kind."""

    name: str
    timeout_ms: int | None = 1_800_000
    grace_ms: int = 5_000
    retries: int = 0
    backoff_ms: int = 1_000
    jitter: bool = True
    retry_for: tuple[str, ...] | None = None  # class names as module.Name; None: any exception
    result_ttl_ms: int = 3_600_000
    delivery: Delivery = "at_least_once"
    max_crashes: int = 3
    extra: Mapping[str, Any] = field(default_factory=dict)  # see below; and room for a trace context
    # Of what is in `extra`, what is looked at for each task; the rest are properties.
    groups: tuple[str, ...] = field(init=False, repr=False, compare=False)  # that it belongs to, the outermost first
    depth: int = field(init=False, repr=False, compare=False)  # how many tasks are above it
    interrupt: bool = field(init=False, repr=False, compare=False)  # a TaskInterrupt may be raised into its code

    def __post_init__(self) -> None:
        fix = object.__setattr__
        fix(self, "groups", tuple(self.extra.get("g", ())))
        fix(self, "depth", int(self.extra.get("d", 0)))
        fix(self, "interrupt", bool(self.extra.get("i", False)))

    @property
    def parent(self) -> str:
        """The full id of the task that submitted it; empty: no task did."""
        return str(self.extra.get("p", ""))


@dataclass(frozen=True, slots=True)
class Envelope:
    """A task as it is stored: a prefix that scripts may compare, a header, and a body opaque to all but a child."""

    digest: bytes  # 8 bytes over header and body: same id and digest is the same task
    line: Line
    client: str  # 12 characters: whose inbox is told of the outcome; spaces: nobody's
    sent_ms: int  # the producer's estimate of the server's time; for display only
    header: Header
    body: bytes


class Draft(NamedTuple):
    """A task on its way to the server: checked and encoded, and nothing is sent yet."""

    queue: str
    local: str
    given: bool  # the caller chose the id, so it may have been used before
    name: str
    line: Line
    header: bytes  # packed
    body: bytes  # packed
    delay_ms: int = 0
    deadline_ms: int = 0
    core: bytes = b""  # the header without its place in a tree of tasks, if that differs: what the digest is made of
    groups: tuple[str, ...] = ()  # the groups that it is to join, the outermost first
    durable: bool = False  # its submit waits until it is on disk, or on a replica

    @property
    def kind(self) -> tuple[str, Line, bool, tuple[str, ...], bool]:
        """What tasks must have in common to travel in one call."""
        return self.queue, self.line, self.given, self.groups, self.durable


@dataclass(frozen=True, slots=True)
class Record:
    """What Redis keeps of a task beside its blob, once it was claimed, delayed or flagged."""

    state: State = State.QUEUED
    claim: str = ""
    run: int = 1
    attempt: int = 1  # the number of the attempt that runs or will run next
    deliveries: int = 0  # how often it was handed out since it was last heard of
    losses: int = 0
    exact: bool = False  # the last loss can be nobody else's fault
    started_ms: int = 0  # server time at which a recorded start happened; 0: none recorded
    deadline_ms: int = 0  # server time; 0: none
    stop: StopOrder | None = None
    once: bool = False  # at_most_once, and its start was recorded
    adrift: bool = False  # an earlier start of it may run still: its worker went silent, or could not end it


@dataclass(frozen=True, slots=True)
class StopOrder:
    """A durable request to end a claimed task: asked now, forced after `grace_ms` (None: the task's own grace)."""

    grace_ms: int | None = None


class Claimed(NamedTuple):
    """One task of a window, as it was handed out."""

    id: str  # the local part
    blob: bytes
    record: Record
    cursor: bytes | None = None  # where an earlier attempt's `current.iterate` had come to


class Rescued(NamedTuple):
    """What was put back of claims whose worker is gone: how many tasks, and claim and local id of the first 20."""

    tasks: int
    names: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """What one claim brought. `tasks` may hold some that must be buried unrun: the worker's blame decides."""

    queue: str
    claim: str
    fence: int
    now_ms: int
    epoch: str
    next_due_ms: int | None  # server time at which the next scheduled task is due, the first lease lapses, or see `cut`
    suspects: int  # how many tasks wait to be run alone in a worker
    rescued: int  # how many tasks of lapsed claims this call put back
    tasks: tuple[Claimed, ...]
    alone: bool = False  # one suspect, to be run with nothing else in the worker
    elsewhere: int = 0  # of a claim by id that brought nothing: how many of the ids are not queued
    rescued_names: tuple[tuple[str, str], ...] = ()  # as of Rescued

    @property
    def cut(self) -> bool:
        """Say whether the claim stopped at a limit: another one may bring more at once, though this brought none."""
        return self.next_due_ms is not None and self.next_due_ms <= self.now_ms


class End(NamedTuple):
    """Settle: record an outcome. `value` is the packed outcome (codec.pack_outcome)."""

    id: str
    claim: str
    state: State
    value: bytes
    ttl_ms: int
    client: str  # 12 characters, as in the envelope
    hint: bytes = b""  # pushed instead of `value` when that is too large to push
    rest: bytes = b""  # what follows `value` in the outcome: a large one's payload, which nobody copies


class Again(NamedTuple):
    """Settle: run it again after `delay_ms`, as attempt + 1. Refused as stopped when a stop waits."""

    id: str
    claim: str
    delay_ms: int
    cursor: bytes = b""  # where its `current.iterate` had come to; empty: what was kept of it stays
    runs_on: bool = False  # the code of this attempt could not be ended


class Release(NamedTuple):
    """Settle: give back what never started (or what a drain interrupted), to the front of its line, uncharged."""

    id: str
    claim: str
    cursor: bytes = b""  # as in Again


class Park(NamedTuple):
    """Settle: put aside for `delay_ms`, uncharged: this worker does not know the task's name."""

    id: str
    claim: str
    delay_ms: int


class Lose(NamedTuple):
    """Settle: it was there when its child died: loss + 1, attempt + 1, back to the front (or to the suspects)."""

    id: str
    claim: str
    exact: bool  # the child had one slot, or the task was alone: nobody else can be to blame
    cursor: bytes = b""  # as in Again


Settle = End | Again | Release | Park | Lose
# What the server answers to each settle: done; refused because the task is another claim's or gone; the same settle
# was already applied; or not applied because a stop is waiting (settle it as cancelled instead).
Settled = Literal["ok", "lost", "again", "stopped"]


@dataclass(frozen=True, slots=True)
class Renewal:
    """What one renewal brought: the claims that are no longer ours, and the stops that wait for tasks we hold."""

    now_ms: int
    epoch: str
    lost: tuple[str, ...]
    stops: tuple[tuple[str, str, StopOrder], ...]  # (claim, id, order)


class Progress(NamedTuple):
    """How far a task said that it is, by `current.progress`."""

    done: float
    total: float | None = None
    text: str = ""


class Told(NamedTuple):
    """What a running task told of itself, as its worker passes it on once a second."""

    id: str  # full id
    progress: Progress | None
    lines: tuple[str, ...] = ()  # the last that it printed or logged, while somebody watches it


class Sighting(NamedTuple):
    """What was seen of a running task from outside: the flight recorder's entry."""

    why: str  # "asked" or "forced"
    ran_s: float  # how long it had run
    stack: str  # of its thread or coroutine, innermost frame first; empty: it could not be taken
    progress: tuple[float, float | None, str] | None = None  # done, total, text
    lines: tuple[str, ...] = ()  # the last that it printed or logged


class Outcome(NamedTuple):
    """How a run of a task ended, as recorded. `value` is still packed: the caller's `result()` decodes it."""

    id: str
    state: State
    how: How
    run: int = 1
    attempt: int = 1
    claim: str = ""
    digest: bytes = b"\0" * 8
    worker: str = ""
    ended_ms: int = 0
    ran_s: float | None = None  # run time of the last attempt
    asked_after_s: float | None = None  # from its start to the ask, if it was asked to end
    took_s: float | None = None  # from the ask to the end
    still_running: bool = False  # its code ran on when this was recorded
    reason: str = ""  # one line for people: "timeout 1.0 s", "killed by signal 9"
    value: bytes | None = None  # succeeded: the packed value
    error: bytes | None = None  # else: the packed error, if there is one
    tombstone: bool = False  # the value is not kept
    shielded_s: float | None = None  # how long its end by force waited for `current.shield`
    flight: tuple[Sighting, ...] = ()  # where it was when it was asked to end, and when it was ended by force
    adrift: bool = False  # as in Record


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An exception on the wire: names and text, never a pickled object."""

    kind: str  # module.QualifiedName
    args: tuple[Any, ...] | None  # None: not encodable
    text: str  # str(exception)
    traceback: str
    notes: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()  # names of its base classes, for retry_for
    attributes: Mapping[str, Any] = field(default_factory=dict)  # those that can be encoded


class Order(NamedTuple):
    """What a pool is asked to run. `number` is drawn by the worker, ever growing: it names this attempt in the page.

    First what is each task's own, then what tasks of a kind in one window share; the first eleven go to the child.
    """

    number: int
    id: str  # full id, queue:local
    blob: bytes
    cursor: bytes | None = None  # where an earlier attempt's `current.iterate` had come to
    deadline_s: float | None = None  # what remained when it was claimed, counted from `handed`
    handed: float = 0.0  # `clock` at the claim
    run: int = 1
    attempt: int = 1
    fence: int = 0
    retries: int = 0
    timeout_s: float | None = None
    name: str = ""
    grace_s: float = 5.0
    alone: bool = False  # a suspect: it needs a child that nobody else is in
    interrupt: bool = False
    on_permit: bool = False  # its start is recorded before it happens: no slot has it before `Pool.permit`


EndingKind = Literal[
    "returned",  # payload: the packed value
    "raised",  # payload: the packed ErrorInfo
    "retry",  # raised Retry: payload: packed ErrorInfo, delay_s
    "interrupted",  # asked, and the TaskInterrupt of its own check came out; payload: packed ErrorInfo
    "thrown",  # asked, and what was thrown into it came out (asyncio's cancellation, interrupt=True); payload likewise
    "refused",  # the child could not run it: undecodable body, unknown name, unencodable value; payload: ErrorInfo
    "unstarted",  # given back: recalled, or its child died before it took the task's token
    "child_died",  # its child died while it ran; `signal` or `status` say how
    "host_died",  # the fork server died: nobody's fault
    "killed",  # the ladder's end: its process was killed at the end of its grace
    "left_running",  # the ladder's end in a thread or coroutine: the outcome is due, the code runs on
]


class Ending(NamedTuple):
    """What became of an order, as the pool saw it; the worker decides what to record."""

    number: int
    kind: EndingKind
    payload: bytes = b""
    ran_s: float | None = None
    asked: Reason | None = None  # why it had been asked to end, if it had
    asked_after_s: float | None = None
    took_s: float | None = None  # from the ask to this ending
    delay_s: float | None = None  # of a Retry
    retryable: bool = True  # the exception is one that retry_for names
    exact: bool = True  # child_died: it had one slot, so nobody else can be to blame
    detail: str = ""  # "signal 9", "exit status 1"
    shielded_s: float | None = None  # how long its force waited for `current.shield`
    flight: tuple[Sighting, ...] = ()


@dataclass(frozen=True, slots=True)
class Survivor:
    """Code that runs on after its outcome was recorded: "dessert"."""

    id: str
    name: str
    child: int  # pid
    slot: int
    outcome: State
    since_s: float  # seconds since its outcome was recorded
    ran_s: float  # seconds since it started
