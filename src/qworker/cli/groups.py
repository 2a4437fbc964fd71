"""Task groups for people: `qworker show GROUP` draws the tree, `qworker stop --group` ends it.

show_group, peek, inspect ─► facts_of ─┬─► --json
                                       └─► tree_of ─► rich: a group, its tasks, the groups that those opened
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer

from .. import codec, durations, ids
from ..errors import ConfigError, DecodeError, TaskNotFound
from ..lifecycle import State
from ..log import escape
from ..status import Status, describe, describe_outcome
from ..views import GroupView
from . import EXIT_ERROR
from .shared import open_app, open_broker, print_json, print_rows, print_table

if TYPE_CHECKING:
    from rich.tree import Tree

    from ..broker.broker import Broker

__all__ = ["facts_of", "is_group", "show_group", "stop_group", "tree_of"]

MOST_TASKS = 200  # of one group that are shown one by one; those that have not ended first
MOST_GROUPS = 200
_AT_ONCE = 256
_ERROR_MAX = 200  # characters


def is_group(given: str) -> bool:
    """Whether an id is a group's: those have no colon."""
    return given.startswith("g-") and ":" not in given


def show_group(group: str, url: str | None, namespace: str | None, *, as_json: bool) -> None:
    """Show a group and what is in it. Exits 1 when it is not known."""
    ids.check_group(group)
    with open_broker(url, namespace) as broker:
        facts = facts_of(broker, group)
    if as_json:
        print_json(facts)
    elif facts["state"] is None:
        print_rows([(group, "no group of this id is known")])
    else:
        print_table(tree_of(facts))
    if facts["state"] is None:
        raise typer.Exit(EXIT_ERROR)


def stop_group(group: str, grace_s: float | None, url: str | None, namespace: str | None, *, as_json: bool) -> None:
    """Stop a group, whatever it holds. Exits 1 when it is not known."""
    try:
        ids.check_group(group)
    except ConfigError as error:
        raise ConfigError(f"--group {group}: {error}") from None
    with open_app(url, namespace) as app:
        try:
            app.stop(group=group, grace=grace_s)
            said, known = "stopped: nothing of it starts any more, and what runs is asked to end", True
        except TaskNotFound as error:
            said, known = str(error), False
    if as_json:
        print_json({"id": group, "stopped": known})
    else:
        print_rows([(group, said)])
    if not known:
        raise typer.Exit(EXIT_ERROR)


# ── what is known ────────────────────────────────────────────────────────────────────────────────────────────────


def facts_of(broker: Broker, group: str) -> dict[str, Any]:
    """Return what is known of a group and of everything below it; `state` is None when that is nothing."""
    met: set[str] = set()
    return _group_facts(broker, group, met)


def _group_facts(broker: Broker, group: str, met: set[str]) -> dict[str, Any]:
    met.add(group)
    view = broker.show_group(group)
    members = list(view.members)
    while len(members) < view.count:
        more = broker.show_group(group, first=len(members)).members
        if not more:
            break
        members += more
    facts: dict[str, Any] = {"id": group, "state": view.state or None, "says": _says(view)}
    if not view.state:
        return facts
    ages = {"opened_ms": view.opened_ms, "deadline_ms": view.deadline_ms, "stopped_ms": view.stopped_ms,
            "closed_ms": view.closed_ms}  # fmt: skip
    facts |= {"name": view.name, "owner": view.owner, "on_owner_loss": view.on_loss, "reason": view.reason or None}
    facts |= {name: value for name, value in ages.items() if value is not None}
    tasks, counts = _task_facts(broker, [member for member in members if ":" in member])
    facts |= {"tasks": tasks, "counts": counts, "survivors": list(view.survivors)}
    below = [member for member in members if ":" not in member and member not in met]
    facts["groups"] = [_group_facts(broker, one, met) for one in below if len(met) < MOST_GROUPS]
    facts["groups_not_shown"] = len(below) - len(facts["groups"])
    return facts


