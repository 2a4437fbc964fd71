"""`Executor`: its end, its worker's end, the script's end, and workers that serve a server for all.

The standard library's own tests run against it in test_stdlib_executor.py; here is what they do not ask. What is
submitted is in test_executor_calls.py.
"""

from __future__ import annotations

import concurrent.futures
import gc
import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qworker import App, BadCall, ConfigError, Executor
from support.apps import plain
from support.daemon import TESTS, alive, descendants, start_worker
from support.waiting import wait_until

HERE = "support.apps.plain"


@pytest.fixture
def new_processes() -> Callable[[], list[int]]:
    """What was started below this process since the test began: first the private worker, then what it started."""
    before = set(descendants(os.getpid()))
    return lambda: [pid for pid in descendants(os.getpid()) if pid not in before]


# The end


def test_nothing_is_taken_after_shutdown_and_what_was_is_finished(new_processes) -> None:
    executor = Executor(workers=1)
    futures = [executor.submit(plain.nap, 0.05, n) for n in range(4)]
    worker = new_processes()[0]

    executor.shutdown()

    assert [future.result(timeout=0) for future in futures] == [0, 1, 2, 3]
    assert not alive(worker)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(plain.square, 1)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.map(plain.square, [1])
    executor.shutdown()


def test_shutdown_without_waiting_returns_at_once_and_ends_the_worker_when_it_is_idle(new_processes) -> None:
    executor = Executor(workers=1)
    future = executor.submit(plain.nap, 0.5, "x")
    worker = new_processes()[0]

    executor.shutdown(wait=False)

    assert not future.done()
    assert future.result(timeout=30) == "x"
    wait_until(lambda: not alive(worker), description="the private worker has ended")


def test_shutdown_returns_when_all_callbacks_have_run() -> None:
    saved: list[int] = []
    may_save = threading.Event()

    def save(future: concurrent.futures.Future[int]) -> None:
        may_save.wait(20)
        saved.append(future.result())

    with Executor(workers=2) as executor:
        for n in range(10):
            executor.submit(plain.square, n).add_done_callback(save)
        threading.Timer(0.2, may_save.set).start()

    assert sorted(saved) == [n * n for n in range(10)]


def test_a_callback_may_shut_its_executor_down() -> None:
    executor, down = Executor(workers=1), threading.Event()

    def end(_: object) -> None:
        executor.shutdown()
        down.set()

    executor.submit(plain.square, 2).add_done_callback(end)

    assert down.wait(30)


def test_an_executor_that_nobody_holds_finishes_its_work_and_ends(new_processes) -> None:
    executor = Executor(workers=1)
    future = executor.submit(plain.nap, 0.3, "x")
    worker = new_processes()[0]

    del executor
    gc.collect()

    assert future.result(timeout=30) == "x"
    wait_until(lambda: not alive(worker), description="the private worker has ended")


def run_script(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = directory / "sweep.py"
    script.write_text(textwrap.dedent(code))
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
    return subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=50, env=environ, cwd="/", check=False
    )


def test_the_interpreter_waits_for_pending_work_of_a_script_and_its_prints_come_through(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        import sys, time
        from qworker import Executor

        def work(path):
            time.sleep(0.5)
            open(path, "w").write("written")
            print("apple")
            print("pear", file=sys.stderr)

        if __name__ == "__main__":
            Executor(workers=2).submit(work, sys.argv[0] + ".out")
        """,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "apple\n", "pear\n")
    assert (tmp_path / "sweep.py.out").read_text() == "written"


def test_exceptions_of_the_script_itself_are_retried_for_and_caught_as_what_they_are(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        from qworker import Executor, current

        class Flaky(Exception):
            pass

        class OutOfStock(ValueError):
            def __init__(self, item, left):
                super().__init__(f"no {item}")
                self.left = left

        def order(item):
            if current.attempt < 3:
                raise Flaky
            raise OutOfStock(item, 0)

        if __name__ == "__main__":
            with Executor(workers=1, retries=3, backoff=0.01, retry_for=[Flaky]) as ex:
                try:
                    ex.submit(order, "pears").result(timeout=30)
                except OutOfStock as error:
                    print(error, error.left)
        """,
    )

    assert (done.returncode, done.stdout) == (0, "no pears 0\n"), done.stderr


