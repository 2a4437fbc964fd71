"""What an idle worker leaves on the server: a claim that the next submit may fill, one trip before it is asked for.

    empty claim, last settle ── offer ─► it stands ── a lone task is submitted ─► push ─► take ─► its window is accepted
                                            └── the push is late, or lost ─► the next claim brings that window ─► take

A claim is filled once, and its window is accepted once, whichever way it comes first. Nothing is lost with a push: each
claim, once a second at least, names what was left before it, and what was filled comes in its place.
"""

from __future__ import annotations

from .. import clock
from ..broker.values import Stand
from ..ids import new_token
from .state import Phase, State

_MOST = 64  # of those that may have been filled: nearly all of them were left by calls that got no answer


class Standing:
    """The claims that this worker has left. Owned by the event loop."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._needs = tuple(sorted({need for kind in state.slots for need in state.needs(kind)}))
        self._sent: dict[str, float] = {}  # those that may have been filled, and when they were sent (`clock`)
        self._left: list[Stand] = []  # those that the next claim has to name
        self._under_way: Stand | None = None  # until its call is answered, no other one is left

    def offer(self, queue: str, *, ending: int = 0) -> Stand | None:
        """Return a claim to be left, if nothing is held once `ending` tasks are settled; `answered` must follow."""
        state = self._state
        if (
            len(state.ledger.tasks) != ending
            or state.phase is not Phase.RUNNING
            or self._under_way is not None
            or state.settings.burst
            or state.queues != (queue,)  # with several, a later one's task would come before an earlier one's
        ):
            return None
        stand = Stand(new_token(), state.id, self._needs, int(state.lease.lease_s * 1000))
        self._under_way = stand
        self._left.append(stand)
        self._sent[stand.claim] = clock.now()
        if len(self._sent) > _MOST:
            del self._sent[next(iter(self._sent))]
        return stand

    def answered(self, stand: Stand | None) -> None:
        """The call that was to leave it has an answer, or was given up."""
        if self._under_way is stand:
            self._under_way = None

    def asked(self) -> list[Stand]:
        """Return what may stand, or have been filled, for a claim to name."""
        return [stand for stand in self._left if stand is not self._under_way]

    def gone(self, stands: list[Stand]) -> None:
        """A claim has named these, and brought the window of none of them: they stand no longer.

        Should a call without an answer leave one after all, its window is accepted still.
        """
        self._left = [stand for stand in self._left if stand not in stands]

    def take(self, claim: str) -> float | None:
        """Return when a claim was sent whose window has come; None: it has come before, or is none of these."""
        self._left = [stand for stand in self._left if stand.claim != claim]
        return self._sent.pop(claim, None)

    @property
    def any(self) -> bool:
        """Whether something was left that may still be filled."""
        return bool(self._left)
