"""A submit that returns when its tasks are on the server's disk and on a replica, whatever of both the server has.

    Sending ── tasks with durable=True ──► Durable, one connection ── submit … ─► WAITAOF, WAIT ─► in time?
                                            │                                                      ├─ yes
                                            └─ it broke: another server may answer; submit all     └─ no: NotReplicated
                                               of it again, with the same ids, and wait anew

A server waits for what one connection wrote, and what another server was told does not count: hence a connection of its
own for each such submit, and everything once more when that was lost. Before each wait stands a write that always
counts, because a submit that finds its tasks there writes nothing.

WAITAOF alone is believed only with `appendfsync always`. With `everysec`, Valkey (8 to 9.1 at least) and Redis 7.4 say
"synced" as soon as the file was written, unless a second has passed since the last sync. So there it is watched: a sync
begins at the latest one second after the last one began, and is done when the server counts none as pending.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from ..errors import BrokerError, BrokerUnavailable, Refused, ServerUnfit, SubmitUnknown
from ..model import Line
from .broker import Broker
from .calls import command
from .connection import RESEND_S, bars
from .flows import read_info, read_pairs
from .hello import FAULTS, pack
from .links import Link
from .sentinel import FoundLinks
from .values import SubmitItem, Submitted

__all__ = ["Durable"]

_ON_DISK = "on its disk"
_LATE_S = 0.5  # an answer may be so late beyond the time that the server was given
_PAUSE_S = 0.05
_LOOK_S = 0.01
_NO_FILE = "appendonly is disabled"
_SYNC_EVERY_S = 1.05  # a second, and what the clocks of two hosts differ in one
_DISK = ("INFO", "persistence")
_POLICY = ("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite")
_CHILDREN = ("aof_rewrite_in_progress", "rdb_bgsave_in_progress")


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
        self._syncs_each = False  # the server syncs each write before it answers it
        self._may_rest = True  # it syncs nothing while a child of it writes the data anew
        self._via = 0  # on which of its connections all was written
        self._kept_at = 0.0  # when the first of it was submitted; 0: nothing was

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
            self._waits.append((_ON_DISK, ("WAITAOF", 1, 0)))
            policy = self._policy()
            self._syncs_each = policy.get("appendfsync") == "always"
            self._may_rest = policy.get("no-appendfsync-on-rewrite") != "no"
            if not self._syncs_each:
                self.run(command("ask what its disk does", *_DISK, parse=read_info))
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

    def _policy(self) -> dict[str, str]:
        """Return when the server syncs its file; nothing where it does not say."""
        try:
            return self.run(command("ask when it syncs", *_POLICY, parse=read_pairs))
        except BrokerUnavailable:
            raise
        except BrokerError:
            return {}  # CONFIG GET is withheld from most users, for it tells passwords, too

    def keep(self, queue: str, line: Line, items: Sequence[SubmitItem], *, given: bool) -> Submitted:
        """As `submit`; `confirm` waits for all of it."""
        self._mark = pack(("HSET", self.owner.queue(queue).of(("meta",))[0], "durable", "1"))
        self._kept_at = self._kept_at or time.monotonic()
        self._sent.append(partial(self.submit, queue, line, items, given=given, resend=True))
        return self.submit(queue, line, items, given=given)

    def confirm(self) -> str:
        """Wait until all that was submitted is kept. Returns what is wrong; empty when nothing is."""
        allowed_s = self.timeout_s
        ends = time.monotonic() + allowed_s
        while True:
            try:
                if self._links.made != self._via:
                    left_s = RESEND_S - (time.monotonic() - self._kept_at)
                    if left_s <= 0:  # what has ended may be forgotten by now, and would run a second time
                        return "the connection that wrote it is lost, and it is too late to submit it again unseen"
                    self.timeout_s = min(self.timeout_s, left_s)
                    self._waits = []
                    self.check()
                    for submit in self._sent:
                        submit()
                missing = self._wait(ends)
                return missing and f"after {allowed_s:g} s the server did not have it {missing}"
            except (*FAULTS, BrokerError, Refused, SubmitUnknown) as error:
                self._via = 0
                doubt = f"the server did not say that it keeps it ({str(error).rstrip('.') or type(error).__name__})"
                denied = bars(error.__cause__ or error)
            left_s = ends - time.monotonic()
            if left_s <= _PAUSE_S or denied:
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
                reply = _ask(link, (*wait, ms), ms / 1000)
                if not (reply[0] if isinstance(reply, list) else reply):
                    return where
                if where == _ON_DISK and not self._syncs_each and not _synced(link, ends, may_rest=self._may_rest):
                    return where
            return ""
        finally:
            link.close()


def _synced(link: Link, ends: float, *, may_rest: bool) -> bool:
    """Wait until the server's file is synced with all that was written to it before; False if it is not in time.

    Where nothing is pending, the next sync begins a second after the last one began, which was before now. The server
    looks whether it is time between two commands: so a first answer shows that its clock has come there, and only a
    later one tells of that sync. `may_rest`: it syncs nothing while it has a child that writes the data anew.
    """
    quiet = due = False
    since = 0.0
    while True:
        sent = time.monotonic()
        facts = read_info(_ask(link, _DISK, max(0.0, ends - sent)))
        child = may_rest and any(facts.get(name) != "0" for name in _CHILDREN)
        if facts.get("aof_pending_bio_fsync") == "0" and facts.get("aof_last_write_status") == "ok" and not child:
            if due:
                return True
            if not quiet:
                quiet, since = True, time.monotonic()
        due = due or (quiet and sent >= since + _SYNC_EVERY_S)
        left_s = ends - time.monotonic()
        if left_s <= 0:
            return False
        time.sleep(min(left_s, max(_LOOK_S, since + _SYNC_EVERY_S - time.monotonic() if quiet else 0.0)))


def _ask(link: Link, words: tuple[str | int, ...], within_s: float) -> Any:
    """Ask for one answer; a server that has none within that time and a moment is not there."""
    link.send(pack(words))
    if not link.waits(within_s + _LATE_S):
        raise TimeoutError("no answer")
    return link.reply()
