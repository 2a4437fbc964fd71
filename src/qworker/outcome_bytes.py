"""An outcome as bytes: stored under its task's id, pushed to the client that waits.

    settler ─► pack_outcome ─► `result:<id>`, and the client's inbox ─► read_pushed, unpack_outcome ─► Future.settle

The first elements lie at fixed places, because scripts compare the digest and the claim without decoding anything; the
layout is in `codec`, through which everybody uses these functions.
"""

from __future__ import annotations

from typing import Any

import msgpack

from .errors import DecodeError
from .lifecycle import LIVE, STATE_OF, How, State
from .model import Outcome, Sighting, Told
from .told import read_told
from .values import pack_plain, unpack_plain

__all__ = ["APART", "PUSH_MAX", "pack_hint", "pack_outcome", "pack_success", "read_pushed", "unpack_outcome"]

APART = 65_536  # from there on msgpack begins bytes with c6 and four bytes of their number
PUSH_MAX = 4096  # a larger outcome is not pushed to its client, only its id is

_OUTCOME_VERSION = "1"
_NO_CLAIM = "-" * 12
_ADRIFT_CLAIM = "-" * 11 + "a"  # of what is adrift, and no worker had when it ended; a script puts it in

# A letter each, as for states; never changed, because outcomes are stored.
_HOWS: dict[str, How] = {
    "r": How.RETURNED,
    "e": How.RAISED,
    "n": How.NOTICED,
    "i": How.INTERRUPTED,
    "k": How.KILLED,
    "l": How.LEFT_RUNNING,
    "u": How.NEVER_STARTED,
    "h": How.HOST_DIED,
}
_CODES = {
    (STATE_OF[code], how): _OUTCOME_VERSION + code + letter
    for code, state in STATE_OF.items()
    if state not in LIVE
    for letter, how in _HOWS.items()
}
_SUCCESS = _CODES[State.SUCCEEDED, How.RETURNED]
_KINDS = {codes: kind for kind, codes in _CODES.items()}
_STILL_RUNNING, _TOMBSTONE, _HAS_VALUE, _HAS_ERROR, _ADRIFT = 1, 2, 4, 8, 16


