"""The blocking broker: what producers, the command line and tests use.

    Future, App, CLI ── Broker.verb(queue, …) ─► Call or Flow ─► one connection of the pool

May be called from any thread, and after a fork. The verbs are in verbs.py; here they are only driven.
"""

from __future__ import annotations

import os
import time
from typing import Any, TypeVar

import hiredis
import redis

from ..errors import BrokerUnavailable
from ..ids import new_token
from .calls import Call, Owner, command
from .connection import Attempts, attempt_s, connect, in_step, public_url, wire
from .flows import Flow
from .keys import Keyspace
from .verbs import Verbs

T = TypeVar("T")

# What may go wrong while a call is under way, and be repaired by sending it again.
FAULTS = (redis.RedisError, OSError)


class Broker(Verbs):
    """All verbs, blocking. `timeout_s` is the total deadline of a call, retries included."""

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        *,
        timeout_s: float = 10.0,
        role: str = "client",
        instance: str = "",
        client: redis.Redis | None = None,
    ) -> None:
        """Make a broker; nothing is sent yet. `client`: an existing one, for tests on fakeredis."""
        self.url = url
        self.keyspace = Keyspace(namespace)
        self.owner = Owner(self.keyspace)
        self.timeout_s = timeout_s
        self.name = f"qw:{role}:{instance or new_token()}"
        self._own = client is None
        self.client = client if client is not None else connect(url, name=self.name, timeout_s=attempt_s(timeout_s))
        self._idle: list[Any] = []  # connections of the pool that are kept out of it between calls
        self._pid = os.getpid()

    def perform(self, asked: Call[T] | Flow[T]) -> T:
        """Do what a verb asks for: one call, or several."""
        return self.run(asked) if isinstance(asked, Call) else self.drive(asked)

    def run(self, call: Call[T]) -> T:
        """Send one call until it is answered, or its deadline has passed."""
        tries = Attempts(call, url=self.url, timeout_s=self.timeout_s)
        while True:
            sent = False
            try:
                connection = self._take()
                try:
                    if tries.load and call.script is not None:
                        connection.send_command("SCRIPT", "LOAD", call.script.text)
                        connection.read_response()
                    sent = True
                    # Packed in C: redis-py looks at each argument first, 5 µs for those of a submit.
                    connection.send_packed_command((hiredis.pack_command(wire(tries.call)),), check_health=False)
                    reply = connection.read_response()
                except BaseException as exc:
                    if in_step(exc):
                        self._idle.append(connection)
                    else:
                        self._drop(connection)
                    raise
                self._idle.append(connection)
            except FAULTS as exc:
                pause_s = tries.failed(exc, sent=sent)
                if tries.reconnect:
                    self._drop_idle()
                if pause_s:
                    time.sleep(pause_s)
            else:
                return tries.call.parse(reply)

    def _take(self) -> Any:
        """Return a connection that nobody uses. The pool's own books cost 12 µs of CPU a call: ours are one list."""
        if self._pid != os.getpid():
            self._idle, self._pid = [], os.getpid()  # in a forked child: they are the parent's
        while self._idle:
            try:
                connection = self._idle.pop()
            except IndexError:
                break  # another thread was quicker
            try:
                if not connection.can_read():
                    return connection
            except FAULTS:
                pass  # the server has closed it
            self._drop(connection)
        return self.client.connection_pool.get_connection()

    def _drop(self, connection: Any) -> None:
        connection.disconnect()
        self.client.connection_pool.release(connection)

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            self._drop(connection)

    def drive(self, flow: Flow[T]) -> T:
        """Run a verb of several calls."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = self.run(call)
                except Exception as exc:
                    call = flow.throw(exc)
                else:
                    call = flow.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def subscribe(self, client: str) -> Subscription:
        """Listen on a client's inbox; the subscription is confirmed by the server when this returns.

        Raises:
            BrokerUnavailable: it could not be confirmed.
        """
        return Subscription(self, self.keyspace.inbox(client))

    def publish(self, client: str, message: bytes) -> int:
        """Push a message into a client's inbox. Returns how many subscribers got it."""
        channel = self.keyspace.inbox(client)
        return self.run(command(f"publish to {channel}", "PUBLISH", channel, message, parse=int))

    def close(self) -> None:
        """Close all connections that this broker made."""
        if self._own:
            self._idle.clear()
            self.client.close()
            self.client.connection_pool.disconnect()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Subscription:
    """One subscribed connection. Owned by one thread; `close` may be called from another.

    After an error it is of no use any more: close it, subscribe again, and peek at what was awaited meanwhile.
    """

    def __init__(self, broker: Broker, channel: str) -> None:
        self._channel = channel
        self._server = public_url(broker.url)
        self._pool: Any = broker.client.connection_pool
        self._failed: BrokerUnavailable | None = None
        try:
            connection: Any = self._pool.get_connection()
        except FAULTS as exc:
            raise self._lost(exc) from exc
        self._connection = connection
        try:
            connection.send_command("SUBSCRIBE", channel)
            if not connection.can_read(broker.timeout_s):
                raise TimeoutError(f"not confirmed within {broker.timeout_s:g} s")
            connection.read_response()
        except FAULTS as exc:
            self.close()
            raise self._lost(exc) from exc

    def next(self, timeout_s: float) -> bytes | None:
        """Wait for the next message; None when there was none in time.

        Raises:
            BrokerUnavailable: the connection is lost, and perhaps messages with it.
        """
        if self._failed is not None:
            raise self._failed  # the driver would connect anew, and be subscribed to nothing
        try:
            return self.read() if self._connection.can_read(timeout_s) else None
        except FAULTS as exc:
            raise self._lost(exc) from exc

    def read(self) -> bytes:
        """Read a message of which at least the first bytes have come. Raises as `next`."""
        try:
            data: bytes = self._connection.read_response()[2]
        except FAULTS as exc:
            raise self._lost(exc) from exc
        except BaseException as exc:  # Ctrl-C, in the middle of a message
            self._lost(exc)
            raise
        return data

    @property
    def failed(self) -> bool:
        """Whether its connection is known to be lost."""
        return self._failed is not None

    def fileno(self) -> int:
        """The socket's file descriptor, to be waited on beside others. Call `next(0)` until None before each wait."""
        number: int = self._connection._sock.fileno()
        return number

    def close(self) -> None:
        """End it; a `next` that waits in another thread raises."""
        self._connection.disconnect()
        self._pool.release(self._connection)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lost(self, exc: BaseException) -> BrokerUnavailable:
        self._failed = BrokerUnavailable(
            f"cannot listen on {self._channel}: the connection to the server at {self._server} failed:"
            f" {type(exc).__name__}: {exc}. Subscribe again, and look up what was awaited"
        )
        return self._failed
