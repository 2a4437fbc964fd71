"""Who finds the embedded server of a project, with real processes; and what a person can see of it."""

from __future__ import annotations

import os
import shutil
import signal

import pytest

from qworker.broker import embedded, guardian
from qworker.errors import BrokerUnavailable
from support.embedded_users import client, facts, gone, processes_of, run_here
from support.processes import is_running
from support.waiting import wait_until

# Who finds it


def test_a_producer_and_a_worker_of_one_project_find_the_same_server(user, project):
    below = project / "src" / "deep"
    below.mkdir(parents=True)

    first, second = user(project), user(below)

    assert first.url == second.url
    assert first.found["root"] == second.found["root"] == str(project)
    with client(first.url) as one, client(second.url) as two:
        one.set("hello", "there")
        assert two.get("hello") == b"there"


def test_the_line_for_the_log_names_the_project_and_the_url(user, project):
    first = user()
    assert first.found["line"].startswith(f"started the embedded server of {project} (")
    assert first.found["line"].endswith(f", data in .qworker/): {first.url}")

    assert user().found["line"].startswith(f"using the embedded server of {project} (")


def test_the_root_is_the_nearest_parent_with_a_mark_else_the_directory_itself(tmp_path):
    marked = tmp_path / "a" / "b"
    (marked / "c").mkdir(parents=True)
    (marked / ".git").touch()
    (tmp_path / "a" / "pyproject.toml").touch()

    assert embedded.find_root(marked / "c") == marked
    assert embedded.find_root(marked) == marked
    assert embedded.find_root(tmp_path / "a") == tmp_path / "a"


def test_two_projects_at_once_have_two_servers(user, tmp_path):
    roots = [tmp_path / "one", tmp_path / "two"]
    for root in roots:
        root.mkdir()
        (root / "pyproject.toml").touch()

    first, second = user(roots[0]), user(roots[1])

    assert first.url != second.url
    with client(first.url) as one, client(second.url) as two:
        one.set("mine", "1")
        assert two.get("mine") is None


def test_a_user_with_another_runtime_directory_finds_it_all_the_same(user, tmp_path):
    first = user()
    assert first.found["started"]

    cron = user(env={"XDG_RUNTIME_DIR": "", "TMPDIR": str(tmp_path)})

    assert cron.url == first.url
    assert not cron.found["started"]


def test_a_copied_project_has_a_server_of_its_own(user, project, tmp_path):
    first = user()
    with client(first.url) as connection:
        connection.set("where", "original")
    copy = tmp_path / "copy"
    shutil.copytree(project, copy)

    second = user(copy)

    assert second.url != first.url
    with client(first.url) as one, client(second.url) as two:
        two.set("where", "copy")
        assert one.get("where") == b"original"


@pytest.mark.parametrize(
    "answer",
    [
        "-MISCONF Errors writing to the AOF file: No space left on device",
        "-OOM command not allowed when used memory > 'maxmemory'.",
        "-READONLY You can't write against a read only replica.",
    ],
)
def test_a_server_that_refuses_writes_is_there_and_is_returned_at_once(user, project, runtime, monkeypatch, answer):
    first = user()
    assert first.found["started"]
    monkeypatch.setattr(guardian, "ping", lambda path: answer)

    found = embedded.ensure(root=project, environ={"XDG_RUNTIME_DIR": str(runtime)}, timeout_s=0.5)

    assert (found.url, found.started) == (first.url, False)


def test_a_server_that_is_loading_is_waited_for(user, project, runtime, monkeypatch):
    assert user().found["started"]
    monkeypatch.setattr(guardian, "ping", lambda path: "-LOADING the dataset in memory")

    with pytest.raises(BrokerUnavailable, match=r"does not answer within 0\.1 s \(it says -LOADING the dataset"):
        embedded.ensure(root=project, environ={"XDG_RUNTIME_DIR": str(runtime)}, timeout_s=0.1)


