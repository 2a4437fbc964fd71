"""The worker's connections: asyncio's transports and hiredis, and nothing of redis-py, which weighs 10 MiB.

    AsyncBroker ── take() ─► Connections ─► Connection ── send(packed) ─► the server ─► reply() ── give() ─► Connections

A worker sends packed commands and reads plain replies, so it needs neither redis-py's commands nor its retries. What
redis-py alone knows well, TLS and the options of a URL, is left to it: see adapted.py. Errors of the server are
hiredis.ReplyErrors, all others OSErrors.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, cast

import hiredis

from .calls import Call
from .hello import PACE, PATIENCE, Address, judge, nonsense, pack

_NEXT_S = 0.2  # so that a second address has its time also when a sentinel is asked (ASK_S)


class Connection(Protocol):
    """One connection. After an error other than an answer's own it is of no use; whoever sees one closes it."""

    closed: bool
    # Where that can be: is shown each reply in the turn in which it is read, and says whether it has taken it.
    at_once: Callable[[Any], bool] | None

    async def open(self) -> None:
        """Connect, and say who we are."""

    async def send(self, *packed: bytes) -> None:
        """Write a command, or several."""

    async def reply(self) -> Any:
        """Wait for the next reply, or the next pushed message; raises hiredis.ReplyError for an error of the server."""

    async def ask(self, packed: bytes, within_s: float) -> Any:
        """Write a command and wait for its reply; raises TimeoutError when that takes longer, and nothing moves."""

    def moving(self) -> bool:
        """Whether a part of an answer has come since the last call, as far as can be known."""

    async def close(self, *, wait: bool = False) -> None:
        """Let go of it; `wait` until it is closed."""


class Connections:
    """The connections of one role: those that nobody uses wait here. Owned by the event loop."""

    def __init__(self, make: Callable[[], Connection]) -> None:
        self._make = make
        self._idle: list[Connection] = []
        self._taken: set[Connection] = set()

    def take_idle(self) -> Connection | None:
        """Return a connection that waits here, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                self._taken.add(connection)
                return connection
        return None

    async def take(self) -> Connection:
        """Return a connection that nobody else uses."""
        connection = self.take_idle()
        if connection is not None:
            return connection
        connection = self._make()
        self._taken.add(connection)
        try:
            await connection.open()
        except BaseException:
            self._taken.discard(connection)
            await connection.close()
            raise
        return connection

    async def toward(self, call: Call[Any]) -> Connections:  # noqa: ARG002 - one server has all
        """The connections to the server that a call is for."""
        return self

    def server_of(self, key: str) -> str | None:  # noqa: ARG002 - as above
        """Name the server that has a key: there is one."""
        return ""

    def forget(self) -> None:
        """A call failed: what is known of the servers may not be so any more."""

    def give(self, connection: Connection) -> None:
        """Take one back; it is used again, unless it was closed."""
        self._taken.discard(connection)
        if not connection.closed:
            self._idle.append(connection)

    async def drop_idle(self) -> None:
        """Connect anew from now on: another server may have the address."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.close()

    async def close(self) -> None:
        """Close all."""
        idle, self._idle = self._idle, []
        for connection in (*idle, *self._taken):
            await connection.close(wait=True)


