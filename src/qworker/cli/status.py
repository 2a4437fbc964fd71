"""`qworker status`: queues, workers, what runs and what waits.

broker.stats, .workers ─► Snapshot ─┬─► --json
                                    └─► tables, once or again every second
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .. import durations
from ..errors import BrokerError
from ..ids import check_queue
from ..lifecycle import OUTCOMES
from ..log import escape
from ..views import QueueStats, WorkerRecord
from .dessert import SILENT_S, look, span, told_s_ago, word
from .shared import Json, Namespace, Url, open_broker, plain, print_json, print_table, table

if TYPE_CHECKING:
    from ..broker.broker import Broker

_SAMPLE_S = 0.5  # between the two looks that make a rate
_EVERY_S = 1.0
_ENDED = tuple(state.value for state in OUTCOMES)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the server told at one moment. `taken` is this process's monotonic clock."""

    taken: float
    queues: tuple[QueueStats, ...]
    workers: tuple[WorkerRecord, ...]
    silent: tuple[str, ...] = ()  # ids of workers that are on the list, and of which nothing is known any more

    @property
    def now_ms(self) -> int:
        """The server's time, as far as it told."""
        return max((queue.now_ms for queue in self.queues), default=0)

    @property
    def busy(self) -> bool:
        """Whether anything moves, so that there is a rate to be measured."""
        return any(queue.claimed or queue.ready for queue in self.queues)


def status(
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", metavar="NAME", help="This queue only.", show_default=False)
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")] = False,
    url: Url = None,
    namespace: Namespace = None,
    as_json: Json = False,
) -> None:
    """Show queues (what is ready, claimed, scheduled; the oldest wait; the rate), workers, and what runs since when.

    Rates are ended tasks per second, measured over half a second. With --watch --json: one object a line.
    """
    with open_broker(url, namespace) as broker:
        only = None if queue is None else check_queue(queue)
        if watch:
            _watch(broker, only, as_json=as_json)
            return
        seen = _look(broker, only)
        if as_json:
            print_json(_facts(seen, {}))
            return
        rates: dict[str, float] = {}
        if seen.busy:
            time.sleep(_SAMPLE_S)
            before, seen = seen, _look(broker, only)
            rates = _rates(before, seen)
        print_table(*_spaced(_parts(seen, rates)))


# ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _look(broker: Broker, only: str | None) -> Snapshot:
    names = broker.queues() if only is None else (only,)
    queues = tuple(broker.stats(name) for name in names)
    workers, silent = look(broker)
    return Snapshot(
        taken=time.monotonic(),
        queues=queues,
        workers=tuple(worker for worker in workers if only is None or only in worker.queues),
        silent=silent,  # which queues they serve is not known
    )


def _watch(broker: Broker, only: str | None, *, as_json: bool) -> None:
    """Show it again and again; while the server does not answer, say so and go on."""
    before = _look(broker, only)
    if as_json:
        for seen in _looks(broker, only):
            print_json({"error": str(seen)} if isinstance(seen, BrokerError) else _facts(seen, _rates(before, seen)))
            sys.stdout.flush()
            before = before if isinstance(seen, BrokerError) else seen
    from .terminal import draws

    with _picture() if draws(sys.stdout) else contextlib.nullcontext(_print) as show:
        show(_spaced(_parts(before, {})))
        for seen in _looks(broker, only):
            if isinstance(seen, BrokerError):
                show([_trouble(seen)])
            else:
                show(_spaced(_parts(seen, _rates(before, seen))))
                before = seen


@contextlib.contextmanager
def _picture() -> Iterator[Callable[[list[Any]], None]]:
    """Yield what draws one picture anew each time."""
    from rich.console import Group
    from rich.live import Live

    from .terminal import Console

    console = Console(highlight=False, markup=False, emoji=False)
    with Live(console=console, auto_refresh=False) as live:
        yield lambda parts: live.update(Group(*parts), refresh=True)


def _print(parts: list[Any]) -> None:
    """Print one look below the last, at once: whoever reads what is no terminal wants to see it now."""
    print_table(*parts, "")
    sys.stdout.flush()


def _trouble(error: BrokerError) -> Any:
    from rich.text import Text

    return Text(escape(str(error)), style="red")


def _looks(broker: Broker, only: str | None) -> Iterator[Snapshot | BrokerError]:
    while True:
        time.sleep(_EVERY_S)
        try:
            yield _look(broker, only)
        except BrokerError as error:
            yield error


def _rates(before: Snapshot, after: Snapshot) -> dict[str, float]:
    """Return ended tasks per second for each queue."""
    ended = {queue.queue: _ended(queue) for queue in before.queues}
    span = max(0.001, after.taken - before.taken)
    return {queue.queue: max(0, _ended(queue) - ended.get(queue.queue, _ended(queue))) / span for queue in after.queues}


def _ended(queue: QueueStats) -> int:
    return sum(queue.counters.get(state, 0) for state in _ENDED)


# ── showing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(seen: Snapshot, rates: Mapping[str, float]) -> dict[str, Any]:
    queues = [
        {
            "queue": queue.queue,
            "ready": queue.ready,
            "claimed": queue.claimed,
            "scheduled": queue.scheduled,
            "suspects": queue.suspects,
            "oldest_wait_s": queue.oldest_wait_s,
            "rate": round(rates[queue.queue], 2) if queue.queue in rates else None,
            "lines": dict(queue.lines),
            "counters": dict(queue.counters),
        }
        for queue in seen.queues
    ]
    workers = [
        {
            "id": worker.id,
            "host": worker.host,
            "pid": worker.pid,
            "state": worker.state,
            "queues": worker.queues,
            "slots": dict(worker.slots),
            "lent": dict(worker.lent),
            "running": worker.running,
            "survivors": worker.survivors,
            "unknown": dict(worker.unknown),
            "started_ms": worker.started_ms,
            "told_s_ago": told_s_ago(worker, seen.now_ms),
        }
        for worker in seen.workers
    ]
    found: dict[str, Any] = plain(
        {"now_ms": seen.now_ms, "queues": queues, "workers": workers, "silent_workers": list(seen.silent)}
    )
    return found


