"""The model server for the tests of the scripts: a broker on it, and as much of redis-py's client as those tests use.

So the model of the server is judged by the very machines that judge the servers.
"""

from __future__ import annotations

import time
from collections import deque
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

    def config_set(self, name: str, value: int) -> None:
        assert (name, value) in (("maxmemory", 0), ("maxmemory", 1)), "either there is room, or there is none"
        self.store.full = bool(value)

    def delete(self, *keys: bytes) -> Any:
        return self.execute_command("DEL", *keys)

    def pttl(self, key: bytes) -> Any:
        return self.execute_command("PTTL", key)

    def everything(self) -> dict[bytes, Any]:
        """Every key with its value."""
        self.store.expire()
        return {key: _shown(value) for key, value in self.store.data.items()}

    def zrange(self, key: bytes, first: int, last: int, *, withscores: bool) -> Any:
        assert (first, last, withscores) == (0, -1, True)
        return _shown(self.store.data.get(key, {})) or []

    def flushall(self) -> None:
        self.store.reset()

    def pubsub(self, **_: Any) -> ModelEar:
        return ModelEar(self.store)

    def close(self) -> None:
        pass


def _shown(value: Any) -> Any:
    """A value as redis-py shows it. Sets and sorted sets are hashes in the model; these show by their values."""
    if not isinstance(value, dict):
        return value if isinstance(value, bytes) else list(value)
    if any(isinstance(each, float) for each in value.values()):
        return sorted(value.items(), key=lambda pair: (pair[1], pair[0]))
    return set(value) if None in value.values() else dict(value)


class ModelEar:
    """A subscription on a store: the one that there is."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._channels: set[bytes] = set()
        self._messages: deque[list[bytes]] = deque()

    def subscribe(self, channel: str) -> None:
        self._channels.add(channel.encode())
        self._store.listening = lambda asked: int(asked in self._channels)
        self._store.published = self._publish

    def _publish(self, channel: bytes, message: bytes) -> int:
        if channel in self._channels:
            self._messages.append([b"message", channel, message])
        return int(channel in self._channels)

    def ping(self) -> None:
        self._messages.append([b"pong", b""])

    def parse_response(self, **_: Any) -> list[bytes] | None:
        return self._messages.popleft() if self._messages else None

    def close(self) -> None:
        self._channels.clear()


class _Link:
    """A connection to a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reader = hiredis.Reader()
        self._replies: deque[Any] = deque()
        self._queued: list[Any] | None = None  # the commands since MULTI
        self._aborted = False  # one of them was refused

    def open(self) -> None:
        pass

    def send(self, *packed: bytes) -> None:
        for part in packed:
            self._reader.feed(part)
        while (parts := self._reader.gets()) is not False:
            self._replies.append(self._answer(parts))

    def _answer(self, parts: list[Any]) -> Any:
        if parts[0] == b"MULTI":
            self._queued, self._aborted = [], False
            return b"OK"
        if self._queued is not None and parts[0] == b"EXEC":
            queued, self._queued = self._queued, None
            if self._aborted:
                return hiredis.ReplyError("EXECABORT Transaction discarded because of previous errors.")
            return [self._answer(each) for each in queued]
        try:
            if self._queued is not None:
                self._store.check(parts[0])
                self._queued.append(parts)
                return b"QUEUED"
            if parts[0] == b"EVAL":
                parts = [b"EVALSHA", self._store.command(b"SCRIPT", b"LOAD", parts[1]), *parts[2:]]
            return self._store.command(*parts)
        except Error as error:
            self._aborted = True
            return hiredis.ReplyError(str(error))

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
