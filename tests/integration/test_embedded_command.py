"""`qworker embedded`, run on a real embedded server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from qworker.broker import embedded
from qworker.cli import run


@dataclass(frozen=True)
class Ran:
    exit_code: int
    output: str
    errors: str


@pytest.fixture
def qworker(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """`qworker("embedded", "status")` runs a command line in this process."""

    def command(*argv: str) -> Ran:
        code = run(argv)
        shown = capsys.readouterr()
        return Ran(code, shown.out, shown.err)

    return command


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    yield tmp_path
    embedded.stop(tmp_path)


def test_status_of_a_project_without_a_server_says_so_and_exits_3(qworker, project):
    result = qworker("embedded", "status")

    assert result.exit_code == 3
    assert result.output.splitlines() == [
        f"project {project}",
        "server  not running; the next producer or worker without a URL starts it",
        f"data    0 bytes in {project / '.qworker'}",
    ]
    assert not (project / ".qworker").exists(), "looking must not leave anything"


def test_status_shows_the_server_and_exits_0(qworker, project):
    server = embedded.ensure(root=project)
    seen = embedded.status(project)

    result = qworker("embedded", "status")

    assert result.exit_code == 0
    shown = dict(line.split(None, 1) for line in result.output.splitlines())
    assert shown["project"] == str(project)
    assert shown["server"].endswith(f"-server, pid {seen.server}, guardian {seen.guardian}, in use")
    assert shown["answer"] == "PONG"
    assert shown["url"] == server.url


def test_status_for_machines_is_one_json_object(qworker, project):
    server = embedded.ensure(root=project)

    result = qworker("embedded", "status", "--json", str(project))

    shown = json.loads(result.output)
    assert (shown["running"], shown["used"], shown["url"], shown["root"]) == (True, True, server.url, str(project))


def test_the_url_is_the_same_before_and_while_the_server_runs(qworker, project):
    before = qworker("embedded", "url").output

    server = embedded.ensure(root=project)

    assert before == f"{server.url}\n"
    assert qworker("embedded", "url").output == before


def test_stop_ends_the_server_and_says_whom_it_harms(qworker, project):
    embedded.ensure(root=project)

    first, second = qworker("embedded", "stop"), qworker("embedded", "stop")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert first.output == (
        f"stopped the embedded server of {project}; a process that still uses it may start it again\n"
    )
    assert second.output == f"no embedded server runs for {project}\n"
    assert not embedded.status(project).running


def test_an_error_is_one_line_and_exit_1(qworker, project, monkeypatch):
    embedded.ensure(root=project)
    facts = embedded.read_facts
    monkeypatch.setattr(embedded, "read_facts", lambda root: {**facts(root), "guardian_start": 1, "server_start": 1})
    monkeypatch.setattr(embedded.stop, "__kwdefaults__", {"timeout_s": 0.05})

    result = qworker("embedded", "stop")

    assert result.exit_code == 1
    assert result.errors == (
        f"qworker embedded: the embedded server of {project} did not stop within 0.05 s: nothing of it is a process of "
        "this machine or container\n"
    )
    monkeypatch.undo()
