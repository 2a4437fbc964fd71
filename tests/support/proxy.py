"""A wire between clients and a server that a test can cut, stall, slow down and deafen, byte by byte.

    client ── requests ──► Proxy ──► server          proxy = Proxy(server.socket_path, tcp=True); proxy.url
           ◄── answers ───

    proxy.cut_answers(2, after=b"EVALSHA")           the server gets the next two such commands; their answers are lost
    proxy.on(sha, "cut before", nth=3)               the third call of that script does not reach the server
    proxy.on(b"message", "stall within", way="answers")          half of a push, and nothing more until `release`
    proxy.hold("answers"); proxy.release()           a stall: nothing is lost, and all of it comes later
    proxy.delay(0.1); proxy.trickle(1, every_s=0.001); proxy.smooth()
    proxy.blackhole("answers"); proxy.release()      what is sent is gone; links that lost some stay silent for good
    proxy.half_open()                                the server's end is gone, and no FIN or RST tells the client
    proxy.keep_far_ends()                            a client that goes is never noticed by the server
    proxy.reset(); proxy.refuse(); proxy.accept()    RST on all links; nobody listens; somebody listens again
    proxy.move(other.socket_path)                    another server has the address

All of it may be called from the test's thread at any time; one thread with an event loop does the work.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Way = Literal["requests", "answers"]
WAYS: tuple[Way, ...] = ("requests", "answers")

# What may happen at a chunk that contains given bytes. Of requests: it is not forwarded and the link ends; half of it
# is; it is, and the link ends instead of the answer, or after the answer's first bytes; it is, and nobody ever answers.
# Of answers, "cut before" and "cut within" in the same sense, and "stall within": the rest comes with `release`.
Do = Literal["cut before", "cut within", "cut answer", "cut within answer", "mute", "stall within"]

_CHUNK = 1 << 16
_FIRST_BYTES = 3
_RST = struct.pack("ii", 1, 0)  # SO_LINGER of no time: close() throws away what waits, and sends RST


@dataclass
class Rule:
    """What to do with links on which given bytes go by."""

    match: bytes
    do: Do
    way: Way
    nth: int  # the first time that counts
    count: int  # for so many times from then on
    seen: int = 0

    def applies(self, before: bytes, chunk: bytes) -> bool:
        """Whether it happens now. `before` is what the same link carried last, for matches across chunks."""
        kept = before[-(len(self.match) - 1) :] if len(self.match) > 1 else b""
        if self.match not in kept + chunk:
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.count


@dataclass(eq=False)
class Link:
    """One connection through the proxy. Owned by the proxy's thread."""

    near: socket.socket
    far: socket.socket
    silent: set[Way] = field(default_factory=set)  # what goes this way is thrown away, for good
    answer: Do | None = None  # what to do with the next answer
    kept: dict[Way, bytes] = field(default_factory=lambda: dict.fromkeys(WAYS, b""))
    pumps: list[asyncio.Task[None]] = field(default_factory=list)


