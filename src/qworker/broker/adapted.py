"""Connections of redis-py behind the face of ours: for TLS, for URLs with options, and for clients that tests bring.

AsyncBroker ─► Connections ─► Adapted ─► redis.asyncio.Connection
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import redis.asyncio
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .connection import options
from .driver import inside, translated
from .sockets import Connection


def maker(url: str, *, name: str, timeout_s: float) -> Callable[[], Connection]:
    """Return what makes connections to a server by redis-py. Their reads have no timeout: the driver bounds them."""
    retry = redis.asyncio.retry.Retry(NoBackoff(), 0)
    pool: Any = redis.asyncio.ConnectionPool.from_url(url, **options(url, name, None, timeout_s, retry))
    return lambda: Adapted(pool.make_connection())


def of_client(client: redis.asyncio.Redis) -> Callable[[], Connection]:
    """Return what makes connections as a client of redis-py's would."""
    pool: Any = client.connection_pool
    return lambda: Adapted(pool.make_connection())


class Adapted:
    """One connection of redis-py's."""

    def __init__(self, connection: Any) -> None:
        self.closed = False
        self.at_once: Callable[[Any], bool] | None = None  # it tells nobody when it reads
        self._connection = connection

    async def open(self) -> None:
        await self._do(self._connection.connect())

    async def send(self, *packed: bytes) -> None:
        await self._do(self._connection.send_packed_command(packed))

    async def reply(self) -> Any:
        return inside(await self._do(self._connection.read_response(disconnect_on_error=False)))

    async def ask(self, packed: bytes, within_s: float) -> Any:
        async with asyncio.timeout(within_s):
            await self.send(packed)
            return await self.reply()

    def moving(self) -> bool:
        return False  # redis-py does not tell

    async def close(self, *, wait: bool = False) -> None:
        self.closed = True
        await self._connection.disconnect(nowait=not wait)

    async def _do(self, asked: Awaitable[Any]) -> Any:
        try:
            return await asked
        except RedisError as error:
            raise translated(error) from error
