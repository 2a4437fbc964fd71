"""All that a server holds of one queue, in plain values: what machine_scripts.py works on, to the letter.

data.dump() == {key without its prefix: value}      as support.brokers.snapshot shows what a server holds
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from qworker.broker.keys import LINE_CODES
from qworker.model import Line

NO_CLAIM, ADRIFT = "-" * 12, "-" * 11 + "a"
_RECORD = re.compile(
    r"([A-Za-z]) (.{12}) ([a-z]) (\S+) (\d+) (\d+) (\d+) (\d+) (\d) (\d+) (\d+) (\d)( ?a? ?l?)", re.DOTALL
)


@dataclass
class Entry:
    """The record of a task, as its text has it."""

    state: str = "q"
    claim: str = NO_CLAIM
    line: str = "a"
    stop: str = "-"
    run: str = "1"
    attempt: int = 1
    deliveries: int = 0
    losses: int = 0
    exact: str = "0"
    started: str = "0"
    deadline: str = "0"
    once: str = "0"
    marks: str = ""

    @classmethod
    def of(cls, text: str | None) -> Entry | None:
        """Read a text; None for what is none."""
        found = _RECORD.fullmatch(text) if text else None
        if found is None:
            return None
        state, claim, line, stop, run, attempt, deliveries, losses, *others = found.groups()
        return cls(state, claim, line, stop, run, int(attempt), int(deliveries), int(losses), *others)

    @property
    def text(self) -> str:
        words = (self.state, self.claim, self.line, self.stop, self.run, self.attempt, self.deliveries, self.losses,
                 self.exact, self.started, self.deadline, self.once)  # fmt: skip
        return " ".join(map(str, words)) + self.marks

    @property
    def is_held(self) -> bool:
        return self.state in ("c", "r")

    @property
    def is_suspect(self) -> bool:
        return self.losses >= 2

    @property
    def is_adrift(self) -> bool:
        return self.marks[1:2] == "a"

    def cast_adrift(self) -> None:
        """Note that an earlier start of it may run still."""
        if not self.is_adrift:
            self.marks = " a" + self.marks

    def charge(self, exact: bool) -> None:
        """It was there when something died."""
        self.losses, self.attempt, self.deliveries = self.losses + 1, self.attempt + 1, 0
        self.exact = "1" if exact else "0"


def pool_of(line: str) -> int:
    """The number of a line's pool."""
    return (ord(line) - 97) // 3


def ordered(scores: dict[str, int]) -> list[str]:
    """The members of a sorted set in their order."""
    return sorted(scores, key=lambda member: (scores[member], member))


@dataclass
class Data:
    """The keys of a queue; a sorted set is a table of its scores."""

    bodies: dict[str, bytes] = field(default_factory=dict)
    tasks: dict[str, str] = field(default_factory=dict)
    later: dict[str, int] = field(default_factory=dict)
    leases: dict[str, int] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    standing: dict[str, int] = field(default_factory=dict)
    stops: dict[str, int] = field(default_factory=dict)
    suspects: list[str] = field(default_factory=list)
    cursors: dict[str, bytes] = field(default_factory=dict)
    progress: dict[str, bytes] = field(default_factory=dict)
    dead: dict[str, int] = field(default_factory=dict)
    dead_bodies: dict[str, bytes] = field(default_factory=dict)
    stats: Counter[str] = field(default_factory=Counter)
    meta: dict[str, str] = field(default_factory=dict)
    lines: dict[str, list[str]] = field(default_factory=lambda: {code: [] for code in LINE_CODES})
    bells: set[int] = field(default_factory=set)  # of these pools
    results: dict[str, bytes] = field(default_factory=dict)
    stashes: dict[str, bytes] = field(default_factory=dict)
    spread: set[str] = field(default_factory=set)  # the hashes that were made tables, since a window was wide
    lives: dict[str, int] = field(default_factory=dict)  # how long keys live that are new since somebody looked

    def entry(self, local: str) -> Entry | None:
        """The record of a task, if it is one."""
        return Entry.of(self.tasks.get(local))

    def holds(self, local: str, claim: str) -> bool:
        """Whether the record says that this claim has the task; nobody asks more of its text."""
        text = self.tasks.get(local, "")
        return text[2:14] == claim and text[:1] in ("c", "r")

    def keep(self, local: str, value: bytes, ttl_ms: int) -> None:
        """Write an outcome."""
        self.results[local] = value
        self.lives[f"result:{local}"] = ttl_ms

    def dump(self) -> dict[str, Any]:
        """All keys that there are, as a server shows them."""
        found: dict[str, Any] = {}
        for name in ("bodies", "tasks", "held", "cursors", "progress", "dead_bodies", "stats", "meta"):
            found[name] = {_bytes(one): _bytes(other) for one, other in getattr(self, name).items()}
        for name in ("later", "leases", "standing", "stops", "dead"):
            scores = getattr(self, name)
            found[name] = [(member.encode(), float(scores[member])) for member in ordered(scores)]
        found["suspects"] = [local.encode() for local in self.suspects]
        for code, ids in self.lines.items():
            line = Line.of(code)
            found[f"ready:{line.pool}:{line.priority}"] = [local.encode() for local in ids]
            found[f"bell:{line.pool}"] = [b"1"] if pool_of(code) in self.bells else []
        found |= {f"result:{local}": value for local, value in self.results.items()}
        found |= {f"stash:{local}": value for local, value in self.stashes.items()}
        return {key: value for key, value in found.items() if value}


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
