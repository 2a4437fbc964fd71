"""The JSON file of results: what was measured, when, in which run, on what machine.

    {"runs":        {run: {"started", "machine", "server", "versions", "rounds", "quick", "noise": [{…}, …]}},
     "contestants": {name: {"versions", "python", "modes", "settings", …, or "failed"}},
     "cells":       {scenario: {contestant: {"run", "at", "rounds": [{figure: value}, …], "turns", "took_s",
                                            "failed", "failures", "not_offered", "cannot"}}},
     "scenarios":   {scenario: {"title", "figures": [{"name", "unit", "best"}, …],
                                "goals": [{"figure", "by", "of"}, …]}},
     "limits":      {"run", "at", "values": {name: [value, …]}}}

A run adds to the file that is there, cell by cell, and saves after each measurement, so that one which is interrupted
keeps what it has, and can go on. A cell is of one run: measuring it again replaces it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .scenarios import Scenario

KEYS = ("runs", "contestants", "scenarios", "cells", "limits")

Cell = dict[str, Any]


class ResultsFile:
    """The file and what is in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.data: dict[str, Any] = {key: {} for key in KEYS}
        if path.exists():
            self.data |= json.loads(path.read_text())

    def start_run(self, facts: dict[str, Any]) -> str:
        """Begin a run and return its id."""
        run = run_id()
        self.data["runs"][run] = {"started": now(), "noise": [], "versions": {}, **facts}
        return run

    def go_on(self, facts: dict[str, Any]) -> str:
        """Return the id of the latest run, to add to it what it lacks.

        Raises:
            SystemExit: there is none, or it was of other code, another machine or other settings.
        """
        run = max(self.data["runs"], default=None)
        if run is None:
            raise SystemExit(f"there is no run in {self.path} to go on with")
        earlier = self.data["runs"][run]
        for key in ("machine", "server", "quick"):
            was, now_is = _lasting(earlier[key]), _lasting(facts[key])
            if was != now_is:
                raise SystemExit(f"run {run} cannot go on, its {key} was another one: {was}, now {now_is}")
        earlier |= {"rounds": facts["rounds"], "minutes": facts["minutes"]}
        return run

    def peek(self, scenario: str, contestant: str, run: str) -> Cell:
        """Return what this run has in a cell, and leave there what is of another run."""
        found: Cell = self.data["cells"].get(scenario, {}).get(contestant, {})
        return found if found.get("run") == run else {}

    def cell(self, scenario: str, contestant: str, run: str) -> Cell:
        """Return the cell of this run, a fresh one when what is there is of another."""
        row = self.data["cells"].setdefault(scenario, {})
        if row.get(contestant, {}).get("run") != run:
            row[contestant] = {"run": run, "at": now(), "rounds": []}
        return row[contestant]

    def describe(self, scenario: Scenario) -> None:
        """Keep what the report says of a scenario, so that it can be made from the file alone."""
        self.data["scenarios"][scenario.name] = {
            "title": scenario.title,
            "figures": [asdict(figure) for figure in scenario.figures],
            "goals": [asdict(goal) for goal in scenario.goals],
        }

    def note_noise(self, run: str, look: dict[str, float]) -> None:
        """Keep a look at the machine's noise."""
        self.data["runs"][run]["noise"].append({name: round(value, 2) for name, value in look.items()})

    def save(self) -> None:
        """Write the file, whole or not at all; forget runs of which nothing is left."""
        used = {cell["run"] for row in self.data["cells"].values() for cell in row.values()}
        used.add(self.data["limits"].get("run"))
        used.add(max(self.data["runs"], default=None))
        self.data["runs"] = {run: facts for run, facts in self.data["runs"].items() if run in used}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".draft")
        draft.write_text(json.dumps(self.data, indent=1, ensure_ascii=False) + "\n")
        draft.replace(self.path)


def _lasting(facts: Any) -> Any:
    """Return facts without the one that is another at each look, and without the mark of files that were changed."""
    if not isinstance(facts, dict):
        return facts
    kept = {name: value for name, value in facts.items() if name != "load_before"}
    return kept | ({"commit": kept["commit"].removesuffix("-dirty")} if "commit" in kept else {})


def run_id() -> str:
    """Return a name for a run that starts now; later ones sort behind."""
    return datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")


def now() -> str:
    """Return the time, to the second, in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
