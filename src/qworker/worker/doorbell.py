"""What an idle worker listens to: the bells of the pools that it has room for.

    fetcher ── listen(needs) ─► ears ── BLPOP of what no ear covers yet ─► rung        for a pool with room
                                                                        └► ring again  for one that filled up meanwhile

A BLPOP cannot be changed while it waits, and one that is cut off may take a ring with it. So when room opens in another
pool a second one is sent for that pool's bells, which ends with the first; then one listens to all again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from ..broker.aio import AsyncBroker
from ..model import PoolNeed
from .state import UNANSWERED

_SHORTEST_S = 0.05


class Doorbell:
    """The ears of one worker. Owned by the event loop."""

    def __init__(
        self,
        broker: AsyncBroker,
        queues: tuple[str, ...],
        *,
        listen_s: float,
        has_room: Callable[[PoolNeed], bool],
        wake: Callable[[], None],
    ) -> None:
        """Make one; `wake` is called when it rang, and when an ear has ended."""
        self._broker, self._queues, self._listen_s, self._has_room = broker, queues, listen_s, has_room
        self._wake = wake
        self._ears: dict[asyncio.Task[None], tuple[frozenset[PoolNeed], float]] = {}  # what it hears, and until when
        # It rang for something that this worker has room for; cleared by who claims.
        self.rung = False

    def listen(self, needs: Iterable[PoolNeed]) -> None:
        """See to it that these bells are heard from now on. Raises what ended an ear."""
        for ear in [ear for ear in self._ears if ear.done()]:
            del self._ears[ear]
            ear.result()
        missing = frozenset(needs).difference(*(heard for heard, _ in self._ears.values()))
        if missing:
            now = time.monotonic()
            ends = min((until for _, until in self._ears.values()), default=now + self._listen_s)
            ends = max(ends, now + _SHORTEST_S)
            ear = asyncio.create_task(self._hear(missing, ends - now), name="bell")
            ear.add_done_callback(self._ended)
            self._ears[ear] = (missing, ends)

    async def hush(self) -> None:
        """Listen no longer: what this worker gives back rings for the others. Raises what ended an ear."""
        ears, self._ears = list(self._ears), {}
        for ear in ears:
            ear.cancel()
        if ears:
            await asyncio.wait(ears)
        for ear in ears:
            if not ear.cancelled():
                ear.result()

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._wake()

    async def _hear(self, needs: frozenset[PoolNeed], timeout_s: float) -> None:
        # In the order of their names: the calls of a worker look alike.
        heard = await self._broker.wait_bell(self._queues, sorted(needs), timeout_s=timeout_s)
        if heard is None:
            return
        if self._has_room(heard.pool):
            self.rung = True
            self._wake()
            return
        try:
            await self._broker.ring(heard.queue, heard.pool)
        except UNANSWERED:
            pass  # a hint that is lost: an idle worker looks once a second by itself
