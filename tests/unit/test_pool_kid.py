"""A child with many orders is read once in a while, so that what it says together is heard together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from qworker.model import Order
from qworker.pool import frames
from qworker.pool import kid as kid_module
from qworker.pool.kid import Entry, Kid
from qworker.pool.orders import Plan


class Child:
    """A kid without a process: what it says is written here, and what was heard of it is kept."""

    def __init__(self, slots: int, orders: int) -> None:
        self.kid = Kid(Plan(slots, slots, threads=slots > 1, title="child"), 0)
        order = Order._make(None for _ in Order._fields)
        self.kid.entries.update({number: Entry(order, 0.0, 0.0) for number in range(orders)})
        self.heard = 0
        self._more = asyncio.Event()
        self.kid.listen(self._read)

    def say(self, size: int = 1) -> None:
        """Say something of so many bytes, and a few."""
        os.write(self.kid._theirs_out, frames.pack_frame(frames.STACK, 1, "x" * size))

    async def hears(self) -> None:
        await self._more.wait()
        self._more.clear()

    def _read(self, kid: Kid) -> None:
        self.heard += len(list(kid.read()))
        self._more.set()


@asynccontextmanager
async def child(slots: int, orders: int) -> AsyncIterator[Child]:
    one = Child(slots, orders)
    yield one
    one.kid.close()


async def turns() -> None:
    """Let the loop look at its readers."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("slots", "orders", "size", "heard"),
    [
        pytest.param(100, 100, 1, 1, id="a crowd: later"),
        pytest.param(100, 8, 1, 2, id="few orders: at once"),
        pytest.param(1, 100, 1, 2, id="one slot: at once"),
        pytest.param(100, 100, 5000, 2, id="it has much to say: at once"),
    ],
)
def test_how_soon_a_child_is_read_again(
    monkeypatch: pytest.MonkeyPatch, slots: int, orders: int, size: int, heard: int
) -> None:
    monkeypatch.setattr(kid_module, "_PAUSE_S", 3600.0)

    async def scene() -> int:
        async with child(slots, orders) as one:
            one.say(size)
            await one.hears()
            one.say()
            await turns()
            return one.heard

    assert asyncio.run(scene()) == heard


def test_what_a_crowd_said_meanwhile_is_heard() -> None:
    async def scene() -> int:
        async with child(100, 100) as one:
            for _ in range(3):
                one.say()
                await one.hears()
            return one.heard

    assert asyncio.run(asyncio.wait_for(scene(), 20)) == 3


def test_a_child_that_is_closed_in_the_pause_is_not_listened_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kid_module, "_PAUSE_S", 0.0)

    async def scene() -> None:
        failed: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context))
        async with child(100, 100) as one:
            one.say()
            await one.hears()
        await turns()
        assert not failed

    asyncio.run(scene())
