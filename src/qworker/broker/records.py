"""The text that Redis keeps of a claimed, delayed or flagged task, and the `Record` that it stands for.

    state claim line stop run attempt deliveries losses exact started_ms deadline_ms once a l
    c     k2m…  e    -    1   1       1          0      0     0          0           0

`a`, adrift, is there when an earlier start of the task may run still; `l` when the task's blob is too large to be
brought into a script, so that claims leave it alone.
State, claim (12 characters), line and the start of `stop` sit at fixed places, so that scripts compare them without
taking the text apart. `-` is no stop, `d` one with the task's own grace, a number one with that grace in ms. A task
that is not held keeps the last claim's id, unless that claim was rescued: so a settle that comes twice is known.
"""

from __future__ import annotations

from ..errors import DecodeError
from ..lifecycle import HELD, STATE_OF
from ..model import Line, Record, StopOrder

NO_CLAIM = "-" * 12
_DIGITS = 16  # numbers of fewer digits are whole in Lua, in JSON and in msgpack


def read_stop(text: str) -> StopOrder | None:
    """Read a stop as records and replies carry it. What cannot be read is one, too, with the task's own grace."""
    if text == "-":
        return None
    return StopOrder(int(text) if text.isascii() and text.isdecimal() and len(text) < _DIGITS else None)


def write_stop(order: StopOrder | None) -> str:
    """Write a stop as records and replies carry it."""
    if order is None:
        return "-"
    return "d" if order.grace_ms is None else str(order.grace_ms)


def read_record(text: bytes | None) -> Record:
    """Read a stored record; none at all is a task that was queued and never touched."""
    if not text:
        return Record()
    try:
        words = text.decode("ascii").removesuffix(" l")
        state_code, claim, _line, stop, *numbers = words.removesuffix(" a").split(" ")
        if max(map(len, numbers)) >= _DIGITS:
            raise ValueError("a number that nobody counted to")
        run, attempt, deliveries, losses, exact, started_ms, deadline_ms, once = map(int, numbers)
        state = STATE_OF[state_code]
        return Record(
            state=state,
            claim=claim if state in HELD else "",
            run=run,
            attempt=attempt,
            deliveries=deliveries,
            losses=losses,
            exact=bool(exact),
            started_ms=started_ms,
            deadline_ms=deadline_ms,
            stop=read_stop(stop),
            once=bool(once),
            adrift=words.endswith(" a"),
        )
    except (ValueError, KeyError) as exc:
        raise DecodeError(f"cannot read the record of a task: {text[:80]!r} is not what qworker writes") from exc


def write_record(record: Record, line: Line) -> str:
    """Write a record as the scripts do; for tests and tools that seed a state."""
    from ..lifecycle import CODES

    return (
        f"{CODES[record.state]} {record.claim or NO_CLAIM} {line.code} {write_stop(record.stop)} {record.run}"
        f" {record.attempt} {record.deliveries} {record.losses} {int(record.exact)} {record.started_ms}"
        f" {record.deadline_ms} {int(record.once)}{' a' if record.adrift else ''}"
    )
