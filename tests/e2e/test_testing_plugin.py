"""`qworker.testing`: what `assert_stops` finds, and the plugin's fixtures as a user's own suite uses them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from qworker.testing import assert_stops
from support.apps import stoppable
from support.daemon import alive, descendants
from support.suites import run_suite


@pytest.mark.parametrize(
    ("task", "args", "pool"),
    [
        (stoppable.steps, [3], None),
        (stoppable.steps, [3], "thread"),
        (stoppable.sleeps, [], None),
        (stoppable.reads_guarded, [], None),
        (stoppable.naps, [], None),
        (stoppable.never_looks, [], None),
        (stoppable.keeps_one_connection, [], None),
    ],
)
def test_a_task_that_stops_wherever_it_is_asked_passes(task, args, pool) -> None:
    before = set(descendants(os.getpid()))
    environ = dict(os.environ)

    assert_stops(task, args, pool=pool, checkpoints=4, within=1.0)

    assert not [pid for pid in set(descendants(os.getpid())) - before if alive(pid)]
    assert dict(os.environ) == environ


@pytest.mark.parametrize(
    ("task", "args", "text"),
    [
        (stoppable.has_no_checkpoint, [], "passed no checkpoint, so nothing but force would end it"),
        (stoppable.slow_to_leave, [], "at checkpoint 1 ("),
        (stoppable.slow_to_leave, [], "s later, within=0.2"),
        (stoppable.deaf_after_two, [], "1 s after its start, having come to no further checkpoint, and ended only by"),
        (stoppable.hangs, [], "in hangs"),
        (stoppable.fails, [], "failed before it was asked to stop: builtins.KeyError: 'no'"),
        (stoppable.leaves, ["socket"], "left open: socket:"),
        (stoppable.leaves, ["thread"], "left a thread: left-behind ("),
        (stoppable.steps, [3, 0.5], "passed no checkpoint for 0.5"),
        (stoppable.leaves, ["process"], "left a process: sleep 60 (pid "),
    ],
)
def test_each_fault_is_found_and_told(task, args, text: str) -> None:
    with pytest.raises(AssertionError) as caught:
        assert_stops(task, args, checkpoints=4)

    assert text in str(caught.value)
    assert str(caught.value).startswith("support.apps.stoppable.")


def test_what_is_no_task_is_refused() -> None:
    with pytest.raises(TypeError, match=r"assert_stops\(<built-in function len>\): expected a task"):
        assert_stops(len, ["a"])  # type: ignore[arg-type]


def test_the_text_names_the_line_at_which_it_was_asked() -> None:
    with pytest.raises(AssertionError, match=r"stoppable\.py:\d+\) and ended"):
        assert_stops(stoppable.slow_to_leave)


SHOP = """
import os, threading
from qworker import App
app = App("redis://production.example:6379")

@app.task
def price(article: str, count: int = 1) -> int:
    return 3 * count

@app.task(queue="slow")
def where() -> str:
    return f"{os.getppid()} {threading.current_thread() is threading.main_thread()}"

def checkout(articles):
    return sum(future.result() for future in [price.submit(one, count=2) for one in articles])
"""

SUITE = """
import pytest
import shop
from qworker import QWorkerError
from qworker.testing import assert_submitted

def test_inline(qworker_app):
    app = qworker_app("shop:app", inline=True)
    assert shop.checkout(["ink", "pen"]) == 12
    assert_submitted(app, shop.price, "ink", 2)
    assert_submitted(app, shop.price, count=2, article="pen", times=1)
    assert_submitted(app, "shop.price", times=2)
    with pytest.raises(AssertionError) as caught:
        assert_submitted(app, shop.price, "cap")
    assert str(caught.value) == (
        "shop.price('cap') was not submitted; submitted were: shop.price('ink', count=2); shop.price('pen', count=2)"
    )
    with pytest.raises(AssertionError, match="submitted 1 times, expected 2"):
        assert_submitted(app, shop.price, "pen", 2, times=2)

def test_the_app_is_what_it_was(qworker_app):
    assert (shop.app.url, shop.app.inline) == ("redis://production.example:6379", False)
    assert "send" not in vars(shop.app)

@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_real_worker(qworker_app, qworker_worker, pool):
    app = qworker_app(shop.app)
    worker = qworker_worker(app, pool=pool, slots=1)
    assert shop.checkout(["ink"]) == 6
    assert shop.where.submit().result(timeout=10).endswith(str(pool == "process"))
    assert_submitted(app, shop.where)
    assert worker.events("worker.started")[0]["slots"] == f"{pool}=1"

def test_each_test_finds_an_empty_server(qworker_app, qworker_server):
    app = qworker_app()
    assert app.url == qworker_server.url
    left = app.named("shop.price").submit("ink")
    assert left.status().state == "queued"

def test_each_test_finds_an_empty_server_again(qworker_app):
    assert qworker_app().client()._broker.stats("default").ready == 0

def test_a_worker_that_cannot_start_says_why(qworker_app, qworker_worker):
    with pytest.raises(AssertionError, match="the worker did not start(.|\\n)*no module 'nowhere'"):
        qworker_worker(qworker_app(shop.app), "nowhere:app")
"""


def test_a_users_suite_runs_on_the_fixtures(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SHOP)
    (tmp_path / "test_shop.py").write_text(SUITE)

    done = run_suite(tmp_path)

    assert "7 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_imports_nothing_of_qworker_before_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n"
        "def test_light():\n"
        "    loaded = {name for name in sys.modules if name.split('.')[0] in ('qworker', 'redis', 'msgpack')}\n"
        "    assert loaded == {'qworker', 'qworker.testing', 'qworker.testing.plugin'}\n"
    )

    done = run_suite(tmp_path)

    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_pytest_finds_the_plugin_by_itself() -> None:
    project = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text()

    assert '[project.entry-points.pytest11]\nqworker = "qworker.testing.plugin"\n' in project
