"""Every key and channel name that qworker uses on the server, made here and nowhere else.

A queue's keys share one hash tag and so one cluster slot.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..model import POOL_NEEDS, PRIORITIES, Line, PoolNeed

SCHEMA = 1
LINE_CODES = "abcdefghijkl"
# What may stay for ever when no task is left, without prefix: everything else has a time to live, or goes with its last
# member. A ready list may keep what cancels left behind until the next claim passes it over; `standing` what a worker
# left that was killed, until the next submit.
PERMANENT = ("queues", "workers", "meta", "stats", "dead", "dead_bodies", "bell:*", "ready:*:*", "standing")

# The keys of a queue, by the names that script headers use.
PLAIN = (
    "bodies",
    "tasks",
    "suspects",
    "later",
    "leases",
    "held",
    "standing",
    "stops",
    "cursors",
    "progress",
    "dead",
    "dead_bodies",
    "stats",
    "meta",
)


class QueueKeys:
    """The keys of one queue, as bytes, by name."""

    def __init__(self, namespace: str, queue: str) -> None:
        self.queue = queue
        self.prefix = f"qw:{{{namespace}.{queue}}}:"
        self._plain = {name: (self.prefix + name).encode() for name in PLAIN}
        self.lines = tuple(
            f"{self.prefix}ready:{pool}:{priority}".encode() for pool in POOL_NEEDS for priority in PRIORITIES
        )
        self.bells = tuple(f"{self.prefix}bell:{pool}".encode() for pool in POOL_NEEDS)
        self._scripts: dict[tuple[tuple[str, ...], Line | None], tuple[bytes, ...]] = {}

    def line(self, line: Line) -> bytes:
        """The ready list of a line."""
        return self.lines[LINE_CODES.index(line.code)]

    def bell(self, pool: PoolNeed) -> bytes:
        """The doorbell for tasks of a pool need."""
        return self.bells[POOL_NEEDS.index(pool)]

    def result(self, local: str) -> bytes:
        """The key of a task's outcome, the only key that has one task's name in it."""
        return f"{self.prefix}result:{local}".encode()

    def results(self, locals_: Sequence[str]) -> tuple[bytes, ...]:
        """The result keys of many tasks."""
        prefix = f"{self.prefix}result:"
        return tuple([(prefix + local).encode() for local in locals_])

    def stash(self, local: str) -> bytes:
        """Where a large outcome lies until the script that comes right behind makes it the task's."""
        return f"{self.prefix}stash:{local}".encode()

    def of(self, names: tuple[str, ...], line: Line | None = None) -> tuple[bytes, ...]:
        """The keys that a script's header names, in its order.

        `lines` and `bells` stand for all lists of a kind, `line` and `bell` for those of the given line.
        """
        found = self._scripts.get((names, line))
        if found is None:
            keys: list[bytes] = []
            for name in names:
                if name == "lines":
                    keys.extend(self.lines)
                elif name == "bells":
                    keys.extend(self.bells)
                elif line is not None and name in ("line", "bell"):
                    keys.append(self.line(line) if name == "line" else self.bell(line.pool))
                else:
                    keys.append(self._plain[name])
            found = self._scripts[names, line] = tuple(keys)
        return found


class Keyspace:
    """All names of one namespace."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self._queues: dict[str, QueueKeys] = {}
        self.queues = f"qw:{namespace}:queues"
        self.workers = f"qw:{namespace}:workers"
        self.inbox_prefix = f"qw:{namespace}:inbox:"
        self.stops_prefix = f"qw:{namespace}:stops:"
        self.hello = f"qw:{namespace}:hello"  # the channel on which workers hear that another one has come
        self.group_stops = f"qw:{namespace}:groups"  # the channel on which they hear of groups that were stopped

    def queue(self, name: str) -> QueueKeys:
        """The keys of a queue; made once per queue."""
        keys = self._queues.get(name)
        if keys is None:
            keys = self._queues[name] = QueueKeys(self.namespace, name)
        return keys

    def worker(self, worker: str) -> str:
        """The record of a worker."""
        return f"qw:{self.namespace}:worker:{worker}"

    def group(self, group: str) -> str:
        """What is known of a task group."""
        return f"qw:{self.namespace}:group:{group}"

    def members(self, group: str) -> str:
        """The tasks and groups in a task group."""
        return f"qw:{self.namespace}:group:{group}:tasks"

    def inbox(self, client: str) -> str:
        """The channel on which a client is told of outcomes."""
        return self.inbox_prefix + client

    def stops(self, worker: str) -> str:
        """The channel on which a worker is told of stops."""
        return self.stops_prefix + worker
