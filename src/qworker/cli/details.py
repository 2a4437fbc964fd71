"""Everything that is known of one task, gathered for `qworker show`.

Inspection ─► facts_of ─┬─► --json
                        └─► rows_of ─► lines for people
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from .. import codec, durations, sightings
from ..errors import BrokerError, DecodeError
from ..lifecycle import HELD
from ..model import Progress, Record, Sighting
from ..status import describe, progress_of, progress_text
from ..views import Inspection, WorkerRecord
from .shared import said, when

__all__ = ["error_facts", "facts_of", "rows_of"]

_SHOWN_ARGUMENTS = 2_000  # characters


def facts_of(task: str, found: Inspection, workers: Callable[[], Iterable[WorkerRecord]]) -> dict[str, Any]:
    """Return what is known of a task; absent facts are absent keys, but `state` is always there."""
    facts: dict[str, Any] = {"id": task}
    try:
        status = describe(task, found)
        facts |= {"state": status.state, "says": str(status)}
    except DecodeError as error:
        facts |= {"state": "unreadable", "says": f"it has an outcome that is unreadable: {error}"}
    facts |= _blob_facts(found.blob)
    if found.outcome is not None:
        facts |= _outcome_facts(found.outcome)
    elif found.record is not None:
        facts |= _record_facts(found, found.record)
        if found.state in HELD:
            facts |= _running_facts(task, found.worker, workers)
    return {key: value for key, value in facts.items() if value is not None or key in ("state", "value")}


def error_facts(packed: bytes | None) -> dict[str, Any] | None:
    """Return a task's error in plain values."""
    if packed is None:
        return None
    try:
        info = codec.unpack_error(packed)
    except DecodeError as error:
        return {"kind": "unreadable", "text": str(error), "traceback": "", "notes": []}
    return {"kind": info.kind, "text": info.text, "traceback": info.traceback, "notes": list(info.notes)}


