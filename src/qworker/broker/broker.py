"""The blocking broker: what producers, the command line and tests use.

    Future, App, CLI ── Broker.verb(queue, …) ─► Call or Flow ─► one connection of the pool

May be called from any thread, and after a fork. The verbs are in verbs.py; here they are only driven.
"""

from __future__ import annotations

import time
from typing import Any, TypeVar

import redis

from ..errors import BrokerUnavailable
from ..ids import new_token
from .calls import Call, Owner, command
from .connection import FAULTS, Attempts, attempt_s, connect, in_step, public_url, wire
from .flows import Flow
from .keys import Keyspace
from .verbs import Verbs

T = TypeVar("T")


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

    def perform(self, asked: Call[T] | Flow[T]) -> T:
        """Do what a verb asks for: one call, or several."""
        return self.run(asked) if isinstance(asked, Call) else self.drive(asked)

    def run(self, call: Call[T]) -> T:
        """Send one call until it is answered, or its deadline has passed."""
        tries = Attempts(call, url=self.url, timeout_s=self.timeout_s)
        while True:
            sent = False
            try:
                connection: Any = self.client.connection_pool.get_connection()
                try:
                    if tries.load and call.script is not None:
                        connection.send_command("SCRIPT", "LOAD", call.script.text)
                        connection.read_response()
                    sent = True
                    connection.send_command(*wire(tries.call))
                    reply = connection.read_response()
                except BaseException as exc:
                    if not in_step(exc):
                        connection.disconnect()
                    raise
                finally:
                    self.client.connection_pool.release(connection)
            except FAULTS as exc:
                pause_s = tries.failed(exc, sent=sent)
                if tries.reconnect:
                    self.client.connection_pool.disconnect(inuse_connections=False)
                if pause_s:
                    time.sleep(pause_s)
            else:
                return tries.call.parse(reply)

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
        client: Any = broker.client
        self._pubsub: Any = client.pubsub()
        try:
            self._pubsub.subscribe(channel)
            end = time.monotonic() + broker.timeout_s
            while (left_s := end - time.monotonic()) > 0:
                message = self._pubsub.get_message(timeout=left_s)
                if message is not None and message["type"] == "subscribe":
                    return
            raise self._lost(TimeoutError(f"not confirmed within {broker.timeout_s:g} s"))
        except FAULTS as exc:
            self.close()
            raise self._lost(exc) from exc

    def next(self, timeout_s: float) -> bytes | None:
        """Wait for the next message; None when there was none in time.

        Raises:
            BrokerUnavailable: the connection is lost, and perhaps messages with it.
        """
        end = time.monotonic() + timeout_s
        try:
            while True:
                message = self._pubsub.get_message(timeout=max(0.0, end - time.monotonic()))
                if message is not None and message["type"] == "message":
                    data: bytes = message["data"]
                    return data
                if time.monotonic() >= end:
                    return None
        except FAULTS as exc:
            raise self._lost(exc) from exc

    def fileno(self) -> int:
        """The socket's file descriptor, to be waited on beside others. Call `next(0)` until None before each wait."""
        number: int = self._pubsub.connection._sock.fileno()
        return number

    def close(self) -> None:
        """End it; a `next` that waits in another thread raises."""
        self._pubsub.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lost(self, exc: BaseException) -> BrokerUnavailable:
        return BrokerUnavailable(
            f"cannot listen on {self._channel}: the connection to the server at {self._server} failed:"
            f" {type(exc).__name__}: {exc}. Subscribe again, and look up what was awaited"
        )
