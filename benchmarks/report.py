"""The page docs/bench.md, made from the file of results, and the plots beside it."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import environments, noise
from .comparison import OURS, Beside, beside, goals, group, ranked
from .figures import number, rounds_of
from .scenarios import FAMILIES
from .table import CANNOT, NOTHING, columns, table, titled, written

Data = dict[str, Any]


def write(results: Path, page: Path) -> Iterator[str]:
    """Write the page and the plots; yield what was written."""
    data: Data = json.loads(results.read_text())
    pictures = page.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    try:
        draw(data, results, pictures)
        yield f"drew {pictures}/*.png"
    except environments.MissingError as error:
        yield f"no plots: {error}"
    source = os.path.relpath(results, page.parent)
    page.write_text("\n".join(lines(data, source, pictures)) + "\n")
    yield f"wrote {page}"


def draw(data: Data, results: Path, folder: Path) -> None:
    """Draw the plots, in the environment that has matplotlib."""
    python = environments.python_of(environments.PLOTS)
    families = {slug(title): [one.name for one in family] for title, family in FAMILIES.items()}
    lines_of = {name: [[one.figure, one.target, one.text] for one in goals(data, name)] for name, _ in described(data)}
    told = [json.dumps(families), json.dumps(lines_of)]
    command = [str(python), str(environments.HERE / "plots.py"), str(results), str(folder), *told]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise environments.MissingError(f"the plots could not be drawn: {done.stderr[-500:]}")


def slug(title: str) -> str:
    """Return the name of a family's picture."""
    return title.lower().replace(" ", "-")


def lines(data: Data, source: str, pictures: Path) -> Iterator[str]:
    """Yield the lines of the page; `source` is the file of results, as the page links to it."""
    marks = marks_of(data)
    yield from head(data, source, marks)
    yield from summary(data)
    yield from wanted(data)
    for title, family in FAMILIES.items():
        names = [one.name for one in family if one.name in data["cells"]]
        if names:
            yield from section(data, title, names, marks)
            picture = pictures / f"{slug(title)}.png"
            if picture.exists():
                yield from ("", f"![{title}]({pictures.name}/{picture.name})")
    yield from limits(data, marks)
    yield from contestants(data)
    yield from cannots(data)
    yield from failures(data)


def marks_of(data: Data) -> dict[str, str]:
    """Return what marks the cells of each run: nothing for the run of most of our own cells, letters for others."""
    cells = [(name, cell["run"]) for row in data["cells"].values() for name, cell in row.items()]
    used = Counter(run for _, run in cells)
    if data["limits"]:
        used[data["limits"]["run"]] += 1
    ours = Counter(run for name, run in cells if name == OURS)
    order = sorted(used, key=lambda run: (ours[run], used[run], run), reverse=True)
    return {run: f" [{chr(ord('a') + place - 1)}]" if place else "" for place, run in enumerate(order)}


def head(data: Data, source: str, marks: dict[str, str]) -> Iterator[str]:
    """Yield what was measured on what, and how steady that was."""
    yield "# Benchmarks"
    yield ""
    yield (
        f"Made by `python -m benchmarks report` from [{source}]({source}); benchmarks/README.md says how each figure "
        "is measured. Medians, least and most in brackets, n rounds. Compare within one run; differences under about "
        f"15 % are ties. {NOTHING} means that a contestant offers no such thing, *{CANNOT}* that it does not do it "
        "there: the reasons stand at the end."
    )
    for run, mark in marks.items():
        facts = data["runs"][run]
        machine, server = facts["machine"], facts["server"]
        yield ""
        if mark:
            yield f"**Figures marked{mark} are of another run**, and are compared with nobody's: "
        yield (
            f"{facts['started']}: {facts['rounds']} rounds on {machine['cpus']} cores "
            f"({machine['cpu']}), {machine['memory_gib']} GiB, {machine['system']}, Python {machine['python']}, "
            f"commit {machine['commit']}, load before {machine['load_before']}. Redis {server['redis']} over TCP "
            f"on loopback, `{server['settings']}`."
        )
        if facts.get("minutes"):
            yield (
                f"It was given {facts['minutes']:g} minutes{_took(facts)}: rounds of all, as many as fitted, and then "
                "first of what decides whether a goal is met: qworker and those that were best. A figure without "
                "brackets is of one round."
            )
        elif "took_minutes" in facts:
            yield f"It took {facts['took_minutes']:g} minutes."
        if facts["quick"]:
            yield "**A quick run: its figures show that all works, and mean nothing.**"
        yield from noise_lines(facts["noise"])


def _took(facts: Data) -> str:
    return f", and took {facts['took_minutes']:g}" if "took_minutes" in facts else ", and was not ended"


def noise_lines(looks: list[dict[str, float]]) -> Iterator[str]:
    """Yield how much the same small work varied between the runs."""
    names = {"loop_ms": ("a fixed loop", "ms"), "ping_us": ("a PING round trip", "µs")}
    for name, found in noise.spread(looks).items():
        what, unit = names[name]
        yield (
            f"Noise: {what} took {number(found['median'])} {unit} "
            f"({number(found['min'])}-{number(found['max'])}) in {len(looks)} looks."
        )


