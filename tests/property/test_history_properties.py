"""The judge against good histories that were spoilt: whatever a rule forbids is found, wherever it is done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from support.history.judge import judge
from support.history.made import GOOD, Story, elsewhere, joined
from support.history.records import History

STORIES = {make.__name__: make for make in GOOD}
RETURNED = [name for name, make in STORIES.items() if any(end.state == "succeeded" for end in make().ended)]


@st.composite
def goods(draw, names: list[str]) -> tuple[History, str]:
    """A good history of several tasks, and one of its ids, of a story with one of these names."""
    chosen = draw(st.sampled_from(names))
    others = draw(st.lists(st.sampled_from(list(STORIES)), max_size=6))
    place = draw(st.integers(0, len(others)))
    all_names = [*others[:place], chosen, *others[place:]]
    stories = [
        elsewhere(STORIES[name](f"q:{n}"), n, draw(st.floats(0, 20, allow_nan=False)))
        for n, name in enumerate(all_names)
    ]
    return joined(stories), f"q:{place}"


def without(history: History, part: str, bad: Callable[[object], bool]) -> History:
    return dataclasses.replace(history, **{part: tuple(x for x in getattr(history, part) if not bad(x))})


def changed(history: History, part: str, which: Callable[[object], bool], **fields: object) -> History:
    records = tuple(dataclasses.replace(x, **fields) if which(x) else x for x in getattr(history, part))
    return dataclasses.replace(history, **{part: records})


def broken_by(history: History, id_: str) -> set[str]:
    return {violation.rule for violation in judge(history) if violation.id in (id_, "")}


@given(goods(list(STORIES)))
def test_good_stories_in_any_order_are_a_good_history(good):
    assert judge(good[0]) == []


@given(goods([name for name in STORIES if STORIES[name]().submitted[-1].answer == "accepted"]))
def test_a_lost_outcome_is_found(good):
    history, id_ = good
    assert "C1" in broken_by(without(history, "ended", lambda end: end.id == id_), id_)


@given(goods(RETURNED))
def test_a_lost_end_and_another_value_are_found(good):
    history, id_ = good
    ended = next(end for end in history.ended if end.id == id_)

    def made(line) -> bool:
        return line.id == id_ and line.what == "end" and line.fence == ended.fence

    assert "C2" in broken_by(without(history, "lines", made), id_)
    assert "C2" in broken_by(changed(history, "lines", made, value="forged"), id_)


@given(goods(["cancelled"]), st.floats(-1, 50))
def test_a_start_of_what_was_cancelled_is_found_whenever_it_was(good, after):
    history, id_ = good
    stop = next(stop for stop in history.stopped if stop.id == id_)
    start = Story(id_, worker="w9", pid=9).start(stop.answered + after).lines[0]

    assert broken_by(dataclasses.replace(history, lines=(*history.lines, start)), id_) == {"C3"}


@given(goods(RETURNED), st.floats(0.2, 50))
def test_a_start_after_the_outcome_is_found(good, after):
    history, id_ = good
    told = min(end.at for end in history.ended if end.id == id_)
    fence = max(line.fence for line in history.lines if line.id == id_) + 1
    late = Story(id_, worker="w9", pid=9).start(told + after, fence=fence).lines[0]

    assert "C4" in broken_by(dataclasses.replace(history, lines=(*history.lines, late)), id_)


@given(goods(RETURNED), st.integers(1, 3))
def test_an_attempt_that_nothing_shows_is_found(good, more):
    history, id_ = good
    attempt = next(end.attempt for end in history.ended if end.id == id_)

    wrong = changed(history, "ended", lambda end: end.id == id_, attempt=attempt + more)

    assert "C5" in broken_by(wrong, id_)


@given(goods(RETURNED))
def test_an_outcome_of_a_superseded_fence_is_found(good):
    history, id_ = good
    last = max((line for line in history.lines if line.id == id_ and line.what == "start"), key=lambda line: line.fence)
    later = dataclasses.replace(last, fence=last.fence + 1, at=last.at + 0.05, worker="w9", pid=9)

    assert "C6" in broken_by(dataclasses.replace(history, lines=(*history.lines, later)), id_)


@given(goods([name for name in RETURNED if STORIES[name]().faults]))
def test_a_second_start_is_found_once_the_fault_is_taken_away(good):
    history, id_ = good
    workers = {line.worker for line in history.lines if line.id == id_}

    calm = without(history, "faults", lambda fault: fault.worker in workers)

    assert "C7" in broken_by(calm, id_)


@given(goods(RETURNED), st.floats(0.01, 0.9))
def test_a_second_start_that_no_fault_explains_is_found(good, share):
    history, id_ = good
    last = max((line for line in history.lines if line.id == id_ and line.what == "start"), key=lambda line: line.fence)
    again = dataclasses.replace(last, at=last.at + share * 0.04)

    assert "C7" in broken_by(dataclasses.replace(history, lines=(*history.lines, again)), id_)


@given(goods(list(STORIES)), st.sampled_from(["live", "counters", "others"]))
def test_what_is_left_is_found(good, part):
    history, _ = good
    wrong = {"live": {"claimed": 1}, "counters": {"crashed": 77}, "others": ("held",)}[part]
    quiet = dataclasses.replace(history.quiet, **{part: wrong})

    assert {violation.rule for violation in judge(dataclasses.replace(history, quiet=quiet))} == {"C8"}


@given(goods([name for name in RETURNED if name != "left_running"]))  # which is of a thread
def test_a_stranger_in_a_process_slot_is_found(good):
    history, id_ = good
    run = next(line for line in history.lines if line.id == id_ and line.how == "returned")
    start = next(line for line in history.lines if line.id == id_ and line.fence == run.fence and line.what == "start")
    stranger = Story("q:stranger", pid=start.pid, worker=start.worker).submit(answer="unknown").start(start.at - 0.5)
    stranger.end(start.at + 0.5).told(start.at + 0.6)
    lines, submitted = (*history.lines, *stranger.lines), (*history.submitted, *stranger.submitted)

    found = judge(
        dataclasses.replace(history, lines=lines, submitted=submitted, ended=(*history.ended, *stranger.ended))
    )

    assert "C9" in {violation.rule for violation in found}


@given(goods(["child_killed", "died", "fork_server_killed", "worker_killed", "worker_frozen"]))
def test_a_fault_that_nobody_told_is_found(good):
    history, id_ = good

    assert "C10" in broken_by(dataclasses.replace(history, events=()), id_)


@given(goods([name for name in STORIES if any(end.state in ("cancelled", "timed_out", "expired", "crashed")
                                              for end in STORIES[name]().ended)]))  # fmt: skip
def test_an_outcome_that_nothing_made_is_found(good):
    history, id_ = good
    workers = {line.worker for line in history.lines if line.id == id_}
    bare = without(history, "stopped", lambda stop: stop.id == id_)
    bare = without(bare, "faults", lambda fault: fault.worker in workers)
    bare = without(bare, "lines", lambda line: line.id == id_ and line.how == "dies")

    bare = changed(bare, "submitted", lambda submit: submit.id == id_, timeout_s=None, deadline_s=None)

    assert "C2" in broken_by(bare, id_)


@given(goods([name for name in STORIES if STORIES[name]().ended]), st.sampled_from(["crashed", "expired"]))
def test_an_outcome_of_another_kind_is_found(good, state):
    history, id_ = good
    if any(end.state in ("crashed", "expired") for end in history.ended if end.id == id_):
        return

    wrong = changed(history, "ended", lambda end: end.id == id_, state=state, how="never_started", fence=None)

    assert "C2" in broken_by(wrong, id_)
