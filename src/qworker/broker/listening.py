"""A client's ear: its inbox on the server, and the bell by which its own threads wake the one that listens.

    server ── push ──► subscription ─┐
                                     ├─► wait ─► messages           lost ─► a pause that grows ─► reconnect
    any thread ── wake ──► bell ─────┘

Owned by the client's I/O thread; only `wake`, `hear` and `let_go` may be called from any thread. A thread that waits
for a result listens in its place (`hear`): the push wakes the very thread that it is for, not one that wakes it.
"""

from __future__ import annotations

import logging
import random
import select
import selectors
import socket
import threading
import time
from collections.abc import Callable

from ..errors import BrokerError, BrokerUnavailable
from .broker import Broker, Subscription
from .connection import public_url

_log = logging.getLogger("qworker.client")
_LONGEST_PAUSE_S = 1.0
_LONGEST_POLL_S = 1e6  # the kernel counts milliseconds in 31 bits
_AT_ONCE = 256  # messages; then the I/O thread looks whether there is something else to do


class Listening:
    """One subscription, made again after it was lost, and one bell."""

    def __init__(self, broker: Broker, client: str, address: Callable[[], str], *, timeout_s: float) -> None:
        """Subscribe. `address` is asked before each reconnect: an embedded server is started again by that.

        Raises:
            BrokerUnavailable: it was not confirmed within `timeout_s`; the broker is closed.
            BrokerError: the server does not allow it; likewise.
        """
        self._broker = broker
        self._client = client
        self._address = address
        self._failures = 0
        self.again_at = 0.0  # no question is asked, and no connection made, before that instant (monotonic clock)
        self._subscription: Subscription | None = self._subscribe_within(timeout_s)
        self._rung = False
        self._waker, self._waked = socket.socketpair()
        self._waker.setblocking(False)
        self._waked.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._waked, selectors.EVENT_READ)
        self._selector.register(self._subscription.fileno(), selectors.EVENT_READ)
        self._registered = self._subscription.fileno()
        # Whoever reads the subscription, or replaces it, holds it. It knows its owner: see `mend`.
        self._reading = threading.RLock()
        self._hearer: int | None = None  # the thread that listens in the place of the I/O thread
        self._deaf = False  # that thread is in a signal's handler, which waits: nobody reads until it returns
        self._left: list[Subscription] = []  # those that were lost while somebody was reading
        self._nudger, self._nudged = socket.socketpair()  # the bell of that thread
        self._nudger.setblocking(False)
        self._nudged.setblocking(False)

    @property
    def connected(self) -> bool:
        """Whether pushes can come."""
        return self._subscription is not None

    @property
    def heard_here(self) -> bool:
        """Whether this very thread listens, below what it does now: a signal's handler."""
        return self._hearer == threading.get_ident()

    def wake(self) -> None:
        """Have the thread that waits look round."""
        if not self._rung:  # else it has not looked yet since somebody rang
            self._rung = True
            try:
                self._waker.send(b"w")
            except OSError:
                pass  # closed

    def wait(self, left_s: float) -> None:
        """Wait for a push or a wake-up, for so long at most."""
        for key, _ in self._selector.select(left_s):
            if key.fileobj is self._waked:
                try:
                    self._waked.recv(4096)
                except BlockingIOError:
                    pass
        # Before it looks: whoever finds it set has come in time. Also when nobody rang: whoever set it may have been
        # interrupted before its ring.
        self._rung = False

    def take_messages(self, take: Callable[[bytes], None]) -> None:
        """Have the pushes taken that are there; nothing happens while another thread listens."""
        if self._reading.acquire(blocking=False):
            try:
                for _ in range(_AT_ONCE):
                    if self._subscription is None or (message := self._subscription.next(0)) is None:
                        return
                    take(message)
                self.wake()  # others may send without a pause: first what else there is to do
            finally:
                self._reading.release()

    def hear(self, take: Callable[[bytes], None], done: Callable[[], bool], timeout_s: float | None) -> None:
        """Listen in this thread until `done()` or the time is up, and have each push taken.

        Returns at once when another thread does so already, and as soon as the connection is lost. Whoever makes it
        done from another thread has to call `let_go`.
        """
        if not self._reading.acquire(blocking=False):
            return  # an exception of a signal's handler may come between these lines: see `mend`
        undisturbed = False
        try:
            self._hearer = threading.get_ident()
            subscription = self._subscription
            if subscription is not None and not subscription.failed:
                self._unwatch()
                try:
                    undisturbed = self._hear(subscription, take, done, timeout_s)
                finally:
                    self._watch()
        except BrokerUnavailable:
            pass
        finally:
            self._hearer, self._deaf = None, False
            self._close_left()
            self._reading.release()
            if not undisturbed or self._subscription is None:
                # Only now, when the I/O thread can read: it sees to a lost connection, or to what was left unread.
                self.wake()

    def mend(self) -> None:
        """Put right what `hear` may have left in this thread when an exception came out of it, at whatever line."""
        self._hearer = None if self.heard_here else self._hearer
        if self._reading.acquire(blocking=False):  # else another thread hears by now, and watches again when it ends
            try:
                self._renew_selector()
                while True:
                    self._reading.release()
            except RuntimeError:
                pass  # as often as it was held
        self.wake()

    def _renew_selector(self) -> None:
        """Begin with a new one: an exception in the middle of `register` leaves its books and the kernel's apart.

        A thread that waits goes on with the old one until it is woken.
        """
        fresh = selectors.DefaultSelector()
        try:
            fresh.register(self._waked, selectors.EVENT_READ)
            if self._subscription is not None:
                fresh.register(self._registered, selectors.EVENT_READ)
        except (OSError, ValueError):
            pass  # closed: the thread that waits has ended, or sees to a lost connection
        self._selector = fresh

    def _watch(self) -> None:
        """Have the thread that waits wait for pushes, too."""
        subscription = self._subscription
        if subscription is not None and not subscription.failed:
            try:
                self._selector.register(self._registered, selectors.EVENT_READ)
            except (OSError, KeyError):  # it is watched already: see `mend`
                self._renew_selector()

    def _unwatch(self) -> None:
        try:
            self._selector.unregister(self._registered)
        except (KeyError, ValueError):
            pass  # its socket is closed already, and so no longer registered; or see `mend`

    def _hear(
        self, subscription: Subscription, take: Callable[[bytes], None], done: Callable[[], bool], left_s: float | None
    ) -> bool:
        """Say whether nothing can be left in the link's buffer, where no poll sees it."""
        ends = None if left_s is None else time.monotonic() + left_s
        poll = select.poll()
        poll.register(self._registered, select.POLLIN)
        poll.register(self._nudged, select.POLLIN)
        # What the hearer before left in the link's buffer, if this one came before the I/O thread that it has woken.
        more, came = subscription.held(), False
        while not done() and self._subscription is subscription:
            if ends is not None:
                left_s = ends - time.monotonic()
                if left_s <= 0:
                    break
            if more:
                # One at a time: others' answers may come without a pause, and are no reason to stay.
                message = subscription.read(came=came)
                more, came = message is not None and subscription.held(), False
                if message is not None:
                    take(message)
                continue
            for fd, _ in poll.poll(None if left_s is None else min(left_s, _LONGEST_POLL_S) * 1000):
                if fd == self._registered:
                    more = came = True
                else:
                    self._nudged.recv(4096)
        return not more

    def let_go(self) -> None:
        """Have the thread that hears return; it looks itself whether it has to go on."""
        if self._hearer not in (None, threading.get_ident()):
            try:
                self._nudger.send(b"n")
            except OSError:
                pass  # full: it is nudged already; or closed

    def reconnect(self) -> bool:
        """Subscribe again. What was pushed meanwhile is lost: ask about everything.

        False: not now, for a thread that listens has not returned yet. It may be in a signal's handler that waits for
        an answer, so it is not waited for; whoever listens wakes the I/O thread when it returns.
        """
        if not self._reading.acquire(blocking=False):
            return False
        try:
            self._close_left()
            self._address()
            self._subscription = subscription = self._broker.subscribe(self._client)
            self._registered = subscription.fileno()
            self._selector.register(self._registered, selectors.EVENT_READ)
        finally:
            self._reading.release()
        _log.info("connected to the server again; asking about what is awaited")
        return True

    def deafen(self) -> None:
        """This thread, which listens, waits in a signal's handler: silence proves nothing."""
        self._deaf = True

    def check(self) -> None:
        """Find out whether pushes can still come. Raises BrokerUnavailable once it is clear that they cannot."""
        if self._subscription is not None and not self._deaf:
            self._subscription.check()

    def answered(self) -> None:
        """The server has answered: the next failure is a first one."""
        self._failures = 0

    def lost(self, error: Exception | None) -> None:
        """Let go of a connection that failed, and pause; said once, until there was an answer again."""
        if self._subscription is not None and self._subscription.interrupted:
            _log.debug("a message was interrupted in the middle; listening anew, and asking about what is awaited")
            self._hang_up()
            return
        self._failures += 1
        pause_s = min(_LONGEST_PAUSE_S, 0.05 * 2 ** min(self._failures, 6))
        self.again_at = time.monotonic() + random.uniform(pause_s / 2, pause_s)
        if self._failures == 1 and error is not None:
            _log.warning("the server is gone; results are late until it is back: %s", error)
        self._hang_up()

    def end(self) -> None:
        """The thread that listens has ended. The bells' other ends stay, for those who ring them at this moment."""
        self._hang_up()
        with self._reading:  # whoever hears has been nudged, by an end of a bell that is about to be closed
            self._close_left()
        self._selector.close()
        self._waked.close()
        self._nudged.close()

    def close_bell(self) -> None:
        """Nobody listens any more."""
        self._waker.close()
        self._nudger.close()

    def leave_parent(self) -> None:
        """In a forked child: let go of the bell; the connection is the parent's."""
        for end in (self._waker, self._waked, self._nudger, self._nudged):
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
            except BrokerError:  # nothing that passes
                self._broker.close()
                raise
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    def _hang_up(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._left.append(subscription)
            self.let_go()
            if self._reading.acquire(blocking=False):  # else whoever reads closes it, or `reconnect` does
                try:
                    self._close_left()
                finally:
                    self._reading.release()

    def _close_left(self) -> None:
        """Close what was lost. Only who holds `_reading`: else the socket's number might mean another file by then."""
        while self._left:
            self._unwatch()
            self._left.pop().close()
