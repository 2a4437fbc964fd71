"""From a verdict to what is settled: the one place where the worker builds outcomes."""

from __future__ import annotations

import re

from .. import codec
from ..lifecycle import State
from ..model import Again, End, Ending, ErrorInfo, Lose, Outcome, Release, Settle
from .blame import Verdict
from .ledger import Held

GENERATED = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")  # a local id that `submit` drew
TOMBSTONE_MS = 60_000  # what every end leaves at least, so that a repeated submit finds it
GIVEN_TOMBSTONE_MS = 600_000  # and for ids that a caller chose, and may send again much later


def ttl_of(held: Held) -> int:
    """Return how long the outcome of a task is kept, in milliseconds."""
    floor = TOMBSTONE_MS if GENERATED.fullmatch(held.task.id) else GIVEN_TOMBSTONE_MS
    return max(held.header.result_ttl_ms, floor)


def settle_of(held: Held, verdict: Verdict, ending: Ending | None, *, worker: str, now_ms: int) -> Settle:
    """Return what to settle for a task: its way back into the queue, or its recorded outcome."""
    task, claim = held.task, held.claim.id
    if verdict.back == "release":
        return Release(task.id, claim)
    if verdict.back == "again":
        return Again(task.id, claim, verdict.delay_ms)
    if verdict.back == "lose":
        return Lose(task.id, claim, verdict.exact)
    assert verdict.outcome is not None
    assert verdict.how is not None
    keep = held.header.result_ttl_ms > 0
    payload = ending.payload if ending is not None else b""
    succeeded = verdict.outcome is State.SUCCEEDED
    outcome = Outcome(
        id=held.full_id,
        state=verdict.outcome,
        how=verdict.how,
        run=task.record.run,
        attempt=task.record.attempt,
        claim=claim,
        digest=codec.digest_of(task.blob),
        worker=worker,
        ended_ms=now_ms,
        ran_s=ending.ran_s if ending else None,
        asked_after_s=ending.asked_after_s if ending else None,
        took_s=ending.took_s if ending else None,
        still_running=ending is not None and ending.kind == "left_running",
        reason=verdict.reason,
        value=payload if succeeded and keep else None,
        error=payload if not succeeded and keep and payload else None,
        tombstone=not keep,
    )
    value = codec.pack_outcome(outcome)
    # What is too large to push is announced by its id alone; the client fetches it.
    hint = codec.pack_value(held.full_id) if len(value) > codec.PUSH_MAX else b""
    return End(task.id, claim, verdict.outcome, value, ttl_of(held), codec.client_of(task.blob), hint)


def error_line(ending: Ending | None) -> str:
    """Return one line on what a task raised, for the log; empty if it raised nothing."""
    if ending is None or not ending.payload or ending.kind == "returned":
        return ""
    info: ErrorInfo = codec.unpack_error(ending.payload)
    return f"{info.kind.removeprefix('builtins.')}: {info.text}" if info.text else info.kind
