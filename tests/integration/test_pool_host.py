"""The fork server: what it imports, how it starts children, and what its own death and the worker's mean."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from qworker.errors import AppImportError
from qworker.pool import host as host_module
from qworker.pool import linux, orders
from qworker.pool.host import Host
from qworker.pool.spawn import spawn
from support.pools import a_pool, make_order, value_of
from support.processes import is_running
from support.waiting import await_until, wait_until

TESTS = Path(__file__).parents[1]


def write_app(directory, name, text):
    (directory / f"{name}.py").write_text(textwrap.dedent(text))


async def import_only(targets, cwd, **options):
    host = Host()
    try:
        return await host.start(targets, cwd, **options)
    finally:
        await host.close()


def test_the_facts_of_an_app_are_reported(tmp_path):
    write_app(
        tmp_path,
        "shop",
        """
        from qworker import App
        app = App(namespace="shop")
        @app.task
        def buy(): ...
        @app.task
        async def sell(): ...
        """,
    )

    facts = asyncio.run(import_only(["shop"], tmp_path))

    assert (facts.namespace, facts.url, facts.spawn) == ("shop", None, False)
    assert facts.names == {"shop.buy", "shop.sell"}
    assert facts.async_names == {"shop.sell"}


@pytest.mark.parametrize(
    ("target", "text", "message"),
    [
        ("nowhere:app", None, "cannot import nowhere:app: there is no module 'nowhere' in "),
        ("bad:app", "x = 1", "has no attribute 'app'"),
        ("bad:x", "x = 1", "cannot run bad:x: it is of type int, not a qworker.App"),
        ("bad", "import missing_dependency", "cannot import bad: ModuleNotFoundError: No module named 'missing_dep"),
        ("bad", "1 / 0", "cannot import bad: ZeroDivisionError: division by zero ("),
        ("bad", "def (", "cannot import bad: SyntaxError: "),
        ("bad", "raise SystemExit(3)", "cannot import bad: SystemExit: 3 ("),
        ("bad", "import os; os._exit(9)", "the process that imports it ended: exit status 9"),
        ("not a module", None, "write it as module:attribute, as in tasks:app"),
    ],
)
def test_an_app_that_cannot_be_imported_is_one_clear_line(tmp_path, target, text, message):
    if text is not None:
        write_app(tmp_path, "bad", text)

    with pytest.raises(AppImportError) as caught:
        asyncio.run(import_only([target], tmp_path))

    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


HANGS = """
import os, pathlib, subprocess, time
program = subprocess.Popen(["sleep", "60"])
pathlib.Path(__file__).with_name("pids").write_text(f"{os.getpid()} {program.pid}\\n")
time.sleep(60)
"""


def test_an_import_that_hangs_is_given_up(tmp_path):
    write_app(tmp_path, "bad", "import time; time.sleep(60)")

    with pytest.raises(AppImportError, match="cannot import bad: it takes longer than 1 s"):
        asyncio.run(import_only(["bad"], tmp_path, timeout_s=1))


def test_a_start_that_is_given_up_in_the_middle_of_an_import_leaves_nothing_and_waits_for_nothing(tmp_path):
    write_app(tmp_path, "bad", HANGS)
    pids = tmp_path / "pids"

    async def check():
        start = asyncio.create_task(import_only(["bad"], tmp_path))
        await await_until(lambda: pids.exists() and pids.read_text().endswith("\n"), description="the import")
        began = time.monotonic()
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        assert time.monotonic() - began < host_module._CLOSE_S

    asyncio.run(check())

    left = [int(pid) for pid in pids.read_text().split()]
    wait_until(lambda: not any(is_running(pid) for pid in left), description="the end of the import and its program")


def test_two_apps_with_different_namespaces_cannot_share_a_worker(tmp_path):
    write_app(tmp_path, "one", "from qworker import App; app = App(namespace='one')")
    write_app(tmp_path, "two", "from qworker import App; app = App(namespace='two')")

    with pytest.raises(AppImportError, match="cannot run one and two in one worker: their namespace differ"):
        asyncio.run(import_only(["one", "two"], tmp_path))


def test_an_import_that_leaves_threads_means_fresh_interpreters_and_a_warning():
    async def check():
        async with a_pool("process", 1, target="threaded_app:app") as pool:
            assert pool.host.facts.spawn
            assert "left 1 threads running (left-behind)" in pool.host.facts.warning

            ending = await pool.run("who", blob=make_blob("threaded_app.threads"))

            # Imported anew in the child, so its own import left the thread there, too.
            assert value_of(ending) == ["MainThread", "left-behind"]

    asyncio.run(check())


def make_blob(name):
    from qworker import codec
    from qworker.model import Header, Line

    header = codec.pack_header(Header(name=name))
    return codec.pack_envelope(header=header, body=codec.pack_body((), {}), line=Line(), client=" " * 12, sent_ms=0)


def test_a_start_hook_that_fails_is_reported_and_tried_again_with_growing_pauses(tmp_path, monkeypatch):
    flag = tmp_path / "may start"
    monkeypatch.setenv("HOOK_FLAG", str(flag))

    async def check():
        async with a_pool("process", 1, target="fussy_app:app") as pool:
            failures = pool.heard.named("child.failed")
            assert "start hook: RuntimeError: no flag" in failures[0]["detail"]
            await await_until(lambda: len(pool.heard.named("child.failed")) >= 3, description="three tries")
            assert pool.pool.free == 0
            pauses = [failure["again_in_s"] for failure in pool.heard.named("child.failed")]
            assert pauses[:3] == [0.1, 0.2, 0.4]

            flag.touch()

            await await_until(lambda: pool.pool.free == 1, description="the child starts at last")

    asyncio.run(check())


def test_a_suspect_whose_child_cannot_start_comes_back_and_starts_no_storm(tmp_path, monkeypatch):
    flag = tmp_path / "may start"
    monkeypatch.setenv("HOOK_FLAG", str(flag))
    flag.touch()

    async def check():
        async with a_pool("thread", 2, target="fussy_app:app", prompt=True) as pool:
            flag.unlink()

            ending = await pool.ending(pool.put("anything", alone=True))

            assert (ending.kind, ending.detail) == ("unstarted", "stalled")
            assert 1 <= len(pool.heard.named("child.failed")) <= 4

    asyncio.run(check())


def test_when_the_fork_server_is_killed_what_ran_is_nobodys_fault_and_the_rest_runs_on_a_new_one(tmp_path):
    async def check():
        async with a_pool("process", 2) as pool:
            await pool.run("noop")
            path = tmp_path / "pid"
            running = [pool.put("nap", 30), pool.put("stubborn", str(path))]
            children = [(await pool.running(number)).child for number in running]
            grandchild = int(await await_until(lambda: path.exists() and path.read_text(), description="grandchild"))

            os.kill(pool.host.facts.pid, signal.SIGKILL)
            waiting = make_order("echo", 5)
            pool.pool.put([waiting])

            for number in running:
                assert (await pool.ending(number)).kind == "host_died"
            assert await pool.value(waiting) == 5
            assert not any(is_running(child) for child in children)
            await await_until(lambda: not is_running(grandchild), description="the grandchild is gone")
            assert pool.heard.named("forkserver.died")[0]["detail"] == "signal 9"
            await await_until(lambda: pool.pool.capacity == 2, description="both places are taken again")

    asyncio.run(check())


def test_a_new_fork_server_that_cannot_import_the_app_is_reported_and_tried_again(tmp_path, monkeypatch):
    broken = tmp_path / "broken"
    monkeypatch.setenv("BROKEN_FLAG", str(broken))

    async def check():
        async with a_pool("process", 1, target="breakable_app:app") as pool:
            broken.touch()
            os.kill(pool.host.facts.pid, signal.SIGKILL)
            failed = await await_until(lambda: pool.heard.named("forkserver.failed"), description="it fails")
            assert "RuntimeError: broken by a deploy" in failed[0]["detail"]
            assert pool.pool.free == 0

            broken.unlink()

            await await_until(lambda: pool.pool.free == 1, description="it serves again")
            assert len(pool.heard.named("forkserver.started")) == 1
            assert value_of(await pool.run("who", blob=make_blob("breakable_app.fine"))) == "fine"

    asyncio.run(check())


def test_a_new_fork_server_for_which_there_is_no_process_is_reported_and_tried_again(monkeypatch):
    """One fork that failed was the last word: the worker lived on without any process, and claimed for nobody."""
    real, tries = subprocess.Popen, []

    def no_process(*args, **options):
        tries.append(args)
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            monkeypatch.setattr(subprocess, "Popen", no_process)
            os.kill(pool.host.facts.pid, signal.SIGKILL)
            await await_until(lambda: len(pool.heard.named("forkserver.failed")) >= 3, description="three tries")
            failed = pool.heard.named("forkserver.failed")
            assert [failure["again_in_s"] for failure in failed[:3]] == [0.1, 0.2, 0.4]
            assert failed[0]["detail"] == "cannot start a process: [Errno 11] Resource temporarily unavailable"
            assert len(failed) == len(tries)

            monkeypatch.setattr(subprocess, "Popen", real)

            assert value_of(await pool.run("echo", 5)) == 5
            assert len(pool.heard.named("forkserver.started")) == 1

    asyncio.run(check())


@pytest.mark.parametrize("fails", ["Popen", "send"])
def test_a_fork_server_that_cannot_be_started_leaves_nothing_behind(tmp_path, monkeypatch, fails):
    """Its process sees the end of its socket as soon as that is closed here, so it is there no longer either way."""
    made = []

    class Popen(subprocess.Popen):
        def __init__(self, *args, **options):
            if fails == "Popen":
                raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
            super().__init__(*args, **options)
            made.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    names = ["x" * orders.MESSAGE_MAX * 8] if fails == "send" else ["shop"]
    before = set(Path("/proc/self/fd").iterdir())

    with pytest.raises(OSError, match=r"temporarily unavailable|Message too long"):
        spawn({}, names, str(tmp_path), ())

    assert set(Path("/proc/self/fd").iterdir()) == before
    assert [process.returncode for process in made] == [-signal.SIGKILL] * (fails == "send")


def test_a_new_fork_server_that_dies_as_soon_as_it_has_told_its_facts_is_replaced_too(monkeypatch):
    """Its end is read in one go with its answer, before who waits for that answer has heard of it."""
    heed = Host._heed
    killed = []

    def heed_and_kill(self, message, fds):
        heed(self, message, fds)
        if message[0] == orders.FACTS and len(killed) < 2:
            killed.append(self._server.pid)
            self._server.kill()
            self._server.wait()

    async def check():
        async with a_pool("process", 1) as pool:
            await pool.run("noop")
            monkeypatch.setattr(Host, "_heed", heed_and_kill)

            os.kill(pool.host.facts.pid, signal.SIGKILL)

            failed = await await_until(lambda: pool.heard.named("forkserver.failed"), description="the first death")
            assert "the process that imported it ended right away" in failed[0]["detail"]
            assert value_of(await pool.run("echo", 5)) == 5
            assert len(killed) == 2
            assert pool.host.facts.pid not in killed

    asyncio.run(check())


def test_a_restart_that_fails_in_a_way_that_nobody_foresaw_ends_the_worker(monkeypatch):
    """A worker hears of what fails in a callback, and ends; it hears nothing of a task that nobody awaits."""

    def broken(*_args):
        raise ValueError("a defect")

    async def check():
        told = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.set_result(context))
        async with a_pool("process", 1) as pool:
            monkeypatch.setattr(host_module, "spawn", broken)
            os.kill(pool.host.facts.pid, signal.SIGKILL)

            context = await asyncio.wait_for(told, 10)

        assert repr(context["exception"]) == "ValueError('a defect')"
        assert "handle" in context

    asyncio.run(check())


def test_what_a_dead_fork_server_left_is_ended_also_when_nobody_could_look_for_a_while(tmp_path, monkeypatch):
    """Without a descriptor nobody can look; that ended the worker, and forgot what was left."""
    look, blind = linux.children_of_self, []

    def no_descriptor():
        blind.append(time.monotonic())
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(host_module, "_SWEEP_S", 0.1)

    async def check():
        async with a_pool("process", 1) as pool:
            path = tmp_path / "pid"
            number = pool.put("stubborn", str(path))
            await pool.running(number)
            grandchild = int(await await_until(lambda: path.exists() and path.read_text(), description="grandchild"))
            monkeypatch.setattr(linux, "children_of_self", no_descriptor)

            os.kill(pool.host.facts.pid, signal.SIGKILL)
            await await_until(lambda: blind and blind[-1] > blind[0] + 0.3, description="looks in vain")
            assert is_running(grandchild)
            monkeypatch.setattr(linux, "children_of_self", look)

            await await_until(lambda: not is_running(grandchild), description="the end of what was left")

    asyncio.run(check())


def test_a_child_is_the_first_that_the_kernel_ends_when_memory_runs_out():
    async def check():
        async with a_pool("process", 1) as pool:
            child = value_of(await pool.run("who"))["pid"]

            own = int(Path("/proc/self/oom_score_adj").read_text())
            assert int(Path(f"/proc/{child}/oom_score_adj").read_text()) == min(1000, own + 300)

    asyncio.run(check())


WORKER = """
import asyncio, sys
sys.path.insert(0, sys.argv[1])
from support.pools import a_pool

