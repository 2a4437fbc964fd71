"""How many tasks a producer queues in a second, with no worker running."""

from __future__ import annotations

from ..stage import SMALL, Stage
from .base import RATE, Goal, Scenario, needs_a_queue

LASTS_S = 0.8
LEAST = 1_000
FIRST = 200  # connect, do whatever else happens once, and say how many fit into the time


def _submit(stage: Stage, verb: str, most: int) -> dict[str, float]:
    needs_a_queue(stage)
    adapter = stage.producer()
    first = adapter.order(verb, task="noop", count=FIRST, body=SMALL)
    count = stage.lasting(LASTS_S, FIRST / first["seconds"], LEAST, most) // 100 * 100 or 100
    told = adapter.order(verb, task="noop", count=count, body=SMALL)
    return {"rate": count / told["seconds"]}


def one_by_one(stage: Stage) -> dict[str, float]:
    """Each call returns before the next one is made."""
    return _submit(stage, "submit_each", 5_000)


def in_bulk(stage: Stage) -> dict[str, float]:
    """All in one call of the contestant's."""
    return _submit(stage, "submit_bulk", 20_000)


def by_asyncio(stage: Stage) -> dict[str, float]:
    """100 coroutines, each of which submits one by one."""
    return _submit(stage, "submit_async", 10_000)


SCENARIOS = (
    Scenario(
        "submit-each", "Submit one by one", RATE, one_by_one, important=True, goals=(Goal("rate", 1.0, "queue"),),
        shares="submit",
    ),
    Scenario(
        "submit-bulk", "Submit in bulk", RATE, in_bulk, important=True, goals=(Goal("rate", 1.25, "queue"),),
        shares="submit",
    ),
    Scenario("submit-async", "Submit by asyncio, 100 coroutines", RATE, by_asyncio, shares="submit"),
)  # fmt: skip
