"""A client's ear: its inbox on the server, and the bell by which its own threads wake the one that listens.

    server ── push ──► subscription ─┐
                                     ├─► wait ─► messages           lost ─► a pause that grows ─► reconnect
    any thread ── wake ──► bell ─────┘

Owned by the client's I/O thread; only `wake` may be called from any thread.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
import time
from collections.abc import Callable, Iterator

from ..errors import BrokerUnavailable
from .broker import Broker, Subscription
from .connection import public_url

_log = logging.getLogger("qworker.client")
_LONGEST_PAUSE_S = 1.0


class Listening:
    """One subscription, made again after it was lost, and one bell."""

    def __init__(self, broker: Broker, client: str, address: Callable[[], str], *, timeout_s: float) -> None:
        """Subscribe. `address` is asked before each reconnect: an embedded server is started again by that.

        Raises:
            BrokerUnavailable: it was not confirmed within `timeout_s`; the broker is closed.
        """
        self._broker = broker
        self._client = client
        self._address = address
        self._failures = 0
        self.again_at = 0.0  # no question is asked, and no connection made, before that instant (monotonic clock)
        self._subscription: Subscription | None = self._subscribe_within(timeout_s)
        self._waker, self._waked = socket.socketpair()
        self._waker.setblocking(False)
        self._waked.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._waked, selectors.EVENT_READ)
        self._selector.register(self._subscription.fileno(), selectors.EVENT_READ)
        self._registered = self._subscription.fileno()

    @property
    def connected(self) -> bool:
        """Whether pushes can come."""
        return self._subscription is not None

    def wake(self) -> None:
        """Have the thread that waits look round."""
        try:
            self._waker.send(b"w")
        except OSError:
            pass  # full: it is awake; or closed

    def wait(self, left_s: float) -> None:
        """Wait for a push or a wake-up, for so long at most."""
        for key, _ in self._selector.select(left_s):
            if key.fileobj is self._waked:
                try:
                    self._waked.recv(4096)
                except BlockingIOError:
                    pass

    def messages(self) -> Iterator[bytes]:
        """Yield the pushes that are there."""
        while self._subscription is not None and (message := self._subscription.next(0)) is not None:
            yield message

    def reconnect(self) -> None:
        """Subscribe again. What was pushed meanwhile is lost: ask about everything."""
        self._address()
        self._subscription = self._broker.subscribe(self._client)
        self._registered = self._subscription.fileno()
        self._selector.register(self._registered, selectors.EVENT_READ)
        _log.info("connected to the server again; asking about what is awaited")

    def answered(self) -> None:
        """The server has answered: the next failure is a first one."""
        self._failures = 0

    def lost(self, error: Exception | None) -> None:
        """Let go of a connection that failed, and pause; said once, until there was an answer again."""
        self._failures += 1
        pause_s = min(_LONGEST_PAUSE_S, 0.05 * 2 ** min(self._failures, 6))
        self.again_at = time.monotonic() + random.uniform(pause_s / 2, pause_s)
        if self._failures == 1 and error is not None:
            _log.warning("the server is gone; results are late until it is back: %s", error)
        self._hang_up()

    def end(self) -> None:
        """The thread that listens has ended. The bell's other end stays, for those who ring it at this moment."""
        self._hang_up()
        self._selector.close()
        self._waked.close()

    def close_bell(self) -> None:
        """Nobody listens any more."""
        self._waker.close()

    def leave_parent(self) -> None:
        """In a forked child: let go of the bell; the connection is the parent's."""
        for end in (self._waker, self._waked):
            end.close()

    def _subscribe_within(self, timeout_s: float) -> Subscription:
        ends = time.monotonic() + timeout_s
        pause_s = 0.01
        while True:
            try:
                return self._broker.subscribe(self._client)
            except BrokerUnavailable as error:
                if time.monotonic() + pause_s >= ends:
                    self._broker.close()
                    last = str(error.__cause__ or error).rstrip(".")
                    raise BrokerUnavailable(
                        f"cannot reach the server at {public_url(self._broker.url)} within {timeout_s:g} s, so nothing "
                        f"was sent; last: {last}. Check that it runs and that the URL is right"
                    ) from error
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    def _hang_up(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                self._selector.unregister(self._registered)
            except (KeyError, ValueError):
                pass  # its socket is closed already, and so no longer registered
            subscription.close()
