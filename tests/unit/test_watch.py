"""What `qworker watch` shows of a task, whatever was stored: it may have been written by anybody."""

from __future__ import annotations

import io
import sys

import pytest
from rich.console import Console

from qworker import codec
from qworker.cli import status, watch
from qworker.cli.terminal import draws
from qworker.cli.watch import View, lines_of, picture, view_of
from qworker.lifecycle import State
from qworker.model import Progress, Record, Told
from qworker.status import progress_text
from qworker.views import Inspection


def found(told: bytes | None = None, **changes) -> Inspection:
    facts = {"record": Record(state=State.RUNNING, started_ms=1_000), "worker": "box-2:1:a", "now_ms": 5_200}
    return Inspection("1", State.RUNNING, progress=told, **(facts | changes))


def told(progress: Progress | None, *lines: str) -> bytes:
    return codec.pack_told(Told("q:1", progress, lines))


def drawn(view: View) -> list[str]:
    """The picture as text, without its colours."""
    console = Console(file=io.StringIO(), width=110, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(picture(view))
    return [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]


def test_a_running_task_is_drawn_with_its_bar_and_last_lines():
    rows = drawn(view_of("q:1", found(told(Progress(3, 10, "rows"), "one", "two"))))

    assert rows[0] == "q:1"
    assert rows[1] == "running on box-2 for 4.2 s, attempt 1, 3 of 10 done: rows"
    assert rows[2].startswith("━" * 12)
    assert rows[2].endswith(" 30%")
    assert rows[3:] == ["  one", "  two"]


@pytest.mark.parametrize("progress", [Progress(3), Progress(3, 0), Progress(float("nan"), 4)])
def test_progress_of_no_known_share_is_said_without_a_bar(progress):
    rows = drawn(view_of("q:1", found(told(progress))))

    assert len(rows) == 2
    assert rows[1].endswith(progress_text(progress))


def test_more_than_all_of_it_is_a_full_bar():
    assert drawn(view_of("q:1", found(told(Progress(9, 4)))))[2].endswith(" 100%")


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (Progress(3, 10, "rows"), "3 of 10 done: rows"),
        (Progress(1_234_567), "1,234,567 done"),
        (Progress(0.5, 1), "0.50 of 1 done"),
    ],
)
def test_progress_is_told_as_people_read_it(progress, text):
    assert progress_text(progress) == text


def test_what_nobody_of_ours_wrote_is_no_progress():
    view = view_of("q:1", found(b"\xc1"))

    assert (view.status.progress, view.lines) == (None, ())


def test_what_a_task_says_moves_no_cursor_and_sets_no_colour():
    view = view_of("q:1", found(told(Progress(1, 2, "\x1b[31mred"), "\x1b]0;title\x07")))

    assert "\x1b" not in "".join(lines_of(view))
    assert not any("\x1b[31m" in row or "\x07" in row for row in drawn(view))


def test_trouble_is_shown_beside_what_was_known():
    view = view_of("q:1", found())._replace(trouble="the server does not answer: gone")

    assert list(lines_of(view))[1] == "  the server does not answer: gone"
    assert drawn(view)[-1] == "the server does not answer: gone"


def test_only_what_changed_makes_another_line():
    before, later = view_of("q:1", found()), view_of("q:1", found(now_ms=9_000))
    assert before.facts == later.facts

    for other in (
        found(told(Progress(1))),
        found(told(None, "a line")),
        found(worker="box-3:1:a"),
        found(record=Record(state=State.RUNNING, attempt=2)),
    ):
        assert view_of("q:1", other).facts != before.facts


def test_of_the_last_lines_only_those_are_printed_that_are_new():
    first, then = (view_of("q:1", found(told(None, *map(str, lines)))) for lines in (range(10), range(2, 12)))

    assert list(lines_of(then, first)) == ["  | 10", "  | 11"]
    assert list(lines_of(first, first._replace(lines=()))) == [f"  | {n}" for n in range(10)]
    other = view_of("q:1", found(told(None, "else")))
    assert list(lines_of(other, first)) == ["  | else"]


def test_a_new_state_is_printed_without_the_lines_that_were_printed_before():
    first = view_of("q:1", found(told(None, "one")))
    further = view_of("q:1", found(told(Progress(3, 10), "one", "two")))

    assert list(lines_of(further, first)) == ["q:1 running on box-2 for 4.2 s, attempt 1, 3 of 10 done", "  | two"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("kind", "moves"), [("dumb", False), ("unknown", False), ("xterm", True)])
def test_a_terminal_that_cannot_move_its_cursor_gets_lines(kind, moves, monkeypatch):
    screen = Terminal()
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setattr(sys, "stderr", screen)

    assert draws(screen) is moves
    assert not draws(io.StringIO())
    with watch._screen(as_json=False) as shown:
        shown.show(view_of("q:1", found()))
    assert "running on box-2" in screen.getvalue()


def test_status_is_shown_again_on_a_terminal_that_cannot_move_its_cursor(monkeypatch):
    screen = Terminal()
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", screen)
    nothing = status.Snapshot(0.0, (), ())
    monkeypatch.setattr(status, "_look", lambda *_: nothing)
    monkeypatch.setattr(status, "_looks", lambda *_: iter([nothing]))

    status._watch(None, None, as_json=False)  # type: ignore[arg-type]

    assert screen.getvalue().count("no queue was ever used") == 2
