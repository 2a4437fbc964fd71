"""The producer when the server is away, full or frozen, or does not answer of one queue; when it forks, and leaves."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from qworker import App, BrokerUnavailable, ServerFull, SubmitUnknown, Task, call, unserved
from qworker.broker.broker import Subscription
from qworker.broker.keys import Keyspace
from qworker.errors import BrokerError, TaskExpired
from support.fake_worker import FakeWorker
from support.servers import Server
from support.waiting import wait_until


def test_a_server_that_is_not_there_is_a_typed_error_within_the_timeout(tmp_path: Path) -> None:
    app = App(f"unix://{tmp_path}/none", connect_timeout=0.3)
    began = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=r"cannot reach the server at unix://.*/none within 0\.3 s, so nothing"):
        app.submit("tasks.f")

    assert time.monotonic() - began < 2
    assert not app.connected


def test_a_password_is_not_shown(tmp_path: Path) -> None:
    app = App("redis://user:secret@127.0.0.1:1/0", connect_timeout=0.1)

    with pytest.raises(BrokerUnavailable) as caught:
        app.submit("tasks.f")

    assert "secret" not in str(caught.value)
    assert "user:***@127.0.0.1:1" in str(caught.value)


def test_results_arrive_after_the_server_was_killed_and_came_back(app: App, server: Server) -> None:
    futures = [app.submit("tasks.f", n) for n in range(20)]
    server.kill()
    server.start()
    worker = FakeWorker(server.url)

    with worker.serving(lambda n: n * 2):
        values = [future.result(timeout=20) for future in futures]

    worker.close()
    assert values == [n * 2 for n in range(20)]
    assert app.submit("tasks.f", 1).status().state == "queued"


def test_what_was_pushed_while_the_inbox_was_cut_off_is_asked_for(
    app: App, worker: FakeWorker, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qworker.broker.client.ROUND_EVERY_S", 1e6)
    futures = app.submit_many([app.named("tasks.f").call(n) for n in range(200)])
    tasks = worker.claim(200)
    stop = threading.Event()

    def cut() -> None:
        with redis.Redis.from_url(server.url) as client:
            while not stop.wait(0.005):
                client.client_kill_filter(_type="pubsub")

    thread = threading.Thread(target=cut)
    thread.start()
    for task in tasks:
        worker.succeed(task, task.args[0])
    stop.set()
    thread.join()

    assert not concurrent.futures.wait(futures, timeout=20).not_done
    assert [future.result() for future in futures] == list(range(200))


def test_a_submit_whose_answer_was_lost_is_unknown_and_may_be_sent_again(
    app: App, worker: FakeWorker, server: Server
) -> None:
    task = app.named("tasks.f").options(id="a")
    app.submit("tasks.f", 0)
    server.freeze()
    with pytest.raises(SubmitUnknown, match="submit again with the same ids") as caught:
        task.submit(1)
    server.thaw()

    again = task.submit(1)

    assert caught.value.ids == ("default:a",)
    assert caught.value.accepted == ()
    assert again.id == "default:a"
    assert sorted(held.args for held in worker.claim(10)) == [(0,), (1,)]


def test_a_frozen_server_does_not_hold_up_an_impatient_waiter(app: App, server: Server) -> None:
    future = app.submit("tasks.f")
    server.freeze()
    began = time.monotonic()

    with pytest.raises(TimeoutError, match="what it is doing is not known"):
        future.result(timeout=0.1)

    assert time.monotonic() - began < 3
    server.thaw()


def test_a_full_server_refuses_whole_and_says_what_was_accepted(app: App, server: Server) -> None:
    app.submit("tasks.f")
    with redis.Redis.from_url(server.url) as client:
        limit = client.info("memory")["used_memory"] + (2 << 20)
        client.config_set("maxmemory", limit)
        client.config_set("maxmemory-policy", "noeviction")

        with pytest.raises(ServerFull, match="is at its memory limit") as caught:
            app.submit_many([app.named("tasks.f").call("x" * 2_000) for _ in range(5_000)])
        ready = client.llen("qw:{default.default}:ready:default:normal")

    assert 0 < len(caught.value.accepted) < 5_000
    assert ready == 1 + len(caught.value.accepted)


def test_coroutines_are_told_when_the_server_is_full_each_by_an_error_of_its_own(app: App, server: Server) -> None:
    app.submit("tasks.f")
    with redis.Redis.from_url(server.url) as client:
        client.config_set("maxmemory", 1)

    async def main() -> list[Any]:
        task = app.named("tasks.f")
        return await asyncio.gather(*(task.asubmit(n) for n in range(3)), return_exceptions=True)

    errors = asyncio.run(main())

    assert [type(error) for error in errors] == [ServerFull] * 3
    assert len({id(error) for error in errors}) == 3


def test_what_was_submitted_before_a_close_can_be_waited_for_by_the_standard_librarys_means(
    app: App, worker: FakeWorker
) -> None:
    future = app.submit("tasks.f")
    app.close()
    worker.succeed(worker.claim_one(), 1)

    done, _ = concurrent.futures.wait([future], timeout=10)

    assert done == {future}


def test_closing_tells_those_who_wait_and_the_app_can_be_used_again(app: App, worker: FakeWorker) -> None:
    future = app.submit("tasks.f", 1)
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            future.result(timeout=30)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: future._wakers, description="the waiter")
    app.close()
    thread.join(10)

    assert "the app was closed" in str(errors[0])
    worker.succeed(worker.claim_one(), 5)
    assert future.result(timeout=10) == 5


def test_closing_ends_the_threads_and_the_connections(app: App, server: Server) -> None:
    app.submit("tasks.f")
    app.close()

    assert not [thread for thread in threading.enumerate() if thread.name == "qworker-io"]
    with redis.Redis.from_url(server.url) as client:
        wait_until(
            lambda: not [one for one in client.client_list() if one["name"].startswith("qw:")],
            description="the connections to be closed",
        )


def run(script: Path, code: str, url: str) -> subprocess.CompletedProcess[str]:
    script.write_text(code)
    env = {**os.environ, "QWORKER_URL": url}
    command = [sys.executable, "-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning", str(script)]
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=60, check=False)


FORKING = """
import os, signal, sys, threading
from qworker import App
app = App()
before = app.submit("tasks.double", 1)
fired = []
before.add_done_callback(lambda _: fired.append(os.getpid()))
mine = app.client().id
threading.Thread(target=before.result, args=(30,), daemon=True).start()
pid = os.fork()
if pid == 0:
    signal.alarm(30)
    assert not app.connected
    own = app.submit("tasks.double", 2)
    assert app.client().id != mine
    assert own.result(20) == 4
    assert before.result(20) == 2
    later = threading.Event()
    app.submit("tasks.double", 4).add_done_callback(lambda _: later.set())
    assert later.wait(20)  # callbacks are called in the order of the ends
    assert os.getpid() not in fired
    app.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert before.result(20) == 2
