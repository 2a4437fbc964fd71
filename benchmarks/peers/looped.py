"""The adapter of a contestant whose client is for asyncio alone: its synchronous verbs run on one loop, kept open.

    submit, result, … ──► run() on the adapter's own loop ─┐
    asubmit on the loop of base.py ────────────────────────┴─► client(): one connected client for each loop

No loop is started per call, as no user of such a client would; it is uvloop's, as every one would.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, ClassVar

import base
import uvloop


class LoopPeer(base.Peer):
    waiters: ClassVar[int] = 1  # how many results are waited for at a time
    at_once: ClassVar[int] = 0  # how many submits are under way at once in bulk, where there is no call for many

    def open(self) -> None:
        self._clients: dict[asyncio.AbstractEventLoop, Any] = {}
        self._holders: set[asyncio.Task[None]] = set()
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self.client())

    def close(self) -> None:
        self._runner.close()  # cancels the holder, which disconnects

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._runner.get_loop().run_until_complete(work)  # Runner.run would handle signals anew at each call

    @contextlib.asynccontextmanager
    async def connect(self) -> AsyncIterator[Any]:
        """Connect a client on the running loop, and disconnect it at the end."""
        yield None

    async def client(self) -> Any:
        """Return the client of the running loop, connected at the first call."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            ready = loop.create_future()
            self._holders.add(loop.create_task(self._hold(ready)))
            self._clients[loop] = await ready
        return self._clients[loop]

    async def _hold(self, ready: asyncio.Future[Any]) -> None:
        """Stay within `connect` until the loop ends: some clients must be left in the task that entered them."""
        try:
            async with self.connect() as client:
                ready.set_result(client)
                await asyncio.Event().wait()
        except Exception as error:
            if ready.done():
                raise
            ready.set_exception(error)

    def submit(self, task: str, body: str) -> Any:
        return self.run(self.asubmit(task, body))

    def submit_many(self, task: str, bodies: list[str]) -> list[Any]:
        return self.run(self.asubmit_many(task, bodies))

    async def asubmit_many(self, task: str, bodies: list[str]) -> list[Any]:
        """Submit by the contestant's own call for many, or else `at_once` of them at a time."""
        if not self.at_once:
            raise base.NotOfferedError("no bulk submit")
        handles: list[Any] = []
        while len(handles) < len(bodies):
            batch = bodies[len(handles) : len(handles) + self.at_once]
            handles += await asyncio.gather(*(self.asubmit(task, body) for body in batch))
        return handles

    def result(self, handle: Any) -> str:
        return self.run(self.aresult(handle))

    async def aresult(self, handle: Any) -> str:
        raise base.NotOfferedError("no results")

    def results(self, handles: list[Any]) -> list[str]:
        return self.run(self._all_results(handles))

    async def _all_results(self, handles: list[Any]) -> list[str]:
        values: list[Any] = [None] * len(handles)
        left = iter(enumerate(handles))

        async def wait_in_turn() -> None:
            for index, handle in left:
                values[index] = await self.aresult(handle)

        await asyncio.gather(*(wait_in_turn() for _ in range(self.waiters)))
        return values
