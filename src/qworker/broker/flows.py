"""The verbs that take more than one round trip, still without I/O: generators that yield calls and are sent replies.

    Broker / AsyncBroker ── next() ─► Call ─► the server ─► send(reply) ─► … ─► the verb's result

An error of a call is thrown into the generator at its `yield`.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Container, Generator
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import BrokerError, ServerFull, ServerUnfit
from ..ids import check_queue
from ..lifecycle import State
from ..model import Line, Record, Rescued, Window
from ..views import Inspection, QueueStats, WorkerRecord
from . import producer_calls, worker_calls
from .calls import Call, Owner, command
from .keys import LINE_CODES, SCHEMA
from .records import read_record
from .scripts import load
from .values import ServerFacts, ServerMemory

P = ParamSpec("P")
T = TypeVar("T")
Flow = Generator[Call[Any], Any, T]

_COUNTED = 1_000  # how far into a line the position of a task is looked for
_FORGET_MS = 600_000  # a worker that was silent for so long is dropped from the list
_TOLD = tuple(entry.name for entry in dataclasses.fields(WorkerRecord))


def ensure_open(owner: Owner, queue: str, *, full_ok: bool = False) -> Flow[None]:
    """Register a queue and check its schema, once per broker and queue (and again when the server lost its data).

    `full_ok`: on a full server, go on without registering it; the next call tries again.
    """
    if queue in owner.opened:
        return
    schema, epoch = yield producer_calls.open_queue(owner, queue)
    if schema != SCHEMA:
        raise ServerUnfit(
            f"cannot use queue {queue!r} of namespace {owner.keyspace.namespace!r}: its data on the server has schema"
            f" {schema}, this qworker reads {SCHEMA}. Run the version that wrote it, or use another namespace"
        )
    try:
        yield command(f"register queue {queue!r}", "SADD", owner.keyspace.queues, queue, parse=int)
    except ServerFull:
        if not full_ok:
            raise
    else:
        owner.opened[queue] = epoch


def _opened(
    build: Callable[Concatenate[Owner, str, P], Call[T]], *, full_ok: bool
) -> Callable[Concatenate[Owner, str, P], Call[T] | Flow[T]]:
    """A verb that opens its queue first, if it is not known to be open."""

    @functools.wraps(build)
    def verb(owner: Owner, queue: str, /, *args: P.args, **kwargs: P.kwargs) -> Call[T] | Flow[T]:
        call = build(owner, queue, *args, **kwargs)
        return call if queue in owner.opened else _after_opening(owner, queue, call, full_ok=full_ok)

    return verb


def _after_opening(owner: Owner, queue: str, call: Call[T], *, full_ok: bool) -> Flow[T]:
    yield from ensure_open(owner, queue, full_ok=full_ok)
    answer: T = yield call
    return answer


submit = _opened(producer_calls.submit, full_ok=False)


def _fetching(
    build: Callable[Concatenate[Owner, str, P], Call[Window]],
) -> Callable[Concatenate[Owner, str, P], Flow[Window]]:
    """A verb that opens its queue, and fetches what a script leaves out of a window: the large blobs."""

    @functools.wraps(build)
    def verb(owner: Owner, queue: str, /, *args: P.args, **kwargs: P.kwargs) -> Flow[Window]:
        call = build(owner, queue, *args, **kwargs)
        if queue not in owner.opened:
            yield from ensure_open(owner, queue, full_ok=True)
        window: Window = yield call
        large = [task.id for task in window.tasks if not task.blob]
        if not large:
            return window
        blobs = dict(zip(large, (yield worker_calls.bodies(owner, queue, large)), strict=True))
        # One that is gone has ended under another claim: so this one has lapsed meanwhile, and lost it.
        tasks = [task._replace(blob=blobs.get(task.id) or task.blob) for task in window.tasks]
        return dataclasses.replace(window, tasks=tuple(task for task in tasks if task.blob))

    return verb


claim = _fetching(worker_calls.claim)


def queues(owner: Owner) -> Flow[tuple[str, ...]]:
    """The names of all queues that were ever used in this namespace, sorted."""
    names = yield command("list queues", "SMEMBERS", owner.keyspace.queues, parse=list)
    return tuple(sorted(name.decode() for name in names if _is_queue(name)))


def _is_queue(name: bytes) -> bool:
    try:
        check_queue(name.decode())
    except ValueError:  # somebody else wrote it; a ConfigError is one, too
        return False
    return True


def rescue_worker(owner: Owner, queue: str, worker: str) -> Flow[Rescued]:
    """Put back at once what the claims of a worker hold that is known to be dead. Returns what that is."""
    total, more = 0, True
    names: tuple[tuple[str, str], ...] = ()
    while more:
        some, more = yield worker_calls.rescue_some(owner, queue, worker)
        total, names = total + some.tasks, names or some.names
    return Rescued(total, names)


def inspect(owner: Owner, queue: str, local: str) -> Flow[Inspection]:
    """Everything that the server knows of one task."""
    script = load("inspect")
    keys = owner.queue(queue)
    args = script.arguments(now_ms=owner.now_ms, id=local, limit=_COUNTED)
    call = Call(f"inspect task {queue}:{local}", script, keys.of(script.keys) + keys.results((local,)), args, list)
    now_ms, text, blob, outcome, before, due_ms, holder, lease_ms, progress = yield call
    record: Record | None = None
    state: State | None = None
    if blob:
        record = read_record(text)
        state = record.state
    waits = state in (State.QUEUED, State.SCHEDULED)
    serving = [one for one in (yield from workers(owner)) if queue in one.queues] if waits else []
    return Inspection(
        id=local,
        state=state,
        record=record,
        blob=blob or None,
        outcome=outcome or None,
        before=int(before) if before != b"" else None,
        due_ms=int(due_ms) if due_ms else None,
        worker=holder.decode(),
        lease_ms=int(lease_ms) if lease_ms else None,
        now_ms=int(now_ms),
        workers=len(serving) if waits else None,
        strangers=frozenset.intersection(*(frozenset(one.unknown) for one in serving)) if serving else frozenset(),
        pools=frozenset(kind for one in serving for kind in one.slots),
        progress=progress or None,
    )


def stats(owner: Owner, queue: str) -> Flow[QueueStats]:
    """What `qworker status` shows of a queue."""
    script = load("stats")
    args = script.arguments(now_ms=owner.now_ms)
    call = Call(f"count queue {queue!r}", script, owner.queue(queue).of(script.keys), args, list)
    now_ms, ready, claimed, scheduled, suspects, sent, lengths, counters = yield call
    waits = [int(now_ms) - int.from_bytes(stamp, "big") for stamp in sent]
    lines = {
        f"{Line.of(code).pool}:{Line.of(code).priority}": int(length)
        for code, length in zip(LINE_CODES, lengths, strict=True)
        if int(length)
    }
    return QueueStats(
        queue=queue,
        ready=int(ready),
        claimed=int(claimed),
        scheduled=int(scheduled),
        suspects=int(suspects),
        oldest_wait_s=max(0, *waits) / 1000 if waits else None,
        lines=lines,
        counters={
            name.decode("utf-8", "replace"): int(n)
            for name, n in zip(counters[0::2], counters[1::2], strict=True)
            if n.isdigit()
        },
        now_ms=int(now_ms),
    )


def beat(owner: Owner, record: WorkerRecord, *, ttl_ms: int = 30_000, listed: bool = False) -> Flow[None]:
    """Tell of a worker for `ttl_ms`, and list it. Works on a full server, too.

    `listed`: it was lately, so that need not be repeated unless the server lost its data. The list remembers for ten
    minutes.
    """
    script, enlist = load("beat"), load("enlist")
    verb = f"record worker {record.id}"
    if not listed:
        args = enlist.arguments(now_ms=owner.now_ms, member=record.id, forget_ms=_FORGET_MS)
        now_ms = yield Call(verb, enlist, (owner.keyspace.workers,), args, int)
        record = dataclasses.replace(record, beat_ms=now_ms)
    text = json.dumps({name: getattr(record, name) for name in _TOLD}, default=str)
    told = script.arguments(record=text, ttl_ms=ttl_ms, hello=owner.keyspace.hello)
    first = yield Call(verb, script, (owner.keyspace.worker(record.id),), told, int)
    if first and listed:
        yield from beat(owner, record, ttl_ms=ttl_ms)


def retire(owner: Owner, worker: str) -> Flow[None]:
    """Take a worker off the list; what it still holds is not touched."""
    verb = f"take worker {worker} off the list"
    yield command(verb, "DEL", owner.keyspace.worker(worker), parse=int)
    yield command(verb, "ZREM", owner.keyspace.workers, worker, parse=int)


def listed_workers(owner: Owner) -> Flow[tuple[str, ...]]:
    """The ids of all workers on the list, whether they have told of themselves lately or not."""
    names = yield command("list workers", "ZRANGE", owner.keyspace.workers, 0, -1, parse=list)
    return tuple(name.decode("utf-8", "replace") for name in names)


def clock(_: Owner) -> Flow[int]:
    """The server's time, in milliseconds since 1970."""
    seconds, micros = yield command("ask for the time", "TIME", parse=list)
    return int(seconds) * 1000 + int(micros) // 1000


