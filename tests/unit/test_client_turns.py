from __future__ import annotations

import time
from collections import deque
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest

from qworker.broker.client import Client


@pytest.mark.parametrize(
    ("connected", "held_up", "again_in_s", "waits_s"),
    [
        (True, False, -1, 100),
        (False, False, -1, 0),  # the pause ended after it was looked at: nobody tried to connect yet
        (False, False, 5, 5),
        (False, True, -1, 100),  # whoever keeps it from listening wakes it
    ],
)
def test_it_waits_for_the_next_question_unless_there_is_a_connection_to_make(
    connected: bool, held_up: bool, again_in_s: float, waits_s: float
) -> None:
    client: Any = object.__new__(Client)
    waited: list[float] = []
    now = time.monotonic()
    client._ear = SimpleNamespace(connected=connected, again_at=now + again_in_s, wait=waited.append)
    client._round_at, client._posts, client._heard = now + 100, deque(), SimpleNamespace(waits=False)
    client.registry = SimpleNamespace(next_hurried=lambda: inf, next_deadline=lambda: inf)
    client._following = SimpleNamespace(next=lambda: inf)

    client._wait(held_up=held_up)

    assert waited == [pytest.approx(waits_s, abs=1)]
