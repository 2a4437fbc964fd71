"""The page of the proof: it is what its generator makes of the committed runs, and it hides nothing that went wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from support.history import proof

ROOT = Path(__file__).resolve().parents[2]
SHOWN = proof.read(ROOT / proof.KEPT / "torture.json")
TORTURED = copy.deepcopy(SHOWN)  # and nothing of it late
TORTURED["faults"]["late"] = []
LEVEL = {"first": 20.0, "last": 20.5, "most": 21.0, "per_10_minutes": 0.2}
SOAKED = {
    "command": "make soak ARGS='--minutes 30'",
    "minutes": 30.0,
    "slots": "process=2",
    "load": 0.5,
    "tasks": 1000,
    "tasks_per_child": 100,
    "children_started": 10,
    "spared": 0,
    "unfinished": 0,
    "machine": {"commit": "abc"},
    "trends": {name: dict(LEVEL) for name in ("worker MiB", "worker fds", "worker threads", "children")},
    "server": {"before_bytes": 2_000_000, "after_bytes": 2_010_000},
}


def test_the_committed_page_is_what_the_committed_runs_make():
    assert TORTURED is not None
    soaked = proof.read(ROOT / proof.KEPT / "soak.json")
    assert (ROOT / proof.PAGE).read_text() == proof.page(SHOWN, soaked, shortfalls=True)


def test_a_run_of_less_than_a_million_tasks_says_so():
    short, full = copy.deepcopy(TORTURED), copy.deepcopy(TORTURED)
    for run, tasks in ((short, 999_999), (full, proof.GOAL)):
        more = tasks - run["faults"]["tasks"]
        run["faults"]["tasks"] += more
        run["faults"]["submits"]["accepted"] += more
        run["faults"]["outcomes"]["succeeded"] += more

    assert "shorter run: 999,999 tasks" in proof.page(short, SOAKED)
    assert "shorter run" not in proof.page(full, SOAKED)


DOCTORED = {
    "a loss": lambda run: run["faults"].update(lost=1),
    "a loss while calm": lambda run: run["calm"].update(lost=1),
    "a broken rule": lambda run: run["faults"]["violations"].update(C7=1),
    "an accepted task that is nowhere": lambda run: run["faults"]["outcomes"].update(succeeded=1),
    "a time beyond its bound": lambda run: run["faults"].update(late=["recovery q:a: 9.00 s, and 4.00 s is allowed"]),
    "tasks that were never sent": lambda run: run["faults"].update(tasks=run["faults"]["tasks"] + 1),
    "no faults at all": lambda run: run["faults"].update(tasks=0, submits={}, outcomes={}),
}


@pytest.mark.parametrize("name", DOCTORED)
def test_a_doctored_run_is_refused_and_nothing_is_changed(name, tmp_path):
    built, kept, shown = tmp_path / "build", tmp_path / "kept", tmp_path / "proof.md"
    run = copy.deepcopy(TORTURED)
    DOCTORED[name](run)
    built.mkdir()
    (built / "torture.json").write_text(json.dumps(run))

    with pytest.raises(proof.NoProof, match="not to be shown"):
        proof.make(built, kept, shown)

    assert not kept.exists()
    assert not shown.exists()


def test_lateness_and_growth_are_shown_when_that_is_asked_for_and_at_the_top_of_the_page():
    run, soaked = copy.deepcopy(TORTURED), copy.deepcopy(SOAKED)
    run["faults"]["late"] = late = [
        "recovery q:a: 9.00 s, and 4.00 s is allowed",
        "stop q:b: 2 s, and 1.50 s is allowed",
    ]
    soaked["trends"]["worker MiB"].update(first=20.0, last=23.0, per_10_minutes=1.5)

    head, *_ = proof.page(run, soaked, shortfalls=True).split("| Tasks |")

    assert f"**Not as it should be: 2 times were beyond their bounds (faults): {'; '.join(late)}.**" in head
    assert "**Not as it should be: worker MiB: from 20 to 23.**" in head


@pytest.mark.parametrize("name", ["a loss", "a broken rule"])
def test_a_loss_is_shown_in_no_case(name):
    run = copy.deepcopy(TORTURED)
    DOCTORED[name](run)

    with pytest.raises(proof.NoProof, match="not to be shown"):
        proof.page(run, None, shortfalls=True)


def test_what_was_held_to_a_bound_of_its_time_is_on_the_page():
    run = copy.deepcopy(TORTURED)
    run["faults"].update(held_to={"cancel": 200, "recovery": 1000}, late=[])

    assert "| Later than their bounds, of 1,200 recoveries, cancels, stops, timeouts and ends | 0 |" in proof.page(
        run, None
    )


def test_without_a_torture_run_it_says_how_to_make_one(tmp_path):
    with pytest.raises(proof.NoProof, match="run `make torture` first"):
        proof.make(tmp_path / "build", tmp_path / "kept", tmp_path / "proof.md")


def test_a_clean_run_is_taken_over_with_the_soak_that_is_kept(tmp_path):
    built, kept, shown = tmp_path / "build", tmp_path / "kept", tmp_path / "proof.md"
    for directory, name, run in ((built, "torture.json", TORTURED), (kept, "soak.json", SOAKED)):
        directory.mkdir()
        (directory / name).write_text(json.dumps(run))

    proof.make(built, kept, shown)

    assert json.loads((kept / "torture.json").read_text()) == TORTURED
    assert shown.read_text() == proof.page(TORTURED, SOAKED)


def test_slow_among_faults_is_told_on_the_page():
    run = copy.deepcopy(TORTURED)
    run["share_of_calm"] = 0.31

    assert "throughput among faults was 31% of calm" in proof.page(run, SOAKED)


GROWN = {
    "worker MiB": lambda run: run["trends"]["worker MiB"].update(first=20.0, last=23.0, per_10_minutes=1.5),
    "worker fds": lambda run: run["trends"]["worker fds"].update(first=20, last=30),
    "the server holds": lambda run: run["server"].update(after_bytes=2 * run["server"]["before_bytes"]),
    "1 tasks have not ended": lambda run: run.update(unfinished=1),
}


@pytest.mark.parametrize("name", GROWN)
def test_a_soak_in_which_something_grew_is_refused(name):
    run = copy.deepcopy(SOAKED)
    GROWN[name](run)

    with pytest.raises(proof.NoProof, match=name):
        proof.page(TORTURED, run)


def test_the_command_on_the_page_asks_for_the_same_run():
    assert f"--seed {TORTURED['seed']}" in TORTURED["command"]
    assert f"--tasks {TORTURED['asked_tasks']}" in TORTURED["command"]
