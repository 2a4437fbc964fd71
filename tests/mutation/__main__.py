"""Mutate the Lua scripts, one change at a time, and see whether the tests notice.

    python -m tests.mutation                          # all scripts
    python -m tests.mutation settle claim --minutes 5 # these, for so long; then it says where it stopped
    python -m tests.mutation claim --grep 'hold <= now' --each
    python -m tests.mutation --machines               # by the model tests alone, which are to notice 95 %

A mutant that no test kills is either explained in survivors.toml, because it does the same as the original, or it shows
what no test looks at. The exit code is 1 when one is not explained, or an explanation is of no surviving mutant.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "src")]

import hypothesis  # noqa: E402
import lupa.lua51  # noqa: E402
import pytest  # noqa: E402

import support.servers  # noqa: E402
from tests.mutation.mutants import Mutant, mutants  # noqa: E402
from tests.mutation.runner import Fate, Runner  # noqa: E402

LUA = ROOT / "src" / "qworker" / "broker" / "lua"
SURVIVORS = Path(__file__).with_name("survivors.toml")
MACHINES = ("tests/property/test_broker_machine.py", "tests/property/test_group_machine.py")
TESTS = ("tests/contract", "tests/lua", *MACHINES)
# One back end is enough: a mutant is the same on all of them, and this one is the quickest.
ELSEWHERE = ("fakeredis", "cluster", "valkey", "[model]")

SAMPLE = 24
LEAST = 0.95  # of the mutants that are not explained as equal, the machines alone notice


def names() -> list[str]:
    return sorted(file.stem for file in LUA.glob("*.lua"))


def make(script: str) -> list[Mutant]:
    """Every mutant of one file that the server would still compile."""
    lua = lupa.lua51.LuaRuntime()

    def compiles(text: str) -> bool:
        try:
            lua.compile(text)
        except lupa.lua51.LuaError:
            return False
        return True

    return list(mutants(script, (LUA / f"{script}.lua").read_text("utf-8"), compiles))


def explained() -> dict[tuple[str, str, str, int], str]:
    """Why each of these mutants survives, by its name."""
    groups = tomllib.loads(SURVIVORS.read_text("utf-8"))["equal"]
    found = {}
    for group in groups:
        for script, line, becomes, *nth in group["mutants"]:
            found[script, line, becomes, nth[0] if nth else 1] = group["why"]
    return found


def sample(made: list[Mutant], word: str) -> list[Mutant]:
    """Draw some, in their order."""
    drawn = random.Random(word).sample(range(len(made)), min(SAMPLE, len(made)))
    return [made[n] for n in sorted(drawn)]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.partition("\n")[0])
    parser.add_argument("scripts", nargs="*", metavar="SCRIPT", help=f"default: all of {', '.join(names())}")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no mutant later")
    parser.add_argument("--grep", default="", help="only mutants of lines that have this text")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only each Nth mutant: a sample")
    parser.add_argument("--sample", metavar="WORD", help=f"only {SAMPLE}, as a word draws them")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="not the first N: to go on after --minutes")
    parser.add_argument(
        "--known", action="store_true", help="also those that survivors.toml explains, to try them again"
    )
    parser.add_argument(
        "--machines", action="store_true", help=f"the model tests alone; fail below {LEAST:.0%}% of what is no equal"
    )
    parser.add_argument("--timeout", type=float, default=60, metavar="S", help="for all tests once; default: 60")
    parser.add_argument("--each", action="store_true", help="say of each mutant what killed it")
    options = parser.parse_args()
    if unknown := set(options.scripts) - set(names()):
        parser.error(f"no script is named {', '.join(sorted(unknown))}")
    why = explained()
    chosen = [each for script in options.scripts or names() for each in make(script) if options.grep in each.line]
    stale = [name for name in why if name[0] in (options.scripts or names()) and not options.grep]
    stale = [name for name in stale if name not in {each.name for each in chosen}]
    chosen = chosen[options.skip :: options.every]
    if options.sample:
        chosen = sample(chosen, options.sample)
    tried = [each for each in chosen if options.known or each.name not in why]

    fates: dict[str, Counter[Fate]] = {}
    surprises: list[Mutant] = []
    killed_though: list[Mutant] = []

    def told(mutant: Mutant, fate: Fate, test: str) -> None:
        fates.setdefault(mutant.script, Counter())[fate] += 1
        if fate == "survived" and mutant.name not in why:
            surprises.append(mutant)
        if fate != "survived" and mutant.name in why:
            killed_though.append(mutant)
        if options.each:
            print(f"{time.monotonic() - before:6.1f} s  ", end="")
        if options.each or surprises[-1:] == [mutant]:
            print(
                f"{fate}: {mutant.script}.lua:{mutant.number}: {mutant.line}  =>  {mutant.becomes}  {test}", flush=True
            )

    # Each surviving mutant takes all tests: half of the models' runs, 30 of each machine or less.
    os.environ.setdefault("QWORKER_TEST_RUNS", "0.5")
    hypothesis.settings.register_profile(
        "mutation", derandomize=True, database=None, phases=(hypothesis.Phase.explicit, hypothesis.Phase.generate)
    )
    hypothesis.settings.load_profile("mutation")
    before = time.monotonic()
    with tempfile.TemporaryDirectory() as directory, contextlib.ExitStack() as stack:
        server = support.servers.start_server(support.servers.any_kind(), Path(directory), durable=False)
        stack.callback(server.stop)
        # The tests of all forks use this one; each of them finds it empty.
        support.servers.start_server = lambda *_, **__: _Kept(server)  # type: ignore[assignment, return-value]
        ends = before + 60 * options.minutes
        runner = Runner(tried, server, timeout_s=options.timeout, ends=ends, told=told)
        here = " and ".join(f"not {kind}" for kind in ELSEWHERE if kind != server.kind)
        arguments = ["-k", here, "-m", "not slow", "-s", "--hypothesis-profile=mutation", f"--rootdir={ROOT}"]
        arguments += ["-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:xdist"]
        arguments += ["-o", "addopts=--import-mode=importlib"]
        arguments += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
        pytest.main(
            [*(str(ROOT / test) for test in (MACHINES if options.machines else TESTS)), *arguments], plugins=[runner]
        )
    if not runner.sound:
        print("the tests fail on the scripts as they are", file=sys.stderr)
        return 2
    report(fates, chosen, tried, why, runner.seconds, time.monotonic() - before)
    for mutant in killed_though:
        print(f"killed, though survivors.toml explains why it is not: {mutant.name}")
    for name in stale:
        print(f"survivors.toml explains what is no mutant any more: {name}")
    ran = sum(map(Counter.total, fates.values()))
    missed = len(tried) - ran
    if missed:
        print(
            f"not tried: {missed} of {len(tried)}, the time was up; --skip {options.skip + ran * options.every} goes on"
        )
    # A sample proves nothing of the rest, and who asks for one knows; else what was not tried was not passed.
    incomplete = missed and not options.sample and options.every == 1
    if options.machines:
        return int(bool(killed_though or stale or incomplete) or is_too_low(fates))
    return int(bool(surprises or killed_though or stale or incomplete))


def is_too_low(fates: dict[str, Counter[Fate]]) -> bool:
    """Whether the machines alone notice too little; it is said."""
    ran = sum(map(Counter.total, fates.values()))
    survived = sum(fate["survived"] for fate in fates.values())
    score = 1 - survived / ran if ran else 0.0
    print(f"the machines alone notice {score:.1%} of what is not explained as equal; at least {LEAST:.0%} are to be")
    return score < LEAST


class _Kept:
    """The one server, for a fixture that would end it."""

    def __init__(self, server: support.servers.Server) -> None:
        self._server = server

    def __getattr__(self, name: str) -> object:
        return (lambda: None) if name == "stop" else getattr(self._server, name)


def report(
    fates: dict[str, Counter[Fate]],
    chosen: list[Mutant],
    tried: list[Mutant],
    why: dict[tuple[str, str, str, int], str],
    once_s: float,
    took_s: float,
) -> None:
    """Say per script how many mutants there are, and what became of them."""
    print(
        f"\n{'script':14}{'mutants':>8}{'killed':>8}{'timed out':>10}{'survived':>9}{'explained':>10}{'not tried':>10}"
    )
    total: Counter[str] = Counter()
    for script, group in itertools.groupby(chosen, key=lambda each: each.script):
        these = list(group)
        fate = fates.get(script, Counter())
        known = sum(each.name in why and each not in tried for each in these)
        row: Counter[str] = Counter(fate)
        row.update({"mutants": len(these), "explained": known, "not tried": len(these) - known - fate.total()})
        total.update(row)
        print(_row(script, row))
    print(_row("all", total))
    ran = total["killed"] + total["timed out"] + total["survived"]
    if ran:
        noticed = total["killed"] + total["timed out"]
        print(f"noticed: {noticed} of {ran} tried, {noticed / ran:.1%}; with what is explained as equal, "
              f"{noticed / (ran + total['explained']):.1%} of all")  # fmt: skip
    print(f"{took_s:.0f} s; the tests take {once_s:.1f} s once")


def _row(name: str, counts: Counter[str]) -> str:
    return (
        f"{name:14}{counts['mutants']:8}{counts['killed']:8}{counts['timed out']:10}{counts['survived']:9}"
        f"{counts['explained']:10}{counts['not tried']:10}"
    )


if __name__ == "__main__":
    sys.exit(main())