async def main():
    async with a_pool("process", 2) as pool:
        numbers = [pool.put("stubborn", sys.argv[2]), pool.put("nap", 3600, sys.argv[3])]
        for number in numbers:
            await pool.running(number)
        print("running", flush=True)
        await asyncio.sleep(3600)

asyncio.run(main())
"""


def test_when_the_worker_is_killed_nothing_of_it_stays(tmp_path):
    grandchild, napper = tmp_path / "grandchild", tmp_path / "napper"
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(TESTS), str(grandchild), str(napper)], stdout=subprocess.PIPE
    )
    with worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"running\n"
        pids = [
            int(wait_until(lambda path=path: path.exists() and path.read_text(), description="a pid"))
            for path in (grandchild, napper)
        ]
        assert all(is_running(pid) for pid in pids)

        worker.kill()

    wait_until(lambda: not any(is_running(pid) for pid in pids), description="all of its processes are gone")


def test_an_order_given_to_a_child_whose_death_is_not_known_yet_runs_in_the_next_one():
    """It was never sent, so nobody took its token: it must not be told as if somebody had."""

    async def check():
        async with a_pool("process", 1) as pool:
            child = value_of(await pool.run("who"))["pid"]
            os.kill(child, signal.SIGKILL)
            wait_until(lambda: not is_running(child), description="its death")  # the event loop stands still meanwhile

            order = pool.put("echo", 5)

            assert pool.pool.entries[order].kid.pid == child
            assert value_of(await pool.ending(order)) == 5

    asyncio.run(check())
