"""Tokens are read once, whoever reads; frames come out whole, however they were cut."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qworker.model import Order
from qworker.pool import frames, tokens


@pytest.fixture
def pipe():
    ends = tokens.open_pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_tokens_come_out_in_order_and_then_there_is_none(pipe):
    reading, writing = pipe

    assert tokens.give(writing, [3, 1, 2**63])

    assert [tokens.take(reading) for _ in range(4)] == [3, 1, 2**63, None]


def test_all_tokens_can_be_taken_back_at_once(pipe):
    reading, writing = pipe
    tokens.give(writing, range(1, 400))
    tokens.take(reading)

    assert tokens.take_all(reading) == list(range(2, 400))
    assert tokens.take_all(reading) == []


def test_a_full_pipe_takes_nothing_rather_than_a_part(pipe):
    reading, writing = pipe
    given = 0
    while tokens.give(writing, range(1, tokens.PER_WRITE + 1)):
        given += tokens.PER_WRITE

    assert len(tokens.take_all(reading)) == given


def test_two_readers_share_the_tokens_and_each_is_read_once(pipe):
    reading, writing = pipe
    taken: list[list[int]] = [[], []]
    done = threading.Event()

    def take(into):
        while True:
            over = done.is_set()  # asked before the look: what was given between the two must not be left
            number = tokens.take(reading)
            if number is not None:
                into.append(number)
            elif over:
                return

    readers = [threading.Thread(target=take, args=(into,)) for into in taken]
    for reader in readers:
        reader.start()
    for start in range(1, 20_001, 400):
        while not tokens.give(writing, range(start, start + 400)):
            pass
    done.set()
    for reader in readers:
        reader.join()

    assert sorted(taken[0] + taken[1]) == list(range(1, 20_001))
    assert taken[0] == sorted(taken[0])


def test_the_rest_of_a_number_that_somebody_tore_is_left_out(pipe):
    reading, writing = pipe
    tokens.give(writing, [1, 2, 3])
    os.read(reading, 3)

    assert len(tokens.take_all(reading)) == 2
    assert tokens.take_all(reading) == []


@pytest.mark.parametrize("first", ["ORDER", "OUTCOME"])
def test_no_two_frames_of_one_direction_have_the_same_number(first):
    """Two branches of development may add one each, and no merge tells."""
    names = [name for name, value in vars(frames).items() if name.isupper() and type(value) is int]
    # In the order of the file: to the child, from it, then the kinds of outcomes.
    start = names.index(first)
    of_one = names[start : names.index({"ORDER": "OUTCOME", "OUTCOME": "RETURNED"}[first])]

    assert sorted(getattr(frames, name) for name in of_one) == list(range(len(of_one)))


def an_order(number=1, blob=b"blob"):
    return Order(number, "q:1", blob, name="m.f", run=1, attempt=2, fence=3, timeout_s=4.0, grace_s=5.0, handed=10.0)


def test_an_order_travels_with_what_current_shows():
    (frame,) = frames.Frames().feed(frames.pack_order(an_order()))

    assert frame == [frames.ORDER, 1, "q:1", b"blob", None, None, 10.0, 1, 2, 3, 0, 4.0]


def test_a_deadline_travels_with_the_instant_that_it_counts_from():
    order = Order(1, "q:1", b"", deadline_s=2.5, handed=10.0)

    (frame,) = frames.Frames().feed(frames.pack_order(order))

    assert frame[5:7] == [2.5, 10.0]


@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 200), min_size=1))
def test_frames_come_out_whole_however_the_stream_is_cut(bodies, cuts):
    stream = b"".join(frames.pack_order(an_order(index, body)) for index, body in enumerate(bodies, 1))
    reader, found, step = frames.Frames(), [], 0

    while stream:
        cut = cuts[step % len(cuts)]
        found += reader.feed(stream[:cut])
        stream, step = stream[cut:], step + 1

    assert [frame[3] for frame in found] == bodies


@given(st.binary(min_size=1, max_size=200))
@settings(max_examples=300)
def test_whatever_bytes_come_only_frames_or_a_broken_stream_come_out(data):
    try:
        found = list(frames.Frames().feed(data))
    except frames.BrokenStream:
        return
    assert all(type(frame) is list and frame for frame in found)


def test_a_frame_beyond_every_limit_breaks_the_stream_instead_of_filling_memory():
    reader = frames.Frames()
    head = msgpack.packb([0, 1, b""])[:-2] + b"\xc6" + (1 << 31).to_bytes(4, "big")

    list(reader.feed(head))
    with pytest.raises(frames.BrokenStream):
        for _ in range(80):  # of 256 KiB
            list(reader.feed(bytes(256 * 1024)))


@pytest.mark.parametrize(
    "frame",
    [
        [9],
        [[]],
        [None, 1],
        [frames.READY, 1],
        [frames.FAILED, 3],
        [frames.GONE, "x"],
        [frames.GONE],
        [frames.OUTPUT, 1, "stdout"],
        [frames.OUTPUT, 1, "stdout", b"bytes", None],
        [frames.OUTPUT, 1, "stdout", "text", 5],
        [frames.OUTCOME, 1, 0, 0.1, True, None],
        [frames.OUTCOME, [], 0, 0.1, True, None, b""],
        [frames.OUTCOME, 1, -1, 0.1, True, None, b""],
        [frames.OUTCOME, 1, len(frames.KINDS), 0.1, True, None, b""],
        [frames.OUTCOME, 1, 0, "0.1", True, None, b""],
        [frames.OUTCOME, 1, 0, 0.1, True, "soon", b""],
        [frames.OUTCOME, 1, 0, 0.1, True, None, "text"],
    ],
)
def test_a_frame_that_no_child_of_ours_writes_is_refused(frame):
    with pytest.raises(frames.BrokenStream, match="no frame of ours"):
        frames.checked(frame)


@pytest.mark.parametrize(
    "frame",
    [
        [frames.READY],
        [frames.FAILED, "why"],
        [frames.GONE, 4],
        [frames.OUTPUT, 1, "log", "text", {"level": "info"}],
        [frames.OUTPUT, 1, "stdout", "text", None],
        [frames.OUTCOME, 1, frames.RETRY, 0.1, True, 1.5, b"e"],
        [frames.OUTCOME, 1, frames.REFUSED, None, False, None, b""],
    ],
)
def test_what_children_write_is_taken(frame):
    assert frames.checked(frame) is frame


def test_receiving_tells_nothing_yet_from_the_end():
    ours, theirs = os.pipe2(os.O_NONBLOCK)
    assert frames.receive(ours) is None

    os.write(theirs, b"x")
    os.close(theirs)

    assert frames.receive(ours) == b"x"
    assert frames.receive(ours) == b""
    os.close(ours)


def test_a_look_from_outside_is_not_taken_for_a_fault_of_the_token_pipe(pipe, monkeypatch):
    """faulthandler leaves errno at 0: about one such signal in three hundred hits the read of an empty pipe so.

    The signal itself does not come here: a thread that is just being called from C may not survive it.
    """

    def looked_at(fd, size):
        raise OSError(0, "Error")

    monkeypatch.setattr(tokens, "os", SimpleNamespace(read=looked_at))

    assert tokens.take(pipe[0]) is None
