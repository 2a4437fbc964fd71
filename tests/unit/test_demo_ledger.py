"""The judge of the demo: what it must not let pass."""

from __future__ import annotations

import dataclasses
import io
import json
from typing import Any

import pytest
import typer
from rich.console import Console

from qworker.cli.demo import demo
from qworker.demo import show
from qworker.demo.facts import Facts, Forced, Kill, Rescue, Seen, Sums, Survived
from qworker.demo.ledger import CHILD_KILLED, RETRIED, UNEXPLAINED, WORKER_KILLED, as_json, judge
from qworker.demo.notes import Note
from qworker.lifecycle import How, State
from qworker.model import Outcome

FINE = frozenset({(State.SUCCEEDED, How.RETURNED)})
NEVER = frozenset({(State.CANCELLED, How.NEVER_STARTED)})
KILL_CHILD = Kill(at_s=5.0, pid=100)
KILL_WORKER = Kill(at_s=6.0, pid=200, worker="A")


def seen(task: str, state: State | None = State.SUCCEEDED, how: How = How.RETURNED, *, expected: Any = FINE) -> Seen:
    return Seen(task, "parse", expected, None if state is None else Outcome(task, state, how))


def start(
    task: str, at_s: float = 1.0, *, attempt: int = 1, worker: str = "B", pid: int = 10, what: str = "start"
) -> Note:
    return Note(at_s, what, task, attempt, worker, pid, pid)


def facts(**changes: Any) -> Facts:
    """Facts of a demo in which all was well: one task that ran, one that was cancelled in its line."""
    sums = Sums(queue={"files": 1, "bytes": 9}, loop={"files": 1, "bytes": 9}, differing=(), queue_s=1.0, loop_s=2.0)
    fine = Facts(
        seconds=12.0,
        files=1,
        python="3.11.7",
        server="valkey-server",
        slots={"process": 2},
        seen=[seen("q:1"), seen("q:2", State.CANCELLED, How.NEVER_STARTED, expected=NEVER)],
        notes=[start("q:1")],
        forced=[Forced("busy loop", "process", "1 + 1 s", How.KILLED, 1.0, 1.01, 0.0)],
        survived=[Survived("sleep in a thread", 0.1)],
        kills=[KILL_CHILD, KILL_WORKER],
        rescue=Rescue(held=7, back_s=0.01, running=2, first_s=0.01, last_s=0.3),
        drained=0,
        left_behind=(),
        sums=sums,
    )
    return dataclasses.replace(fine, **changes)


def test_a_demo_in_which_all_was_well_has_no_problems() -> None:
    ledger = judge(facts())

    assert ledger.ok
    assert ledger.problems == ()
    assert [(row.state, row.how, row.tasks) for row in ledger.outcomes] == [
        (State.SUCCEEDED, How.RETURNED, 1),
        (State.CANCELLED, How.NEVER_STARTED, 1),
    ]


def test_a_task_without_an_outcome_is_lost() -> None:
    ledger = judge(facts(seen=[seen("q:1"), seen("q:3", None)], notes=[start("q:1")]))

    assert ledger.lost == ("q:3",)
    assert ledger.problems == ("task q:3 (parse) is lost: no outcome came",)


def test_a_task_that_ended_otherwise_than_it_should_is_wrong() -> None:
    ledger = judge(facts(seen=[seen("q:1", State.CRASHED, How.HOST_DIED)]))

    assert ledger.problems == ("task q:1 (parse) ended as crashed/host_died, not as succeeded/returned",)


def test_a_wrong_value_is_wrong_although_its_outcome_is_right() -> None:
    wrong = dataclasses.replace(seen("q:1"), wrong="it returned 7")

    assert judge(facts(seen=[wrong])).problems == ("task q:1 (parse): it returned 7",)


def test_a_task_said_never_to_have_started_that_noted_a_start_is_wrong() -> None:
    ledger = judge(facts(notes=[start("q:1"), start("q:2", pid=77)]))

    assert ledger.never_started == 0
    assert ledger.problems == ("task q:2 (parse) is said never to have started, and it has, in pid 77",)


def test_a_task_said_to_have_run_that_noted_no_start_is_wrong() -> None:
    assert judge(facts(notes=[])).problems == ("task q:1 (parse) is said to have run, and it never started",)


@pytest.mark.parametrize(
    ("notes", "reason"),
    [
        ([start("q:1"), start("q:1", what="raise"), start("q:1", 2.0, attempt=2)], RETRIED),
        ([start("q:1", 4.9, pid=100), start("q:1", 5.1, attempt=2)], CHILD_KILLED),
        ([start("q:1", 5.9, worker="A"), start("q:1", 6.2)], WORKER_KILLED),
        # Its children die a moment after their worker, and may have begun one more.
        ([start("q:1", 6.001, worker="A"), start("q:1", 6.2)], WORKER_KILLED),
    ],
)
def test_a_second_start_is_counted_under_what_ended_the_first(notes: list[Note], reason: str) -> None:
    ledger = judge(facts(notes=notes))

    assert ledger.ok
    assert ledger.again == {reason: 1}


