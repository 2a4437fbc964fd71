"""Bodies and outcomes that are too large for Lua: written beside the scripts, and no promise is another one by that."""

from __future__ import annotations

import pytest

from qworker.broker import SubmitItem, flows
from qworker.errors import Conflict
from qworker.lifecycle import State
from qworker.model import Again, Line, Release
from support.brokers import LEASE_MS, QUEUE, TwiceBroker, end, ids, item, name, only, seed, snapshot, state, stop, take

SIZE = 5_000
CLIENT = "cccccccccccc"
PREFIX = b"qw:{t.q}:"
VALUE = b"." * SIZE


def large(*locals_: str) -> list[bytes]:
    return [item(local, size=SIZE).blob for local in locals_]


def test_a_large_body_comes_as_it_was_submitted_and_goes_with_its_task(broker: TwiceBroker) -> None:
    seed(broker, "a", given=False, size=SIZE)

    window = take(broker, "c1")
    assert [task.blob for task in window.tasks] == large("a")

    broker.settle(QUEUE, [end("a", "c1", text=VALUE)])
    keys = snapshot(broker.client)
    assert keys[PREFIX + b"result:a"] == end("a", "c1", text=VALUE).value
    assert not {key for key in keys if key.startswith((PREFIX + b"stash", PREFIX + b"bodies", PREFIX + b"tasks"))}
    assert broker.client.pttl(PREFIX + b"result:a") > 0


def test_large_and_small_ones_keep_their_order_whoever_gave_their_ids(broker: TwiceBroker) -> None:
    seed(broker, "a", size=SIZE)
    seed(broker, "b", given=False)
    seed(broker, "c", "d", given=False, size=SIZE)
    seed(broker, "e")

    window = take(broker, "c1")

    assert ids(window) == ["a", "b", "c", "d", "e"]
    assert [task.blob[:8] for task in window.tasks] == [item(local, size=SIZE if local in "acd" else 0).blob[:8]
                                                        for local in "abcde"]  # fmt: skip
    assert [len(task.blob) > SIZE for task in window.tasks] == [True, False, True, True, False]


