"""Values as bytes: what is carried, what is refused and how the refusal reads, and what hostile bytes may do."""

from __future__ import annotations

import enum
import struct
import subprocess
import sys
import threading
from collections import OrderedDict, namedtuple
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import pytest

from qworker.errors import DecodeError, NotEncodable, Refused, TaskTooLarge
from qworker.values import MAX_BODY, pack_body, pack_value, unpack_body, unpack_value


class Colour(enum.IntEnum):
    RED = 1


class Word(str):
    pass


Point = namedtuple("Point", "x y")


def nested(depth: int, kind: type = list) -> object:
    value: object = kind()
    for _ in range(depth - 1):
        value = kind([value])
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(2**63),
        2**64 - 1,
        1.5,
        "text \0 ü 😀",
        b"\xff\0",
        [1, [2]],
        {"a": 1, 2: "b", b"c": None, (1, 2): 3, None: 4},
        (),
        (1, (2, [3])),
        {1, "a", (2,)},
        frozenset({frozenset(), 1}),
        datetime(2026, 3, 29, 2, 30, tzinfo=UTC),
        datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=45, microseconds=7))),
        datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin")),
        datetime.min.replace(tzinfo=UTC),
        date(1, 1, 1),
        timedelta.min,
        timedelta.max,
        Decimal("1.10"),
        Decimal("-Infinity"),
        UUID("12345678123456781234567812345678"),
    ],
    ids=lambda value: type(value).__name__,  # the repr of a set differs from process to process
)
def test_a_value_arrives_as_what_it_was(value):
    back = unpack_value(pack_value(value))

    assert back == value
    assert type(back) is type(value)
    assert repr(back) == repr(value) or isinstance(value, (set, frozenset))


def test_a_named_zone_arrives_with_its_rules_and_its_fold():
    before = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))

    after = unpack_value(pack_value(before))

    assert (after.tzinfo.key, after.fold, after.utcoffset()) == ("Europe/Berlin", 1, timedelta(hours=1))


def test_a_zone_that_this_host_does_not_know_keeps_the_instant():
    payload = msgpack.packb(["2026-01-01T12:00:00", 3_600_000_000, "Mars/Olympus", 0])

    when = unpack_value(msgpack.packb(msgpack.ExtType(4, payload)))

    assert when == datetime(2026, 1, 1, 11, tzinfo=UTC)


def test_bytearray_and_memoryview_arrive_as_bytes():
    assert unpack_value(pack_value([bytearray(b"a"), memoryview(b"b")])) == [b"a", b"b"]


def test_nan_arrives_as_nan():
    back = unpack_value(pack_value(float("nan")))

    assert back != back


def test_equal_sets_have_equal_bytes_in_every_process():
    script = "from qworker.values import pack_value; print(pack_value({str(n) for n in range(50)}).hex())"

    seen = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    }

    assert len(seen) == 1


def test_a_body_keeps_arguments_apart():
    args, kwargs = unpack_body(pack_body(("a.jpg", (1, 2)), {"size": 64}))

    assert args == ("a.jpg", (1, 2))
    assert kwargs == {"size": 64}


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        (
            (1, {"x": [0, 0, 0, (n for n in ())]}),
            {},
            "cannot encode args[1]['x'][3]: a generator cannot be carried as msgpack; pass plain data, or the name of",
        ),
        ((), {"when": datetime(2026, 1, 1)}, None),  # noqa: DTZ001
        ((2**64,), {}, "cannot encode args[0]: an integer beyond 64 bits; pass it as text"),
        (("a", "\ud800"), {}, "cannot encode args[1]: text with a lone surrogate, which has no UTF-8 form"),
        (
            (),
            {"to": [Colour.RED]},
            "is a subclass of int and would arrive as something else; pass int(…) of it, or .value of an enum",
        ),
        ((Word("x"),), {}, "is a subclass of str"),
        ((Point(1, 2),), {}, "is a subclass of tuple and would arrive as something else; pass tuple(…) of it"),
        ((OrderedDict(a=1),), {}, "a collections.OrderedDict is a subclass of dict"),
        (({1: object()},), {}, "cannot encode args[0][1]: an object cannot be carried"),
        (({object(): 1},), {}, "cannot encode the key object of args[0]: an object cannot be carried"),
        (([{1, object}],), {}, "cannot encode an element of args[0][0]: a type cannot be carried"),
    ],
    ids=["generator", "naive", "big int", "surrogate", "enum", "str", "namedtuple", "dict", "object", "key", "set"],
)
def test_what_cannot_be_carried_is_refused_with_the_path_to_it(args, kwargs, message):
    with pytest.raises(NotEncodable) as caught:
        pack_body(args, kwargs)

    if message is None:
        message = (
            "cannot encode kwargs['when']: a datetime without a time zone (2026-01-01 00:00:00): "
            "give it one, for example datetime.now(UTC)"
        )
    assert message in str(caught.value)
    assert isinstance(caught.value, (Refused, TypeError))


