"""lifecycle.py, the scripts that make its transitions, and the words of the design agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import qworker
from qworker.lifecycle import ARROWS, CODES, LIVE, OUTCOMES, STATE_OF, TRANSITIONS, State, may

SOURCE = Path(qworker.__file__).parent
SCRIPTS = sorted(path for path in (SOURCE / "broker" / "lua").glob("*.lua") if not path.name.startswith("lib"))
HEADER = re.compile(r"^-- transition:[ \t]*(.+)$", re.MULTILINE)
# What other queues call their things; ours have names of their own (DESIGN, "Words").
FOREIGN = ("job", "jobs", "zombie", "zombies", "prefetch")


def transitions_of(script: Path) -> set[str]:
    found = HEADER.findall(script.read_text("utf-8"))
    assert len(found) == 1, f"{script.name} has {len(found)} lines `-- transition: …`; expected one"
    return {name.strip() for name in re.split(r"[,|]", found[0])} - {"none"}


def test_every_arrow_is_used_by_some_transition():
    used = {(before, after) for befores, afters in TRANSITIONS.values() for before in befores for after in afters}

    assert {(before, after) for before, afters in ARROWS.items() for after in afters} - used == set()


@pytest.mark.parametrize("name", TRANSITIONS)
def test_every_transition_follows_arrows_only(name):
    befores, afters = TRANSITIONS[name]

    for before in befores:
        for after in afters:
            assert may(before, after), f"{name}: {before} -> {after} is no arrow"


def test_arrows_leave_live_states_only_and_never_outcomes():
    assert set(ARROWS) == LIVE
    assert not any(may(outcome, state) for outcome in OUTCOMES for state in State)


def test_each_state_has_one_letter_of_its_own():
    assert set(CODES) == set(State)
    assert len(set(CODES.values())) == len(CODES)
    assert all(len(code) == 1 for code in CODES.values())
    assert {STATE_OF[code]: code for code in STATE_OF} == dict(CODES)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_scripts_header_names_transitions_that_exist(script):
    assert transitions_of(script) <= set(TRANSITIONS), script.name


def test_every_transition_is_made_by_some_script():
    assert SCRIPTS, "no scripts found"

    made = set().union(*map(transitions_of, SCRIPTS))

    assert set(TRANSITIONS) - made == set()


def identifiers(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        for attribute in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, attribute, None)
            if isinstance(value, str):
                found.update(value.split("."))
    return found


@pytest.mark.parametrize(
    "path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).with_suffix("").as_posix()
)
def test_no_identifier_uses_the_words_of_other_queues(path):
    names = identifiers(ast.parse(path.read_text("utf-8"))) | {path.stem}

    parts = {part for name in names for part in re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower().split("_")}

    assert sorted(parts & set(FOREIGN)) == []