def _task_facts(broker: Broker, tasks: list[str]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the states of all of these tasks, counted, and what is known of some of them."""
    ended: dict[str, tuple[Status | None, str]] = {}
    alive: list[str] = []
    for queue, locals_ in ids.by_queue(tasks):
        for start in range(0, len(locals_), _AT_ONCE):
            for found in broker.peek(queue, locals_[start : start + _AT_ONCE]):
                full = ids.join_id(queue, found.id)
                if found.alive:
                    alive.append(full)
                else:
                    ended[full] = (None, "") if found.outcome is None else _read_outcome(found.outcome)
    counts = Counter("no longer known" if status is None else str(status.state) for status, _ in ended.values())
    counts["not ended"] = len(alive)
    shown = set(alive[:MOST_TASKS])
    shown.update(list(ended)[: MOST_TASKS - len(shown)])
    facts = []
    for full in tasks:
        if full in shown:
            status, error = ended[full] if full in ended else (describe(full, broker.inspect(*ids.split_id(full))), "")
            facts.append(_status_facts(full, status, error))
    return facts, {state: count for state, count in counts.items() if count}


def _read_outcome(packed: bytes) -> tuple[Status | None, str]:
    """Return how a task ended, and in a line what it raised if that is why: in a tree this is what one looks for."""
    try:
        outcome = codec.unpack_outcome(packed)
        status = describe_outcome(outcome)
        if outcome.state is not State.FAILED or outcome.error is None:
            return status, ""
        error = codec.unpack_error(outcome.error)
    except DecodeError:
        return None, ""
    line = error.text.partition("\n")[0][:_ERROR_MAX]
    kind = error.kind.removeprefix("builtins.")
    return status, f"{kind}: {line}" if line else kind


def _status_facts(full: str, status: Status | None, error: str) -> dict[str, Any]:
    if status is None:
        return {"id": full, "state": None, "says": "no longer known: it ended longer ago than its result_ttl"}
    facts = {"id": full, "state": status.state, "says": str(status), "name": status.name, "worker": status.worker,
             "ran_s": status.ran_for, "how": status.how, "still_running": status.still_running or None,
             "error": error}  # fmt: skip
    return {name: value for name, value in facts.items() if name == "state" or value not in (None, "")}


_STATES = {
    "open": "open",
    "late": "open, but its owner has not been heard lately",
    "detached": "open, without its owner, which is gone",
    "stopped": "stopped",
    "closed": "left",
}


def _says(view: GroupView) -> str:
    if not view.state:
        return "no group of this id is known"
    text = _STATES.get(view.state, view.state) + (f" ({view.reason})" if view.reason else "")
    until = view.closed_ms or view.now_ms
    text += f", {'took' if view.closed_ms else 'for'} {durations.text(max(0, until - view.opened_ms) / 1000)}"
    if view.deadline_ms and not view.closed_ms:
        left_s = (view.deadline_ms - view.now_ms) / 1000
        text += f", {durations.text(left_s)} left" if left_s > 0 else ", its time is up"
    return text


# ── as a tree ────────────────────────────────────────────────────────────────────────────────────────────────────


def tree_of(facts: dict[str, Any]) -> Tree:
    """Return a group as a tree for people; groups that one of its tasks opened stand below that task."""
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(escape(_label(facts))))
    _grow(facts, tree, lambda text: Text(escape(text)))
    return tree


def _label(facts: dict[str, Any]) -> str:
    name = f" {facts['name']}" if facts.get("name") else ""
    error = f": {facts['error']}" if facts.get("error") else ""
    return f"{facts['id']}{name}  {facts['says']}{error}"


def _grow(facts: dict[str, Any], tree: Tree, text: Callable[[str], Any]) -> None:
    by_owner: dict[str, list[dict[str, Any]]] = {}
    shown = {task["id"] for task in facts.get("tasks", ())}
    for group in facts.get("groups", ()):
        owner = group.get("owner", "")
        by_owner.setdefault(owner if owner in shown else "", []).append(group)
    for task in facts.get("tasks", ()):
        branch = tree.add(text(_label(task)))
        for group in by_owner.get(task["id"], ()):
            _grow(group, branch.add(text(_label(group))), text)
    for group in by_owner.get("", ()):
        _grow(group, tree.add(text(_label(group))), text)
    total = sum(facts.get("counts", {}).values())
    if total > len(shown):
        counted = ", ".join(f"{count:,} {state.replace('_', ' ')}" for state, count in facts["counts"].items())
        tree.add(text(f"… of {total:,} tasks in all: {counted}"))
    if facts.get("groups_not_shown"):
        tree.add(text(f"… and {facts['groups_not_shown']:,} more groups"))
