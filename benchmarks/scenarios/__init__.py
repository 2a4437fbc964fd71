"""All scenarios, one file per family."""

from __future__ import annotations

from . import crash, drain, footprint, results, round_trip, scheduling, stopping, submit
from .base import Figure, Scenario

FAMILIES: dict[str, tuple[Scenario, ...]] = {
    "Submitting": submit.SCENARIOS,
    "Draining a full queue": drain.SCENARIOS,
    "Results": results.SCENARIOS,
    "Round trips": round_trip.SCENARIOS,
    "Use of the slots": scheduling.SCENARIOS,
    "What it takes": footprint.SCENARIOS,
    "Stops and losses": (*stopping.SCENARIOS, *crash.SCENARIOS),
}
SCENARIOS: dict[str, Scenario] = {one.name: one for family in FAMILIES.values() for one in family}

__all__ = ["FAMILIES", "SCENARIOS", "Figure", "Scenario"]