def workers(owner: Owner, *, but: Container[str] = ()) -> Flow[tuple[WorkerRecord, ...]]:
    """The workers that told of themselves lately, oldest first; without those of these ids."""
    names = yield from listed_workers(owner)
    found: list[WorkerRecord] = []
    for name in names:
        if name in but:
            continue
        text = yield command("list workers", "HGET", owner.keyspace.worker(name), "record", parse=_opaque)
        record = _read_worker(text)
        if record is not None:
            found.append(record)
    return tuple(sorted(found, key=lambda record: (record.started_ms, record.id)))


def _opaque(reply: Any) -> Any:
    return reply


def _read_worker(text: bytes | None) -> WorkerRecord | None:
    """Read a worker's record; None when there is none, or a newer worker writes what we cannot read."""
    if text is None:
        return None
    try:
        values = {name: value for name, value in json.loads(text).items() if name in _TOLD}
        for name in ("queues", "running", "survivors"):
            values[name] = tuple(values.get(name, ()))
        record = WorkerRecord(**values)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    return record if _is_told(record) else None


def _is_told(record: WorkerRecord) -> bool:
    """Whether all in a record is of the type that workers write: whoever shows it reckons with that."""
    words = (record.id, record.host, record.boot_id, record.pid_ns, record.state, *record.queues)
    tables = (record.slots, record.unknown, record.counters, record.lent)
    return (
        all(type(word) is str for word in words)
        and all(type(n) is int for n in (record.pid, record.start_time, record.started_ms, record.beat_ms))
        and all(type(table) is dict and all(type(n) is int for n in table.values()) for table in tables)
        and all(type(shown) is dict for shown in (*record.running, *record.survivors))
    )


