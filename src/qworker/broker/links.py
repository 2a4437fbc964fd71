"""The blocking connections of producers and of the command line: a socket and hiredis, and nothing of redis-py.

    Broker.run   ── send(packed) ─► Links ─► a Link that nobody uses ─► the server ─► reply
    Subscription ── make() ───────► Links ─► a Link of its own

What redis-py alone knows well, TLS and the options of a URL, is left to it: see driver.py. Errors of the server are
hiredis.ReplyErrors, all others OSErrors; after one of those a link is of no use, and is closed.
"""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any, Protocol

import hiredis

from .hello import PACE, PATIENCE, Address, judge, nonsense, pack

LONGEST_MS = 2**31 - 1  # that poll can wait
_CHUNK = 65_536
_MORE = getattr(socket, "MSG_MORE", 0)
_LARGE_CHUNK = 1 << 20  # once an answer turned out to be longer than that


class Link(Protocol):
    """One connection. Owned by one thread at a time; `close` may be called from another."""

    def open(self) -> None:
        """Connect, and say who we are."""

    def send(self, packed: bytes, *more: bytes) -> None:
        """Write one command, or several. When this raises, the last of them did not reach the server whole."""

    def reply(self) -> Any:
        """Wait for the next answer or pushed message, so long at most as one attempt may take.

        Raises:
            hiredis.ReplyError: the server answered with an error.
            OSError: there was no answer, or no whole one.
        """

    def take(self, *, came: bool = False) -> Any:
        """Return the next pushed message if the whole of it has come, else None; never wait for more of it.

        After None, whoever polls `fileno` sees more coming. `came`: a poll has just seen some. Raises as `reply`.
        """

    def held(self) -> bool:
        """Whether something may have been received already that no poll of `fileno` sees."""

    def waits(self, timeout_s: float) -> bool:
        """Whether something comes, or the connection's end, within that time."""

    def ping(self) -> bool:
        """Ask for a sign of life while it is subscribed, and another thread may be reading; False: that cannot be."""

    def fresh(self) -> bool:
        """Whether an idle connection may be used again, as far as can be told without asking the server."""

    def fileno(self) -> int:
        """The number of its socket."""

    def close(self) -> None:
        """End it; who reads it in another thread is told."""


class Links:
    """The connections of one broker: those that nobody uses wait here. Any thread may use it, also after a fork."""

    def __init__(self, make: Callable[[], Link]) -> None:
        self._make = make
        self.made = 0  # how many connections so far
        self._idle: list[Link] = []
        self._closed = False
        self._pid = os.getpid()

    def make(self) -> Link:
        """Return a new connection, which belongs to whoever asked."""
        link = self._make()
        try:
            link.open()
        except BaseException:
            link.close()
            raise
        self.made += 1
        return link

    def send(self, *packed: bytes) -> Link:
        """Write to a connection that nobody uses, and return it. When this raises, nothing was done on the server."""
        if self._pid != os.getpid():
            self._idle, self._pid = [], os.getpid()  # in a forked child: they are the parent's
        while True:
            try:
                link, was_idle = self._idle.pop(), True
            except IndexError:  # there is none, or another thread was quicker
                link, was_idle = self.make(), False
            try:
                if not was_idle or link.fresh():
                    link.send(*packed)
                    return link
                link.close()
            except BaseException as error:
                link.close()
                if not (was_idle and isinstance(error, ConnectionError)):
                    raise
            # The server has closed it while nobody used it: the next one, or a new one.

    def give(self, link: Link) -> None:
        """Take back one whose answers were all read."""
        if self._closed:
            link.close()
        else:
            self._idle.append(link)

    def drop_idle(self) -> None:
        """Connect anew from now on: another server may have the address."""
        idle, self._idle = self._idle, []
        for link in idle:
            link.close()

    def close(self) -> None:
        """Close those that nobody uses, and the others when they are given back."""
        self._closed = True
        self.drop_idle()


