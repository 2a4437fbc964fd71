"""What running tasks tell of themselves, as bytes.

    current.progress ─► page ─► worker ── pack_told ─► renew.lua ─┬─► kept while the task lives ─► unpack_told
                                                                  └─► the client's inbox ─► codec.read_pushed

The bytes that are kept are those that are pushed: a map, so that they are told apart from outcomes and ids, with one
key for what it is; who meets a key that it does not know passes it over.
"""

from __future__ import annotations

from typing import Any

from .errors import DecodeError
from .model import Progress, Told
from .values import pack_plain, unpack_plain

__all__ = ["pack_told", "read_told", "unpack_told"]

_PROGRESS = "p"


def pack_told(told: Told) -> bytes:
    """Return what a task told, as bytes."""
    progress = None if told.progress is None else [*told.progress]
    return pack_plain({_PROGRESS: [told.id, progress, [*told.lines]]})


def unpack_told(data: bytes) -> Told | None:
    """Return what `pack_told` made these bytes of; None for what a later version tells.

    Raises:
        DecodeError: they are not what `pack_told` makes.
    """
    return read_told(unpack_plain(data))


def read_told(fields: Any) -> Told | None:
    """As `unpack_told`, of what was decoded already."""
    if type(fields) is not dict:
        raise DecodeError("cannot decode what a task told: it is no map")
    if _PROGRESS not in fields:
        return None
    try:
        id_, progress, lines = fields[_PROGRESS]
        if type(id_) is not str:
            raise TypeError("its id is no text")
        if progress is not None:
            done, total, text = progress
            progress = Progress(float(done), None if total is None else float(total), str(text))
        return Told(id_, progress, tuple(str(line) for line in lines))
    except Exception as error:  # as in values.unpack_plain
        raise DecodeError(f"cannot decode what a task told: {type(error).__name__}: {error}") from error
