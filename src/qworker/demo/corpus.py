"""The real work of the demo: which files, and what is done with one of them.

    shipped() ─► paths ─┬─► count         CPU: parse it, count what is in it
                        ├─► copy_hashed   I/O: read it, hash it, write a copy
                        └─► measure       what a census adds up: files, lines, bytes

Plain functions: the tasks call them in the workers, and the plain loop calls them here, so the sums must agree.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sys
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..errors import ConfigError

__all__ = ["COUNTED", "add", "copy_hashed", "count", "measure", "shares", "shipped"]

# Installed beside the standard library, not shipped with it.
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_KINDS: dict[str, tuple[type[ast.AST], ...]] = {
    "functions": (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda),
    "classes": (ast.ClassDef,),
    "imports": (ast.Import, ast.ImportFrom),
    "calls": (ast.Call,),
}
COUNTED = ("files", "lines", *_KINDS, "nodes", "unparsable")


def shipped(limit: int, *, root: Path | None = None) -> list[Path]:
    """Return up to `limit` source files of this Python installation, spread evenly over all that it ships.

    Raises:
        ConfigError: it ships none (a frozen or zipped installation).
    """
    root = Path(sysconfig.get_path("stdlib")) if root is None else root
    found = sorted(_sources(root))
    if not found:
        raise ConfigError(
            f"the demo works on the source files that Python ships, and {sys.executable} has none in {root}: "
            "run it with an installation that has its standard library as files"
        )
    if limit >= len(found):
        return found
    return [found[at * len(found) // limit] for at in range(limit)]


def _sources(root: Path) -> Iterator[Path]:
    # Not `rglob`: that looks into what was installed, too, and fails when an installer removes a directory meanwhile.
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _INSTALLED]
        paths = (Path(folder, name) for name in names if name.endswith(".py"))
        yield from (path for path in paths if path.is_file())


def shares(paths: list[Path], number: int) -> list[list[Path]]:
    """Deal the paths out into so many shares."""
    return [paths[first::number] for first in range(number)]


def count(path: Path) -> dict[str, int]:
    """Parse a file and count what is in it. One that is not valid Python (the tests of Python ship some) says so."""
    source = path.read_bytes()
    counted = dict.fromkeys(COUNTED, 0)
    counted["files"], counted["lines"] = 1, source.count(b"\n")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes: the file's business, not ours
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        counted["unparsable"] = 1
        return counted
    nodes = Counter(map(type, ast.walk(tree)))
    counted["nodes"] = nodes.total()
    for kind, classes in _KINDS.items():
        counted[kind] = sum(nodes[found] for found in classes)
    return counted


def copy_hashed(path: Path, to: Path) -> str:
    """Copy a file and return the SHA-256 of what was written."""
    content = path.read_bytes()
    to.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def measure(path: Path) -> dict[str, int]:
    """Return the size of a file, in lines and bytes."""
    content = path.read_bytes()
    return {"files": 1, "lines": content.count(b"\n"), "bytes": len(content)}


def add(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up what was counted, name by name."""
    total: Counter[str] = Counter()
    for counted in counts:
        total.update(counted)
    return dict(total)
