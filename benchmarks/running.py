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


@dataclass(frozen=True)
class Plan:
    """How a run goes, besides what is measured."""

    rounds: int = 3
    quick: bool = False
    limits: bool = True


Say = Callable[[str], None]


def run(
    file: ResultsFile, scenarios: Sequence[Scenario], contestants: Sequence[str], plan: Plan, say: Say
) -> str:  # fmt: skip
    """Measure, save as it goes, and return the run's id."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder:
        server = Server(Path(folder))
        try:
            settings = {"redis": server.version(), "settings": " ".join(word or '""' for word in SETTINGS)}
            run_id = file.start_run({"machine": machine.facts(), "server": settings, **asdict(plan)})
            ready = meet(contestants, file, run_id, server, say)
            if plan.limits:
                measure_limits(file, run_id, server, plan, say)
            for scenario in scenarios:
                file.describe(scenario)
                say(f"{scenario.name}: {scenario.title}")
                rounds = min(plan.rounds, scenario.rounds or plan.rounds)
                for number_of_round, contestant in turns(ready, rounds):
                    cell = file.cell(scenario.name, contestant, run_id)
                    if "not_offered" in cell or cell.get("failures", 0) >= GIVE_UP_AFTER:
                        continue
                    file.note_noise(run_id, noise.look(server))
                    stage = Stage(contestant, file.data["contestants"][contestant], server, quick=plan.quick)
                    said = measure(scenario, stage, cell)
                    file.save()
                    say(f"  {number_of_round + 1}/{rounds} {contestant:<12} {said}")
        finally:
            server.stop()
    return run_id


def measure_limits(file: ResultsFile, run_id: str, server: Server, plan: Plan, say: Say) -> None:
    """Measure what the machine allows at most, once a round."""
    say("limits: what the machine, Redis and Python allow at most")
    values: dict[str, list[float]] = {}
    for _ in range(plan.rounds):
        for name, rate in limits.measure(server, quick=plan.quick):
            values.setdefault(name, []).append(rate)
    for name, rates in values.items():
        say(f"  {name:<50} {range_of(rates)} per second")
    file.data["limits"] = {"run": run_id, "at": now(), "values": values}
    file.save()


def meet(contestants: Sequence[str], file: ResultsFile, run_id: str, server: Server, say: Say) -> list[str]:
    """Ask each contestant for its facts; return those that answered. Why another did not is kept in the file."""
    ready = []
    for contestant in contestants:
        try:
            with Stage(contestant, {}, server) as stage:
                facts = file.data["contestants"][contestant] = stage.meet()
            file.data["runs"][run_id]["versions"][contestant] = facts["versions"]
            ready.append(contestant)
            say(in_short(facts))
        except (environments.MissingError, FailedError) as error:
            file.data["contestants"][contestant] = {"name": contestant, "failed": str(error), "at": now()}
            say(f"{contestant} does not take part: {error}")
    return ready


def in_short(facts: dict[str, Any]) -> str:
    """Write who takes part, in which version and at which settings, in one line."""
    versions = " ".join(f"{name}-{version}" for name, version in facts["versions"].items())
    modes = ", ".join(facts["modes"])
    return f"{facts['name']:<12} Python {facts['python']:<7} {modes:<22} {versions}  [{facts['settings']}]"


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
