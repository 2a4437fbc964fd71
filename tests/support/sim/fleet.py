"""The processes of a simulated history: workers with the product's own crew, and producers with its own broker.

Worker: Node ── Crew (the product's) ── SimBroker ── Wire ─► Server
                    └── SimPool ── children
Producer: Node ── SimBroker ── submit until answered, cancel, stop
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from qworker import codec
from qworker.broker.aio import AsyncBroker
from qworker.broker.sockets import Connections
from qworker.broker.values import SubmitItem
from qworker.config import Settings
from qworker.errors import BrokerError, Refused, SubmitUnknown
from qworker.ids import new_token
from qworker.lifecycle import How, State
from qworker.model import Header, Line, Outcome
from qworker.views import WorkerRecord
from qworker.worker.crew import Crew
from qworker.worker.lease import Lease
from qworker.worker.neighbours import Identity, Neighbours
from qworker.worker.state import State as WorkerState
from support.history.records import TOLD, Event, Stopped, Submitted

from .network import Server, Wire
from .plans import Job
from .pool import SimPool
from .times import Node

if TYPE_CHECKING:
    from .world import World

QUEUE = "default"
AGAIN_S = 0.3
DRAIN_S = 1.0
TTL_MS = 3_600_000
PRODUCER_TIMEOUT_S = 2.0


class SimBroker(AsyncBroker):
    """The product's broker on the network of a simulation."""

    def __init__(self, node: Node, server: Server, timeout_s: float, instance: str) -> None:
        self._node, self._server = node, server
        super().__init__("redis://model", timeout_s=timeout_s, instance=instance)

    def _make_connections(self, name: str) -> Connections:
        return Connections(lambda: Wire(self._node, self._server))


class _Health:
    """Nobody asks after the health of a simulated worker."""

    def turned(self) -> None: ...
    def succeeded(self) -> None: ...
    def remove(self) -> None: ...


class _Neighbours(Neighbours):
    """Watches the simulated workers of its host: their ends come by the world, not by a pidfd."""

    def __init__(self, state: WorkerState, broker: AsyncBroker, worker: Worker) -> None:
        super().__init__(state, broker, Identity(worker.host, worker.pid, worker.host, "1", worker.pid))
        self._worker = worker

    def _watch(self, record: WorkerRecord) -> bool:
        other = self._worker.world.by_pid.get(record.pid)
        if other is None or other.node.dead or other.ended:
            return False
        if record.id not in self._watched:
            self._watched[record.id] = record.pid
            node = self._worker.node
            other.watchers.append(lambda: node.call_soon(self._on_exit, record))
        return True

    def _on_exit(self, record: WorkerRecord) -> None:
        if self._watched.pop(record.id, None) is not None:
            self._died(record)

    def close(self) -> None:
        for rescue in self._rescues:
            rescue.cancel()
        self._watched.clear()


