"""The blocking broker: what producers, the command line and tests use.

    Future, App, CLI ── Broker.verb(queue, …) ─► Call or Flow ─► Links ─► a connection that nobody uses

May be called from any thread, and after a fork. The verbs are in verbs.py; here they are only driven.
"""

from __future__ import annotations

import time
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from .. import faultpoints
from ..errors import BrokerUnavailable, QWorkerError
from ..ids import new_token
from . import together
from .calls import Call, Owner, command
from .cluster import Cluster, ClusterLinks, is_cluster
from .connection import Attempts, attempt_s, barred, bars, check_url, in_step, public_url, unreadable, wire
from .flows import Flow
from .hello import FAULTS, Address, pack, pushed
from .keys import Keyspace
from .links import Link, Links, Plain
from .sentinel import FoundLinks, Sentinels
from .verbs import Verbs

if TYPE_CHECKING:
    import redis

T = TypeVar("T")
SILENT_S = 1.0  # a connection that does not answer a ping so soon is taken for lost; half a round of the client


class Broker(Verbs):
    """All verbs, blocking. `timeout_s` is the total deadline of a call, retries included, but of what is large."""

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
        self._given = client
        faultpoints.check()
        self._cluster: ClusterLinks | None = None
        self._links = self._make_links(check_url(url))

    def _make_links(self, url: str) -> Links:
        if self._given is None:
            sentinels = Sentinels.of(url)
            if sentinels is not None:
                return FoundLinks(sentinels, self._link_to)
            if is_cluster(url):
                self._cluster = ClusterLinks(Cluster(url), self._link_to)
                return self._cluster
            address = Address.of(url)
            if address is not None:
                name, timeout_s = self.name, attempt_s(self.timeout_s)
                if faultpoints.ARMED:
                    from . import faulty

                    return Links(lambda: faulty.Link(address, name, timeout_s))
                return Links(lambda: Plain(address, name, timeout_s))
        from . import driver

        return Links(driver.of_client(self.client))

    def _link_to(self, url: str, within_s: float | None) -> Link:
        """Make a connection to one of several servers."""
        timeout_s = attempt_s(self.timeout_s) if within_s is None else within_s
        address = Address.of(url)
        if address is not None:
            return Plain(address, self.name, timeout_s)
        from . import driver

        return driver.of_client(driver.connect(url, name=self.name, timeout_s=timeout_s))()

    @cached_property
    def client(self) -> redis.Redis:
        """A client of redis-py's on the same server: for tools, tests, and what speaks through it (driver.py)."""
        if self._given is not None:
            return self._given
        from . import driver  # it and redis-py take 11 MiB: most producers do without

        url = self.url
        if "+" in url.partition("://")[0] and isinstance(self._links, (FoundLinks, ClusterLinks)):
            url = self._links.primary()
        return driver.connect(url, name=self.name, timeout_s=attempt_s(self.timeout_s))

    def perform(self, asked: Call[T] | Flow[T]) -> T:
        """Do what a verb asks for: one call, or several."""
        return self.run(asked) if isinstance(asked, Call) else self.drive(asked)

    def run(self, call: Call[T]) -> T:
        """Send one call until it is answered, or its deadline has passed."""
        tries, links = Attempts(call, url=self.url, timeout_s=self.timeout_s), self._links
        while True:
            sent = False
            try:
                asked = tries.call
                if self._cluster is not None:
                    links = self._cluster.toward(asked)
                more = asked.before or asked.after
                packed = together.packed(asked) if more else (pack(wire(asked)),)
                script = call.script if tries.load else None
                link = links.send(*packed) if script is None else links.send(pack(("SCRIPT", "LOAD", script.text)))
                try:
                    if script is not None:
                        link.reply()
                        link.send(*packed)
                    sent = True
                    reply = _replies(link, asked) if more else link.reply()
                except BaseException as exc:
                    if in_step(exc):
                        links.give(link)
                    else:
                        link.close()
                    raise
                links.give(link)
            except FAULTS as exc:
                try:
                    pause_s = tries.failed(exc, sent=sent)
                finally:  # also when this call is given up: the next one is not to meet the same silent server
                    if tries.reconnect:
                        links.drop_idle()
                    if self._cluster is not None:
                        self._cluster.forget()
                if pause_s:
                    time.sleep(pause_s)
            else:
                return tries.read(reply)

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
        except QWorkerError:
            raise
        except Exception as exc:
            raise unreadable("read what is stored", self.url, exc) from exc

    def subscribe(self, client: str) -> Subscription:
        """Listen on a client's inbox; the subscription is confirmed by the server when this returns.

        Raises:
            BrokerUnavailable: it could not be confirmed.
            BrokerError: the server does not allow it.
        """
        return Subscription(self, self._links, self.keyspace.inbox(client))

    def publish(self, client: str, message: bytes) -> int:
        """Push a message into a client's inbox. Returns how many subscribers got it."""
        channel = self.keyspace.inbox(client)
        return self.run(command(f"publish to {channel}", "PUBLISH", channel, message, parse=int))

    def close(self) -> None:
        """Close all connections that this broker made."""
        self._links.close()
        if self._given is None and "client" in self.__dict__:
            self.client.close()

    def __enter__(self) -> Broker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _replies(link: Link, call: Call[Any]) -> Any:
    """Read all replies of a call that is more than a script."""
    replies: list[Any] = []
    for _ in range(together.answers(call)):
        try:
            replies.append(link.reply())
        except hiredis.ReplyError as error:
            replies.append(error)
    return together.answer(call, replies)


