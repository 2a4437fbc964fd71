"""The calls on task groups, each one script; see calls.py.

A group's id has no colon, so that among the members of a group it is told from a task's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import GroupStopped
from ..views import Closed, GroupView
from .calls import Call, Owner
from .scripts import load

KEPT_MS = 7 * 24 * 3_600_000  # while its tasks may be alive; renewed by all who join, beat or read
CLOSED_MS = 24 * 3_600_000
MOST_MEMBERS = 100_000
PAGE = 1_000  # members in one answer

_GRACE_DIGITS = 15


def open_group(
    owner: Owner,
    group: str,
    *,
    path: Sequence[str] = (),
    name: str = "",
    opener: str = "",
    on_loss: str = "cancel",
    lease_ms: int,
    timeout_ms: int = 0,
) -> Call[int]:
    """Open a task group below those of `path` (the outermost first). Returns the server's time.

    Raises:
        GroupStopped: one of those takes nothing any more.
    """
    script, space = load("group_open"), owner.keyspace
    args = script.arguments(
        path,
        now_ms=owner.now_ms,
        id=group,
        name=name,
        owner=opener,
        on_loss=on_loss,
        lease_ms=lease_ms,
        timeout_ms=timeout_ms,
        ttl_ms=KEPT_MS,
        most=MOST_MEMBERS,
        channel=space.group_stops,
    )
    siblings = space.members(path[-1] if path else group)
    keys = (space.group(group), siblings, *map(space.group, path))

    def parse(reply: Any) -> int:
        _refuse(reply, f"cannot open group {group}")
        return int(reply[0])

    return Call(f"open group {group}", script, keys, args, parse)


def join_group(owner: Owner, path: Sequence[str], tasks: Sequence[str]) -> Call[None]:
    """List tasks (full ids) as members of the innermost group of `path`, before they are queued.

    Raises:
        GroupStopped: one of the groups takes nothing any more: it was stopped, has ended, is full, or its time is up.
    """
    script, space = load("group_join"), owner.keyspace
    args = script.arguments(
        (*path, *tasks), now_ms=owner.now_ms, ttl_ms=KEPT_MS, most=MOST_MEMBERS, channel=space.group_stops
    )
    keys = (space.members(path[-1]), *map(space.group, path))

    def parse(reply: Any) -> None:
        _refuse(reply, f"cannot submit {len(tasks)} task(s) into group {path[-1]}")

    return Call(f"submit {len(tasks)} task(s) into group {path[-1]}", script, keys, args, parse)


def stop_group(
    owner: Owner, group: str, *, grace_ms: int | None = None, reason: str = "stopped", gone: bool = False
) -> Call[str]:
    """Stop a group, in one call however many tasks it holds. Returns its state; empty: it is not known.

    `grace_ms`: from asking what runs to ending it by force; None: each task's own. `gone`: its owner has ended, which
    stops it or lets it go on, as it was opened.
    """
    script, space = load("group_stop"), owner.keyspace
    args = script.arguments(
        now_ms=owner.now_ms,
        id=group,
        mode="gone" if gone else "stop",
        reason=reason,
        grace="" if grace_ms is None else max(0, grace_ms),
        channel=space.group_stops,
    )
    return Call(f"stop group {group}", script, (space.group(group),), args, _text)


def beat_groups(owner: Owner, groups: Sequence[str]) -> Call[tuple[tuple[str, str], ...]]:
    """Renew an owner's lease on its groups. Returns state and reason of each; an empty state: not known."""
    script, space = load("group_beat"), owner.keyspace
    args = script.arguments(now_ms=owner.now_ms, ttl_ms=KEPT_MS)
    return Call(f"renew {len(groups)} group(s)", script, tuple(map(space.group, groups)), args, _pairs)


