"""Who keeps the embedded server up, what each kill does to it, and what becomes of what others left."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import time
from pathlib import Path

import pytest

from qworker.broker import embedded, guardian
from qworker.errors import BrokerUnavailable
from support.embedded_users import SHORT_S, client, facts, gone, run_here
from support.processes import is_running
from support.waiting import wait_until

# How long it lives


def test_it_stops_when_nobody_has_used_it_for_the_grace_and_keeps_what_was_queued(user, project):
    first = user(grace_s=SHORT_S)
    with client(first.url) as connection:
        connection.rpush("queue", "a", "b")
    before = facts(project)

    first.leave()
    gone(project, before.guardian, before.server)

    assert not embedded.status(project).running
    assert f"unused for {SHORT_S:g} s" in (project / ".qworker" / guardian.GUARDIAN_LOG).read_text()
    assert not Path(first.url.removeprefix("unix://")).exists()
    again = user()
    assert again.found["started"]
    with client(again.url) as connection:
        assert connection.lrange("queue", 0, -1) == [b"a", b"b"]


def test_it_stays_while_one_user_is_left(user, project):
    first = user(grace_s=SHORT_S)
    assert first.found["started"]
    assert user().url == first.url
    before = facts(project)
    first.leave()

    ends = time.monotonic() + 4 * SHORT_S
    wait_until(lambda: time.monotonic() > ends, description="four times the grace")

    assert facts(project).server == before.server
    assert is_running(before.guardian)


def test_users_that_come_and_go_between_two_looks_of_the_guardian_keep_it_up(user, project):
    first = user(grace_s=SHORT_S)
    assert first.found["started"]
    before = facts(project)
    first.leave()
    ends = time.monotonic() + 4 * SHORT_S

    def visit() -> bool:
        fd = os.open(project / ".qworker" / guardian.USERS_LOCK, os.O_RDWR)
        os.utime(fd)
        os.close(fd)
        return time.monotonic() > ends

    wait_until(visit, description="four times the grace")

    assert facts(project).server == before.server
    gone(project, before.guardian, before.server)


def test_kill_of_the_first_user_leaves_the_server_to_the_others(user, project):
    first = user(grace_s=SHORT_S)
    assert first.found["started"]
    second = user()
    with client(second.url) as connection:
        connection.set("k", "v")

        first.kill()

        assert connection.get("k") == b"v"
    assert user().url == second.url


def test_a_child_by_fork_keeps_the_server_when_its_parent_ends(user, project):
    parent = user(project, "fork", grace_s=SHORT_S)
    assert parent.found["started"]
    child = parent.read()
    before = facts(project)
    parent.process.wait()
    ends = time.monotonic() + 4 * SHORT_S
    wait_until(lambda: time.monotonic() > ends, description="four times the grace")

    assert is_running(child)
    assert facts(project).server == before.server

    parent.leave()  # closes the pipe that the child reads
    gone(project, child, before.guardian, before.server)


def test_the_guardian_is_detached_from_who_started_it(user, project):
    first = user()
    assert first.found["started"]
    pid = facts(project).guardian

    assert os.getsid(pid) not in (os.getsid(0), os.getsid(first.process.pid), pid)
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert parent != first.process.pid
    assert {Path(f"/proc/{pid}/fd/{fd}").readlink() for fd in (0, 1)} == {Path(os.devnull)}


# What a kill does


def test_kill_of_the_guardian_ends_the_server_and_the_next_user_has_the_data(user, project):
    first = user()
    with client(first.url) as connection:
        connection.set("k", "v")
    before = facts(project)

    os.kill(before.guardian, signal.SIGKILL)
    second = user()

    assert second.found["started"], "the server that was still shutting down was taken for a living one"
    assert second.url == first.url
    assert not is_running(before.server)
    with client(second.url) as connection:
        assert connection.get("k") == b"v"


def test_kill_of_the_server_ends_the_guardian_and_the_next_user_has_the_data(user, project):
    first = user()
    with client(first.url) as connection:
        connection.set("k", "v")
    before = facts(project)

    os.kill(before.server, signal.SIGKILL)
    second = user()

    assert second.found["started"]
    assert second.url == first.url
    wait_until(lambda: not is_running(before.guardian), description="the end of the first guardian")
    with client(second.url) as connection:
        assert connection.get("k") == b"v"


def test_a_server_that_neither_answers_nor_ends_is_reported_and_can_be_stopped(user, project, runtime):
    assert user().found["started"]
    before = facts(project)
    os.kill(before.server, signal.SIGSTOP)
    os.kill(before.guardian, signal.SIGKILL)
    wait_until(lambda: not is_running(before.guardian), description="the end of the guardian")

    with pytest.raises(
        BrokerUnavailable, match=r"is there but does not answer within 0\.2 s.* run `qworker embedded stop`"
    ):
        embedded.ensure(root=project, environ={}, timeout_s=0.2)

    assert embedded.stop(project, timeout_s=4.0)
    assert not is_running(before.server)


# What others left behind


def bind(path: Path, *, age_s: float) -> socket.socket:
    """A socket as it was `age_s` ago; nobody listens on it yet."""
    link = socket.socket(socket.AF_UNIX)
    link.bind(str(path))
    os.utime(path, (time.time() - age_s,) * 2)
    return link


def test_a_guardian_that_starts_sweeps_away_the_sockets_of_servers_that_were_killed(user, runtime):
    place = runtime / "qworker"
    place.mkdir(mode=0o700)
    stale = place / f"{1:016x}.sock"
    bind(stale, age_s=3600).close()

    assert user().found["started"]

    wait_until(lambda: not stale.exists(), description="the end of the stale socket")


def test_a_sweep_spares_sockets_that_are_new_or_listened_on_and_what_is_not_ours(runtime):
    stale, young, live, file = (runtime / f"{number:016x}.sock" for number in range(4))
    foreign = runtime / "other.sock"
    bind(stale, age_s=3600).close()
    bind(young, age_s=0).close()  # of a server that is just starting, for all anybody knows
    bind(foreign, age_s=3600).close()
    file.touch()
    os.utime(file, (0, 0))

    with bind(live, age_s=3600) as listening:
        listening.listen(1)
        guardian.sweep(runtime)

    assert set(runtime.iterdir()) == {young, live, file, foreign}


# What becomes of it when its directory does not stay


def test_a_deleted_state_directory_ends_the_server_and_the_next_user_starts_afresh(user, project):
    first = user(grace_s=SHORT_S)
    assert first.found["started"]
    before = facts(project)

    shutil.rmtree(project / ".qworker")
    second = user()

    assert second.found["started"]
    wait_until(lambda: not is_running(before.server), description="the end of the server without data")
    with client(second.url) as connection:
        assert connection.ping()
    assert second.url == first.url


def test_a_moved_project_takes_its_data_along(user, project, tmp_path):
    first = user(grace_s=SHORT_S)
    with client(first.url) as connection:
        connection.set("k", "v")
    before = facts(project)
    moved = tmp_path / "moved"

    project.rename(moved)
    second = user(moved)

    assert second.found["started"]
    assert not is_running(before.server)
    with client(second.url) as connection:
        assert connection.get("k") == b"v"


def test_a_deleted_socket_ends_the_server_because_nobody_could_find_it(user, project):
    first = user(grace_s=SHORT_S)
    before_url = first.url
    before = facts(project)

    Path(before_url.removeprefix("unix://")).unlink()
    second = user()

    assert second.found["started"]
    assert not is_running(before.server)


def test_a_socket_that_is_deleted_before_the_guardian_has_looked_is_missed_all_the_same(user, project, runtime):
    """Who is told READY may delete it at once: a guardian that looks only then would take no socket for its own."""
    code = """
state = embedded.prepare(project)
os.chdir(state)
path = str(Path(os.environ["XDG_RUNTIME_DIR"]) / "s.sock")
lock, (_, answer) = os.open("server.lock", os.O_RDWR | os.O_CREAT), os.pipe()
guardian.sweep = lambda _: os.unlink(path)  # what comes between its word and its first look
guardian.say = print
binary = embedded.find_binary()
guardian.Guardian(state, binary=binary, socket_path=path, lock_fd=lock, answer_fd=answer, grace_s=60).run()
"""
    assert run_here(code, project, runtime) == "stopping the server: its socket was deleted\n"
