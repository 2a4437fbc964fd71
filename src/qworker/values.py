"""Values as bytes: msgpack, and extension types for what Python has beside it.

    arguments ── pack_body ──► body ── unpack_body ──► arguments        (producer → child)
    value ────── pack_value ─► bytes ── unpack_value ─► value           (child → caller)

Called by producers, children and callers; never by a worker, which leaves bodies alone. The rule is that a value
arrives as it was, or is refused at once with the path to what is wrong: a subclass, an enum member or a named tuple
would arrive as something else, so it is refused. (`bytearray` and `memoryview` arrive as `bytes`.)

Bytes may come from anybody who can write to Redis. Whatever they are, reading them raises nothing but DecodeError,
and needs little stack: a nested extension is read by an `Unpacker`, which lives on the heap, because `unpackb` takes
40 KiB of C stack per level and a hundred of those overflow a thread's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, timedelta, timezone, tzinfo
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import msgpack

from .errors import DecodeError, NotEncodable, Refused, TaskTooLarge

if TYPE_CHECKING:
    from decimal import Decimal
    from uuid import UUID

__all__ = [
    "MAX_BODY",
    "MAX_DEPTH",
    "pack_body",
    "pack_plain",
    "pack_value",
    "unpack_body",
    "unpack_plain",
    "unpack_value",
]

MAX_BODY = 1024 * 1024
MAX_DEPTH = 100

# Extension types. A code never changes its meaning: another form of the same type gets another code.
TUPLE, SET, FROZENSET, DATETIME, DATE, TIMEDELTA, DECIMAL, UUID_ = range(1, 9)

_NESTS = frozenset({list, dict, tuple, set, frozenset})
_PLAIN = frozenset({type(None), bool, float, bytes, bytearray, memoryview})
_KEEP_PACKER_BELOW = 64 * 1024
_NONE = b"\xc0"


# ── packing ──────────────────────────────────────────────────────────────────────────────────────────────────────


def pack_value(value: object) -> bytes:
    """Pack one value, such as what a task returned.

    Raises:
        NotEncodable: something in it cannot be carried; the message has the path to it.
        TaskTooLarge: it is larger than 1 MiB or nested deeper than 100.
    """
    if value is None:
        return _NONE  # what most tasks return
    try:
        packed = _pack(value, _OUTER, _extend_outer)
    except _PACK_FAULTS as error:
        _explain(value, (("value", value),), error)
    if len(packed) > MAX_DEPTH:  # each level takes a byte, so a short value cannot be deep
        _check_limits(packed, value, "value")
    return packed


def pack_body(args: Iterable[object], kwargs: Mapping[str, object]) -> bytes:
    """Pack the arguments of a call: a msgpack array of the positional and the named ones.

    Raises:
        NotEncodable: something in them cannot be carried; the message has the path to it.
        TaskTooLarge: they are larger than 1 MiB or nested deeper than 100.
    """
    body = [[*args], {**kwargs}]
    try:
        packed = _pack(body, _OUTER, _extend_outer)
    except _PACK_FAULTS as error:
        _explain(body, (("args", body[0]), ("kwargs", body[1])), error)
    if len(packed) > MAX_DEPTH:
        _check_limits(packed, body, "arguments", framing=2)
    return packed


def pack_plain(value: object) -> bytes:
    """Pack what qworker itself writes around values: only lists, dicts, text, bytes, numbers and None."""
    return _pack(value, _OUTER, _extend_outer)


def _pack(value: object, idle: list[msgpack.Packer], default: Callable[[object], object]) -> bytes:
    # A Packer has one buffer, so it must not be entered twice: not by another thread while `default` runs, not by a
    # finalizer that submits a task in the middle of packing. It is off the list for as long as it packs (pop and
    # append are atomic), and left to the garbage collector after an error or when its buffer has grown.
    try:
        packer = idle.pop()
    except IndexError:
        packer = msgpack.Packer(default=default, strict_types=True, buf_size=1024)
    packed: bytes = packer.pack(value)
    if len(packed) < _KEEP_PACKER_BELOW:
        idle.append(packer)
    return packed


_OUTER: list[msgpack.Packer] = []
_INNER: list[msgpack.Packer] = []
# What msgpack and the encoders below raise: wrong type, integer beyond 64 bits, lone surrogate, too deep for msgpack,
# changed by another thread while it was packed. RecursionError is a RuntimeError.
_PACK_FAULTS = (TypeError, ValueError, OverflowError, RuntimeError, AttributeError, Refused)


def _extend_outer(value: object) -> msgpack.ExtType:
    # The depth is checked before the first extension that nests, because packing those is recursive.
    if type(value) in _NESTS and _is_deep(value, MAX_DEPTH):
        raise TaskTooLarge("nested deeper than 100")
    return _extend_inner(value)


def _extend_inner(value: object) -> msgpack.ExtType:
    """Turn a value that msgpack does not know into an extension; called by the Packer."""
    kind = type(value)
    encode = _ENCODERS.get(kind)
    if encode is None:
        encode = _late_encoder(kind)
    code, data = encode(value)
    return msgpack.ExtType(code, data)


def _inner(value: object) -> bytes:
    return _pack(value, _INNER, _extend_inner)


def _encode_set(value: frozenset[object] | set[object]) -> bytes:
    # Sorted by their bytes: the order of a set depends on the process, and equal content must have an equal digest.
    members = sorted(map(_inner, value))
    head: bytes = msgpack.Packer(autoreset=True, buf_size=64).pack_array_header(len(members))
    return head + b"".join(members)


def _encode_datetime(value: datetime) -> bytes:
    zone = value.tzinfo
    offset = value.utcoffset()
    if zone is None or offset is None:
        raise NotEncodable(f"a datetime without a time zone ({value}): give it one, for example datetime.now(UTC)")
    key = getattr(zone, "key", None)  # zoneinfo's
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    micros = offset // timedelta(microseconds=1)
    return _inner([naive, micros, key if isinstance(key, str) else None, value.fold])


def _encode_timedelta(value: timedelta) -> bytes:
    return _inner([value.days, value.seconds, value.microseconds])


_ENCODERS: dict[type, Callable[[Any], tuple[int, bytes]]] = {
    tuple: lambda value: (TUPLE, _inner([*value])),
    set: lambda value: (SET, _encode_set(value)),
    frozenset: lambda value: (FROZENSET, _encode_set(value)),
    datetime: lambda value: (DATETIME, _encode_datetime(value)),
    date: lambda value: (DATE, value.isoformat().encode()),
    timedelta: lambda value: (TIMEDELTA, _encode_timedelta(value)),
}


def _late_encoder(kind: type) -> Callable[[Any], tuple[int, bytes]]:
    # Decimal and UUID are recognised by name: importing their modules would cost each child a megabyte for nothing.
    name = f"{kind.__module__}.{kind.__qualname__}"
    encode: Callable[[Any], tuple[int, bytes]]
    if name == "decimal.Decimal":
        encode = lambda value: (DECIMAL, str(value).encode())  # noqa: E731
    elif name == "uuid.UUID":
        encode = lambda value: (UUID_, value.bytes)  # noqa: E731
    else:
        raise NotEncodable(_describe(kind))
    _ENCODERS[kind] = encode
    return encode


def _is_deep(value: object, limit: int) -> bool:
    """Say whether containers nest deeper than `limit`; level by level, so that no depth can overflow a stack."""
    level = [value]
    for _ in range(limit + 1):
        below: list[object] = []
        for container in level:
            if isinstance(container, dict):
                below += container.values()
                if not _NESTS.isdisjoint(map(type, container)):
                    below += container
            else:
                below += container  # type: ignore[arg-type]
        if _NESTS.isdisjoint(map(type, below)):
            return False
        level = [item for item in below if type(item) in _NESTS]
    return True


def _check_limits(packed: bytes, value: object, what: str, *, framing: int = 0) -> None:
    if len(packed) > MAX_BODY:
        raise TaskTooLarge(
            f"cannot encode the {what}: {len(packed):,} bytes, and {MAX_BODY:,} is the limit; "
            "keep large data in a file or a store and pass its name"
        )
    if type(value) in _NESTS and _is_deep(value, MAX_DEPTH + framing - 1):
        raise _too_deep(what)


def _too_deep(what: str) -> TaskTooLarge:
    return TaskTooLarge(f"cannot encode the {what}: nested deeper than {MAX_DEPTH}; pass it in a flatter form")


def _explain(value: object, roots: Iterable[tuple[str, object]], error: BaseException) -> NoReturn:
    """Raise what is wrong with a value that could not be packed, with the path to it."""
    framing, what = (2, "arguments") if len(tuple(roots)) > 1 else (0, "value")
    if type(value) in _NESTS and _is_deep(value, MAX_DEPTH + framing - 1):
        raise _too_deep(what) from None
    for path, root in roots:
        found = _find_fault(root, path)
        if found is not None:
            raise NotEncodable(f"cannot encode {found[0]}: {found[1]}") from None
    raise NotEncodable(f"cannot encode the {what}: {error}") from error


def _find_fault(value: object, path: str) -> tuple[str, str] | None:
    kind = type(value)
    if kind in _PLAIN:
        return None
    if kind is dict:
        assert isinstance(value, dict)
        for key, item in value.items():
            found = _find_fault(key, f"the key {_short(key)} of {path}") or _find_fault(item, f"{path}[{_short(key)}]")
            if found is not None:
                return found
        return None
    if kind in _NESTS:
        for index, item in enumerate(value):  # type: ignore[arg-type]
            found = _find_fault(item, f"{path}[{index}]" if kind in (list, tuple) else f"an element of {path}")
            if found is not None:
                return found
        return None
    try:
        _inner(value)
    except UnicodeEncodeError:
        return path, "text with a lone surrogate, which has no UTF-8 form"
    except OverflowError:
        return path, "an integer beyond 64 bits; pass it as text"
    except NotEncodable as error:
        return path, "an integer beyond 64 bits; pass it as text" if kind is int else str(error)
    except Exception as error:
        return path, f"a {kind.__qualname__} ({error})"
    return None


def _describe(kind: type) -> str:
    """Say what a refused type is, and what to pass instead."""
    for base, advice in (
        (tuple, "pass tuple(…) of it, or a dict"),
        (dict, "pass dict(…) of it"),
        (str, "pass str(…) of it, or .value of an enum"),
        (int, "pass int(…) of it, or .value of an enum"),
        (list, "pass list(…) of it"),
        (datetime, "pass a datetime itself"),
    ):
        if issubclass(kind, base):
            return f"{_article(kind)} is a subclass of {base.__name__} and would arrive as something else; {advice}"
    return f"{_article(kind)} cannot be carried as msgpack; pass plain data, or the name of where it is"


def _article(kind: type) -> str:
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    return f"an {name}" if name[:1].lower() in "aeiou" else f"a {name}"


def _short(key: object) -> str:
    text = ascii(key) if isinstance(key, (str, int, bytes)) else type(key).__name__
    return text if len(text) <= 40 else text[:37] + "..."


# ── unpacking ────────────────────────────────────────────────────────────────────────────────────────────────────


def unpack_value(data: bytes | memoryview) -> Any:
    """Return the value that `pack_value` made these bytes of.

    Raises:
        DecodeError: they are not what `pack_value` makes.
    """
    if len(data) > MAX_BODY:
        raise DecodeError(f"cannot decode a value of {len(data):,} bytes: {MAX_BODY:,} is the limit")
    return unpack_plain(data)


def unpack_body(data: bytes | memoryview) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments that `pack_body` made these bytes of.

    Raises:
        DecodeError: they are not what `pack_body` makes.
    """
    body = unpack_value(data)
    if type(body) is list and len(body) == 2:
        args, kwargs = body
        if type(args) is list and type(kwargs) is dict and (not kwargs or all(type(name) is str for name in kwargs)):
            return tuple(args), kwargs
    raise DecodeError("cannot decode the arguments of a task: not a pair of positional and named arguments")


