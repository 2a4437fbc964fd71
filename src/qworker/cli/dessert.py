"""`qworker dessert`: code that runs after its task's outcome was recorded, and workers of which nobody can tell.

broker.workers ──────────────► what they tell of survivors ─┐
the list of workers, without ► those that are silent ───────┴─► --json, or a table and a line for each silent one

A worker that ends in good order takes itself off the list, with all that it ran. One that is killed, frozen or cut off
stays on it for ten minutes, but what it told of itself is kept for half a minute only: from then on it is silent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .. import durations
from ..views import WorkerRecord
from .shared import Json, Namespace, Url, open_broker, print_json, print_table, table

if TYPE_CHECKING:
    from ..broker.broker import Broker

__all__ = ["SILENT_S", "dessert", "look", "span", "told_s_ago", "word"]

SILENT_S = 15.0  # an idle worker tells of itself every 10 s


def dessert(url: Url = None, namespace: Namespace = None, as_json: Json = False) -> None:
    """List code that still runs although its task's outcome is recorded: on which worker, and for how long.

    As the workers told it last. Workers that are silent are listed, too: of their code nobody can tell.
    """
    with open_broker(url, namespace) as broker:
        workers, silent = look(broker)
        now_ms = broker.clock()
    if as_json:
        print_json(_facts(workers, silent, now_ms))
    else:
        print_table(*_parts(workers, silent, now_ms))


def look(broker: Broker) -> tuple[tuple[WorkerRecord, ...], tuple[str, ...]]:
    """Return what the workers told of themselves, and the ids of those on the list of which nothing is kept any more.

    The list is asked twice: a worker that comes or goes meanwhile is not silent.
    """
    before = set(broker.listed_workers())
    workers = broker.workers()
    told = {worker.id for worker in workers}
    return workers, tuple(id_ for id_ in broker.listed_workers() if id_ in before and id_ not in told)


def told_s_ago(worker: WorkerRecord, now_ms: int) -> float | None:
    """Return how long ago a worker told of itself; None: that is not known."""
    if not now_ms or not worker.beat_ms:
        return None
    return max(0.0, round((now_ms - worker.beat_ms) / 1000, 3))


def _facts(workers: Sequence[WorkerRecord], silent: Sequence[str], now_ms: int) -> list[dict[str, Any]]:
    facts: list[dict[str, Any]] = []
    for worker in workers:
        ago = _silence(worker, now_ms)
        silence = {} if ago is None else {"still_running": None, "silent_for_s": ago}
        facts += [{"worker": worker.id, **left, **silence} for left in worker.survivors]
        if ago is not None and not worker.survivors:
            facts.append({"worker": worker.id, **silence})
    return facts + [{"worker": worker, "still_running": None, "silent_for_s": None} for worker in silent]


def _parts(workers: Sequence[WorkerRecord], silent: Sequence[str], now_ms: int) -> list[Any]:
    parts: list[Any] = []
    if any(worker.survivors for worker in workers):
        parts.append(_table(workers))
    for worker in workers:
        ago = _silence(worker, now_ms)
        if ago is not None:
            of = "whether this still runs" if worker.survivors else "whether code of its ended tasks runs"
            parts.append(f"{worker.id}: silent for {durations.text(ago)}; {of} is not known")
    parts += [f"{worker}: silent; whether code of its ended tasks runs is not known" for worker in silent]
    return parts or ["nothing lingers, as far as workers tell: none knows of code that ran on after its outcome"]


def _silence(worker: WorkerRecord, now_ms: int) -> float | None:
    ago = told_s_ago(worker, now_ms)
    return None if ago is None or ago < SILENT_S else ago


def _table(workers: Sequence[WorkerRecord]) -> Any:
    return table(
        "Dessert: code that runs after its outcome was recorded, as workers told last",
        ("task", "name", "outcome", ">since", ">running for", "worker", ">child", ">slot"),
        (
            (
                word(left, "id"),
                word(left, "name"),
                word(left, "outcome").replace("_", " "),
                span(left, "since_s"),
                span(left, "ran_s"),
                worker.id,
                word(left, "child"),
                word(left, "slot"),
            )
            for worker in workers
            for left in worker.survivors
        ),
    )


def word(shown: Mapping[str, Any], key: str) -> str:
    """Return what a worker told of something as text."""
    value = shown.get(key)
    return "" if value is None else str(value)


def span(shown: Mapping[str, Any], key: str) -> str:
    """Return what a worker told as a duration."""
    value = shown.get(key)
    return durations.text(value) if isinstance(value, (int, float)) else ""
