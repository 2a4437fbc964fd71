"""The work of the demo, on files whose content is known."""

from __future__ import annotations

import ast
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from qworker.demo import corpus
from qworker.errors import ConfigError


@pytest.fixture
def library(tmp_path: Path) -> Path:
    for name in ("a.py", "b.py", "pkg/c.py", "pkg/d.py", "pkg/notes.txt", "site-packages/not_shipped.py"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("import os\n")
    return tmp_path


def test_what_is_shipped_is_the_standard_library_without_what_was_installed_beside_it(library: Path) -> None:
    found = corpus.shipped(100, root=library)

    assert [str(path.relative_to(library)) for path in found] == ["a.py", "b.py", "pkg/c.py", "pkg/d.py"]


def test_a_directory_that_is_removed_meanwhile_costs_its_own_files_only(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As installers do, in the directories that they work in."""
    scandir = os.scandir

    def vanish(path: str) -> Any:
        if str(path).endswith("pkg"):
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", vanish)

    assert [path.name for path in corpus.shipped(100, root=library)] == ["a.py", "b.py"]


def test_a_limit_takes_files_from_everywhere_not_only_the_first(library: Path) -> None:
    found = corpus.shipped(2, root=library)

    assert [path.name for path in found] == ["a.py", "c.py"]


def test_this_python_ships_files_enough_to_work_on() -> None:
    found = corpus.shipped(300)

    assert len(found) == len(set(found)) == 300


def test_a_python_that_ships_no_sources_is_refused_with_the_place_that_was_looked_at(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"has none in {tmp_path}: run it with an installation"):
        corpus.shipped(10, root=tmp_path)


def test_a_file_is_counted_as_python_itself_parses_it(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        "import os\nfrom sys import argv\n\nclass A:\n    def f(self): return print(argv)\n\ng = lambda: 1\n"
    )

    counted = corpus.count(path)

    assert counted == {
        "files": 1,
        "lines": 7,
        "functions": 2,
        "classes": 1,
        "imports": 2,
        "calls": 1,
        "nodes": sum(1 for _ in ast.walk(ast.parse(path.read_text()))),
        "unparsable": 0,
    }


@pytest.mark.parametrize("content", [b"print 'two'\n", b"# coding: klingon\n", b"x = 1\0\n", b"x = \xff\n"])
def test_a_file_that_is_not_valid_python_is_counted_as_such(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(content)

    counted = corpus.count(path)

    assert (counted["files"], counted["lines"], counted["unparsable"], counted["nodes"]) == (1, 1, 1, 0)


def test_a_file_with_invalid_escapes_warns_nobody(tmp_path: Path) -> None:
    path = tmp_path / "escapes.py"
    path.write_text("x = '\\d'\n")

    assert corpus.count(path)["unparsable"] == 0  # a warning would be an error here


def test_a_copy_has_the_same_bytes_and_its_hash_is_returned(tmp_path: Path) -> None:
    path, to = tmp_path / "from.py", tmp_path / "to.py"
    path.write_bytes(b"x = 1\r\n\xff")

    digest = corpus.copy_hashed(path, to)

    assert to.read_bytes() == path.read_bytes()
    assert digest == hashlib.sha256(b"x = 1\r\n\xff").hexdigest()


def test_shares_hold_each_file_once() -> None:
    paths = [Path(str(number)) for number in range(10)]

    shares = corpus.shares(paths, 3)

    assert [len(share) for share in shares] == [4, 3, 3]
    assert sorted(path for share in shares for path in share) == paths


def test_counts_add_up_by_name() -> None:
    assert corpus.add([{"a": 1, "b": 2}, {"a": 3}, {}]) == {"a": 4, "b": 2}
