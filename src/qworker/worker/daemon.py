"""One worker, from its start to its exit code: around the crew that does the work.

    start the fork server ─► find the server ─► open pools ─► roles run ─► signal, burst or loss ─► drain ─► exit code

No user code runs in this process, and no body is decoded here.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .. import faultpoints, log
from ..allowed import Names
from ..broker.aio import AsyncBroker
from ..broker.values import ServerFacts
from ..config import EVERYTHING, Settings, default_slots, working_directory
from ..durations import text
from ..errors import BrokerUnavailable, QWorkerError
from ..health import Aside as HealthFile
from ..health import Beacon as HealthWriter
from ..model import PoolKind, PoolNeed
from ..pool.facts import AppFacts, Events
from ..pool.host import Host
from ..pool.pool import Pool
from ..pool.spawn import Spawned
from .crew import Crew
from .lease import Lease
from .memory import watch as watch_memory
from .neighbours import Neighbours
from .outage import Outage
from .state import UNANSWERED, State

GC_THRESHOLD = (10_000, 20, 20)  # ten times as far apart as usual
EXIT_DONE = 0
EXIT_KILLED_WORK = 4


def worker_id(name: str | None = None) -> str:
    """Draw the id of this worker: host, pid, and four random characters that no restart repeats."""
    host = (name or socket.gethostname() or "host").replace(" ", "-").replace(":", "-")
    return f"{host}:{os.getpid()}:{secrets.token_hex(2)}"


def serve(
    settings: Settings, targets: Sequence[str], *, emit: log.Emit = log.event, spawned: Spawned | None = None
) -> int:
    """Run one worker until it is done, and return its exit code. `emit` is told of its events.

    `spawned`: its fork server, if that was started already.

    Raises:
        AppImportError: a target cannot be imported.
        ConfigError: a setting cannot be used with these apps.
        ServerUnfit: the server would lose or misread tasks.
    """
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_Daemon(settings, targets, emit, spawned).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


class _Daemon:
    def __init__(self, settings: Settings, targets: Sequence[str], emit: log.Emit, spawned: Spawned | None) -> None:
        self._settings, self._targets = settings, targets
        self._emit = emit
        self._spawned = spawned
        self._id = worker_id(settings.name)
        self._health = HealthFile(HealthWriter(self._id))
        self._told_to_end = False
        self._revive: Callable[[], object] | None = None  # starts the embedded server again, if that is ours

    async def run(self) -> int:
        """Run the worker; until its roles run, a signal just ends it (as PID 1 nothing else would)."""
        main = asyncio.ensure_future(self._run())

        def end() -> None:
            self._told_to_end = True
            main.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, end)
        try:
            return await main
        except asyncio.CancelledError:
            if not self._told_to_end:
                raise
            self._emit("worker.stopped", worker=self._id, note="told to end before it had begun")
            return EXIT_DONE

    async def _run(self) -> int:
        if faultpoints.ARMED:
            self._emit(
                "worker.fault_points", level="error", worker=self._id, armed=", ".join(map(str, faultpoints.ARMED)),
                note=f"{faultpoints.VARIABLE} is set: this worker will harm itself on purpose; it is for tests only",
            )  # fmt: skip
        host = Host(
            lambda name, level, fields: self._emit(name, level=level, **fields),
            environ=self._settings.for_tasks(),
            spawned=self._spawned,
        )
        try:
            facts = await self._import(host)
            if facts.warning:
                self._emit("app.warning", level="warning", note=facts.warning)
            url, namespace = self._server(facts.url), self._settings.namespace or facts.namespace
            # A call gives up well within a lease: whoever waits for it must still be able to act on the silence.
            timeout_s = max(0.5, self._settings.lease_s / 3)
            broker = AsyncBroker(
                url, namespace, timeout_s=timeout_s, instance=self._id,
                on_refused=lambda text: self._emit("redis.refused", level="error", error=text),
            )  # fmt: skip
            try:
                await self._reach(broker)
                return await self._work(host, broker, facts)
            finally:
                await broker.close()
        finally:
            await host.close()

    async def _import(self, host: Host) -> AppFacts:
        """Have the fork server import the apps and the allowed modules; return what can be run here."""
        allow = self._settings.allow
        # An Executor's worker needs none, and may be started where somebody has removed it.
        facts = await host.start(self._targets, working_directory() or "", allow=allow)
        if EVERYTHING in allow:
            self._emit(
                "worker.allows_everything", level="warning", worker=self._id,
                note="--allow *: whoever can write to the server can call any function that can be imported here",
            )  # fmt: skip
        return replace(facts, names=Names.of(facts.names, allow)) if allow else facts

    def _server(self, app_url: str | None) -> str:
        url = self._settings.url or app_url
        if url is not None:
            return url
        from ..broker import embedded

        environ = dict(os.environ) if self._settings.embedded else {**os.environ, "QWORKER_EMBEDDED": "0"}
        server = embedded.ensure(environ=environ)
        self._emit("server.embedded", note=server.line)
        self._revive = lambda: embedded.ensure(environ=environ)
        return server.url

    async def _reach(self, broker: AsyncBroker) -> None:
        """Wait until the server answers and is fit to hold tasks."""
        outage = Outage(self._emit, self._health, self._revive)
        pause = 0.2
        while True:
            try:
                facts = await broker.check_fit(allow_eviction=self._settings.allow_eviction)
                break
            except BrokerUnavailable as error:
                outage.call("", error)
                self._health.turned()
                await asyncio.sleep(pause)
                pause = min(pause * 2, 2.0)
        outage.call("", None)
        for warning in _warnings(facts):
            self._emit("server.warning", level="warning", note=warning)

    async def _work(self, host: Host, broker: AsyncBroker, facts: AppFacts) -> int:
        settings = self._settings
        state = State(
            id=self._id, settings=settings, queues=settings.queues, names=facts.names, emit=self._emit,
            lease=Lease(settings.lease_s), slots=slots_for(settings.concurrency, facts.needs),
            server_of=broker.server_of,
        )  # fmt: skip
        outage = Outage(self._emit, self._health, self._revive, broker.server_of)

        def pool(kind: PoolKind, slots: int, events: Events) -> Pool:
            return Pool(
                kind, slots, host, events,
                max_survivors=settings.max_survivors,
                recycle_timeout_s=settings.recycle_timeout_s,
                max_tasks_per_child=settings.max_tasks_per_child,
            )  # fmt: skip

        crew = Crew(state, broker, pool, Neighbours(state, broker), self._health, on_call=outage.call)
        signals = crew.signals
        signals.install()
        try:
            async with asyncio.TaskGroup() as work:
                callbacks = work.create_task(_first_failure(asyncio.get_running_loop()), name="callbacks")
                await crew.start()
                self._hello(state)
                memory = work.create_task(watch_memory(broker, self._emit), name="memory")
                # What was imported and built stays: collections look at the rest, and less often than once in a hundred
                # tasks, for a task leaves no cycles behind.
                gc.freeze()
                gc.set_threshold(*GC_THRESHOLD)
                await crew.run()
                callbacks.cancel()
                memory.cancel()
        except BaseExceptionGroup as group:
            raise self._cause(group) from None
        finally:
            await crew.close()
        await self._goodbye(broker, state, settled=not crew.settler.pending)
        if signals.stop.is_set() and signals.last is not None:
            return 128 + signals.last
        return EXIT_KILLED_WORK if state.killed else EXIT_DONE

    def _hello(self, state: State) -> None:
        settings = state.settings
        self._emit(
            "worker.started", worker=state.id, pid=os.getpid(), tasks=len(state.names), queues=",".join(state.queues),
            allow=",".join(settings.allow) or None,
            slots=",".join(f"{kind}={slots}" for kind, slots in state.slots.items()),
            window=str(settings.window), lease_s=settings.lease_s,
            note=f"tasks without a timeout of their own may run {text(1800)}",
        )  # fmt: skip

    def _cause(self, group: BaseExceptionGroup[BaseException]) -> BaseException:
        """Return what ended the roles: one error to be told in a line, else one whose traceback shows where it was."""
        errors = list(_leaves(group))
        errors.sort(key=lambda error: not isinstance(error, QWorkerError))
        for error in errors:
            self._emit("worker.failed", level="error", worker=self._id, error=f"{type(error).__name__}: {error}",
                       note="its children are killed; what it held runs again when its lease lapses")  # fmt: skip
        return errors[0]

    @faultpoints.before("drain.end")
    async def _goodbye(self, broker: AsyncBroker, state: State, *, settled: bool) -> None:
        if settled:  # else Redis does not answer anyway, and the record lapses by itself
            try:
                async with asyncio.timeout(1.0):
                    await broker.retire(state.id)
            except (*UNANSWERED, TimeoutError):
                pass  # as above
        self._health.remove()
        ended: dict[str, Any] = {key: count for key, count in state.counters.items() if "." not in key and count}
        self._emit("worker.stopped", worker=state.id, killed=state.killed, **ended)


async def _first_failure(loop: asyncio.AbstractEventLoop) -> None:
    """Raise what the first callback raises that fails: the loop alone would log it, and go on without what it did.

    That may have been the end of a task, which would be held, and its lease renewed, for as long as the worker lives.
    """
    failed: asyncio.Future[None] = loop.create_future()

    def heed(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or "handle" not in context or failed.done():  # of a transport, or of a task that nobody awaits
            loop.default_exception_handler(context)
        else:
            failed.set_exception(error)

    loop.set_exception_handler(heed)
    try:
        await failed
    finally:
        loop.set_exception_handler(None)


def slots_for(given: Mapping[PoolKind, int], needs: frozenset[PoolNeed]) -> dict[PoolKind, int]:
    """Return the slots of each pool: those that were asked for, and a pool for whatever else the tasks need."""
    slots = dict(given)
    for need in sorted(needs):
        if need != "default" and need not in slots:
            slots[need] = default_slots(need)
    return slots


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _warnings(facts: ServerFacts) -> Iterator[str]:
    """Say what makes a server less than it should be, though not unfit."""
    if facts.eviction_policy is None:
        yield "the server does not tell its eviction policy: make sure that it is noeviction"
    elif facts.eviction_policy != "noeviction":
        goes = (
            "queued tasks may go"
            if facts.eviction_policy.startswith("allkeys-")
            else "results may go before their time"
        )
        yield f"the server's eviction policy is {facts.eviction_policy}: {goes}"
    if facts.append_only is False and not facts.snapshots:
        yield "the server writes nothing to disk: when it restarts, queued tasks are gone (appendonly yes keeps them)"
