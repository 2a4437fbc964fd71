"""Connections with fault points: what the brokers use while QWORKER_FAULT names one of their calls (faultpoints.py).

call.sent   it was written, and nothing has been read
call.reply  it was answered, and nobody knows

kill9, stop, sleep, …   of this process
cut                     of this connection: the answer is lost
dup                     sent: the same bytes once more, before the answer; reply: a copy that the server reads late
"""

from __future__ import annotations

import asyncio
import functools
import threading
from typing import Any

import hiredis

from .. import faultpoints
from . import links, sockets
from .scripts import load

LATE_S = 0.3
_CUT = "cut by a fault point"


class Socket(sockets.Plain):
    """A worker's connection."""

    async def ask(self, packed: bytes, within_s: float) -> Any:
        calls = calls_of(packed)
        if not calls:
            return await super().ask(packed, within_s)
        async with asyncio.timeout(within_s):
            await self.send(packed)
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
        again = False
        for call in calls:
            action = faultpoints.reach(f"{call}.sent")
            if action == "cut":
                self._abort()
                raise ConnectionError(_CUT)
            if action == "dup":
                await self.send(packed)
                again = True
        async with asyncio.timeout(within_s):
            reply = await self.reply()
            if again:
                await self.reply()
        for call in calls:
            action = faultpoints.reach(f"{call}.reply")
            if action == "cut":
                self._abort()
                raise ConnectionError(_CUT)
            if action == "dup":
                copy = Socket(self._address, self._name)
                asyncio.get_running_loop().call_later(LATE_S, _spawn, copy, packed)
        return reply

    async def send_late(self, packed: bytes) -> None:
        """Be the connection of a copy that comes late."""
        await self.open()
        await self.send(packed)
        await self.reply()
        await self.close()


class Link(links.Plain):
    """A producer's connection."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._packed = b""
        self._calls: list[str] = []
        self._again = self._cut = False

    def send(self, packed: bytes) -> None:
        super().send(packed)
        self._packed, self._calls = packed, calls_of(packed)
        for call in self._calls:
            action = faultpoints.reach(f"{call}.sent")
            self._cut = action == "cut"
            if action == "dup":
                super().send(packed)
                self._again = True

    def reply(self) -> Any:
        if self._cut:
            raise ConnectionError(_CUT)  # whoever hears that closes this link, unread
        reply = super().reply()
        if self._again:
            self._again = False
            super().reply()
        for call in self._calls:
            action = faultpoints.reach(f"{call}.reply")
            if action == "cut":
                raise ConnectionError(_CUT)
            if action == "dup":
                threading.Timer(LATE_S, self._send_late, [self._packed]).start()
        self._calls = []
        return reply

    def _send_late(self, packed: bytes) -> None:
        copy = links.Plain(self._address, self._name, self._timeout_s)
        copy.open()
        copy.send(packed)
        copy.reply()
        copy.close()


def calls_of(packed: bytes) -> list[str]:
    """Name the calls that a command is, of those that have points."""
    reader = hiredis.Reader()
    reader.feed(packed)
    word, *parts = reader.gets()
    name = _scripts().get(parts[0], "") if word == b"EVALSHA" else ""
    if not name:
        return []
    script = load(name)
    arguments = parts[2 + int(parts[1]) :]
    given = dict(zip(script.args, arguments, strict=False))
    found = [name]
    if name == "renew" and int(given["started"]):
        found.append("start")
    if name == "settle" and _gives_back(arguments[len(script.args) :], int(given["groups"]), int(given["moves"])):
        found.append("release")
    return found


def _gives_back(items: list[bytes], groups: int, moves: int) -> bool:
    """Say whether a settle releases anything: its groups of ends come first, then its moves of five words each."""
    at = 0
    for _ in range(groups):
        at += 5 + 3 * int(items[at + 4])
    return b"R" in items[at : at + 5 * moves : 5]


@functools.cache
def _scripts() -> dict[bytes, str]:
    return {load(name).sha.encode(): name for name in ("submit", "claim", "renew", "settle", "rescue")}


_late: set[asyncio.Task[None]] = set()  # asyncio itself holds its tasks by weak references only


def _spawn(copy: Socket, packed: bytes) -> None:
    task = asyncio.ensure_future(copy.send_late(packed))
    _late.add(task)
    task.add_done_callback(_late.discard)
