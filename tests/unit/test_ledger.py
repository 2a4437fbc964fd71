"""The ledger: what is held, found in three ways, and gone from all of them."""

from __future__ import annotations

from qworker.model import Claimed, Header, PoolKind, Record
from qworker.worker.ledger import Held, Ledger, OpenClaim


def claim(name: str, queue: str = "default") -> OpenClaim:
    return OpenClaim(name, queue, 1, 0.0)


def add(ledger: Ledger, of: OpenClaim, local: str, kind: PoolKind = "process") -> Held:
    if of.id not in ledger.claims:
        ledger.open(of)
    full_id = f"{of.queue}:{local}"
    held = Held(ledger.next_number(), Claimed(local, b"", Record()), of, Header("t"), kind, full_id)
    ledger.add(held)
    return held


def test_numbers_only_grow() -> None:
    ledger = Ledger()

    assert ledger.next_number() < ledger.next_number() < ledger.next_number()


def test_a_claim_is_closed_with_the_last_of_its_tasks() -> None:
    ledger, c = Ledger(), claim("c")
    a, b = add(ledger, c, "a"), add(ledger, c, "b")

    ledger.drop([a.number])
    assert list(ledger.claims) == ["c"]

    ledger.drop([b.number])
    assert not ledger.claims
    assert not ledger.tasks
    assert not ledger.by_id


def test_room_is_free_when_a_task_has_ended_and_its_claim_stays_until_it_is_dropped() -> None:
    ledger = Ledger()
    a = add(ledger, claim("c"), "a", "thread")
    assert ledger.in_pool["thread"] == 1

    ledger.end(a)
    assert ledger.in_pool["thread"] == 0
    assert a.claim.running == 0
    assert len(ledger) == 1

    ledger.drop([a.number])
    assert ledger.in_pool["thread"] == 0


def test_ending_twice_frees_one_place() -> None:
    ledger, c = Ledger(), claim("c")
    a = add(ledger, c, "a")
    add(ledger, c, "b")

    ledger.end(a)
    ledger.end(a)

    assert ledger.in_pool["process"] == 1
    assert c.running == 1


def test_dropping_what_is_not_held_changes_nothing() -> None:
    ledger = Ledger()
    a = add(ledger, claim("c"), "a")

    ledger.drop([a.number, a.number, 999])

    assert ledger.in_pool["process"] == 0
    assert not ledger.claims


def test_an_id_that_came_back_under_a_new_claim_stays_found_when_the_old_one_is_dropped() -> None:
    ledger = Ledger()
    old, new = add(ledger, claim("old"), "a"), add(ledger, claim("new"), "a")

    ledger.drop([old.number])

    assert ledger.by_id["default:a"] is new


def test_the_same_local_id_of_two_queues_is_two_tasks() -> None:
    ledger = Ledger()
    one, two = add(ledger, claim("c1", "one"), "a"), add(ledger, claim("c2", "two"), "a")

    assert ledger.by_id["one:a"] is one
    assert ledger.by_id["two:a"] is two
    assert {queue: [c.id for c in claims] for queue, claims in ledger.claims_by_queue().items()} == {
        "one": ["c1"],
        "two": ["c2"],
    }


def test_a_claim_knows_how_many_tasks_it_brought_to_each_pool() -> None:
    ledger, c = Ledger(), claim("c")
    add(ledger, c, "a")
    add(ledger, c, "b", "thread")
    add(ledger, c, "c", "thread")

    assert c.sizes == {"process": 1, "thread": 2}
