"""A small world of modules that exist in memory only: what is imported there, and by whom, is known to the letter.

    with World() as world:
        importlib.import_module("own.tasks")
    world.ran                       # the modules whose code ran, in order

No other module can be imported meanwhile: names that are drawn may be those of modules that do something when they are.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Iterable, Sequence
from types import CodeType, ModuleType
from typing import Any, Self

SOURCES = {
    "own": "from other import leaked",
    "own.tasks": """
import functools, os, other, sys
from os import system
from other import Leaked, leaked

def run(): ...
async def later(): ...
def make():
    def inner(): ...
    return inner
class Box(Leaked):
    size, helper, Helper = 1, leaked, Leaked
    class Inner:
        def run(self): ...
    def weigh(self): ...
    @staticmethod
    def double(): ...
    @classmethod
    def named(cls): ...
alias, shell, box, inner, nothing = run, system, Box(), make(), None
partial, lamb = functools.partial(leaked), lambda: None
sys.modules["own.tasks.hatch"] = other
""",
    "own.deep": "",
    "own.deep.er": "import own.tasks\ndef run(): ...",
    "own.hatch": "import other\ndef __getattr__(name): return other.leaked",
    "own.raises": "import other\nraise ValueError(other)",
    "own.exits": "raise SystemExit(3)",
    "own.needs": "import nowhere",
    "owner": "def run(): ...",  # begins as another one does
    "other": """
def leaked(): ...
class Leaked:
    def leak(self): ...
    @staticmethod
    def drip(): ...
""",
    "other.sub": "def run(): ...",
}
# What may be found there under the very name under which it was defined.
FUNCTIONS = frozenset(
    {
        "own.tasks.run", "own.tasks.later", "own.tasks.make", "own.tasks.Box", "own.tasks.Box.Inner",
        "own.tasks.Box.Inner.run", "own.tasks.Box.weigh", "own.tasks.Box.double", "own.tasks.Box.named",
        "own.tasks.Box.mro",  # a class's own, of whatever class
        "own.deep.er.run", "owner.run", "other.leaked", "other.Leaked", "other.Leaked.leak", "other.Leaked.drip",
        "other.Leaked.mro", "own.tasks.Box.Inner.mro", "other.sub.run",
    }
)  # fmt: skip
IMPORTS = {
    "own": ("other",), "own.tasks": ("own", "other"), "own.deep": ("own",), "own.deep.er": ("own.deep", "own.tasks"),
    "own.hatch": ("own", "other"), "own.raises": ("own", "other"), "own.exits": ("own",),
    "own.needs": ("own", "nowhere"), "other.sub": ("other",),
}  # fmt: skip
_CODE = {name: compile(source, name, "exec") for name, source in SOURCES.items()}
_MADE_UP = "own.tasks.hatch"  # put there by a module, never imported


class Unavailable(ModuleNotFoundError):
    """What an import of anything else meets."""


def brought_by(modules: Iterable[str]) -> set[str]:
    """What is imported with these modules, themselves included."""
    found: set[str] = set()
    todo = list(modules)
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += IMPORTS.get(name, ())
    return found | ({_MADE_UP} if "own.tasks" in found else set())


class World(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """The only modules that this thread can import, while it is entered; afterwards they are gone."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.ran: list[str] = []
        self._thread = threading.get_ident()

    def __enter__(self) -> Self:
        sys.meta_path.insert(0, self)
        return self

    def __exit__(self, *_: object) -> None:
        sys.meta_path.remove(self)
        for name in (*SOURCES, _MADE_UP):
            sys.modules.pop(name, None)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if threading.get_ident() != self._thread:
            return None
        self.asked.append(fullname)
        if fullname not in SOURCES:
            raise Unavailable(f"No module named {fullname!r}", name=fullname)
        is_package = any(name.startswith(f"{fullname}.") for name in SOURCES)
        return importlib.util.spec_from_loader(fullname, self, is_package=is_package)

    def exec_module(self, module: ModuleType) -> None:
        self.ran.append(module.__name__)
        code: CodeType = _CODE[module.__name__]
        names: dict[str, Any] = module.__dict__
        exec(code, names)