def server_facts(owner: Owner) -> Flow[ServerFacts]:
    """Ask the server about itself. Commands that it forbids (CONFIG, INFO on managed services) leave a None."""
    before = time.monotonic()
    now_ms = yield from clock(owner)
    latency_s = time.monotonic() - before
    withheld: list[str] = []

    def ask(name: str, *parts: str, parse: Callable[[Any], Any]) -> Flow[Any]:
        try:
            return (yield command(f"ask for {name}", *parts, parse=parse))
        except BrokerError as exc:
            if isinstance(exc, ConnectionError):
                raise
            withheld.append(" ".join(parts[:2]))
            return {}

    info = yield from ask("its facts", "INFO", parse=read_info)
    config: dict[str, str] = {}
    for setting in ("maxmemory-policy", "appendonly", "save"):
        config |= yield from ask(setting, "CONFIG", "GET", setting, parse=read_pairs)
    is_valkey = "valkey_version" in info
    return ServerFacts(
        software="valkey" if is_valkey else "redis",
        version=info.get("valkey_version") or info.get("redis_version", ""),
        now_ms=now_ms,
        latency_s=latency_s,
        eviction_policy=config.get("maxmemory-policy") or info.get("maxmemory_policy"),
        max_memory=_int(info.get("maxmemory")),
        used_memory=_int(info.get("used_memory")),
        append_only=config["appendonly"] == "yes" if "appendonly" in config else _flag(info.get("aof_enabled")),
        snapshots=config.get("save"),
        cluster=_flag(info.get("cluster_enabled")),
        role=info.get("role"),
        withheld=tuple(dict.fromkeys(withheld)),
    )


def memory(_: Owner) -> Flow[ServerMemory]:
    """How full the server is: of a cluster, one of them."""
    info = yield command("ask for its memory", "INFO", "memory", parse=read_info)
    # What it holds back for replicas and its file does not count against the limit.
    used = (_int(info.get("used_memory")) or 0) - (_int(info.get("mem_not_counted_for_evict")) or 0)
    return ServerMemory(used, _int(info.get("maxmemory")) or 0, info.get("maxmemory_policy", ""))


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def _flag(text: str | None) -> bool | None:
    return None if text is None else text == "1"


def read_info(reply: Any) -> dict[str, str]:
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line and not line.startswith("#"))


def read_pairs(reply: Any) -> dict[str, str]:
    if isinstance(reply, dict):  # a client on RESP3
        reply = [part for pair in reply.items() for part in pair]
    parts = [part.decode("utf-8", "replace") for part in reply]
    return dict(zip(parts[0::2], parts[1::2], strict=True))


def check_fit(owner: Owner, *, allow_eviction: bool = False) -> Flow[ServerFacts]:
    """Refuse a server that would lose tasks by design; return its facts, so that the caller can warn of the rest.

    Raises:
        ServerUnfit: it may evict any key when it is full, it is a read-only replica, or it is too old.
    """
    facts = yield from server_facts(owner)
    if (facts.eviction_policy or "").startswith("allkeys-") and not allow_eviction:
        raise ServerUnfit(
            f"cannot use this server: its eviction policy is {facts.eviction_policy}, so when its memory is full it"
            " deletes queued tasks. Set `maxmemory-policy noeviction`, or allow it with --allow-eviction"
        )
    if facts.role in ("slave", "replica"):
        raise ServerUnfit("cannot use this server: it is a read-only replica. Give the URL of its primary")
    numbers = tuple(int(part) for part in facts.version.split(".")[:2] if part.isdigit())
    if facts.software == "redis" and len(numbers) == 2 and numbers < (6, 2):
        raise ServerUnfit(f"cannot use this server: it is Redis {facts.version}. Needed is 6.2 or newer, or Valkey")
    return facts
