"""The surroundings of one role of the worker: a broker and pools that do what a test says, and a state between them.

    async with roles(process=2) as w:     # a state, fakes, and the roles
        w.broker.script("claim", window("c1", task("a")))
        w.run(w.fetcher.run())
        await w.broker.called("settle", 1)

A scripted reply is a value, an exception, or a future that the test resolves when the reply shall come.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Container, Coroutine, Iterable, Mapping, Sequence
from typing import Any

from qworker import clock, codec
from qworker.broker.values import ServerMemory, SettleReply
from qworker.config import Settings
from qworker.model import (
    Claimed,
    Ending,
    Header,
    Line,
    Order,
    PoolNeed,
    Progress,
    Record,
    Renewal,
    Rescued,
    Settle,
    Window,
)
from qworker.pool.facts import RunningTask
from qworker.worker.collect import Collector
from qworker.worker.dispatch import Dispatcher
from qworker.worker.fetcher import Fetcher
from qworker.worker.keeper import Keeper
from qworker.worker.lease import Lease
from qworker.worker.lender import Lender
from qworker.worker.settler import Settler
from qworker.worker.standing import Standing
from qworker.worker.state import State
from qworker.worker.window import Room

NOW_MS = 1_700_000_000_000
WITHIN_S = 5.0


def blob(name: str = "t", *, need: PoolNeed = "default", client: str = codec.NOBODY, **header: Any) -> bytes:
    """A task as it is stored."""
    packed = codec.pack_header(Header(name, **header))
    return codec.pack_envelope(header=packed, body=codec.pack_body((), {}), line=Line(need), client=client, sent_ms=0)


def task(local: str, *, record: Record | None = None, content: bytes | None = None, **options: Any) -> Claimed:
    """One task of a window."""
    content = blob(**options) if content is None else content
    return Claimed(local, content, record or Record(deliveries=1))


def window(claim: str, *tasks: Claimed, queue: str = "default", **fields: Any) -> Window:
    """What one claim brings."""
    facts = {"fence": 1, "now_ms": NOW_MS, "epoch": "e", "next_due_ms": None, "suspects": 0, "rescued": 0} | fields
    return Window(queue=queue, claim=claim, tasks=tasks, **facts)


def renewal(*, lost: Iterable[str] = (), stops: Iterable[Any] = ()) -> Renewal:
    return Renewal(NOW_MS, "e", tuple(lost), tuple(stops))


class Call(dict[str, Any]):
    """The arguments of one call of a verb."""


class FakeBroker:
    """Answers each verb as scripted, in order; what is not scripted gets the answer of an empty, healthy server."""

    def __init__(self) -> None:
        self.calls: dict[str, list[Call]] = defaultdict(list)
        self._scripts: dict[str, deque[Any]] = defaultdict(deque)
        self._changed = asyncio.Event()

    def script(self, verb: str, *replies: Any) -> None:
        self._scripts[verb].extend(replies)

    def later(self, verb: str) -> asyncio.Future[Any]:
        """Script a reply that comes when the test resolves it."""
        reply = asyncio.get_running_loop().create_future()
        self.script(verb, reply)
        return reply

    async def called(self, verb: str, count: int = 1) -> Call:
        """Wait for the `count`th call of a verb."""
        async with asyncio.timeout(WITHIN_S):
            while len(self.calls[verb]) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.calls[verb][count - 1]

    async def _answer(self, verb: str, default: Any, **arguments: Any) -> Any:
        self.calls[verb].append(Call(arguments))
        self._changed.set()
        reply = self._scripts[verb].popleft() if self._scripts[verb] else default
        if isinstance(reply, asyncio.Future):
            reply = await reply
        else:
            await asyncio.sleep(0)  # as any call
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def claim(self, queue: str, **arguments: Any) -> Window:
        answer: Window = await self._answer("claim", window(arguments["claim"], queue=queue), queue=queue, **arguments)
        return answer

    async def settle(self, queue: str, items: Sequence[Settle], **arguments: Any) -> SettleReply:
        default = settled(*["ok"] * len(items))
        answer: SettleReply = await self._answer("settle", default, queue=queue, items=list(items), **arguments)
        return answer

    async def claim_ids(self, queue: str, ids: Sequence[str], **arguments: Any) -> Window:
        default = window(arguments["claim"], queue=queue)
        answer: Window = await self._answer("claim_ids", default, queue=queue, ids=list(ids), **arguments)
        return answer

    async def renew(self, queue: str, **arguments: Any) -> Renewal:
        answer: Renewal = await self._answer("renew", renewal(), queue=queue, **arguments)
        return answer

    async def wait_bell(self, queues: Sequence[str], pools: Sequence[str], timeout_s: float) -> Any:
        never = asyncio.get_running_loop().create_future()
        return await self._answer("wait_bell", never, queues=tuple(queues), pools=tuple(pools), timeout_s=timeout_s)

    async def ring(self, queue: str, pool: str) -> None:
        await self._answer("ring", None, queue=queue, pool=pool)

    async def workers(self, *, but: Container[str] = ()) -> Any:
        return tuple(record for record in await self._answer("workers", (), but=but) if record.id not in but)

    async def rescue_worker(self, queue: str, worker: str) -> Any:
        return await self._answer("rescue_worker", Rescued(0), queue=queue, worker=worker)

    async def memory(self) -> Any:
        return await self._answer("memory", ServerMemory(1, 0, "noeviction"))

    async def retire(self, worker: str) -> None:
        await self._answer("retire", None, worker=worker)

    async def read_groups(self, groups: Sequence[str]) -> Any:
        return await self._answer("read_groups", tuple(("open", None) for _ in groups), groups=list(groups))

    async def beat_groups(self, groups: Sequence[str]) -> Any:
        return await self._answer("beat_groups", (), groups=list(groups))

    async def stop_group(self, group: str, **arguments: Any) -> Any:
        return await self._answer("stop_group", "stopped", group=group, **arguments)

    async def beat(self, record: Any, *, ttl_ms: int, listed: bool = False) -> Any:
        return await self._answer("beat", None, record=record, ttl_ms=ttl_ms, listed=listed)


def settled(*codes: str, stops: Iterable[Any] = ()) -> SettleReply:
    return SettleReply(tuple(codes), tuple(stops))  # type: ignore[arg-type]


class FakePool:
    """Takes orders and runs nothing. A test says what is unstarted, what runs, and what ends."""

    def __init__(self, kind: str, events: Collector) -> None:
        self.kind, self._events = kind, events
        self.orders: dict[int, Order] = {}  # held, whether started or not
        self.started: dict[int, float] = {}  # number -> ran_s
        self.asked: list[tuple[int, str, float | None]] = []
        self.forgotten: list[int] = []
        self.allowed_ns = 0
        self.looked_again = 0
        self.closed_with: float | None = None
        self.left: list[Any] = []
        self.pages_read = 0
        self.batches: list[list[str]] = []  # the local ids of each put
        self.shown: dict[int, Progress] = {}  # number -> what its slot shows
        self.printed: dict[int, list[str]] = {}
        self.annex = self
        self.free = 0
        self.lent: list[str] = []  # the local ids of what was lent, however it came
        self.permitted: list[int] = []
        self.refused: list[int] = []
        self.cycles: list[int] = []  # refused because they wait for each other
        self.stuck = False  # every slot and place waits

    def put(self, orders: Sequence[Order]) -> None:
        self.batches.append([order.id.partition(":")[2] for order in orders])
        for order in orders:
            self.orders[order.number] = order

    def permit(self, numbers: Iterable[int]) -> None:
        self.permitted += numbers

    def lend(self, orders: Sequence[Order]) -> None:
        for order in orders:
            self.lent.append(order.id.partition(":")[2])
            self.orders[order.number] = order

    def advance(self, number: int) -> bool:
        if number in self.started or number not in self.orders:
            return False
        self.lent.append(self.orders[number].id.partition(":")[2])
        return True

    def all_wait(self, waiting: Callable[[int], bool]) -> bool:
        return self.stuck and all(map(waiting, self.started))

    def refuse_wait(self, number: int, *, cycle: bool = False) -> None:
        (self.cycles if cycle else self.refused).append(number)

    def ask(self, number: int, reason: str, grace_s: float | None = None) -> bool:
        self.asked.append((number, reason, grace_s))
        return number in self.orders

    def recall(self) -> list[int]:
        """Everything whose token no child has taken: a test lists in `started` what has one."""
        numbers = [number for number in self.orders if number not in self.started]
        for number in numbers:
            del self.orders[number]
        return numbers

    def holds(self, number: int) -> bool:
        return number in self.orders

    def forget(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            self.forgotten.append(number)
            if number in self.orders:
                kind = "killed" if number in self.started else "unstarted"
                self.end(number, kind, asked="fenced")

    def allow_until(self, start_until_ns: int) -> None:
        self.allowed_ns = start_until_ns

    def look_again(self) -> None:
        self.looked_again += 1

    def running(self) -> list[RunningTask]:
        self.pages_read += 1
        return [
            RunningTask(number, self.orders[number].id, self.orders[number].name, 1, 0, ran_s)
            for number, ran_s in self.started.items()
            if ran_s >= 0  # below: its token is taken, and its page does not show it yet
        ]

    def progress(self, number: int, slot: int) -> Progress | None:
        return self.shown.get(number)

    def lines(self, number: int) -> tuple[str, ...]:
        return tuple(self.printed.get(number, ()))

    def survivors(self) -> list[Any]:
        return self.left

    async def close(self, *, kill_after_s: float) -> None:
        self.closed_with = kill_after_s
        for number in list(self.orders):
            self.end(number, "killed", asked="drain" if any(number == asked for asked, *_ in self.asked) else None)

    def end(self, number: int, kind: str, **fields: Any) -> None:
        """One order ends; told to the collector as a pool tells it."""
        self.orders.pop(number, None)
        self.started.pop(number, None)
        self._events.endings([Ending(number, kind, **fields)])  # type: ignore[arg-type]

    def number_of(self, local: str) -> int:
        """The number of the order that is held of this id."""
        return next(number for number, order in self.orders.items() if order.id.endswith(f":{local}"))


class World:
    """A worker without its daemon."""

    def __init__(self, settings: Settings, names: Iterable[str]) -> None:
        self.events: list[tuple[str, str, dict[str, Any]]] = []
        self.answers: list[bool] = []  # what the roles told of their calls
        self.broker: Any = FakeBroker()
        self.state = State(
            id="box:1:abcd", settings=settings, queues=settings.queues, slots=settings.concurrency,
            names=frozenset(names), emit=self._emit, lease=Lease(settings.lease_s),
        )  # fmt: skip
        self.collector = Collector(self.state)
        self.pools: dict[str, FakePool] = {}
        for kind, slots in settings.concurrency.items():
            self.pools[kind] = FakePool(kind, self.collector)
            self.state.pools[kind] = self.pools[kind]  # type: ignore[assignment]
            fixed = None if settings.window == "auto" else settings.window
            self.state.rooms[kind] = Room(slots, fixed=fixed)
        self.standing = Standing(self.state)
        self.settler = Settler(
            self.broker, self.state.ledger, self.state.id, self.standing,
            now_ms=lambda: NOW_MS,
            on_settled=self.collector.settled,
            on_stops=lambda queue, stops: self.keeper.stops(queue, stops),
            on_call=lambda _, error: self.answers.append(error is None),
            on_empty=self.state.wake.set,
        )  # fmt: skip
        self.collector.settler = self.settler
        self.dispatcher = Dispatcher(self.state, self.broker, self.settler)
        self.collector.stopped_group_of = self.dispatcher.groups.stopped_of
        self.collector.record_starts = self.dispatcher.record_starts
        on_call = lambda _, error: self.answers.append(error is None)  # noqa: E731
        self.keeper = Keeper(self.state, self.broker, self.dispatcher, on_call=on_call)
        self.fetcher = Fetcher(self.state, self.broker, self.dispatcher, self.standing, on_call=on_call)
        self.lender = Lender(self.state, self.broker, self.dispatcher, self.collector.waits, on_call=on_call)
        self._running: list[asyncio.Task[Any]] = []

    @property
    def pool(self) -> FakePool:
        """The only pool."""
        (pool,) = self.pools.values()
        return pool

    def run(self, *roles: Coroutine[Any, Any, Any]) -> None:
        """Run roles until the test ends; one that fails fails the test."""
        self._running += [asyncio.ensure_future(role) for role in roles]

    def accept(self, *tasks: Claimed, claim: str = "c1", **fields: Any) -> None:
        """Take a window in, as if its claim had been answered now."""
        brought = window(claim, *tasks, **fields)
        self.dispatcher.accept(brought, clock.now(), alone=brought.alone)

    def held(self, local: str, queue: str = "default") -> Any:
        return self.state.ledger.by_id[f"{queue}:{local}"]

    def told(self, name: str) -> list[dict[str, Any]]:
        """The fields of the events of this name."""
        return [fields for event, _, fields in self.events if event == name]

    async def settles(self, count: int) -> list[Settle]:
        """Wait until so many items were settled, in whatever calls, and return all."""
        calls = 0
        while len(items := [item for call in self.broker.calls["settle"] for item in call["items"]]) < count:
            calls += 1
            await self.broker.called("settle", calls)
        return items

    def _emit(self, name: str, /, *, level: str = "info", **fields: Any) -> None:
        self.events.append((name, level, fields))

    async def close(self) -> None:
        for role in self._running:
            role.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for role in self._running:
            if not role.cancelled() and (error := role.exception()) is not None:
                raise error


@contextlib.asynccontextmanager
async def roles(
    *, names: Iterable[str] = ("t",), queues: tuple[str, ...] = ("default",), settings: dict[str, Any] | None = None,
    servers: Mapping[str, str] | None = None, **slots: int,
) -> AsyncIterator[World]:  # fmt: skip
    """A world with these slots; two process slots unless told otherwise. `servers`: of each queue, on a cluster."""
    queues = tuple(servers) if servers else queues
    concurrency = slots or {"process": 2}
    pool = "process" if "process" in concurrency else next(iter(concurrency))
    world = World(Settings(concurrency=concurrency, pool=pool, queues=queues, **(settings or {})), names)  # type: ignore[arg-type]
    if servers:
        world.state.server_of = servers.get
    try:
        yield world
    finally:
        await world.close()


async def turn(times: int = 20) -> None:
    """Let everything that is ready run."""
    for _ in range(times):
        await asyncio.sleep(0)