def test_the_bytes_of_a_window_count_large_bodies(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", given=False, size=SIZE)

    assert ids(take(broker, "c1", max_bytes=2 * SIZE + 200)) == ["a", "b"]
    assert ids(take(broker, "c2", max_bytes=1)) == ["c"]


def test_what_was_put_back_is_large_the_next_time_too(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", "d", given=False, size=SIZE)
    take(broker, "c1")
    stop(broker, "d")

    broker.settle(QUEUE, [Release("a", name("c1")), Again("b", name("c1"), 0)])
    broker.at(LEASE_MS + 1)

    window = take(broker, "c2")
    assert sorted(ids(window)) == ["a", "b", "c", "d"]
    assert [task.blob for task in window.tasks] == large(*ids(window))


def test_a_large_task_is_cancelled_looked_at_and_delayed_like_any_other(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", given=False, size=SIZE)
    seed(broker, "c", given=False, size=SIZE, delay_ms=10)

    assert broker.inspect(QUEUE, "a").blob == large("a")[0]
    assert stop(broker, "b", mode="cancel")[0].code == "cancelled"
    assert (state(broker, "a"), state(broker, "b"), state(broker, "c")) == (State.QUEUED, None, State.SCHEDULED)

    broker.at(11)
    assert ids(take(broker, "c1")) == ["a", "c"]


def test_the_same_large_task_again_is_known_and_another_one_is_refused(broker: TwiceBroker) -> None:
    seed(broker, "a", given=False, size=SIZE)

    assert broker.submit(QUEUE, Line(), [item("a", size=SIZE)], given=True).codes == ("same",)
    with pytest.raises(Conflict):
        broker.submit(QUEUE, Line(), [item("a", size=SIZE + 1)], given=True)

    assert only(take(broker, "c1")).blob == large("a")[0]


def test_a_large_outcome_of_a_claim_that_lost_the_task_leaves_nothing(broker: TwiceBroker) -> None:
    seed(broker, "a")
    take(broker, "c1")
    broker.at(LEASE_MS + 1)
    take(broker, "c2")
    before = snapshot(broker.client)

    assert broker.settle(QUEUE, [end("a", "c1", text=VALUE)], resend=True).codes == ("lost",)

    broker.twice = False
    assert broker.settle(QUEUE, [end("a", "c1", text=VALUE)]).codes == ("lost",)
    after = snapshot(broker.client)
    assert after.keys() == before.keys()
    assert broker.peek(QUEUE, ["a"])[0].alive


def test_a_large_outcome_that_comes_twice_is_known_again(broker: TwiceBroker) -> None:
    seed(broker, "a", "b")
    take(broker, "c1")
    both = [end("a", "c1", text=VALUE), end("b", "c1", client=CLIENT, text=VALUE, hint=b"\xa3q:b")]

    assert broker.settle(QUEUE, both).codes == ("ok", "ok")
    assert broker.settle(QUEUE, both).codes == ("again", "again")

    assert broker.outcomes(QUEUE, ["a", "b", "c"]) == (both[0].value, both[1].value, None)
    assert not broker.client.exists(PREFIX + b"stash:a", PREFIX + b"stash:b")


def test_large_and_small_outcomes_are_those_of_their_tasks(broker: TwiceBroker) -> None:
    seed(broker, "a", "b", "c", "d")
    take(broker, "c1")
    items = [
        end("a", "c1", text=b"a" * SIZE),
        end("b", "c1", text=b"b"),
        end("c", "c1", text=b"c" * SIZE, state=State.FAILED),
        end("d", "c1", text=b"d" * SIZE),
        end("e", "c1", text=b"e" * SIZE),
    ]

    assert broker.settle(QUEUE, items).codes == ("ok", "ok", "ok", "ok", "lost")

    assert broker.outcomes(QUEUE, list("abcde")) == (*[each.value for each in items[:4]], None)


def test_a_body_that_is_gone_before_it_is_fetched_belongs_to_a_claim_that_lapsed(broker: TwiceBroker) -> None:
    broker.twice = False
    seed(broker, "a", "b", given=False, size=SIZE)
    flow = flows.claim(broker.owner, QUEUE, claim=name("c1"), worker="w", rooms=[(("default",), 9)], lease_ms=LEASE_MS)
    window = broker.run(next(flow))
    broker.client.hdel(PREFIX + b"bodies", "a")

    with pytest.raises(StopIteration) as found:
        flow.send(broker.run(flow.send(window)))

    assert ids(found.value.value) == ["b"]


def test_a_body_and_a_payload_that_were_never_joined_arrive_whole(broker: TwiceBroker) -> None:
    blob = large("a")[0]
    whole = end("a", "c1", text=VALUE)
    broker.submit(QUEUE, Line(), [SubmitItem("a", blob[:31], body=blob[31:])], given=False)

    assert broker.submit(QUEUE, Line(), [SubmitItem("a", blob[:31], body=blob[31:])], given=True).codes == ("same",)
    assert only(take(broker, "c1")).blob == blob
    assert broker.settle(QUEUE, [whole._replace(value=whole.value[:90], rest=whole.value[90:])]).codes == ("ok",)
    assert broker.outcomes(QUEUE, ["a"]) == (whole.value,)


def test_scripts_that_the_server_forgot_are_sent_again(broker: TwiceBroker) -> None:
    seed(broker, "z")
    broker.client.script_flush()
    seed(broker, "a", given=False, size=SIZE)
    broker.client.script_flush()
    take(broker, "c1")
    broker.client.script_flush()

    assert broker.settle(QUEUE, [end("a", "c1", text=VALUE)]).codes == ("ok",)


def test_a_large_task_whose_body_is_gone_is_not_handed_out(broker: TwiceBroker) -> None:
    """Its record says that the body lies there, so only its length is asked for."""
    seed(broker, "a", "b", given=False, size=SIZE)
    broker.client.hdel("qw:{t.q}:bodies", "a")

    assert ids(take(broker, "c1")) == ["b"]
    assert broker.stats(QUEUE).counters["claimed"] == 1
