"""The ledger as people see it, in 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console, Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from ..durations import text
from ..lifecycle import How
from .facts import Facts, Forced
from .ledger import Ledger

__all__ = ["print_ledger"]

WIDTH = 80
_LABEL = 13
_HOW: Mapping[How, str] = {
    How.RETURNED: "returned a value",
    How.RAISED: "raised an exception, on purpose",
    How.NOTICED: "were asked to end, and did",
    How.INTERRUPTED: "were interrupted",
    How.KILLED: "did not end when asked: process killed",
    How.LEFT_RUNNING: "did not end when asked, in a thread: a survivor",
    How.NEVER_STARTED: "never started",
    How.HOST_DIED: "died with what ran them",
}


def print_ledger(console: Console, ledger: Ledger) -> None:
    """Print the whole ledger and the verdict."""
    console.print(_render(ledger), width=min(WIDTH, console.width), highlight=False)


def _render(ledger: Ledger) -> RenderableType:
    facts = ledger.facts
    table = Table.grid(padding=(0, 1))
    table.add_column(width=_LABEL, style="bold")
    table.add_column()
    for label, rows in (
        ("Outcomes", _outcomes(ledger)),
        ("Had to end", _ended(facts)),
        ("Survivors", _survivors(facts)),
        ("Killed -9", _killed(facts)),
        ("Started again", _again(ledger)),
        ("Real work", _work(ledger)),
    ):
        table.add_row(label, Group(*rows))
        table.add_row("", "")
    for label, count, what in (
        ("Lost", len(ledger.lost), f"of {len(facts.seen):,} tasks have no outcome"),
        ("Left behind", len(facts.left_behind), "processes, looked for in /proc"),
        ("Wrong", len(ledger.problems), "things that are not as they should be"),
    ):
        table.add_row(label, Text(f"{count:>6,}  {what}", style="green" if count == 0 else "bold red"))
    parts: list[RenderableType] = [Rule("the ledger", style="dim"), table, Text()]
    parts += [Text(f"  WRONG: {problem}", style="bold red") for problem in ledger.problems]
    parts.append(_verdict(ledger))
    return Group(*parts)


def _outcomes(ledger: Ledger) -> Iterator[Text]:
    for row in ledger.outcomes:
        yield Text(f"{row.tasks:>6,}  {row.state.replace('_', ' '):<10} {_HOW[row.how]}")


def _ended(facts: Facts) -> Iterator[RenderableType]:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=22)
    for _ in range(3):
        table.add_column(justify="right", min_width=8)
    heads = ("what it does", "limit, grace", "asked at", "over in")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for forced in facts.forced:
        asked, over = _seconds(forced.asked_after_s), _seconds(forced.took_s)
        table.add_row(forced.what, forced.order, asked, over, _end_of(forced))
    yield table
    gone = [forced.gone_after_s for forced in facts.forced if forced.gone_after_s is not None]
    if gone:
        seen = f"{len(gone)} of {len(facts.forced)} seen to be gone, at most {text(max(gone))} after their outcome"
        yield Text(seen, style="dim")


def _end_of(forced: Forced) -> Text:
    if forced.gone_after_s is None:
        return Text("still there", style="bold red")
    words = {How.KILLED: "killed", How.LEFT_RUNNING: "left running", How.NOTICED: "ended itself"}
    return Text(words.get(forced.how, forced.how.value))


def _survivors(facts: Facts) -> Iterator[Text]:
    left = sum(1 for survived in facts.survived if survived.for_s is None)
    yield Text(f"{len(facts.survived):>6,}  ran on after its outcome: no thread can be killed alone")
    for survived in facts.survived:
        if survived.for_s is not None:
            yield Text(f"        gone within {text(survived.for_s)}: its whole process was replaced", style="dim")
    yield Text(f"{left:>6,}  left now", style="green" if left == 0 else "bold red")


def _killed(facts: Facts) -> Iterator[Text]:
    rescue = facts.rescue
    workers = sum(1 for kill in facts.kills if kill.worker)
    yield Text(f"     {_many(len(facts.kills) - workers, ' child', ' children')}, in the middle of a task")
    yield Text(f"     {_many(workers, ' worker')}, in the middle of everything:")
    held = "its window" if rescue.held is None else f"{rescue.held:,} tasks in its window"
    yield Text(f"        {held}, {rescue.running:,} of them running", style="dim")
    if rescue.back_s is not None:
        yield Text(f"        all back in line after {text(rescue.back_s)}", style="dim")
    if rescue.first_s is not None and rescue.last_s is not None:
        yield Text(
            f"        started again after {text(rescue.first_s)}, the last of them after {text(rescue.last_s)}",
            style="dim",
        )


def _again(ledger: Ledger) -> Iterator[Text]:
    for reason, count in sorted(ledger.again.items(), key=lambda item: -item[1]):
        yield Text(f"{count:>6,}  because {reason}" if reason else "")
    starts = sum(1 for note in ledger.facts.notes if note.what == "start")
    yield Text(f"        of {starts:,} starts, as the tasks wrote them down themselves", style="dim")


def _work(ledger: Ledger) -> Iterator[Text]:
    facts, sums = ledger.facts, ledger.facts.sums
    queue = sums.queue
    yield Text(
        f"{facts.files:>6,}  files of Python {facts.python}: {queue.get('lines', 0):,} lines, "
        f"{queue.get('functions', 0):,} functions,"
    )
    yield Text(f"        {queue.get('classes', 0):,} classes, {queue.get('bytes', 0) / 1e6:.1f} MB copied and hashed")
    same = not sums.differing and dict(sums.queue) == dict(sums.loop)
    verdict = "finds the same, file by file" if same else "finds something else"
    yield Text(f"        a plain loop {verdict}", style="green" if same else "bold red")
    yield Text(
        f"        {text(sums.queue_s)} in the queue, with all this; {text(sums.loop_s)} in the loop",
        style="dim",
    )


def _verdict(ledger: Ledger) -> Text:
    seconds = f"{ledger.facts.seconds:.0f} s"
    if ledger.ok:
        return Text(f"Every task has its outcome, and what hung is gone. {seconds} in all.\n", style="bold green")
    problems = _many(len(ledger.problems), "problem")
    return Text(f"Not as promised: {problems}, see above. {seconds} in all.\n", style="bold red")


def _many(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f} s"
