"""All that CI has no time for, one after the other, each within its time; what came of it in one file and one table.

    make nightly                                   four hours at most; into build/nightly.json, each log beside it
    make nightly ARGS="--minutes 60"               the same in an hour: what can be shorter is
    make nightly ARGS="sim fuzz --minutes 20"      only these

A step that fails, or takes longer than it may, ends alone: the next one begins. The exit code is 1 when one did.

What each step last came to, with its commit, versions and seconds, is kept in docs/proof/nightly.json: commit it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUT = Path("build/nightly.json")
KEPT = ROOT / "docs" / "proof" / "nightly.json"
LAST_LINES = 20
KEPT_LINES = 3  # of what a step said at its end: how many runs, and how many of them were bad


@dataclass(frozen=True)
class Step:
    """One target of the Makefile. `arguments` may say {minutes}: how long it is to take, if it can be told."""

    name: str
    minutes: float  # as long as it takes on two cores
    arguments: str = ""

    @property
    def can_be_shorter(self) -> bool:
        return "{minutes}" in self.arguments

    def command(self, share: float) -> list[str]:
        given = self.arguments.format(minutes=f"{self.minutes * share:.4g}")
        return ["make", "--no-print-directory", self.name, *([f"ARGS={given}"] if given else [])]


STEPS = (
    Step("test-all", 15),
    Step("points", 10),
    Step("models", 12),
    Step("mutants", 30, "--minutes {minutes}"),
    Step("sim", 20, "--minutes {minutes} --keep-going"),
    Step("fuzz", 10, "--minutes {minutes}"),
    Step("torture", 90, "--minutes {minutes}"),
    Step("soak", 30, "--minutes {minutes}"),
)


@dataclass(frozen=True)
class Done:
    """What came of one step."""

    name: str
    command: str
    status: str  # passed, failed, too long
    code: int | None
    took_s: float
    limit_s: float
    log: str
    last: tuple[str, ...]  # the end of its log, unless it passed


def share_of(steps: Sequence[Step], minutes: float | None) -> float:
    """Return how much of its time each step gets that can do with less, for all of them to take so many minutes."""
    if minutes is None:
        return 1.0
    fixed = sum(step.minutes for step in steps if not step.can_be_shorter)
    flexible = sum(step.minutes for step in steps if step.can_be_shorter)
    return max(0.01, min(1.0, (minutes - fixed) / flexible)) if flexible else 1.0


def limit_s(step: Step, share: float) -> float:
    """Return when a step is ended: half as long again as it should take, and five minutes for its beginning and end."""
    return 60 * (step.minutes * (share if step.can_be_shorter else 1.0) * 1.5 + 5)


def perform(name: str, command: Sequence[str], within_s: float, logs: Path) -> Done:
    """Run one command into a log of its own, and end it with all its processes when its time is over."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code: int | None = process.wait(within_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)  # and what it left behind
            process.wait()
    status = "too long" if code is None else "failed" if code else "passed"
    last = log.read_text("utf-8", "replace").splitlines()[-LAST_LINES:] if status != "passed" else []
    took_s = round(time.monotonic() - began, 1)
    return Done(name, " ".join(command), status, code, took_s, within_s, str(log), tuple(last))


def write(out: Path, began: str, done: Sequence[Done], left: Sequence[str]) -> None:
    """Write what is known so far: a night that is cut short leaves it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    result = {
        "began": began,
        "commit": commit.stdout.strip() or None,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "passed": not left and all(each.status == "passed" for each in done),
        "steps": [asdict(each) for each in done],
        "left": list(left),
    }
    draft = out.with_suffix(".new")
    draft.write_text(json.dumps(result, indent=1) + "\n")
    draft.replace(out)


def origin(began: str) -> dict[str, object]:
    """Say what is tried here, and on what: before anything is written, which would make the checkout a changed one."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "src")]
    from benchmarks.machine import facts
    from support.history.torture import installed, versions

    return {"date": began[:10], "commit": facts()["commit"], "versions": versions(*installed())}


def keep(kept: Path, done: Done, of: Mapping[str, object]) -> None:
    """Put what a step came to in the place of what was known of it; the rows of the others stay as they are."""
    rows = json.loads(kept.read_text())["steps"] if kept.exists() else {}
    said = [line.rstrip() for line in Path(done.log).read_text("utf-8", "replace").splitlines() if line.strip()]
    rows[done.name] = {
        "status": done.status,
        "took_s": done.took_s,
        "command": done.command,
        "said": said[-KEPT_LINES:],
        **of,
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps({"steps": rows}, indent=1) + "\n")


def table(done: Sequence[Done]) -> str:
    """Return what came of all steps, and how those ended that did not pass."""
    rows = [
        f"{each.name:10} {each.status:9} {each.took_s / 60:6.1f} of {each.limit_s / 60:5.1f} min  {each.log}"
        for each in done
    ]
    ends = ["\n".join([f"\n{each.name}: {each.command}", *each.last]) for each in done if each.last]
    return "\n".join([*rows, *ends])


def run(plan: Sequence[tuple[str, Sequence[str], float]], out: Path, kept: Path | None = None) -> int:
    """Perform all of a plan: name, command and limit of each. Returns the exit code."""
    began, done = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), []
    of = {} if kept is None else origin(began)
    for n, (name, command, within_s) in enumerate(plan):
        print(f"{time.strftime('%H:%M')} {' '.join(command)}  ({within_s / 60:.0f} minutes at most)", flush=True)
        done.append(perform(name, command, within_s, out.with_suffix("")))
        write(out, began, done, [left for left, _, _ in plan[n + 1 :]])
        if kept is not None:
            keep(kept, done[-1], of)
    print(table(done))
    return int(any(each.status != "passed" for each in done))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=__doc__.partition("\n")[0])
    names = [step.name for step in STEPS]
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"default: {', '.join(names)}")
    parser.add_argument("--minutes", type=float, help="for all of them together, as far as they can be shorter")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--kept", type=Path, default=KEPT, help="a row for each step that was run; to be committed")
    options = parser.parse_args()
    if unknown := set(options.steps) - set(names):
        parser.error(f"no step is named {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that the step ends, too
    steps = [step for step in STEPS if not options.steps or step.name in options.steps]
    share = share_of(steps, options.minutes)
    return run([(step.name, step.command(share), limit_s(step, share)) for step in steps], options.out, options.kept)


if __name__ == "__main__":
    sys.exit(main())
