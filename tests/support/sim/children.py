"""Children in virtual time: processes with slots, and tasks that are a plan of what they do.

    SimPool ── orders, flags, death ──► Child ── lines ──► execution log
            ◄──────── endings ─────────┘

They are not frozen with their worker, and die with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from qworker import codec
from qworker.model import EndingKind, ErrorInfo, Order, Reason
from support.history.records import Line

from .times import Event, Universe

if TYPE_CHECKING:
    from .pool import SimPool

NOTICE_S = 0.01  # from a flag to the end of a task that heeds it


class Plan(Protocol):
    """What a task does; its body says so."""

    lasts_s: float
    raises: int
    dies: int
    deaf: bool


class Span(NamedTuple):
    """How long the code of an attempt really ran, killed or not; nobody but the world knows."""

    id: str
    fence: int
    kind: str
    worker: str
    began: float
    ended: float


class World(Protocol):
    """What children need of the world around them."""

    universe: Universe
    lines: list[Line]
    spans: list[Span]

    def started(self, order: Order, worker: str) -> None:
        """The code of an order begins, in a child of this worker."""

    def plan_of(self, blob: bytes) -> Plan:
        """What the task does whose blob this is."""


@dataclass(eq=False)
class Run:
    """One attempt in a child."""

    order: Order
    started: float
    event: Event | None = None
    flagged: Reason | None = None
    survives: bool = False


class Child:
    """A process with slots."""

    def __init__(self, pool: SimPool, slots: int, *, alone: bool = False) -> None:
        self.pool, self.slots, self.alone = pool, slots, alone
        self.pid = pool.new_pid()
        self.ready = self.dead = self.frozen = self.retired = False
        self.orders: list[Order] = []  # their tokens are in its pipe
        self.runs: dict[int, Run] = {}
        self.condemned: int | None = None  # it is killed for the sake of this one

    @property
    def busy(self) -> int:
        return sum(not run.survives for run in self.runs.values())

    def take(self) -> None:
        """Start what may start."""
        world = self.pool.world
        if self.dead or not self.ready or self.frozen:
            return
        while self.orders and self.busy < self.slots and world.universe.now < self.pool.start_until:
            order = self.orders.pop(0)
            run = self.runs[order.number] = Run(order, world.universe.now)
            self._write("start", run)
            world.started(order, self.pool.node.name)
            plan = world.plan_of(order.blob)
            run.event = world.universe.after(plan.lasts_s, self._over, run, plan)

    def flag(self, number: int, reason: Reason) -> None:
        """A task sees in its page that it is asked to end."""
        run = self.runs.get(number)
        if run is None or self.dead or run.flagged is not None:
            return
        run.flagged = reason
        if not self.pool.world.plan_of(run.order.blob).deaf and not self.frozen and run.event is not None:
            run.event.cancel()
            run.event = self.pool.world.universe.after(NOTICE_S, self._asked, run)

    def thaw(self) -> None:
        """What should have ended meanwhile ends now."""
        self.frozen = False
        self.take()
        for run in list(self.runs.values()):
            if run.event is not None and run.event.call is None:
                run.event = self.pool.world.universe.after(0.001, self._over, run, self._plan(run))
            if run.flagged is not None and not self._plan(run).deaf:
                if run.event is not None:
                    run.event.cancel()
                run.event = self.pool.world.universe.after(NOTICE_S, self._asked, run)

    def die(self, why: str, *, host: bool = False) -> None:
        """Its process ends, and with it whatever runs in it."""
        if self.dead:
            return
        self.dead = True
        for run in self.runs.values():
            if run.event is not None:
                run.event.cancel()
            self._span(run)
        self.pool.hear(self.pool.gone, self, why, host)

    def _span(self, run: Run) -> None:
        world, order = self.pool.world, run.order
        kind = "process" if self.slots == 1 else "thread"
        world.spans.append(Span(order.id, order.fence, kind, self.pool.node.name, run.started, world.universe.now))

    def _plan(self, run: Run) -> Plan:
        return self.pool.world.plan_of(run.order.blob)

    def _over(self, run: Run, plan: Plan) -> None:
        order = run.order
        if self.dead:
            return
        if self.frozen:
            run.event = Event(0.0, self._over, ())
            run.event.cancel()  # thaw ends it
            return
        if order.attempt <= plan.dies:
            self._write("end", run, "dies")
            self.die("signal 9")
            return
        token = f"{order.attempt}.{order.fence}.{self.pid}"
        if order.attempt - plan.dies <= plan.raises:
            self._write("end", run, "raised", token)
            error = codec.pack_error(ErrorInfo("builtins.ValueError", (token,), token, ""))
            self._tell(run, "raised", error)
        else:
            self._write("end", run, "returned", token)
            self._tell(run, "returned", codec.pack_value(token))

    def _asked(self, run: Run) -> None:
        if self.dead or self.frozen or run.order.number not in self.runs:
            return
        self._write("end", run, "asked")
        error = codec.pack_error(ErrorInfo("qworker.TaskInterrupt", (), "asked", ""))
        self._tell(run, "interrupted", error)

    def _tell(self, run: Run, kind: EndingKind, payload: bytes) -> None:
        del self.runs[run.order.number]
        self._span(run)
        self.pool.hear(self.pool.ended, self, run, kind, payload, self.pool.world.universe.now - run.started)
        self.take()

    def _write(self, what: Any, run: Run, how: Any = "", value: str = "") -> None:
        order, world = run.order, self.pool.world
        world.lines.append(
            Line(
                what,
                order.id,
                order.attempt,
                order.fence,
                self.pid,
                self.pool.node.name,
                world.universe.now,
                how,
                value,
            )
        )