def test_a_script_whose_directory_was_removed_has_an_executor_as_it_has_a_process_pool(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, sys, tempfile
        from qworker import Executor
        if __name__ == "__main__":
            gone = tempfile.mkdtemp()
            os.chdir(gone)
            os.rmdir(gone)
            sys.path.insert(0, "")
            with Executor(workers=1) as executor:
                print(executor.submit(pow, 2, 8).result(timeout=30))
        """,
    )

    assert (done.stdout, done.stderr) == ("256\n", "")


def test_submitting_at_the_interpreters_exit_is_refused(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        import atexit

        @atexit.register
        def last():
            try:
                executor.submit(id, None)
            except RuntimeError as error:
                print(error)

        from qworker import Executor
        if __name__ == "__main__":
            executor = Executor(workers=1)
        """,
    )

    assert (done.stdout, done.stderr) == ("cannot schedule new futures after interpreter shutdown\n", "")


def test_a_script_that_forgets_the_main_guard_is_told_so_and_does_not_multiply(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        from qworker import Executor
        def f(): return 1
        with Executor(workers=1) as executor:
            print(executor.submit(f).exception(timeout=30))
        """,
    )

    assert "cannot run sweep.f: importing sweep failed: RuntimeError: Executor(workers=…) was made while" in done.stdout
    assert "under `if __name__ == '__main__':`" in done.stdout


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory in which the path of a socket is short enough."""
    with tempfile.TemporaryDirectory(prefix="qw-") as directory:
        yield Path(directory)


def test_when_the_owner_is_killed_nothing_is_left(tmp_path, short_path) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import time\nfrom qworker import Executor\nfrom support.apps import plain\n"
        "if __name__ == '__main__':\n"
        "    executor = Executor(workers=2)\n"
        "    future = executor.submit(plain.nap, 60)\n"
        f"    executor.submit(plain.note, {str(tmp_path / 'ready')!r}, 'x').result()\n"
        "    time.sleep(60)\n"
    )
    owner = subprocess.Popen([sys.executable, str(script)], env={**os.environ, "TMPDIR": str(short_path)})
    try:
        wait_until((tmp_path / "ready").exists, timeout=30, description="the private worker works")
        below = descendants(owner.pid)
        assert len(below) >= 5  # worker, server, fork server, two children
        assert list(short_path.glob("qworker-*/server.sock"))
        owner.kill()
        owner.wait()

        wait_until(lambda: not [pid for pid in below if alive(pid)], timeout=15, description="everything has ended")
        wait_until(lambda: not list(short_path.glob("qworker-*")), description="the directory is removed")
    finally:
        owner.kill()


_WAITING = {
    "in its block": "with Executor(workers=1) as executor: begin(executor).result()",
    "at the end of its block": "with Executor(workers=1) as executor: begin(executor)",
    "in the script": "begin(Executor(workers=1)).result()",
}


@pytest.mark.parametrize("waiting", _WAITING)
def test_ctrl_c_ends_what_runs_on_a_private_worker_as_it_ends_a_process_pool(tmp_path, waiting) -> None:
    script = tmp_path / "owner.py"
    script.write_text(
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        "import os, signal, pathlib\nfrom qworker import Executor, current\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background job ignores it
        "def work(place):\n"
        "    pathlib.Path(place, 'began').touch()\n"
        "    try:\n"
        "        current.sleep(60)\n"
        "    finally:\n"
        "        pathlib.Path(place, 'cleaned').touch()\n"
        "def begin(executor):\n"
        f"    return executor.submit(work, {str(tmp_path)!r})\n"
        f"if __name__ == '__main__': {_WAITING[waiting].replace('with', chr(10) + '    with')}\n"
    )
    owner = subprocess.Popen([sys.executable, str(script)], stderr=subprocess.PIPE, text=True)
    try:
        wait_until((tmp_path / "began").exists, timeout=30, description="the task runs")
        below = descendants(owner.pid)
        owner.send_signal(signal.SIGINT)
        _, said = owner.communicate(timeout=20)
    finally:
        owner.kill()

    assert (owner.returncode, said.rstrip().splitlines()[-1]) == (-signal.SIGINT, "KeyboardInterrupt")
    assert (tmp_path / "cleaned").exists()
    assert not [pid for pid in below if alive(pid)]


# A worker that does not come, or goes


def test_pending_calls_break_when_the_own_worker_is_killed(new_processes) -> None:
    executor = Executor(workers=1)
    future = executor.submit(plain.nap, 60)
    worker = new_processes()[0]

    os.kill(worker, signal.SIGKILL)

    with pytest.raises(concurrent.futures.BrokenExecutor, match="own worker is gone: its process ended, with signal 9"):
        future.result(timeout=30)
    with pytest.raises(concurrent.futures.BrokenExecutor, match="what was submitted to it is lost"):
        executor.submit(plain.square, 1)
    executor.shutdown()


