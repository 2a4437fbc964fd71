"""The calls of those who submit tasks and wait for them, each one script; see calls.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ..errors import Conflict, SubmitUnknown
from ..model import Line
from ..views import Peeked
from .calls import Call, Command, Owner, command, script_call
from .scripts import Arg
from .together import LARGE
from .values import WATCH, ExpireAnswer, ExpireCode, StopAnswer, StopCode, SubmitCode, SubmitItem, Submitted

_SUBMIT_CODES: Mapping[int, SubmitCode] = {ord("o"): "ok", ord("s"): "same", ord("e"): "ended"}


def open_queue(owner: Owner, queue: str) -> Call[tuple[int, str]]:
    """Read (and, in a new queue, write) the schema and the epoch of a queue."""
    script, keys, args = script_call(owner, queue, "open", epoch=owner.token)
    return Call(f"open queue {queue!r}", script, keys, args, lambda reply: (int(reply[0]), reply[1].decode()))


def submit(
    owner: Owner,
    queue: str,
    line: Line,
    items: Sequence[SubmitItem],
    *,
    given: bool,
    resend: bool = False,
    beside: bool = True,
) -> Call[Submitted]:
    """Queue tasks on one line, all or none, and ring for a worker. At most about 1,000 items a call; callers send 256.

    `given`: the ids were given by a caller; `resend`: they were sent before. Either way they may have ended meanwhile,
    which is then looked up. `beside`: large blobs with ids that were never used are written beside the script.

    Raises:
        Conflict: an id is taken by other content. Nothing of this call is queued.
        ServerFull: the server is at its memory limit. Nothing of this call is queued.
        SubmitUnknown: the call was sent and not answered in time. Submitting again with the same ids is safe.
        BrokerUnavailable: the server could not be reached. Nothing is queued.
        ServerUnfit: the queue's data has another schema.
    """
    unique = items if len(items) == 1 else _unique(queue, items)
    check = given or resend
    large = [item for item in unique if item.body or len(item.blob) > LARGE]
    after: list[Command] = []
    if large:
        unique, after = _apart(owner, queue, unique) if beside and not check else (_whole(unique), [])
    timed = after or [item for item in unique if item.delay_ms or item.deadline_ms]
    rest: list[Arg] = []
    for item in unique:
        rest += item[:4] if timed else item[:2]  # its fields are the script's arguments
    script, keys, args = script_call(
        owner,
        queue,
        "submit",
        results=[item.id for item in unique] if check else (),
        rest=rest,
        epoch=owner.token,
        line=line,
        step=4 if timed else 2,
    )

    def parse(reply: Any) -> Submitted:
        owner.saw(queue, reply[1].decode())
        codes = tuple([_SUBMIT_CODES[code] for code in reply[2]])
        if len(unique) != len(items):
            by_id = {item.id: code for item, code in zip(unique, codes, strict=True)}
            codes = tuple([by_id[item.id] for item in items])
        return Submitted(int(reply[0]), codes)

    again = None if check else partial(submit, owner, queue, line, items, given=given, resend=True)
    alone = partial(submit, owner, queue, line, items, given=given, beside=False) if after else None

    def unanswered(text: str) -> SubmitUnknown:
        return SubmitUnknown(
            f"{text} The tasks may have been queued: submit again with the same ids, which is safe",
            ids=tuple(f"{queue}:{item.id}" for item in items),
        )

    def refused(local: str) -> Conflict:
        return _conflict(queue, local)

    verb = f"submit {len(items)} task(s) to queue {queue!r}"
    return Call(verb, script, keys, args, parse, again, unanswered, refused, after=after, alone=alone)


def _apart(owner: Owner, queue: str, items: Sequence[SubmitItem]) -> tuple[Sequence[SubmitItem], list[Command]]:
    """Give the script only the digests of large blobs; the commands behind it bring them."""
    (key,) = owner.queue(queue).of(("bodies",))
    small: list[SubmitItem] = []
    after: list[Command] = []
    for item in items:
        if item.body or len(item.blob) > LARGE:
            after.append(("HSETNX", key, item.id, (item.blob, item.body)))
            small.append(item._replace(blob=item.blob[:8]))
        else:
            small.append(item)
    return small, after


def _whole(items: Sequence[SubmitItem]) -> Sequence[SubmitItem]:
    return [item._replace(blob=item.blob + item.body) for item in items]


def _unique(queue: str, items: Sequence[SubmitItem]) -> Sequence[SubmitItem]:
    """Leave out what is there twice: its first one decides."""
    unique = {item.id: item for item in items}
    if len(unique) == len(items):
        return items
    unique = {}
    for item in items:
        if unique.setdefault(item.id, item).blob[:8] != item.blob[:8]:
            raise _conflict(queue, item.id)
    return [*unique.values()]


def _conflict(queue: str, local: str) -> Conflict:
    """The error for an id that other content has taken."""
    return Conflict(
        f"cannot submit task {queue}:{local}: that id is taken by a task with other arguments or options; nothing of"
        " this call was queued. Give another id, or none to have one made"
    )


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
    script, keys, args = script_call(
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
    script, keys, args = script_call(
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
    script, keys, args = script_call(owner, queue, "peek", results=ids, rest=ids)

    def parse(reply: Any) -> tuple[Peeked, ...]:
        return tuple(
            Peeked(local, outcome=found) if isinstance(found, bytes) else Peeked(local, alive=found == 1)
            for local, found in zip(ids, reply, strict=True)
        )

    return Call(f"look up {len(ids)} task(s) in queue {queue!r}", script, keys, args, parse)


def outcomes(owner: Owner, queue: str, ids: Sequence[str]) -> Call[tuple[bytes | None, ...]]:
    """Return the outcomes of tasks that are known to have ended; None where it is not kept any more.

    As `peek`, for large ones: a script would copy each of them twice more, and hash it.
    """
    keys = owner.queue(queue).results(ids)
    return command(f"fetch {len(ids)} outcome(s) of queue {queue!r}", "MGET", *keys, parse=tuple)


def watch(owner: Owner, queue: str, local: str, worker: str) -> Call[int]:
    """Tell the worker that holds a task that somebody watches it: a hint, good for some seconds."""
    channel = owner.keyspace.stops(worker)
    return command(f"watch task {queue}:{local}", "PUBLISH", channel, f"{WATCH} {queue} {local}", parse=int)


def progress(owner: Owner, queue: str, ids: Sequence[str]) -> Call[tuple[bytes | None, ...]]:
    """Return what tasks told last of their progress (codec.unpack_told); None where there is nothing."""
    key = owner.queue(queue).of(("progress",))[0]
    return command(f"look up the progress of {len(ids)} task(s) in queue {queue!r}", "HMGET", key, *ids, parse=tuple)