def unpack_plain(data: bytes | memoryview) -> Any:
    """Unpack one msgpack object that fills `data`, without a limit on its size; any fault is a DecodeError."""
    try:
        return msgpack.unpackb(data, ext_hook=_HOOKS[0], strict_map_key=False)
    except DecodeError:
        raise
    except Exception as error:
        # msgpack has five kinds of error for bad bytes, the constructors of values their own, and a hostile one may
        # find another: to the caller all of them are the same fact.
        raise DecodeError(f"cannot decode {len(data):,} bytes: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    text = str(error).splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def _extension(depth: int, code: int, data: bytes) -> object:
    """Make the value of an extension; called by msgpack, with the depth of extensions bound."""
    if code in (TUPLE, SET, FROZENSET, DATETIME, TIMEDELTA):
        items = _nested(depth + 1, data)
        if type(items) is not list:
            raise DecodeError(f"cannot decode extension {code}: not an array")
        if code == TUPLE:
            return tuple(items)
        if code == SET:
            return set(items)
        if code == FROZENSET:
            return frozenset(items)
        return _decode_datetime(*items) if code == DATETIME else timedelta(*_ints(items, 3))
    if code == DATE:
        return date.fromisoformat(data.decode("ascii"))
    if code == DECIMAL:
        return _decode_decimal(data)
    if code == UUID_:
        return _decode_uuid(data)
    raise DecodeError(f"cannot decode extension type {code}: this version of qworker does not know it")


def _nested(depth: int, data: bytes) -> object:
    if depth > MAX_DEPTH:
        raise DecodeError(f"cannot decode a value nested deeper than {MAX_DEPTH}")
    unpacker = msgpack.Unpacker(ext_hook=_HOOKS[depth], strict_map_key=False, max_buffer_size=len(data) or 1)
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise DecodeError("cannot decode an extension: bytes follow its value")
    return value


_HOOKS: tuple[Callable[[int, bytes], object], ...] = tuple(partial(_extension, depth) for depth in range(MAX_DEPTH + 1))


def _decode_datetime(naive: str, offset_us: int, key: str | None, fold: int) -> datetime:
    when = datetime.fromisoformat(naive)
    if when.tzinfo is not None:
        raise DecodeError("cannot decode a datetime: its zone is in the wrong place")
    return when.replace(tzinfo=_zone(offset_us, key), fold=fold)


def _zone(offset_us: int, key: str | None) -> tzinfo:
    offset = timedelta(microseconds=offset_us)
    if key is not None:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # only whoever uses named zones pays for them

        try:
            return ZoneInfo(key)
        except (ZoneInfoNotFoundError, OSError):
            pass  # this host does not know the zone: the same instant at a fixed offset
    return UTC if not offset else timezone(offset)


def _decode_decimal(data: bytes) -> Decimal:
    from decimal import Decimal

    return Decimal(data.decode("ascii"))


def _decode_uuid(data: bytes) -> UUID:
    from uuid import UUID

    return UUID(bytes=bytes(data))


def _ints(items: list[object], count: int) -> list[int]:
    if len(items) != count or not all(type(item) is int for item in items):
        raise DecodeError(f"cannot decode an extension: not {count} integers")
    return items  # type: ignore[return-value]
