"""The calls of those who run tasks, each one script; see calls.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..errors import DecodeError
from ..lifecycle import CODES, State
from ..model import (
    POOL_NEEDS,
    Again,
    Claimed,
    End,
    Lose,
    Park,
    PoolNeed,
    Record,
    Release,
    Renewal,
    Rescued,
    Settle,
    Settled,
    Window,
)
from .calls import Call, Command, Owner, command, read_stops, script_call
from .records import read_record
from .scripts import Arg
from .together import LARGE
from .values import Note, SettleReply, Stand, StartedTask

_SETTLE_CODES: Mapping[int, Settled] = {ord("o"): "ok", ord("l"): "lost", ord("a"): "again", ord("s"): "stopped"}
_NOBODY = (" " * 12, "")


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
    newcomer: bool = False,
    stand: Stand | None = None,
    standing: Sequence[Stand] = (),
) -> Call[Window]:
    """Claim a window of tasks and lease it to a worker; an empty one when nothing is ready. Never blocks.

    On the way, what lapsed claims held goes back to the front of its line, and what is due comes into its line. Then:
    one suspect when `alone` is set and one waits, else the lines by priority, oldest first.

    `claim` is a fresh random id (`ids.new_token`); the same one again brings the same window and fence. `rooms`: for
    each pool of the worker, the needs that it serves and how many tasks it has room for. The window stops at
    `max_bytes` of blobs, but holds one task at least. `expected_ms`: the server's time by the worker's own clock, since
    its last answer; `stalled`: a claim or renewal of this worker went unanswered for over half a lease. Either of them,
    when it shows that the server stood still or its clock stepped, holds all rescues for one lease. `newcomer`: it has
    not followed the server long enough to tell, so this call rescues nothing.

    `stand`: a claim with an id of its own that is left standing when there is nothing to be had, for the next submit to
    fill. `standing`: those that may have been left before. They stand no longer, and if one of them was filled, its
    window comes in place of this claim's: `Window.claim` tells.

    Raises:
        BrokerUnavailable: the server could not be reached. A claim that got through lapses by itself, uncharged.
    """
    rest: list[Arg] = []
    for needs, room in rooms:
        if room > 0 and needs:
            rest += ("".join(str(POOL_NEEDS.index(need)) for need in needs), room)

    fields: dict[str, Any] = {
        "claim": claim,
        "worker": worker,
        "lease_ms": lease_ms,
        "alone": int(alone),
        "max_bytes": max_bytes,
        "expected_ms": "new" if newcomer else "" if expected_ms is None else expected_ms,
        "stalled": int(stalled),
        "epoch": owner.token,
        "standing": "\n".join([_entry(owner, queue, stood) for stood in standing]),
    }
    return _claiming(owner, queue, claim, rest, fields, stand)


def _claiming(
    owner: Owner, queue: str, claim: str, rest: Sequence[Arg], fields: dict[str, Any], stand: Stand | None
) -> Call[Window]:
    script, keys, args = script_call(owner, queue, "claim", rest=rest, **fields, stand=_entry(owner, queue, stand))
    # What the first sending left may have been filled and settled since: it must not stand once more. (Not a function
    # within this one: that would hold itself, and each claim be left to the garbage collector, with all that it names.)
    again = None if stand is None else partial(_claiming, owner, queue, claim, rest, fields, None)
    return Call(
        f"claim from queue {queue!r}", script, keys, args, lambda reply: _window(owner, queue, claim, reply), again
    )


def _entry(owner: Owner, queue: str, stand: Stand | None) -> str:
    if stand is None:
        return ""
    needs = "".join(str(POOL_NEEDS.index(need)) for need in stand.needs)
    return f"{stand.claim} {stand.lease_ms} {needs} {stand.worker} {owner.keyspace.stops(stand.worker)} {queue}"


def handed(message: bytes) -> Window:
    """Read what a submit told of the task that it gave to a standing claim.

    Raises:
        ValueError: it is nothing of the kind.
    """
    head, _, blob = message.partition(b"\n")
    _, queue, claim, fence, now_ms, epoch, local, text = head.decode("ascii").split(" ", 7)
    task = Claimed(local, blob, _record(text.encode(), claim), None)
    return Window(queue, claim, int(fence), int(now_ms), epoch, None, 0, 0, (task,))


def bodies(owner: Owner, queue: str, ids: Sequence[str]) -> Call[tuple[bytes | None, ...]]:
    """Fetch the blobs of tasks; None where there is none any more."""
    key = owner.queue(queue).of(("bodies",))[0]
    return command(f"fetch {len(ids)} task(s) of queue {queue!r}", "HMGET", key, *ids, parse=tuple)


def claim_ids(
    owner: Owner,
    queue: str,
    ids: Sequence[str],
    *,
    claim: str,
    worker: str,
    lease_ms: int,
    most: int | None = None,
    needs: Sequence[PoolNeed] = POOL_NEEDS,
    max_bytes: int = 8 << 20,
) -> Call[Window]:
    """Claim the first `most` (None: all) of these tasks that are queued for one of these pools; else as `claim`.

    When it brings none, `Window.elsewhere` tells how many are not queued: claimed, scheduled, ended or unknown.
    Suspects are handed out, too, and not to be run alone in their worker.
    """
    script, keys, args = script_call(
        owner,
        queue,
        "claim_ids",
        rest=ids,
        claim=claim,
        worker=worker,
        lease_ms=lease_ms,
        max_bytes=max_bytes,
        epoch=owner.token,
        most=len(ids) if most is None else most,
        needs="".join(str(POOL_NEEDS.index(need)) for need in needs),
    )

    def parse(reply: Any) -> Window:
        window = _window(owner, queue, claim, reply)
        return replace(window, rescued=0, elsewhere=window.rescued)  # the place of what this one never does

    return Call(f"claim by id from queue {queue!r}", script, keys, args, parse)


def _window(owner: Owner, queue: str, claim: str, reply: Any) -> Window:
    now_ms, epoch, due_ms, suspects, back, fence, alone, left, *rest = reply
    owner.saw(queue, epoch.decode())
    cursors: dict[bytes, bytes] = {}
    if left:
        tail = len(rest) - 2 * left
        cursors = dict(zip(rest[tail::2], rest[tail + 1 :: 2], strict=True))
        del rest[tail:]
    rescued = read_rescued(back)
    records: dict[bytes, Record] = {}  # most tasks of a window have the very same record
    tasks: list[Claimed] = []
    for local, blob, text in zip(rest[0::3], rest[1::3], rest[2::3], strict=True):
        record = records.get(text)
        if record is None:
            record = records[text] = _record(text, claim)
        tasks.append(Claimed(local.decode(), blob, record, cursors.get(local) if cursors else None))
    return Window(
        queue=queue,
        claim=tasks[0].record.claim if tasks else claim,
        fence=int(fence),
        now_ms=int(now_ms),
        epoch=epoch.decode(),
        next_due_ms=int(due_ms) or None,
        suspects=int(suspects),
        rescued=rescued.tasks,
        rescued_names=rescued.names,
        tasks=tuple(tasks),
        alone=bool(int(alone)),
    )


def read_rescued(reply: Any) -> Rescued:
    """Read what a script says of what it has put back."""
    if isinstance(reply, int):
        return Rescued(reply)
    count, *names = reply.decode().split()
    return Rescued(int(count), tuple(zip(names[0::2], names[1::2], strict=True)))


def _record(text: bytes, claim: str) -> Record:
    try:
        return read_record(text)
    except DecodeError:
        # Nobody of ours wrote it. The task is claimed all the same, so it runs, as one that was never touched.
        return Record(State.CLAIMED, claim)


def settle(
    owner: Owner,
    queue: str,
    items: Sequence[Settle],
    *,
    worker: str = "",
    claims: Sequence[str] = (),
    resend: bool = False,
    beside: bool = True,
    stand: Stand | None = None,
) -> Call[SettleReply]:
    """Record outcomes, retries, losses and releases, each only if its claim still holds the task.

    `claims`: further open claims whose waiting stops the reply should bring. `resend`: it may have been applied before,
    so a refusal proves nothing and is not counted. `beside`: large outcomes are written beside the script, which a full
    server refuses; then they go through it. `stand` as in `claim`.

    Raises:
        ValueError: two items name the same task.
    """
    if len({item.id for item in items}) != len(items):
        raise ValueError(f"cannot settle in queue {queue!r}: two items name the same task")
    # Ends first, grouped by what they share: a window of like tasks costs three arguments a task.
    groups: dict[tuple[str, State, int, str], tuple[list[int], list[str], list[Arg], list[tuple[str, Command]]]] = {}
    keys_of = owner.queue(queue)
    moves: list[int] = []
    for place, item in enumerate(items):
        if isinstance(item, End):
            local, claim, state, value, ttl_ms, client, hint, payload = item
            group = groups.get((claim, state, ttl_ms, client))
            if group is None:
                group = groups[claim, state, ttl_ms, client] = [], [], [], []
            places, locals_, parts, large = group
            places.append(place)
            locals_.append(local)
            if beside and (payload or len(value) > LARGE):
                large.append((local, ("SET", keys_of.stash(local), (value, payload), "PX", ttl_ms)))
                value = payload = b""
            parts += (local, value + payload, hint)
        else:
            moves.append(place)
    order: list[int] = []
    ended: list[str] = []
    rest: list[Arg] = []
    before: list[Command] = []
    stashed: list[str] = []
    for (claim, state, ttl_ms, client), (places, locals_, parts, large) in groups.items():
        rest += (claim, CODES[state], ttl_ms, "" if client in _NOBODY else client, len(places))
        rest += parts
        before += [command for _, command in large]
        stashed += [local for local, _ in large]
        order += places
        ended += locals_
    for place in moves:
        rest += _move(items[place])
    order += moves
    wanted = {*claims, *[key[0] for key in groups], *[items[place].claim for place in moves]}
    rest += sorted(wanted)
    script, keys, args = script_call(
        owner,
        queue,
        "settle",
        results=ended,
        rest=rest,
        worker=worker,
        resend=int(resend),
        inbox=owner.keyspace.inbox_prefix,
        stand=_entry(owner, queue, stand),
        stashed=len(before),
        groups=len(groups),
        moves=len(moves),
    )
    if before:
        keys = (*keys, *[keys_of.stash(local) for local in stashed])

    def parse(reply: Any) -> SettleReply:
        letters, *stops = reply
        codes: list[Settled] = ["lost"] * len(items)
        for place, letter in zip(order, letters, strict=True):
            codes[place] = _SETTLE_CODES[letter]
        return SettleReply(tuple(codes), read_stops(stops))

    alone = partial(settle, owner, queue, items, worker=worker, claims=claims, resend=resend, beside=False)
    again = None if resend else partial(alone, resend=True)
    verb = f"settle {len(items)} task(s) in queue {queue!r}"
    return Call(verb, script, keys, args, parse, again, before=before, alone=alone if before else None)


def _move(item: Settle) -> tuple[Arg, ...]:
    if isinstance(item, Again):
        return ("O" if item.runs_on else "A", item.id, item.claim, max(0, item.delay_ms), item.cursor)
    if isinstance(item, Release):
        return ("R", item.id, item.claim, 0, item.cursor)
    if isinstance(item, Park):
        return ("P", item.id, item.claim, max(0, item.delay_ms), "")
    if isinstance(item, Lose):
        return ("L", item.id, item.claim, int(item.exact), item.cursor)
    raise TypeError(f"cannot settle with {item!r}")


def renew(
    owner: Owner,
    queue: str,
    *,
    worker: str = "",
    claims: Sequence[str],
    started: Sequence[StartedTask | tuple[str, str, int, bool]] = (),
    notes: Sequence[Note] = (),
    lease_ms: int,
    expected_ms: int | None = None,
    stalled: bool = False,
) -> Call[Renewal]:
    """Renew the leases of all claims of a worker in one call, mark tasks as running, and bring the stops that wait.

    `notes`: what tasks told of themselves, kept while the task lives; progress is pushed to its client, too. A claim
    that is not known (rescued, or settled to its last task) is answered as lost. `expected_ms` and `stalled` as in
    `claim`.
    """
    rest: list[Arg] = list(claims)
    for begun, local, ran_ms, once in started:
        rest += (begun, local, max(0, ran_ms), int(once))
    for note in notes:
        rest += (note.claim, note.id, "" if note.client in _NOBODY else note.client, note.cursor, note.progress)
    script, keys, args = script_call(
        owner,
        queue,
        "renew",
        rest=rest,
        worker=worker,
        lease_ms=lease_ms,
        expected_ms="" if expected_ms is None else expected_ms,
        stalled=int(stalled),
        epoch=owner.token,
        inbox=owner.keyspace.inbox_prefix,
        claims=len(claims),
        started=len(started),
    )

    def parse(reply: Any) -> Renewal:
        now_ms, epoch, count, *parts = reply
        owner.saw(queue, epoch.decode())
        lost = tuple(claim.decode() for claim in parts[: int(count)])
        return Renewal(int(now_ms), epoch.decode(), lost, read_stops(parts[int(count) :]))

    return Call(f"renew {len(claims)} claim(s) of queue {queue!r}", script, keys, args, parse)


def ring(owner: Owner, queue: str, pool: PoolNeed) -> Call[None]:
    """Ring a doorbell once more: the one who heard it has no room for such tasks."""
    bell = owner.queue(queue).bell(pool)
    return command(f"ring for queue {queue!r}", "LPUSH", bell, "1", parse=lambda _: None)


def rescue_some(owner: Owner, queue: str, worker: str) -> Call[tuple[Rescued, bool]]:
    """Put back what a dead worker's claims hold, a bounded part of it. Returns what that is, and if there is more."""
    script, keys, args = script_call(owner, queue, "rescue", worker=worker)
    return Call(
        f"rescue what worker {worker} held of queue {queue!r}",
        script,
        keys,
        args,
        lambda reply: (read_rescued(reply[0]), bool(reply[1])),
    )
