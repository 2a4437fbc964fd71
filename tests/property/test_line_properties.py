"""The line of a pool: whatever is put, permitted, taken back and removed, nobody passes who waits for a permit."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from qworker.model import Order
from qworker.pool.kid import Entry, Kid
from qworker.pool.line import Line


class PlayedKid:
    """A child that runs what it is given in order, its slots full as long as there is something."""

    alone = lent = stalled = False
    fill = Kid.fill

    def __init__(self, slots: int) -> None:
        self.plan = SimpleNamespace(slots=slots)
        self.entries: dict[int, Entry] = {}
        self.expected_s = 0.0
        self.given = 0
        self.started: list[int] = []

    @property
    def idle(self) -> bool:
        return not self.entries

    def give(self, entries: list[Entry], now: float) -> None:
        for entry in entries:
            assert not entry.forbidden, f"{entry.order.number} is given and not permitted"
            self.entries[entry.order.number] = entry

    def start(self) -> None:
        for number in list(self.entries)[: self.plan.slots]:
            if number not in self.started:
                self.started.append(number)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.booleans(), min_size=1, max_size=5)),
        st.tuples(st.sampled_from(["permit", "end", "take back", "remove", "overdue"]), st.integers(0, 20)),
    ),
    max_size=40,
)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=3), STEPS)
def test_none_starts_without_its_permit_nobody_passes_it_and_with_it_all_start(
    slots: list[int], steps: list[tuple[str, Any]]
) -> None:
    kids = [PlayedKid(count) for count in slots]
    line = Line(SimpleNamespace(serving=lambda: kids, threads=False), None)  # type: ignore[arg-type]
    entries: dict[int, Entry] = {}
    wanted: list[int] = []
    gone: set[int] = set()

    def feed() -> None:
        asked = line.feed(0, 0.0)
        assert not set(asked) & set(wanted), "each is asked for once"
        idle = sum(max(0, kid.plan.slots - len(kid.entries)) for kid in kids)
        assert len(asked) <= idle, "and only when a slot is free for it"
        wanted.extend(asked)
        given = {number for kid in kids for number in kid.entries}
        gate = min((n for n in entries if n not in given | gone and entries[n].forbidden), default=len(entries))
        assert all(number < gate for number in given), "nobody passes one that waits for its permit"
        for kid in kids:
            kid.start()

    for verb, what in steps:
        waiting = [n for n in entries if n not in gone and not any(n in kid.entries for kid in kids)]
        if verb == "put":
            batch = [
                Entry(Order(len(entries) + n, "q:x", b"", on_permit=permit), 0.001, 0.0)
                for n, permit in enumerate(what)
            ]
            entries.update((entry.order.number, entry) for entry in batch)
            line.extend(batch, 0.0)
        elif verb == "permit" and wanted:
            entries[wanted[what % len(wanted)]].permitted = True
        elif verb == "end":
            kid = kids[what % len(kids)]
            if kid.entries:
                number = next(iter(kid.entries))
                del kid.entries[number]
                gone.add(number)
        elif verb == "take back":
            kid = kids[what % len(kids)]
            back = [entry for number, entry in kid.entries.items() if number not in kid.started]
            for entry in back:
                del kid.entries[entry.order.number]
            line.give_back(back)
        elif verb == "remove" and waiting:
            number = waiting[what % len(waiting)]
            line.remove(entries[number])
            gone.add(number)
        elif verb == "overdue":
            line.look_again()
            assert line.take_overdue(0.0) == []  # it puts all back where they were
        feed()
        assert len(line) == len([n for n in entries if n not in gone and not any(n in kid.entries for kid in kids)])

    # Whatever came before: once all are permitted, all that is left starts.
    for _ in range(3 * len(entries)):
        for number in wanted:
            entries[number].permitted = True
        feed()
        for kid in kids:
            for number in [n for n in kid.entries if n in kid.started]:
                del kid.entries[number]
                gone.add(number)
    assert gone == set(entries)
    assert not line
