"""The verbs of the broker without I/O: what to send, and how to read the answer.

    Broker / AsyncBroker ── verb(owner, queue, …) ─► Call(script, keys, arguments, parse) ─► EVALSHA ─► parse(reply)

One function per verb that is one script. A call is sent again with the same arguments until it is answered, so each
script knows its own repetition; `again` is the form of a call whose first sending may have been applied already.
Verbs that take several steps are in flows.py, and are made of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from ..errors import Conflict, SubmitUnknown
from ..ids import new_token
from ..lifecycle import CODES
from ..model import (
    POOL_NEEDS,
    Again,
    Claimed,
    End,
    Line,
    Lose,
    Park,
    Peeked,
    PoolNeed,
    Record,
    Release,
    Renewal,
    Settle,
    Settled,
    StopOrder,
    Window,
)
from .keys import Keyspace, QueueKeys
from .records import read_record, read_stop
from .scripts import Arg, Script, load
from .values import (
    ExpireAnswer,
    ExpireCode,
    SettleReply,
    StartedTask,
    StopAnswer,
    StopCode,
    SubmitCode,
    SubmitItem,
    Submitted,
)

T = TypeVar("T")

_SUBMIT_CODES: Mapping[int, SubmitCode] = {ord("o"): "ok", ord("s"): "same", ord("e"): "ended"}
_SETTLE_CODES: Mapping[int, Settled] = {ord("o"): "ok", ord("l"): "lost", ord("a"): "again", ord("s"): "stopped"}
_NOBODY = (" " * 12, "")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One round trip: a script with its keys and arguments, or (without a script) a whole plain command."""

    verb: str  # for messages: "submit 3 tasks to queue 'mail'"
    script: Script | None
    keys: Sequence[Arg]
    args: Sequence[Arg]
    parse: Callable[[Any], T]
    again: Callable[[], Call[T]] | None = None
    unanswered: Callable[[str], Exception] | None = None  # the error when it was sent, and not answered in time
    refused: Callable[[str], Exception] | None = None  # the error when the script refuses, from the id that it names


@dataclass(slots=True)
class Owner:
    """What the calls of one broker share: its names, and what it knows of the server so far."""

    keyspace: Keyspace
    token: str = field(default_factory=new_token)  # becomes the epoch of a queue that has none
    opened: dict[str, str] = field(default_factory=dict)  # queue -> epoch under which it was registered
    now_ms: Arg = ""  # set by tests; empty: the server's clock

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


def _script(
    owner: Owner, queue: str, name: str, *, results: Sequence[str] = (), rest: Sequence[Arg] = (), **args: Arg
) -> tuple[Script, Sequence[Arg], list[Arg]]:
    script = load(name)
    keys = owner.queue(queue)
    fixed = keys.of(script.keys)
    if "now_ms" in script.args:
        args["now_ms"] = owner.now_ms
    return script, (fixed + keys.results(results) if results else fixed), script.arguments(rest, **args)


def _read_stops(parts: Sequence[Any]) -> tuple[tuple[str, str, StopOrder], ...]:
    return tuple(
        (claim.decode(), local.decode(), read_stop(order.decode()) or StopOrder())
        for claim, local, order in zip(parts[0::3], parts[1::3], parts[2::3], strict=True)
    )


def open_queue(owner: Owner, queue: str) -> Call[tuple[int, str]]:
    """Read (and, in a new queue, write) the schema and the epoch of a queue."""
    script, keys, args = _script(owner, queue, "open", epoch=owner.token)
    return Call(f"open queue {queue!r}", script, keys, args, lambda reply: (int(reply[0]), reply[1].decode()))


