"""Where a task stands in a tree, and which servers know the groups of that tree."""

from __future__ import annotations

import pytest

from qworker.place import same_server


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (None, None, True),
        (None, "redis://localhost", False),
        ("redis://localhost", "redis://127.0.0.1:6379/0", True),
        ("redis://:secret@db.example", "rediss://db.example:6379?socket_timeout=3", True),
        ("redis://db.example/1", "redis://db.example?db=1", True),
        ("redis://db.example/1", "redis://db.example", False),
        ("redis://one.example", "redis://other.example", False),
        ("redis://db.example:6380", "redis://db.example", False),
        ("unix:///run/a%20b.sock", "unix:///run/a b.sock?db=0", True),
        ("unix:///run/a.sock", "unix:///run/a.sock?db=2", False),
        ("redis://db.example:nonsense", "redis://db.example", False),
    ],
)
def test_urls_name_the_same_database_however_they_are_written(one: str | None, other: str | None, same: bool) -> None:
    assert same_server(one, other) is same
    assert same_server(other, one) is same
