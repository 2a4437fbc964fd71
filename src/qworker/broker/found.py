"""A worker's connections to whichever server is the primary, by its sentinels; see sentinel.py.

AsyncBroker ─► FoundConnections ── find ─► a sentinel ─► the primary's URL ─► a Connection to it
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .hello import FAULTS, pack
from .sentinel import ASK_S, Sentinels, find, question, refuse_replica
from .sockets import Connection, Connections

__all__ = ["FoundConnections"]


class FoundConnections(Connections):
    """The connections of one role. Owned by the event loop."""

    def __init__(self, sentinels: Sentinels, connection_to: Callable[[str], Connection]) -> None:
        super().__init__(lambda: connection_to(self._last))
        self._sentinels, self._connection_to = sentinels, connection_to
        self._last = ""

    async def take(self) -> Connection:
        """Return a connection to the primary that nobody else uses."""
        connection = self.take_idle()
        if connection is not None:
            return connection
        url = await self._primary()
        if url != self._last:
            self._last = url
            await self.drop_idle()  # those go to another server
        connection = await super().take()
        try:
            await connection.send(pack(("ROLE",)))
            refuse_replica(await connection.reply(), url)
        except BaseException:
            await connection.close()
            self.give(connection)
            raise
        return connection

    async def _primary(self) -> str:
        search = find(self._sentinels)
        try:
            member = next(search)
            while True:
                try:
                    reply = await self._ask(member)
                except FAULTS as error:
                    member = search.throw(error)
                else:
                    member = search.send(reply)
        except StopIteration as found:
            url: str = found.value
            return url

    async def _ask(self, member: str) -> object:
        connection = self._connection_to(member)
        try:
            async with asyncio.timeout(ASK_S):
                await connection.open()
                await connection.send(question(self._sentinels))
                return await connection.reply()
        finally:
            await connection.close()