def read_groups(owner: Owner, groups: Sequence[str]) -> Call[tuple[tuple[str, int | None], ...]]:
    """Say where groups stand: state, and the grace of a stop (None: each task's own).

    The state is `open`, `detached`, `stopped`, `closed`; `late` while an owner has not been heard for its lease and
    nobody can say yet whether it is gone; empty when the group is not known.
    """
    script, space = load("group_read"), owner.keyspace
    args = script.arguments(groups, now_ms=owner.now_ms, ttl_ms=KEPT_MS, channel=space.group_stops)

    def parse(reply: Any) -> tuple[tuple[str, int | None], ...]:
        return tuple((state, read_grace(grace)) for state, grace in _pairs(reply))

    return Call(f"read {len(groups)} group(s)", script, tuple(map(space.group, groups)), args, parse)


def close_group(
    owner: Owner, group: str, *, seen: int, survivors: Sequence[str] = (), path: Sequence[str] = ()
) -> Call[Closed]:
    """Close a group of which `seen` members have ended; -1: whatever has. `survivors`: tasks whose code runs on."""
    script, space = load("group_close"), owner.keyspace
    args = script.arguments(path, now_ms=owner.now_ms, seen=seen, survivors=" ".join(survivors), ttl_ms=CLOSED_MS)

    def parse(reply: Any) -> Closed:
        return Closed(_text(reply[0]), _text(reply[1]), int(reply[2]), _text(reply[3]))

    keys = (space.group(group), space.members(group), *map(space.group, path))
    return Call(f"close group {group}", script, keys, args, parse)


def show_group(owner: Owner, group: str, *, first: int = 0, size: int = PAGE) -> Call[GroupView]:
    """Return what is known of a group, and its members from `first` on. Changes nothing on the server.

    The state is `late` as soon as an open group's owner was not heard for its lease.
    """
    script, space = load("group_show"), owner.keyspace
    args = script.arguments(now_ms=owner.now_ms, first=first, size=size)

    def parse(reply: Any) -> GroupView:
        now_ms, state, count, pairs, members = reply
        fields = {_text(name): _text(value) for name, value in zip(pairs[0::2], pairs[1::2], strict=True)}
        return GroupView(
            id=group,
            state=_text(state),
            name=fields.get("name", ""),
            owner=fields.get("owner", ""),
            on_loss=fields.get("on_loss", ""),
            path=tuple(fields.get("path", "").split()),
            reason=fields.get("reason", ""),
            opened_ms=_number(fields.get("opened_ms")) or 0,
            deadline_ms=_number(fields.get("deadline_ms")) or None,
            stopped_ms=_number(fields.get("stopped_ms")),
            closed_ms=_number(fields.get("closed_ms")),
            survivors=tuple(fields.get("survivors", "").split()),
            count=int(count),
            members=tuple(_text(member) for member in members),
            now_ms=int(now_ms),
        )

    return Call(f"show group {group}", script, (space.group(group), space.members(group)), args, parse)


def read_grace(text: str) -> int | None:
    """Read a grace as scripts and hints carry it; None: each task's own."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= _GRACE_DIGITS else None


_WHY = {
    "stopped": "it was stopped",
    "closed": "its block was left",
    "expired": "its time is up",
    "full": f"it holds {MOST_MEMBERS:,} tasks, which is the limit; open groups of their own for parts of them",
    "unknown": "it is not known on this server; it ended long ago, or the server lost its data",
}


def _refuse(reply: Any, tried: str) -> None:
    if len(reply) == 1:
        return
    _, group, state, reason = map(_text, reply)
    where = "" if tried.endswith(group) else f"group {group} above it: "
    because = f" ({reason})" if reason else ""
    raise GroupStopped(f"{tried}: {where}{_WHY[state]}{because}; nothing was queued", group=group)


def _pairs(reply: Any) -> tuple[tuple[str, str], ...]:
    return tuple((_text(one), _text(other)) for one, other in zip(reply[0::2], reply[1::2], strict=True))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() else None


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