def _parts(seen: Snapshot, rates: Mapping[str, float]) -> list[Any]:
    if not seen.queues and not seen.workers and not seen.silent:
        return ["no queue was ever used in this namespace, and no worker runs"]
    parts: list[Any] = [_queue_table(seen, rates)]
    if seen.workers:
        parts.append(_worker_table(seen))
        if any(worker.running for worker in seen.workers):
            parts.append(_running_table(seen))
    unknown: Counter[str] = Counter()
    for worker in seen.workers:
        unknown.update(worker.unknown)
    if unknown:
        rows = ((name, str(count)) for name, count in unknown.most_common())
        parts.append(
            table(
                "Waiting: names that a worker does not know → a typing mistake, or start a worker that has it",
                ("name", ">seen"),
                rows,
            )
        )
    parts += _remarks(seen)
    return parts


def _spaced(parts: list[Any]) -> list[Any]:
    """Put an empty line between tables."""
    spaced: list[Any] = []
    for part in parts:
        spaced += [part] if isinstance(part, str) or not spaced else ["", part]
    return spaced


def _queue_table(seen: Snapshot, rates: Mapping[str, float]) -> Any:
    rows = []
    for queue in seen.queues:
        succeeded = queue.counters.get("succeeded", 0)
        rows.append(
            (
                queue.queue,
                f"{queue.ready:,}",
                f"{queue.claimed:,}",
                f"{queue.scheduled:,}",
                "" if queue.oldest_wait_s is None else durations.text(queue.oldest_wait_s),
                f"{rates.get(queue.queue, 0.0):,.1f}/s",
                f"{succeeded:,}",
                f"{_ended(queue) - succeeded:,}",
            )
        )
    columns = ("queue", ">ready", ">claimed", ">later", ">oldest", ">rate", ">succeeded", ">other")
    return table("Queues", columns, rows)


def _remarks(seen: Snapshot) -> Iterator[str]:
    served = {name for worker in seen.workers for name in worker.queues}
    for queue in seen.queues:
        waiting = queue.ready + queue.scheduled + queue.suspects
        if waiting and queue.queue not in served:
            yield f"{queue.queue}: {waiting:,} wait, and no worker serves it: qworker start MODULE:APP -q {queue.queue}"
        if queue.claimed and queue.queue not in served:
            yield (
                f"{queue.queue}: {queue.claimed:,} claimed, and no worker of it tells of itself; once the lease ended,"
                f" another worker takes over: qworker start MODULE:APP -q {queue.queue}"
            )
        slots = {kind for worker in seen.workers if queue.queue in worker.queues for kind in worker.slots}
        needs = {line.partition(":")[0] for line, count in queue.lines.items() if count} - {"default"}
        for kind in sorted(needs - slots) if slots else ():
            yield f"{queue.queue}: tasks wait for {kind} slots, and no worker of it has any: -c {kind}=8"
        if queue.suspects:
            yield f"{queue.queue}: {queue.suspects} suspect(s) wait to run alone in a worker"
    for worker in seen.silent:
        yield f"{worker}: silent: killed, frozen or cut off; whether code of its tasks runs is not known"
    lingering = sum(len(worker.survivors) for worker in seen.workers if not _is_silent(seen, worker))
    if lingering:
        yield f"{lingering} survivor(s) of ended tasks still run: see qworker dessert"
    unsure = sum(len(worker.survivors) for worker in seen.workers if _is_silent(seen, worker))
    if unsure:
        yield f"{unsure} survivor(s) of ended tasks ran when their worker was heard last: see qworker dessert"


def _is_silent(seen: Snapshot, worker: WorkerRecord) -> bool:
    told = told_s_ago(worker, seen.now_ms)
    return told is not None and told >= SILENT_S


def _worker_table(seen: Snapshot) -> Any:
    rows = []
    for worker in seen.workers:
        told = told_s_ago(worker, seen.now_ms) or 0.0
        state = f"{worker.state}, silent for {durations.text(told)}" if _is_silent(seen, worker) else worker.state
        up = "" if not seen.now_ms else durations.text(max(0.0, (seen.now_ms - worker.started_ms) / 1000))
        slots = " ".join(
            f"{kind}={count}" + (f"+{worker.lent[kind]} lent" if worker.lent.get(kind) else "")
            for kind, count in worker.slots.items()
        )
        rows.append((worker.id, state, ",".join(worker.queues), slots, str(len(worker.running)), up))
    return table("Workers", ("worker", "state", "queues", "slots", ">run > 1 s", ">up for"), rows)


def _running_table(seen: Snapshot) -> Any:
    rows = [
        (
            word(shown, "id"),
            word(shown, "name"),
            span(shown, "ran_s"),
            _remark(shown),
            worker.id,
            word(shown, "child"),
            word(shown, "slot"),
        )
        for worker in seen.workers
        for shown in worker.running
    ]
    return table("Running", ("task", "name", ">for", "", "worker", ">child", ">slot"), rows)


def _remark(shown: Mapping[str, Any]) -> str:
    asked, awaited = shown.get("asked"), shown.get("waits_for")
    remarks = (
        f"asked to end: {asked}" if asked else "",
        f"waits for {awaited} task(s)" if awaited else "",
        "in a lent place" if shown.get("lent") else "",
    )
    return "; ".join(filter(None, remarks))
