"""The network between nodes and the server, and the server as what answers on it.

    node: Wire.ask(packed) ── delay ──► Server: one command after the other ── delay ──► reply

A connection keeps its order, two connections do not. Whatever may happen to bytes happens here, drawn from the seed:
a delay, a cut before the server has read them or after it has done what they say, a second delivery, a partition in
one direction or both, a server that stands still or comes back without its scripts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import hiredis

from .store import Error, Store, load_all
from .times import Event, Node, Universe

PERIL_S = 2.0  # how late the second delivery of a command may be


@dataclass
class Weather:
    """How the network behaves: what may happen to each message, and how long one takes."""

    delay_s: float = 0.0005
    slow: float = 0.0  # how often a message takes up to `slow_s`
    slow_s: float = 0.3
    cut_before: float = 0.0  # how often a connection breaks before a command arrives
    cut_after: float = 0.0  # or when it was done, so that its answer is lost
    twice: float = 0.0  # how often a command is delivered again later


class Server:
    """One server: its data, its clock, and who is connected. `store` may be used by one server at a time."""

    def __init__(self, universe: Universe, store: Store, weather: Weather) -> None:
        self.universe, self.store, self.weather = universe, store, weather
        self.clock_s = 0.0  # how far its clock is off
        self.frozen = self.down = False
        self.cut_off: dict[str, str] = {}  # node -> "both", "there" or "back": what does not get through
        self.wires: list[Wire] = []
        self.calls = 0
        self._waiting: deque[tuple[Wire | None, tuple[Any, ...]]] = deque()  # arrived while it stands still
        # What a producer was told to be refused does not come a second time: who sends twice knows, and says "unknown".
        self._refused: list[tuple[Any, ...]] = []
        self._blocked: list[_Blocked] = []
        self._rung: list[bytes] = []
        store.reset()
        store.now_ms = lambda: int((universe.now + self.clock_s) * 1000) + 1_700_000_000_000
        store.published, store.pushed = self._publish, self._rung.append
        store.listening = lambda channel: sum(channel in wire.channels for wire in self.wires)
        load_all(store)

    # ── what may happen to it ────────────────────────────────────────────────────────────────────────────────────

    def thaw(self) -> None:
        """Go on after it stood still: first what came meanwhile."""
        self.frozen = False
        waiting, self._waiting = self._waiting, deque()
        for wire, parts in waiting:
            self.arrive(wire, parts)
        for blocked in list(self._blocked):
            if blocked.due:
                self._give_up(blocked)

    def restart(self, away_s: float) -> None:
        """Crash, and come back with its data (append-only file), but without connections and scripts."""
        self.down = True
        self.cut(lambda _: True)
        self.frozen = False
        self._waiting.clear()
        self.store.loaded.clear()
        self.universe.after(away_s, self._up)

    def _up(self) -> None:
        self.down = False

    def cut(self, which: Callable[[Wire], bool]) -> None:
        """Break connections."""
        for wire in [wire for wire in self.wires if which(wire)]:
            wire.lose("cut")

    def passes(self, node: Node, way: str) -> bool:
        """Whether bytes get through to the server (`there`) or to a node (`back`)."""
        return self.cut_off.get(node.name) not in ("both", way)

    def heal(self, node: str) -> None:
        """The network of a node is whole again: what was under way arrives."""
        self.cut_off.pop(node, None)
        for wire in list(self.wires):
            if wire.node.name == node:
                wire.resume()

    # ── what it does ─────────────────────────────────────────────────────────────────────────────────────────────

    def arrive(self, wire: Wire | None, parts: tuple[Any, ...]) -> None:
        """A command has come; without a wire, the second delivery of one."""
        if self.down or (wire is not None and wire.broken):
            return
        if wire is None and any(parts is refused for refused in self._refused):
            return
        if self.frozen:
            self._waiting.append((wire, parts))
            return
        self.calls += 1
        reply = self._do(wire, parts)
        if isinstance(reply, hiredis.ReplyError) and wire is not None and wire.node.name.startswith("p"):
            self._refused.append(parts)
        if wire is not None and reply is not _LATER:
            if self.universe.draw.random() < self.weather.cut_after:
                wire.lose("cut after a command was done")
            else:
                wire.back(reply)
        self._serve_rings()

    def _do(self, wire: Wire | None, parts: tuple[Any, ...]) -> Any:
        name = parts[0]
        if name == b"BLPOP":
            if self.store.refuses:
                return hiredis.ReplyError(self.store.refuses)
            return self._block(wire, parts) if wire is not None else _LATER
        if name == b"SUBSCRIBE":
            assert wire is not None
            wire.channels.update(dict.fromkeys(parts[1:]))
            for place, channel in enumerate(parts[1:]):
                wire.back([b"subscribe", channel, place + 1])
            return _LATER
        if name == b"PING" and wire is not None and wire.channels:
            return [b"pong", b""]
        if name == b"SCRIPT" and parts[1] == b"FLUSH":
            return self.store.command(*parts)
        try:
            return self.store.command(*parts)
        except Error as error:
            return hiredis.ReplyError(str(error))

    def _publish(self, channel: bytes, message: bytes) -> int:
        heard = [wire for wire in self.wires if channel in wire.channels]
        for wire in heard:
            wire.back([b"message", channel, message])
        return len(heard)

    def _block(self, wire: Wire, parts: tuple[Any, ...]) -> Any:
        *keys, timeout = parts[1:]
        for key in keys:
            value = self.store.command(b"LPOP", key)
            if value is not None:
                return [key, value]
        blocked = _Blocked(wire, tuple(keys))
        blocked.timer = self.universe.after(float(timeout), self._give_up, blocked)
        self._blocked.append(blocked)
        return _LATER

    def _give_up(self, blocked: _Blocked) -> None:
        if self.frozen:
            blocked.due = True
        elif blocked in self._blocked:
            self._blocked.remove(blocked)
            blocked.wire.back(None)

    def _serve_rings(self) -> None:
        """Who waits longest for a list that something was pushed to gets it."""
        while self._rung:
            key = self._rung.pop()
            for blocked in list(self._blocked):
                if key in blocked.keys and key in self.store.data:
                    self._blocked.remove(blocked)
                    blocked.timer.cancel()
                    blocked.wire.back([key, self.store.command(b"LPOP", key)])

    def gone(self, wire: Wire) -> None:
        """A connection has ended."""
        if wire in self.wires:
            self.wires.remove(wire)
        for blocked in [blocked for blocked in self._blocked if blocked.wire is wire]:
            blocked.timer.cancel()
            self._blocked.remove(blocked)


class _Blocked:
    """Who waits for a list."""

    __slots__ = ("due", "keys", "timer", "wire")

    def __init__(self, wire: Wire, keys: tuple[bytes, ...]) -> None:
        self.wire, self.keys, self.due = wire, keys, False
        self.timer: Event


_LATER = object()


class Wire:
    """One connection of a node: what AsyncBroker takes for a socket. Implements broker.sockets.Connection."""

    def __init__(self, node: Node, server: Server) -> None:
        self.node, self.server = node, server
        self.closed = self.broken = False
        self.channels: dict[bytes, None] = {}
        self._reader = hiredis.Reader()
        self._there: deque[tuple[Any, ...]] = deque()  # held up by a partition
        self._back: deque[Any] = deque()
        self._there_at = self._back_at = 0.0
        self._replies: deque[Any] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._lost: OSError | None = None

    # ── the face of a connection ─────────────────────────────────────────────────────────────────────────────────

    async def open(self) -> None:
        server = self.server
        while not (server.passes(self.node, "there") and server.passes(self.node, "back")) or server.frozen:
            await asyncio.sleep(0.05)  # whoever waits has a time limit
        await asyncio.sleep(2 * self._delay_s())
        if server.down:
            raise ConnectionRefusedError("connection refused")
        server.wires.append(self)

    async def send(self, packed: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        self._send(packed)

    async def reply(self) -> Any:
        while not self._replies:
            if self._lost is not None:
                raise self._lost
            self._waiter = self.node.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        reply = self._replies.popleft()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    async def ask(self, packed: bytes, within_s: float) -> Any:
        async with asyncio.timeout(within_s):
            await self.send(packed)
            return await self.reply()

    async def close(self, *, wait: bool = False) -> None:
        self.closed = True
        self._lost = self._lost or ConnectionError("closed")
        # What was sent arrives all the same; what a partition holds up, perhaps.
        if self._there and self.server.universe.draw.random() < 0.5:
            self._there.clear()
        if not self._there:
            self.server.universe.at(max(self._there_at, self.server.universe.now) + 1e-6, self.server.gone, self)

    # ── the bytes on their way ───────────────────────────────────────────────────────────────────────────────────

    def _delay_s(self) -> float:
        draw, weather = self.server.universe.draw, self.server.weather
        if weather.slow and draw.random() < weather.slow:
            return draw.uniform(weather.delay_s, weather.slow_s)
        return weather.delay_s * (0.5 + draw.random())

    def _send(self, packed: bytes) -> None:
        self._reader.feed(packed)
        parts = tuple(self._reader.gets())
        server = self.server
        draw, weather = server.universe.draw, server.weather
        if weather.cut_before and draw.random() < weather.cut_before:
            self.lose("cut before a command arrived")
            return
        if weather.twice and parts[0] == b"EVALSHA" and draw.random() < weather.twice:
            server.universe.after(draw.uniform(0.0, PERIL_S), server.arrive, None, parts)
        if not server.passes(self.node, "there"):
            self._there.append(parts)
            return
        now = server.universe.now
        self._there_at = max(self._there_at, now + self._delay_s())
        server.universe.at(self._there_at, server.arrive, self, parts)

    def back(self, reply: Any) -> None:
        """The server answers, or pushes."""
        server = self.server
        if not server.passes(self.node, "back"):
            self._back.append(reply)
            return
        now = server.universe.now
        self._back_at = max(self._back_at, now + self._delay_s())
        server.universe.at(self._back_at, self._arrived, reply)

    def resume(self) -> None:
        """The partition is over."""
        there, self._there = self._there, deque()
        back, self._back = self._back, deque()
        now = self.server.universe.now
        for parts in there:
            self._there_at = max(self._there_at, now + self._delay_s())
            self.server.universe.at(self._there_at, self.server.arrive, self, parts)
        for reply in back:
            self.back(reply)
        if self.closed:
            self.server.universe.at(self._there_at + 1e-6, self.server.gone, self)

    def lose(self, why: str) -> None:
        """The connection breaks: the server forgets it now, the node hears of it as soon as something gets through."""
        self.broken = True
        self.server.gone(self)
        self.server.universe.after(self._delay_s(), self._reset, why)

    def _reset(self, why: str) -> None:
        self.closed = True
        self._lost = self._lost or ConnectionResetError(why)
        self._wake()

    def _arrived(self, reply: Any) -> None:
        if not self.closed and not self.node.dead:
            self._replies.append(reply)
            self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done() and not self.node.dead:
            self._waiter.set_result(None)
