"""One run: rounds in which the contestants take turns at each scenario, with a look at the machine's noise between.

round 1   [submit-each, submit-bulk, …]  A B C …   [drain-1]  A B C …   …    what shares a worker is one visit
round 2   the same, C B A
crash     A B C at the same time: one process of this program each, for they only wait
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import environments, limits, machine, noise
from .adapter import CannotError, FailedError, NotOfferedError
from .alternation import grouped, turns
from .budget import HANGS_AFTER_S, Budget, deciding, no_longer_than
from .comparison import OURS
from .figures import number, range_of
from .processes import Process
from .results_file import Cell, ResultsFile, now
from .scenarios import Scenario
from .server import SETTINGS, Server
from .stage import Stage

TRY_AGAIN_S = 30.0  # who failed within so many seconds has a second try
ALONE_WITHIN_S = 30.0 + HANGS_AFTER_S  # a measurement in a process of its own, its start and its end

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a run goes, besides what is measured."""

    rounds: int = 3
    quick: bool = False
    limits: bool = True
    minutes: float | None = None  # about how long it may take


def run(
    file: ResultsFile,
    scenarios: Sequence[Scenario],
    contestants: Sequence[str],
    plan: Plan,
    say: Say,
    *,
    go_on: bool = False,
) -> str:
    """Measure, save as it goes, and return the run's id."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder, Server(Path(folder)) as server:
        one = Run(file, server, plan, say, go_on=go_on)
        ready = one.meet(contestants)
        if plan.limits:
            one.limits()
        one.all_rounds(scenarios, ready)
        one.done()
        return one.id


class Run:
    """What is measured now goes into this run's part of the file."""

    def __init__(self, file: ResultsFile, server: Server, plan: Plan, say: Say, *, go_on: bool = False) -> None:
        self.file, self.server, self.plan, self.say = file, server, plan, say
        self._began = time.monotonic()
        self._budget = Budget(plan.minutes)
        settings = {"redis": server.version(), "settings": " ".join(word or '""' for word in SETTINGS)}
        facts = {"machine": machine.facts(), "server": settings, **asdict(plan)}
        self.id = file.go_on(facts) if go_on else file.start_run(facts)

    def meet(self, contestants: Sequence[str]) -> list[str]:
        """Ask each contestant for its facts; return those that answered. Why another did not is kept in the file."""
        ready, known = [], self.file.data["contestants"]
        for contestant in contestants:
            try:
                with Stage(contestant, {}, self.server) as stage, no_longer_than(HANGS_AFTER_S):
                    facts = known[contestant] = stage.meet()
            except Exception as error:  # whatever it is: the others take part
                known[contestant] = {"name": contestant, "failed": str(error), "at": now()}
                self.say(f"{contestant} does not take part: {error}")
            else:
                self.file.data["runs"][self.id]["versions"][contestant] = facts["versions"]
                ready.append(contestant)
                self.say(in_short(facts))
        return ready

    def limits(self) -> None:
        """Measure what the machine allows at most, once a round, unless this run has done so."""
        if self.file.data["limits"].get("run") == self.id:
            return
        self.say("limits: what the machine, Redis and Python allow at most")
        values: dict[str, list[float]] = {}
        for _ in range(self.plan.rounds):
            for name, rate in limits.measure(self.server, quick=self.plan.quick):
                values.setdefault(name, []).append(rate)
        for name, rates in values.items():
            self.say(f"  {name:<50} {range_of(rates)} per second")
        self.file.data["limits"] = {"run": self.id, "at": now(), "values": values}
        self.file.save()

    def all_rounds(self, scenarios: Sequence[Scenario], contestants: Sequence[str]) -> None:
        """Measure in rounds: everything as often as the time allows, and then what decides."""
        for scenario in scenarios:
            self.file.describe(scenario)
        groups = grouped(scenarios)
        for number_of_round in range(1, self.plan.rounds + 1):
            lacking = {
                (scenario.name, name)
                for scenario in scenarios
                for name in contestants
                if self._lacks(scenario, name, number_of_round)
            }
            parts = [lacking]
            if number_of_round > 1 and not self._budget.allows(self._cost_s(lacking)):
                who = {scenario.name: deciding(scenario, self.file.data) for scenario in scenarios}
                decides = {(scenario, name) for scenario, name in lacking if name in who[scenario]}
                parts = [decides, lacking - decides]
            for part in parts:
                self.say(f"round {number_of_round}: {len(part)} measurements, about {self._cost_s(part):.0f} s")
                order = turns(contestants, number_of_round)
                if len(parts) > 1:  # not all of it fits: what is compared with all others comes first
                    order.sort(key=lambda name: name != OURS)
                for group in groups:
                    self._round_of(group, order, part, number_of_round)
        self.file.save()

    def _lacks(self, scenario: Scenario, contestant: str, number_of_round: int) -> bool:
        """Whether a contestant is to be measured in this round: it was not yet, in a run that goes on."""
        cell = self.file.peek(scenario.name, contestant, self.id)
        offered = cell.get("rounds") or "not_offered" not in cell
        return offered and cell.get("turns", 0) < number_of_round <= (scenario.rounds or number_of_round)

    def _cost_s(self, measurements: set[tuple[str, str]]) -> float:
        """Return about how many seconds these take, by what they took before; nothing is known of the first round."""
        cells = [self.file.peek(scenario, name, self.id) for scenario, name in measurements]
        return sum(cell.get("took_s", 0.0) / max(1, cell.get("turns", 0)) for cell in cells)

    def _round_of(
        self, group: Sequence[Scenario], contestants: Sequence[str], lacking: set[tuple[str, str]], number_of_round: int
    ) -> None:
        """Let the contestants take their turns at scenarios that share a worker."""
        self.say(f"{number_of_round} " + "; ".join(f"{scenario.name}: {scenario.title}" for scenario in group))
        if group[0].waits and len(group) * len(contestants) > 1:
            waiting = [(one, name) for one in group for name in contestants if (one.name, name) in lacking]
            if number_of_round == 1 or self._budget.allows(self._cost_s({(one.name, name) for one, name in waiting})):
                self._all_at_once(waiting)
            return
        for contestant in contestants:
            visited = [scenario for scenario in group if (scenario.name, contestant) in lacking]
            cost_s = self._cost_s({(one.name, contestant) for one in visited})
            if not visited or (number_of_round > 1 and not self._budget.allows(cost_s)):
                continue
            failed = self._visit(visited, contestant)
            if number_of_round == 1 and failed:
                self._visit(failed, contestant, again=True)

    def _visit(self, scenarios: Sequence[Scenario], contestant: str, *, again: bool = False) -> list[Scenario]:
        """Measure one contestant once in each scenario; return those that failed soon enough for a second try."""
        started = time.monotonic()
        cells = [self.file.cell(scenario.name, contestant, self.id) for scenario in scenarios]
        took_s = sum(cell.get("took_s", 0.0) for cell in cells)
        self.file.note_noise(self.id, noise.look(self.server))
        stage = Stage(contestant, self.file.data["contestants"][contestant], self.server, quick=self.plan.quick)
        failed: list[Scenario] = []
        try:
            with stage:
                for scenario, cell in zip(scenarios, cells, strict=True):
                    failures, before_s = cell.get("failures", 0), cell.get("took_s", 0.0)
                    self.say(f"  {contestant:<12} {scenario.name:<18} {measure(scenario, stage, cell)}")
                    cell["turns"] = cell.get("turns", 0) + (not again)
                    if cell.get("failures", 0) > failures:
                        stage.clear()  # what comes next is not to suffer from it
                        if cell["took_s"] - before_s < TRY_AGAIN_S:
                            failed.append(scenario)
        except Exception as error:  # of the stage itself: the others still have their turns
            self.say(f"  {contestant:<12} cannot be cleaned up: {error}")
        else_s = time.monotonic() - started + took_s - sum(cell["took_s"] for cell in cells if "took_s" in cell)
        cells[0]["took_s"] = round(cells[0].get("took_s", 0.0) + else_s, 1)  # the start and the end of the visit
        self.file.save()
        return failed

    def _all_at_once(self, measurements: Sequence[tuple[Scenario, str]]) -> None:
        """Measure at the same time what only waits: in a process each, with a server of its own."""
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder:
            running = [
                (one, name, self._alone(one, name, Path(folder)))
                for one, name in measurements
                if not self._refused(one, name)
            ]
            for scenario, contestant, (process, out) in running:
                cell = self.file.cell(scenario.name, contestant, self.id)
                try:
                    process.popen.wait(max(0.0, started + ALONE_WITHIN_S - time.monotonic()))
                except subprocess.TimeoutExpired:
                    pass  # what it has found so far is in its file
                process.stop()
                _take_over(cell, out, process)
                cell["turns"] = cell.get("turns", 0) + 1
                self.say(f"  {contestant:<12} {scenario.name:<18} {_in_words(cell)}")
                self.file.save()
        for scenario, contestant, _ in running:  # side by side: each is to be taken for its part of the time
            cell = self.file.cell(scenario.name, contestant, self.id)
            cell["took_s"] = round(cell["turns"] * (time.monotonic() - started) / len(running), 1)

    def _refused(self, scenario: Scenario, contestant: str) -> bool:
        """Whether a contestant's facts bar it, which is noted."""
        try:
            scenario.refuse(self.file.data["contestants"][contestant])
        except NotOfferedError as error:
            cell = self.file.cell(scenario.name, contestant, self.id)
            self.say(f"  {contestant:<12} {scenario.name:<18} {_not_offered(cell, error)}")
            return True
        return False

    def _alone(self, scenario: Scenario, contestant: str, folder: Path) -> tuple[Process, Path]:
        """Start this program for one measurement."""
        out = folder / f"{scenario.name}-{contestant}.json"
        command = [sys.executable, "-m", __package__, "run", "--rounds", "1", "--out", str(out)]
        command += [
            "--scenarios",
            scenario.name,
            "--contestants",
            contestant,
            *(["--quick"] if self.plan.quick else []),
        ]
        log = out.with_suffix(".log")
        return Process(command, env=dict(os.environ), cwd=environments.HERE.parent, log=log), out

    def done(self) -> None:
        """Note how long the run took, also the parts of it before it was broken off."""
        facts = self.file.data["runs"][self.id]
        facts["took_minutes"] = round(facts.get("took_minutes", 0.0) + (time.monotonic() - self._began) / 60, 1)
        self.file.save()


