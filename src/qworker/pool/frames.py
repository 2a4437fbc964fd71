"""What travels between a worker and a child, there on a socket and back on a pipe: msgpack arrays, one after the other.

    worker ──► [ORDER, number, id, …, blob]  [MOVE, …]                        ──► child
    worker ◄── [OUTCOME, number, kind, …]  [OUTPUT, …]  [READY]  [GONE, …]    ◄── child

A frame ends where its array ends, so any number of them goes through one send. The worker trusts none of it: user
code shares the child's file descriptors, and what cannot be read makes that child a dead one, nothing more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from typing import Any, Final

import msgpack

from ..model import EndingKind, Order

# worker → child
ORDER: Final = 0
MOVE: Final = 1  # [MOVE, number, fresh slot]: the attempt is a survivor; open the fresh slot (None: none) in its stead
FLAG: Final = 2  # [FLAG, number]: the attempt's flag is raised; to an async child, whose loop would have to look for it
LOOK: Final = 3  # [LOOK, number]: tell where the attempt waits; to an async child

# child → worker
OUTCOME: Final = 0
READY: Final = 1  # [READY]: hooks done, slots wait
FAILED: Final = 2  # [FAILED, text]: a start hook or the import failed
OUTPUT: Final = 3  # [OUTPUT, number, stream, text, fields]
GONE: Final = 4  # [GONE, number]: a survivor's code has ended
WAITING: Final = 5  # [WAITING, number, ids, more]: the attempt waits for these (more: too), and lends its slot
RESUMED: Final = 6  # [RESUMED, number]: it waits no longer
CURSOR: Final = 7  # [CURSOR, number, cursor]: how far `current.iterate` has come
GROUP: Final = 8  # [GROUP, number, id, opened]: the attempt opened a group, or left its block
PROGRESS: Final = 9  # [PROGRESS, number, slot]: from now on that slot's cells tell of the attempt's progress
STACK: Final = 10  # [STACK, number, text]: where the attempt, a coroutine, waits

# Order of the kinds on the wire; only a child tells these.
KINDS: Final[tuple[EndingKind, ...]] = ("returned", "raised", "retry", "interrupted", "refused", "unstarted", "thrown")
RETURNED, RAISED, RETRY, INTERRUPTED, REFUSED, UNSTARTED, THROWN = range(7)

# What the fields of these frames are, after the kind.
_TYPES: Final[dict[int, list[type]]] = {
    WAITING: [int, list, bool],
    RESUMED: [int],
    CURSOR: [int, bytes],
    GROUP: [int, str, bool],
    PROGRESS: [int, int],
    STACK: [int, str],
}

_NONE: Final = type(None)
_OUTCOME_TYPES: Final = {
    (int, int, int, ran, retryable, delay, bytes)
    for ran in (float, _NONE)
    for retryable in (bool, _NONE)
    for delay in (float, _NONE)
}

LONGEST_S: Final = 100 * 366 * 86_400.0  # a time that anything took or is to wait; none is negative, or no number
_GROUP: Final = re.compile(r"g-[A-Za-z0-9_.=@+-]{1,62}")

# A body and a value may have 1 MiB each; names, ids and error texts come on top.
_LARGEST: Final = 4 * 1024 * 1024
_CHUNK: Final = 256 * 1024
_BUFFER: Final = 64 * 1024  # to begin with; a MiB each, if it is not said, makes holes as children come and go
PIPE: Final = 64 * 1024  # what a pipe holds
ENLARGED: Final = 256 * 1024  # and that of a child that says more at once

APART: Final = 65_536  # bytes from which on a body or value is handed on as it is, not copied into its frame
BIN32: Final = b"\xc6"  # begins msgpack's bytes of any length, which four bytes tell

_OF_ORDER: Final = 11  # so many of its fields are the child's: number to timeout_s

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)
_pack, _array_head = _packer.pack, _packer.pack_array_header


class BrokenStream(Exception):
    """What came is not what the other side writes."""


def pack_order(order: Order) -> bytes:
    """Pack an order for a child: what it runs, and what `current` shows of it."""
    return _pack((ORDER, *order[:_OF_ORDER]))  # type: ignore[no-any-return]


def pack_large_order(order: Order) -> tuple[bytes, bytes, bytes]:
    """As `pack_order`, in pieces: the second is the blob, which is not copied."""
    number, id_, blob = order[:3]
    head = _array_head(1 + _OF_ORDER) + _pack(ORDER) + _pack(number) + _pack(id_)
    return head + BIN32 + len(blob).to_bytes(4, "big"), blob, b"".join(map(_pack, order[3:_OF_ORDER]))


def pack_outcome(number: int, told: tuple[int, bytes, float | None, bool, float | None]) -> tuple[bytes, ...]:
    """Pack the outcome of an attempt; a large payload stays apart, so that it is not copied."""
    kind, payload, ran_s, retryable, delay_s = told
    if len(payload) < APART:
        return (_pack((OUTCOME, number, kind, ran_s, retryable, delay_s, payload)),)
    head = _pack((OUTCOME, number, kind, ran_s, retryable, delay_s, b""))
    return head[:-2] + BIN32 + len(payload).to_bytes(4, "big"), payload


def pack_frame(*fields: object) -> bytes:
    """Pack any other frame."""
    return _pack(fields)  # type: ignore[no-any-return]


class Frames:
    """The receiving side of one stream: bytes in, whole frames out."""

    def __init__(self) -> None:
        # Twice the largest, because the buffer may hold one whole frame and the beginning of the next.
        self._unpacker = msgpack.Unpacker(
            max_buffer_size=2 * _LARGEST + _CHUNK, max_bin_len=_LARGEST, max_str_len=_LARGEST, strict_map_key=False,
            read_size=_BUFFER,
        )  # fmt: skip

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """Yield the frames that `data` completes.

        Raises:
            BrokenStream: it holds something else.
        """
        try:
            self._unpacker.feed(data)
            for frame in self._unpacker:
                if type(frame) is not list or not frame:
                    raise BrokenStream(f"expected a frame, got {type(frame).__name__}")
                yield frame
        except (ValueError, TypeError, msgpack.BufferFull, RecursionError) as error:
            raise BrokenStream(f"not a frame: {type(error).__name__}: {error}") from error


def checked(frame: list[Any]) -> list[Any]:
    """Return a frame from a child, if it is one that children write.

    Raises:
        BrokenStream: it is not.
    """
    if not _is_well_formed(frame):
        kind = frame[0] if type(frame[0]) is int else f"a {type(frame[0]).__name__}"
        raise BrokenStream(f"no frame of ours: kind {kind}, {len(frame)} fields")
    return frame


def _is_well_formed(frame: list[Any]) -> bool:
    if frame[0] == OUTCOME:
        if tuple(map(type, frame)) not in _OUTCOME_TYPES or not 0 <= frame[2] < len(KINDS):
            return False
        ran_s, delay_s = frame[3], frame[5]
        return (ran_s is None or 0 <= ran_s <= LONGEST_S) and (delay_s is None or 0 <= delay_s <= LONGEST_S)
    if frame[0] == OUTPUT:
        types = [type(field) for field in frame[1:]]
        if types[:3] != [int, str, str] or types[3:] not in ([dict], [_NONE]):
            return False
        return frame[4] is None or type(frame[4].get("level", "")) is str
    if frame[0] == GONE:
        return len(frame) == 2 and type(frame[1]) is int
    if frame[0] == FAILED:
        return len(frame) == 2 and type(frame[1]) is str
    if type(frame[0]) is int and frame[0] in _TYPES:
        if [type(field) for field in frame[1:]] != _TYPES[frame[0]]:
            return False
        if frame[0] == GROUP:  # it becomes a part of keys
            return _GROUP.fullmatch(frame[2]) is not None
        return frame[0] != WAITING or all(type(task) is str for task in frame[2])
    return frame == [READY]


def receive(pipe: int) -> bytes | None:
    """Read what is there; None when nothing is, b"" when everybody who could write is gone."""
    try:
        return os.read(pipe, PIPE)
    except BlockingIOError:
        return None


def enlarge(pipe: int) -> None:
    """Let a pipe hold more, where the system knows how to and has not given its user too much of that already."""
    with contextlib.suppress(OSError, AttributeError):
        if fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ) < ENLARGED:
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, ENLARGED)
