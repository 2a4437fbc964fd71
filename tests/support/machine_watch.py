"""A broker whose every call is compared with the twin of the scripts: its reply, what it leaves, and what it pushes.

watch = Watch(broker, twin, CHANNELS); broker.submit(…)      # each sending of the call is done by the twin, too
watch.compare()                                              # all keys, lives and messages
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

import pytest

from qworker.broker.calls import Call
from qworker.errors import Conflict
from support.brokers import TwiceBroker
from support.machine_scripts import Refused
from support.machine_worker_scripts import Twin

T = TypeVar("T")
TTL_SLACK_MS = 20_000  # what may pass before somebody looks


def _plain(reply: Any) -> Any:
    """A reply with all that it says as bytes: whether a number is one or its digits is nobody's concern."""
    if isinstance(reply, (list, tuple)):
        return [_plain(part) for part in reply]
    return reply if isinstance(reply, bytes) else str(reply).encode()


class Watch:
    """Stands before `broker.run`."""

    def __init__(self, broker: TwiceBroker, twin: Twin, channels: tuple[str, ...], *, behind: bool) -> None:
        self.broker, self.twin = broker, twin
        self._behind = behind  # a server may push after its answer
        self._prefix = broker.keyspace.queue("q").prefix
        self._run = type(broker).run.__get__(broker)
        self._answered: list[tuple[Call[Any], Any]] = []
        self._ear = broker.client.pubsub(ignore_subscribe_messages=True)
        for channel in channels:
            self._ear.subscribe(channel)
        self.heard()
        self.resume()

    def pause(self) -> None:
        """Let calls pass."""
        del self.broker.run

    def resume(self) -> None:
        """Look at calls again."""
        self.broker.run = self.run  # type: ignore[method-assign]

    def close(self) -> None:
        """Let go of the broker."""
        self.pause()
        self._ear.close()

    def run(self, call: Call[T]) -> T:
        """Send a call, and have the twin do what was answered."""
        if call.script is None:
            return self._run(call)
        self._answered = []
        try:
            answer: T = self._run(self._noted(call))
        except Conflict:
            with pytest.raises(Refused):
                self.twin.answer(call)
            raise
        finally:
            for asked, reply in self._answered:
                self._agree(asked, reply)
        return answer

    def _noted(self, call: Call[T]) -> Call[T]:
        def parse(reply: Any) -> T:
            self._answered.append((call, reply))
            return call.parse(reply)

        again, alone = call.again, call.alone
        return call._replace(
            parse=parse,
            again=None if again is None else lambda: self._noted(again()),
            alone=None if alone is None else lambda: self._noted(alone()),
        )

    def _agree(self, call: Call[Any], reply: Any) -> None:
        expected = self.twin.answer(call)
        if call.verb.startswith("count queue"):
            reply = [*reply[:-1], sorted(zip(reply[-1][0::2], map(int, reply[-1][1::2]), strict=True))]  # in no order
            expected[-1] = sorted(expected[-1].items())
        assert _plain(reply) == _plain(expected), call.verb

    def heard(self) -> dict[str, list[bytes]]:
        """What was pushed since the last look, by channel."""
        found: dict[str, list[bytes]] = defaultdict(list)
        if self._behind:
            self._ear.ping()
        while True:
            message = self._ear.parse_response(block=False, timeout=5.0 if self._behind else 0.0)
            if message is None or message[0] == b"pong":
                assert message or not self._behind, "it got no answer"
                return dict(found)
            if message[0] == b"message":
                found[message[1].decode()].append(message[2])

    def compare(self) -> None:
        """All that the server holds and has pushed is what the twin says."""
        twin, space = self.twin, self.broker.keyspace
        expected = {(self._prefix + key).encode(): value for key, value in twin.data.dump().items()}
        expected |= {key.encode(): value for key, value in twin.others(space.workers).items()}
        found = self.broker.snapshot()
        found.pop(space.queues.encode(), None)
        if found != expected:  # pytest would look for the smallest difference of all
            wrong = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
            raise AssertionError(f"{[(key, found.get(key), expected.get(key)) for key in wrong]}"[:4_000])
        told, twin.told = twin.told, defaultdict(list)
        heard = self.heard()
        assert heard == dict(told)
        lives, twin.data.lives = twin.data.lives, {}
        for key, ttl in lives.items():
            name = key if key.startswith("qw:") else self._prefix + key
            if name.encode() in found:
                assert ttl - TTL_SLACK_MS < self.broker.client.pttl(name.encode()) <= ttl, key
