"""How soon a running coroutine sees that its caller cancelled it."""

from __future__ import annotations

from ..adapter import NotOfferedError
from ..figures import percentile
from ..stage import Shape, Stage
from .base import Figure, Goal, Scenario

CANCELS = 50
SLOTS = 10
WITHIN_S = 180.0


def cancel(stage: Stage) -> dict[str, float]:
    """One at a time, each after it was seen to run; the task notes the instant at which it was interrupted."""
    if stage.facts["local"]:
        raise NotOfferedError("a local pool: no coroutines")
    adapter = stage.adapter(Shape("async", SLOTS))
    worker = stage.warm_worker(adapter)
    stage.times.touch()
    told = adapter.order("cancels", count=stage.scaled(CANCELS, least=5), worker=worker, within_s=WITHIN_S)
    return {f"p{part}": percentile(told["seconds"], part) * 1e3 for part in (50, 95)}


SCENARIOS = (
    Scenario(
        "cancel", "Cancel of a running coroutine until it sees it",
        (Figure("p50", "ms", "least"), Figure("p95", "ms", "least")), cancel,
        goals=(Goal("p50", 1.0, "queue"),),
    ),
)  # fmt: skip