def submit(
    owner: Owner, queue: str, line: Line, items: Sequence[SubmitItem], *, given: bool, resend: bool = False
) -> Call[Submitted]:
    """Queue tasks on one line, all or none, and ring for a worker. At most about 1,000 items a call; callers send 256.

    `given`: the ids were given by a caller; `resend`: they were sent before. Either way they may have ended meanwhile,
    which is then looked up.

    Raises:
        Conflict: an id is taken by other content. Nothing of this call is queued.
        ServerFull: the server is at its memory limit. Nothing of this call is queued.
        SubmitUnknown: the call was sent and not answered in time. Submitting again with the same ids is safe.
        BrokerUnavailable: the server could not be reached. Nothing is queued.
        ServerUnfit: the queue's data has another schema.
    """
    unique: dict[str, SubmitItem] = {}
    for item in items:
        if unique.setdefault(item.id, item).blob[:8] != item.blob[:8]:
            raise _conflict(queue, item.id)
    timed = any(item.delay_ms or item.deadline_ms for item in items)
    rest: list[Arg] = []
    for item in unique.values():
        rest += (item.id, item.blob, item.delay_ms, item.deadline_ms) if timed else (item.id, item.blob)
    check = given or resend
    script, keys, args = _script(
        owner,
        queue,
        "submit",
        results=tuple(unique) if check else (),
        rest=rest,
        epoch=owner.token,
        line=line.code,
        step=4 if timed else 2,
    )

    def parse(reply: Any) -> Submitted:
        owner.saw(queue, reply[1].decode())
        codes = tuple([_SUBMIT_CODES[code] for code in reply[2]])
        if len(unique) != len(items):  # the same task twice in one call: its first one decides
            by_id = dict(zip(unique, codes, strict=True))
            codes = tuple([by_id[item.id] for item in items])
        return Submitted(int(reply[0]), codes)

    again = None if check else lambda: submit(owner, queue, line, items, given=given, resend=True)

    def unanswered(text: str) -> SubmitUnknown:
        return SubmitUnknown(
            f"{text} The tasks may have been queued: submit again with the same ids, which is safe",
            ids=tuple(f"{queue}:{item.id}" for item in items),
        )

    def refused(local: str) -> Conflict:
        return _conflict(queue, local)

    verb = f"submit {len(items)} task(s) to queue {queue!r}"
    return Call(verb, script, keys, args, parse, again, unanswered, refused)


def _conflict(queue: str, local: str) -> Conflict:
    """The error for an id that other content has taken."""
    return Conflict(
        f"cannot submit task {queue}:{local}: that id is taken by a task with other arguments or options; nothing of"
        " this call was queued. Give another id, or none to have one made"
    )


def claim(
    owner: Owner,
    queue: str,
    *,
    claim: str,
    worker: str,
    rooms: Sequence[tuple[Sequence[PoolNeed], int]],
    lease_ms: int,
    alone: bool = False,
    max_bytes: int = 8 << 20,
    expected_ms: int | None = None,
    stalled: bool = False,
) -> Call[Window]:
    """Claim a window of tasks and lease it to a worker; an empty one when nothing is ready. Never blocks.

    On the way, what lapsed claims held goes back to the front of its line, and what is due comes into its line. Then:
    one suspect when `alone` is set and one waits, else the lines by priority, oldest first.

    `claim` is a fresh random id (`ids.new_token`); the same one again brings the same window and fence. `rooms`: for
    each pool of the worker, the needs that it serves and how many tasks it has room for. The window stops at
    `max_bytes` of blobs, but holds one task at least. `expected_ms`: the server's time by the worker's own clock, since
    its last answer; `stalled`: a claim or renewal of this worker went unanswered for over half a lease. Either of them,
    when it shows that the server stood still or its clock stepped, holds all rescues for one lease.

    Raises:
        BrokerUnavailable: the server could not be reached. A claim that got through lapses by itself, uncharged.
    """
    rest: list[Arg] = []
    for needs, room in rooms:
        if room > 0 and needs:
            rest += ("".join(str(POOL_NEEDS.index(need)) for need in needs), room)
    script, keys, args = _script(
        owner,
        queue,
        "claim",
        rest=rest,
        claim=claim,
        worker=worker,
        lease_ms=lease_ms,
        alone=int(alone),
        max_bytes=max_bytes,
        expected_ms="" if expected_ms is None else expected_ms,
        stalled=int(stalled),
        epoch=owner.token,
    )
    return Call(f"claim from queue {queue!r}", script, keys, args, lambda reply: _window(owner, queue, claim, reply))


def claim_ids(
    owner: Owner, queue: str, ids: Sequence[str], *, claim: str, worker: str, lease_ms: int, max_bytes: int = 8 << 20
) -> Call[Window]:
    """Claim exactly these tasks, as far as they are queued; otherwise as `claim`."""
    script, keys, args = _script(
        owner,
        queue,
        "claim_ids",
        rest=ids,
        claim=claim,
        worker=worker,
        lease_ms=lease_ms,
        max_bytes=max_bytes,
        epoch=owner.token,
    )
    return Call(f"claim from queue {queue!r}", script, keys, args, lambda reply: _window(owner, queue, claim, reply))


