"""What is stored and sent, as bytes: tasks (blobs), outcomes, and through `values` and `faults` what is in them.

    blob:     digest 8 │ line 1 │ client 12 │ sent_ms 8 │ header length 2 │ header │ body
    outcome:  [digest, claim, id, codes, run, attempt, worker, ended_ms, ran_s, asked_after_s, took_s, flags, reason,
               value or error]

Scripts compare the first bytes of both at fixed places and decode nothing. A worker reads headers, never bodies. A
header is the same bytes for all tasks of a kind, so reading it is a look-up. Everything here is called once per task
on its way, so the functions are short and flat; the layout is in `docs/architecture.md`.
"""

from __future__ import annotations

from struct import Struct
from types import MappingProxyType
from typing import Any

import msgpack

from .errors import DecodeError, TaskTooLarge
from .faults import RemoteTraceback, describe_error, pack_error, rebuild_error, unpack_error
from .lifecycle import LIVE, STATE_OF, How
from .model import POOL_NEEDS, PRIORITIES, Envelope, Header, Line, Outcome, Sighting, Told
from .told import pack_told, read_told, unpack_told
from .values import (
    MAX_BODY,
    MAX_DEPTH,
    pack_body,
    pack_plain,
    pack_value,
    unpack_body,
    unpack_plain,
    unpack_value,
)

__all__ = [
    "MAX_BODY",
    "MAX_DEPTH",
    "NOBODY",
    "PREFIX",
    "PUSH_MAX",
    "RemoteTraceback",
    "body_of",
    "client_of",
    "describe_error",
    "digest_of",
    "line_of",
    "pack_body",
    "pack_envelope",
    "pack_error",
    "pack_header",
    "pack_hint",
    "pack_outcome",
    "pack_told",
    "pack_value",
    "read_envelope",
    "read_header",
    "read_pushed",
    "rebuild_error",
    "sent_ms_of",
    "unpack_body",
    "unpack_error",
    "unpack_outcome",
    "unpack_told",
    "unpack_value",
]

PREFIX = 31
PUSH_MAX = 4096  # a larger outcome is not pushed to its client, only its id is
NOBODY = " " * 12

_HEADER_VERSION = 1
_OUTCOME_VERSION = "1"
_NO_CLAIM = "-" * 12
_MAX_CACHED = 1024
_MAX_HEADER = 0xFFFF
_MAX_COUNT = 1 << 53  # what scripts, which count in doubles, and the server's PX still hold

_HEAD = Struct(">c12sQH")  # what follows the digest in a blob


# ── headers ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_header(header: Header) -> bytes:
    """Return a header as bytes; equal headers give equal bytes.

    Raises:
        TaskTooLarge: it is larger than 64 KiB.
    """
    packed = pack_plain(
        [
            _HEADER_VERSION,
            header.name,
            header.timeout_ms,
            header.grace_ms,
            header.retries,
            header.backoff_ms,
            header.jitter,
            None if header.retry_for is None else [*header.retry_for],
            header.result_ttl_ms,
            header.delivery,
            header.max_crashes,
            {**header.extra},
        ]
    )
    if len(packed) > _MAX_HEADER:
        raise TaskTooLarge(
            f"cannot encode the options of a task: {len(packed):,} bytes, and {_MAX_HEADER:,} is the limit"
        )
    return packed


def read_header(blob: bytes) -> Header:
    """Return the header of a task. Cached by its bytes: a worker reads the same few again and again.

    Raises:
        DecodeError: the blob is none, or its header is of a version that is not known here.
    """
    # The length is part of the key, so a blob that was cut short cannot find another header.
    key = blob[29 : PREFIX + int.from_bytes(blob[29:31])]
    header = _headers.get(key)
    if header is None:
        header = _decode_header(blob, key)
        if len(_headers) >= _MAX_CACHED:  # headers with a trace context are all different
            _headers.clear()
        _headers[key] = header
    return header


_headers: dict[bytes, Header] = {}


