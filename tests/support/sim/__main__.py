"""Simulated histories from the command line.

PYTHONPATH=src:tests python -m support.sim --seeds 300            # from a fresh seed; stops at the first bad one
PYTHONPATH=src:tests python -m support.sim --small --jobs 2       # only small ones, in two processes
PYTHONPATH=src:tests python -m support.sim --seed 17              # one of them again, with its time line
PYTHONPATH=src:tests python -m support.sim --flaws rescue         # known flaws, and how soon each is found
"""

from __future__ import annotations

import argparse
import os
import sys
import time

from support.history.judge import report

from .batches import Batch, batches, be_calm
from .flaws import FLAWS, flaw
from .plans import draw
from .world import Verdict, collect, simulate


def time_line(verdict: Verdict) -> list[str]:
    """Everything that is known of a history, in the order of its happening."""
    history = verdict.history
    found = [(line.at, str(line)) for line in history.lines]
    found += [(each.answered, str(each)) for each in history.submitted]
    found += [(each.answered, str(each)) for each in history.stopped]
    found += [(each.at, str(each)) for each in history.ended]
    found += [(at, f"{at:.4f} {text}") for at, text in verdict.story]
    return [text for _, text in sorted(found, key=lambda each: each[0])]


def find_flaws(some: str, most: int) -> int:
    """Switch known flaws on, one at a time, and tell at which seed each is found, from where it was found last."""
    missed = 0
    for name in (name for name in FLAWS if some in name):
        used = time.process_time()
        with flaw(name):
            judged = ((plan.seed, simulate(plan).violations) for plan in FLAWS[name].plans(most))
            found = next(((seed, violations) for seed, violations in judged if violations), None)
        took_s = time.process_time() - used
        if found is None:
            missed += 1
            print(f"{name}: not found in {most} histories ({took_s:.1f} s)", flush=True)
        else:
            first = found[1][0]
            print(f"{name}: seed {found[0]} ({took_s:.1f} s), {first.rule} {first.id} {first.text}", flush=True)
    collect()
    return int(bool(missed))


def show(seed: int, *, small: bool) -> int:
    """One history, with its time line."""
    verdict = simulate(draw(seed, small=small), tell=True)
    print(*verdict.plan.lines(), *time_line(verdict), sep="\n")
    print(report(verdict.violations) if verdict.violations else "no violation", f"digest {verdict.digest}", sep="\n")
    collect()
    return int(bool(verdict.violations))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="one history, a large one unless it is said, with its time line")
    parser.add_argument("--seeds", type=int, default=300, help="how many histories of each kind")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--small", action="store_true", help="of few tasks: more than twice as many in the same time")
    size.add_argument("--large", action="store_true", help="of more; without either: both")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="in so many processes")
    parser.add_argument("--first", type=int, default=int.from_bytes(os.urandom(4)) % 10**9, help="the first seed")
    parser.add_argument("--minutes", type=float, help="as many as there is time for")
    parser.add_argument("--flaws", nargs="?", const="", help="those whose names hold this: how soon is each found?")
    parser.add_argument("--most", type=int, default=1000, help="histories for each flaw")
    parser.add_argument("--keep-going", action="store_true", help="show every bad one")
    given = parser.parse_args()
    if given.seed is not None:
        return show(given.seed, small=given.small)
    if given.flaws is not None:
        be_calm()
        return find_flaws(given.flaws, given.most)
    kinds = (True,) if given.small else (False,) if given.large else (True, False)
    bad = [make_many(given, small=small, share=1 / len(kinds)) for small in kinds]
    return int(any(bad))


def make_many(given: argparse.Namespace, *, small: bool, share: float) -> bool:
    """Make histories of one kind and tell what came of them; returns whether one is bad."""
    began = time.monotonic()
    total = Batch(0, 0.0, 0, 0.0, [])
    count = given.seeds if given.minutes is None else None
    ends = began + 60 * share * (given.minutes or 0.0)
    for batch in batches(given.first, count=count, ends=ends, jobs=given.jobs, small=small):
        total = Batch(*(one + other for one, other in zip(total, batch, strict=True)))
        print(*batch.bad, sep="\n", end="\n" if batch.bad else "", flush=True)
        if batch.bad and not given.keep_going:
            break
    took = time.monotonic() - began
    print(
        f"{total.count:,} {'small' if small else 'large'} histories from seed {given.first}, {len(total.bad)} bad;"
        f" {total.virtual_s:,.0f} s of virtual time, {total.calls:,} commands; {total.count / took:.0f} a second in"
        f" {given.jobs} processes, {total.count / total.cpu_s:.0f} for each second of processor time",
        flush=True,
    )
    return bool(total.bad)


if __name__ == "__main__":
    sys.exit(main())
