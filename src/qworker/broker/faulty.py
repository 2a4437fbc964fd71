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
from collections.abc import Sequence
from typing import Any

import hiredis

from .. import faultpoints
from . import links, sockets
from .hello import Address
from .scripts import load

LATE_S = 0.3
_CUT = "cut by a fault point"


class Socket(sockets.Plain):
    """A worker's connection."""

    def __init__(self, address: Address, name: str) -> None:
        super().__init__(address, name)
        self._asked = Asked()
        self._again = False

    async def ask(self, packed: bytes, within_s: float) -> Any:
        async with asyncio.timeout(within_s):
            await self.send(packed)
            return await self.reply()

    async def send(self, *packed: bytes) -> None:
        await super().send(*packed)
        self._asked = asked = Asked(packed)
        if asked.calls:
            await asyncio.sleep(0)
            await asyncio.sleep(0)  # uvloop writes at the end of a turn
        action = asked.reach("sent")
        if action == "cut":
            self._abort()
        elif action == "dup":
            await super().send(*packed)
            self._again = True

    async def reply(self) -> Any:
        asked = self._asked
        try:
            return await super().reply()
        finally:
            asked.unread -= 1
            if not asked.unread:
                await self._answered(asked)

    async def _answered(self, asked: Asked) -> None:
        if self._again:
            self._again = False
            for _ in range(asked.size):
                await super().reply()
        action = asked.reach("reply")
        if action == "cut":
            self._abort()
            raise ConnectionError(_CUT)
        if action == "dup":
            copy = sockets.Plain(self._address, self._name)
            asyncio.get_running_loop().call_later(LATE_S, _spawn, copy, asked)


class Link(links.Plain):
    """A producer's connection."""

    def __init__(self, address: Address, name: str, timeout_s: float) -> None:
        super().__init__(address, name, timeout_s)
        self._asked = Asked()
        self._again = self._cut = False

    def send(self, packed: bytes, *more: bytes) -> None:
        super().send(packed, *more)
        self._asked = Asked((packed, *more))
        action = self._asked.reach("sent")
        self._cut = action == "cut"  # whoever hears that there is no answer closes this link, unread
        if action == "dup":
            super().send(packed, *more)
            self._again = True

    def reply(self) -> Any:
        if self._cut:
            raise ConnectionError(_CUT)
        asked = self._asked
        try:
            return super().reply()
        finally:
            asked.unread -= 1
            if not asked.unread:
                self._answered(asked)

    def _answered(self, asked: Asked) -> None:
        if self._again:
            self._again = False
            for _ in range(asked.size):
                super().reply()
        action = asked.reach("reply")
        if action == "cut":
            raise ConnectionError(_CUT)
        if action == "dup":
            threading.Timer(LATE_S, self._send_late, [asked]).start()

    def _send_late(self, asked: Asked) -> None:
        copy = links.Plain(self._address, self._name, self._timeout_s)
        copy.open()
        copy.send(*asked.packed)
        for _ in range(asked.size):
            copy.reply()
        copy.close()


class Asked:
    """What was written in one go: one command, or a script with others around it."""

    def __init__(self, packed: Sequence[bytes] = ()) -> None:
        self.packed = packed
        reader = hiredis.Reader()
        reader.feed(b"".join(packed))
        commands = list(iter(reader.gets, False))
        self.size = self.unread = len(commands)
        self.calls = [call for command in commands for call in calls_of(command)]

    def reach(self, half: str) -> str:
        """Pass the points of all its calls; returns what is left to be done here."""
        return next(filter(None, [faultpoints.reach(f"{call}.{half}") for call in self.calls]), "")


def calls_of(command: Sequence[bytes]) -> list[str]:
    """Name the calls that a command is, of those that have points."""
    word, *parts = command
    name = _scripts().get(parts[0], "") if word in (b"EVALSHA", b"EVAL") else ""
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
    found = {name: load(name) for name in ("submit", "claim", "renew", "settle", "rescue")}
    return {named: name for name, script in found.items() for named in (script.sha.encode(), script.text)}


_late: set[asyncio.Task[None]] = set()  # asyncio itself holds its tasks by weak references only


def _spawn(copy: sockets.Plain, asked: Asked) -> None:
    task = asyncio.ensure_future(_send_late(copy, asked))
    _late.add(task)
    task.add_done_callback(_late.discard)


async def _send_late(copy: sockets.Plain, asked: Asked) -> None:
    await copy.open()
    await copy.send(*asked.packed)
    for _ in range(asked.size):
        await copy.reply()
    await copy.close()
