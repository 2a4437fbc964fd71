"""The ledger of survivors: code that runs on after its outcome was told.

Owned by one pool. An entry appears when the grace of an attempt in a thread ends, and goes when the child says that
the code has ended, or dies.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..lifecycle import State
from ..model import Order, Reason, Survivor

# What is recorded of an attempt that was asked for this reason. `claimed` means: it went back, another run decides.
_OUTCOME: dict[Reason, State] = {
    "timeout": State.TIMED_OUT,
    "deadline": State.EXPIRED,
    "stop": State.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class _Left:
    order: Order
    child: int
    slot: int
    started: float
    left: float
    outcome: State


class Survivors:
    """Who survives in which slot of which child."""

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}

    def __len__(self) -> int:
        return len(self._left)

    def __contains__(self, number: int) -> bool:
        return number in self._left

    def add(self, order: Order, *, child: int, slot: int, started: float, now: float, reason: Reason) -> None:
        """Enter an attempt whose outcome was told while its code ran on."""
        self._left[order.number] = _Left(order, child, slot, started, now, _OUTCOME.get(reason, State.CLAIMED))

    def remove(self, number: int) -> Order | None:
        """Its code has ended; returns its order, or None when it was not here."""
        left = self._left.pop(number, None)
        return left.order if left else None

    def listed(self, now: float) -> list[Survivor]:
        """Everybody who is still at the table."""
        return [
            Survivor(
                id=left.order.id,
                name=left.order.name,
                child=left.child,
                slot=left.slot,
                outcome=left.outcome,
                since_s=now - left.left,
                ran_s=now - left.started,
            )
            for left in self._left.values()
        ]
