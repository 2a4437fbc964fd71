"""The one command of the benchmarks: `python -m benchmarks setup | list | run | report | …`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from . import account, environments, growth, guard, report, running
from .processes import become_subreaper, end_all
from .results_file import ResultsFile
from .scenarios import SCENARIOS
from .server import Server

ROOT = environments.HERE.parent
LIMITS = "limits"  # named like a scenario, but nobody's: what the machine allows
RESULTS = ROOT / "docs" / "bench" / "results.json"
PAGE = ROOT / "docs" / "bench.md"


def main() -> int:
    """Read the command line and do what it says."""
    given = parser().parse_args()
    signal.signal(signal.SIGTERM, _end)
    become_subreaper()
    try:
        return int(given.verb(given))
    except KeyboardInterrupt:
        print("interrupted: what was measured is in the file", file=sys.stderr)
        return 130
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        end_all()


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(prog="python -m benchmarks", description=(__package__ or "") + ": see its README.md")
    verbs = top.add_subparsers(required=True, metavar="setup | list | run | report")

    one = verbs.add_parser("setup", help="make the environments of the contestants")
    one.add_argument("names", nargs="*", metavar="NAME", help="which ones (default: all, and that of the plots)")
    one.set_defaults(verb=setup)

    one = verbs.add_parser("list", help="show the contestants and the scenarios")
    one.set_defaults(verb=show)

    one = verbs.add_parser("run", help="measure, and add the figures to the file")
    one.add_argument("--scenarios", type=_names, help="a,b,… (default: all; `important`: those of the short run)")
    one.add_argument("--contestants", type=_names, help="x,y,… (default: all)")
    one.add_argument("--rounds", type=int, default=3)
    one.add_argument("--minutes", type=float, help="about how long it may take: what decides nothing gets fewer rounds")
    one.add_argument(
        "--continue",
        dest="go_on",
        action="store_true",
        help="add to the latest run of the file what it lacks of --rounds",
    )
    one.add_argument("--quick", action="store_true", help="few tasks: shows that all works, the figures mean nothing")
    one.add_argument("--out", type=Path, default=RESULTS, help="the file of results (default: docs/bench/results.json)")
    one.add_argument("--json", action="store_true", help="print this run's cells as one JSON object at the end")
    one.set_defaults(verb=run)

    one = verbs.add_parser("report", help="write docs/bench.md and docs/bench/*.png from the file of results")
    one.add_argument("--results", type=Path, default=RESULTS, help="the file (default: docs/bench/results.json)")
    one.add_argument("--page", type=Path, default=PAGE, help="what to write (default: docs/bench.md)")
    one.set_defaults(verb=write_report)

    guard.add_to(verbs)
    account.add_to(verbs)
    growth.add_to(verbs)
    return top


def setup(given: argparse.Namespace) -> int:
    """Make environments; return 1 when one of them could not be made."""
    failed = 0
    everyone = [*environments.names(), environments.PLOTS]
    for name in _known(given.names, everyone, "environment"):
        try:
            print(f"{name}: {environments.make(name)}", flush=True)
        except environments.MissingError as error:
            failed = 1
            print(f"{name}: failed: {error}", flush=True)
    return failed


def show(_: argparse.Namespace) -> int:
    """Print who takes part, and what is measured."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder, Server(Path(folder)) as server:
        unused = ResultsFile(Path(folder) / "unused.json")
        running.Run(unused, server, running.Plan(), print).meet(environments.names())
    print()
    for scenario in SCENARIOS.values():
        print(f"{scenario.name:<18} {'*' if scenario.important else ' '} {scenario.title}")
    print(f"{LIMITS:<18} * What the machine, Redis and Python allow at most")
    print("\n* part of the short run (`make bench`)")
    return 0


def run(given: argparse.Namespace) -> int:
    """Measure what was asked for."""
    asked = given.scenarios
    if asked == ["important"]:
        asked = [LIMITS, *(name for name, one in SCENARIOS.items() if one.important)]
    names = _known(asked, [LIMITS, *SCENARIOS], "scenario")
    scenarios = [SCENARIOS[name] for name in names if name != LIMITS]
    contestants = _known(given.contestants, environments.names(), "contestant")
    plan = running.Plan(given.rounds, given.quick, limits=LIMITS in names, minutes=given.minutes)
    file = ResultsFile(given.out)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    run_id = running.run(file, scenarios, contestants, plan, say, go_on=given.go_on)
    for line in report.noise_lines(file.data["runs"][run_id]["noise"]):
        print(line, file=sys.stderr)
    if given.json:
        cells = {
            scenario: {name: cell for name, cell in row.items() if cell["run"] == run_id}
            for scenario, row in file.data["cells"].items()
        }
        print(json.dumps({"run": run_id, **file.data["runs"][run_id], "cells": cells}))
    return 0


def write_report(given: argparse.Namespace) -> int:
    """Write the page and draw the plots."""
    if not given.results.exists():
        raise SystemExit(f"no {given.results}: run `python -m benchmarks run` first")
    for line in report.write(given.results, given.page):
        print(line)
    return 0


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _known(asked: list[str] | None, known: list[str], what: str) -> list[str]:
    unknown = [name for name in asked or () if name not in known]
    if unknown:
        raise SystemExit(f"no {what} {', '.join(unknown)}; there are: {', '.join(known)}")
    return asked or known


def _end(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # a second one would cut the first one's cleaning up short
    raise SystemExit(128 + number)  # through the `finally`s that stop what was started


if __name__ == "__main__":
    sys.exit(main())
