"""The values and the one interface that the pool shares with the worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..model import Ending, PoolNeed, Reason


@dataclass(frozen=True, slots=True)
class AppFacts:
    """What the fork server found when it imported the targets."""

    url: str | None  # of the apps; None: nobody named one
    namespace: str
    names: frozenset[str]  # every task that children can run
    async_names: frozenset[str] = frozenset()  # those that are coroutines
    spawn: bool = False  # the import left threads: children are started as fresh interpreters
    warning: str = ""  # one line for the log, when `spawn`
    pid: int = 0  # of the fork server
    needs: frozenset[PoolNeed] = frozenset()  # the pools that its tasks ask for


@dataclass(frozen=True, slots=True)
class RunningTask:
    """One order that a slot is running now, as the shared page shows it."""

    number: int
    id: str
    name: str
    child: int  # pid
    slot: int
    ran_s: float
    asked: Reason | None = None
    progress: tuple[float, float | None, str] | None = None  # done, total, text
    lent: bool = False  # in the place of a task that waits


class Events(Protocol):
    """What a pool tells its worker. Every method is called on the worker's event loop and must not block.

    A method may call back into the pool (`put`, `ask`, …) at once.
    """

    def endings(self, endings: list[Ending]) -> None:
        """Orders ended; each order that was put ends here exactly once, unless `recall` returned its number."""

    def permit_wanted(self, numbers: list[int]) -> None:
        """Slots are free for these, which start on permit: they wait until `Pool.permit` names them."""

    def started(self, numbers: list[int]) -> None:
        """These orders were seen to run. Not told of every short task: only of what a scan of the page met."""

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None:
        """A line that a task printed (`stdout`, `stderr`) or logged (`log`, with `fields`). Number 0: no task's."""

    def waiting(self, number: int, ids: list[str], more: bool) -> None:
        """A task waits for these tasks (full ids) from now on; `more`: and for those that it told before."""

    def resumed(self, number: int) -> None:
        """It waits no longer."""

    def cursor(self, number: int, cursor: bytes) -> None:
        """How far `current.iterate` has come in a task."""

    def progressed(self, number: int, slot: int) -> None:
        """A task began to tell its progress; `Pool.progress(number, slot)` reads it. Told once for each attempt."""

    def group(self, number: int, id: str, opened: bool) -> None:  # noqa: A002 - the public word
        """A task opened a group, or left its block."""

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Something for the log: child.started, child.died, child.failed, child.killed, child.wedged, …."""
