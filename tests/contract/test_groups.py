"""Task groups on the server: who may join, what a stop writes, what a silent owner costs."""

from __future__ import annotations

import pytest

from qworker.broker import group_calls
from qworker.broker.group_calls import CLOSED_MS, KEPT_MS, read_grace
from qworker.errors import GroupStopped
from support.brokers import START_MS, TwiceBroker, snapshot

LEASE = 30_000


def opened(broker: TwiceBroker, group: str, *path: str, on_loss: str = "cancel", timeout_ms: int = 0) -> None:
    broker.open_group(group, path=path, on_loss=on_loss, lease_ms=LEASE, timeout_ms=timeout_ms, opener="me", name="n")


def state(broker: TwiceBroker, group: str) -> str:
    return broker.read_groups([group])[0][0]


def test_a_group_lists_its_tasks_and_the_groups_below_it(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    opened(broker, "g-2", "g-1")

    broker.join_group(["g-1"], ["q:a", "q:b"])
    broker.join_group(["g-1", "g-2"], ["q:c"])

    outer, inner = broker.show_group("g-1"), broker.show_group("g-2")
    assert (outer.state, outer.name, outer.owner, outer.path, outer.opened_ms) == ("open", "n", "me", (), START_MS)
    assert sorted(outer.members) == ["g-2", "q:a", "q:b"]
    assert outer.count == 3
    assert (inner.path, inner.members) == (("g-1",), ("q:c",))


def test_everything_of_a_group_has_a_time_to_live(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    broker.join_group(["g-1"], ["q:a"])

    keys = list(broker.client.scan_iter("qw:t:group:*"))

    assert len(keys) == 2
    assert all(0 < broker.client.pttl(key) <= KEPT_MS for key in keys)
    broker.close_group("g-1", seen=1)
    assert all(0 < broker.client.pttl(key) <= CLOSED_MS for key in keys)


@pytest.mark.parametrize("stopped", ["g-1", "g-2"])
def test_nothing_joins_below_a_stopped_group(broker: TwiceBroker, stopped: str) -> None:
    opened(broker, "g-1")
    opened(broker, "g-2", "g-1")
    broker.stop_group(stopped, reason="told to")
    before = snapshot(broker.client)

    with pytest.raises(GroupStopped, match=r"it was stopped \(told to\); nothing was queued") as caught:
        broker.join_group(["g-1", "g-2"], ["q:c"])
    assert caught.value.group == stopped
    with pytest.raises(GroupStopped, match="cannot open group g-3"):
        opened(broker, "g-3", "g-1", "g-2")

    assert snapshot(broker.client) == before


def test_nothing_joins_a_group_that_is_closed_full_late_or_unknown(
    broker: TwiceBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_calls, "MOST_MEMBERS", 3)
    opened(broker, "closed")
    broker.close_group("closed", seen=0)
    opened(broker, "timed", timeout_ms=1_000)
    opened(broker, "full")
    broker.join_group(["full"], ["q:1", "q:2", "q:3"])
    broker.at(1_000)

    for group, why in (
        ("closed", "its block was left"),
        ("timed", "its time is up"),
        ("full", "it holds 100,000 tasks, which is the limit"),
        ("never", "it is not known on this server"),
    ):
        with pytest.raises(GroupStopped, match=f"cannot submit 1 task.s. into group {group}: {why}"):
            broker.join_group([group], ["q:a"])


def test_a_stop_is_one_write_and_a_hint_and_can_only_be_sharpened(broker: TwiceBroker) -> None:
    broker.twice = False
    opened(broker, "g-1")
    hints = broker.client.pubsub()
    hints.subscribe(broker.keyspace.group_stops)
    assert hints.get_message(timeout=5)["type"] == "subscribe"

    assert broker.stop_group("g-1", reason="a child failed") == "stopped"
    assert broker.stop_group("g-1", grace_ms=0, reason="other") == "stopped"
    assert broker.stop_group("g-1") == "stopped"

    assert [hints.get_message(timeout=5)["data"] for _ in range(2)] == [b"g-1 -", b"g-1 0"]
    assert hints.get_message(timeout=0.05) is None
    assert broker.read_groups(["g-1"]) == (("stopped", 0),)
    assert broker.show_group("g-1").reason == "a child failed"
    hints.close()


def test_a_stop_of_a_group_that_nobody_knows_makes_none(broker: TwiceBroker) -> None:
    assert broker.stop_group("never") == ""
    assert list(broker.client.scan_iter()) == []


def test_a_group_closes_when_all_its_members_were_seen_to_end(broker: TwiceBroker) -> None:
    broker.twice = False  # the second answer would say what the first has done
    opened(broker, "g-1")
    broker.join_group(["g-1"], ["q:a", "q:b"])

    assert broker.close_group("g-1", seen=1) == ("more", "", 2, "")
    assert state(broker, "g-1") == "open"
    assert broker.close_group("g-1", seen=2) == ("open", "", 2, "")
    assert state(broker, "g-1") == "closed"
    assert broker.close_group("never", seen=0) == ("", "", 0, "")


def test_a_stopped_group_stays_so_when_its_block_is_left(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    broker.stop_group("g-1", grace_ms=7)
    broker.at(5)

    assert broker.close_group("g-1", seen=-1) == ("stopped", "stopped", 0, "")

    assert broker.read_groups(["g-1"]) == (("stopped", 7),)
    assert broker.show_group("g-1").closed_ms == START_MS + 5


def test_a_closed_group_remembers_its_survivors_and_tells_which_group_above_it_was_stopped(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    opened(broker, "g-2", "g-1")
    opened(broker, "g-3", "g-1", "g-2")
    broker.stop_group("g-2")
    broker.twice = False

    closed = broker.close_group("g-3", seen=0, survivors=["q:a", "q:b"], path=["g-1", "g-2"])

    assert (closed.state, closed.above) == ("open", "g-2")
    assert broker.show_group("g-3").survivors == ("q:a", "q:b")


@pytest.mark.parametrize(("on_loss", "becomes"), [("cancel", "stopped"), ("detach", "detached")])
def test_a_silent_owner_loses_its_group_after_the_lease_and_a_moment(
    broker: TwiceBroker, on_loss: str, becomes: str
) -> None:
    opened(broker, "g-1", on_loss=on_loss)
    broker.at(LEASE)
    assert state(broker, "g-1") == "open"

    broker.at(LEASE + 1)
    assert state(broker, "g-1") == "late"
    broker.at(LEASE + 3_000)
    assert state(broker, "g-1") == "late"
    broker.at(LEASE + 3_001)

    assert state(broker, "g-1") == becomes
    assert broker.show_group("g-1").reason == ("its owner is gone" if on_loss == "cancel" else "")


def test_an_owner_that_tells_of_itself_in_that_moment_keeps_its_group(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    broker.at(3_600_000)  # the server stood still
    assert state(broker, "g-1") == "late"

    assert broker.beat_groups(["g-1", "never"]) == (("open", ""), ("", ""))

    broker.at(3_600_000 + LEASE)
    assert state(broker, "g-1") == "open"


def test_a_group_that_was_stopped_stays_so_when_its_owner_is_gone(broker: TwiceBroker) -> None:
    opened(broker, "g-1", on_loss="detach")
    broker.stop_group("g-1", reason="told to")
    broker.stop_group("g-1", gone=True)

    assert state(broker, "g-1") == "stopped"
    assert broker.show_group("g-1").reason == "told to"


def test_an_owner_that_comes_back_has_its_detached_group_again(broker: TwiceBroker) -> None:
    opened(broker, "g-1", on_loss="detach")
    broker.stop_group("g-1", gone=True)
    assert state(broker, "g-1") == "detached"
    broker.join_group(["g-1"], ["q:a"])

    assert broker.beat_groups(["g-1"]) == (("open", ""),)


def test_a_gone_owner_ends_an_open_group_at_once_and_no_other(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    opened(broker, "g-2")
    broker.close_group("g-2", seen=0)

    assert broker.stop_group("g-1", gone=True) == "stopped"
    assert broker.stop_group("g-2", gone=True) == "closed"


def test_members_are_shown_a_page_at_a_time_in_the_order_in_which_they_joined(broker: TwiceBroker) -> None:
    opened(broker, "g-1")
    for at, task in enumerate(("q:z", "q:y", "q:x")):
        broker.at(at)
        broker.join_group(["g-1"], [task])

    assert broker.show_group("g-1", size=2).members == ("q:z", "q:y")
    assert broker.show_group("g-1", first=2, size=2).members == ("q:x",)
    assert broker.show_group("never").state == ""


def test_a_grace_that_nobody_wrote_is_none() -> None:
    assert [read_grace(text) for text in ("0", "250", "-", "", "²", "9" * 20)] == [0, 250, None, None, None, None]