def summary(data: Data) -> Iterator[str]:
    """Yield one line per scenario: ours beside the best queue and the best local pool of the same run."""
    queues, local = group(data, "queue"), group(data, "local pool")
    rows = []
    for name, scenario in described(data):
        figure, row = scenario["figures"][0], data["cells"][name]
        found = beside(row, figure, queues), beside(row, figure, local)
        if any(found):
            first = next(one for one in found if one)
            alone = [one["unit"] for one in scenario["figures"]].count(figure["unit"]) == 1
            title = titled(scenario, figure["unit"], [] if alone else [figure["name"]])
            rows.append([title, rounds_of(first.our_rounds), *(text for one in found for text in _beside(one))])
    if rows:
        yield from ("", "## qworker beside the best of the others", "")
        yield "A ratio over 1 means that qworker is better, whichever way that is."
        yield ""
        yield from table(["", OURS, "best queue", "ratio", "best local pool", "ratio"], rows)


def wanted(data: Data) -> Iterator[str]:
    """Yield the goals, and whether they are met."""
    rows = []
    for name, scenario in described(data):
        figures = {figure["name"]: figure for figure in scenario["figures"]}
        for one in goals(data, name):
            figure = figures[one.figure]
            alone = [other["unit"] for other in scenario["figures"]].count(figure["unit"]) == 1
            title = titled(scenario, figure["unit"], [] if alone else [one.figure])
            rows.append([title, one.text, number(one.target), rounds_of(one.our_rounds), "yes" if one.met else "no"])
    if rows:
        yield from ("", "## The goals", "")
        yield from table(["", "goal", "that is", OURS, "met"], rows)


def _beside(found: Beside | None) -> tuple[str, str]:
    return (f"{found.name} {rounds_of(found.their_rounds)}", number(found.times)) if found else (NOTHING, NOTHING)


def described(data: Data) -> Iterator[tuple[str, Any]]:
    """Yield the scenarios that were measured, in the order of the families."""
    for family in FAMILIES.values():
        for one in family:
            if one.name in data["cells"]:
                yield one.name, data["scenarios"][one.name]


def section(data: Data, title: str, names: list[str], marks: dict[str, str]) -> Iterator[str]:
    """Yield the table of a family: a line per contestant, the best at the first scenario on top."""
    first = data["scenarios"][names[0]]["figures"][0]
    everyone = {contestant: {} for name in names for contestant in data["cells"][name]}
    order = ranked({**everyone, **data["cells"][names[0]]}, first)
    cells = [(name, *column) for name in names for column in columns(data["scenarios"][name])]
    rows = []
    for contestant in order:
        row = [f"**{contestant}**" if contestant == OURS else contestant]
        for name, _, figures in cells:
            cell = data["cells"][name].get(contestant)
            row.append(written(cell, figures, marks[cell["run"]] if cell else ""))
        if any(text not in ("", NOTHING) for text in row[1:]):
            rows.append(row)
    yield from ("", f"## {title}", "")
    yield from table(["", *(text for _, text, _ in cells)], rows)


def limits(data: Data, marks: dict[str, str]) -> Iterator[str]:
    """Yield what the machine allows at most."""
    if not data["limits"]:
        return
    mark = marks[data["limits"]["run"]]
    yield from ("", "## What the machine allows at most", "")
    rows = [[name, rounds_of(rates) + mark] for name, rates in data["limits"]["values"].items()]
    yield from table(["", "per second"], rows)


def contestants(data: Data) -> Iterator[str]:
    """Yield who took part, in which version and at which settings."""
    yield from ("", "## Contestants", "")
    for name, facts in sorted(data["contestants"].items()):
        if "failed" in facts:
            yield f"- **{name}** took no part: {one_line(facts['failed'])}"
        else:
            versions = ", ".join(f"{what} {version}" for what, version in facts["versions"].items())
            yield f"- **{name}** (Python {facts['python']}{versions and '; ' + versions}): {facts['settings']}"


def cannots(data: Data) -> Iterator[str]:
    """Yield what contestants do not do, with the reason, which is of their documentation."""
    why: dict[tuple[str, str], list[str]] = {}
    for name, row in data["cells"].items():
        for contestant, cell in sorted(row.items()):
            if "cannot" in cell:
                why.setdefault((contestant, cell["cannot"]), []).append(name)
    if why:
        yield from ("", "## What cannot be", "")
        yield from (f"- {contestant}, {', '.join(names)}: {text}" for (contestant, text), names in why.items())


def failures(data: Data) -> Iterator[str]:
    """Yield what failed, with the reason."""
    failed = [
        f"- {contestant}, {name}, {cell['failures']} x: {one_line(cell['failed'])}"
        for name, row in data["cells"].items()
        for contestant, cell in row.items()
        if "failed" in cell
    ]
    if failed:
        yield from ("", "## What failed", "", *failed)


def one_line(reason: str, most: int = 400) -> str:
    """Shorten a reason to its start and its end, in one line that Markdown leaves alone."""
    text = " / ".join(line.strip() for line in reason.splitlines() if line.strip()).replace("`", "'")
    return f"`{text if len(text) <= most else text[: most // 2] + ' … ' + text[-most // 2 :]}`"
