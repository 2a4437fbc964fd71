"""The loop of coroutine slots wakes when a timer is due, not at the next millisecond."""

from __future__ import annotations

import asyncio
import os
import selectors
import time

import pytest

from qworker.pool import punctual


def test_a_timeout_is_not_rounded_up_to_a_millisecond() -> None:
    with punctual.Selector() as selector:
        took = []
        for _ in range(200):
            began = time.monotonic()
            assert selector.select(0.0012) == []
            took.append(time.monotonic() - began)
    # The least of many: on a busy machine most of them are late. epoll alone makes 2 ms of each.
    assert 0.0012 <= min(took) < 0.002


def test_what_is_ready_ends_the_wait() -> None:
    reader, writer = os.pipe()
    try:
        with punctual.Selector() as selector:
            selector.register(reader, selectors.EVENT_READ, "pipe")
            os.write(writer, b"x")
            for timeout in (None, 60.0, 0.0, -1.0):
                assert [(key.data, events) for key, events in selector.select(timeout)] == [
                    ("pipe", selectors.EVENT_READ)
                ]
    finally:
        os.close(reader)
        os.close(writer)


def test_where_select_knows_no_such_descriptor_epoll_waits_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(punctual, "_FD_SETSIZE", 0)
    with punctual.Selector() as selector:
        began = time.monotonic()
        assert selector.select(0.001) == []
        assert time.monotonic() - began >= 0.001


def test_a_loop_that_the_app_chose_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    class Chosen(asyncio.SelectorEventLoop):
        pass

    chosen = Chosen()
    monkeypatch.setattr(asyncio, "new_event_loop", lambda: chosen)
    assert punctual.new_loop() is chosen
    chosen.close()
