"""The tree that errors.py draws is the tree that exists."""

from __future__ import annotations

import builtins
import concurrent.futures
import re

from qworker import errors

LINE = re.compile(r"^([│ ]*(?:├── |└── )?)(\w+)(?: \(([\w.]+)\))?(?: {2,}(\S.*))?$")


def drawn() -> dict[str, tuple[str | None, str | None]]:
    """Return what the docstring draws: class -> (its base in the tree, its other base)."""
    found: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines()[2:]:
        if not line.strip():
            continue
        match = LINE.match(line)
        assert match, f"a line of the tree that cannot be read: {line!r}"
        indent, name, other, _said = match.groups()
        depth = len(indent) // 4
        del above[depth:]
        assert name not in found, f"{name} is drawn twice"
        found[name] = (above[-1] if above else None, other)
        above.append(name)
    return found


def test_the_tree_names_exactly_the_classes_that_exist():
    classes = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }

    assert set(drawn()) == classes
    assert sorted(errors.__all__) == sorted(classes)
    assert errors.__all__ == sorted(errors.__all__)


def test_each_class_has_the_bases_that_are_drawn():
    for name, (base, other) in drawn().items():
        expected = [getattr(errors, base)] if base else []
        if other is not None:
            expected.append(
                concurrent.futures.CancelledError
                if other == "concurrent.futures.CancelledError"
                else vars(errors).get(other) or getattr(builtins, other)
            )
        assert list(getattr(errors, name).__bases__) == (expected or [Exception]), name


def test_each_class_says_what_it_means():
    for name in errors.__all__:
        assert (getattr(errors, name).__doc__ or "").strip().endswith("."), name


def test_the_text_of_an_interrupt_passes_through_except_exception():
    assert not issubclass(errors.TaskInterrupt, Exception)
    assert not issubclass(errors.TaskTimedOut, TimeoutError)
