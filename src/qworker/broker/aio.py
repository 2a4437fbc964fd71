"""The broker on asyncio: what the worker uses.

    fetcher, settler, keeper ── await AsyncBroker.verb(queue, …) ─► Call or Flow ─► a connection of the pool each
    doorbell ── wait_bell ─► BLPOP on a connection of its own      stopper ── listen_stops ─► one subscribed connection

Calls that run at the same time use connections of their own, so a slow claim never holds up a renewal. The verbs are in
verbs.py; here they are only driven.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from .. import faultpoints
from ..errors import QWorkerError
from ..ids import new_token
from ..model import PoolNeed, StopOrder, Window
from . import group_calls, together, worker_calls
from .calls import Call, Owner, command
from .cluster import Cluster, is_cluster
from .connection import Attempts, attempt_s, barred, bars, check_url, in_step, unreadable, wire
from .flows import Flow
from .hello import FAULTS, Address, pack, pushed
from .keys import Keyspace
from .records import read_stop
from .sentinel import Sentinels
from .sockets import Connection, Connections, Patience, Plain
from .values import WATCH, WINDOW, BellRing, StopHint, WatchHint
from .verbs import Verbs

if TYPE_CHECKING:
    import redis.asyncio

T = TypeVar("T")

_SILENT_S = 30.0  # a subscribed connection that says nothing for so long is asked whether it lives


class AsyncBroker(Verbs):
    """All verbs, awaitable. `timeout_s` is the total deadline of a call, retries included, but of what is large."""

    def __init__(
        self,
        url: str,
        namespace: str = "default",
        *,
        timeout_s: float = 10.0,
        role: str = "worker",
        instance: str = "",
        client: redis.asyncio.Redis | None = None,
        on_refused: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Make a broker; nothing is sent yet. `client`: an existing one, for tests on fakeredis.

        `on_refused` is told, once for each, of hints that the server does not let this user hear.
        """
        self.url = url
        self.keyspace = Keyspace(namespace)
        self.owner = Owner(self.keyspace)
        self.timeout_s = timeout_s
        self.instance = instance or new_token()
        self._given = client
        self._on_refused = on_refused
        self._deaf_to: set[str] = set()
        self._roles: dict[str, Connections] = {}
        self._own = self._connections(role)
        self._in_cluster = is_cluster(url)

    def _connections(self, role: str) -> Connections:
        """The connections of a role: they carry it in their names, for operators and for chaos tests."""
        found = self._roles.get(role)
        if found is None:
            found = self._roles[role] = self._make_connections(f"qw:{role}:{self.instance}")
        return found

    def _make_connections(self, name: str) -> Connections:
        if self._given is None:
            sentinels = Sentinels.of(check_url(self.url))
            if sentinels is not None:
                from .found import FoundConnections

                return FoundConnections(sentinels, lambda url: self._connection_to(url, name))
            if is_cluster(self.url):
                from .clustered import ClusterConnections

                return ClusterConnections(Cluster(self.url), lambda url: self._connection_to(url, name))
            address = Address.of(self.url)
            if address is not None:
                if faultpoints.ARMED:
                    from . import faulty

                    return Connections(lambda: faulty.Socket(address, name))
                return Connections(lambda: Plain(address, name))
        from . import adapted

        if self._given is not None:
            return Connections(adapted.of_client(self._given))
        return Connections(adapted.maker(self.url, name=name, timeout_s=attempt_s(self.timeout_s)))

    def _connection_to(self, url: str, name: str) -> Connection:
        """Make a connection to one of several servers."""
        address = Address.of(url)
        if address is not None:
            return Plain(address, name)
        from . import adapted

        return adapted.maker(url, name=name, timeout_s=attempt_s(self.timeout_s))()

    def server_of(self, queue: str) -> str | None:
        """Name the server that has a queue; None: not known yet. It is always the same one if there is no cluster."""
        return self._own.server_of(self.keyspace.queue(queue).prefix)

    async def perform(self, asked: Call[T] | Flow[T]) -> T:
        """Do what a verb asks for: one call, or several."""
        return await (self.run(asked) if isinstance(asked, Call) else self.drive(asked))

    async def run(self, call: Call[T]) -> T:
        """Send one call until it is answered, or its deadline has passed."""
        tries = Attempts(call, url=self.url, timeout_s=self.timeout_s)
        own = self._own
        while True:
            sent = False
            try:
                within_s = tries.attempt_s
                if self._in_cluster:
                    async with asyncio.timeout(within_s):
                        own = await self._own.toward(call)
                connection = own.take_idle()
                if connection is None:
                    began = time.monotonic()
                    async with asyncio.timeout(within_s):
                        connection = await own.take()
                    within_s = max(0.001, within_s - (time.monotonic() - began))
                try:
                    if tries.load and call.script is not None:
                        await connection.ask(pack(("SCRIPT", "LOAD", call.script.text)), within_s)
                    sent = True
                    asked = tries.call
                    if asked.before or asked.after:
                        reply = await _ask_together(connection, asked, within_s)
                    else:
                        reply = await connection.ask(pack(wire(asked)), within_s)
                except BaseException as exc:
                    if not in_step(exc):
                        await connection.close()
                    raise
                finally:
                    own.give(connection)
            except FAULTS as exc:
                try:
                    pause_s = tries.failed(exc, sent=sent)
                finally:  # as in broker.py
                    if tries.reconnect:
                        await own.drop_idle()
                    if self._in_cluster:
                        self._own.forget()
                await asyncio.sleep(pause_s)
            else:
                return tries.read(reply)

    async def drive(self, flow: Flow[T]) -> T:
        """Run a verb of several calls."""
        try:
            call = next(flow)
            while True:
                try:
                    reply = await self.run(call)
                except Exception as exc:
                    call = flow.throw(exc)
                else:
                    call = flow.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result
        except QWorkerError:
            raise
        except Exception as exc:
            raise unreadable("read what is stored", self.url, exc) from exc

    async def wait_bell(self, queues: Sequence[str], pools: Sequence[PoolNeed], timeout_s: float) -> BellRing | None:
        """Wait until a doorbell rings, `timeout_s` at most. One waiter at a time.

        Only a hint, so it raises nothing of the connection's: after any return, claim. A failed connection is dropped,
        and costs a short pause, so that a server that is down is not asked in a tight loop.
        """
        bells: dict[bytes, BellRing] = {}
        for queue in queues:
            for pool in pools:
                bells[self.keyspace.queue(queue).bell(pool)] = BellRing(queue, pool)
        # 0 would mean for ever; what is below a millisecond is not worth a call.
        block_s = max(timeout_s, 0.001)
        connections = self._connections("bell")
        if self._in_cluster and len(queues) > 1:
            return await self._wait_bells(queues, pools, timeout_s)
        try:
            if self._in_cluster:
                call = command("wait for the doorbell", "BLPOP", next(iter(bells)), parse=list)
                connections = await connections.toward(call)
            connection = connections.take_idle()
            if connection is None:
                async with asyncio.timeout(block_s + 2.0):
                    connection = await connections.take()
            try:
                reply = await connection.ask(pack(("BLPOP", *bells, f"{block_s:.3f}")), block_s + 2.0)
            except BaseException:
                # Also when the waiter is cancelled: the answer may still come, and must not meet the next command.
                await connection.close()
                raise
            finally:
                connections.give(connection)
        except FAULTS as exc:
            self._tell_refused("wait for the doorbell", exc)
            self._connections("bell").forget()  # it has a map of its own, and the slot may have moved
            await asyncio.sleep(random.uniform(0.05, 0.25))
            return None
        return bells.get(reply[0]) if reply else None

    async def _wait_bells(self, queues: Sequence[str], pools: Sequence[PoolNeed], timeout_s: float) -> BellRing | None:
        """Wait for the doorbells of several queues, which are in slots of their own."""
        waits = [asyncio.ensure_future(self.wait_bell([queue], pools, timeout_s)) for queue in queues]
        try:
            for wait in asyncio.as_completed(waits):
                heard = await wait
                if heard is not None:
                    return heard
            return None
        finally:
            for each in waits:
                each.cancel()

    async def listen_stops(
        self,
        worker: str,
        on_hint: Callable[[StopHint | WatchHint], None],
        on_hello: Callable[[], None] = lambda: None,
        on_group: Callable[[str, int | None], None] = lambda *_: None,
        on_window: Callable[[Window], None] = lambda _: None,
    ) -> None:
        """Call `on_hint` for each stop (or watch) that is pushed to this worker, until cancelled; reconnects by itself.

        `on_hello` is called when another worker has told of itself for the first time, or may have, unheard: whenever
        listening begins. `on_group` is called with id and grace of each group that is stopped, `on_window` with the
        window of a standing claim that a submit has filled. Only hints: a stop that is missed while the connection is
        down comes with the next renewal or settle, that of a group when groups are read again, a window with the next
        claim.
        """
        connections = self._connections("stops")
        hello, groups = self.keyspace.hello.encode(), self.keyspace.group_stops.encode()
        channels = (self.keyspace.stops(worker), self.keyspace.hello, self.keyspace.group_stops)
        failed: list[Exception] = []

        def at_once(message: Any) -> bool:
            if not isinstance(message, list) or message[0] != b"message" or not message[2].startswith(WINDOW):
                return False
            window = _read_window(message[2])
            if window is not None:
                try:
                    on_window(window)
                except Exception as error:  # not for the transport, which would take it for a broken connection
                    failed.append(error)
            return not failed

        while True:
            connection: Connection | None = None
            try:
                async with asyncio.timeout(attempt_s(self.timeout_s)):
                    connection = await connections.take()
                connection.at_once = at_once
                await connection.send(pack(("SUBSCRIBE", *channels)))
                asked = False
                while True:
                    try:
                        async with asyncio.timeout(_SILENT_S):
                            kind, channel, *data = pushed(await connection.reply())
                    except TimeoutError:
                        if asked:
                            raise  # it went silently dead
                        asked = True
                        await connection.send(pack(("PING",)))
                        continue
                    asked = False
                    if not failed and at_once([kind, channel, *data]):
                        continue
                    if failed:
                        raise failed.pop()
                    if channel == hello:  # heard from now on, or heard
                        on_hello()
                    elif kind != b"message":
                        continue
                    elif channel == groups:
                        group, _, grace = data[0].decode("utf-8", "replace").partition(" ")
                        on_group(group, group_calls.read_grace(grace))
                    else:
                        hint = _read_hint(data[0])
                        if hint is not None:
                            on_hint(hint)
            except FAULTS as exc:
                self._tell_refused("listen for stops", exc)
                await asyncio.sleep(random.uniform(0.05, 0.5))
            finally:
                if connection is not None:
                    await connection.close()
                    connections.give(connection)

    def _tell_refused(self, verb: str, exc: BaseException) -> None:
        if bars(exc) and verb not in self._deaf_to:
            self._deaf_to.add(verb)
            self._on_refused(str(barred(verb, self.url, exc)))

    async def close(self) -> None:
        """Close all connections that this broker made."""
        for connections in self._roles.values():
            await connections.close()

    async def __aenter__(self) -> AsyncBroker:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _ask_together(connection: Connection, call: Call[Any], within_s: float) -> Any:
    """Send a call that is more than a script, and read all its replies."""
    replies: list[Any] = []
    packed = together.packed(call)
    async with Patience(connection, within_s, sum(map(len, packed))):
        await connection.send(*packed)
        for _ in range(together.answers(call)):
            try:
                replies.append(await connection.reply())
            except hiredis.ReplyError as error:
                replies.append(error)
    return together.answer(call, replies)


def _read_window(data: bytes) -> Window | None:
    """Read a pushed window; None for what qworker did not write."""
    try:
        return worker_calls.handed(data)
    except ValueError:
        return None


def _read_hint(data: bytes) -> StopHint | WatchHint | None:
    """Read a pushed stop or watch; None for what qworker did not write: anybody may publish."""
    try:
        words = data.decode("ascii").split(" ")
        if len(words) == 3 and words[0] == WATCH:
            return WatchHint(words[1], words[2])
        queue, claim, local, order = words
        return StopHint(queue, claim, local, read_stop(order) or StopOrder())
    except ValueError:
        return None
