"""What a history is made of: plain values, and nothing that was read from the queue's own books but at the very end.

    Line       what a task's own code wrote of itself            execution log
    Submitted  what a client sent, and the answer that it got    client
    Stopped    what a client wanted ended, and the answer        client
    Ended      an outcome, as a future gave it or as it is kept  client
    Fault      what was done to which process, from when to when faults
    Event      what a worker told people                         the workers' logs
    Quiet      what the server holds when nothing is left to do  the server

All instants are of one clock, in seconds: CLOCK_BOOTTIME on one host, the virtual clock in a simulation.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

What = Literal["start", "progress", "end"]
How = Literal["", "returned", "raised", "asked", "dies"]
Answer = Literal["accepted", "refused", "unknown"]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the execution log. `worker` is whatever names the worker: on one host its pid."""

    what: What
    id: str
    attempt: int
    fence: int
    pid: int
    worker: str
    at: float
    how: How = ""  # of an end: it returned, raised, saw that it was asked, or is about to kill its own child
    value: str = ""  # what it returned, or the text of what it raised

    def __str__(self) -> str:
        end = f" {self.how} {self.value}" if self.how else ""
        return (
            f"{self.at:.4f} {self.what} {self.id} attempt {self.attempt} fence {self.fence} "
            f"in {self.pid} of {self.worker}{end}"
        )


@dataclass(frozen=True, slots=True)
class Submitted:
    """One try to submit a task, and what its options allow."""

    id: str
    asked: float
    answered: float
    answer: Answer
    retries: int = 0
    timeout_s: float | None = None
    pool: str = "process"
    key: str = ""  # tasks of one key share the limit that the history has for it
    kind: str = ""
    deadline_s: float | None = None
    max_crashes: int = 3
    once: bool = False  # it may start only once

    def __str__(self) -> str:
        return f"{self.asked:.4f} submit {self.id} {self.kind}: {self.answer} at {self.answered:.4f}"


@dataclass(frozen=True, slots=True)
class Stopped:
    """One cancel or stop. `answer` is `cancelled` when the server said that the task will never run."""

    id: str
    verb: Literal["cancel", "stop"]
    asked: float
    answered: float
    answer: str

    def __str__(self) -> str:
        return f"{self.asked:.4f} {self.verb} {self.id}: {self.answer} at {self.answered:.4f}"


@dataclass(frozen=True, slots=True)
class Ended:
    """An outcome. `at` is when it was known to the reader: it was recorded then, or before."""

    id: str
    state: str
    how: str
    attempt: int
    at: float
    fence: int | None = None  # None: an outcome that the task's own code did not get to make
    value: str | None = None
    worker: str = ""
    source: Literal["future", "server"] = "future"
    may_run: bool = False  # it says that its code ran on, or may have

    def __str__(self) -> str:
        made = "" if self.fence is None else f" fence {self.fence}"
        return f"{self.at:.4f} {self.source} says {self.id} {self.state} ({self.how}) attempt {self.attempt}{made}"


@dataclass(frozen=True, slots=True)
class Fault:
    """What was done, to whom. `kind` is one of `COSTS` in explain.py; `until` is when it was over."""

    kind: str
    at: float
    until: float
    pid: int = 0  # of a child
    worker: str = ""  # of a worker, or of what is below it
    step_s: float = 0.0  # of a step of the server's clock: forward, or back where it is negative

    def __str__(self) -> str:
        target = f" {self.pid}" if self.pid else ""
        return f"{self.at:.4f} fault: {self.kind}{target}{' of ' + self.worker if self.worker else ''}"


# Of the events that workers log, those that a rule asks for.
TOLD = (
    "worker.died", "tasks.rescued", "task.lost_child", "forkserver.died", "outcome.refused", "claim.lost",
    "worker.unsettled",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """What a worker told: an event of its log, one of TOLD."""

    name: str
    worker: str
    task: str = ""
    count: int = 1

    def __str__(self) -> str:
        return f"event {self.name} of {self.worker} {self.task} {self.count}"


@dataclass(frozen=True, slots=True)
class Quiet:
    """What the server holds once nothing is left to do: the only place where the queue's own books are looked at."""

    live: Mapping[str, int] = field(default_factory=dict)  # state -> how many
    counters: Mapping[str, int] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()  # ids whose outcome is kept
    others: tuple[str, ...] = ()  # keys that are neither permanent nor an outcome


@dataclass(frozen=True, slots=True)
class History:
    """Everything that is known of one run."""

    lines: tuple[Line, ...] = ()
    submitted: tuple[Submitted, ...] = ()
    stopped: tuple[Stopped, ...] = ()
    ended: tuple[Ended, ...] = ()
    faults: tuple[Fault, ...] = ()
    events: tuple[Event, ...] = ()
    quiet: Quiet | None = None  # None: it was not looked at, and C8 says nothing
    limits: Mapping[str, int] = field(default_factory=dict)  # key -> how many of it may run at once
    lease_s: float = 12.0
    note: str = ""  # the seed, or the command that makes it again


_KINDS: Mapping[str, type] = {
    "lines": Line,
    "submitted": Submitted,
    "stopped": Stopped,
    "ended": Ended,
    "faults": Fault,
    "events": Event,
}


def save(history: History, path: Path) -> None:
    """Write a history as JSON lines, so that one that was bad can be kept as a test."""
    quiet = history.quiet and {**dataclasses.asdict(history.quiet), "kept": sorted(history.quiet.kept)}
    rest = {"limits": dict(history.limits), "lease_s": history.lease_s, "note": history.note, "quiet": quiet}
    with path.open("w") as file:
        for kind in _KINDS:
            for record in getattr(history, kind):
                file.write(json.dumps({"": kind, **dataclasses.asdict(record)}) + "\n")
        file.write(json.dumps({"": "rest", **rest}) + "\n")


def load(path: Path) -> History:
    """Read what `save` wrote."""
    found: dict[str, list[Any]] = {kind: [] for kind in _KINDS}
    rest: dict[str, Any] = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        kind = record.pop("")
        if kind == "rest":
            rest = record
        else:
            found[kind].append(_KINDS[kind](**record))
    if (quiet := rest.pop("quiet", None)) is not None:
        quiet = Quiet(quiet["live"], quiet["counters"], frozenset(quiet["kept"]), tuple(quiet["others"]))
    return History(**{kind: tuple(records) for kind, records in found.items()}, quiet=quiet, **rest)