@pytest.mark.parametrize(
    "notes",
    [
        [start("q:1"), start("q:1", 2.0)],
        # It raised in its second attempt; that explains no third start after the first.
        [start("q:1"), start("q:1", 2.0, attempt=2, what="raise"), start("q:1", 2.5)],
        # The pid was given to another child after the kill.
        [start("q:1", 5.5, pid=100), start("q:1", 5.6)],
    ],
)
def test_a_second_start_that_nothing_explains_is_a_problem(notes: list[Note]) -> None:
    ledger = judge(facts(notes=notes))

    assert ledger.again == {UNEXPLAINED: 1}
    assert not ledger.ok
    assert "nothing was killed or failed in between" in ledger.problems[0]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"forced": [Forced("busy loop", "process", "timeout 1 s", How.KILLED, 1.0, 1.0, None)]},
            "busy loop was ended (killed), and it is still there",
        ),
        (
            {"survived": [Survived("a sleeping thread", None)]},
            "a sleeping thread ran on after its outcome, and still does",
        ),
        (
            {"rescue": Rescue(held=7, back_s=0.01, running=2, first_s=0.1, last_s=None)},
            "what the killed worker was running was not started again by the other one",
        ),
        ({"drained": 4}, "the other worker was told to drain (TERM), and ended with status 4"),
        ({"drained": None}, "the other worker was told to drain (TERM), and did not end"),
        ({"left_behind": ["pid 5: sleep 9"]}, "left behind: pid 5: sleep 9"),
        ({"seen": [], "notes": [], "files": 0}, "nothing was done: no task was seen"),
    ],
)
def test_what_is_still_running_or_not_put_right_is_a_problem(changes: dict[str, Any], problem: str) -> None:
    assert judge(facts(**changes)).problems == (problem,)


def test_a_worker_that_ran_nothing_when_it_was_killed_leaves_nothing_to_start_again() -> None:
    assert judge(facts(rescue=Rescue(held=7, back_s=0.01, running=0, first_s=None, last_s=None))).ok


def test_sums_that_differ_from_those_of_a_plain_loop_are_a_problem() -> None:
    sums = dataclasses.replace(facts().sums, queue={"files": 1, "bytes": 8}, differing=("what is in os.py",))

    ledger = judge(facts(sums=sums))

    assert ledger.problems == (
        "not what a plain loop finds: what is in os.py",
        "the sums differ: {'files': 1, 'bytes': 8} from the queue, {'files': 1, 'bytes': 9} from a plain loop",
    )
    assert as_json(ledger)["work"]["same"] is False


def test_the_object_for_machines_says_the_same_as_the_verdict() -> None:
    for given in (facts(), facts(seen=[seen("q:9", None)], notes=[])):
        ledger = judge(given)

        told = json.loads(json.dumps(as_json(ledger)))

        assert told["ok"] is ledger.ok
        assert told["lost"] == list(ledger.lost)
        assert told["problems"] == list(ledger.problems)


def shown(given: Facts) -> str:
    stream = io.StringIO()
    show.print_ledger(Console(file=stream, width=200), judge(given))
    return stream.getvalue()


def test_the_ledger_fits_into_80_columns() -> None:
    assert max(map(len, shown(facts()).splitlines())) <= 80


def test_the_ledger_says_in_its_last_line_whether_all_is_well() -> None:
    assert "Every task has its outcome, and what hung is gone" in shown(facts()).strip().splitlines()[-1]
    assert "Not as promised: 1 problem" in shown(facts(drained=4)).strip().splitlines()[-1]


def test_the_ledger_shows_each_problem_whole() -> None:
    text = " ".join(shown(facts(left_behind=["pid 5: sleep 9"])).split())

    assert "WRONG: left behind: pid 5: sleep 9" in text


class _NoStage:
    directory = "/nowhere"

    def __init__(self, *, keep: bool) -> None:
        pass

    def __enter__(self) -> _NoStage:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def exit_code_of(given: Facts, monkeypatch: pytest.MonkeyPatch, *, json: bool) -> int:
    """Run the command with a story that saw these facts."""

    class Told:
        def __init__(self, *_: object) -> None:
            pass

        def play(self) -> Facts:
            return given

    monkeypatch.setattr("qworker.demo.stage.Stage", _NoStage)
    monkeypatch.setattr("qworker.demo.story.Story", Told)
    with pytest.raises(typer.Exit) as ended:
        demo(json=json, files=1, keep=False)
    return ended.value.exit_code


@pytest.mark.parametrize("json", [False, True])
def test_the_command_ends_0_only_when_all_is_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], json: bool
) -> None:
    assert exit_code_of(facts(), monkeypatch, json=json) == 0
    assert exit_code_of(facts(seen=[seen("q:1"), seen("q:3", None)]), monkeypatch, json=json) == 1
    assert exit_code_of(facts(seen=[seen("q:1", State.FAILED, How.RAISED)]), monkeypatch, json=json) == 1
    assert exit_code_of(facts(left_behind=["pid 5: sleep 9"]), monkeypatch, json=json) == 1


def test_with_json_one_object_is_all_that_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    exit_code_of(facts(drained=4), monkeypatch, json=True)

    printed = capsys.readouterr()
    assert printed.err == ""
    told = json.loads(printed.out)
    assert (told["ok"], told["drain_exit_code"]) == (False, 4)
