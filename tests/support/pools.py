"""Run a real pool in a test, without Redis: a Host, a Pool, and a recorder of everything that it tells.

async with a_pool("process", 2) as pool:
    ending = await pool.run("echo", 1)
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from qworker import codec
from qworker.model import Ending, ErrorInfo, Header, Line, Order, PoolKind
from qworker.pool import patrol
from qworker.pool.host import Host
from qworker.pool.pool import Pool
from support.waiting import await_until

APPS = Path(__file__).parent / "apps"
TARGET = "pool_tasks:app"

_numbers = itertools.count(1)


def make_order(
    name: str,
    *args: Any,
    timeout_s: float | None = None,
    grace_s: float = 5.0,
    alone: bool = False,
    deadline_s: float | None = None,
    handed: float = 0.0,
    blob: bytes | None = None,
    interrupt: bool = False,
    on_permit: bool = False,
    **header: Any,
) -> Order:
    """An order for one of the tasks in `apps/pool_tasks.py`, or for one that is named in full."""
    number = next(_numbers)
    full = name if "." in name else f"pool_tasks.{name}"
    if blob is None:
        packed = codec.pack_header(Header(name=full, extra={"i": True} if interrupt else {}, **header))
        body = codec.pack_body(args, {})
        blob = codec.pack_envelope(header=packed, body=body, line=Line(), client=" " * 12, sent_ms=0)
    return Order(
        number=number,
        id=f"default:task-{number}",
        name=full,
        blob=blob,
        run=1,
        attempt=1,
        fence=7,
        timeout_s=timeout_s,
        grace_s=grace_s,
        alone=alone,
        deadline_s=deadline_s,
        handed=handed,
        interrupt=interrupt,
        on_permit=on_permit,
    )


def value_of(ending: Ending) -> Any:
    """The value that a task returned."""
    assert ending.kind == "returned", (ending, ending.payload and codec.unpack_error(ending.payload))
    return codec.unpack_value(ending.payload)


def error_of(ending: Ending) -> ErrorInfo:
    """The error that came with an ending."""
    return codec.unpack_error(ending.payload)


class Recorder:
    """An Events that keeps everything."""

    def __init__(self) -> None:
        self.ended: dict[int, Ending] = {}
        self.ended_at: dict[int, float] = {}
        self.lines: list[tuple[int, str, str, Mapping[str, Any] | None]] = []
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.wanted: list[list[int]] = []  # whose starts were to be permitted, call by call
        self.seen: list[int] = []
        self.told: list[tuple[Any, ...]] = []  # what tasks told of themselves: waits, cursors, groups

    def endings(self, endings: list[Ending]) -> None:
        now = asyncio.get_running_loop().time()
        for ending in endings:
            assert ending.number not in self.ended, f"order {ending.number} ended twice: {ending}"
            self.ended[ending.number] = ending
            self.ended_at[ending.number] = now

    def permit_wanted(self, numbers: list[int]) -> None:
        self.wanted.append(numbers)

    def started(self, numbers: list[int]) -> None:
        self.seen.extend(numbers)

    def output(self, number: int, stream: str, text: str, fields: Mapping[str, Any] | None) -> None:
        self.lines.append((number, stream, text, fields))

    def waiting(self, number: int, ids: list[str], more: bool) -> None:
        self.told.append(("waiting", number, ids, more))

    def resumed(self, number: int) -> None:
        self.told.append(("resumed", number))

    def cursor(self, number: int, cursor: bytes) -> None:
        self.told.append(("cursor", number, cursor))

    def progressed(self, number: int, slot: int) -> None:
        self.told.append(("progressed", number, slot))

    def group(self, number: int, id: str, opened: bool) -> None:  # noqa: A002
        self.told.append(("group", number, id, opened))

    def event(self, name: str, level: str, **fields: Any) -> None:
        self.log.append((name, {"level": level, **fields}))

    def on_host(self, name: str, level: str, fields: dict[str, Any]) -> None:
        self.event(name, level, **fields)

    def named(self, name: str) -> list[dict[str, Any]]:
        """The fields of all events of that name."""
        return [fields for event, fields in self.log if event == name]


class PoolUnderTest:
    """A pool, its host and its recorder, and the few waits that tests need."""

    def __init__(self, host: Host, pool: Pool, heard: Recorder) -> None:
        self.host = host
        self.pool = pool
        self.heard = heard

    def put(self, name: str, *args: Any, **options: Any) -> int:
        """Put one order; returns its number."""
        order = make_order(name, *args, **options)
        self.pool.put([order])
        return order.number

    async def ending(self, number: int, *, timeout: float = 10.0) -> Ending:
        """Wait for the end of an order."""
        return await await_until(
            lambda: self.heard.ended.get(number), timeout=timeout, description=f"the end of order {number}"
        )

    async def value(self, order: Order) -> Any:
        """Wait for what an order returns. One that came back unstarted is put again, as the worker does in the end."""
        while (ending := await self.ending(order.number)).detail == "stalled":
            order = order._replace(number=next(_numbers))
            self.pool.put([order])
        return value_of(ending)

    async def run(self, name: str, *args: Any, **options: Any) -> Ending:
        """Put one order and wait for its end; put it again when it comes back because all slots stood still.

        A busy machine may need the half second after which that happens to start a child. A worker does the same.
        """
        while True:
            ending = await self.ending(self.put(name, *args, **options))
            if (ending.kind, ending.detail) != ("unstarted", "stalled"):
                return ending

    async def running(self, number: int) -> Any:
        """Wait until a page shows the order to run."""
        return await await_until(
            lambda: next((task for task in self.pool.running() if task.number == number), None),
            description=f"order {number} runs",
        )


# What a pool takes for a child that does not answer, or for orders that nobody starts, may be a machine that has no
# processor for them. Where that is not what a test proves, its pool has the patience of `await_until`.
_PATIENCE = {"_WEDGED_S": 10.0, "_GIVE_UP_S": 10.0, "_AGED_S": 10.0}


@asynccontextmanager
async def a_pool(
    kind: PoolKind, slots: int, *, target: str = TARGET, prompt: bool = False, **options: Any
) -> AsyncIterator[PoolUnderTest]:
    """A started pool; closed, with all that it started, at the end.

    `prompt`: as in a worker, it replaces a child that is silent for 250 ms, and returns what waits for half a second.
    """
    with pytest.MonkeyPatch.context() as patched:
        for name, seconds in () if prompt else _PATIENCE.items():
            patched.setattr(patrol, name, seconds)
        async with _a_pool(kind, slots, target, options) as pool:
            yield pool


@asynccontextmanager
async def _a_pool(kind: PoolKind, slots: int, target: str, options: dict[str, Any]) -> AsyncIterator[PoolUnderTest]:
    heard = Recorder()
    host = Host(heard.on_host)
    try:
        await host.start([target], APPS)
        pool = Pool(kind, slots, host, heard, **options)
        try:
            await pool.start()
            yield PoolUnderTest(host, pool, heard)
        finally:
            await pool.close(kill_after_s=0)
    finally:
        await host.close()