def test_eight_processes_at_once_start_one_server(user, project):
    users = [user(project, "wait") for _ in range(8)]

    for each in users:
        each.go()

    assert len({each.url for each in users}) == 1
    assert [each.found["started"] for each in users].count(True) == 1
    assert sorted(processes_of(project)) == sorted([facts(project).guardian, facts(project).server])


def test_eight_processes_at_once_right_after_the_guardian_was_killed_start_one_server(user, project):
    assert user().found["started"]
    users = [user(project, "wait") for _ in range(8)]
    before = facts(project)

    os.kill(before.guardian, signal.SIGKILL)
    gone(project, before.server)
    for each in users:
        each.go()

    assert [each.found["started"] for each in users].count(True) == 1
    assert sorted(processes_of(project)) == sorted([facts(project).guardian, facts(project).server])


# In one process


def test_threads_that_ask_at_once_start_one_server(user, project, runtime):
    code = """
found = []
threads = [threading.Thread(target=lambda: found.append(ensure())) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len({each.url for each in found}), [each.started for each in found].count(True))
embedded.stop(project)
"""
    assert run_here(code, project, runtime) == "1 1\n"


def test_a_process_that_closed_all_its_descriptors_can_hold_on_again(user, project, runtime):
    code = """
ensure()
os.closerange(3, 256)
others = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]  # one of them has the lock's number now
print(embedded.status(project).used)
ensure()
print(embedded.status(project).used, all(os.fstat(fd) for fd in others))
embedded.stop(project)
"""
    assert run_here(code, project, runtime) == "False\nTrue True\n"


def test_a_fork_in_the_middle_of_a_start_does_not_keep_the_lock_of_the_server(user, project, runtime):
    """A child that kept it would keep everybody from starting the server again, for as long as it lives."""
    code = """
here, there = os.pipe(), os.pipe()
def launch(*args, lock_fd, **options):
    if not os.fork():
        os.write(there[1], b"x")
        os.read(here[0], 1)  # lives until the parent has looked
        os._exit(0)
    os.read(there[0], 1)
    return "no server this time"
guardian.launch = launch
try:
    ensure()
except Exception as error:
    print(error)
print(embedded.status(project).running)
os.write(here[1], b"x")
os.wait()
"""
    assert run_here(code, project, runtime) == (
        f"cannot start the embedded server of {project}: no server this time\nFalse\n"
    )


# What a person can see and do


def test_status_tells_what_runs_and_whether_it_is_used(user, project):
    assert embedded.status(project) == embedded.Status(project, running=False, used=False, answer="")
    first = user()
    url = first.url

    seen = embedded.status(project)

    assert (seen.running, seen.used, seen.answer, seen.url) == (True, True, "+PONG", url)
    assert seen.data_bytes > 0
    first.leave()
    wait_until(lambda: not embedded.status(project).used, description="the lock to be free")


def test_stop_ends_it_even_while_it_is_used_and_keeps_the_data(user, project):
    first = user()
    with client(first.url) as connection:
        connection.set("k", "v")
    before = facts(project)

    assert embedded.stop(project)

    assert not is_running(before.guardian)
    assert not is_running(before.server)
    assert not embedded.stop(project)
    with client(user().url) as connection:
        assert connection.get("k") == b"v"


@pytest.mark.parametrize("left", [False, True], ids=["fresh", "of a full disk"])
def test_the_state_is_private_and_invisible_to_git(user, project, left):
    state = project / ".qworker"
    if left:
        state.mkdir()
        (state / ".gitignore").touch()  # there was room for the name alone

    assert user().found["started"]

    assert (state / ".gitignore").read_text() == "*\n"
    assert state.stat().st_mode & 0o777 == 0o700
    for path in (state / "appendonlydir").iterdir():
        assert not path.stat().st_mode & 0o077, path


def test_the_server_is_set_up_for_a_queue(user):
    with client(user().url) as connection:
        settings = connection.config_get("*")

    wanted = {
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "save": "",
        "databases": "1",
        "unixsocketperm": "700",
    }
    assert {name: settings[name] for name in wanted} == wanted