class Plain:
    """A connection over TCP or a unix socket. `timeout_s` bounds its opening, and how long writes and answers rest."""

    def __init__(self, address: Address, name: str, timeout_s: float) -> None:
        self._address, self._name, self._timeout_s = address, name, timeout_s
        self._reader = hiredis.Reader()
        self._pid = os.getpid()
        self._socket: socket.socket = _NONE
        self._written = 0  # of the last command, if it was large

    def open(self) -> None:
        address = self._address
        if address.path:
            self._socket = made = socket.socket(socket.AF_UNIX)
            made.settimeout(self._timeout_s)
            made.connect(address.path)
        else:
            self._socket = made = socket.create_connection((address.host, address.port), self._timeout_s)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        hello = address.hello(self._name)
        self.send(b"".join(map(pack, hello)))
        for command in hello:
            try:
                self.reply()
            except hiredis.ReplyError as error:
                judge(command, error)

    def send(self, packed: bytes, *more: bytes) -> None:
        self._written = 0
        if not more and len(packed) <= _CHUNK:
            self._socket.sendall(packed)
            return
        for piece in more:  # one after the other: what is large is not copied beside the rest first
            self._write(packed, _MORE)
            packed = piece
        self._write(packed)

    def _write(self, piece: bytes, flags: int = 0) -> None:
        sent, ends = self._socket.send(piece, flags), 0.0
        if len(piece) > _CHUNK:
            self._written += len(piece)
        while sent < len(piece):
            ends = ends or time.monotonic() + PATIENCE * self._timeout_s
            if time.monotonic() > ends:
                raise TimeoutError("it is written too slowly")
            sent += self._socket.send(memoryview(piece)[sent:], flags)

    def reply(self) -> Any:
        reader = self._reader
        try:
            reply = reader.gets()
            if reply is False:
                if self._written:
                    self._wait_for_large()
                reader.feed(self._receive())
                reply = reader.gets()
                if reply is False:
                    reply = self._rest()
        except OSError:
            raise
        except Exception as error:  # beside ProtocolError: a map whose keys are arrays, an array that fits no memory
            raise nonsense(error) from None
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def _wait_for_large(self) -> None:
        """Wait for an answer to a large command, which may be under way yet."""
        if not self.waits(self._timeout_s + self._written / PACE):
            raise TimeoutError("timed out")

    def _rest(self) -> Any:
        """Read what comes in pieces."""
        ends = time.monotonic() + PATIENCE * self._timeout_s
        try:
            while (reply := self._reader.gets()) is False:
                self._socket.settimeout(max(0.001, min(self._timeout_s, ends - time.monotonic())))
                self._reader.feed(self._receive(_LARGE_CHUNK))
        finally:
            self._socket.settimeout(self._timeout_s)
        return reply

    def _receive(self, most: int = _CHUNK) -> bytes:
        data = self._socket.recv(most)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def take(self, *, came: bool = False) -> Any:
        try:
            while (reply := self._reader.gets()) is False:
                if not came and not self.waits(0):
                    return None
                came = False
                self._reader.feed(self._receive())
        except OSError:
            raise
        except Exception as error:  # as in `reply`
            raise nonsense(error) from None
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def held(self) -> bool:
        return self._reader.has_data()

    def ping(self) -> bool:
        self.send(pack(("PING",)))
        return True

    def fresh(self) -> bool:
        # A unix socket refuses what is written after its other end was closed; TCP takes it, and says so later.
        return bool(self._address.path) or not self.waits(0)

    def waits(self, timeout_s: float) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        left_ms = timeout_s * 1000
        return bool(poll.poll(left_ms if left_ms < LONGEST_MS else LONGEST_MS))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        if self._pid == os.getpid():  # else it is the parent's, who goes on using it
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed, or was never open
        self._socket.close()

    def __del__(self) -> None:
        self._socket.close()


_NONE = socket.socket()
_NONE.close()
