"""Make mutants of a Lua script: the same text with one line deleted or one word of it changed.

    mutants("settle", text) ─► Mutant(script, line, becomes, nth, text) …

A mutant is named by what it changes, not by where: the script, the line as it was, as it becomes, and which of the
equal lines it is. So its name outlives edits elsewhere in the file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

DELETED = "(deleted)"

_TOKEN = re.compile(r"--.*|'[^']*'|\d+(?:\.\d+)?|[A-Za-z_]\w*|\.\.\.|\.\.|[=~<>]=|\S")
_FLIPS = {
    "==": "~=", "~=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+", "and": "or", "or": "and",
    "true": "false", "false": "true", "not": "",
}  # fmt: skip
_CALLS = ("call", "many")
# Lines that are no statement of their own: without them the text would not be Lua, or means what another mutant means.
_NO_STATEMENT = re.compile(r"(--|end\b|else\b|elseif\b|local function\b|[)}]|$)")


@dataclass(frozen=True)
class Mutant:
    """One change of one script."""

    script: str
    line: str  # stripped, as it was
    becomes: str  # stripped, or DELETED
    nth: int  # among the equal lines of the file, from 1
    number: int  # of the line now; for people
    text: str  # the whole file, mutated

    @property
    def name(self) -> tuple[str, str, str, int]:
        return self.script, self.line, self.becomes, self.nth


def mutants(script: str, text: str, compiles: Callable[[str], bool]) -> Iterator[Mutant]:
    """Every mutant of a file that is still Lua, in the order of its lines."""
    lines = text.split("\n")
    met: Counter[str] = Counter()
    for at, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or stripped.startswith("--"):
            continue
        met[stripped] += 1
        made = dict.fromkeys(_changed(line))  # each once, in order
        for changed in made:
            whole = "\n".join([*lines[:at], *([] if changed is None else [changed]), *lines[at + 1 :]])
            if compiles(whole):
                becomes = DELETED if changed is None else changed.strip()
                yield Mutant(script, stripped, becomes, met[stripped], at + 1, whole)


def _changed(line: str) -> Iterator[str | None]:
    """What one line becomes, each way; None: nothing. Not all of it is Lua."""
    if not _NO_STATEMENT.match(line.strip()):
        yield None
    tokens = list(_TOKEN.finditer(line))
    for n, token in enumerate(tokens):
        word = token[0]
        before, after = line[: token.start()], line[token.end() :]
        if word in _FLIPS:
            yield f"{before}{_FLIPS[word]}{after}"
        elif word[0].isdigit() and word.isdigit():
            yield f"{before}{int(word) + 1}{after}"
        elif word in ("if", "elseif") and " then" in after:
            condition, then, rest = after.partition(" then")
            if not _operators(condition):
                yield f"{before}{word} not ({condition.strip()}){then}{rest}"
        elif word in _CALLS and n > 0 and tokens[n - 1][0] in ("then", "do", "else"):
            dropped = _without_call(after)
            if dropped is not None:
                yield f"{before}{dropped}"


def _operators(condition: str) -> bool:
    return any(token in _FLIPS for token in _TOKEN.findall(condition))


def _without_call(after: str) -> str | None:
    """What follows the parentheses of a call."""
    depth = 0
    for token in _TOKEN.finditer(after):
        depth += {"(": 1, ")": -1}.get(token[0], 0)
        if depth == 0:
            return after[token.end() :]
    return None
