"""Where a task stands in a tree of tasks: what it inherits from the task and the group that submit it.

    context.running() ─┐
    Group ─────────────┴─► Place ─► Task.draft ─► header: groups, parent, depth; and the earliest deadline of them all

Called for each submit; outside of tasks and groups there is no place, and nothing to pay.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from . import context, durations
from .errors import BadOption, GroupStopped

__all__ = ["Place", "bounded", "here"]


class Place(NamedTuple):
    """What a task has from those above it."""

    groups: tuple[str, ...] = ()  # the outermost first
    parent: str = ""  # full id of the task that submits it
    depth: int = 0
    ends: float | None = None  # monotonic clock: the earliest deadline of what is above it
    by: str = ""  # whose deadline that is: a group's id, or empty for the task that submits

    def below(self, group: str, ends: float | None) -> Place:
        """Return the place of tasks in a group that is opened here; it may end sooner, never later."""
        sooner = ends is not None and (self.ends is None or ends < self.ends)
        return self._replace(
            groups=(*self.groups, group), ends=ends if sooner else self.ends, by=group if sooner else self.by
        )

    def detached(self) -> Place:
        """Return it without groups and deadline: what `detached=True` means."""
        return Place(parent=self.parent, depth=self.depth)

    def extra(self) -> dict[str, object]:
        """Return what a header says of it."""
        fields: dict[str, object] = {}
        if self.groups:
            fields["g"] = [*self.groups]
        if self.parent:
            fields["p"] = self.parent
        if self.depth:
            fields["d"] = self.depth
        return fields


def here() -> Place | None:
    """Return the place of what the running task submits; None outside of tasks."""
    run = context.running()
    if run is None:
        return None
    return Place(run.groups, run.id, run.depth + 1, run.deadline)


def bounded(delay_ms: int, deadline_ms: int, place: Place, name: str) -> int:
    """Return how many ms a task has until its deadline, its own or that of what is above it; 0: it has none.

    Raises:
        GroupStopped: the time of its group is up.
        BadOption: the deadline of the task that submits it has passed, or it would be delayed beyond that.
    """
    if place.ends is None:
        return deadline_ms
    left_s = place.ends - time.monotonic()
    whose = f"group {place.by}" if place.by else f"task {place.parent}, which submits it,"
    if left_s <= 0:
        text = f"cannot submit {name}: the time of {whose} was up {durations.text(-left_s)} ago; nothing was queued"
        raise GroupStopped(text, group=place.by) if place.by else BadOption(text)
    left_ms = max(1, int(left_s * 1000))
    if deadline_ms and deadline_ms <= left_ms:
        return deadline_ms
    if delay_ms >= left_ms:
        raise BadOption(
            f"cannot submit {name}: a delay of {durations.text(delay_ms / 1000)} is beyond the time of {whose} "
            f"which is up in {durations.text(left_s)}: it could never run"
        )
    return left_ms
