"""The task groups that a process has opened: a lease on each, and what it asks of the server about them.

    Group ── open, stop, close, sweep ─► OwnedGroups ─► Broker        in the caller's thread
    I/O thread of the client ── beat, every 2 s ─► leases renewed, and what others did to a group told to it

When the process dies its beats end, and whoever reads a group after its lease finds that the owner is gone. An orderly
end says so at once.
"""

from __future__ import annotations

import dataclasses
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

from .. import codec, ids
from ..errors import BrokerError
from ..lifecycle import State
from ..views import Closed, GroupView
from .broker import Broker
from .unstarted import never_started

__all__ = ["LEASE_MS", "Owned", "OwnedGroups"]

LEASE_MS = 30_000
_AT_ONCE = 256  # tasks or groups in one call

T = TypeVar("T")


class Owned(Protocol):
    """A group, as far as its client knows it."""

    id: str

    def told(self, state: str, reason: str) -> None:
        """Where it stands on the server; called on the I/O thread."""


class OwnedGroups:
    """The groups of one client. Any thread may use it; only the I/O thread calls `beat`."""

    def __init__(self, broker: Broker, look: Broker, now_ms: Callable[[], int]) -> None:
        self._broker = broker
        self._look = look  # for what must not hold up anybody
        self._now_ms = now_ms
        self._lock = threading.Lock()
        self._owned: weakref.WeakValueDictionary[str, Owned] = weakref.WeakValueDictionary()

    def open(self, group: Owned, *, path: Sequence[str], name: str, opener: str, on_loss: str, timeout_ms: int) -> None:
        """Open a group and own it from now on.

        Raises:
            GroupStopped: a group above it takes nothing any more.
        """
        self._broker.open_group(
            group.id, path=path, name=name, opener=opener, on_loss=on_loss, lease_ms=LEASE_MS, timeout_ms=timeout_ms
        )
        with self._lock:
            self._owned[group.id] = group

    def stop(self, group: str, *, grace_ms: int | None, reason: str) -> str:
        """Stop a group, whoever owns it; returns its state, empty when it is not known."""
        return self._broker.stop_group(group, grace_ms=grace_ms, reason=reason)

    def close(self, group: str, *, seen: int, survivors: Sequence[str], path: Sequence[str]) -> Closed:
        """Close a group, and own it no longer, unless it has more members than were `seen`; see `close_group`."""
        closed = self._broker.close_group(group, seen=seen, survivors=survivors, path=path)
        if closed.state != "more":
            with self._lock:
                self._owned.pop(group, None)
        return closed

    def show(self, group: str) -> GroupView:
        """Return what is known of a group, with all of its members."""
        view = self._broker.show_group(group)
        members = list(view.members)
        while len(members) < view.count:
            more = self._broker.show_group(group, first=len(members)).members
            if not more:
                break
            members += more
        return dataclasses.replace(view, members=tuple(members))

    def sweep(self, tasks: Iterable[str], *, force: bool, grace_ms: int | None) -> None:
        """Cancel those of these tasks that no worker has, some hundred per call; with `force` stop the others, too."""
        mode = "stop" if force else "cancel"
        for queue, locals_ in ids.by_queue(tasks):
            value_of = never_started(queue, State.CANCELLED, self._now_ms())
            for part in _parts(locals_):
                self._broker.stop(queue, part, mode=mode, grace_ms=grace_ms, value_of=value_of)

    def look(self, tasks: Iterable[str]) -> list[tuple[str, bool]]:
        """Return those of these tasks (full ids) that have not ended (True), or whose code ran on (False)."""
        found: list[tuple[str, bool]] = []
        for queue, locals_ in ids.by_queue(tasks):
            for part in _parts(locals_):
                found += [
                    (ids.join_id(queue, one.id), one.alive)
                    for one in self._broker.peek(queue, part)
                    if one.alive or (one.outcome is not None and codec.unpack_outcome(one.outcome).still_running)
                ]
        return found

    def beat(self) -> None:
        """Renew the leases, and tell each group where it stands."""
        with self._lock:
            groups = list(self._owned.values())
        for part in _parts(groups):
            states = self._look.beat_groups([group.id for group in part])
            for group, (state, reason) in zip(part, states, strict=True):
                group.told(state, reason)

    def let_go(self) -> None:
        """The owner ends in order: its groups end with it, or go on without it, now."""
        with self._lock:
            groups = list(self._owned)
            self._owned.clear()
        for group in groups:
            try:
                self._look.stop_group(group, gone=True)
            except BrokerError:
                return  # nobody answers: their leases lapse


def _parts(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), _AT_ONCE):
        yield items[start : start + _AT_ONCE]
