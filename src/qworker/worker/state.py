"""What the roles of one worker share: its settings, what it holds, its lease, its pools, and how it is doing.

Owned by the event loop. Roles change only what their own file says they own; the rest they read.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any

from .. import clock, faultpoints, log
from ..config import Settings
from ..errors import BrokerError, ServerFull
from ..model import Order, PoolKind, PoolNeed, Reason
from ..pool.pool import Pool
from .lease import Lease
from .ledger import Held, Ledger
from .moments import Moments
from .notes import Notes
from .window import Room
from .witness import Witness

# What a call to the server may raise, and a later repetition may not.
UNANSWERED = (BrokerError, ServerFull)
# Told of each call that counts: its queue, and why it was not answered, or None.
OnCall = Callable[[str, Exception | None], None]
MOST_UNKNOWN = 100  # names that nobody here knows: anybody may submit, and each worker tells of all of them
OTHERS = "(others)"


class Phase(StrEnum):
    """What a worker is up to."""

    RUNNING = "running"
    QUIET = "quiet"
    DRAINING = "draining"


@dataclass(slots=True)
class State:
    """The shared state of one worker."""

    id: str
    settings: Settings
    queues: tuple[str, ...]
    slots: Mapping[PoolKind, int]
    names: frozenset[str]
    emit: log.Emit
    lease: Lease
    server_of: Callable[[str], str | None] = lambda _: ""  # which server has a queue; None: not known yet
    witnesses: dict[str, Witness] = field(default_factory=dict)  # by server
    moments: dict[str, Moments] = field(default_factory=dict)  # by server
    ledger: Ledger = field(default_factory=Ledger)
    notes: Notes = field(default_factory=Notes)
    pools: dict[PoolKind, Pool] = field(default_factory=dict)
    rooms: dict[PoolKind, Room] = field(default_factory=dict)
    phase: Phase = Phase.RUNNING
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # something changed for the fetcher
    lend: asyncio.Event = field(default_factory=asyncio.Event)  # something changed for the lender
    mark_soon: asyncio.Event = field(default_factory=asyncio.Event)  # somebody waits to know whether a task runs
    counters: Counter[str] = field(default_factory=Counter)
    unknown: Counter[str] = field(default_factory=Counter)  # task names that nobody here knows
    parked_until: float = 0.0  # monotonic: when the last task that nobody here knows may be taken again
    epochs: dict[str, str] = field(default_factory=dict)  # queue -> the life of its data, as its scripts tell
    alone: bool = False  # a suspect runs, and nothing may be claimed beside it
    killed: int = 0  # tasks whose code was killed by the shutdown
    owed_until: float = 0.0  # monotonic: when the last retry that this worker asked for is due
    # Starts a passing helper. In a worker its failure ends the worker: nothing here fails unseen.
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task

    def needs(self, kind: PoolKind) -> tuple[PoolNeed, ...]:
        """Return the pool needs that a pool of this kind serves: its own, and `default` in the worker's `--pool`."""
        return (kind, "default") if kind == self.settings.pool else (kind,)

    def kind_of(self, need: PoolNeed) -> PoolKind:
        """Return the pool that serves a need."""
        return self.settings.pool if need == "default" else need

    def witness(self, queue: str) -> Witness:
        """Return what was seen of the server that has a queue."""
        server = self.server_of(queue)
        if server is None:
            return Witness(self.lease.lease_s)
        found = self.witnesses.get(server)
        if found is None:
            found = self.witnesses[server] = Witness(self.lease.lease_s)
        return found

    def apart(self, queues: Iterable[str]) -> bool:
        """Say whether these queues are on more than one server: then one may be away, and the others there."""
        return len({self.server_of(queue) for queue in queues}) > 1

    def at_stake(self) -> bool:
        """Say whether anything is held that runs, or may start: all else waits to be settled, and needs no lease."""
        claims = self.ledger.claims
        return bool(claims) and any(claim.running for claim in claims.values())

    def hear(self, witness: Witness, queue: str, sent: float, server_ms: int, *, told: bool) -> None:
        """Take note of a reply to a claim or a renewal, and of the server's time in it. `told`: as for a Witness."""
        now = clock.now()
        step_s = witness.answered(queue, sent, now, server_ms, told=told)
        server = self.server_of(queue)
        if server is not None:
            moments = self.moments.get(server)
            if moments is None:
                moments = self.moments[server] = Moments()
            moments.heard(sent, now, server_ms, stepped=step_s != 0)
        if step_s:
            self.emit(
                "redis.clock_stepped", level="warning", step_s=round(step_s, 1),
                note="the server's clock stepped, or this host's stood still; delays and results follow that clock",
            )  # fmt: skip

    def given(self, queue: str, sent: float, server_ms: int) -> float:
        """Return when (`clock`) the server gave a reply that is here now, at the earliest; `sent` is its call's."""
        moments = self.moments.get(self.server_of(queue) or "")
        return sent if moments is None else moments.given(sent, clock.now(), server_ms)

    def see_epoch(self, queue: str, epoch: str) -> None:
        """Notice that the server lost a queue's data: its scripts then tell of another epoch."""
        before = self.epochs.get(queue)
        self.epochs[queue] = epoch
        if before is not None and before != epoch:
            self.emit(
                "redis.state_lost", level="error", queue=queue,
                note="the server lost this queue's data: what was queued or running there is gone; serving goes on",
            )  # fmt: skip

    def saw_unknown(self, name: str) -> bool:
        """Count a task whose name nobody here knows; True for the first of that name."""
        first = name not in self.unknown
        if first and len(self.unknown) >= MOST_UNKNOWN:
            name, first = OTHERS, False
        self.unknown[name] += 1
        return first

    def server_ms(self) -> int:
        """Return the server's time as far as its replies tell; for display, never for a decision of Redis."""
        latest = max(self.witnesses.values(), key=attrgetter("seen_at"), default=None)
        expected = None if latest is None else latest.expected_ms(clock.now())
        return expected if expected is not None else int(time.time() * 1000)

    @faultpoints.before("dispatch")
    def put(self, kind: PoolKind, orders: list[Order], *, lent: bool = False) -> None:
        """Hand orders to a pool, under the lease as it stands; `lent` ones run beside its slots."""
        pool = self.pools[kind]
        pool.allow_until(int(self.lease.start_until * 1e9))
        if lent:
            pool.annex.lend(orders)
        else:
            pool.put(orders)

    def allow(self) -> None:
        """Tell every pool until when it may start tasks."""
        until = int(self.lease.start_until * 1e9)
        for pool in self.pools.values():
            pool.allow_until(until)

    def ask(self, number: int, reason: Reason, grace_s: float | None = None) -> None:
        """Ask a held task to end, wherever it is."""
        held = self.ledger.tasks.get(number)
        if held is not None and not held.ended:
            self.pools[held.kind].ask(number, reason, grace_s)

    def fence(self, lost: Iterable[Held]) -> None:
        """Let go of tasks that another claim has by now, and kill what runs of them.

        In this order: whatever the pools tell of them from here on is nobody's.
        """
        numbers: dict[PoolKind, list[int]] = {}
        for held in lost:
            numbers.setdefault(held.kind, []).append(held.number)
        for kind, some in numbers.items():
            self.counters["fenced"] += len(some)
            self.ledger.drop(some)
            self.pools[kind].forget(some)
        self.wake.set()
