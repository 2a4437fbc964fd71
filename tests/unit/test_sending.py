"""How drafts are split into round trips."""

from __future__ import annotations

from qworker.broker.sending import CHUNK_BYTES, CHUNK_ITEMS, _chunks
from qworker.model import Draft, Line


def draft(queue: str = "default", line: Line | None = None, *, given: bool = False, size: int = 1) -> Draft:
    return Draft(queue, "x", given, "f", line or Line(), b"", b"." * size)


def test_a_chunk_has_at_most_so_many_tasks() -> None:
    drafts = [draft() for _ in range(2 * CHUNK_ITEMS + 1)]

    chunks = _chunks(drafts)

    assert [len(chunk) for chunk in chunks] == [CHUNK_ITEMS, CHUNK_ITEMS, 1]
    assert [place for chunk in chunks for place in chunk] == list(range(len(drafts)))


def test_a_chunk_has_at_most_so_many_bytes_and_at_least_one_task() -> None:
    sizes = [CHUNK_BYTES + 1, CHUNK_BYTES // 2, CHUNK_BYTES // 2, 1]

    assert _chunks([draft(size=size) for size in sizes]) == [[0], [1, 2], [3]]


def test_each_queue_line_and_kind_of_id_has_its_own_chunks_in_order() -> None:
    high = Line("default", "high")
    drafts = [draft(), draft("mail"), draft(), draft(line=high), draft(given=True), draft("mail")]

    chunks = sorted(_chunks(drafts))

    assert chunks == [[0, 2], [1, 5], [3], [4]]


def test_nothing_is_no_chunk() -> None:
    assert _chunks([]) == []
