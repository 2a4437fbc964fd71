"""The model server for the tests of the scripts: a broker on it, and as much of redis-py's client as those tests use.

So the model of the server is judged by the very machines that judge the servers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any, cast

import hiredis
import redis

from qworker.broker.links import Links
from support.brokers import TwiceBroker

from .store import Error, Store


class ModelClient:
    """Commands on a store, as redis-py has them."""

    def __init__(self) -> None:
        self.store = Store(lambda: int(time.time() * 1000))

    def execute_command(self, *parts: Any) -> Any:
        return self.store.command(*[part if isinstance(part, bytes) else str(part).encode() for part in parts])

    def script_flush(self) -> Any:
        return self.execute_command("SCRIPT", "FLUSH")

    def delete(self, *keys: bytes) -> Any:
        return self.execute_command("DEL", *keys)

    def pttl(self, key: bytes) -> Any:
        return self.execute_command("PTTL", key)

    def scan_iter(self, **_: Any) -> Iterator[bytes]:
        self.store.expire()
        return iter(list(self.store.data))

    def type(self, key: bytes) -> bytes:
        return {bytes: b"string", dict: b"hash", list: b"list"}[type(self.store.data[key])]

    def get(self, key: bytes) -> Any:
        return self.execute_command("GET", key)

    def hgetall(self, key: bytes) -> Any:
        found = self.store.data[key]
        # Sets and sorted sets are hashes in the model; these show by their values.
        if any(isinstance(value, float) for value in found.values()):
            return sorted(found.items(), key=lambda pair: (pair[1], pair[0]))
        return set(found) if None in found.values() else dict(found)

    def lrange(self, key: bytes, first: int, last: int) -> Any:
        return self.execute_command("LRANGE", key, first, last)

    def close(self) -> None:
        pass


class _Link:
    """A connection to a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()

    def open(self) -> None:
        pass

    def send(self, packed: bytes) -> None:
        self._reader.feed(packed)
        while (parts := self._reader.gets()) is not False:
            try:
                self._replies.append(self._store.command(*parts))
            except Error as error:
                self._replies.append(hiredis.ReplyError(str(error)))

    def reply(self) -> Any:
        reply = self._replies.popleft()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def waits(self, timeout_s: float) -> bool:
        return bool(self._replies)

    def held(self) -> bool:
        return bool(self._replies)

    def fresh(self) -> bool:
        return True

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        pass


class ModelBroker(TwiceBroker):
    """Each call twice, on the model."""

    def __init__(self) -> None:
        super().__init__("redis://model", "t", client=cast("redis.Redis", ModelClient()))

    def _make_links(self, url: str) -> Links:
        store = cast("ModelClient", self.client).store
        return Links(lambda: _Link(store))
