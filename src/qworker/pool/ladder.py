"""The ladder: flag, then grace, then force. Pure: time and sightings in, steps and the next wake-up out.

    scan(now, what runs) ──► Step(ask | force) …        ask(now, number, reason, grace) ──► the same ladder

Force waits for a shield (`current.shield`), which the page shows as an instant: patience with it ends, too.

The pool owns one ladder. It tells what the shared pages show to run, performs the steps, and tells when an attempt
is gone. An attempt whose clock has not started has no limit but its deadline: the run clock starts when its code does.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

from ..model import Reason

NEVER: Final = float("inf")

# A stronger reason replaces a weaker one: it decides what is recorded. Equal ones keep the first.
_STRENGTH: Final[dict[Reason, int]] = {"recycle": 0, "drain": 1, "timeout": 2, "deadline": 2, "stop": 3, "fenced": 4}
# How long force may wait for a shield: after the end of the grace; of a drain, after the ask, which is what it waits in
# any case. Of an attempt that is fenced off another may be running already.
_SHIELD_S: Final = 60.0
_DRAIN_S: Final = 5.0
# It could not notice the ask before its shield ended: it gets a moment to end by itself, though its grace is over.
_LEAVE_S: Final = 0.5
_SHIELD_LOOK_S: Final = 0.02  # while force waits: the shield may be over before its time, and nobody rings then


class Seen(NamedTuple):
    """An attempt that a page shows in a slot. `started`: None while its body is being decoded."""

    number: int
    started: float | None
    timeout_s: float | None
    grace_s: float
    deadline: float  # an instant; NEVER: none
    shielded_until: float = 0.0  # an instant before which it asks for no force


class Step(NamedTuple):
    """What is due: raise the flag of an attempt, or end it by force."""

    what: Literal["ask", "force"]
    number: int
    reason: Reason


@dataclass(slots=True)
class Asked:
    """An attempt that was asked to end: when first, why, and when patience ends."""

    at: float
    reason: Reason
    force_at: float
    limited: bool = False  # its own limit has passed, too
    forced: bool = False
    patience: float = NEVER  # the instant from which on no shield helps
    held_at: float | None = None  # when its force was due and had to wait for a shield
    held_until: float = 0.0  # and until when it will wait in any case
    forced_at: float = NEVER

    def shielded_s(self, now: float) -> float | None:
        """Return how long its end by force has waited for a shield; None: it did not have to."""
        return None if self.held_at is None else min(now, self.forced_at) - self.held_at


class Ladder:
    """Who was asked to end, and whose limit is next."""

    def __init__(self) -> None:
        self._asked: dict[int, Asked] = {}

    def __len__(self) -> int:
        return len(self._asked)

    def asked(self, number: int) -> Asked | None:
        """Return when and why an attempt was asked, if it was."""
        return self._asked.get(number)

    def ask(self, now: float, number: int, reason: Reason, grace_s: float) -> Asked:
        """Ask an attempt from outside. Asking again never lengthens its grace."""
        force_at = now + max(grace_s, 0.0)
        patience = _patience(now, force_at, reason)
        asked = self._asked.get(number)
        if asked is None:
            asked = self._asked[number] = Asked(now, reason, force_at, patience=patience)
            return asked
        asked.force_at = min(asked.force_at, force_at)
        asked.patience = min(asked.patience, patience)
        asked.held_until = min(asked.held_until, asked.patience)
        if _STRENGTH[reason] > _STRENGTH[asked.reason]:
            asked.reason = reason
        return asked

    def gone(self, number: int) -> Asked | None:
        """Forget an attempt that has ended; returns what was known of its ask."""
        return self._asked.pop(number, None)

    def try_again(self, number: int) -> None:
        """The attempt could not be forced now: it is due again at the next scan that sees it."""
        asked = self._asked.get(number)
        if asked is not None:
            asked.forced = False

    def scan(self, now: float, running: Iterable[Seen]) -> tuple[list[Step], float]:
        """Return the steps that are due and the instant of the next one (NEVER: none).

        A step to force is returned once. An attempt that is not among `running` is left alone: it has not
        started yet, or has just ended.
        """
        steps: list[Step] = []
        wake = NEVER
        for seen in running:
            asked = self._asked.get(seen.number)
            limit, reason = limit_of(seen)
            if now >= limit and (asked is None or not asked.limited):
                # Asked before, for whatever reason and with whatever grace: its own limit and grace hold as well.
                before = asked.reason if asked is not None else None
                asked = self.ask(now, seen.number, reason, seen.grace_s)
                asked.limited = True
                if asked.reason != before:
                    steps.append(Step("ask", seen.number, asked.reason))
            if asked is None:
                wake = min(wake, limit)
            elif asked.forced:
                continue
            elif asked.force_at <= now < min(seen.shielded_until, asked.patience):
                asked.held_at = asked.force_at
                asked.held_until = min(now + _LEAVE_S, asked.patience)
                wake = min(wake, seen.shielded_until, asked.patience, now + _SHIELD_LOOK_S)
            elif asked.force_at <= now < asked.held_until:
                wake = min(wake, asked.held_until)
            elif now >= asked.force_at:
                asked.forced = True
                asked.forced_at = now
                steps.append(Step("force", seen.number, asked.reason))
            else:
                wake = min(wake, asked.force_at, NEVER if asked.limited else limit)
        return steps, wake


def _patience(now: float, force_at: float, reason: Reason) -> float:
    """Return the instant from which on no shield delays the force of an ask."""
    if reason == "fenced":
        return force_at
    if reason == "drain":
        return now + _DRAIN_S if force_at > now else force_at  # with no grace: a further signal, that wants no waiting
    return force_at + _SHIELD_S


def limit_of(seen: Seen) -> tuple[float, Reason]:
    """Return the instant at which an attempt must be asked to end, and why."""
    by_time = NEVER if seen.started is None or seen.timeout_s is None else seen.started + seen.timeout_s
    if seen.deadline < by_time:
        return seen.deadline, "deadline"
    return by_time, "timeout"
