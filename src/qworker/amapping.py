"""`task.amap`: see mapping.py. One asyncio task takes inputs and submits them, the generator gives values out.

inputs ─► _Pump.run: gather ─► send, on a thread ─► line ─► values()
               ▲                                             │
               └───────────────── more ◄─────────────────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from .mapping import PATIENCE_S, Flight, Item
from .model import Draft

if TYPE_CHECKING:
    from .future import Future

__all__ = ["values"]


async def values(
    flight: Flight, items: Iterable[Any] | AsyncIterable[Any], *, ordered: bool
) -> AsyncGenerator[Any, None]:
    """Yield the value of each item, in their order or as they end, without blocking the event loop."""
    pump = _Pump(flight, ordered=ordered)
    source = _Stream(items) if isinstance(items, AsyncIterable) else _Plain(items)
    running = asyncio.create_task(pump.run(source), name="qworker-amap")
    try:
        while (item := await pump.line.get()) is not None:
            value = await _outcome(flight, item, running)
            pump.more.set()
            yield value
        await running  # raises what ended the input, or the submitting
    finally:
        running.cancel()
        await asyncio.wait({running})
        if flight.under_way:
            await asyncio.to_thread(flight.stop)


class _Pump:
    """Takes inputs and submits them while the window has room. Owned by one generator."""

    def __init__(self, flight: Flight, *, ordered: bool) -> None:
        self._flight = flight
        self._ordered = ordered
        self._awaited: set[asyncio.Task[None]] = set()
        self.line: asyncio.Queue[Item | None] = asyncio.Queue()  # None: no more will come
        self.more = asyncio.Event()  # something was given out

    async def run(self, source: _Plain | _Stream) -> None:
        flight = self._flight
        try:
            while not flight.exhausted:
                while not flight.hungry:
                    self.more.clear()
                    await self.more.wait()
                batch = await source.gather(flight)
                for item in await self._send(batch):
                    if self._ordered or isinstance(item, Exception):
                        self.line.put_nowait(item)
                    else:
                        self._await(item)
            while self._awaited:
                await asyncio.wait(self._awaited)
        except Exception:
            while not self.line.empty():
                self.line.get_nowait()  # the error comes before what is left
            raise
        finally:
            for task in self._awaited:
                task.cancel()
            await source.close()
            self.line.put_nowait(None)

    async def _send(self, batch: list[Draft | Exception]) -> list[Item]:
        drafts = self._flight.launch(batch)
        sending = asyncio.ensure_future(asyncio.to_thread(self._flight.app.send, drafts))
        try:
            futures = await asyncio.shield(sending)
        except asyncio.CancelledError:
            # What it submits meanwhile is to be stopped: not before it is there.
            await asyncio.wait({sending})
            if not sending.cancelled():
                sending.exception()
            raise
        return self._flight.launched(batch, futures)

    def _await(self, future: Future[Any]) -> None:
        task = asyncio.create_task(self._put_when_ended(future))
        self._awaited.add(task)
        task.add_done_callback(self._awaited.discard)

    async def _put_when_ended(self, future: Future[Any]) -> None:
        await _ended(future)
        self.line.put_nowait(future)


class _Plain:
    """An iterable as the input."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items: Iterator[Any] = iter(items)

    async def gather(self, flight: Flight) -> list[Draft | Exception]:
        return flight.gather(self._items)[0]

    async def close(self) -> None:
        pass


class _Stream:
    """An asynchronous iterable as the input: what does not come soon is waited for after the rest was submitted."""

    def __init__(self, items: AsyncIterable[Any]) -> None:
        self._items: AsyncIterator[Any] = aiter(items)
        self._coming: asyncio.Task[Any] | None = None

    async def gather(self, flight: Flight) -> list[Draft | Exception]:
        batch: list[Draft | Exception] = []
        for _ in range(flight.most):
            if self._coming is None:
                self._coming = asyncio.create_task(self._next())
            done, _ = await asyncio.wait({self._coming}, timeout=PATIENCE_S if batch else None)
            if not done:
                break
            coming, self._coming = self._coming, None
            try:
                item = coming.result()
            except StopAsyncIteration:
                flight.exhausted = True
                break
            batch.append(flight.draft(item))
        return batch

    async def close(self) -> None:
        if self._coming is not None:
            self._coming.cancel()
            await asyncio.wait({self._coming})

    async def _next(self) -> Any:
        return await anext(self._items)


async def _ended(future: Future[Any]) -> None:
    try:
        await future
    except Exception:  # noqa: S110 - its outcome, or why there is none: raised where it is given out
        pass


async def _outcome(flight: Flight, item: Item, pump: asyncio.Task[None]) -> Any:
    """Wait for one item, and give it out. Raises what ended the pump, as soon as that has happened."""
    if isinstance(item, Exception):
        return flight.given(None, item, None)
    try:
        if not item.done() and not pump.done():
            waiting = asyncio.ensure_future(_ended(item))
            try:
                await asyncio.wait({waiting, pump}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            if pump.done():
                pump.result()
        value = await item
    except Exception as error:
        if not item.done():
            raise  # what keeps us from knowing is nobody's outcome
        return flight.given(None, error, item)
    return flight.given(value, None, item)
