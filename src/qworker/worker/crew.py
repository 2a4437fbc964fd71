"""The roles of one worker, joined: what a daemon runs in its process, and a simulation in none.

    Crew(state, broker, pools, …) ─► start() ─► run(): until a signal, a burst's end or a loss ─► drain ─► close()

Whatever is the process's own (its fork server, its server's address, its exit code) is the daemon's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ..broker.aio import AsyncBroker
from ..health import Aside as HealthFile
from ..model import PoolKind
from ..pool.facts import Events
from ..pool.pool import Pool
from .beacon import Beacon
from .collect import Collector
from .dispatch import Dispatcher
from .drain import Drain
from .fetcher import Fetcher
from .keeper import Keeper
from .lender import Lender
from .neighbours import Neighbours
from .settler import Settler
from .signals import Signals
from .standing import Standing
from .state import OnCall, State
from .stopper import listen
from .window import Room


class Crew:
    """All roles around one state. Owned by the event loop."""

    def __init__(
        self,
        state: State,
        broker: AsyncBroker,
        pool: Callable[[PoolKind, int, Events], Pool],
        neighbours: Neighbours,
        health: HealthFile,
        *,
        on_call: OnCall,
    ) -> None:
        """Join the roles; nothing runs yet. `pool` makes the pool of a kind, with so many slots."""
        self.state, self._broker, self._neighbours = state, broker, neighbours
        self.collector = collector = Collector(state)
        fixed = None if state.settings.window == "auto" else int(state.settings.window)
        for kind, slots in state.slots.items():
            state.pools[kind] = pool(kind, slots, collector)
            state.rooms[kind] = Room(slots, fixed=fixed)
        standing = Standing(state)
        self.settler = Settler(
            broker, state.ledger, state.id, standing,
            now_ms=state.server_ms,
            on_settled=collector.settled,
            on_stops=lambda queue, stops: self.keeper.stops(queue, stops),
            on_call=on_call,
            on_empty=state.wake.set,
        )  # fmt: skip
        collector.settler = self.settler
        self.dispatcher = Dispatcher(state, broker, self.settler)
        collector.stopped_group_of = self.dispatcher.groups.stopped_of
        collector.record_starts = self.dispatcher.record_starts
        self.keeper = Keeper(state, broker, self.dispatcher, on_call=on_call)
        self.fetcher = Fetcher(state, broker, self.dispatcher, standing, on_call=on_call)
        self.lender = Lender(state, broker, self.dispatcher, collector.waits, on_call=on_call)
        self.beacon = Beacon(state, broker, neighbours, health)
        collector.changed = self.dispatcher.changed = self.beacon.changed
        self.signals = Signals(state, dump=self._dump, changed=self.beacon.changed)

    async def start(self) -> None:
        """Open the pools, and put back what workers of this host left that are gone."""
        for pool in self.state.pools.values():
            await pool.start()
        await self._neighbours.rescue_first()

    async def run(self) -> None:
        """Work until the end is asked for, then drain. Raises the group of whatever ends a role before."""
        state, beacon, groups = self.state, self.beacon, self.dispatcher.groups
        drain = Drain(
            state, self.fetcher, self.lender, self.dispatcher, self.collector, self.settler, self.signals
        )  # fmt: skip
        async with asyncio.TaskGroup() as roles:
            state.spawn = roles.create_task
            tasks = [
                roles.create_task(role, name=name)
                for name, role in (
                    ("fetcher", self.fetcher.run()),
                    ("lender", self.lender.run()),
                    ("settler", self.settler.run()),
                    ("keeper", self.keeper.run()),
                    ("groups", groups.run()),
                    ("stopper", listen(state, self._broker, self.dispatcher, beacon.greet, self.fetcher.handed)),
                    ("beacon", beacon.run()),
                    ("health", beacon.tick()),
                )
            ]
            await self._until_end()
            await drain.run(changed=beacon.changed)
            for task in tasks:
                task.cancel()
            self._neighbours.close()

    async def close(self) -> None:
        """Kill what is left of the children, and look after nobody any more."""
        self._neighbours.close()
        for pool in self.state.pools.values():
            await pool.close(kill_after_s=0.0)

    async def _until_end(self) -> None:
        waits = [asyncio.ensure_future(self.signals.drain.wait())]
        if self.state.settings.burst:
            waits.append(asyncio.ensure_future(self.fetcher.empty.wait()))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _dump(self) -> None:
        for pool in self.state.pools.values():
            pool.dump_stacks()