assert app.client().id == mine
assert app.submit("tasks.double", 3).result(20) == 6
print("fine")
"""


def test_a_forked_child_has_a_client_of_its_own_and_leaves_the_parents_alone(
    server: Server, worker: FakeWorker, tmp_path: Path
) -> None:
    with worker.serving(lambda n: n * 2):
        done = run(tmp_path / "forking.py", FORKING, server.url)

    assert (done.stderr, done.stdout, done.returncode) == ("", "fine\n", 0)


LEAVING = """
import asyncio, time, threading
from qworker import App, call
app = App()
@app.task
def f(x): ...
futures = f.submit_many([call(n) for n in range(2_000)])
futures[0].add_done_callback(lambda _: print("never"))
ended = f.submit(1)
threading.Thread(target=futures[1].result, daemon=True).start()
async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # a busy machine is slow, too
    await f.asubmit(2)
asyncio.run(main())
print(time.monotonic(), flush=True)
"""


def test_a_producer_leaves_quickly_and_quietly_and_its_tasks_stay(server: Server, tmp_path: Path) -> None:
    done = run(tmp_path / "leaving.py", LEAVING, server.url)
    took = time.monotonic() - float(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert took < 1.0  # 0.1 of it qworker's at most; the rest is what an interpreter takes to end on a busy machine
    with redis.Redis.from_url(server.url) as client:
        assert client.llen("qw:{default.default}:ready:default:normal") == 2_002


def test_a_client_stops_within_a_tenth_of_a_second(app: App) -> None:
    app.submit("tasks.f")
    client = app.client()
    began = time.monotonic()

    client.close(wait_s=0.05)

    assert time.monotonic() - began < 0.1


def test_many_threads_may_submit_and_wait_at_once(app: App, worker: FakeWorker) -> None:
    values: list[int] = []

    def work(base: int) -> None:
        values.extend(app.submit("tasks.f", base + n).result(timeout=30) for n in range(25))

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(8)]
    with worker.serving(lambda n: n):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert len(values) == 200
    assert call(1).args == (1,)


EMBEDDED = """
from qworker import App
app = App()
print(app.submit("tasks.f").status().state, app.url)
"""


def test_without_a_url_the_embedded_server_of_the_project_is_used_and_named(tmp_path: Path) -> None:
    embedded = pytest.importorskip("qworker.broker.embedded")
    (tmp_path / "pyproject.toml").touch()
    script = tmp_path / "producer.py"
    script.write_text(EMBEDDED)
    env = {name: value for name, value in os.environ.items() if not name.startswith("QWORKER_")}

    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    embedded.stop(tmp_path)

    assert (done.returncode, done.stdout) == (0, "queued None\n"), done.stderr
    assert done.stderr.startswith(f"no server's URL is set: started the embedded server of {tmp_path}")


def task_of(app: App) -> Task[..., Any]:
    return app.tasks.get("tasks.f") or app.task(name="tasks.f")(lambda: None)


def test_a_queue_whose_keys_are_spoiled_does_not_deafen_the_client(
    app: App, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    worker, task = FakeWorker(server.url, queue="good"), task_of(app)
    bad, good = (task.options(queue=queue).submit() for queue in ("bad", "good"))
    inbox = app.client()._ear._subscription
    with redis.Redis.from_url(server.url) as client:
        client.set(Keyspace("default").queue("bad").prefix + "bodies", "spoiled")
    handles = [app.future(bad.id), app.future(good.id)]  # nothing is pushed for these

    assert not handles[0].wait(0.3)
    worker.succeed(worker.claim_one(), 2)

    assert handles[1].result(10) == 2
    assert good.result(10) == 2
    assert app.client()._ear._subscription is inbox
    assert sum("results of queue 'bad' are late" in record.message for record in caplog.records) == 1
    worker.close()


def test_a_deadline_is_asked_for_again_when_that_failed_of_another_queue(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = app.client()._look
    expire, failed = look.expire, []

    def fails_once(queue: str, *args: Any, **more: Any) -> Any:
        if not failed:
            failed.append(queue)
            raise BrokerUnavailable("it is gone")
        return expire(queue, *args, **more)

    monkeypatch.setattr(look, "expire", fails_once)
    futures = [task_of(app).options(queue=queue, deadline=0.2).submit() for queue in ("one", "other")]

    assert all(future.wait(10) for future in futures)  # which never looks itself
    assert [type(future.exception()) for future in futures] == [TaskExpired, TaskExpired]
    assert len(failed) == 1


def test_a_handle_that_waits_learns_of_a_deadline_that_somebody_else_has_set(
    app: App, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unserved, "AFTER_S", 0.05)
    with App(server.url) as other:
        id_ = task_of(other).options(deadline=0.5).submit().id

    began = time.monotonic()
    with pytest.raises(TaskExpired):
        app.future(id_).result(15)
    assert time.monotonic() - began < 10, "it was found by the look of a wait whose time is up"


def test_messages_without_a_pause_are_no_reason_not_to_submit(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app.client()
    monkeypatch.setattr(Subscription, "next", lambda *_: b"\x90")  # a push of nothing, and always one more

    async def submit() -> str:
        return (await asyncio.wait_for(task_of(app).asubmit(), 10)).id

    assert asyncio.run(submit()).startswith("default:")


def test_a_signals_handler_may_close_the_app_that_its_thread_is_about_to_connect() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # which takes connections, and never answers
        app = App(f"redis://127.0.0.1:{listener.getsockname()[1]}/0", connect_timeout=1.0)
        before = signal.signal(signal.SIGALRM, lambda *_: app.close())
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        began = time.monotonic()
        try:
            with pytest.raises(BrokerError):
                app.client()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert time.monotonic() - began < 10
