"""What comes all at once, on a real server: tasks that are due, leases that lapse. No call takes the server for long.

What a call takes is the processor time of the server's own thread: by the clock it would be the machine's.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from qworker.model import Line, Window
from support.brokers import LEASE_MS, QUEUE, WORKER, TwiceBroker, item, name, take
from support.servers import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

DUE = 100_000
WINDOWS, SIZE = 1_000, 8
ROOM = 64  # what a worker of a few slots claims of short tasks
# Three, on a machine that does other things besides. All at once would take hundreds.
MOST_MS = 20.0


@pytest.fixture
def crowd(one_server: Server) -> Iterator[TwiceBroker]:
    with TwiceBroker(one_server.url, "t") as broker:
        broker.twice = False
        broker.at(0)
        yield broker


def used_ms(broker: TwiceBroker) -> float:
    """The processor time of the server's thread, since its start."""
    told = broker.client.info("cpu")
    return 1000 * (told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"])


def claim(broker: TwiceBroker, number: int) -> tuple[Window, float]:
    """Claim a window; returns what that took the server, too."""
    before = used_ms(broker)
    window = take(broker, f"c{number}", ROOM)
    return window, used_ms(broker) - before


def test_a_hundred_thousand_that_are_due_at_once_come_to_their_line_by_five_hundred_a_call(crowd) -> None:
    for first in range(0, DUE, 1_000):
        crowd.submit(QUEUE, Line(), [item(str(n), delay_ms=60_000) for n in range(first, first + 1_000)], given=True)
    crowd.at(60_000)
    took = []

    while crowd.stats(QUEUE).scheduled:
        window, ms = claim(crowd, len(took))
        assert len(window.tasks) == ROOM, "whoever asks is served at once"
        took.append(ms)

    assert len(took) == DUE / 500
    assert max(took) < MOST_MS
    stats = crowd.stats(QUEUE)
    assert (stats.claimed, stats.ready) == (len(took) * ROOM, DUE - len(took) * ROOM)


def test_the_windows_of_a_thousand_dead_workers_are_put_back_by_thirty_two_a_call(crowd) -> None:
    for n in range(WINDOWS):
        crowd.submit(QUEUE, Line(), [item(f"{n}-{i}") for i in range(SIZE)], given=True)
        take(crowd, f"d{n}", SIZE, worker=f"host:{n}:dead")
        crowd.renew(QUEUE, worker=f"host:{n}:dead", claims=[name(f"d{n}")], lease_ms=LEASE_MS)
    crowd.at(LEASE_MS)
    took, rescued = [], 0

    while rescued < WINDOWS * SIZE:
        window, ms = claim(crowd, len(took))
        assert 0 < window.rescued <= 32 * SIZE
        rescued += window.rescued
        took.append(ms)

    assert len(took) == -(-WINDOWS // 32)
    assert max(took) < MOST_MS
    assert crowd.stats(QUEUE).counters["rescued"] == WINDOWS * SIZE
    assert crowd.renew(QUEUE, worker=WORKER, claims=[name("d0")], lease_ms=LEASE_MS).lost == (name("d0"),)
