"""What this worker holds: every claimed task that is not settled, and the claims that hold them.

Owned by the event loop; no other thread touches it. A task enters when its window arrives and leaves when its settle
was answered (or its claim was lost): until then its claim is renewed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ..model import Claimed, Header, PoolKind, StopOrder


@dataclass(slots=True)
class OpenClaim:
    """One claim and what it still holds."""

    id: str
    queue: str
    fence: int
    opened: float  # monotonic
    alone: bool = False
    numbers: set[int] = field(default_factory=set)
    sizes: dict[PoolKind, int] = field(default_factory=dict)
    ran_s: float = 0.0  # by its tasks, all together
    running: int = 0  # how many of its tasks have not ended in their pool; the others only wait to be settled


class Held:
    """One claimed task. What is the same for all at first is the class's: of most it never changes."""

    deadline: float | None = None  # `clock`: an instant of the server's, that comes while the host sleeps, too
    start_recorded = False
    stop: StopOrder | None = None
    lent = False  # it runs in the place of a task that waits, and so takes no room of its pool
    ended = False  # in its pool; its settle is on the way
    waits_for = 0  # how many tasks it waits for, while it does
    groups: frozenset[str] = frozenset()  # those that it opened and has not left
    cursor: bytes | None = None  # where its `current.iterate` has come to

    def __init__(
        self, number: int, task: Claimed, claim: OpenClaim, header: Header, kind: PoolKind, full_id: str
    ) -> None:
        self.number = number
        self.task = task
        self.claim = claim
        self.header = header
        self.kind = kind
        self.full_id = full_id


class Ledger:
    """The tasks and claims that are open, found by number, by id, and by claim."""

    def __init__(self) -> None:
        self.tasks: dict[int, Held] = {}
        self.by_id: dict[str, Held] = {}  # full id
        self.claims: dict[str, OpenClaim] = {}
        self.in_pool: dict[PoolKind, int] = {"process": 0, "thread": 0, "async": 0}  # not ended, and not lent
        self.lent: dict[PoolKind, int] = {"process": 0, "thread": 0, "async": 0}  # not settled
        self._number = 0
        # Told of groups whose openers have ended without leaving them.
        self.on_abandoned: Callable[[Iterable[str]], None] = lambda _: None

    def __len__(self) -> int:
        return len(self.tasks)

    def next_number(self) -> int:
        """Draw the next attempt number: ever growing in this worker, so that no flag can hit a successor."""
        self._number += 1
        return self._number

    def open(self, claim: OpenClaim) -> None:
        """Take a claim in."""
        self.claims[claim.id] = claim

    def add(self, held: Held) -> None:
        """Take a task in, as not ended."""
        number, claim, kind = held.number, held.claim, held.kind
        self.tasks[number] = held
        self.by_id[held.full_id] = held
        claim.numbers.add(number)
        claim.running += 1
        if held.lent:
            self.lent[kind] += 1
        else:
            claim.sizes[kind] = claim.sizes.get(kind, 0) + 1
            self.in_pool[kind] += 1

    def lend(self, held: Held) -> None:
        """Note that a task that waited in its pool was given the place of one that waits for it."""
        held.lent = True
        self.in_pool[held.kind] -= 1
        self.lent[held.kind] += 1

    def end(self, held: Held) -> None:
        """Note that a task has ended in its pool: its room is free, its claim still held."""
        if not held.ended:
            held.ended = True
            held.claim.running -= 1
            if not held.lent:
                self.in_pool[held.kind] -= 1
            if held.groups:
                self.on_abandoned(held.groups)

    def drop(self, numbers: Iterable[int]) -> None:
        """Let tasks go: they are settled, or their claim was lost. A claim that holds nothing any more is closed."""
        for number in numbers:
            held = self.tasks.pop(number, None)
            if held is None:
                continue
            if not held.ended:
                self.end(held)
            if held.lent:
                self.lent[held.kind] -= 1
            # The same id may already be here again under a newer claim (released and claimed back).
            if self.by_id.get(held.full_id) is held:
                del self.by_id[held.full_id]
            claim = held.claim
            claim.numbers.discard(number)
            if not claim.numbers:
                self.claims.pop(claim.id, None)

    def claims_by_queue(self) -> dict[str, list[OpenClaim]]:
        """Return the open claims of each queue."""
        grouped: dict[str, list[OpenClaim]] = {}
        for claim in self.claims.values():
            grouped.setdefault(claim.queue, []).append(claim)
        return grouped