def test_a_result_is_refused_with_the_path_from_value():
    with pytest.raises(NotEncodable, match=r"cannot encode value\['rows'\]\[1\]: a set_iterator cannot be carried"):
        pack_value({"rows": [1, iter({1})]})


def test_after_a_refusal_the_next_value_is_packed_whole():
    with pytest.raises(NotEncodable):
        pack_value(["x" * 500, object()])

    assert unpack_value(pack_value([1, (2,)])) == [1, (2,)]


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_hundred_levels_are_carried_and_one_more_is_refused(kind):
    assert unpack_value(pack_value(nested(100, kind))) == nested(100, kind)
    assert unpack_body(pack_body((nested(100, kind),), {})) == ((nested(100, kind),), {})

    with pytest.raises(
        TaskTooLarge, match=r"cannot encode the value: nested deeper than 100; pass it in a flatter form"
    ):
        pack_value(nested(101, kind))
    with pytest.raises(TaskTooLarge, match=r"cannot encode the arguments: nested deeper than 100"):
        pack_body((nested(101, kind),), {})


@pytest.mark.parametrize("kind", [list, tuple])
def test_what_contains_itself_is_refused_as_too_deep(kind):
    inner: list[object] = []
    inner.append(kind([inner]))

    with pytest.raises(TaskTooLarge, match=r"nested deeper than 100"):
        pack_value(inner)


def test_depth_is_counted_through_keys_and_sets():
    value: object = ()
    for _ in range(99):
        value = (value,)
    deep_key = {value: 1}

    with pytest.raises(TaskTooLarge, match=r"nested deeper than 100"):
        pack_value(deep_key)
    with pytest.raises(TaskTooLarge, match=r"nested deeper than 100"):
        pack_value([{value}])


def test_very_deep_mixtures_overflow_no_stack():
    value: object = ()
    for level in range(50_000):
        value = (value,) if level % 300 == 0 else [value]

    with pytest.raises(TaskTooLarge, match=r"nested deeper than 100"):
        pack_value(value)

    while value:  # freed level by level: a deallocator's own recursion is not the point here
        value = value[0]  # type: ignore[index]


def test_more_than_a_mebibyte_is_refused():
    fits = "x" * (MAX_BODY - 5)
    assert unpack_value(pack_value(fits)) == fits

    with pytest.raises(TaskTooLarge, match=r"cannot encode the value: 1,048,577 bytes, and 1,048,576 is the limit"):
        pack_value(fits + "x")


def test_threads_that_pack_at_once_do_not_mix_their_bytes():
    faults: list[object] = []
    start = threading.Barrier(4)

    def pack(number: int) -> None:
        start.wait()
        for _ in range(300):
            value = [(number, (number,)), {number}, "x" * number, [(number,)] * 20]
            if unpack_value(pack_value(value)) != value:
                faults.append(value)

    threads = [threading.Thread(target=pack, args=(number,)) for number in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)

    assert faults == []


