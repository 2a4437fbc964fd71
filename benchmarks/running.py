"""One run: each scenario in rounds in which the contestants take turns, with a look at the machine's noise between."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from . import environments, machine, noise
from .adapter import FailedError, NotOfferedError
from .alternation import turns
from .figures import number
from .processes import sweep
from .results_file import Cell, ResultsFile, now
from .scenarios import Scenario
from .server import SETTINGS, Server
from .stage import Stage

GIVE_UP_AFTER = 2  # failures of a contestant in one scenario; after that its turns are skipped

Say = Callable[[str], None]


def run(
    file: ResultsFile, scenarios: Sequence[Scenario], contestants: Sequence[str], *, rounds: int, quick: bool, say: Say
) -> str:
    """Measure, save as it goes, and return the run's id."""
    with tempfile.TemporaryDirectory(prefix="qworker-bench-") as folder:
        server = Server(Path(folder))
        try:
            settings = {"redis": server.version(), "settings": " ".join(word or '""' for word in SETTINGS)}
            started = {"machine": machine.facts(), "server": settings, "rounds": rounds, "quick": quick}
            run_id = file.start_run(started)
            ready = meet(contestants, file, server, say)
            for scenario in scenarios:
                say(f"{scenario.name}: {scenario.title}")
                least = min(rounds, scenario.rounds or rounds)
                for turn, contestant in turns(ready, least):
                    cell = file.cell(scenario.name, contestant, run_id)
                    if "not_offered" in cell or cell.get("failures", 0) >= GIVE_UP_AFTER:
                        continue
                    file.data["runs"][run_id]["noise"].append(noise.look(server))
                    stage = Stage(contestant, file.data["contestants"][contestant], server, quick=quick)
                    said = measure(scenario, stage, cell)
                    file.save()
                    say(f"  {turn + 1}/{least} {contestant:<12} {said}")
        finally:
            server.stop()
    return run_id


def meet(contestants: Sequence[str], file: ResultsFile, server: Server, say: Say) -> list[str]:
    """Ask each contestant for its facts; return those that answered. Why another did not is kept in the file."""
    ready = []
    for contestant in contestants:
        try:
            with Stage(contestant, {}, server) as stage:
                file.data["contestants"][contestant] = stage.meet()
            ready.append(contestant)
        except (environments.MissingError, FailedError) as error:
            file.data["contestants"][contestant] = {"name": contestant, "failed": str(error), "at": now()}
            say(f"{contestant} does not take part: {error}")
    return ready


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
    except FailedError as error:
        cell["failed"] = str(error)
        cell["failures"] = cell.get("failures", 0) + 1
        said = f"failed: {error}"
    finally:
        sweep()
    cell["took_s"] = round(cell.get("took_s", 0.0) + time.monotonic() - started, 1)
    cell["at"] = now()
    return said
