"""One run: each scenario in rounds in which the contestants take turns, with a look at the machine's noise between."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from . import environments, limits, machine, noise
from .adapter import FailedError, NotOfferedError
from .alternation import turns
from .figures import number, range_of
from .results_file import Cell, ResultsFile, now
from .scenarios import Scenario
from .server import SETTINGS, Server
from .stage import Stage

GIVE_UP_AFTER = 2  # failures of a contestant in one scenario; after that its turns are skipped

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How a run goes, besides what is measured."""

    rounds: int = 3
    quick: bool = False
    limits: bool = True


def run(file: ResultsFile, scenarios: Sequence[Scenario], contestants: Sequence[str], plan: Plan, say: Say) -> str:
    """Measure, save as it goes, and return the run's id."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder, Server(Path(folder)) as server:
        one = Run(file, server, plan, say)
        ready = one.meet(contestants)
        if plan.limits:
            one.limits()
        for scenario in scenarios:
            one.scenario(scenario, ready)
        return one.id


class Run:
    """What is measured now goes into this run's part of the file."""

    def __init__(self, file: ResultsFile, server: Server, plan: Plan, say: Say) -> None:
        self.file, self.server, self.plan, self.say = file, server, plan, say
        settings = {"redis": server.version(), "settings": " ".join(word or '""' for word in SETTINGS)}
        self.id = file.start_run({"machine": machine.facts(), "server": settings, **asdict(plan)})

    def meet(self, contestants: Sequence[str]) -> list[str]:
        """Ask each contestant for its facts; return those that answered. Why another did not is kept in the file."""
        ready, known = [], self.file.data["contestants"]
        for contestant in contestants:
            try:
                with Stage(contestant, {}, self.server) as stage:
                    facts = known[contestant] = stage.meet()
            except (environments.MissingError, FailedError) as error:
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

    def scenario(self, scenario: Scenario, contestants: Sequence[str]) -> None:
        """Let the contestants take their turns at one scenario."""
        self.file.describe(scenario)
        self.say(f"{scenario.name}: {scenario.title}")
        rounds = min(self.plan.rounds, scenario.rounds or self.plan.rounds)
        for turn, contestant in turns(contestants, rounds):
            cell = self.file.cell(scenario.name, contestant, self.id)
            if "not_offered" in cell or cell.get("failures", 0) >= GIVE_UP_AFTER:
                continue
            self.file.note_noise(self.id, noise.look(self.server))
            facts = self.file.data["contestants"][contestant]
            said = measure(scenario, Stage(contestant, facts, self.server, quick=self.plan.quick), cell)
            self.file.save()
            self.say(f"  {turn + 1}/{rounds} {contestant:<12} {said}")


def measure(scenario: Scenario, stage: Stage, cell: Cell) -> str:
    """Measure one scenario of one contestant once; note in its cell what came of it, and return that in one line."""
    started = time.monotonic()
    try:
        with stage:
            values = scenario.measure(stage)
        cell["rounds"].append(values)
        said = "  ".join(f"{name} {number(value)}" for name, value in values.items())
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
