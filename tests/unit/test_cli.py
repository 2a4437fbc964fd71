"""The command line: its table of verbs, and how errors become one line and an exit code."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from typing import Annotated

import pytest
import typer

from qworker import cli, clock, health
from qworker.broker import embedded
from qworker.cli import VERBS, Verb
from qworker.cli.client import _receipt_text, _refuse_late
from qworker.errors import BrokerUnavailable, ConfigError, TaskFailed, WaitTimeout
from qworker.future import Future
from qworker.lifecycle import How, State
from qworker.options import Options
from qworker.status import Status
from qworker.task import BoundTask
from qworker.views import StopReceipt


def start_python(*args: str, **more):
    return subprocess.Popen(
        [sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("QWORKER_")}, **more,
    )  # fmt: skip


@pytest.fixture
def verb(monkeypatch):
    """`verb(function)`: the function stands in the table as the verb `test`."""

    def put(function) -> None:
        monkeypatch.setitem(VERBS, "test", Verb("client:test_verb", "Test.", "Look"))
        import qworker.cli.client

        monkeypatch.setattr(qworker.cli.client, "test_verb", function, raising=False)

    return put


def test_help_names_every_verb(capsys):
    assert cli.run(["--help"]) == 0

    out = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name:<10}{verb.does}\n" in out


def test_help_and_version_load_neither_typer_nor_rich_nor_redis():
    code = (
        "import sys; from qworker.cli import run; run(['--help']); run(['--version']);"
        "print([name for name in ('typer', 'rich', 'redis', 'asyncio', 'msgpack') if name in sys.modules])"
    )
    out, err = start_python("-c", code).communicate(timeout=30)

    assert out.splitlines()[-1] == "[]", err
    assert "\nqworker 0." in out


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "120")
        assert cli.run([name, "--help"]) == 0

    out = capsys.readouterr().out
    assert f"Usage: qworker {name}" in out
    assert "--help" in out


def test_the_verbs_of_a_family_have_the_short_help_too(capsys):
    for argv in (["embedded", "-h"], ["embedded", "stop", "-h"]):
        assert cli.run(argv) == 0
        assert capsys.readouterr().out.startswith(f"Usage: qworker {' '.join(argv[:-1])} ")


def test_the_help_of_start_has_the_defaults_and_where_the_server_comes_from(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")

    assert cli.run(["start", "--help"]) == 0

    out = capsys.readouterr().out
    for text in (
        "tasks run again then. [default: 12 s]",
        "asked to stop. [default: 20 s]",
        "or a number. [default: auto]",
        "strict order. [default: default]",
        "name no pool themselves. [default: process]",
        "else QWORKER_URL, else the app's own, else the embedded server.",
    ):
        assert text in " ".join(out.split())


class Known:
    """Stands for an app of a server on which there is a task already, or none."""

    def __init__(self, state: State | None) -> None:
        self.state, self.sent = state, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def named(self, name):
        return BoundTask(self, name, Options(), binder=None, is_async=False)

    def send(self, drafts):
        self.sent += drafts
        return [Future(f"{draft.queue}:{draft.local}") for draft in drafts]

    def future(self, id):  # noqa: A002
        future = Future(id)
        future.status = lambda: Status(id, self.state)
        return future


@pytest.mark.parametrize(
    ("state", "said"),
    [(State.CANCELLED, "default:x was already there (cancelled): nothing was queued\n"), (None, "")],
)
def test_submitting_an_id_again_says_that_nothing_was_queued(state, said, monkeypatch, capsys):
    monkeypatch.setattr("qworker.cli.client.open_app", lambda *_: Known(state))

    code = cli.run(["submit", "a.b", "--id", "x"])

    assert (code, *capsys.readouterr()) == (0, "default:x\n", said)


@pytest.mark.parametrize(
    ("still_running", "said"),
    [
        (False, "had already ended: cancelled (killed); its code does not run"),
        (None, "had already ended: cancelled (killed); whether its code runs is not known\nbox does not answer"),
    ],
)
def test_a_receipt_of_what_had_ended_before_says_so(still_running, said):
    receipt = StopReceipt("q:1", State.CANCELLED, How.KILLED, still_running, 0.1, note="box does not answer")

    assert _receipt_text(receipt, had_ended=True) == said
    assert _receipt_text(receipt).startswith("cancelled (killed); ")


def test_a_late_result_is_told_with_the_time_that_was_asked_for():
    future = Known(State.RUNNING).future("q:1")

    with pytest.raises(WaitTimeout, match=r"^task q:1 has not ended within 1\.0 s: running on a worker"):
        _refuse_late(future, 1.0)


@pytest.mark.parametrize(("started", "said"), [(True, "no server's URL is set: started the embedded"), (False, "")])
def test_the_embedded_server_is_told_of_only_by_who_started_it(started, said, monkeypatch, capfd, caplog, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QWORKER_URL", raising=False)
    server = embedded.Embedded("redis://127.0.0.1:1", tmp_path, "/bin/valkey-server", started)
    monkeypatch.setattr(embedded, "ensure", lambda: server)
    monkeypatch.setattr("qworker.cli.shared.TIMEOUT_S", 0.1)

    for verb in ("show", "cancel"):  # one looks with a broker, one acts with an app
        assert cli.run([verb, "q:1"]) == 1
        loud = [entry.getMessage() for entry in caplog.records if entry.levelno >= logging.WARNING]
        told = "\n".join([*loud, capfd.readouterr().err])
        assert told.startswith(said or f"qworker {verb}: ")
        caplog.clear()


def test_an_interrupted_demo_ends_with_a_line(monkeypatch, capsys):
    def play(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("qworker.cli.demo._play", play)

    assert cli.run(["demo"]) == 130
    assert cli.run(["demo", "--keep"]) == 130

    assert capsys.readouterr().err.splitlines() == [
        "Interrupted: nothing of the demo is left.",
        "Interrupted: no process of the demo is left, its directory is kept.",
    ]


def test_without_a_verb_the_help_goes_to_stderr(capsys):
    assert cli.run([]) == 2
    assert "Usage: qworker VERB" in capsys.readouterr().err


def test_a_family_of_verbs_without_a_verb_says_what_there_is(capsys):
    assert cli.run(["embedded"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("Usage: qworker embedded [OPTIONS] COMMAND")
    assert "  status " in err


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["strat"], "qworker: there is no verb 'strat': did you mean start?"),
        (["xyzzy"], "qworker: there is no verb 'xyzzy': qworker --help lists them"),
        (["\x1b[31m"], "qworker: there is no verb '\\x1b[31m': qworker --help lists them"),
        (["--url", "redis://x", "status"], "qworker: options come after the verb: qworker status --url …"),
        (["--foo"], "qworker: options come after the verb: qworker VERB --foo …"),
        (["status", "--foo"], "qworker status: No such option: --foo. See: qworker status --help"),
        (["start", "--foo", "a:b"], "qworker start: No such option: --foo. See: qworker start --help"),
        (["start", "--leese", "3"], "qworker start: No such option: --leese (Possible options: --lease"),
        (["start"], "qworker start: no app to run: name at least one, as in `qworker start tasks:app`, or modules "),
        (["start", "tasks.py"], "qworker start: tasks.py is a file, and a module is expected: write tasks:app, with"),
        (["start", "a/b.py:c"], "qworker start: a/b.py:c is a file, and a module is expected: write a.b:c, without "),
        (["submit", "bad name"], "qworker submit: 'bad name' is not the name of a task: expected module.function"),
        (["show"], "qworker show: Missing argument 'ID'. See: qworker show --help"),
        (["show", "--nonsense", "q:1"], "qworker show: No such option: --nonsense. See: qworker show --help"),
        (
            ["watch", "g-01JC2M6Q"],
            ("qworker watch: 'g-01JC2M6Q' is the id of a group, and one of a task is expected; groups are taken by "
            "qworker show, qworker stop --group and App.stop(group=…)"),
        ),
        (["show", "nope"], "qworker show: 'nope' is not a task id: expected queue:local, such as default:01JC2M6Q"),
        (["submit", "a.b", "--retries", "many"], "qworker submit: Invalid value for '--retries': "),
        (["submit", "a.b", "--kwargs", "[1]"], "qworker submit: --kwargs [1]: expected one JSON object, such as"),
        (["submit", "a.b", "--kwargs", "{"], "qworker submit: --kwargs {: not JSON: Expecting property name"),
        (["submit", "a.b", "[" * 5000], f"qworker submit: the argument {'[' * 60}…: nested too deeply to be read as"),
        (["submit", "a.b", "--kwargs", "[" * 5000], f"qworker submit: --kwargs {'[' * 60}…: nested too deeply to be"),
        (["show", "g-\udcff"], "qworker show: 'g-\\udcff' is not the id of a group: expected g-…, such as g-01JC2M6Q"),
        (["stop", "--group", "g-\udcff"], "qworker stop: --group g-\\udcff: 'g-\\udcff' is not the id of a group: "),
        (["submit", "a.b", "--wait", "soon"], "qworker submit: --wait soon: 'soon' is not a duration: write it as 30"),
        (["submit", "a.b", "--timeout", "0"], "qworker submit: timeout='0': no task can run in no time"),
        (["submit", "a.b", "--priority", "urgent"], "qworker submit: priority='urgent': expected one of high"),
        (
            ["submit", "a.b", "--delay", "2026-01-01T00:00"],
            "qworker submit: --delay 2026-01-01T00:00: a time without a zone could mean any hour: add +01:00, or Z",
        ),
        (
            ["submit", "a.b", "--deadline", "12:00"],
            "qworker submit: --deadline 12:00: expected 90s, 1h30m, or a time with its zone, as 2030-12-31T18:00+01:00",
        ),
        (["submit", "a.b", "--deadline", "0001-01-01"], "qworker submit: --deadline 0001-01-01: a time without a zone"),
        (["stop", "q:1", "--grace", "-1"], "qworker stop: --grace -1: '-1' is not a duration: it must be between"),
        (["cancel", "q:1", "x"], "qworker cancel: 'x' is not a task id"),
        (["status", "--queue", "A b"], "qworker status: queue 'A b': a queue has 1 to 48 characters"),
        (["status", "--url", "http://x"], "qworker status: url='http://x': expected redis://"),
        (["status", "--url", "redis://x?foo=1"], "qworker status: url='redis://x?foo=1': there is no option 'foo'. "),
        (["status", "--namespace", "A"], "qworker status: --namespace A: namespace 'A': a namespace has 1 to 48"),
        (["check"], "qworker check: give either --live or --ready"),
        (["start", "tasks:app", "-c", "0"], "qworker start: -c 0: expected a whole number from 1 to 10000"),
    ],
    ids=lambda value: ascii(" ".join(value))[1:40] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_users_mistake_is_one_line_and_exit_code_2(argv, line, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QWORKER_URL", "redis://127.0.0.1:1")

    code = cli.run(argv)

    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith(line)
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("bad setting"), 2), (BrokerUnavailable("no server"), 1), (TaskFailed("it failed"), 1)],
    ids=lambda value: type(value).__name__,
)
def test_an_error_of_qworker_is_one_line(error, code, verb, capsys):
    @verb
    def fails() -> None:
        raise error

    assert cli.run(["test"]) == code
    assert capsys.readouterr() == ("", f"qworker test: {error}\n")


def test_what_is_in_an_error_cannot_rule_the_terminal(verb, capsys):
    @verb
    def fails() -> None:
        raise ConfigError("two\nlines and \x1b[31m\u202e")

    cli.run(["test"])

    assert capsys.readouterr().err == "qworker test: two lines and \\x1b[31m\\u202e\n"


def test_an_exit_code_of_a_verb_is_the_commands(verb):
    @verb
    def ends(code: Annotated[int, typer.Argument()]) -> None:
        raise typer.Exit(code)

    assert [cli.run(["test", code]) for code in ("0", "3", "4")] == [0, 3, 4]


def test_a_bug_is_a_traceback_not_a_line(verb):
    @verb
    def fails() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        cli.run(["test"])


def test_ctrl_c_is_quiet_and_130(verb, capsys):
    @verb
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert cli.run(["test"]) == 130
    assert capsys.readouterr() == ("", "")


def test_a_reader_that_has_gone_is_no_error():
    code = (
        "import sys; from qworker import cli; cli.VERBS['check'] = cli.VERBS['check']._replace(target='client:talk');"
        "import qworker.cli.client as c; c.talk = lambda: [print('x' * 1000) for _ in range(1000)] and None;"
        "sys.argv[1:] = ['check']; cli.main()"
    )
    process = start_python("-c", code)
    process.stdout.read(10)
    process.stdout.close()

    with process.stderr:
        assert process.wait(30) == 141
        assert process.stderr.read() == ""


def test_python_m_qworker_is_the_command():
    process = start_python("-m", "qworker", "strat")
    out, err = process.communicate(timeout=30)

    assert (process.returncode, out, err) == (2, "", "qworker: there is no verb 'strat': did you mean start?\n")


# check: health without a server


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "_places", lambda: [tmp_path / "qworker"])


def test_check_is_unhealthy_where_nobody_works(place, capsys):
    assert cli.run(["check", "--live"]) == 3
    assert capsys.readouterr().out == "no worker of this user runs on this host\n"
    assert cli.run(["check", "--ready", "--pid", "77"]) == 3
    assert capsys.readouterr().out == "no worker with pid 77 runs on this host\n"


def test_check_tells_live_from_ready(place, capsys):
    beacon = health.Beacon("box:1:ab")
    beacon.turned()
    assert cli.run(["check", "--live"]) == 0
    assert "box:1:ab  live: its loop turned " in capsys.readouterr().out
    assert cli.run(["check", "--ready"]) == 3
    assert capsys.readouterr().out == "box:1:ab  not ready: it had no answer from the server yet\n"

    beacon.succeeded()

    assert cli.run(["check", "--ready"]) == 0
    assert "box:1:ab  ready: the server answered " in capsys.readouterr().out


def test_check_says_how_long_a_worker_has_been_silent(place, capsys, monkeypatch):
    health.Beacon("box:1:ab").succeeded()
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now + 100)

    assert cli.run(["check", "--live"]) == 3
    assert capsys.readouterr().out == "box:1:ab  not live: its loop last turned 1 min 40 s ago (10 s allowed)\n"


def test_check_for_machines(place, capsys):
    health.Beacon("box:1:ab").succeeded()

    assert cli.run(["check", "--ready", "--json"]) == 0

    answer = json.loads(capsys.readouterr().out)
    assert (answer["healthy"], answer["asked"]) == (True, "ready")
    assert [(one["worker"], one["pid"], one["live"], one["ready"]) for one in answer["workers"]] == [
        ("box:1:ab", os.getpid(), True, True)
    ]
