"""Groups on the command line: the tree, and a stop of all that is in one."""

from __future__ import annotations

import json

import pytest

from qworker import App
from support.fake_worker import FakeWorker


@pytest.fixture
def app(url):
    with App(url) as app:
        yield app


def test_show_draws_the_tree_of_a_group_and_json_tells_the_same(run, app, url):
    worker = FakeWorker(url)
    with app.group(name="sums", timeout=60) as g:
        first = g.submit("tasks.add", 1, 2)
        with worker.serving(lambda x, y: x + y):
            assert first.result(timeout=10) == 3
        with app.group(name="below") as inner:
            inner.submit("tasks.add", 3, 4)

            code, out, _ = run("show", g.id)
            _, text, _ = run("show", g.id, "--json")
            g.stop()
    worker.broker.close()

    lines = out.splitlines()
    assert code == 0
    assert lines[0].startswith(f"{g.id} sums  open, for ")
    assert lines[0].endswith(" left")
    assert f"├── {first.id}  succeeded" in out
    assert f"└── {inner.id} below  open, for" in out
    assert f"    └── {inner.futures[0].id} tasks.add  queued, next in its line" in out
    facts = json.loads(text)
    assert (facts["state"], facts["counts"]) == ("open", {"succeeded": 1})
    assert facts["groups"][0]["tasks"][0]["name"] == "tasks.add"

    code, out, _ = run("show", g.id)
    assert code == 0
    assert "stopped (stopped by its owner), took" in out.splitlines()[0]


def test_the_tree_tells_what_failed_tasks_raised(run, app, url):
    worker = FakeWorker(url)
    with app.group(max_failures=1) as g:
        future = g.submit("tasks.save")
        worker.fail(worker.claim_one(), ValueError("no disk\nand more of that"))
        future.wait(10)
        _, out, _ = run("show", g.id)
        _, text, _ = run("show", g.id, "--json")
    worker.close()

    assert out.splitlines()[1].startswith(f"└── {future.id}  failed on box-2")
    assert out.splitlines()[1].endswith(": ValueError: no disk")
    assert json.loads(text)["tasks"][0]["error"] == "ValueError: no disk"


def test_a_large_group_is_counted_and_shown_in_part(run, app, monkeypatch):
    monkeypatch.setattr("qworker.cli.groups.MOST_TASKS", 2)
    with app.group() as g:
        for number in range(5):
            g.submit("tasks.add", number, 1)
        code, out, _ = run("show", g.id)
        g.stop()

    assert code == 0
    assert "… of 5 tasks in all: 5 not ended" in out
    assert len(out.splitlines()) == 4


def test_stop_ends_all_that_is_in_a_group(run, app):
    with pytest.raises(ExceptionGroup, match="unhandled errors in group g-"), app.group() as g:
        futures = [g.submit("tasks.add", number, 1) for number in range(3)]
        code, out, _ = run("stop", "--group", g.id, "--grace", "0")

    assert code == 0
    assert out.endswith("stopped: nothing of it starts any more, and what runs is asked to end\n")
    assert all(future.cancelled() for future in futures)


def test_a_group_that_nobody_knows_is_said_to_be_unknown(run):
    code, out, _ = run("show", "g-never")
    assert (code, out) == (1, "g-never  no group of this id is known\n")

    code, out, _ = run("stop", "--group", "g-never")
    assert code == 1
    assert "group g-never is not known on this server" in out
    assert run("stop", "--group", "g-never", "--json")[:2] == (1, '{"id": "g-never", "stopped": false}\n')


@pytest.mark.parametrize("argv", [(), ("default:a", "--group", "g-1")])
def test_stop_takes_tasks_or_a_group(run, argv):
    code, _, err = run("stop", *argv)

    assert code == 2
    assert "expected ids of tasks, or --group with the id of one" in err


def test_a_group_is_named_by_the_id_of_a_group(run):
    code, _, err = run("stop", "--group", "default:a")

    assert code == 2
    assert "--group default:a: 'default:a' is not the id of a group: expected g-…, such as g-01JC2M6Q" in err