def _decode_header(blob: bytes, key: bytes) -> Header:
    if len(key) != 2 + int.from_bytes(blob[29:31]) or len(blob) < PREFIX:
        raise DecodeError(f"cannot decode a task of {len(blob)} bytes: it is cut short")
    fields = unpack_plain(key[2:])
    if type(fields) is not list or len(fields) != 12 or fields[0] != _HEADER_VERSION:
        raise DecodeError(
            f"cannot decode the header of a task: not of version {_HEADER_VERSION}, the one that is known here"
        )
    _, name, timeout, grace, retries, backoff, jitter, retry_for, ttl, delivery, crashes, extra = fields
    counts = (
        (grace, retries, backoff, ttl, crashes) if timeout is None else (timeout, grace, retries, backoff, ttl, crashes)
    )
    if not (
        type(name) is str
        and all(type(count) is int and 0 <= count <= _MAX_COUNT for count in counts)
        and type(jitter) is bool
        and (retry_for is None or (type(retry_for) is list and all(type(kind) is str for kind in retry_for)))
        and delivery in ("at_least_once", "at_most_once")
        and type(extra) is dict
        and _is_extra(extra)
    ):
        raise DecodeError("cannot decode the header of a task: a field is of the wrong type or out of all range")
    return Header(
        name=name,
        timeout_ms=timeout,
        grace_ms=grace,
        retries=retries,
        backoff_ms=backoff,
        jitter=jitter,
        retry_for=None if retry_for is None else tuple(retry_for),
        result_ttl_ms=ttl,
        delivery=delivery,
        max_crashes=crashes,
        extra=MappingProxyType(extra),  # shared by all who read this header
    )


def _is_extra(extra: dict[Any, Any]) -> bool:
    groups, parent, depth = extra.get("g", []), extra.get("p", ""), extra.get("d", 0)
    return (
        type(groups) is list
        and all(type(group) is str for group in groups)
        and type(parent) is str
        and type(depth) is int
        and type(extra.get("i", False)) is bool
    )


# ── blobs ────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_envelope(*, header: bytes, body: bytes, line: Line, client: str, sent_ms: int, core: bytes = b"") -> bytes:
    """Return a task as it is stored. `client` is 12 characters: whose inbox is told of its end, or NOBODY.

    `core`: the header without the task's place in a tree of tasks. A parent that is run again submits the same tasks
    from another group: so that place is no part of what the digest stands for.
    """
    content = header + body
    digest = _digest(core + body if core else content)
    return digest + _HEAD.pack(_LINE_CODES[line], client.encode("ascii"), sent_ms, len(header)) + content


def read_envelope(blob: bytes) -> Envelope:
    """Return all of a stored task, its body still packed.

    Raises:
        DecodeError: the blob is not what `pack_envelope` makes.
    """
    header = read_header(blob)
    return Envelope(
        digest=digest_of(blob),
        line=line_of(blob),
        client=client_of(blob),
        sent_ms=sent_ms_of(blob),
        header=header,
        body=body_of(blob),
    )


def digest_of(blob: bytes) -> bytes:
    """Return the 8 bytes that stand for the content of a task: same id and digest is the same task."""
    return blob[:8]


def line_of(blob: bytes) -> Line:
    """Return the line that a task belongs to."""
    line = _LINES.get(blob[8:9])
    if line is None:
        raise DecodeError(f"cannot decode a task: {blob[8:9]!r} stands for no line")
    return line


def client_of(blob: bytes) -> str:
    """Return the 12 characters of the client that is to be told of a task's end; spaces: nobody."""
    client = blob[9:21]
    if len(client) != 12 or not client.isascii():
        raise DecodeError(f"cannot decode a task: {client!r} is no client id")
    return client.decode("ascii")


def sent_ms_of(blob: bytes) -> int:
    """Return when a task was sent, by the producer's estimate of the server's clock. For display only."""
    return int.from_bytes(blob[21:29])


def body_of(blob: bytes) -> bytes:
    """Return the packed arguments of a task."""
    return blob[PREFIX + int.from_bytes(blob[29:31]) :]


_LINES: dict[bytes, Line] = {
    line.code.encode(): line for line in (Line(pool, priority) for pool in POOL_NEEDS for priority in PRIORITIES)
}
_LINE_CODES: dict[Line, bytes] = {line: code for code, line in _LINES.items()}


def _digest(content: bytes) -> bytes:
    # hashlib brings in OpenSSL, 4 MiB that a child never needs: imported by the first submit, which rebinds the name.
    from hashlib import blake2b

    def digest(content: bytes) -> bytes:
        return blake2b(content, digest_size=8, usedforsecurity=False).digest()

    globals()["_digest"] = digest
    return digest(content)


# ── outcomes ─────────────────────────────────────────────────────────────────────────────────────────────────────

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
_KINDS = {codes: kind for kind, codes in _CODES.items()}
_STILL_RUNNING, _TOMBSTONE, _HAS_VALUE, _HAS_ERROR = 1, 2, 4, 8


def pack_outcome(outcome: Outcome) -> bytes:
    """Return an outcome as bytes: a msgpack array whose first elements lie at fixed places."""
    payload = outcome.value
    flags = outcome.still_running | outcome.tombstone << 1
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
        "" if claim == _NO_CLAIM else claim,
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
    except (TypeError, ValueError, IndexError) as error:
        raise DecodeError("cannot decode an outcome: a field is of the wrong type") from error


def _float_or_none(value: Any) -> float | None:
    return None if value is None else float(value)
