"""Nothing is skipped in CI that nobody has named."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from support import skips

TESTS = Path(__file__).resolve().parents[1]


def skipped(reason: str) -> pytest.TestReport:
    return pytest.TestReport(
        "tests/test_x.py::test_x", ("tests/test_x.py", 1, "test_x"), {}, "skipped",
        ("tests/test_x.py", 1, f"Skipped: {reason}"), "setup",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ci", "reason", "outcome"),
    [
        ("true", "redis-server is not installed", "failed"),
        ("true", "could not import 'uvloop': No module named 'uvloop'", "failed"),
        ("true", "no C compiler, which clock.so is made with (the system package gcc)", "skipped"),
        ("true", "a network namespace needs root", "skipped"),
        ("true", "fakeredis has no limit", "skipped"),
        ("", "redis-server is not installed", "skipped"),
    ],
)
def test_a_skip_that_nobody_named_is_a_failure_in_ci(monkeypatch, ci, reason, outcome) -> None:
    monkeypatch.setenv("CI", ci)
    report = skipped(reason)

    skips.hold_to(report)

    assert report.outcome == outcome
    assert (reason in str(report.longrepr)) is True


def test_a_test_that_is_expected_to_fail_is_no_skip(monkeypatch) -> None:
    monkeypatch.setenv("CI", "true")
    report = skipped("a known flaw")
    report.wasxfail = "a known flaw"

    skips.hold_to(report)

    assert report.outcome == "skipped"


def test_every_reason_that_is_named_is_one_that_some_test_gives() -> None:
    texts = [text for path in TESTS.rglob("*.py") if path.name not in ("skips.py", "test_skips.py")
             for text in reasons(path)]  # fmt: skip

    unused = [known for known in (*skips._APART, *skips._MISSING) if not any(given(known, text) for text in texts)]

    assert unused == []


def reasons(path: Path) -> list[str]:
    """Every text in a file; what is put into it, as `*`."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            texts.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
            texts.append("".join(str(part) for part in parts))
    return texts


def given(known: str, text: str) -> bool:
    filled = text.replace("*", "redis")
    return re.match(known, filled) is not None
