"""The simulator itself: its time, its repetition to the byte, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from support.sim.plans import draw
from support.sim.times import START_S, Node, Universe
from support.sim.world import collect, simulate

SEEDS = (3, 14, 25)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """What killed processes leave complains when it is collected: not in the middle of another test."""
    gc.disable()
    yield
    collect()
    gc.enable()


def test_an_hour_passes_at_once() -> None:
    told: list[float] = []

    async def main() -> None:
        await asyncio.sleep(3600)
        told.append(time.monotonic())

    began = time.monotonic()
    with Universe(1) as universe:
        node = Node(universe, "n")
        task = node.start(main(), lambda _: None)
        assert universe.run(START_S + 4000, task.done)

    assert told == [START_S + 3600]
    assert time.monotonic() - began < 60, "the clock is the real one again"


def test_a_frozen_process_hears_of_everything_when_it_is_thawed() -> None:
    told: list[float] = []

    async def main() -> None:
        for _ in range(3):
            await asyncio.sleep(1)
            told.append(time.monotonic() - START_S)

    with Universe(1) as universe:
        node = Node(universe, "n")
        task = node.start(main(), lambda _: None)
        universe.at(START_S + 1.5, node.freeze)
        universe.at(START_S + 5, node.thaw)
        universe.run(START_S + 10, task.done)

    assert told == [1, 5, 6]


def test_nothing_of_a_killed_process_runs_on() -> None:
    told: list[str] = []

    async def main() -> None:
        try:
            await asyncio.sleep(2)
        finally:
            told.append("cleaned up")

    with Universe(1) as universe:
        node = Node(universe, "n")
        node.start(main(), lambda _: None)
        universe.at(START_S + 1, node.kill)
        universe.run(START_S + 10)
        assert not told, "kill -9 leaves no time for that"


def test_a_seed_makes_the_same_history_to_the_byte() -> None:
    before = random.getstate()
    first = [simulate(draw(seed)).digest for seed in SEEDS]
    assert random.getstate() == before

    assert [simulate(draw(seed)).digest for seed in reversed(SEEDS)] == first[::-1]

    code = (
        "from support.sim.plans import draw; from support.sim.world import simulate;"
        f"print(*[simulate(draw(seed)).digest for seed in {SEEDS}])"
    )
    other = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join(sys.path)}
    said = subprocess.run(
        [sys.executable, "-c", code], env=other, capture_output=True, text=True, timeout=60, check=True
    )
    assert said.stdout.split() == first, "in a process whose hashes are others"


def test_other_seeds_make_other_histories() -> None:
    assert len({simulate(draw(seed)).digest for seed in SEEDS}) == len(SEEDS)