def pack_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as bytes: a msgpack array whose first elements lie at fixed places."""
    payload = outcome.value
    flags = outcome.still_running | outcome.tombstone << 1 | (_ADRIFT if outcome.adrift else 0)
    if payload is not None:
        flags |= _HAS_VALUE
    elif outcome.error is not None:
        payload = outcome.error
        flags |= _HAS_ERROR
    fields: list[Any] = [
        outcome.digest,
        outcome.claim or _NO_CLAIM,
        outcome.id,
        _CODES[outcome.state, outcome.how],
        outcome.run,
        outcome.attempt,
        outcome.worker,
        outcome.ended_ms,
        outcome.ran_s,
        outcome.asked_after_s,
        outcome.took_s,
        flags,
        outcome.reason,
        payload,
    ]
    if outcome.shielded_s is not None or outcome.flight:
        # At most 15 elements in all: then the array's own head is one byte, and what scripts compare stays in place.
        flight = [
            [why, ran_s, stack, None if progress is None else [*progress], [*lines]]
            for why, ran_s, stack, progress, lines in outcome.flight
        ]
        fields.append([outcome.shielded_s, flight])
    return pack_plain(fields)


def pack_success(
    id: str,  # noqa: A002 - the public word
    claim: str,
    digest: bytes,
    run: int,
    attempt: int,
    worker: str,
    ended_ms: int,
    ran_s: float | None,
    value: bytes | None,
    adrift: bool = False,
) -> bytes:
    """Pack the outcome of a task that returned unasked, as `pack_outcome` would; `value` None: it is not kept.

    A value of APART bytes and more is left out: it follows what is returned here, and nobody copies it. Nearly all
    outcomes are of this kind, and to make an Outcome first would cost more than to pack it.
    """
    flags = (_TOMBSTONE if value is None else _HAS_VALUE) | (_ADRIFT if adrift else 0)
    apart = value is not None and len(value) >= APART
    packed = pack_plain(
        [
            digest,
            claim,
            id,
            _SUCCESS,
            run,
            attempt,
            worker,
            ended_ms,
            ran_s,
            None,
            None,
            flags,
            "",
            b"" if apart else value,
        ]
    )
    return packed[:-2] + b"\xc6" + len(value or b"").to_bytes(4, "big") if apart else packed


def unpack_outcome(data: bytes) -> Outcome:
    """Return the outcome that `pack_outcome` made these bytes of, its value or error still packed.

    Raises:
        DecodeError: they are not what `pack_outcome` makes.
    """
    return _outcome_of(unpack_plain(data))


def pack_hint(id: str) -> bytes:  # noqa: A002 - the public word
    """Return what is pushed to a client in place of an outcome larger than PUSH_MAX: the full id, to be fetched."""
    return pack_plain(id)


def read_pushed(data: bytes) -> list[Outcome | str | Told]:
    """Return what one message to a client's inbox holds: outcomes, full ids whose outcomes are to be fetched, and what
    running tasks told of themselves.

    Raises:
        DecodeError: it is not a concatenation of these.
    """
    found: list[Outcome | str | Told] = []
    try:
        unpacker = msgpack.Unpacker(ext_hook=_refuse_extension, strict_map_key=False, max_buffer_size=len(data) or 1)
        unpacker.feed(data)
        while unpacker.tell() < len(data):
            entry = unpacker.unpack()
            if type(entry) is not dict:
                found.append(entry if type(entry) is str else _outcome_of(entry))
            elif (told := read_told(entry)) is not None:
                found.append(told)
    except DecodeError:
        raise
    except Exception as error:  # as in values.unpack_plain
        raise DecodeError(f"cannot decode a message to a client: {type(error).__name__}") from error
    return found


def _refuse_extension(code: int, _data: bytes) -> object:
    raise DecodeError(f"cannot decode an outcome: it holds extension type {code}")


def _outcome_of(fields: Any) -> Outcome:
    if type(fields) is not list or not 14 <= len(fields) <= 15:
        raise DecodeError("cannot decode an outcome: not one of a version that is known here")
    shielded_s, flight = _seen_of(fields.pop()) if len(fields) == 15 else (None, ())
    digest, claim, full, codes, run, attempt, worker, ended, ran, asked, took, flags, reason, payload = fields
    kind = _KINDS.get(codes) if type(codes) is str else None
    if not (
        kind is not None
        and type(digest) is bytes
        and type(claim) is str
        and type(full) is str
        and type(run) is int
        and type(attempt) is int
        and type(worker) is str
        and type(ended) is int
        and (ran is None or type(ran) is float)
        and (asked is None or type(asked) is float)
        and (took is None or type(took) is float)
        and type(flags) is int
        and type(reason) is str
        and (payload is None or type(payload) is bytes)
    ):
        raise DecodeError("cannot decode an outcome: a field is of the wrong type")
    return Outcome(
        full,
        kind[0],
        kind[1],
        run,
        attempt,
        "" if claim in (_NO_CLAIM, _ADRIFT_CLAIM) else claim,
        digest,
        worker,
        ended,
        ran,
        asked,
        took,
        flags & _STILL_RUNNING != 0,
        reason,
        payload if flags & _HAS_VALUE else None,
        payload if flags & _HAS_ERROR else None,
        flags & _TOMBSTONE != 0,
        shielded_s,
        flight,
        flags & _ADRIFT != 0 or claim == _ADRIFT_CLAIM,
    )


def _seen_of(fields: Any) -> tuple[float | None, tuple[Sighting, ...]]:
    """Read the part of an outcome that only those have that were asked to end."""
    try:
        shielded_s, flight = fields
        sightings = tuple(
            Sighting(
                str(why),
                float(ran_s),
                str(stack),
                None if progress is None else (float(progress[0]), _float_or_none(progress[1]), str(progress[2])),
                tuple(str(line) for line in lines),
            )
            for why, ran_s, stack, progress, lines in flight
        )
        return _float_or_none(shielded_s), sightings
    except Exception as error:  # as in values.unpack_plain: what was nested a thousand levels cannot even be shown
        raise DecodeError("cannot decode an outcome: a field is of the wrong type") from error


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)
