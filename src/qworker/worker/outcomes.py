"""From a verdict to what is settled: the one place where the worker builds outcomes."""

from __future__ import annotations

import re

from .. import codec, sightings
from ..errors import DecodeError
from ..lifecycle import State
from ..model import Again, End, Ending, ErrorInfo, Lose, Outcome, Release, Settle
from .blame import SUCCESS, Verdict
from .ledger import Held

GENERATED = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")  # a local id that `submit` drew
NO_ENDING = Ending(0, "unstarted")
TOMBSTONE_MS = 60_000  # what every end leaves at least, so that a repeated submit finds it
GIVEN_TOMBSTONE_MS = 600_000  # and for ids that a caller chose, and may send again much later


def ttl_of(held: Held) -> int:
    """Return how long the outcome of a task is kept, in milliseconds."""
    ttl_ms = held.header.result_ttl_ms
    if ttl_ms >= GIVEN_TOMBSTONE_MS:
        return ttl_ms  # as nearly always: above both floors
    return max(ttl_ms, TOMBSTONE_MS if GENERATED.fullmatch(held.task.id) else GIVEN_TOMBSTONE_MS)


def settle_of(held: Held, verdict: Verdict, ending: Ending | None, *, worker: str, ended_ms: int) -> Settle:
    """Return what to settle for a task: its way back into the queue, or its recorded outcome."""
    task, claim = held.task, held.claim.id
    state, how, reason, back, delay_ms, exact = verdict
    if state is None or how is None:
        cursor = held.cursor or b""
        if back == "again":
            return Again(task.id, claim, delay_ms, cursor, ending is not None and ending.kind == "left_running")
        return Lose(task.id, claim, exact, cursor) if back == "lose" else Release(task.id, claim, cursor)
    blob, record = task.blob, task.record
    if verdict is SUCCESS and ending is not None and ending.took_s is None:
        kept = ending.payload if held.header.result_ttl_ms > 0 else None
        packed = codec.pack_success(
            held.full_id, claim, blob[:8], record.run, record.attempt, worker, ended_ms, ending.ran_s, kept,
            record.adrift,
        )  # fmt: skip
        return _end(held, state, packed, kept if kept is not None and len(kept) >= codec.APART else b"")
    _, kind, payload, ran_s, _, asked_after_s, took_s, _, _, _, _, shielded_s, flight = ending or NO_ENDING
    kept = payload if held.header.result_ttl_ms > 0 else None
    value, error = (kept, None) if state is State.SUCCEEDED else (None, kept or None)
    # By position, as all that is made once per task: it is twice as fast.
    outcome = Outcome(
        held.full_id, state, how, record.run, record.attempt, claim, blob[:8], worker, ended_ms,
        ran_s, asked_after_s, took_s, kind == "left_running", reason, value, error, kept is None,
        shielded_s, flight, record.adrift,
    )  # fmt: skip
    return _end(held, state, codec.pack_outcome(outcome))


def _end(held: Held, state: State, packed: bytes, rest: bytes = b"") -> End:
    # What is too large to push is announced by its id alone; the client fetches it.
    hint = codec.pack_hint(held.full_id) if rest or len(packed) > codec.PUSH_MAX else b""
    return End(held.task.id, held.claim.id, state, packed, ttl_of(held), _client_of(held.task.blob), hint, rest)


def _client_of(blob: bytes) -> str:
    """Return who is to be told; nobody, if the blob is none: then this very outcome says so."""
    try:
        return codec.client_of(blob)
    except DecodeError:
        return codec.NOBODY


def error_line(ending: Ending | None) -> str:
    """Return one line on what a task raised, for the log; empty if it raised nothing."""
    if ending is None or not ending.payload or ending.kind == "returned":
        return ""
    try:
        info: ErrorInfo = codec.unpack_error(ending.payload)
    except DecodeError:
        return "an error that cannot be read"  # user code shares the child's stream
    return f"{info.kind.removeprefix('builtins.')}: {info.text}" if info.text else info.kind


def last_place(ending: Ending | None) -> str | None:
    """Return the innermost frame in which a task was last seen after it was asked to end, for the log."""
    return (sightings.place(ending.flight) or None) if ending is not None and ending.flight else None
