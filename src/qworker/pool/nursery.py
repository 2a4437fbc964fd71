"""The children of one pool: how many there must be, who replaces whom, and how they end.

    open() ──► STARTING ── READY ──► SERVING ── retire() ──► DRAINING ── hang_up() or kill() ──► DYING ──► ended

A successor is ordered at the moment in which its predecessor is killed or told to end, and serves when that one is
gone: a place never runs two. Only a recycled or wedged child's successor does not wait, because the old one may run
on. A child that cannot start is tried again with a growing pause.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from ..model import PoolKind
from . import linux
from .host import Host
from .kid import Kid, Role
from .orders import Plan
from .page import FOREVER

_BACKOFF_S: Final = (0.1, 30.0)
# A child that was told to end by itself and does not is killed after this.
_HANG_UP_S: Final = 1.0
# One that dies sooner than this after its start, and without an order, counts as one that could not start.
_UNSOUND_S: Final = 1.0
# What a child takes of this process's descriptors, the most while it is born, and some for what happens meanwhile.
_DESCRIPTORS: Final = 20
_FORGIVEN_S: Final = 60.0  # without a failure for so long, the pauses begin anew
# Children for lent orders that have nothing to run: so many are kept, for so long. A recursion that goes up some levels
# comes down again, and a fresh child would have to connect anew before it can submit.
_KEPT_IDLE: Final = 8
_KEPT_S: Final = 5.0
_LENT_SLOTS: Final = 32  # at least, of a child with several


class Keeper(Protocol):
    """The pool's ear (hearing.py): the orders in a child are its to sort out."""

    def serving(self, kid: Kid) -> None:
        """This child takes orders from now on."""

    def readable(self, kid: Kid) -> None:
        """This child's stream has something."""

    def gone(self, kid: Kid, detail: str, *, host_died: bool) -> None:
        """This child has ended: sort out what was in it. It is closed afterwards."""

    def event(self, name: str, level: str, **fields: Any) -> None:
        """Something for the log."""


class _Link:
    """What the Host knows a child by (process.Parent)."""

    def __init__(self, nursery: Nursery, kid: Kid) -> None:
        self._nursery = nursery
        self._kid = kid

    def born(self, pid: int) -> None:
        self._kid.pid = pid
        self._nursery.told(self._kid)

    def ended(self, detail: str, *, host_died: bool) -> None:
        self._nursery.ended(self._kid, detail, host_died=host_died)


