"""The page docs/proof.md: what the last long runs showed, to be read in a minute. Refused, if a run was not clean.

    build/torture.json, build/soak.json ─► docs/proof/ ─► page() ─► docs/proof.md

PYTHONPATH=src:tests python -m support.history.proof                   (make proof)
PYTHONPATH=src:tests python -m support.history.proof --shortfalls      also if it was late or grew; the page says so
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import soak, torture

KEPT = Path("docs/proof")
PAGE = Path("docs/proof.md")
GOAL = 1_000_000
OWN = "dies"  # the one kind of fault that nobody did from outside
WORDS = {
    OWN: "a task kills its own child",
    "stood still": "a worker was given no processor time by the machine",
    "flush scripts": "flush the server's scripts",
    "kill clients": "close all connections on the server",
    "restart server": "kill -9 the server, restart it with its append-only file",
    "cut calls": "cut a connection around a call",
    "cut off worker": "cut off a worker for longer than its lease",
    "drain worker": "end a worker in order, and start another (rolling restart)",
    "full server": "the server's memory is full",
    "freeze worker": "freeze a worker for longer than its lease",
}


class NoProof(Exception):
    """There is no run to make a page of, or it is not one to show."""


def page(tortured: Mapping[str, Any], soaked: Mapping[str, Any] | None, *, shortfalls: bool = False) -> str:
    """Make the page.

    With `shortfalls`, of runs that were late or grew, too: the page begins with that.

    Raises:
        NoProof: the results tell of a loss or a broken rule, of lateness or growth, or do not add up.
    """
    wrong, short = torture.wrong_with(dict(tortured)), torture.late_in(dict(tortured))
    if soaked is not None:
        wrong, short = wrong + soak.wrong_with(dict(soaked)), short + soak.grown_in(dict(soaked))
    if shortfalls:
        wrong = [each for each in wrong if each not in short]
    if wrong:
        raise NoProof("not to be shown: " + "; ".join(wrong))
    return "\n".join([*_head(tortured, short), *_faults(tortured), *_latencies(tortured), *_soak(soaked)]) + "\n"


def _head(run: Mapping[str, Any], wrong: list[str]) -> list[str]:
    counts = run["faults"]
    outside = sum(counts["faults"].values()) - counts["faults"].get(OWN, 0)
    rounds = sum(each["what"] == "faults" for each in run["rounds"])
    short = f"**This was a shorter run: {counts['tasks']:,} tasks, not the million that `make torture` does in full.**"
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return [
        "# Proof",
        "",
        "Made by `make proof` from [proof/torture.json](proof/torture.json); do not edit. A machine does its worst",
        "to the promises in [guarantees](guarantees.md). Judged is what the tasks themselves wrote to a file,",
        "and never what the queue says of itself.",
        "",
        *[f"**Not as it should be: {each}.**\n" for each in wrong],
        *([short, ""] if counts["tasks"] < GOAL else []),
        "| | |",
        "| --- | ---: |",
        f"| Tasks | {counts['tasks']:,} |",
        f"| Faults from outside | {outside:,} in {counts['took_s']:,.0f} s |",
        f"| **Lost** | **{counts['lost']}** |",
        f"| Rules broken, of ten | {sum(counts['violations'].values())} |",
        f"| Started again after a fault that explains it | {sum(counts['duplicates'].values()):,} |",
        f"| Started again and not explained | {counts['violations'].get('C7', 0)} |",
        f"| Longest from a fault to the next start | {max(counts['longest_recovery_s'].values(), default=0.0):.1f} s |",
        *_times(counts),
        f"| Tasks a second, calm; many of them sleep | {run['calm']['tasks_per_s']:,.0f} |",
        f"| Tasks a second, among faults | {counts['tasks_per_s']:,.0f}, {run['share_of_calm']:.0%} of calm |",
        "",
        *[f"Short of what is aimed at: {missed}.\n" for missed in torture.missed_by(dict(run))],
        f"{run['date']}, {run['workers']} workers on {machine['cpus']} cores ({machine['cpu']}),",
        f"{machine['memory_gib']} GiB, {machine['system']}; {versions}; commit {machine['commit']}.",
        f"In {rounds} rounds, each with a server and workers of its own, each judged as a whole; the judge took",
        f"{run['judge_memory_mib']:,} MiB at most.",
        *([f"Circumstances: {run['note']}."] if run["note"] else []),
        "",
        f"Again: `{run['command']}`, then `make proof`.",
        "",
        "Answers to submits: " + _listed(counts["submits"]) + ". Outcomes: " + _listed(counts["outcomes"]) + ".",
        *_told(counts),
        "",
    ]


def _told(counts: Mapping[str, Any]) -> list[str]:
    """Who crashed, and what the judge has to believe the workers."""
    crashed, told = counts.get("crashed"), counts.get("told")
    lines = []
    if crashed:
        lines.append(f"Crashed, by kind of task: {_listed(crashed)}; each as often as it may, by faults that hit it.")
    if told:
        lines.append(f"What workers say of themselves, and the judge takes for true: {_listed(told)}.")
    return lines


def _times(counts: Mapping[str, Any]) -> list[str]:
    """What was held to a bound (bounds.py). A run that was not has no such line."""
    held = sum(counts.get("held_to", {}).values())
    what = f"Later than their bounds, of {held:,} recoveries, cancels, stops, timeouts and ends"
    return [f"| {what} | {len(counts['late'])} |"] if held else []


def _faults(run: Mapping[str, Any]) -> list[str]:
    counts = run["faults"]
    rows = [
        f"| {WORDS.get(kind, kind)} | {times:,} | {counts['duplicates'].get(kind, 0):,} | "
        + (f"{counts['longest_recovery_s'][kind]:.1f} s |" if kind in counts["longest_recovery_s"] else "none |")
        for kind, times in counts["faults"].items()
    ]
    return [
        "## Faults, and what they cost",
        "",
        "A fault may make start again what it hit, and not a task more: rule C7 of the judge holds every start to it.",
        "",
        "| Fault | Times | Starts again | Longest to the next start |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
    ]


def _latencies(run: Mapping[str, Any]) -> list[str]:
    def row(what: str, seen: Mapping[str, Any], where: str) -> str:
        if not seen["count"]:
            return f"| {what}, {where} | 0 | none | none | none |"
        return f"| {what}, {where} | {seen['count']:,} | {seen['p50_ms']:,} | {seen['p99_ms']:,} | {seen['max_ms']:,} |"

    return [
        "## Cancels, stops and timeouts meanwhile",
        "",
        "A server that is frozen for 2.6 s answers nobody, and that is in here. The timeouts are of tasks that ignore",
        "them, so that 100 ms of grace and a kill are in theirs.",
        "",
        "| | Count | p50 ms | p99 ms | most ms |",
        "| --- | ---: | ---: | ---: | ---: |",
        *[
            row(what, run[part]["latencies"][what], where)
            for what in run["faults"]["latencies"]
            for part, where in (("calm", "calm"), ("faults", "among faults"))
        ],
        "",
    ]


def _soak(run: Mapping[str, Any] | None) -> list[str]:
    if run is None:
        return ["## Leaks", "", "No soak was run: `make soak`."]
    server = run["server"]
    return [
        "## Leaks",
        "",
        f"{run['minutes']:g} minutes at {run['load']:.0%} of the slots' time ({run['slots']}), {run['tasks']:,} tasks",
        f"({run['spared']:,} that were due were spared a machine that was too busy).",
        f"A child is replaced after {run['tasks_per_child']} tasks: {run['children_started']:,} were started. Medians",
        "of the first and of the last quarter after the warm-up, from [proof/soak.json](proof/soak.json), of commit",
        f"{run['machine']['commit']}. Memory is what a process shares with no other.",
        "",
        "| | First | Last |",
        "| --- | ---: | ---: |",
        *[f"| {name} | {seen['first']:g} | {seen['last']:g} |" for name, seen in run["trends"].items()],
        f"| server at rest, KiB | {server['before_bytes'] / 1024:,.0f} | {server['after_bytes'] / 1024:,.0f} |",
        "",
        f"Again: `{run['command']}`, then `make proof`.",
    ]


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {word}" for word, count in counts.items())


def read(path: Path) -> dict[str, Any] | None:
    """Read a result, if there is one."""
    return json.loads(path.read_text()) if path.exists() else None


def make(built: Path, kept: Path, shown: Path, *, shortfalls: bool = False) -> None:
    """Take over the last results, if they may be shown, and write the page; of what was not run, the one that is kept.

    Raises:
        NoProof: there is no torture run, or as `page` does. Nothing is changed then.
    """
    found = {name: read(built / name) or read(kept / name) for name in ("torture.json", "soak.json")}
    tortured = found["torture.json"]
    if tortured is None:
        raise NoProof(
            f"no {built / 'torture.json'}: run `make torture` first (or, shorter, make torture ARGS='--tasks 20000')"
        )
    text = page(tortured, found["soak.json"], shortfalls=shortfalls)
    kept.mkdir(parents=True, exist_ok=True)
    for name in found:
        if (built / name).exists():
            shutil.copy(built / name, kept / name)
    shown.write_text(text)


def main() -> int:
    """`make proof`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shortfalls", action="store_true", help="show runs that were late or grew, and say so")
    given = parser.parse_args()
    try:
        make(torture.OUT.parent, KEPT, PAGE, shortfalls=given.shortfalls)
    except NoProof as error:
        print(error, file=sys.stderr)
        return 1
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
