"""End tasks that have not been handed out, from a client: what their outcomes say, and many in few round trips.

Used by client.py, for a task that is cancelled or expires in its line. No worker is needed for either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .. import codec, ids
from ..lifecycle import How, State
from ..model import Outcome
from .broker import Broker

MOST_PER_CALL = 256


def never_started(queue: str, state: State, now_ms: int) -> Callable[[str], bytes]:
    """Return what packs the outcome of a task of that queue which ends unrun, by its local id."""
    # It may be waiting for its second attempt, so this does not say that it never ran.
    what = "cancelled" if state is State.CANCELLED else "its deadline passed"

    def value_of(local: str) -> bytes:
        full = ids.join_id(queue, local)
        return codec.pack_outcome(
            Outcome(full, state, How.NEVER_STARTED, ended_ms=now_ms, reason=f"{what} while queued")
        )

    return value_of


def cancel(broker: Broker, queue: str, locals_: Sequence[str], now_ms: int) -> Iterator[Outcome]:
    """Cancel those of these tasks that were not handed out; yield the outcomes of all that have ended by now."""
    value_of = never_started(queue, State.CANCELLED, now_ms)
    for start in range(0, len(locals_), MOST_PER_CALL):
        some = locals_[start : start + MOST_PER_CALL]
        for answer in broker.stop(queue, some, mode="cancel", grace_ms=None, value_of=value_of):
            outcome = answer.outcome or (value_of(answer.id) if answer.code == "cancelled" else None)
            if outcome is not None:
                yield codec.unpack_outcome(outcome)
