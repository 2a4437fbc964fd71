"""Where the command's output goes: readers that have gone, full disks, pipes, terminals that a name would rule."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Group
from rich.live import Live

from qworker import cli
from qworker.cli import VERBS, Verb
from qworker.cli.shared import print_rows, print_table
from qworker.cli.terminal import Console
from qworker.errors import BrokerUnavailable
from qworker.views import QueueStats

FULL = Path("/dev/full")
QUEUE = QueueStats(
    queue="mail", ready=1, claimed=0, scheduled=0, suspects=0, oldest_wait_s=None, lines={}, counters={}, now_ms=1
)
# `status --watch` on a server that answers twice, then not any more.
WATCHED = f"""
import sys
from qworker.cli import main, status
from qworker.errors import BrokerUnavailable
from qworker.views import QueueStats
seen = status.Snapshot(0.0, ({QUEUE!r},), ())
def looks(broker, only):
    yield seen
    yield BrokerUnavailable("no server")
    sys.stdin.read()
    yield seen
status._look, status._looks = lambda broker, only: seen, looks
main()
"""


def start(*args: str, code: str = "from qworker.cli import main; main()", **streams) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("QWORKER_", "PYTHONUN"))}
    environ |= {"QWORKER_URL": "redis://127.0.0.1:1"} | streams.pop("environ", {})
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen([sys.executable, "-c", code, *args], env=environ, text=True, **streams)


@pytest.fixture
def verb(monkeypatch):
    """`verb(function)`: the function stands in the table as the verb `test`."""

    def put(function) -> None:
        monkeypatch.setitem(VERBS, "test", Verb("client:test_verb", "Test.", "Look"))
        monkeypatch.setattr("qworker.cli.client.test_verb", function, raising=False)

    return put


def test_the_name_of_a_row_cannot_rule_the_terminal(capsys):
    print_rows([("g-\x1b[31mred", "a\x1b[0m\nb"), ("x", "")])

    out = capsys.readouterr().out
    assert out == "g-\\x1b[31mred  a\\x1b[0m\n" + " " * 15 + "b\n"


def test_no_bare_string_rules_the_terminal_that_it_is_drawn_on(capsys):
    worker, tame = "w\x1b[2J\x9b31m\u202e\nforged", r"w\x1b[2J\x9b31m\u202e\nforged"

    print_table(f"{worker}: alone", "", Group(f"{worker}: in a group"))
    with Live(console=Console(markup=False), auto_refresh=False) as live:
        live.update(Group(f"{worker}: as status --watch draws it"), refresh=True)

    said = ("alone", "", "in a group", "as status --watch draws it")
    assert capsys.readouterr().out.splitlines() == [f"{tame}: {how}" if how else "" for how in said]


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("argv", [["--help"], ["show", "--help"], ["doctor"], ["check", "--live"]], ids=" ".join)
def test_output_that_cannot_be_written_is_a_line_and_an_error(argv, unbuffered):
    with FULL.open("w") as full, start(*argv, stdout=full, environ={"PYTHONUNBUFFERED": unbuffered}) as process:
        _, err = process.communicate(timeout=30)

    assert process.returncode == 1
    who = "qworker" if argv == ["--help"] else f"qworker {argv[0]}"
    assert err == (
        f"{who}: cannot write to standard output: {os.strerror(errno.ENOSPC)}. The answer is lost, but what was asked "
        "for may be done: look (qworker status, show) before you repeat it\n"
    )


def test_an_oserror_of_something_else_is_a_bug(verb):
    @verb
    def fails() -> None:
        raise FileNotFoundError("of something else")

    with pytest.raises(FileNotFoundError, match="of something else"):
        cli.run(["test"])


def test_an_unreachable_server_is_told_although_it_is_an_oserror_too(verb, capsys):
    @verb
    def fails() -> None:
        raise BrokerUnavailable("no server")

    assert cli.run(["test"]) == 1
    assert capsys.readouterr() == ("", "qworker test: no server\n")


@pytest.mark.parametrize("argv", [["doctor"], ["status", "--watch"]], ids=" ".join)
def test_tables_for_a_reader_that_has_gone_are_no_error(argv):
    reader, writer = os.pipe()
    os.close(reader)
    with start(*argv, code=WATCHED, stdout=writer, stdin=subprocess.DEVNULL) as process:
        os.close(writer)
        _, err = process.communicate(timeout=30)

    assert (process.returncode, err) == (141, "")


def test_watching_without_a_terminal_prints_each_look_at_once():
    with start("status", "--watch", code=WATCHED, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        seen = [next(line for line in lines if line.startswith(word)) for word in ("mail", "mail", "no server")]

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 130
    assert "\x1b" not in "".join(seen)


def test_watching_for_machines_is_told_at_once_too():
    with start("status", "--watch", "--json", code=WATCHED, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith('{"now_ms": 1')
        assert process.stdout.readline() == '{"error": "no server"}\n'

        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)

    assert process.returncode == 130
