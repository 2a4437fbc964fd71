"""Where a task stands in a tree of tasks: what it inherits from the task and the group that submit it.

    context.running() ─┐
    Group ─────────────┴─► Place ─► Task.draft ─► header: groups, parent, depth; and the earliest deadline of them all

Called for each submit; outside of tasks and groups there is no place, and nothing to pay. Groups are known on the
server of the worker that runs the task; to another server, or namespace, only the deadline travels.
"""

from __future__ import annotations

import time
import weakref
from typing import NamedTuple, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from . import context, durations
from .errors import BadOption, GroupStopped

__all__ = ["Place", "Submits", "bounded", "here", "same_server", "serves"]

_PORT, _LOCAL = 6379, frozenset({"localhost", "127.0.0.1", "::1"})


class Submits(Protocol):
    """What a place asks of the app that submits."""

    inline: bool

    @property
    def url(self) -> str | None: ...
    @property
    def namespace(self) -> str: ...


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


def here(app: Submits) -> Place | None:
    """Return the place of what the running task submits through this app; None outside of tasks."""
    run = context.running()
    if run is None:
        return None
    groups = run.groups if run.groups and _knows_groups(app, run) else ()
    return Place(groups, run.id, run.depth + 1, run.deadline)


_home: tuple[str | None, str] | None = None  # server and namespace of the worker that this process belongs to
_at_home: weakref.WeakKeyDictionary[Submits, bool] = weakref.WeakKeyDictionary()


def serves(url: str | None, namespace: str) -> None:
    """Name the server (None: the embedded one) and the namespace of the worker that this child belongs to."""
    global _home
    _home = (url, namespace)
    _at_home.clear()


def _knows_groups(app: Submits, run: context.Run) -> bool:
    """Say whether the groups of a task are known where this app submits to; looked at once for each app."""
    if app.inline or isinstance(run.slot, context.Nowhere):
        return app.inline  # what runs inline has groups that no server knows
    if _home is None:
        return True
    known = _at_home.get(app)
    if known is None:
        known = _at_home[app] = app.namespace == _home[1] and same_server(app.url, _home[0])
    return known


def same_server(one: str | None, other: str | None) -> bool:
    """Say whether two URLs, which may be written differently, name the same database of a server."""
    return one == other or (one is not None and other is not None and _database(one) == _database(other))


def _database(url: str) -> tuple[str, int, str]:
    try:
        parts = urlsplit(url)
        asked = parse_qs(parts.query).get("db", ["0"])[0]
        if parts.scheme == "unix":
            return unquote(parts.path), 0, asked
        host = parts.hostname or "localhost"
        return "localhost" if host in _LOCAL else host, parts.port or _PORT, parts.path.strip("/") or asked
    except ValueError:
        return url, 0, ""  # it cannot be used anyway


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
