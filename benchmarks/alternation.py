"""In which order the contestants take turns: A B C, C B A, A B C, so that a drift of the machine falls on all alike."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def turns(contestants: Sequence[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Yield (round, contestant) in the order of measuring."""
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            yield number, contestant
