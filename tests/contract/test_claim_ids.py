"""What a claim by id hands out to a worker whose tasks wait for these ids, and what it says when that is nothing."""

from __future__ import annotations

from typing import Any

import pytest

from qworker.broker import SubmitItem
from qworker.model import Line, Lose, Window
from support.blobs import make_blob
from support.brokers import LEASE_MS, QUEUE, WORKER, TwiceBroker, ids, name, only, seed, take


def claim_ids(broker: TwiceBroker, *wanted: str, claim: str, **options: Any) -> Window:
    return broker.claim_ids(QUEUE, wanted, claim=name(claim), worker=WORKER, lease_ms=LEASE_MS, **options)


def test_a_claim_by_id_takes_the_first_ones_up_to_its_limit(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c")

    window = claim_ids(broker, "c", "b", "a", claim="c1", most=2)

    assert ids(window) == ["c", "b"]
    assert broker.second == window


def test_a_claim_by_id_leaves_what_its_pools_do_not_run(broker: TwiceBroker) -> None:
    seed(broker, "a")
    line = Line("thread")
    broker.submit(QUEUE, line, [SubmitItem("t", make_blob(line=line))], given=False)

    assert ids(claim_ids(broker, "a", "t", claim="c1", needs=("thread",))) == ["t"]
    assert ids(claim_ids(broker, "a", "t", claim="c2", needs=("process", "default"))) == ["a"]


def test_a_claim_by_id_that_brings_nothing_tells_how_many_are_not_to_be_had_anywhere(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    seed(broker, "later", delay_ms=1_000)
    take(broker, "c1", 1)

    window = claim_ids(broker, "a", "b", "later", "nobody", claim="c2", most=0)

    assert (window.tasks, window.elsewhere, window.rescued) == ((), 3, 0)


def test_a_suspect_is_handed_out_by_id_and_leaves_the_suspects(broker: TwiceBroker) -> None:
    """Whoever waits for it keeps its worker from ever being idle."""
    seed(broker, "bad")
    for claim in ("c1", "c2"):
        take(broker, claim)
        broker.settle(QUEUE, [Lose("bad", name(claim), exact=False)])
    assert take(broker, "c3").suspects == 1

    window = claim_ids(broker, "bad", claim="c4")

    assert (ids(window), only(window).record.losses, window.alone) == (["bad"], 2, False)
    assert broker.client.llen("qw:{t.q}:suspects") == 0
    # Lost once more it is among them as before, once.
    broker.settle(QUEUE, [Lose("bad", name("c4"), exact=False)])
    assert ids(take(broker, "c5", alone=True)) == ["bad"]


def test_a_claim_of_no_room_brings_what_is_due_into_its_line(broker: TwiceBroker) -> None:
    seed(broker, "later", delay_ms=1_000)
    broker.at(1_000)
    assert claim_ids(broker, "later", claim="c1", most=0).elsewhere == 1

    window = broker.claim(QUEUE, claim=name("c2"), worker=WORKER, rooms=(), lease_ms=LEASE_MS)

    assert window.tasks == ()
    assert ids(claim_ids(broker, "later", claim="c3")) == ["later"]


@pytest.mark.parametrize("body", [b"abc", b"12345678", b"12345678?", b"12345678z"])
def test_a_body_that_names_no_line_is_left_to_its_line(broker: TwiceBroker, body: bytes) -> None:
    """It made the script fail, each time, and with it every claim by id of that worker."""
    seed(broker, "a", "b")
    broker.client.hset("qw:{t.q}:bodies", "a", body)

    assert ids(claim_ids(broker, "a", "b", claim="c1", needs=("process", "default"))) == ["b"]
    assert claim_ids(broker, "a", claim="c2").elsewhere == 1

    assert ids(take(broker, "c3")) == ["a"], "whoever takes it from its line says what is wrong with it"
