from __future__ import annotations

from qworker.demo.facts import Kill
from qworker.demo.notes import Note
from qworker.demo.story import starts_after, which_were_cut_short

KILL = Kill(at_s=5.0, pid=100, worker="a")


def start(worker: str, at_s: float) -> Note:
    return Note(at_s=at_s, what="start", id="q:1", attempt=1, worker=worker, pid=100, thread=100)


def test_a_start_elsewhere_before_the_kill_or_in_the_killed_worker_is_none_after_it() -> None:
    assert starts_after(KILL, [start("b", 4.0), start("a", 4.5), start("b", 5.5)]) == [5.5]


def test_what_had_ended_before_the_kill_and_was_heard_of_later_was_not_cut_short() -> None:
    starts = {"ended": [start("a", 4.0)], "again": [start("a", 4.0), start("b", 6.0)], "nothing yet": [start("a", 4.0)]}

    assert which_were_cut_short(starts, {"ended", "again"}, starts, KILL) == ["again", "nothing yet"]
