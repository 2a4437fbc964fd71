"""The book-keeping of the nightly run: each step within its time, none kept from it by another, all written down."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from support.processes import is_running
from support.waiting import wait_until
from tests.nightly import STEPS, Step, limit_s, run, share_of

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-I", "-S", "-c")


def test_a_step_that_fails_or_takes_too_long_ends_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, left = tmp_path / "night.json", tmp_path / "left"
    hangs = (
        "import pathlib, subprocess, sys, time;"
        "child = subprocess.Popen([sys.executable, '-I', '-S', '-c', 'import time; time.sleep(600)']);"
        f"pathlib.Path({str(left)!r}).write_text(str(child.pid)); time.sleep(600)"
    )

    code = run(
        [
            ("fails", (*PYTHON, "print('seed 7'); raise SystemExit(3)"), 60),
            ("hangs", (*PYTHON, hangs), 2),
            ("works", (*PYTHON, "print('fine')"), 60),
        ],
        out,
    )

    found = json.loads(out.read_text())
    assert code == 1
    assert not found["passed"]
    assert found["left"] == []
    assert [(step["name"], step["status"], step["code"]) for step in found["steps"]] == [
        ("fails", "failed", 3),
        ("hangs", "too long", None),
        ("works", "passed", 0),
    ]
    assert found["steps"][0]["last"] == ["seed 7"]
    assert Path(found["steps"][2]["log"]).read_text() == "fine\n"
    said = capsys.readouterr().out
    assert "seed 7" in said
    assert len(re.findall(r"^(?:fails|hangs|works) +(?:failed|too long|passed) ", said, re.MULTILINE)) == 3
    wait_until(lambda: not is_running(int(left.read_text())), description="what the step left to be gone")


def test_a_night_that_is_cut_short_leaves_what_it_has(tmp_path: Path) -> None:
    out = tmp_path / "night.json"
    look = f"import json; found = json.load(open({str(out)!r})); print(found['left'], found['passed'])"

    assert run([("first", (*PYTHON, ""), 60), ("second", (*PYTHON, look), 60)], out) == 0

    assert (tmp_path / "night" / "second.log").read_text() == "['second'] False\n"
    assert json.loads(out.read_text())["passed"]


def test_every_step_is_a_target_and_takes_what_it_is_given() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert {step.name for step in STEPS} <= targets
    assert Step("sim", 20, "--minutes {minutes}").command(0.5)[-2:] == ["sim", "ARGS=--minutes 10"]
    assert Step("points", 8).command(0.5)[-1] == "points"


@pytest.mark.parametrize(("minutes", "share"), [(None, 1.0), (1_000, 1.0), (20, 0.5), (5, 0.01)])
def test_what_can_be_shorter_is_until_all_fits(minutes: float | None, share: float) -> None:
    steps = (Step("fixed", 10), Step("a", 15, "--minutes {minutes}"), Step("b", 5, "--minutes {minutes}"))

    assert share_of(steps, minutes) == pytest.approx(share)
    assert share_of(steps[:1], minutes) == 1.0
    assert limit_s(steps[0], share) == 60 * 20
    assert limit_s(steps[1], share) == pytest.approx(60 * (22.5 * share + 5))
