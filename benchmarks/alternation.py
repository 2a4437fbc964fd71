"""In which order the contestants take turns: A B C, C B A, A B C, so that a drift of the machine falls on all alike."""

from __future__ import annotations

from collections.abc import Sequence

from .scenarios import Scenario


def turns(contestants: Sequence[str], number_of_round: int) -> list[str]:
    """Return the order of a round; the first one is 1."""
    return list(contestants) if number_of_round % 2 else list(reversed(contestants))


def grouped(scenarios: Sequence[Scenario]) -> list[list[Scenario]]:
    """Put together what shares a worker, in the order of the first of each; what is late comes last there."""
    groups: dict[str, list[Scenario]] = {}
    for scenario in scenarios:
        groups.setdefault(scenario.shares or f"{scenario.name} alone", []).append(scenario)
    return [sorted(group, key=lambda one: one.late) for group in groups.values()]
