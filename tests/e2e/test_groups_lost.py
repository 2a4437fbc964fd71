"""Owners that die, tasks that die with groups open, pushes that are lost: the tree ends, or goes on, as told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import redis

from e2e.conftest import TREE, executions
from qworker import App, BrokerUnavailable
from qworker.broker import Broker
from support.daemon import TESTS
from support.waiting import wait_until

OWNER = """
import sys, time
from qworker.broker import owned
owned.LEASE_MS = 500
from support.apps import tree
with tree.app.group(on_owner_loss=sys.argv[1]) as g:
    running = g.submit(tree.polite, float(sys.argv[2]), tag="running")
    queued = g.submit(tree.polite, 0.0, tag="queued")
    print(g.id, running.id, queued.id, flush=True)
    if sys.argv[3] == "exit":
        sys.stdin.readline()
        raise SystemExit(3)
    time.sleep(600)
"""


@pytest.fixture
def own(url, tmp_path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], list[str]]]]:
    """`own(on_owner_loss, seconds, how)`: a process that opens a group, and the ids of that and of its tasks."""
    owners: list[subprocess.Popen[str]] = []

    def start(on_loss: str, seconds: float, how: str = "kill") -> tuple[subprocess.Popen[str], list[str]]:
        python_path = os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "QWORKER_URL": url, "PYTHONPATH": python_path}
        owner = subprocess.Popen(
            [sys.executable, "-c", OWNER, on_loss, str(seconds), how],
            env=env, cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        owners.append(owner)
        assert owner.stdout is not None
        return owner, owner.stdout.readline().split()

    yield start
    for owner in owners:
        owner.kill()
        owner.communicate()


def test_a_killed_owner_takes_its_tree_with_it(start, tree, own, execution_log) -> None:
    worker = start("-c", "1", target=TREE)
    owner, (group, running, queued) = own("cancel", 600)
    wait_until(lambda: executions(execution_log), description="the start")

    owner.kill()

    both = [tree.app.future(task) for task in (running, queued)]
    wait_until(lambda: all(task.status().ended for task in both), description="their ends", timeout=15)
    states = [task.status() for task in both]
    assert [(status.state, status.how) for status in states] == [
        ("cancelled", "noticed"), ("cancelled", "never_started"),
    ]  # fmt: skip
    worker.wait_event("task.stop", task=running, group=group)
    with Broker(tree.app.url) as broker:
        assert broker.show_group(group).reason == "its owner is gone"


def test_a_detached_tree_goes_on_when_its_owner_is_killed(start, tree, own, execution_log) -> None:
    start("-c", "1", target=TREE)
    owner, (group, running, queued) = own("detach", 4)
    wait_until(lambda: executions(execution_log), description="the start")
    owner.kill()

    with Broker(tree.app.url) as broker:
        wait_until(lambda: broker.show_group(group).state == "detached", description="the lapse", timeout=15)

    assert tree.app.future(running).result(timeout=15) == "running"
    assert tree.app.future(queued).result(timeout=15) == "queued"


def test_an_owner_that_exits_stops_its_tree_at_once(start, tree, own, execution_log) -> None:
    start("-c", "1", target=TREE)
    owner, (_, running, queued) = own("cancel", 600, "exit")
    wait_until(lambda: executions(execution_log), description="the start")

    began = time.monotonic()
    owner.communicate("now\n", timeout=10)

    assert owner.returncode == 3
    assert time.monotonic() - began < 5
    assert [tree.app.future(task).status().state for task in (running, queued)] == ["cancelled"] * 2


def test_what_a_killed_task_left_open_ends(start, tree, execution_log) -> None:
    """The worker sees it die, and its tree ends long before any lease."""
    start("-c", "1", target=TREE)
    start("-c", "1", target=TREE)

    future = tree.dies_in_a_group.options(max_crashes=1).submit(600)

    [opened] = wait_until(lambda: executions(execution_log, "opened"), description="the group")
    below = opened[5].split("'below': '")[1].split("'")[0]
    wait_until(lambda: tree.app.future(below).status().ended, description="the end of what is below", timeout=10)
    assert tree.app.future(below).status().state == "cancelled"
    assert future.exception(timeout=10) is not None


def test_a_stop_whose_push_is_lost_is_seen_with_the_next_read(start, tree, url, execution_log) -> None:
    start("-c", "2", target=TREE)
    with tree.app.group() as g:
        running = g.submit(tree.polite, 600)
        wait_until(lambda: executions(execution_log), description="the start")
        with redis.Redis.from_url(url) as client:
            # As a stop writes it, without its message.
            client.hset(f"qw:default:group:{g.id}", mapping={"state": "stopped", "reason": "by hand", "grace": ""})
        began = time.monotonic()
        assert running.wait(10)
        took = time.monotonic() - began
        g.stop()

    assert running.cancelled()
    assert took < 3  # 1 s, on a machine that does nothing else


@pytest.mark.slow
def test_a_worker_that_is_frozen_leaves_survivors_of_which_nobody_can_tell(start, tree, execution_log) -> None:
    worker = start("-c", "1", "--lease", "2", target=TREE)
    with tree.app.group() as g:
        running = g.submit(tree.polite, 600)
        wait_until(lambda: executions(execution_log), description="the start")
        worker.freeze()
        g.stop()

    [survivor] = g.survivors
    assert (survivor.id, survivor.outcome, survivor.still_running) == (running.id, None, None)
    assert "cannot be reached" in survivor.note
    worker.thaw()
    wait_until(lambda: tree.app.future(running.id).status().ended, description="its end after the thaw", timeout=15)


def test_a_thread_that_does_not_stop_is_listed_as_a_survivor(start, tree, execution_log, tmp_path) -> None:
    start("-c", "process=1,thread=1", target=TREE)
    gate = tmp_path / "gate"
    with tree.app.group() as outer, tree.app.group() as g:
        future = g.submit(tree.deaf_thread, str(gate))
        wait_until(lambda: executions(execution_log), description="the start")
        g.stop()
    gate.touch()

    [survivor] = g.survivors
    assert (survivor.id, survivor.outcome, survivor.how, survivor.still_running) == (
        future.id, "cancelled", "left_running", True,
    )  # fmt: skip
    assert [receipt.id for receipt in outer.survivors] == [future.id]


def test_a_stop_that_the_server_did_not_answer_is_said_again_when_the_block_is_left(
    start, tree, one_server, url, execution_log
) -> None:
    start("-c", "1", target=TREE)
    with App(url, connect_timeout=0.6) as app:
        with app.group() as g:
            running = g.submit(tree.polite.name, 600)
            wait_until(lambda: executions(execution_log), description="the start")
            one_server.freeze()
            with pytest.raises(BrokerUnavailable, match="cannot stop group"):
                g.stop()
            threading.Timer(0.5, one_server.thaw).start()

        assert running.cancelled()


def test_an_interrupted_wait_stops_the_tree_before_it_raises(start, tree, execution_log) -> None:
    start("-c", "1", target=TREE)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), tree.app.group() as g:
        running = g.submit(tree.polite, 600)
        wait_until(lambda: executions(execution_log), description="the start")
        signal.setitimer(signal.ITIMER_REAL, 0.3)

    assert running.cancelled()
