"""The command line with anything on it: an exit code that is documented, a line that can be printed, no traceback."""

from __future__ import annotations

import contextlib
import io
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import pytest
import typer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qworker import cli
from qworker.cli import demo, shared
from qworker.config import Settings
from qworker.pool import spawn
from qworker.worker import daemon

EXITS = {0, 1, 2, 3}
BEGUN = 4  # what `start` and `demo` end with here, where they would have begun something
VERBS = sorted(cli.VERBS)
WORDS = st.one_of(
    st.sampled_from(
        [
            "--json", "--url", "--namespace", "-h", "--timeout", "--queue", "-q", "--args", "--", "-", "--grace",
            "--wait",
            "default:x", "g-x", "1h", "-1", "nan", "{", "[1", "\x1b[2J", "\u202e", "", "x" * 10_000, "--live",
            "--url=redis://[", "--url=unix:///nowhere/s", "--group", "--delay", "--id", "tasks.f", "a.b:c d",
            "-c", "process=2,thread=x", "--pool", "fibre", "--window", "--lease", "--allow", "*", "--burst", "app.py",
            "--drain-timeout=soon", "--allow-eviction", "--files", "0", "status", "url", "stop",
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
    monkeypatch.setattr(spawn, "spawn", lambda *_: None)
    monkeypatch.setattr(daemon, "serve", serve)
    monkeypatch.setattr(demo, "_play", play)


def serve(settings: Settings, targets: list[str], *, spawned: None) -> int:
    """In the place of a worker: it was given what it can use."""
    assert isinstance(settings, Settings)
    assert targets or settings.allow
    return BEGUN


def play(*_: object, **__: object) -> NoReturn:
    """In the place of the demo."""
    raise typer.Exit(BEGUN)


@pytest.mark.parametrize("verb", [*VERBS, ""])
def test_whatever_is_on_the_command_line_ends_in_order(verb: str) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(WORDS, max_size=5))
    def check(words: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run([*([verb] if verb else []), *words])
        said = out.getvalue() + err.getvalue()
        assert code in EXITS or (code == BEGUN and verb in ("start", "demo")), (words, said)
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.splitlines()), words

    check()


FLAGS = [setting.metadata["flag"].partition("/")[0] for setting in fields(Settings)]
VALUES = st.one_of(st.sampled_from(["1", "process=2", "all", "5s", "json", "a,b", "*", "thread", "auto"]), WORDS)
TARGETS = st.sampled_from(["tasks:app", "tasks", "tasks.py", ":", "a b", "tasks:app:x", "-", "\x1b[2J:app"])


def test_a_worker_that_is_started_anyhow_is_refused_or_begins() -> None:
    seen: set[int] = set()

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(TARGETS, max_size=2), st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=2))
    def check(targets: list[str], flags: list[tuple[str, str]]) -> None:
        words = [*targets, *(word for pair in flags for word in pair)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(["start", *words])
        said = out.getvalue() + err.getvalue()
        seen.add(code)
        assert code in {0, 2, BEGUN}, (words, said)
        assert "Traceback" not in said
        assert all(line.isprintable() for line in said.splitlines()), words
        assert bool(said) == (code != BEGUN), (words, said)

    check()
    assert {2, BEGUN} <= seen
