"""A submit that returns when its tasks are on the server's disk and on a replica, whatever of both the server has.

    Sending ── tasks with durable=True ──► Durable, one connection ── submit … ─► WAITAOF, WAIT ─► in time?
                                            │                                                      ├─ yes
                                            └─ it broke: another server may answer; submit all     └─ no: NotReplicated
                                               of it again, with the same ids, and wait anew

A server waits for what one connection wrote, and what another server was told does not count: hence a connection of its
own for each such submit, and everything once more when that was lost. Before each wait stands a write that always
counts, because a submit that finds its tasks there writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import BrokerError, BrokerUnavailable, Refused, ServerUnfit, SubmitUnknown
from ..model import Line
from .broker import Broker
from .calls import command
from .connection import bars
from .hello import FAULTS, pack
from .sentinel import FoundLinks
from .values import SubmitItem, Submitted

__all__ = ["Durable"]

_LATE_S = 0.5  # an answer may be so late beyond the time that the server was given
_PAUSE_S = 0.05
_NO_FILE = "appendonly is disabled"


class Durable(Broker):
    """A broker for one submit of one thread."""

    def __init__(self, broker: Broker) -> None:
        """Make one like this; nothing is sent yet."""
        given = broker._given
        super().__init__(
            broker.url, broker.keyspace.namespace, timeout_s=broker.timeout_s, role="durable", client=given
        )
        self.owner = broker.owner
        self._waits: list[tuple[str, tuple[str | int, ...]]] = []  # where a task is to be, and what waits for that
        self._sent: list[Callable[[], object]] = []  # to be submitted again
        self._mark: bytes = b""
        self._via = 0  # on which of its connections all was written

    def check(self) -> None:
        """See, once, what this server has to keep tasks by.

        Raises:
            ServerUnfit: nothing, or it cannot tell.
        """
        if self._waits:
            return
        if self._cluster is not None:
            raise ServerUnfit("cannot submit with durable=True: not known on a cluster; nothing was queued")
        why = ""
        try:
            self.run(command("ask whether it can wait for its disk", "WAITAOF", 1, 0, 1, parse=list))
            self._waits.append(("on its disk", ("WAITAOF", 1, 0)))
        except BrokerError as error:
            if isinstance(error, BrokerUnavailable) or bars(error.__cause__ or error):
                raise
            why = "its append-only file is off"
            if _NO_FILE not in str(error):
                why = "it cannot tell what is on its disk, as Redis from 7.2 on and Valkey can"
        role, _, replicas, *_ = self.run(command("ask for its replicas", "ROLE", parse=lambda reply: [*reply, 0, 0]))
        # Where sentinels may make a replica the primary, what none of them has is not kept, also while none follows.
        if (role == b"master" and replicas) or isinstance(self._links, FoundLinks):
            self._waits.append(("on a replica", ("WAIT", 1)))
        if not self._waits:
            raise ServerUnfit(
                f"cannot submit with durable=True: {why}, and it has no replica; nothing was queued. Turn its"
                " append-only file on (appendonly yes), or submit without durable"
            )
        self._via = self._links.made

    def keep(self, queue: str, line: Line, items: Sequence[SubmitItem], *, given: bool) -> Submitted:
        """As `submit`; `confirm` waits for all of it."""
        self._mark = pack(("HSET", self.owner.queue(queue).of(("meta",))[0], "durable", "1"))
        self._sent.append(partial(self.submit, queue, line, items, given=given, resend=True))
        return self.submit(queue, line, items, given=given)

    def confirm(self) -> str:
        """Wait until all that was submitted is kept. Returns what is wrong; empty when nothing is."""
        allowed_s = self.timeout_s
        ends = time.monotonic() + allowed_s
        while True:
            try:
                if self._links.made != self._via:
                    self._waits = []
                    self.check()
                    for submit in self._sent:
                        submit()
                missing = self._wait(ends)
                return missing and f"after {allowed_s:g} s the server did not have it {missing}"
            except (*FAULTS, BrokerError, Refused, SubmitUnknown) as error:
                self._via = 0
                doubt = f"the server did not say that it keeps it ({str(error).rstrip('.') or type(error).__name__})"
            left_s = ends - time.monotonic()
            if left_s <= _PAUSE_S:
                return doubt
            time.sleep(_PAUSE_S)
            self.timeout_s = left_s

    def _wait(self, ends: float) -> str:
        """Wait for what this connection has written. Returns where it is not; empty when it is everywhere."""
        link = self._links.send(self._mark)
        try:
            if self._links.made != self._via:  # it was idle, and the server had closed it
                raise ConnectionError("the connection that wrote it is lost")
            link.reply()
            for where, wait in self._waits:
                ms = max(1, round((ends - time.monotonic()) * 1000))
                link.send(pack((*wait, ms)))
                if not link.waits(ms / 1000 + _LATE_S):
                    raise TimeoutError("no answer")
                reply = link.reply()
                if not (reply[0] if isinstance(reply, list) else reply):
                    return where
            return ""
        finally:
            link.close()