class Plain(asyncio.Protocol):
    """A connection over TCP or a unix socket. Owned by the event loop; one user at a time."""

    def __init__(self, address: Address, name: str) -> None:
        self.closed = False
        self.at_once: Callable[[Any], bool] | None = None
        self._address, self._name = address, name
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._lost: OSError | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._came = False  # a part of a reply, since somebody looked

    async def open(self) -> None:
        loop, address = asyncio.get_running_loop(), self._address
        if address.path:
            await loop.create_unix_connection(lambda: self, address.path)
        else:
            await loop.create_connection(lambda: self, sock=await _reach(address.host, address.port))
        hello = address.hello(self._name)
        await self.send(b"".join(map(pack, hello)))
        for command in hello:
            try:
                await self.reply()
            except hiredis.ReplyError as error:
                judge(command, error)

    async def send(self, *packed: bytes) -> None:
        if self._transport is None or self._lost is not None:
            raise self._lost or ConnectionError("the connection is closed")
        self._came = False
        self._transport.writelines(packed)

    async def reply(self) -> Any:
        while not self._replies:
            if self._lost is not None:
                raise self._lost
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        reply = self._replies.popleft()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    async def ask(self, packed: bytes, within_s: float) -> Any:
        # As `send` and `reply` under asyncio.timeout do, at a third of its instructions.
        if self._transport is None or self._lost is not None or self._replies:
            async with asyncio.timeout(within_s):
                await self.send(packed)
                return await self.reply()
        loop = asyncio.get_running_loop()
        self._came = False
        self._transport.write(packed)
        waiter = self._waiter = loop.create_future()
        self._timer = loop.call_later(within_s + len(packed) / PACE, self._look, waiter, within_s, PATIENCE)
        try:
            await waiter
        finally:
            self._waiter = None
            self._timer.cancel()
        if not self._replies:
            raise self._lost or ConnectionError("the connection is closed")
        reply = self._replies.popleft()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def moving(self) -> bool:
        came, self._came = self._came, False
        return came

    def _look(self, waiter: asyncio.Future[None], within_s: float, turns: int) -> None:
        """The time is up."""
        if waiter.done():
            return
        if turns > 1 and self.moving():
            self._timer = asyncio.get_running_loop().call_later(within_s, self._look, waiter, within_s, turns - 1)
        else:
            waiter.set_exception(TimeoutError())

    async def close(self, *, wait: bool = False) -> None:  # noqa: ARG002 - nothing to wait for
        self._abort()

    # ── what the transport calls ─────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        if not self._address.path:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                if self.at_once is None or not self.at_once(reply):
                    self._replies.append(reply)
        except Exception as error:  # as in links.py
            self._end(nonsense(error))
            self._abort()
        if not self._replies:
            self._came = True
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc if isinstance(exc, OSError) else ConnectionError("the server closed the connection"))

    def _end(self, why: OSError) -> None:
        self.closed = True
        self._lost = self._lost or why
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _abort(self) -> None:
        self.closed = True
        if self._transport is not None:
            self._transport.abort()


async def _reach(host: str, port: int) -> socket.socket:
    """Connect to the first of a host's addresses that answers.

    The next one is tried when one fails, or has said nothing for `_NEXT_S`: of several under one name, a node may be
    dead, and a route silent. What asyncio has for that, uvloop has not.
    """
    loop = asyncio.get_running_loop()
    left = deque(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    trying: set[asyncio.Task[socket.socket]] = set()
    failed: BaseException | None = None
    try:
        while left or trying:
            if left:
                trying.add(loop.create_task(_reach_one(*left.popleft())))
            await asyncio.wait(trying, timeout=_NEXT_S if left else None, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in trying if task.done()]:
                trying.discard(task)
                failed = task.exception()
                if failed is None:
                    return task.result()
        raise failed or OSError("its name has no address")
    finally:
        del failed  # it would keep this frame, and this frame it
        for task in trying:
            task.cancel()
            task.add_done_callback(_close_late)


async def _reach_one(
    family: socket.AddressFamily, kind: socket.SocketKind, proto: int, _: str, where: Any
) -> socket.socket:
    made = socket.socket(family, kind, proto)
    try:
        made.setblocking(False)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(made, where)
    except BaseException:
        made.close()
        raise
    return made


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close what came second."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()


class Patience:
    """As `asyncio.timeout`, and longer while a connection moves: for what is asked and answered in several pieces."""

    def __init__(self, connection: Connection, within_s: float, size: int) -> None:
        """`size`: how many bytes are written first."""
        self._connection, self._within_s, self._turns = connection, within_s, PATIENCE
        self._first_s = within_s + size / PACE
        self._limit = asyncio.timeout(None)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()
        self._set(self._first_s)

    async def __aexit__(self, *exc: Any) -> None:
        self._timer.cancel()
        await self._limit.__aexit__(*exc)

    def _set(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        self._turns -= 1
        if self._turns and self._connection.moving():
            self._set(self._within_s)
        else:
            self._limit.reschedule(asyncio.get_running_loop().time())
