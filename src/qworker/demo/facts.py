"""What the demo saw, before anybody judges it: the values that go from the story to the ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..lifecycle import How, State
from ..model import Outcome
from .notes import Note

__all__ = ["Facts", "Forced", "Kill", "Rescue", "Seen", "Sums", "Survived"]


@dataclass(frozen=True, slots=True)
class Seen:
    """One task: what was to become of it, and what did. No outcome: none came."""

    id: str
    kind: str  # the name of its function
    expected: frozenset[tuple[State, How]]
    outcome: Outcome | None
    wrong: str = ""  # its value, its exception or its receipt is not what it should be


@dataclass(frozen=True, slots=True)
class Forced:
    """A task that had to be ended, and what was seen of its end."""

    what: str
    pool: str  # process, thread
    order: str  # its limit and its grace: "1 + 1 s", "stop + 0.5 s"
    how: How
    asked_after_s: float | None  # from its start to the ask
    took_s: float | None  # from the ask to its end
    gone_after_s: float | None  # from its outcome to when nothing of it was seen any more, at most; None: never


@dataclass(frozen=True, slots=True)
class Survived:
    """Code that ran on after its outcome was recorded."""

    what: str
    for_s: float | None  # until its thread was seen to be gone; None: it never went


@dataclass(frozen=True, slots=True)
class Kill:
    """A process of qworker's own that was killed: a child (`worker` is empty) or a worker."""

    at_s: float
    pid: int
    worker: str = ""


@dataclass(frozen=True, slots=True)
class Rescue:
    """What the other worker did about a killed one."""

    held: int | None  # how many tasks were in its window, as the other worker logged it
    back_s: float | None  # from the kill to when those were back in line, by the time of that line of the log
    running: int  # tasks that had started in it and had no outcome
    first_s: float | None  # from the kill to the first of those starting again
    last_s: float | None  # and to the last; None: some never did


@dataclass(frozen=True, slots=True)
class Sums:
    """The same work, done twice: by the workers, and in a plain loop."""

    queue: Mapping[str, int]
    loop: Mapping[str, int]
    differing: Sequence[str]  # what is not the same, file by file
    queue_s: float
    loop_s: float


@dataclass(frozen=True, slots=True)
class Facts:
    """All of it."""

    seconds: float
    files: int
    python: str
    server: str
    slots: Mapping[str, int]
    seen: Sequence[Seen]
    notes: Sequence[Note]
    forced: Sequence[Forced]
    survived: Sequence[Survived]
    kills: Sequence[Kill]
    rescue: Rescue
    drained: int | None  # the exit code of the worker that was sent TERM; None: it did not end
    left_behind: Sequence[str]
    sums: Sums