def _window(owner: Owner, queue: str, claim: str, reply: Any) -> Window:
    now_ms, epoch, due_ms, suspects, rescued, fence, alone, *rest = reply
    owner.saw(queue, epoch.decode())
    records: dict[bytes, Record] = {}  # most tasks of a window have the very same record
    tasks: list[Claimed] = []
    for local, blob, text in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        record = records.get(text)
        if record is None:
            record = records[text] = read_record(text)
        tasks.append(Claimed(local.decode(), blob, record))
    return Window(
        queue=queue,
        claim=claim,
        fence=int(fence),
        now_ms=int(now_ms),
        epoch=epoch.decode(),
        next_due_ms=int(due_ms) if due_ms else None,
        suspects=int(suspects),
        rescued=int(rescued),
        tasks=tuple(tasks),
        alone=bool(int(alone)),
    )


def settle(
    owner: Owner,
    queue: str,
    items: Sequence[Settle],
    *,
    worker: str = "",
    claims: Sequence[str] = (),
    resend: bool = False,
) -> Call[SettleReply]:
    """Record outcomes, retries, losses and releases, each only if its claim still holds the task.

    `claims`: further open claims whose waiting stops the reply should bring. `resend`: it may have been applied before,
    so a refusal proves nothing and is not counted.

    Raises:
        ValueError: two items name the same task.
    """
    if len({item.id for item in items}) != len(items):
        raise ValueError(f"cannot settle in queue {queue!r}: two items name the same task")
    # Ends first, grouped by what they share: a window of like tasks costs three arguments a task.
    groups: dict[tuple[str, str, int, str], list[int]] = {}
    moves: list[int] = []
    for place, item in enumerate(items):
        if isinstance(item, End):
            key = (item.claim, CODES[item.state], item.ttl_ms, "" if item.client in _NOBODY else item.client)
            groups.setdefault(key, []).append(place)
        else:
            moves.append(place)
    order: list[int] = []
    rest: list[Arg] = []
    for (claim, code, ttl_ms, client), places in groups.items():
        rest += (claim, code, ttl_ms, client, len(places))
        for place in places:
            end = items[place]
            assert isinstance(end, End)
            rest += (end.id, end.value, end.hint)
        order += places
    ended = tuple(items[place].id for place in order)
    for place in moves:
        rest += _move(items[place])
    order += moves
    wanted = {item.claim for item in items} | set(claims)
    rest += sorted(wanted)
    script, keys, args = _script(
        owner,
        queue,
        "settle",
        results=ended,
        rest=rest,
        worker=worker,
        resend=int(resend),
        inbox=owner.keyspace.inbox_prefix,
        groups=len(groups),
        moves=len(moves),
    )

    def parse(reply: Any) -> SettleReply:
        now_ms, letters, *stops = reply
        codes: list[Settled] = ["lost"] * len(items)
        for place, letter in zip(order, letters, strict=True):
            codes[place] = _SETTLE_CODES[letter]
        return SettleReply(tuple(codes), _read_stops(stops), int(now_ms))

    again = None if resend else lambda: settle(owner, queue, items, worker=worker, claims=claims, resend=True)
    return Call(f"settle {len(items)} task(s) in queue {queue!r}", script, keys, args, parse, again)


def _move(item: Settle) -> tuple[Arg, ...]:
    if isinstance(item, Again):
        return ("A", item.id, item.claim, max(0, item.delay_ms))
    if isinstance(item, Release):
        return ("R", item.id, item.claim, 0)
    if isinstance(item, Park):
        return ("P", item.id, item.claim, max(0, item.delay_ms))
    if isinstance(item, Lose):
        return ("L", item.id, item.claim, int(item.exact))
    raise TypeError(f"cannot settle with {item!r}")


def renew(
    owner: Owner,
    queue: str,
    *,
    worker: str = "",
    claims: Sequence[str],
    started: Sequence[StartedTask | tuple[str, str, int, bool]] = (),
    lease_ms: int,
    expected_ms: int | None = None,
    stalled: bool = False,
) -> Call[Renewal]:
    """Renew the leases of all claims of a worker in one call, mark tasks as running, and bring the stops that wait.

    A claim that is not known (rescued, or settled to its last task) is answered as lost. `expected_ms` and `stalled` as
    in `claim`.
    """
    rest: list[Arg] = list(claims)
    for begun, local, ran_ms, once in started:
        rest += (begun, local, max(0, ran_ms), int(once))
    script, keys, args = _script(
        owner,
        queue,
        "renew",
        rest=rest,
        worker=worker,
        lease_ms=lease_ms,
        expected_ms="" if expected_ms is None else expected_ms,
        stalled=int(stalled),
        epoch=owner.token,
        claims=len(claims),
    )

    def parse(reply: Any) -> Renewal:
        now_ms, epoch, count, *parts = reply
        owner.saw(queue, epoch.decode())
        lost = tuple(claim.decode() for claim in parts[: int(count)])
        return Renewal(int(now_ms), epoch.decode(), lost, _read_stops(parts[int(count) :]))

    return Call(f"renew {len(claims)} claim(s) of queue {queue!r}", script, keys, args, parse)


