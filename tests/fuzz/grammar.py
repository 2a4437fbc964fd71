"""Bytes that are nearly right: msgpack that is deep, wide, torn or lies about its length; names; mutations of seeds."""

from __future__ import annotations

import re

import msgpack
from hypothesis import strategies as st

# Claims of four thousand million, ends that are missing, text that is no UTF-8, bytes that mean nothing.
BOMBS = (
    b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xdc\xff\xff", b"\xde\xff\xff", b"\xc1", b"\xa2\xff\xfe", b"\xd9", b"\xc7\x05", b"\xd4\xff\x00",
    b"\x91" * 200, b"\x81\xc0" * 200, b"\xdc\x00\x10" * 60, b"\xc0\xc0",
)  # fmt: skip
LEAVES = st.one_of(
    st.sampled_from(BOMBS),
    st.binary(max_size=8),
    st.integers(-(2**63), 2**64 - 1).map(msgpack.packb),
    st.floats().map(msgpack.packb),
    st.text(max_size=8).map(lambda text: msgpack.packb(text.encode("utf-8", "surrogatepass"), use_bin_type=False)),
    st.sampled_from([None, True, False, "g", "p", "\x1b[2J\x07", "\u202e", "1Fr", "at_least_once"]).map(msgpack.packb),
)


def _ext(code: int, data: bytes) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, data))
    return packed


PACKED = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=15).map(lambda parts: bytes([0x90 | len(parts)]) + b"".join(parts)),
        st.lists(inner, max_size=8).map(lambda parts: bytes([0x80 | len(parts) // 2]) + b"".join(parts)),
        st.builds(_ext, st.integers(0, 12), inner),
        inner.map(lambda data: msgpack.packb(data)),
    ),
    max_leaves=20,
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """One of the seeds with some of it changed, cut, doubled, or put into another."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        match draw(st.integers(0, 4)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=4))
            case 1:
                data = data[:at]
            case 2:
                data[at:at] = draw(st.sampled_from(BOMBS))
            case 3:
                data[at:at] = data[: draw(st.integers(0, min(64, len(data))))]
            case _:
                other = draw(st.sampled_from(seeds))
                data[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(data)


def called(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Names made of the words of the seeds, in other orders, a line each, after a line of such names with commas."""
    words = sorted({word for seed in seeds for word in re.split(rb"[.,\n]", seed)})
    word = st.one_of(st.sampled_from(words), st.sampled_from(words), st.binary(max_size=4))
    name = st.lists(word, min_size=1, max_size=5).map(b".".join)
    modules = st.lists(st.one_of(name, st.sampled_from(words)), min_size=1, max_size=3).map(b",".join)
    return st.builds(lambda allow, names: b"\n".join([allow, *names]), modules, st.lists(name, min_size=1, max_size=8))


def inputs(seeds: list[bytes], target: str = "") -> st.SearchStrategy[bytes]:
    """What a target is tried with."""
    if target == "functions":
        return st.one_of(called(seeds), mutated(seeds))
    return st.one_of(mutated(seeds), PACKED, st.binary(max_size=300)) if seeds else PACKED | st.binary(max_size=300)