def test_a_worker_that_cannot_start_breaks_its_executor_and_says_why() -> None:
    with Executor(workers=1, allow="support.apps.broken_import") as executor:
        with pytest.raises(concurrent.futures.BrokenExecutor) as caught:
            executor.submit(plain.square, 1).result(timeout=30)

        assert "cannot import support.apps.broken_import: RuntimeError: not today" in str(caught.value)


def test_a_private_worker_runs_only_the_modules_that_it_is_allowed() -> None:
    with Executor(workers=2, pool="thread", allow=[HERE]) as executor:
        assert len({executor.submit(plain.pid, 0.1).result(timeout=30) for _ in range(2)}) == 1
        with pytest.raises(BadCall, match=r"cannot submit builtins.pow: this Executor's own worker runs functions of "):
            executor.submit(pow, 2, 2)  # nobody would ever run it
        with pytest.raises(BadCall, match=r"name its module in allow=, too; nothing was queued"):
            executor.map(pow, [2], [2])


def test_a_forked_copy_may_submit_and_leaves_the_worker_to_its_owner(tmp_path) -> None:
    done = run_script(
        tmp_path,
        """
        import os, sys, threading, warnings
        from qworker import Executor

        def square(n): return n * n

        if __name__ == "__main__":
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, since Python 3.12
            with Executor(workers=1) as executor:
                future = executor.submit(square, 2)
                pid = os.fork()
                if pid == 0:
                    print("child", executor.submit(square, 3).result(), flush=True)
                    executor.shutdown()
                    threading._shutdown()
                    os._exit(0)
                os.waitpid(pid, 0)
                print("parent", future.result(), executor.submit(square, 4).result())
        """,
    )

    assert (done.stdout, done.stderr) == ("child 9\nparent 4 16\n", "")


# On workers for all


def test_an_executor_uses_the_workers_of_an_app_or_of_a_url(url, tmp_path) -> None:
    worker = start_worker(url, "--allow", HERE, "-c", "1", log_dir=tmp_path)
    try:
        with App(url, timeout=20) as app, Executor(app) as executor:
            assert executor.submit(plain.square, 4).result(timeout=30) == 16
            app.client()
        with Executor(url=url, retries=1) as executor:
            assert list(executor.map(plain.square, range(5))) == [0, 1, 4, 9, 16]
        assert worker.process.poll() is None
    finally:
        worker.close()


@pytest.mark.parametrize("registered", [False, True])
def test_a_task_in_a_group_may_have_an_executor_of_its_own(url, tmp_path, registered) -> None:
    worker = start_worker(url, "--allow", HERE, "-c", "1", log_dir=tmp_path)
    try:
        with App(url) as app, app.group(timeout=40) as group:
            future = group.submit(app.named(plain.squares_elsewhere), [1, 2, 3], registered=registered)
        assert future.result() == [1, 4, 9]
    finally:
        worker.close()


def test_an_inline_app_makes_an_inline_executor() -> None:
    app = App(inline=True)
    app.task(plain.square)

    with Executor(app) as executor:
        assert executor.submit(plain.square, 4).result() == 16
        assert list(executor.map(plain.square, range(3), buffersize=1)) == [0, 1, 4]


def test_calls_that_no_worker_holds_are_cancelled_by_shutdown(url) -> None:
    executor = Executor(url=url)
    futures = [executor.submit(plain.square, n) for n in range(600)]
    began = time.monotonic()

    executor.shutdown(cancel_futures=True)

    assert all(future.cancelled() for future in futures)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"workers": 0}, ValueError, "workers=0: the number of workers must be greater than 0"),
        ({"workers": "2"}, ConfigError, r"Executor\(workers='2'\): expected a whole number of slots"),
        ({"workers": 1, "url": "redis://h"}, ConfigError, "so it takes no app, url or namespace"),
        ({"app": App(inline=True), "url": "redis://h"}, ConfigError, "uses the server of that app"),
        ({"allow": "math"}, ConfigError, "start others with `qworker start --allow MODULE`"),
        ({"app": 4}, ConfigError, r"its first argument is an app; write Executor\(workers=4\)"),
        ({"app": "redis://h"}, ConfigError, r"expected an App; a server is given as url="),
        ({"max_workers": 4}, ConfigError, r"there is no option 'max_workers': write Executor\(workers=4\)"),
        ({"workers": 1, "pool": "gpu"}, ConfigError, r"pool='gpu': expected one of process, thread, async"),
        (
            {"workers": 1, "pool": "thread", "interrupt": True},
            ConfigError,
            "only a process slot's code can be interrup",
        ),
        ({"workers": 1, "tiemout": 3}, ConfigError, "there is no option 'tiemout': did you mean timeout"),
    ],
)
def test_arguments_that_contradict_each_other_are_refused(arguments, error, said) -> None:
    with pytest.raises(error, match=said):
        Executor(**arguments)