class Worker:
    """One worker process, from its start to its end."""

    def __init__(self, world: World, number: int, host: str) -> None:
        self.world, self.host = world, host
        self.pid = world.new_pid()
        self.node = Node(world.universe, f"w{number}")
        self.ended = False
        self.watchers: list[Callable[[], object]] = []  # who hears of its end
        self.crew: Crew
        world.by_pid[self.pid] = self
        self.task = self.node.enter(lambda: self.node.start(self._main(), self._over))

    @property
    def living(self) -> bool:
        return not self.node.dead and not self.ended

    @property
    def pools(self) -> list[SimPool]:
        return list(self.crew.state.pools.values()) if hasattr(self, "crew") else []  # type: ignore[arg-type]

    def kill(self) -> None:
        """Kill -9: its children die with it, a moment later."""
        self.node.kill()
        for pool in self.pools:
            for child in list(pool.children):
                self.world.universe.after(self.world.universe.draw.uniform(0, 0.005), child.die, "its worker is gone")
        for wire in [wire for wire in self.world.server.wires if wire.node is self.node]:
            self.world.universe.after(0.001, self.world.server.gone, wire)
        self._tell_watchers()

    def term(self) -> None:
        self.node.signal(signal.SIGTERM)

    def kill_fork_server(self) -> None:
        """Its children end with that, and nobody is charged."""
        self.world.universe.after(0.001, self.node.call_soon, self._say_fork_server_died)
        for pool in self.pools:
            for child in list(pool.children):
                child.die("the fork server died", host=True)

    def _say_fork_server_died(self) -> None:
        self._emit("forkserver.died", level="error")

    def _tell_watchers(self) -> None:
        for watcher in self.watchers:
            self.world.universe.after(0.002, watcher)
        self.watchers.clear()

    async def _main(self) -> None:
        world, plan = self.world, self.world.plan
        settings = Settings(
            concurrency=dict(plan.slots),  # type: ignore[arg-type]
            pool=next(iter(plan.slots)),  # type: ignore[arg-type]
            queues=(QUEUE,), window=plan.window, lease_s=plan.lease_s, drain_timeout_s=DRAIN_S,
        )  # fmt: skip
        id_ = f"{self.host}:{self.pid}:{new_token()[:4]}"
        broker = SimBroker(self.node, world.server, max(0.5, plan.lease_s / 3), id_)
        state = WorkerState(
            id=id_, settings=settings, queues=settings.queues, names=frozenset({"sim"}), emit=self._emit,
            lease=Lease(settings.lease_s), slots=settings.concurrency,
        )  # fmt: skip

        def pool(kind: Any, slots: int, events: Any) -> Any:
            return SimPool(kind, slots, events, world, self.node, world.new_pid)

        self.crew = Crew(
            state, broker, pool, _Neighbours(state, broker, self), _Health(),  # type: ignore[arg-type]
            on_call=lambda *_: None,
        )  # fmt: skip
        self.crew.signals.install()
        await self.crew.start()
        await self.crew.run()
        await self.crew.close()
        try:
            async with asyncio.timeout(1.0):
                await broker.retire(id_)
        except (BrokerError, TimeoutError):
            pass  # its record lapses
        await broker.close()

    def _over(self, task: asyncio.Task[Any]) -> None:
        self.ended = True
        if (error := task.exception()) is not None:
            self.world.universe.troubles.append(f"{self.node.name} ended: {_leaf(error)!r}")
        self._tell_watchers()

    def _emit(self, name: str, /, *, level: str = "info", **fields: Any) -> None:
        self.world.note(self.node.name, name, fields)
        if name in TOLD:
            count = fields.get("rescued", fields.get("count", 1))
            self.world.events.append(Event(name, self.node.name, fields.get("task", ""), count))


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class Producer:
    """One producer process: it submits its jobs until each was answered, and cancels and stops what its plan says."""

    def __init__(self, world: World, number: int, jobs: list[Job]) -> None:
        self.world, self.jobs = world, jobs
        self.node = Node(world.universe, f"p{number}")
        self.under_way: dict[str, tuple[Job, float]] = {}
        self.stopping: dict[str, tuple[Job, float]] = {}
        self.broker: SimBroker
        self.task = self.node.enter(lambda: self.node.start(self._main(), self._over))

    def kill(self) -> None:
        """What was under way may have been done, or not: nobody knows."""
        self.node.kill()
        for job, asked in self.under_way.values():
            self._note(job, asked, "unknown")
        self.under_way.clear()
        for job, asked in self.stopping.values():
            self._note_stop(job, asked, "unknown")
        self.stopping.clear()

    @property
    def done(self) -> bool:
        return self.node.dead or self.task.done()

    async def _main(self) -> None:
        self.broker = SimBroker(self.node, self.world.server, PRODUCER_TIMEOUT_S, self.node.name)
        async with asyncio.TaskGroup() as jobs:
            for job in self.jobs:
                jobs.create_task(self._do(job))

    def _over(self, task: asyncio.Task[Any]) -> None:
        if (error := task.exception()) is not None:
            self.world.universe.troubles.append(f"{self.node.name} ended: {_leaf(error)!r}")

    async def _do(self, job: Job) -> None:
        await asyncio.sleep(job.at)
        await self._submit(job)
        if job.verb:
            await asyncio.sleep(job.after_s)
            await self._stop(job)

    async def _submit(self, job: Job) -> None:
        now = self.world.universe
        line = Line(job.pool, job.priority)  # type: ignore[arg-type]
        item = SubmitItem(
            job.local, self.world.blob_of(job), int(job.delay_s * 1000), int(job.deadline_s * 1000)
        )  # fmt: skip
        while True:
            asked = now.now
            self.under_way[job.local] = job, asked
            try:
                await self.broker.submit(QUEUE, line, [item], given=True)
            except SubmitUnknown:
                answer = "unknown"
            except (Refused, BrokerError):
                answer = "refused"
            else:
                answer = "accepted"
            del self.under_way[job.local]
            self._note(job, asked, answer)
            if answer == "accepted":
                return
            await asyncio.sleep(AGAIN_S)

    async def _stop(self, job: Job) -> None:
        while True:
            asked = self.world.universe.now
            self.stopping[job.local] = job, asked
            try:
                (answer,) = await self.broker.stop(
                    QUEUE,
                    [job.local],
                    mode=job.verb,
                    value_of=lambda local: _cancelled(f"{QUEUE}:{local}"),
                    ttl_ms=TTL_MS,
                )
            except BrokerError:
                self._note_stop(job, asked, "unknown")
                await asyncio.sleep(AGAIN_S)
                continue
            # What may run still was not promised never to: an outcome comes back for that.
            adrift = answer.code == "cancelled" and answer.outcome and codec.unpack_outcome(answer.outcome).adrift
            self._note_stop(job, asked, "cancelled, and may run still" if adrift else answer.code)
            del self.stopping[job.local]
            return

    def _note_stop(self, job: Job, asked: float, answer: str) -> None:
        self.world.stopped.append(
            Stopped(f"{QUEUE}:{job.local}", job.verb, asked, self.world.universe.now, answer)  # type: ignore[arg-type]
        )

    def _note(self, job: Job, asked: float, answer: Any) -> None:
        self.world.submitted.append(
            Submitted(
                f"{QUEUE}:{job.local}", asked, self.world.universe.now, answer, retries=job.retries,
                timeout_s=job.timeout_s, pool=job.pool, kind=job.kind,
                deadline_s=job.deadline_s or None, max_crashes=1 if job.once else 3, once=job.once,
            )
        )  # fmt: skip


def make_blob(job: Job, client: str) -> bytes:
    """A job as a task that is stored: its plan is its body."""
    header = Header(
        "sim",
        timeout_ms=None if job.timeout_s is None else int(job.timeout_s * 1000),
        grace_ms=int(job.grace_s * 1000),
        retries=job.retries,
        backoff_ms=100,
        delivery="at_most_once" if job.once else "at_least_once",
    )
    body = codec.pack_body((job.local,), {})
    line = Line(job.pool, job.priority)  # type: ignore[arg-type]
    return codec.pack_envelope(header=codec.pack_header(header), body=body, line=line, client=client, sent_ms=0)


def _cancelled(full_id: str) -> bytes:
    return codec.pack_outcome(Outcome(full_id, State.CANCELLED, How.NEVER_STARTED, reason="cancelled"))
