"""Simulated histories: the product's workers and scripts in virtual time, under faults drawn from a seed.

Each run begins at a fresh seed; one that fails prints the command that makes its history again. What failed once is in
ONCE_BAD, and told there.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from support.history.judge import report
from support.history.records import Fault, History
from support.sim.batches import replay
from support.sim.flaws import FLAWS, flaw
from support.sim.plans import draw
from support.sim.rules import DYING_S, Late, late
from support.sim.world import Verdict, collect, simulate

FRESH = int(os.environ.get("QWORKER_SIM_SEED") or int.from_bytes(os.urandom(4)) % 10**9)
LARGE, SMALL = [60] * 4, [150] * 2  # histories of each part
MOST = 150
# Seed -> what it found, when histories were drawn as they are now. A change of how they are drawn, or of the worker,
# makes other histories of them; what they stood for is kept among the flaws, too.
# The seeds of small histories are their own.
ONCE_BAD: dict[int, str] = {
    84: "a worker that has just come rescued what it took for lapsed when the server's clock had stepped",
    381: "the same",
    827937059: "a claim of an idle worker that a late call left standing again, while it was held, was filled twice",
    453680859: "who had just come met a step of the server's clock, told nobody, and rescued a moment later",
    375642078: "windows that came late, behind a renewal of others, were started when that was answered",
    737891024: "a claim that was being left when a drain began was filled: the worker ended in error",
    661531286: "a stop was answered as if no code ran, while a frozen worker's thread did",
    463844442: "the limit that guarantees.md tells: a worker was cut off too soon to tell that a task had started",
    946669188: "the same",
    981985397: "the same, by a server that was away until its worker was killed",
    981980058: "no fault of qworker's: a stop was answered with a mark that an earlier start may run; nobody read it",
    746535520: "the limit that guarantees.md tells: a cut wire and a step of the server's clock, together a lease",
    221668613: "no fault of qworker's: what lay unstarted in a lapsed claim was to be told as soon as what runs",
    37649538: "a timeout was, while the thread of an earlier attempt ran on",
}
ONCE_BAD_SMALL: dict[int, str] = {
    378252094: "an outage of a little more than half a lease ended while an idle worker's claim tried again: it did "
    "not notice, and rescued what a living worker's next renewal came too late for",
    37652314: "a timeout was told as if no code ran, while the thread of an earlier attempt did",
    946671673: "the limit that guarantees.md tells: a worker froze too soon to tell that a task had started",
    221682148: "no fault of qworker's: the network sent a refused submit once more, which only its client could do",
    544250531: "no fault of qworker's: who was cut off before it could tell a loss, and died so, was to have told it",
}


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Many histories together are collected once."""
    gc.disable()
    yield
    collect()
    gc.enable()


def _judged(seed: int, *, small: bool = False) -> Verdict:
    verdict = simulate(draw(seed, small=small))
    assert not verdict.violations, f"seed {seed}: {report(verdict.violations)}\nagain: {replay(seed, small=small)}"
    return verdict


@pytest.mark.timeout(300)  # a few seconds, on a machine that is not crowded
@pytest.mark.parametrize("part", range(len(LARGE)))
def test_histories_from_a_fresh_seed_are_as_promised(part: int) -> None:
    first = FRESH + sum(LARGE[:part])
    for seed in range(first, first + LARGE[part]):
        _judged(seed)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("part", range(len(SMALL)))
def test_small_ones_are_as_promised(part: int) -> None:
    first = FRESH + sum(SMALL[:part])
    for seed in range(first, first + SMALL[part]):
        _judged(seed, small=True)


@pytest.mark.parametrize("seed", [*ONCE_BAD, *ONCE_BAD_SMALL], ids=str)
def test_what_was_bad_once_is_as_promised(seed: int) -> None:
    _judged(seed, small=seed in ONCE_BAD_SMALL)


@pytest.mark.parametrize("name", FLAWS)
def test_a_flaw_makes_a_history_bad(name: str) -> None:
    """It is looked for from where it was found last: other code makes other histories of the same seeds."""
    for plan in FLAWS[name].scene[:2]:
        verdict = simulate(plan)
        assert not verdict.violations, report(verdict.violations)
    with flaw(name):
        found = any(simulate(plan).violations for plan in FLAWS[name].plans(MOST))
    assert found, f"{name} goes unnoticed; where is it now? make sim-flaws"


def test_a_kill_excuses_late_starts_in_the_worker_that_it_hit_and_only_while_that_dies() -> None:
    """Clocks that step, and calls that come twice, excuse none: what they hit is as it was promised."""
    kinds = ("clock step", "sent twice", "kill worker")
    history = History(faults=tuple(Fault(kind, 10.0, 10.0, worker="w1" * (kind == "kill worker")) for kind in kinds))
    starts = [
        Late("dying", 7, "w1", 10.0 + DYING_S / 2), Late("before", 7, "w1", 9.9), Late("after", 7, "w1", 10.5),
        Late("elsewhere", 7, "w2", 10.0 + DYING_S / 2),
    ]  # fmt: skip

    assert [id_ for id_, _ in late(history, starts)] == ["before", "after", "elsewhere"]
