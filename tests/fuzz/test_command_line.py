"""The command line with anything on it: an exit code that is documented, a line that can be printed, no traceback."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qworker import cli
from qworker.cli import shared

EXITS = {0, 1, 2, 3}
# `start` and `demo` would begin something; how `start` reads its words is a target of the fuzzer.
VERBS = sorted(set(cli.VERBS) - {"start", "demo", "embedded"})
WORDS = st.one_of(
    st.sampled_from(
        [
            "--json", "--url", "--namespace", "-h", "--timeout", "--queue", "-q", "--args", "--", "-", "--grace",
            "--wait",
            "default:x", "g-x", "1h", "-1", "nan", "{", "[1", "\x1b[2J", "\u202e", "", "x" * 10_000, "--live",
            "--url=redis://[", "--url=unix:///nowhere/s", "--group", "--delay", "--id", "tasks.f", "a.b:c d",
        ]
    ),
    st.text(max_size=20),
)  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No server, and no patience with that."""
    monkeypatch.setenv("QWORKER_URL", "unix:///nowhere/s")
    monkeypatch.setattr(shared, "TIMEOUT_S", 0.05)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_whatever_is_on_the_command_line_ends_in_order(verb: str) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(WORDS, max_size=5))
    def check(words: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run([*([verb] if verb else []), *words])
        said = out.getvalue() + err.getvalue()
        assert code in EXITS, (words, said)
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.splitlines()), words

    check()
