"""What a scenario is: one shape of load, measured the same way for every contestant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..adapter import NotOfferedError
from ..stage import Stage

Facts = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """One number that a scenario gives."""

    name: str
    unit: str
    best: Literal["most", "least"] = "most"


@dataclass(frozen=True)
class Goal:
    """What qworker wants of a figure: so many times the best of a group, or just a number.

    The groups: all queues, those whose workers are of Python alone, the local pools, the standard library's pool alone.
    """

    figure: str
    by: float
    of: Literal["queue", "pure Python queue", "local pool", "processpool"] | None = None


@dataclass(frozen=True)
class Scenario:
    """A name, what it says in the report, and how it is measured."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    measure: Callable[[Stage], dict[str, float]]
    important: bool = False  # part of the short run
    goals: tuple[Goal, ...] = ()
    rounds: int | None = None  # at most so many: for what takes long, or hardly varies
    shares: str = ""  # scenarios that say the same here follow each other on one stage, with one worker
    late: bool = False  # the last one there: what it leaves behind would be seen by the others
    waits: bool = False  # it only waits: all contestants can do it at the same time, each on a server of its own
    refuse: Callable[[Facts], None] = lambda _: None  # raises NotOfferedError for whom these facts bar


RATE = (Figure("rate", "tasks/s"),)


def needs_a_queue(stage: Stage) -> None:
    """Raise NotOfferedError for a local pool: nothing of it can wait for a worker."""
    if stage.facts["local"]:
        raise NotOfferedError("a local pool: there is no queue")