def stop(
    owner: Owner,
    queue: str,
    ids: Sequence[str],
    *,
    mode: str,
    grace_ms: int | None = None,
    value_of: Callable[[str], bytes],
    ttl_ms: int = 3_600_000,
) -> Call[tuple[StopAnswer, ...]]:
    """Cancel tasks that were not handed out; with mode "stop", also tell the workers of the others to end them.

    `value_of` gives the packed cancelled outcome of an id, the same at each sending; its digest is set by the script.
    """
    if mode not in ("cancel", "stop"):
        raise ValueError(f"mode={mode!r}: expected 'cancel' or 'stop'")
    rest: list[Arg] = []
    for local in ids:
        rest += (local, value_of(local))
    script, keys, args = _script(
        owner,
        queue,
        "stop",
        results=ids,
        rest=rest,
        mode=mode,
        order="d" if grace_ms is None else max(0, grace_ms),
        ttl_ms=ttl_ms,
        queue_name=queue,
        inbox=owner.keyspace.inbox_prefix,
        channel=owner.keyspace.stops_prefix,
    )

    def parse(reply: Any) -> tuple[StopAnswer, ...]:
        answers: list[StopAnswer] = []
        for local, code, claim, worker, outcome in zip(
            ids, reply[0::4], reply[1::4], reply[2::4], reply[3::4], strict=True
        ):
            word: StopCode = code.decode()
            answers.append(StopAnswer(local, word, claim.decode(), worker.decode(), outcome or None))
        return tuple(answers)

    return Call(f"{mode} {len(ids)} task(s) in queue {queue!r}", script, keys, args, parse)


def expire(
    owner: Owner, queue: str, ids: Sequence[str], *, value_of: Callable[[str], bytes], ttl_ms: int = 3_600_000
) -> Call[tuple[ExpireAnswer, ...]]:
    """End tasks that still wait past their deadline as expired; any waiter may ask. `value_of` as in `stop`."""
    rest: list[Arg] = []
    for local in ids:
        rest += (local, value_of(local))
    script, keys, args = _script(
        owner, queue, "expire", results=ids, rest=rest, ttl_ms=ttl_ms, inbox=owner.keyspace.inbox_prefix
    )

    def parse(reply: Any) -> tuple[ExpireAnswer, ...]:
        answers: list[ExpireAnswer] = []
        for local, code, outcome in zip(ids, reply[0::2], reply[1::2], strict=True):
            word: ExpireCode = code.decode()
            answers.append(ExpireAnswer(local, word, outcome or None))
        return tuple(answers)

    return Call(f"expire {len(ids)} task(s) in queue {queue!r}", script, keys, args, parse)


def peek(owner: Owner, queue: str, ids: Sequence[str]) -> Call[tuple[Peeked, ...]]:
    """Say for each id, at one moment: its outcome, or that it lives, or that nothing is known of it."""
    script, keys, args = _script(owner, queue, "peek", results=ids, rest=ids)

    def parse(reply: Any) -> tuple[Peeked, ...]:
        return tuple(
            Peeked(local, outcome=found) if isinstance(found, bytes) else Peeked(local, alive=found == 1)
            for local, found in zip(ids, reply, strict=True)
        )

    return Call(f"look up {len(ids)} task(s) in queue {queue!r}", script, keys, args, parse)


def rescue_some(owner: Owner, queue: str, worker: str) -> Call[tuple[int, bool]]:
    """Put back what a dead worker's claims hold, a bounded part of it. Returns how many tasks, and if there is more."""
    script, keys, args = _script(owner, queue, "rescue", worker=worker)
    return Call(
        f"rescue what worker {worker} held of queue {queue!r}",
        script,
        keys,
        args,
        lambda reply: (int(reply[0]), bool(reply[1])),
    )
