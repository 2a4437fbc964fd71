"""One run: each scenario in rounds in which the contestants take turns, with a look at the machine's noise between."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import limits, machine, noise
from .adapter import FailedError, NotOfferedError
from .alternation import turns
from .budget import HANGS_AFTER_S, Budget, affordable, no_longer_than
from .comparison import OURS, ranked, values
from .figures import number, range_of
from .results_file import Cell, ResultsFile, now
from .scenarios import Scenario
from .server import SETTINGS, Server
from .stage import Stage

IMPORTANT = 2.0  # the weight of an important scenario in the time of a run; that of another is 1
TRY_AGAIN_S = 30.0  # who failed within so many seconds has a second try

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a run goes, besides what is measured."""

    rounds: int = 3
    quick: bool = False
    limits: bool = True
    minutes: float | None = None  # about how long it may take


def run(file: ResultsFile, scenarios: Sequence[Scenario], contestants: Sequence[str], plan: Plan, say: Say) -> str:
    """Measure, save as it goes, and return the run's id."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder, Server(Path(folder)) as server:
        one = Run(file, server, plan, say)
        budget = Budget(plan.minutes, [IMPORTANT if scenario.important else 1.0 for scenario in scenarios])
        ready = one.meet(contestants)
        if plan.limits:
            one.limits()
        for scenario in scenarios:
            one.scenario(scenario, ready, budget.share())
        one.done()
        return one.id


class Run:
    """What is measured now goes into this run's part of the file."""

    def __init__(self, file: ResultsFile, server: Server, plan: Plan, say: Say) -> None:
        self.file, self.server, self.plan, self.say = file, server, plan, say
        self._began = time.monotonic()
        settings = {"redis": server.version(), "settings": " ".join(word or '""' for word in SETTINGS)}
        self.id = file.start_run({"machine": machine.facts(), "server": settings, **asdict(plan)})

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
        """Measure what the machine allows at most, once a round."""
        self.say("limits: what the machine, Redis and Python allow at most")
        values: dict[str, list[float]] = {}
        for _ in range(self.plan.rounds):
            for name, rate in limits.measure(self.server, quick=self.plan.quick):
                values.setdefault(name, []).append(rate)
        for name, rates in values.items():
            self.say(f"  {name:<50} {range_of(rates)} per second")
        self.file.data["limits"] = {"run": self.id, "at": now(), "values": values}
        self.file.save()

    def scenario(self, scenario: Scenario, contestants: Sequence[str], share_s: float | None = None) -> None:
        """Let the contestants take their turns at one scenario: one round of all, and more as far as the time goes."""
        self.file.describe(scenario)
        self.say(f"{scenario.name}: {scenario.title}")
        started = time.monotonic()
        more = min(self.plan.rounds, scenario.rounds or self.plan.rounds) - 1
        took_s = {contestant: self._turn(scenario, contestant, 1) for contestant in contestants}
        row = self.file.data["cells"][scenario.name]
        again = [name for name in took_s if "failed" in row[name] and took_s[name] < TRY_AGAIN_S]
        for contestant in again:
            took_s[contestant] = self._turn(scenario, contestant, 1)
        figure = self.file.data["scenarios"][scenario.name]["figures"][0]
        measured = [name for name in ranked(row, figure) if name in took_s and values(row[name], figure["name"])]
        measured.sort(key=lambda name: name != OURS)
        left_s = None if share_s is None else share_s - (time.monotonic() - started)
        chosen = affordable(measured, took_s, left_s, more)
        in_turn = [name for name in reversed(contestants) if name in chosen]  # A B C was the first round
        for turn, contestant in turns(in_turn, more):
            self._turn(scenario, contestant, turn + 2)
        self.file.save()

    def _turn(self, scenario: Scenario, contestant: str, number_of_round: int) -> float:
        """Measure one contestant once, and return the seconds that this took in all."""
        started = time.monotonic()
        cell = self.file.cell(scenario.name, contestant, self.id)
        self.file.note_noise(self.id, noise.look(self.server))
        facts = self.file.data["contestants"][contestant]
        said = measure(scenario, Stage(contestant, facts, self.server, quick=self.plan.quick), cell)
        self.file.save()
        self.say(f"  {number_of_round} {contestant:<12} {said}")
        return time.monotonic() - started

    def done(self) -> None:
        """Note how long the run took."""
        self.file.data["runs"][self.id]["took_minutes"] = round((time.monotonic() - self._began) / 60, 1)
        self.file.save()


def measure(scenario: Scenario, stage: Stage, cell: Cell) -> str:
    """Measure one scenario of one contestant once; note in its cell what came of it, and return that in one line."""
    started = time.monotonic()
    try:
        with stage, no_longer_than(HANGS_AFTER_S):
            found = scenario.measure(stage)
        cell["rounds"].append(found)
        said = "  ".join(f"{name} {number(value)}" for name, value in found.items())
    except NotOfferedError as error:
        cell["not_offered"] = str(error)
        said = f"not offered: {error}"
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