class Proxy:
    """Forwards connections to the unix socket of a server; over TCP on the loopback, or a unix socket of its own."""

    def __init__(self, target: str, *, tcp: bool = False) -> None:
        self._target = target
        self._directory = Path(tempfile.mkdtemp(prefix="qw-"))
        self.path = str(self._directory / "p")
        self.port = 0
        self._tcp = tcp
        self.bytes: dict[Way, int] = dict.fromkeys(WAYS, 0)  # forwarded so far
        self.accepted = 0  # connections so far
        self._answers = Rule(b"", "cut answer", "requests", 1, 0)
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._slow: dict[Way, tuple[float, int, float]] = {}
        self._black: set[Way] = set()
        self._keep_far = False
        self._links: set[Link] = set()
        self._orphans: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self._loop = asyncio.new_event_loop()
        self._open = {way: asyncio.Event() for way in WAYS}
        self._released = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._thread.start()
        self._do(self._listen)
        self.url = f"redis://127.0.0.1:{self.port}/0" if tcp else f"unix://{self.path}"

    # What a test asks for

    @property
    def commands(self) -> int:
        """How many chunks to the server matched the last `cut_answers`."""
        return self._answers.seen

    @property
    def links(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    def on(self, match: bytes, do: Do, *, way: Way = "requests", nth: int = 1, count: int = 1) -> Rule:
        """Do something to the link on which these bytes go by, from the nth time on."""
        rule = Rule(match, do, way, nth, count)
        with self._lock:
            self._rules.append(rule)
        return rule

    def cut_answers(self, count: int, *, after: bytes) -> None:
        """Break the connection instead of answering, for the next `count` commands that contain `after`."""
        rule = Rule(after, "cut answer", "requests", 1, count)
        with self._lock:
            self._rules = [other for other in self._rules if other is not self._answers]
            self._answers = rule
            if after:
                self._rules.append(rule)

    def forget(self) -> None:
        """No rule holds any more."""
        with self._lock:
            self._rules.clear()

    def hold(self, *ways: Way) -> None:
        """Forward nothing more that way (or either way); connections stay open, and what is sent waits."""
        self._do(lambda: [self._open[way].clear() for way in ways or WAYS])

    def blackhole(self, *ways: Way) -> None:
        """Throw away what goes that way (or either way). A link that has lost something carries nothing any more."""
        self._do(lambda: self._black.update(ways or WAYS))

    def release(self) -> None:
        """End all stalls and blackholes. Links on which bytes were lost stay as they are, silent."""

        def act() -> None:
            self._black.clear()
            for gate in (*self._open.values(), self._released):
                gate.set()

        self._do(act)

    def delay(self, seconds: float, *ways: Way) -> None:
        """Have each chunk wait so long before it goes on."""
        self._do(lambda: self._slow.update(dict.fromkeys(ways or WAYS, (seconds, _CHUNK, 0.0))))

    def trickle(self, size: int = 1, *ways: Way, every_s: float = 0.0) -> None:
        """Forward so many bytes at a time, each in a write of its own, with a pause after each."""
        self._do(lambda: self._slow.update(dict.fromkeys(ways or WAYS, (0.0, size, every_s))))

    def smooth(self) -> None:
        """End delays and trickles."""
        self._do(self._slow.clear)

    def half_open(self) -> None:
        """The server's ends of all links are gone, and the clients are not told. New connections work."""

        def act() -> None:
            for link in self._links:
                for pump in link.pumps:
                    pump.cancel()
                link.silent.update(WAYS)
                link.pumps = [self._loop.create_task(self._pump(link, "requests", link.near, link.far))]
                _end(link.far)

        self._do(act)

    def keep_far_ends(self) -> None:
        """From now on the server does not notice that a client's end of a link has gone."""
        self._do(lambda: setattr(self, "_keep_far", True))

    def reset(self) -> None:
        """End all links by RST (on a unix socket: as any end)."""
        self._do(lambda: [self._close(link, rst=True) for link in list(self._links)])

    def refuse(self) -> None:
        """Nobody listens any more, and all links are reset."""

        def act() -> None:
            if self._listener is not None:
                self._loop.remove_reader(self._listener)
                self._listener.close()
                self._listener = None
            Path(self.path).unlink(missing_ok=True)

        self._do(act)
        self.reset()

    def accept(self) -> None:
        """Listen again, at the same address."""
        self._do(self._listen)

    def move(self, target: str) -> None:
        """Lead to another server from now on; the links that there are end."""
        self._target = target
        self.reset()

    def close(self) -> None:
        """End everything."""
        if self._loop.is_closed():
            return
        self.refuse()
        self._do(lambda: [_end(end) for end in self._orphans])
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        shutil.rmtree(self._directory, ignore_errors=True)

    # The proxy's thread

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        for gate in self._open.values():
            gate.set()
        self._loop.run_forever()
        pumps = asyncio.all_tasks(self._loop)
        for pump in pumps:
            pump.cancel()
        self._loop.run_until_complete(asyncio.gather(*pumps, return_exceptions=True))
        self._loop.close()

    def _do(self, act: Callable[[], Any]) -> None:
        """Do something in the proxy's thread, and return when it is done."""
        done = threading.Event()
        raised: list[BaseException] = []

        def run() -> None:
            try:
                act()
            except BaseException as error:
                raised.append(error)
            done.set()

        self._loop.call_soon_threadsafe(run)
        assert done.wait(10), "the proxy's thread is stuck"
        if raised:
            raise raised[0]

    def _listen(self) -> None:
        if self._listener is not None:
            return
        listener = socket.socket(socket.AF_INET if self._tcp else socket.AF_UNIX)
        if self._tcp:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port) if self._tcp else self.path)
        listener.listen(128)
        listener.setblocking(False)
        if self._tcp:
            self.port = listener.getsockname()[1]
        self._listener = listener
        self._loop.add_reader(listener, self._meet, listener)

    def _meet(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            near, _ = listener.accept()
            near.setblocking(False)
            far = socket.socket(socket.AF_UNIX)
            self.accepted += 1
            try:
                far.connect(self._target)  # to a local server: at once, or refused
                far.setblocking(False)
            except OSError:
                _end(far)
                _end(near, rst=True)
                return
            link = Link(near, far)
            self._links.add(link)
            for way, source, sink in (("requests", near, far), ("answers", far, near)):
                pump = self._pump(link, way, source, sink)  # type: ignore[arg-type]
                link.pumps.append(self._loop.create_task(pump))

    async def _pump(self, link: Link, way: Way, source: socket.socket, sink: socket.socket) -> None:
        try:
            while True:
                data = await self._loop.sock_recv(source, _CHUNK)
                if not data or not await self._pass(link, way, data, sink):
                    break
        except OSError:
            pass
        if not link.silent or (way == "requests" and not self._keep_far):
            self._close(link)  # else the one end has gone, and nobody tells the other

    async def _pass(self, link: Link, way: Way, data: bytes, sink: socket.socket) -> bool:
        """Send a chunk on as the test wants it; False ends the link."""
        do = self._match(link, way, data)
        if way == "answers" and link.answer is not None:
            if link.answer == "cut within answer":
                await self._send(way, data[:_FIRST_BYTES], sink)
            return False
        if do == "cut before":
            return False
        if do == "cut within":
            await self._send(way, data[: len(data) // 2], sink)
            return False
        if do == "stall within":
            await self._send(way, data[: len(data) // 2], sink)
            data = data[len(data) // 2 :]
            self._released.clear()
            await self._released.wait()
        elif do in ("cut answer", "cut within answer"):
            link.answer = do
        elif do == "mute":
            link.silent.add("answers")
        await self._open[way].wait()
        if way in self._black:
            link.silent.add(way)
        if way not in link.silent:
            await self._send(way, data, sink)
        return True

    async def _send(self, way: Way, data: bytes, sink: socket.socket) -> None:
        smooth = (0.0, len(data), 0.0)
        before_s, *_ = self._slow.get(way, smooth)
        if before_s:
            await asyncio.sleep(before_s)
        at = 0
        while at < len(data):
            _, size, after_s = self._slow.get(way, smooth)  # anew: when that is over, the rest goes at once
            await self._loop.sock_sendall(sink, data[at : at + size])
            self.bytes[way] += len(data[at : at + size])
            at += size
            if after_s:
                await asyncio.sleep(after_s)

    def _match(self, link: Link, way: Way, data: bytes) -> Do | None:
        found = None
        with self._lock:
            for rule in self._rules:
                if rule.way == way and rule.applies(link.kept[way], data):
                    found = rule.do
        link.kept[way] = (link.kept[way] + data)[-128:]
        return found

    def _close(self, link: Link, *, rst: bool = False) -> None:
        self._links.discard(link)
        for pump in link.pumps:
            pump.cancel()
        _end(link.near, rst=rst)
        if self._keep_far and not rst:
            self._orphans.append(link.far)
        else:
            _end(link.far)


def _end(end: socket.socket, *, rst: bool = False) -> None:
    with contextlib.suppress(OSError):
        if rst and end.family == socket.AF_INET:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        else:
            end.shutdown(socket.SHUT_RDWR)
    end.close()