def _take_over(cell: Cell, out: Path, process: Process) -> None:
    """Add what another process of this program has found."""
    cells: list[Cell] = []
    if out.exists():
        cells = [found for row in json.loads(out.read_text())["cells"].values() for found in row.values()]
    if not cells or not cells[0].get("turns"):
        cell["failed"], cell["failures"] = f"not measured{process.said()}", cell.get("failures", 0) + 1
        return
    found = cells[0]
    cell["rounds"] += found["rounds"]
    cell["at"] = found["at"]
    cell |= {key: found[key] for key in ("failed", "not_offered", "cannot") if key in found}
    if "failures" in found and not found["rounds"]:
        cell["failures"] = cell.get("failures", 0) + found["failures"]


def _in_words(cell: Cell) -> str:
    if cell["rounds"]:
        return "  ".join(f"{name} {number(value)}" for name, value in cell["rounds"][-1].items())
    return f"not offered: {cell['not_offered']}" if "not_offered" in cell else f"failed: {cell.get('failed')}"


def _not_offered(cell: Cell, error: NotOfferedError) -> str:
    cell["at"] = now()
    cell["not_offered"] = str(error)
    if isinstance(error, CannotError):
        cell["cannot"] = str(error)
    return f"not offered: {error}"


def measure(scenario: Scenario, stage: Stage, cell: Cell) -> str:
    """Measure one scenario of one contestant once; note in its cell what came of it, and return that in one line."""
    started = time.monotonic()
    try:
        scenario.refuse(stage.facts)
        with no_longer_than(HANGS_AFTER_S):
            found = scenario.measure(stage)
        cell["rounds"].append(found)
        said = "  ".join(f"{name} {number(value)}" for name, value in found.items())
    except NotOfferedError as error:
        said = _not_offered(cell, error)
    except Exception as error:  # whatever it is: the others still have their turns
        cell["failed"] = str(error) if isinstance(error, FailedError) else f"{type(error).__name__}: {error}"
        cell["failures"] = cell.get("failures", 0) + 1
        said = f"failed: {cell['failed']}"
    cell["took_s"] = round(cell.get("took_s", 0.0) + time.monotonic() - started, 1)
    cell["at"] = now()
    return said


def in_short(facts: dict[str, Any]) -> str:
    """Write who takes part, in which version and at which settings, in one line."""
    versions = " ".join(f"{name}-{version}" for name, version in facts["versions"].items())
    modes = ", ".join(facts["modes"])
    return f"{facts['name']:<12} Python {facts['python']:<7} {modes:<22} {versions}  [{facts['settings']}]"
