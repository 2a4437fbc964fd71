"""A worker's connections to the servers of a cluster; see cluster.py.

AsyncBroker ─► ClusterConnections ── toward(call) ─► the Connections to the server that has its slot
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .calls import Call
from .cluster import QUESTION, Cluster, slot_of, survey
from .hello import FAULTS
from .sentinel import ASK_S
from .sockets import Connection, Connections

__all__ = ["ClusterConnections"]


class ClusterConnections(Connections):
    """The connections of one role; those that are asked for without a key go to any server. Owned by the event loop."""

    def __init__(self, cluster: Cluster, connection_to: Callable[[str], Connection]) -> None:
        super().__init__(lambda: connection_to(self._answers))
        self._cluster, self._connection_to = cluster, connection_to
        self._answers = ""
        self._servers: dict[str, Connections] = {}
        self._known: dict[int, str] = {}  # slot -> its server, as it was last known

    async def take(self) -> Connection:
        """Return a connection to any server that answers."""
        self._answers = await self._look()
        return await super().take()

    async def toward(self, call: Call[Any]) -> Connections:
        """The connections to the server that a call is for."""
        url = self._cluster.where(call)
        if not url:
            await self._look()
            url = self._cluster.where(call)
            if not url:
                raise ConnectionError("no server of the cluster has its slot")
        found = self._servers.get(url)
        if found is None:
            found = self._servers[url] = Connections(lambda: self._connection_to(url))
        return found

    def server_of(self, key: str) -> str | None:
        """The server that has the slot of a key, or had it when that was last known; None: nobody was asked yet."""
        slot = slot_of(key)
        url = self._cluster.has(slot)
        if url:
            self._known[slot] = url
        return self._known.get(slot)

    def forget(self) -> None:
        """A call failed: the cluster may not be as it was."""
        self._cluster.forget()

    async def close(self) -> None:
        await super().close()
        for connections in list(self._servers.values()):
            await connections.close()

    async def _look(self) -> str:
        search = survey(self._cluster)
        asked = next(search)
        try:
            while True:
                try:
                    reply = await self._ask(asked)
                except FAULTS as error:
                    asked = search.throw(error)
                else:
                    asked = search.send(reply)
        except StopIteration:
            return asked

    async def _ask(self, member: str) -> Any:
        connection = self._connection_to(member)
        try:
            async with asyncio.timeout(ASK_S):
                await connection.open()
                await connection.send(QUESTION)
                return await connection.reply()
        finally:
            await connection.close()
