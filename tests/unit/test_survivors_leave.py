"""The thread of a survivor lets go of its slot before it says that it is gone: then the slot may be another's."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from qworker.pool.loop import CoroutineLoop
from qworker.pool.threads import ThreadLoop


def test_a_coroutine_slots_survivor_clears_its_slot_and_then_says_that_it_is_gone() -> None:
    done: list[str] = []
    loop = object.__new__(CoroutineLoop)
    loop._current, loop._send = {}, lambda *_, through: done.append("gone")
    cells: Any = SimpleNamespace(number=7, clear=lambda: done.append("cleared"))

    loop._tell((b"",), cells)

    assert done == ["cleared", "gone"]


def test_a_thread_slots_survivor_clears_its_slot_and_then_says_that_it_is_gone() -> None:
    done: list[str] = []
    loop: Any = object.__new__(ThreadLoop)
    loop._current, loop._running, loop._lock = {}, 1, threading.Lock()
    loop._send = lambda *_, through: done.append("gone")
    loop._next = lambda slot, given: [0, 7]
    cells = SimpleNamespace(clear=lambda: done.append("cleared"))
    loop._runner = SimpleNamespace(run=lambda *_, alone: ((b"",), cells))

    loop._serve_slot(0)

    assert done == ["cleared", "gone"]
