"""The blocking broker: what producers, the command line and tests use.

    Future, App, CLI ── Broker.verb(queue, …) ─► Call or Flow ─► one connection of the pool

May be called from any thread, and after a fork. Each verb has its signature and its docstring in producer_calls.py,
worker_calls.py or flows.py, without the first parameter; here they are only driven. All ids are local parts.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import redis

from ..errors import BrokerUnavailable
from ..ids import new_token
from . import flows, group_calls, producer_calls, worker_calls
from .calls import Call, Owner, command
from .connection import FAULTS, Attempts, attempt_s, connect, in_step, public_url, wire
from .flows import Flow
from .keys import Keyspace

P = ParamSpec("P")
T = TypeVar("T")


def _call(build: Callable[Concatenate[Owner, P], Call[T]]) -> Callable[Concatenate[Broker, P], T]:
    """A verb that is one call."""

    @functools.wraps(build)
    def verb(broker: Broker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return broker.run(build(broker.owner, *args, **kwargs))

    return verb


def _flow(build: Callable[Concatenate[Owner, P], Flow[T]]) -> Callable[Concatenate[Broker, P], T]:
    """A verb that takes several calls."""

    @functools.wraps(build)
    def verb(broker: Broker, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return broker.drive(build(broker.owner, *args, **kwargs))

    return verb


class Broker:
    """All verbs, blocking. `timeout_s` is the total deadline of a call, retries included."""

    # What producers do.
    submit = _flow(flows.submit)
    peek = _call(producer_calls.peek)
    stop = _call(producer_calls.stop)
    expire = _call(producer_calls.expire)
    progress = _call(producer_calls.progress)
    watch = _call(producer_calls.watch)
    # What workers do.
    claim = _flow(flows.claim)
    claim_ids = _call(worker_calls.claim_ids)
    settle = _call(worker_calls.settle)
    renew = _call(worker_calls.renew)
    rescue_worker = _flow(flows.rescue_worker)
    beat = _flow(flows.beat)
    retire = _flow(flows.retire)
    # What both do with task groups.
    open_group = _call(group_calls.open_group)
    join_group = _call(group_calls.join_group)
    stop_group = _call(group_calls.stop_group)
    beat_groups = _call(group_calls.beat_groups)
    read_groups = _call(group_calls.read_groups)
    close_group = _call(group_calls.close_group)
    show_group = _call(group_calls.show_group)
    # What people look at.
    inspect = _flow(flows.inspect)
    stats = _flow(flows.stats)
    queues = _flow(flows.queues)
    workers = _flow(flows.workers)
    server_facts = _flow(flows.server_facts)
    check_fit = _flow(flows.check_fit)

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
