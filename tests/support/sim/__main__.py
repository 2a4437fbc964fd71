"""Simulated histories from the command line.

PYTHONPATH=src:tests python -m support.sim --seeds 300            # from a fresh seed; stops at the first bad one
PYTHONPATH=src:tests python -m support.sim --seed 17              # one of them again, with its time line
PYTHONPATH=src:tests python -m support.sim --flaws rescue         # known flaws, and how soon each is found
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time

from support.history.judge import report

from .flaws import FLAWS, flaw
from .plans import draw
from .world import Verdict, collect, simulate


def replay(seed: int) -> str:
    """The command that makes a history again."""
    return f"PYTHONPATH=src:tests python -m support.sim --seed {seed}"


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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, help="one history, with its time line")
    parser.add_argument("--seeds", type=int, default=300, help="how many histories")
    parser.add_argument("--first", type=int, default=int.from_bytes(os.urandom(4)) % 10**9, help="the first seed")
    parser.add_argument("--minutes", type=float, help="as many as there is time for")
    parser.add_argument("--flaws", nargs="?", const="", help="those whose names hold this: how soon is each found?")
    parser.add_argument("--most", type=int, default=1000, help="histories for each flaw")
    parser.add_argument("--keep-going", action="store_true", help="show every bad one")
    given = parser.parse_args()
    if given.seed is not None:
        verdict = simulate(draw(given.seed), tell=True)
        print(*verdict.plan.lines(), *time_line(verdict), sep="\n")
        print(
            report(verdict.violations) if verdict.violations else "no violation", f"digest {verdict.digest}", sep="\n"
        )
        collect()
        return int(bool(verdict.violations))
    gc.disable()
    gc.freeze()
    if given.flaws is not None:
        return find_flaws(given.flaws, given.most)
    began, used, count, virtual_s, calls, bad = time.monotonic(), time.process_time(), 0, 0.0, 0, 0
    while count < given.seeds if given.minutes is None else time.monotonic() - began < given.minutes * 60:
        seed = given.first + count
        try:
            verdict = simulate(draw(seed))
        except Exception:
            print(f"seed {seed} raised\nagain: {replay(seed)}", flush=True)
            raise
        count, virtual_s, calls = count + 1, virtual_s + verdict.took_s, calls + verdict.calls
        if verdict.violations:
            bad += 1
            print(f"seed {seed}: {report(verdict.violations, most=3)}\nagain: {replay(seed)}", flush=True)
            if not given.keep_going:
                break
    took = time.process_time() - used
    collect()
    print(
        f"{count:,} histories from seed {given.first}, {bad} bad; {virtual_s:,.0f} s of virtual time, {calls:,}"
        f" commands; {count / took:.0f} histories a second of processor time"
    )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
