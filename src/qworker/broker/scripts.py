"""Load the Lua scripts, read their headers, and turn each into a call by name.

    lua/claim.lua ── header ──► Script(keys, args, …) ── keys and arguments by name ──► EVALSHA sha …
    lua/lib.lua ───────────────► what a script uses of it is put in front; what only one block of it uses, into that
    lua/lib_group.lua ─────────► likewise behind it, for those of task groups

A header line `KEYS: bodies, tasks, lines` lets the script say `K.bodies` and `K.tasks` for KEYS[1] and KEYS[2], and
`LINES` for the index before that of the first line; with `ARGV: now_ms, claim, rooms...` it says `A.now_ms`, `A.claim`,
and `REST` for the index in ARGV at which the variadic `rooms` begin (`RESULTS` is the same for variadic keys, `BELLS`
that of the first bell). So no position is written down twice, in Python or in Lua. The names are replaced in the text:
tables of them, made anew at each call, cost a microsecond or two of it. What the header does not name is nil.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ..model import POOL_NEEDS
from .keys import LINE_CODES

Arg = bytes | str | int

# Parts of a library begin at column 0 after an empty line, and name what they define there.
_PART = re.compile(r"\n\n(?=--|local )")
_DEFINED = re.compile(r"^local (?:function )?(\w+(?:, \w+)*)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_COMMENT = re.compile(r"--.*")
# What follows the line `-- library` as deep as that.
_BLOCK = re.compile(r"^( +)-- library\n((?:\1.*\n|\n)+)", re.MULTILINE)
_NAME = re.compile(r"\b(?:[KA]\.\w+|LINES|BELLS|RESULTS|REST)\b")

_HEADER = re.compile(r"^-- (transition|KEYS|ARGV|reply|refuses|cost): *(.*)$")
_FIELDS = ("transition", "KEYS", "ARGV", "reply", "refuses", "cost")


@dataclass(frozen=True)
class Script:
    """One Lua script: its text as it is sent, and what its header says."""

    name: str
    text: bytes
    sha: str
    keys: tuple[str, ...]  # without the variadic ones
    args: tuple[str, ...]
    results: bool  # takes variadic keys after the fixed ones: those of its tasks' results, or of groups
    rest: str  # the name of the variadic arguments; empty: none
    transitions: tuple[str, ...]
    refuses: tuple[str, ...]
    reply: str
    cost: str

    def arguments(self, rest: Sequence[Arg] = (), /, **named: Arg) -> list[Arg]:
        """Put arguments given by name into the script's order; `rest` follows them.

        Raises:
            TypeError: A name is missing or unknown, or `rest` is given to a script that takes none.
        """
        try:
            arguments: list[Arg] = list(map(named.__getitem__, self.args))
        except KeyError as exc:
            raise TypeError(f"script {self.name}: missing argument {exc.args[0]}") from None
        if len(named) != len(self.args):
            unknown = ", ".join(sorted(set(named) - set(self.args)))
            raise TypeError(f"script {self.name}: unknown argument {unknown}")
        if rest:
            if not self.rest:
                raise TypeError(f"script {self.name}: takes no variadic arguments")
            arguments.extend(rest)
        return arguments


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip() and part.strip() != "none"]


def _read_header(name: str, text: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    last = ""
    for line in text.splitlines():
        if not line.startswith("--"):
            break
        if match := _HEADER.match(line):
            last = match[1]
            fields[last] = match[2]
        elif last and line.startswith("--   "):
            fields[last] += " " + line[2:].strip()
        else:
            last = ""
    missing = [field for field in _FIELDS if field not in fields]
    if missing:
        raise ValueError(f"script {name}: its header lacks {', '.join(missing)}")
    return fields


def _places(keys: Sequence[str], args: Sequence[str]) -> dict[str, str]:
    """Say what the names of a header stand for in Lua."""
    places: dict[str, str] = {}
    position = 1
    for key in keys:
        if key == "lines":
            places["LINES"] = str(position - 1)
            position += len(LINE_CODES)
        elif key == "bells":
            places["BELLS"] = str(position)
            position += len(POOL_NEEDS)
        else:
            places[f"K.{key}"] = f"KEYS[{position}]"
            position += 1
    places |= {f"A.{arg}": f"ARGV[{n}]" for n, arg in enumerate(args, 1)}
    return places | {"RESULTS": str(position), "REST": str(len(args) + 1)}


def _read(name: str) -> str:
    """Return the text of a file beside this one, from a zip file, too."""
    data: bytes = __spec__.loader.get_data(str(Path(__file__).parent / "lua" / f"{name}.lua"))  # type: ignore[union-attr]
    return data.decode()


@cache
def _library(name: str) -> str:
    return _read(name)


def _used(library: str, source: str) -> list[str]:
    """Return the parts of a library that a script uses, and those that they use in turn."""
    words = _words(source)
    kept: list[str] = []
    for part in reversed(_PART.split(library)):  # in Lua a part can use only those above it
        defined = {name for names in _DEFINED.findall(part) for name in names.split(", ")}
        if defined & words:
            kept.append(part)
            words |= _words(part)
    return kept[::-1]


def _words(source: str) -> set[str]:
    return set(_WORD.findall(_COMMENT.sub("", source)))


def _joined(library: str, source: str) -> str:
    """Put what a script uses of a library in front of it; what only a block with the line `-- library` uses, there.

    The server makes every function of a script's text anew at each call that comes by it: the whole library cost 3 µs.
    """
    front = _used(library, _BLOCK.sub("", source))

    def fill(block: re.Match[str]) -> str:
        parts = [part for part in _used(library, block[2]) if part not in front]
        return "\n\n".join([*parts, block[2]])

    return "\n\n".join([*front, _BLOCK.sub(fill, source)])


@cache
def load(name: str) -> Script:
    """Return a script by the name of its file; read once per process."""
    source = _read(name)
    header = _read_header(name, source)
    keys, args = _split(header["KEYS"]), _split(header["ARGV"])
    results = bool(keys) and keys[-1].endswith("...")
    rest = args[-1].removesuffix("...") if args and args[-1].endswith("...") else ""
    fixed_keys, fixed_args = keys[: len(keys) - results], args[: len(args) - bool(rest)]
    library = _library("lib") + (_library("lib_group") if name.startswith("group_") else "")
    places = _places(fixed_keys, fixed_args)
    text = _NAME.sub(lambda name: places.get(name[0], "nil"), _joined(library, source)).encode()
    return Script(
        name=name,
        text=text,
        sha=hashlib.sha1(text, usedforsecurity=False).hexdigest(),
        keys=tuple(fixed_keys),
        args=tuple(fixed_args),
        results=results,
        rest=rest,
        transitions=tuple(_split(header["transition"])),
        refuses=tuple(_split(header["refuses"])),
        reply=header["reply"],
        cost=header["cost"],
    )


def names() -> tuple[str, ...]:
    """The names of all scripts."""
    from importlib import resources  # 25 ms and a MiB, and only tests and tools ask for all

    files = resources.files(__package__).joinpath("lua").iterdir()
    return tuple(
        sorted(f.name.removesuffix(".lua") for f in files if f.name.endswith(".lua") and not f.name.startswith("lib"))
    )