def ext(code: int, payload: bytes) -> bytes:
    return msgpack.packb(msgpack.ExtType(code, payload))


HOSTILE = {
    "nothing": b"",
    "reserved byte": b"\xc1",
    "cut short": b"\x92\x01",
    "trailing": b"\x01\x01",
    "bad utf-8": b"\xa2\xff\xfe",
    "array of 4 G": b"\xdd\xff\xff\xff\xff",
    "map of 4 G": b"\xdf\xff\xff\xff\xff",
    "bytes of 4 G": b"\xc6\xff\xff\xff\xff",
    "deep arrays": b"\x91" * 100_000 + b"\x90",
    "unhashable key": b"\x81\x90\x01",
    "unknown extension": ext(42, b""),
    "unknown negative extension": b"\xd4\xf9x",
    "timestamp of a wrong length": b"\xd4\xff\x00",
    "tuple that is no array": ext(1, b"\x01"),
    "tuple with trailing bytes": ext(1, b"\x90\x90"),
    "tuple cut short": ext(1, b"\x92\x01"),
    "tuple of nothing": ext(1, b""),
    "set of arrays": ext(2, b"\x91\x90"),
    "frozenset of maps": ext(3, b"\x91\x80"),
    "datetime of nonsense": ext(4, msgpack.packb(["tomorrow", 0, None, 0])),
    "datetime of one": ext(4, msgpack.packb(["2026-01-01T00:00:00"])),
    "datetime of five": ext(4, msgpack.packb([1, 2, 3, 4, 5])),
    "datetime with two zones": ext(4, msgpack.packb(["2026-01-01T00:00:00+01:00", 0, None, 0])),
    "datetime far off": ext(4, msgpack.packb(["2026-01-01T00:00:00", 10**17, None, 0])),
    "datetime with a path as zone": ext(4, msgpack.packb(["2026-01-01T00:00:00", 0, "../../etc/passwd", 0])),
    "datetime with a wrong fold": ext(4, msgpack.packb(["2026-01-01T00:00:00", 0, None, 9])),
    "date of nonsense": ext(5, b"\xff"),
    "timedelta of text": ext(6, msgpack.packb(["1", 0, 0])),
    "timedelta too long": ext(6, msgpack.packb([10**12, 0, 0])),
    "decimal of nonsense": ext(7, b"1,5"),
    "uuid too short": ext(8, b"123"),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_bytes_raise_a_decode_error_and_nothing_else(data):
    for read in (unpack_value, unpack_body):
        with pytest.raises(DecodeError, match=r"^cannot decode "):
            read(data)


def test_an_unknown_extension_is_named():
    with pytest.raises(DecodeError, match=r"extension type 42: this version of qworker does not know it"):
        unpack_value(ext(42, b"x"))


def test_extensions_in_extensions_overflow_no_stack_even_of_a_small_thread():
    data = b"\x90"
    for _ in range(20_000):
        data = b"\xc9" + struct.pack(">I", len(data)) + b"\x01" + data
    shallow = b"\x90"
    for _ in range(99):
        shallow = b"\x91" + ext(1, shallow)
    caught: list[object] = []

    def read() -> None:
        for attempt in (data, shallow):
            try:
                caught.append(type(unpack_value(attempt)))
            except Exception as error:
                caught.append(error)

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    finally:
        threading.stack_size(before)

    assert isinstance(caught[0], DecodeError)
    assert caught[1] is list


def test_more_than_a_mebibyte_is_not_even_read():
    with pytest.raises(DecodeError, match=r"a value of 1,048,577 bytes: 1,048,576 is the limit"):
        unpack_value(b"\x90" * (MAX_BODY + 1))


@pytest.mark.parametrize("body", [[], [[], {}, 1], [{}, []], [[], {1: 2}], 7, "args"], ids=repr)
def test_a_body_that_is_no_pair_of_arguments_is_a_decode_error(body):
    with pytest.raises(DecodeError, match=r"not a pair of positional and named arguments"):
        unpack_body(msgpack.packb(body))
