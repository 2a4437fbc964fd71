"""What is stored and sent, as bytes: tasks (blobs), outcomes, and through `values` and `faults` what is in them.

    blob:     digest 8 │ line 1 │ client 12 │ sent_ms 8 │ header length 2 │ header │ body
    outcome:  [digest, claim, id, codes, run, attempt, worker, ended_ms, ran_s, asked_after_s, took_s, flags, reason,
               value or error, what was seen of it (only if it was asked to end)]

Scripts compare the first bytes of both at fixed places and decode nothing. A worker reads headers, never bodies. A
header is the same bytes for all tasks of a kind, so reading it is a look-up. Everything here is called once per task
on its way, so the functions are short and flat; the layout is in `docs/architecture.md`.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .errors import DecodeError, TaskTooLarge
from .faults import RemoteTraceback, describe_error, pack_error, rebuild_error, unpack_error
from .model import POOL_NEEDS, PRIORITIES, Envelope, Header, Line
from .outcome_bytes import APART, PUSH_MAX, pack_hint, pack_outcome, pack_success, read_pushed, unpack_outcome
from .told import pack_told, unpack_told
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

if TYPE_CHECKING:
    from hashlib import blake2b

__all__ = [
    "APART",
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
    "pack_success",
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
NOBODY = " " * 12

_HEADER_VERSION = 2
# What a header of this version means where it says nothing: part of the format, whatever new tasks default to. A header
# is version, name, and for each other field its place here and its value: 13 bytes instead of 48 for a plain task.
_UNSAID: tuple[Any, ...] = (1_800_000, 5_000, 0, 1_000, True, None, 3_600_000, "at_least_once", 3, {})
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
    fields = (
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
    )
    told = [part for n, field in enumerate(fields) if field != _UNSAID[n] for part in (n, field)]
    packed = pack_plain([_HEADER_VERSION, header.name, *told])
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
    if type(fields) is not list or len(fields) < 2 or len(fields) % 2 or fields[0] != _HEADER_VERSION:
        raise DecodeError(
            f"cannot decode the header of a task: not of version {_HEADER_VERSION}, the one that is known here"
        )
    _, name, *told = fields
    found: list[Any] = [*_UNSAID]
    for n, field in zip(told[0::2], told[1::2], strict=False):
        if type(n) is not int or not 0 <= n < len(found):
            raise DecodeError("cannot decode the header of a task: it has a field that is not known here")
        found[n] = field
    timeout, grace, retries, backoff, jitter, retry_for, ttl, delivery, crashes, extra = found
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


def pack_envelope(
    header: bytes, body: bytes, line: Line, client: str, sent_ms: int, core: bytes = b"", *, apart: bool = False
) -> bytes:
    """Return a task as it is stored. `client` is 12 characters: whose inbox is told of its end, or NOBODY.

    `apart`: the body follows, and is left out here.
    `core`: the header without the task's place in a tree of tasks. A parent that is run again submits the same tasks
    from another group: so that place is no part of what the digest stands for.
    """
    hasher = _hasher(core or header).copy()
    hasher.update(body)
    head = _HEAD.pack(_LINE_CODES[line], client.encode("ascii"), sent_ms, len(header))
    return b"".join((hasher.digest(), head, header) if apart else (hasher.digest(), head, header, body))


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
        body=bytes(body_of(blob)),
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
    known = _clients.get(client)
    if known is None:
        if len(client) != 12 or not client.isascii():
            raise DecodeError(f"cannot decode a task: {client!r} is no client id")
        if len(_clients) >= _MAX_CACHED:
            _clients.clear()
        known = _clients[client] = client.decode("ascii")
    return known


_clients: dict[bytes, str] = {}


def sent_ms_of(blob: bytes) -> int:
    """Return when a task was sent, by the producer's estimate of the server's clock. For display only."""
    return int.from_bytes(blob[21:29])


def body_of(blob: bytes) -> bytes | memoryview:
    """Return the packed arguments of a task; of a large one they are not copied."""
    begin = PREFIX + int.from_bytes(blob[29:31])
    return blob[begin:] if len(blob) < APART else memoryview(blob)[begin:]


_LINES: dict[bytes, Line] = {
    line.code.encode(): line for line in (Line(pool, priority) for pool in POOL_NEEDS for priority in PRIORITIES)
}
_LINE_CODES: dict[Line, bytes] = {line: code for code, line in _LINES.items()}


@lru_cache(256)
def _hasher(header: bytes) -> blake2b:
    """What hashes header and body, with the header done: that is the same for all tasks of a kind."""
    # hashlib brings in OpenSSL, 4 MiB that a child never needs: imported by the first submit.
    from hashlib import blake2b

    return blake2b(header, digest_size=8, usedforsecurity=False)