def rows_of(facts: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Return the facts as lines for people."""
    yield "task", facts["id"]
    yield "name", facts.get("name", "")
    yield "state", facts["says"]
    if "how" in facts:
        yield "how", facts["how"].replace("_", " ") + ("; its code ran on" if facts.get("still_running") else "")
    yield "run", f"{facts['run']}, attempt {facts['attempt']}" if "run" in facts else ""
    if facts.get("deliveries", 0) > 1 or facts.get("losses"):
        yield "handed out", f"{facts['deliveries']} times, lost with a dead process {facts['losses']} times"
    yield "worker", facts.get("worker", "")
    yield "sent", _moment(facts, "sent_ms")
    yield "due", _moment(facts, "due_ms")
    yield "deadline", _moment(facts, "deadline_ms")
    yield "started", _moment(facts, "started_ms")
    yield "runs for", _span(facts, "running_for_s")
    yield "progress", progress_text(Progress(**facts["progress"])) if "progress" in facts else ""
    yield "lease left", _span(facts, "lease_left_s")
    yield "ended", _moment(facts, "ended_ms")
    yield "ran", _span(facts, "ran_s")
    yield "asked", f"after {durations.text(facts['asked_after_s'])}" if "asked_after_s" in facts else ""
    yield "took", f"{_span(facts, 'took_s')} from the ask to the end" if "took_s" in facts else ""
    yield "shielded", f"its end by force waited {_span(facts, 'shielded_s')}" if "shielded_s" in facts else ""
    yield "seen", "\n".join(sightings.told([Sighting(**seen) for seen in facts.get("flight", ())]))
    yield "options", _options(facts.get("options", {}))
    yield "arguments", facts.get("arguments", "")
    if "value" in facts:
        yield "value", said(facts["value"])
    elif facts.get("value_kept") is False:
        yield "value", "not kept (result_ttl=0)"
    error = facts.get("error")
    if error:
        yield "error", f"{error['kind']}: {error['text']}"
        yield "notes", "\n".join(error["notes"])
        yield "traceback", error["traceback"]


def _blob_facts(blob: bytes | None) -> dict[str, Any]:
    if blob is None:
        return {}
    try:
        envelope = codec.read_envelope(blob)
    except DecodeError as error:
        return {"name": "unreadable", "arguments": str(error)}
    header = envelope.header
    return {
        "name": header.name,
        "pool": envelope.line.pool,
        "priority": envelope.line.priority,
        "sent_ms": envelope.sent_ms or None,
        "options": {
            "timeout_s": None if header.timeout_ms is None else header.timeout_ms / 1000,
            "grace_s": header.grace_ms / 1000,
            "retries": header.retries,
            "backoff_s": header.backoff_ms / 1000,
            "jitter": header.jitter,
            "retry_for": header.retry_for,
            "result_ttl_s": header.result_ttl_ms / 1000,
            "delivery": header.delivery,
            "max_crashes": header.max_crashes,
            "interrupt": header.interrupt or None,
            "pool": envelope.line.pool,
            "priority": envelope.line.priority,
        },
        "arguments": _arguments(envelope.body),
    }


def _arguments(body: bytes) -> str:
    try:
        args, kwargs = codec.unpack_body(body)
    except DecodeError as error:
        return str(error)
    words = [said(arg) for arg in args] + [f"{name}={said(value)}" for name, value in kwargs.items()]
    text = ", ".join(words)
    return text if len(text) <= _SHOWN_ARGUMENTS else f"{text[:_SHOWN_ARGUMENTS]}… ({len(body):,} bytes)"


def _record_facts(found: Inspection, record: Record) -> dict[str, Any]:
    return {
        "run": record.run,
        "attempt": record.attempt,
        "deliveries": record.deliveries,
        "losses": record.losses,
        "before": found.before,
        "due_ms": found.due_ms,
        "deadline_ms": record.deadline_ms or None,
        "worker": found.worker or None,
        "started_ms": record.started_ms or None,
        "running_for_s": (found.now_ms - record.started_ms) / 1000 if record.started_ms else None,
        "lease_left_s": None if found.lease_ms is None else (found.lease_ms - found.now_ms) / 1000,
        "stopping": True if record.stop is not None else None,
        "adrift": record.adrift or None,
        "progress": None if (progress := progress_of(found)) is None else progress._asdict(),
    }


def _outcome_facts(packed: bytes) -> dict[str, Any]:
    try:
        outcome = codec.unpack_outcome(packed)
    except DecodeError:
        return {}  # `describe` has said so
    facts: dict[str, Any] = {
        "how": outcome.how,
        "run": outcome.run,
        "attempt": outcome.attempt,
        "worker": outcome.worker or None,
        "ended_ms": outcome.ended_ms or None,
        "ran_s": outcome.ran_s,
        "asked_after_s": outcome.asked_after_s,
        "took_s": outcome.took_s,
        "shielded_s": outcome.shielded_s,
        "still_running": outcome.still_running,
        "adrift": outcome.adrift or None,
        "reason": outcome.reason or None,
        "flight": [sighting._asdict() for sighting in outcome.flight] or None,
        "error": error_facts(outcome.error),
    }
    if outcome.tombstone:
        facts["value_kept"] = False
    elif outcome.value is not None:
        try:
            facts["value"] = codec.unpack_value(outcome.value)
        except DecodeError as error:
            facts["value"] = f"({error})"
    return facts


def _running_facts(task: str, worker: str, workers: Callable[[], Iterable[WorkerRecord]]) -> dict[str, Any]:
    """Return what the task's worker tells of it: tasks of less than a second are in no record."""
    try:
        records: Sequence[WorkerRecord] = [record for record in workers() if record.id == worker]
    except BrokerError:
        return {}
    for record in records:
        for shown in record.running:
            if shown.get("id") == task:
                known = {"child": "child", "slot": "slot", "ran_s": "running_for_s"}
                return {ours: shown[theirs] for theirs, ours in known.items() if theirs in shown}
    return {}


def _moment(facts: dict[str, Any], key: str) -> str:
    return when(facts[key]) if key in facts else ""


def _span(facts: dict[str, Any], key: str) -> str:
    return durations.text(facts[key]) if key in facts else ""


def _options(options: dict[str, Any]) -> str:
    words = []
    for name, value in options.items():
        if name.endswith("_s"):
            words.append(f"{name[:-2]}={'none' if value is None else durations.text(value)}")
        elif value is not None:
            words.append(f"{name}={value if isinstance(value, (str, int)) else ','.join(value)}")
    return " ".join(words)