class Subscription:
    """One subscribed connection. Owned by one thread; `close` may be called from another.

    After an error it is of no use any more: close it, subscribe again, and peek at what was awaited meanwhile.
    """

    def __init__(self, broker: Broker, links: Links, channel: str) -> None:
        self._channel = channel
        self._server = public_url(broker.url)
        self._failed: BrokerUnavailable | None = None
        self._heard = True  # something, since the last `check`
        self._asked_at: float | None = None
        self.interrupted = False  # by an exception of a signal's handler, and not by its connection
        try:
            self._link = links.make()
            try:
                self._link.send(pack(("SUBSCRIBE", channel)))
                if not self._link.waits(broker.timeout_s):
                    raise TimeoutError(f"not confirmed within {broker.timeout_s:g} s")
                self._link.reply()
            except BaseException:
                self._link.close()
                raise
        except FAULTS as exc:
            if bars(exc):
                raise barred(f"listen on {channel}", broker.url, exc) from exc
            raise self._lost(exc) from exc

    def next(self, timeout_s: float) -> bytes | None:
        """Wait for the next message; None when there was none in time.

        Raises:
            BrokerUnavailable: the connection is lost, and perhaps messages with it.
        """
        ends = time.monotonic() + timeout_s
        while (message := self.read()) is None:
            try:
                if timeout_s <= 0 or not self._link.waits(max(0.0, ends - time.monotonic())):
                    return None
            except FAULTS as exc:
                raise self._lost(exc) from exc
        return message

    def read(self, *, came: bool = False) -> bytes | None:
        """Return the next message if the whole of it has come, and wait for nothing. Raises as `next`.

        `came`: a poll of `fileno` has just seen some of it.
        """
        if self._failed is not None:
            raise self._failed  # redis-py would connect anew, and be subscribed to nothing
        try:
            while (reply := self._link.take(came=came)) is not None:
                reply = pushed(reply)
                self._heard, self._asked_at, came = True, None, False
                if reply[0] == b"message":
                    data: bytes = reply[2]
                    return data
        except FAULTS as exc:
            raise self._lost(exc) from exc
        except BaseException as exc:  # Ctrl-C, in the middle of a message
            self.interrupted = True
            self._lost(exc)
            raise
        return None

    def check(self) -> None:
        """Ask for a sign of life where there was none since the last call. Another thread may be reading meanwhile.

        Raises:
            BrokerUnavailable: it was asked `SILENT_S` ago, and there was none since. Nobody else would ever tell: the
                other end of a connection can go without a word.
        """
        if self._asked_at is not None:
            if time.monotonic() - self._asked_at < SILENT_S:
                return  # a push that was lost, or a Ctrl-C, has everything asked for at once, and perhaps again at once
            raise self._lost(TimeoutError("it says nothing, not even when it is asked"))
        if self._heard:
            self._heard = False
            return
        self._asked_at = time.monotonic()
        try:
            if not self._link.ping():
                self._asked_at = None
        except FAULTS as exc:
            raise self._lost(exc) from exc

    @property
    def failed(self) -> bool:
        """Whether its connection is known to be lost."""
        return self._failed is not None

    def held(self) -> bool:
        """Whether a message, or a part of one, may be there that no poll of `fileno` sees. Raises as `next`."""
        try:
            return self._link.held()
        except FAULTS as exc:
            raise self._lost(exc) from exc

    def fileno(self) -> int:
        """The socket's file descriptor, to be waited on beside others, once `read` has returned None."""
        return self._link.fileno()

    def close(self) -> None:
        """End it; a `next` that waits in another thread raises."""
        self._link.close()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _lost(self, exc: BaseException) -> BrokerUnavailable:
        self._failed = BrokerUnavailable(
            f"cannot listen on {self._channel}: the connection to the server at {self._server} failed:"
            f" {type(exc).__name__}: {exc}"
        )
        return self._failed
