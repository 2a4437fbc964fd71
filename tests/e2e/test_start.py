"""What `qworker start` and a producer refuse: one line, what to do, no traceback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qworker import App
from qworker.errors import BrokerUnavailable
from support.daemon import TESTS


def run(*args: str, url: str | None = None, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("QWORKER_")} | env
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), environment.get("PYTHONPATH", "")])
    if url:
        environment["QWORKER_URL"] = url
    return subprocess.run(
        [sys.executable, "-m", "qworker", *args], capture_output=True, text=True, env=environment, cwd=cwd, timeout=30
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    """Check that a run ended as a refusal should: its exit code, the words, one screen, no traceback."""
    said = done.stderr + done.stdout
    assert done.returncode == code, said
    flat = " ".join(said.replace("│", " ").split())
    for word in words:
        assert word in flat
    assert "Traceback" not in said
    assert len(done.stderr.strip().splitlines()) <= 8


def test_an_app_that_is_not_there(tmp_path, url) -> None:
    refused(run("start", "nowhere_at_all:app", url=url, cwd=tmp_path), 2, "nowhere_at_all")


def test_an_app_whose_module_raises(tmp_path, url) -> None:
    (tmp_path / "broken.py").write_text("import json\nraise RuntimeError('not today')\n")

    refused(run("start", "broken:app", url=url, cwd=tmp_path), 2, "broken", "RuntimeError", "not today")


def test_a_name_in_the_module_that_is_no_app(tmp_path, url) -> None:
    (tmp_path / "plain.py").write_text("app = 7\n")

    refused(run("start", "plain:app", url=url, cwd=tmp_path), 2, "plain", "app", "App")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("-c", "0"), ("-c 0", "from 1 to")),
        (("-c", "process=2,fibre=1"), ("fibre",)),
        (("--pool", "fibre"), ("--pool fibre", "process, thread or async")),
        (("--no-such-flag",), ("--no-such-flag",)),
        (("--window", "0"), ("--window 0",)),
        (("--drain-timeout", "soon"), ("--drain-timeout soon",)),
        (("-q", "UPPER CASE"), ("UPPER CASE",)),
        (("--url", "http://example.org"), ("http://example.org", "redis://")),
        (("--url", "redis://host:port/0"), ("redis://host:port/0", "redis://")),
        (("--url", "redis://host:99999/0"), ("99999", "redis://")),
        (("--url", "redis://localhost/zero"), ("localhost/zero", "redis://")),
        (("--url", "redis://:secret@[half"), ("redis://host:port/0",)),
        (("--url", "unix://"), ("unix:///path",)),
    ],
)
def test_a_flag_that_cannot_be_used(tmp_path, url, args, words) -> None:
    refused(run("start", "support.apps.basic:app", *args, url=url, cwd=tmp_path), 2, *words)


def test_a_server_that_evicts_queued_tasks(new_server, tmp_path) -> None:
    server = new_server(None, "--maxmemory-policy", "allkeys-lru")

    done = run("start", "support.apps.basic:app", "--burst", url=server.url, cwd=tmp_path)
    allowed = run("start", "support.apps.basic:app", "--burst", "--allow-eviction", url=server.url, cwd=tmp_path)

    refused(done, 1, "allkeys-lru", "noeviction", "--allow-eviction")
    assert allowed.returncode == 0
    assert "queued tasks may go" in allowed.stderr


def test_embedded_forbidden_and_no_url(tmp_path) -> None:
    done = run("start", "support.apps.basic:app", cwd=tmp_path, QWORKER_EMBEDDED="0")

    refused(done, 2, "QWORKER_URL", "QWORKER_EMBEDDED=0")


def test_a_producer_without_a_server_gets_a_typed_error_in_time(tmp_path, monkeypatch) -> None:
    app = App(f"unix://{tmp_path}/nobody.sock")

    @app.task
    def anything() -> None: ...

    begun = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"nobody\.sock"):
        anything.submit()
    assert time.monotonic() - begun < 15
    app.close()


def test_the_help_names_every_verb(tmp_path) -> None:
    said = run("--help", cwd=tmp_path).stdout

    for verb in "start demo status submit result show cancel stop dessert check doctor embedded".split():  # noqa: SIM905
        assert verb in said


@pytest.mark.parametrize("files", [8, 10])
def test_a_worker_that_may_open_too_few_files_says_which_limit_it_is(tmp_path, files) -> None:
    limited = f'ulimit -n {files}; exec "$@"'
    words = [sys.executable, "-m", "qworker", "start", "--allow", "math"]
    environment = {**os.environ, "QWORKER_URL": "redis://127.0.0.1:1"}
    done = subprocess.run(
        ["bash", "-c", limited, "-", *words], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=30
    )

    refused(done, 1, "qworker start: cannot go on: Too many open files. Allow this process more open files (ulimit -n)")
