"""How many tasks a producer queues in a second, with no worker running."""

from __future__ import annotations

from ..stage import SMALL, Stage
from .base import RATE, Goal, Scenario, needs_a_queue


def _submit(stage: Stage, verb: str, count: int) -> dict[str, float]:
    needs_a_queue(stage)
    adapter = stage.adapter()
    adapter.order(verb, task="noop", count=100, body=SMALL)  # connects, and whatever else happens once
    told = adapter.order(verb, task="noop", count=count, body=SMALL)
    return {"rate": count / told["seconds"]}


def one_by_one(stage: Stage) -> dict[str, float]:
    """Each call returns before the next one is made."""
    return _submit(stage, "submit_each", stage.scaled(5_000))


def in_bulk(stage: Stage) -> dict[str, float]:
    """All in one call of the contestant's."""
    return _submit(stage, "submit_bulk", stage.scaled(20_000))


def by_asyncio(stage: Stage) -> dict[str, float]:
    """100 coroutines, each of which submits one by one."""
    return _submit(stage, "submit_async", stage.scaled(10_000, least=100))


SCENARIOS = (
    Scenario("submit-each", "Submit one by one", RATE, one_by_one, important=True, goals=(Goal("rate", 1.0, "queue"),)),
    Scenario("submit-bulk", "Submit in bulk", RATE, in_bulk, important=True, goals=(Goal("rate", 1.25, "queue"),)),
    Scenario("submit-async", "Submit by asyncio, 100 coroutines", RATE, by_asyncio),
)
