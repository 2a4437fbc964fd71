"""The verbs on single tasks and on the whole, against a real server; a fake worker settles what they wait for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime

import pytest

from qworker.errors import TaskInterrupt
from qworker.lifecycle import How, State
from qworker.model import Progress
from qworker.views import WorkerRecord
from support.fake_worker import FakeWorker
from support.waiting import wait_until


@pytest.fixture
def worker(url):
    worker = FakeWorker(url)
    yield worker
    worker.broker.close()


def submit(run, *argv: str) -> str:
    code, out, err = run("submit", *argv)
    assert code == 0, err
    return out.strip()


def record(worker: FakeWorker, **changes) -> WorkerRecord:
    fields = {
        "id": worker.id, "host": "box-2", "pid": 4711, "boot_id": "b", "pid_ns": "n", "start_time": 1,
        "queues": ("default",), "state": "running", "started_ms": 0, "slots": {"process": 2},
    }  # fmt: skip
    return WorkerRecord(**(fields | changes))


def test_submit_prints_the_id_and_sends_what_was_written(run, worker):
    task_id = submit(run, "tasks.add", "1", "two", "[3, null]", '{"a": 1}', '"4"', "--kwargs", '{"y": 5}',
                     "--retries", "2", "--timeout", "1m", "--no-jitter", "--id", "given-1")  # fmt: skip

    task = worker.claim_one()

    assert task_id == task.id == "default:given-1"
    assert (task.args, task.kwargs) == ((1, "two", [3, None], {"a": 1}, "4"), {"y": 5})
    assert (task.header.name, task.header.retries, task.header.timeout_ms, task.header.jitter) == (
        "tasks.add", 2, 60_000, False,
    )  # fmt: skip


def test_options_that_are_not_given_are_the_defaults_and_none_is_no_timeout(run, worker):
    submit(run, "tasks.add")
    assert worker.claim_one().header.timeout_ms == 1_800_000

    submit(run, "tasks.add", "--timeout", "none")
    assert worker.claim_one().header.timeout_ms is None


def test_a_delay_may_be_a_time(run):
    tomorrow = datetime.fromtimestamp(datetime.now(UTC).timestamp() + 86_400, UTC).isoformat()

    task_id = submit(run, "tasks.add", "--delay", tomorrow)

    code, out, _ = run("show", task_id)
    assert code == 0
    assert "scheduled, due in 2" in out or "scheduled, due in 1 d" in out


def test_arguments_that_begin_with_a_dash_go_behind_two(run, worker):
    submit(run, "tasks.add", "--retries", "1", "--", "-1", "--x")

    assert worker.claim_one().args == (-1, "--x")


def test_submit_and_wait_prints_the_value_as_json(run, worker):
    with worker.serving(lambda x, y: {"sum": x + y, "at": datetime(2026, 1, 1, tzinfo=UTC), "raw": b"\0"}):
        plain = run("submit", "tasks.add", "1", "2", "--wait", "10")
        machine = run("submit", "tasks.add", "1", "2", "--wait", "10", "--json")

    assert plain == (0, '{"sum": 3, "at": "2026-01-01T00:00:00+00:00", "raw": "AA=="}\n', "")
    assert json.loads(machine[1])["value"]["sum"] == 3
    assert json.loads(machine[1])["state"] == "succeeded"


def test_a_failure_is_told_with_its_traceback_and_exit_code_1(run, worker):
    def fail() -> None:
        raise ValueError("evil \x1b[31m")

    with worker.serving(fail):
        code, out, err = run("submit", "tasks.fail", "--wait", "10")
        machine = run("submit", "tasks.fail", "--wait", "10", "--json")

    assert (code, out) == (1, "")
    assert "failed on box-2" in err
    assert err.endswith("ValueError: evil \\x1b[31m\n")
    answer = json.loads(machine[1])
    assert (machine[0], answer["state"], answer["error"]["kind"]) == (1, "failed", "builtins.ValueError")


def test_a_result_that_is_late_is_the_waiters_error(run):
    task_id = submit(run, "tasks.add")

    code, out, err = run("result", task_id, "--timeout", "50ms")

    assert (code, out) == (1, "")
    assert err.startswith(f"qworker result: task {task_id} has not ended within ")
    assert "queued, next in its line; no worker serves queue 'default' on this server" in err


def test_result_of_an_ended_task_and_of_an_unknown_one(run, worker):
    task_id = submit(run, "tasks.add")
    worker.succeed(worker.claim_one(), [1, (2,)])

    assert run("result", task_id) == (0, "[1, [2]]\n", "")
    code, _, err = run("result", "default:nobody", "--timeout", "5")
    assert code == 1
    assert "qworker result: task default:nobody is not known on this server" in err


def test_show_tells_all_of_a_queued_task(run):
    task_id = submit(
        run, "tasks.add", "1", "--kwargs", '{"y": "\\u001b[31m"}', "--priority", "high", "--deadline", "1h"
    )

    code, out, _ = run("show", task_id)

    assert code == 0
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["task"] == task_id
    assert lines["name"] == "tasks.add"
    assert lines["state"].startswith("queued, next in its line")
    assert lines["arguments"] == '1, y="\\u001b[31m"'
    assert "priority=high" in lines["options"]
    assert lines["deadline"]


def test_show_tells_of_a_running_task_what_its_worker_tells(run, worker):
    task_id = submit(run, "tasks.add")
    task = worker.claim_one()
    worker.start(task, ran_ms=4000)
    worker.broker.beat(record(worker, running=({"id": task_id, "child": 99, "slot": 3, "ran_s": 4.5},)))

    facts = json.loads(run("show", task_id, "--json")[1])

    assert (facts["state"], facts["attempt"], facts["worker"]) == ("running", 1, worker.id)
    assert (facts["child"], facts["slot"], facts["running_for_s"]) == (99, 3, 4.5)
    assert 0 < facts["lease_left_s"] <= 15


def test_show_tells_how_a_task_ended_with_its_traceback(run, worker):
    task_id = submit(run, "tasks.add")
    task = worker.claim_one()
    worker.start(task)
    try:
        raise TaskInterrupt("timeout")
    except TaskInterrupt as error:
        worker.fail(task, error)

    code, out, _ = run("show", task_id)

    assert code == 0
    assert "state      failed on box-2" in out
    assert "error      qworker.errors.TaskInterrupt: timeout\n" in out
    assert "traceback  Traceback (most recent call last):\n             File" in out


def test_show_of_a_value_that_is_none_and_of_an_unknown_task(run, worker):
    task_id = submit(run, "tasks.add")
    worker.succeed(worker.claim_one(), None)

    assert json.loads(run("show", task_id, "--json")[1])["value"] is None
    code, out, _ = run("show", "default:nobody")
    assert (code, out) == (1, "task   default:nobody\nstate  no task of this id is known\n")


def test_cancel_leaves_running_tasks_alone_and_says_so(run, worker):
    first, second = submit(run, "tasks.add"), submit(run, "tasks.add")
    task = worker.claim_one()
    assert task.id == first

    code, out, _ = run("cancel", first, second)

    assert code == 1
    assert f"{first}  left alone: handed to box-2" in out
    assert f"{second}  cancelled: it never starts" in out
    assert run("cancel", second, "--json")[0] == 0


def test_stop_prints_a_receipt_for_each_task(run, worker):
    queued, held = submit(run, "tasks.add", "--priority", "low"), submit(run, "tasks.add")
    task = worker.claim_one()
    assert task.id == held
    worker.start(task)

    code, out, _ = run("stop", queued, held, "default:nobody", "--wait", "100ms")

    assert code == 1
    assert f"{queued}  cancelled (never started); its code does not run" in out
    assert f"{held}  running; its code still runs" in out
    assert "default:nobody  unknown; whether its code runs is not known" in out


def test_stop_of_a_task_that_ends_is_a_receipt_for_machines(run, worker):
    task_id = submit(run, "tasks.add")
    task = worker.claim_one()
    worker.end(task, State.CANCELLED, How.KILLED)

    code, out, _ = run("stop", task_id, "--json")

    receipt = json.loads(out)[0]
    assert code == 0
    assert (receipt["outcome"], receipt["how"], receipt["still_running"]) == ("cancelled", "killed", False)


def test_status_shows_queues_and_workers(run, worker):
    submit(run, "tasks.add")
    submit(run, "tasks.add", "--queue", "slow", "--delay", "1h")
    worker.broker.beat(record(worker, unknown={"tasks.new": 3}))

    code, out, _ = run("status")
    facts = json.loads(run("status", "--json")[1])
    only = json.loads(run("status", "--json", "--queue", "slow")[1])

    assert code == 0
    assert "slow: 1 wait, and no worker serves it" in out
    assert worker.id in out
    assert "tasks.new" in out
    assert [(queue["queue"], queue["ready"], queue["scheduled"]) for queue in facts["queues"]] == [
        ("default", 1, 0),
        ("slow", 0, 1),
    ]
    assert [queue["queue"] for queue in only["queues"]] == ["slow"]
    assert only["workers"] == []


def test_dessert_lists_what_lingers(run, worker):
    nothing = "nothing lingers, as far as workers tell: none knows of code that ran on after its outcome\n"
    assert run("dessert") == (0, nothing, "")

    left = {
        "id": "default:1",
        "name": "tasks.nap",
        "child": 9,
        "slot": 2,
        "outcome": "timed_out",
        "since_s": 65.0,
        "ran_s": 70,
    }
    worker.broker.beat(record(worker, survivors=(left,)))

    out = run("dessert")[1]
    assert "default:1   tasks.nap   timed out   1 min 5 s" in out
    assert json.loads(run("dessert", "--json")[1]) == [{"worker": worker.id} | left]


def test_doctor_examines_the_server_and_this_host(run):
    code, out, _ = run("doctor", "--json")

    findings = {one["what"]: one for one in json.loads(out)["findings"]}
    assert code == 0
    assert findings["eviction"]["level"] == "ok"
    assert findings["persistence"]["level"] == "warn"
    assert findings["kernel"]["level"] == "ok"
    assert "noeviction" in run("doctor")[1]


def test_doctor_finds_a_server_that_evicts_tasks_bad(run, new_server, monkeypatch):
    server = new_server(None, "--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")

    code, out, _ = run("doctor", "--url", server.url)

    assert code == 3
    assert "bad  eviction     allkeys-lru: a full server deletes queued tasks" in out


def test_doctor_tolerates_a_server_that_forbids_to_be_asked(run, new_server):
    import redis

    server = new_server()
    with redis.Redis.from_url(server.url) as client:
        client.execute_command("ACL", "SETUSER", "default", "-config", "-info")

    code, out, _ = run("doctor", "--url", server.url)

    assert code == 0
    assert "warn eviction     could not be asked" in out
    assert "the server refused INFO, CONFIG GET" in out


def test_a_server_that_is_not_there_is_one_line_or_a_finding(run, tmp_path, monkeypatch):
    monkeypatch.setattr("qworker.cli.shared.TIMEOUT_S", 0.3)
    nowhere = f"unix://{tmp_path}/nowhere.sock"

    code, out, err = run("status", "--url", nowhere)
    assert (code, out) == (1, "")
    assert err.startswith("qworker status: cannot list queues: no usable answer from the server at unix://")
    assert err.count("\n") == 1

    code, out, _ = run("doctor", "--url", nowhere)
    assert code == 3
    assert out.startswith("bad  server ")


def test_ctrl_c_ends_a_wait_quietly(url, run):
    task_id = submit(run, "tasks.add")
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from qworker.cli import main; print('up', flush=True); main()",
         "result", task_id],
        env=os.environ | {"QWORKER_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert process.stdout.readline() == "up\n"
        wait_until(lambda: _subscribers(url), description="the command awaits the result")

        process.send_signal(signal.SIGINT)

        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 130


@pytest.mark.parametrize("tasks", [1, 2])
def test_ctrl_c_ends_the_wait_for_a_stop_at_once(tasks, url, run, worker):
    task_ids = [submit(run, "tasks.add") for _ in range(tasks)]
    for _ in task_ids:
        worker.start(worker.claim_one())
    process = subprocess.Popen(
        [sys.executable, "-m", "qworker", "stop", "--wait", "30", *task_ids],
        env=os.environ | {"QWORKER_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        wait_until(
            lambda: all("stopping" in json.loads(run("show", task_id, "--json")[1]) for task_id in task_ids),
            description="the stop of each is recorded",
        )

        process.send_signal(signal.SIGINT)

        assert process.communicate(timeout=10) == ("", "")
        assert process.returncode == 130


def test_verbs_work_in_a_directory_that_was_removed(run, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    task_id = submit(run, "tasks.add")

    assert run("show", task_id)[0] == 0
    assert run("status")[0] == 0
    assert run("doctor")[0] == 0


def _subscribers(url: str) -> bool:
    import redis

    with redis.Redis.from_url(url) as client:
        return bool(client.pubsub_channels("qw:*:inbox:*"))


def test_watching_goes_on_until_ctrl_c_with_one_object_a_line(url, run):
    submit(run, "tasks.add")
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "qworker", "status", "--watch", "--json"],
        env=os.environ | {"QWORKER_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        seen = [json.loads(process.stdout.readline()) for _ in range(2)]
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=10)

    assert [[(queue["queue"], queue["ready"], queue["rate"]) for queue in one["queues"]] for one in seen] == [
        [("default", 1, 0.0)],
        [("default", 1, 0.0)],
    ]
    assert seen[1]["now_ms"] > seen[0]["now_ms"]
    assert (process.returncode, err) == (130, "")


def test_watching_outlives_an_outage_of_the_server(run, new_server):
    server = new_server()
    run("submit", "tasks.add", "--url", server.url)
    process = subprocess.Popen(
        [sys.executable, "-u", "-c",
         "import qworker.cli.shared as s, sys; s.TIMEOUT_S = 0.3; from qworker.cli import main; main()",
         "status", "--watch", "--json", "--url", server.url],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        assert "queues" in json.loads(process.stdout.readline())
        server.kill()
        while "error" not in (line := json.loads(process.stdout.readline())):
            pass
        server.start()
        while "queues" not in json.loads(process.stdout.readline()):
            pass
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)

    assert line["error"].startswith("cannot ")


def test_watch_tells_each_change_and_ends_with_the_value(run, worker):
    task_id = submit(run, "tasks.add", "1")
    held = worker.claim_one()
    ended = threading.Thread(target=lambda: _go_on(worker, held))
    ended.start()

    code, out, err = run("watch", task_id)
    ended.join()

    assert (code, out) == (0, "42\n")
    assert f"{task_id} running on box-2" in err
    assert "1 of 4 done: first\n" in err
    assert "2 of 4 done: second\n" in err


def test_watch_json_prints_one_object_for_each_change_and_one_for_the_end(run, worker):
    task_id = submit(run, "tasks.add", "1")
    held = worker.claim_one()
    ended = threading.Thread(target=lambda: _go_on(worker, held))
    ended.start()

    code, out, err = run("watch", task_id, "--json")
    ended.join()

    *seen, last = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (0, "")
    assert {"done": 2.0, "total": 4.0, "text": "second"} in [view["progress"] for view in seen]
    assert {view["state"] for view in seen} <= {"claimed", "running"}
    assert last == {"id": task_id, "state": "succeeded", "value": 42}


def test_watch_of_a_task_that_has_failed_exits_as_result_does(run, worker):
    task_id = submit(run, "tasks.add", "1")
    worker.fail(worker.claim_one(), ValueError("no"))

    code, out, err = run("watch", task_id)

    assert (code, out) == (1, "")
    assert "ValueError: no" in err


def test_watch_of_an_unknown_task_says_so(run):
    code, _, err = run("watch", "default:nothing")

    assert code == 1
    assert "is not known on this server" in err


def test_who_interrupts_watch_leaves_the_task_alone(url, worker, run, tmp_path):
    task_id = submit(run, "tasks.add", "1")
    worker.start(worker.claim_one())
    watching = subprocess.Popen(
        [sys.executable, "-m", "qworker", "watch", task_id], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        env={**os.environ, "QWORKER_URL": url}, cwd=tmp_path, text=True,
    )  # fmt: skip
    assert watching.stderr is not None
    assert "running on box-2" in watching.stderr.readline()

    watching.send_signal(signal.SIGINT)

    _, rest = watching.communicate(timeout=10)
    assert watching.returncode == 130
    assert rest.endswith(f"{task_id} is left alone: it goes on\n")
    assert json.loads(run("show", task_id, "--json")[1])["state"] == "running"


def test_show_tells_how_far_a_task_is(run, worker):
    task_id = submit(run, "tasks.add", "1")
    held = worker.claim_one()
    worker.start(held)
    worker.tell(held, Progress(1, 4, "first"))

    assert "1 of 4 done: first" in run("show", task_id)[1]
    assert json.loads(run("show", task_id, "--json")[1])["progress"] == {"done": 1.0, "total": 4.0, "text": "first"}


def _go_on(worker: FakeWorker, held) -> None:
    """A task that tells its progress, slowly enough to be seen, and ends."""
    worker.start(held)
    for done, text in ((1, "first"), (2, "second")):
        worker.tell(held, Progress(done, 4, text))
        time.sleep(1.3)
    worker.succeed(held, 42)