class Nursery:
    """All children of one pool. Owned by the pool, on the worker's event loop."""

    def __init__(self, kind: PoolKind, slots: int, children: int, spare_cells: int, host: Host, keeper: Keeper) -> None:
        self.kids: list[Kid] = []
        self.start_until_ns = FOREVER
        self._host = host
        self._keeper = keeper
        self.slots = slots
        self.threads = kind != "process"
        self._not_before = 0.0  # children fail to start: no extra one before this
        each, rest = divmod(slots, children)
        self._plans = [self._plan(kind, each + (n < rest), spare_cells) for n in range(children)]
        self._lent_plan = self._plan(kind, max(each, _LENT_SLOTS), spare_cells)
        self._failures = 0
        self._pauses: set[asyncio.TimerHandle] = set()
        self._settled: dict[Kid, asyncio.Future[None]] = {}  # of those that start() waits for
        self._empty: asyncio.Future[None] | None = None
        self._closing = False
        self._sweep: asyncio.TimerHandle | None = None  # of idle children for lent orders

    async def start(self) -> None:
        """Open all children; returns when each is ready, or has failed for the first time."""
        loop = asyncio.get_running_loop()
        for plan in self._plans:
            kid = self._launch(plan, None)
            if kid is not None:
                self._settled[kid] = loop.create_future()
        await asyncio.gather(*self._settled.values())
        self._settled.clear()

    def _plan(self, kind: PoolKind, slots: int, spare_cells: int) -> Plan:
        if kind == "process":
            return Plan(1, 1, False, "process child")
        return Plan(slots, slots + spare_cells, True, f"{kind} child", loop=kind == "async")

    def open_alone(self, now: float) -> Kid | None:
        """Order a child with one slot, for one suspect, with no place and no successor. None: not now."""
        if now < self._not_before:
            return None
        kid = self._launch(Plan(1, 1, False, "child for a suspect"), None, extra=True)
        if kid is not None:
            kid.alone = True
        return kid

    def lent_place(self, now: float, *, alone: bool, worn: Callable[[int], bool]) -> Kid | None:
        """Return a child beside the places that has room for a lent order, made if need be. None: not now."""
        if alone and self.threads:
            kid = self.open_alone(now)
            if kid is not None:
                kid.lent = True
            return kid
        for kid in self.kids:
            if not kid.lent or kid.alone or kid.wedged or kid.role not in (Role.STARTING, Role.SERVING):
                continue
            if len(kid.entries) + len(kid.quarantined) < kid.plan.slots and not worn(kid.given):
                return kid
        if now < self._not_before:
            return None
        kid = self._launch(self._lent_plan, None, extra=True)
        if kid is None:
            return None
        kid.lent = True
        self._host.warm()  # behind this one: it need not wait for the import
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_KEPT_S, self._sweep_idle)
        return kid

    def rest(self, kid: Kid, now: float) -> None:
        """A child for lent orders has nothing to run: keep it for a while, if there are few such."""
        kid.idle_since = now
        if len(self._idle()) > _KEPT_IDLE:
            self.hang_up(kid)

    def _idle(self) -> list[Kid]:
        lent = (kid for kid in self.kids if kid.lent and kid.role is Role.SERVING)
        return [kid for kid in lent if kid.idle and not kid.quarantined]

    def _sweep_idle(self) -> None:
        self._sweep = None
        now = time.monotonic()
        for kid in self._idle():
            if now - kid.idle_since >= _KEPT_S:
                self.hang_up(kid)
        if any(kid.lent for kid in self.kids) and not self._closing:
            self._sweep = asyncio.get_running_loop().call_later(_KEPT_S, self._sweep_idle)

    def serving(self) -> list[Kid]:
        """The children that take orders."""
        return [kid for kid in self.kids if kid.role is Role.SERVING]

    def allow_until(self, start_until_ns: int) -> None:
        """Tell every child, and those to come, until when slots may start something."""
        self.start_until_ns = start_until_ns
        for kid in self.kids:
            kid.page.start_until_ns = start_until_ns

    def readied(self, kid: Kid) -> None:
        """It said READY."""
        kid.ready = True
        kid.ready_at = time.monotonic()
        self._settle(kid)
        self.told(kid)
        self._serve(kid)

    def told(self, kid: Kid) -> None:
        """One more word of its start: its pid comes from the fork server, READY from itself, in either order."""
        if kid.ready and kid.pid:
            self._keeper.event("child.started", "info", child=kid.pid)

    def failed(self, kid: Kid, text: str) -> None:
        """It said that it could not start; its end follows."""
        kid.fault = text

    def retire(self, kid: Kid) -> None:
        """Give its place to a fresh child, at once; what runs in it goes on."""
        if kid.role is Role.SERVING:
            kid.role = Role.DRAINING
            if not kid.extra:
                self._launch(kid.plan, None)

    def hang_up(self, kid: Kid) -> None:
        """End a child that has nothing to run."""
        assert kid.idle
        replaced = kid.role is not Role.SERVING
        kid.role = Role.DYING
        if not replaced and not kid.extra and not self._closing:
            self._launch(kid.plan, kid)
        kid.hang_up()
        asyncio.get_running_loop().call_later(_HANG_UP_S, self._kill_late, kid)

    def kill(self, kid: Kid) -> None:
        """End a child by force; its successor is made meanwhile."""
        has_place = kid.role in (Role.STARTING, Role.SERVING) and not kid.extra
        kid.role = Role.DYING
        kid.killed = True
        if has_place and not self._closing:
            self._launch(kid.plan, kid)
        self._strike(kid)

    def crash(self, kid: Kid, fault: str) -> None:
        """End a child as if it had died by itself: what it writes makes no sense."""
        kid.fault = fault
        self._strike(kid)

    def ended(self, kid: Kid, detail: str, *, host_died: bool) -> None:
        """Its process is gone."""
        if kid not in self.kids:
            return  # it was let go, because its start failed half-way
        role, was_ready = kid.role, kid.ready
        kid.role = Role.DYING
        self.kids.remove(kid)
        now = time.monotonic()
        lived = was_ready and (kid.given > 0 or now - kid.ready_at >= _UNSOUND_S)
        unsound = role in (Role.STARTING, Role.SERVING) and not lived and not host_died
        # First this: it reads what the child still had to say, which may be why it could not start.
        self._keeper.gone(kid, detail, host_died=host_died)
        if unsound and not self._closing:
            self._pause(
                kid.fault or f"it ended {'as soon as' if was_ready else 'before'} it was ready: {detail}", kid.pid
            )
        kid.close()
        self._settle(kid)
        for other in self.kids:
            if other.after is kid:
                other.after = None
                self._serve(other)
        if role in (Role.STARTING, Role.SERVING) and not kid.extra and not self._closing:
            if unsound:
                self._open_later(kid.plan, None)
            else:
                self._launch(kid.plan, kid.after)
        if self._empty is not None and not self._empty.done() and not self.kids:
            self._empty.set_result(None)

    def close(self) -> None:
        """No child is opened or replaced any more."""
        self._closing = True
        for pause in self._pauses:
            pause.cancel()
        self._pauses.clear()
        if self._sweep is not None:
            self._sweep.cancel()
        for kid in list(self.kids):
            if kid.role is Role.STARTING:
                self.kill(kid)

    async def wait_empty(self, timeout_s: float | None = None) -> bool:
        """Wait until the last child is gone; False when the time is up."""
        if self.kids:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=timeout_s)
        return not self.kids

    def _launch(self, plan: Plan, after: Kid | None, *, extra: bool = False) -> Kid | None:
        """Order a child; `after`: when that one is gone. None: not now; one that has a place is tried again."""
        try:
            linux.need_descriptors(_DESCRIPTORS)
            kid = Kid(plan, self.start_until_ns)
        except OSError as error:  # whoever called goes on: there may be a task to kill
            self._pause(f"this process cannot have another child: {error}")
            if not extra:
                self._open_later(plan, after)
            return None
        kid.after, kid.extra = after, extra
        self.kids.append(kid)
        kid.listen(self._keeper.readable)
        try:
            kid.start(self._host, _Link(self, kid))
        except BaseException:
            # It has no process of which an end would be told, and the end of a pool waits for that of all its children.
            self.kids.remove(kid)
            kid.close()
            raise
        return kid

    def _serve(self, kid: Kid) -> None:
        if kid.ready and kid.after is None and kid.role is Role.STARTING:
            kid.role = Role.SERVING
            self._keeper.serving(kid)

    def _strike(self, kid: Kid) -> None:
        if kid.process is not None:
            self._host.kill(kid.process)

    def _kill_late(self, kid: Kid) -> None:
        if kid in self.kids:
            self._strike(kid)

    def _pause_s(self) -> float:
        first, longest = _BACKOFF_S
        return float(min(longest, first * 2 ** min(self._failures, 20)))

    def _pause(self, detail: str, pid: int | None = None) -> None:
        """A child could not start: say it, and open no other for a while."""
        now = time.monotonic()
        if now - self._not_before > _FORGIVEN_S:
            self._failures = 0
        self._keeper.event("child.failed", "error", child=pid, detail=detail, again_in_s=self._pause_s())
        self._not_before = now + self._pause_s()
        self._failures += 1

    def _open_later(self, plan: Plan, after: Kid | None) -> None:
        def again() -> None:
            self._pauses.discard(handle)
            self._launch(plan, after if after in self.kids else None)

        handle = asyncio.get_running_loop().call_later(max(0.0, self._not_before - time.monotonic()), again)
        self._pauses.add(handle)

    def _settle(self, kid: Kid) -> None:
        settled = self._settled.get(kid)
        if settled is not None and not settled.done():
            settled.set_result(None)
