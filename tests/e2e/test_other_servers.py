"""Tasks that submit to another server than their worker's, and to their worker's however that was named."""

from __future__ import annotations

import pytest

from e2e.conftest import TREE
from qworker import App


@pytest.mark.parametrize("grouped", [False, True])
def test_a_task_in_a_group_asks_another_server_where_its_group_is_unknown(start, tree, new_server, grouped) -> None:
    other = new_server()
    start("-c", "1", target=TREE)
    start("-c", "1", target=TREE, server_url=other.url)

    with tree.app.group(timeout=60) as g:
        answer = g.submit(tree.asks_another, other.url, "default", grouped)

    groups, left_s, own = answer.result()
    assert groups == (own if grouped else [])
    assert 0 < left_s < 60  # the deadline is good everywhere


def test_another_namespace_of_the_server_is_another_server(start, tree, url) -> None:
    start("-c", "1", target=TREE)
    start("-c", "1", "--namespace", "apart", target=TREE)

    with tree.app.group() as g:
        answer = g.submit(tree.asks_another, url, "apart", False)

    assert answer.result() == [[], None, "apart"]


def test_the_same_server_under_another_name_knows_the_group(start, tree, url) -> None:
    start("-c", "2", target=TREE)

    with tree.app.group() as g:
        answer = g.submit(tree.asks_another, url + "?db=0", "default", False)

    assert answer.result() == [[g.id], None, "default"]


def test_tasks_submit_to_the_server_that_a_flag_named(start, url) -> None:
    start("--url", url, "--namespace", "flagged", "-c", "1", target=TREE, server_url=None)

    with App(url, namespace="flagged") as app, app.group() as g:
        answer = g.submit("support.apps.tree.asks_its_own")

    assert answer.result() == [[g.id], None]
