"""What a verb of the broker is without I/O: what to send, and how to read the answer.

    Broker / AsyncBroker ── verb(owner, queue, …) ─► Call(script, keys, arguments, parse) ─► EVALSHA ─► parse(reply)

A verb that is one script is one function, in producer_calls.py, worker_calls.py or group_calls.py; verbs that take
several steps are in flows.py, and are made of these; verbs.py lists them all. A call is sent again with the same
arguments until it is answered, so each script knows its own repetition; `again` is the form of a call whose first
sending may have been applied already.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from ..ids import new_token
from ..model import Line, StopOrder
from .keys import Keyspace, QueueKeys
from .records import read_stop
from .scripts import Arg, Script, load

T = TypeVar("T")


# A plain command. A word of it may be in pieces, of which a large one is not copied.
Command = tuple[Arg | tuple[bytes, ...], ...]


class Call(NamedTuple, Generic[T]):
    """One round trip: a script with its keys and arguments, or (without a script) a whole plain command."""

    verb: str  # for messages: "submit 3 tasks to queue 'mail'"
    script: Script | None
    keys: Sequence[Arg]
    args: Sequence[Arg]
    parse: Callable[[Any], T]
    again: Callable[[], Call[T]] | None = None
    unanswered: Callable[[str], Exception] | None = None  # the error when it was sent, and not answered in time
    refused: Callable[[str], Exception] | None = None  # the error when the script refuses, from the id that it names
    # Plain commands that are done together with the script, or not at all (together.py); and the same without them, for
    # a full server.
    before: Sequence[Command] = ()
    after: Sequence[Command] = ()
    alone: Callable[[], Call[T]] | None = None


@dataclass(slots=True)
class Owner:
    """What the calls of one broker share: its names, and what it knows of the server so far."""

    keyspace: Keyspace
    opened: dict[str, str] = field(default_factory=dict)  # queue -> epoch under which it was registered
    now_ms: Arg = ""  # set by tests; empty: the server's clock

    @property
    def token(self) -> str:
        """What becomes the epoch of a queue that has none.

        Another one for each call: if a server came back empty and met the very token again that had named the life
        before, nobody would see that it lost its data.
        """
        return new_token()

    def queue(self, name: str) -> QueueKeys:
        """The keys of a queue."""
        return self.keyspace.queue(name)

    def saw(self, queue: str, epoch: str) -> None:
        """Take note of a queue's epoch: another one than before means that the server lost what it had."""
        if queue in self.opened and self.opened[queue] != epoch:
            del self.opened[queue]


def command(verb: str, *parts: Arg, parse: Callable[[Any], T]) -> Call[T]:
    """A plain command as a call."""
    return Call(verb, None, (), parts, parse)


def script_call(
    owner: Owner,
    queue: str,
    name: str,
    *,
    line: Line | None = None,
    results: Sequence[str] = (),
    rest: Sequence[Arg] = (),
    **args: Arg,
) -> tuple[Script, Sequence[Arg], list[Arg]]:
    """A script with its keys and arguments in place: the named ones, then `rest`.

    `results` are ids of tasks; `line` that of the keys `line` and `bell`, and the argument of that name.
    """
    script = load(name)
    keys = owner.queue(queue)
    fixed = keys.of(script.keys, line)
    if line is not None:
        args["line"] = line.code
    if "now_ms" in script.args:
        args["now_ms"] = owner.now_ms
    return script, (fixed + keys.results(results) if results else fixed), script.arguments(rest, **args)


def read_stops(parts: Sequence[Any]) -> tuple[tuple[str, str, StopOrder], ...]:
    """Read the stops at the end of a reply: claim, id and order of each."""
    return tuple(
        (claim.decode(), local.decode(), read_stop(order.decode()) or StopOrder())
        for claim, local, order in zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    )
