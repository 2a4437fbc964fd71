"""What may be how late: each bound has a story that keeps it, one that does not, and one that a fault excuses."""

from __future__ import annotations

import dataclasses

from support.history.bounds import CANCEL, QUIET, RECOVERY, STOP, TIMEOUT, judged, timed
from support.history.explain import Index
from support.history.made import Story, joined, plain
from support.history.records import Fault, History
from support.history.tally import tally


def late(history: History) -> list[str]:
    return [each.what for each in timed(Index(history)) if each.late]


def held(history: History) -> set[str]:
    return {each.what for each in timed(Index(history))}


def rescued(after_s: float, kind: str = "kill worker", until_s: float = 0.0) -> Story:
    story = Story().submit().start(10).fault(kind, 11, 11 + until_s)
    return story.moves("w2", 21).start(11 + after_s, attempt=2).end(17 + after_s).told(18 + after_s)


def only(story: Story, what: str) -> list[str]:
    assert what in held(story.history())
    return [each for each in late(story.history()) if each == what]


def test_what_a_dead_worker_held_starts_again_within_its_lease_and_a_second():
    assert only(rescued(3.9), RECOVERY) == [], "two of lease, one to find it, one for a slot"
    assert only(rescued(4.1), RECOVERY) == [RECOVERY]
    assert only(rescued(4.1, "cut off worker", 3.5), RECOVERY) == [RECOVERY], "its own time is in the lease"


def test_a_recovery_has_the_time_of_a_server_that_was_away_and_a_lease():
    story = rescued(8.0).fault("freeze server", 12, 14.6)
    assert only(story, RECOVERY) == []

    story.faults[-1] = Fault("flush scripts", 12, 12)
    assert only(story, RECOVERY) == [RECOVERY], "which costs nothing, and half a second"

    story.faults[-1] = Fault("freeze server", 30, 34)
    assert only(story, RECOVERY) == [RECOVERY], "it had started by then"


def test_a_suspect_is_promised_no_time():
    story = Story().submit().start(10).end(11, "dies").moves("w1", 12).start(12).end(13, "dies")
    story.moves("w1", 13).start(25).end(26).told(27)

    assert [each.took_s for each in timed(Index(story.history())) if each.what == RECOVERY] == [1.0]


def cancelled(took_s: float) -> Story:
    story = Story().submit().stop(10, "cancelled").told(12, "cancelled", "never_started")
    story.stopped = [dataclasses.replace(story.stopped[0], answered=10 + took_s)]
    return story


def test_a_cancel_is_answered_within_a_second_unless_a_fault_was_there():
    assert late(cancelled(0.9).history()) == []
    assert late(cancelled(1.1).history()) == [CANCEL]

    for kind, worker, counts in [("freeze server", "", False), ("kill worker", "w9", True)]:
        story = cancelled(1.1)
        story.faults = [Fault(kind, 9.5, 10.5, worker=worker)]
        assert (CANCEL in late(story.history())) is counts, "only what stands between the client and the server"


def stopped(took_s: float) -> Story:
    story = Story().submit().start(10).stop(11, "running", "stop").end(11 + took_s, "asked")
    return story.told(12 + took_s, "cancelled", "noticed")


def test_code_sees_a_stop_in_time_unless_its_worker_was_hit():
    assert late(stopped(1.4).history()) == []
    assert late(stopped(1.6).history()) == [STOP]
    assert held(stopped(1.6).fault("freeze child", 11, 11.3).history()) == set()


def timed_out(took_s: float) -> Story:
    return Story().submit(timeout_s=1.0).start(10).told(11 + took_s, "timed_out", "killed")


def test_a_timeout_ends_its_task_in_time_unless_its_worker_was_hit():
    assert late(timed_out(1.4).history()) == []
    assert late(timed_out(1.6).history()) == [TIMEOUT]
    assert TIMEOUT not in held(timed_out(1.6).fault("slow wire", 10.5, 11).history())


def many(last_s: float) -> History:
    """A task a second, a fault in the middle, and a last one so long after."""
    stories = [plain(f"q:{n}") for n in range(20)]
    for n, story in enumerate(stories):
        at = 41.0 + last_s if n == 19 else float(2 * n + 2)
        story.ended = [dataclasses.replace(end, at=at if end.source == "future" else end.at) for end in story.ended]
    return dataclasses.replace(joined(stories), faults=(Fault("kill clients", 20, 20),))


def test_a_timeout_is_heard_of_a_round_later_on_a_wire_that_lost_something():
    def late_after(took_s: float, fault: Fault) -> list[str]:
        story = timed_out(took_s)
        story.faults = [fault]
        return late(story.history())

    assert late_after(3.9, Fault("stalled wire", 7.0, 7.3)) == []
    assert late_after(4.1, Fault("stalled wire", 7.0, 7.3)) == [TIMEOUT], "and no later than a round"
    assert late_after(3.9, Fault("stalled wire", 7.0, 7.3, worker="w9")) == [TIMEOUT], "it is not the producer's"
    assert late_after(3.9, Fault("slow wire", 7.0, 7.3)) == [TIMEOUT], "it lost nothing"
    assert late_after(3.9, Fault("stalled wire", 1.0, 1.3)) == [TIMEOUT], "it was found out long before"


def test_after_the_last_fault_what_is_left_goes_on_as_fast_as_before():
    # Ten tasks in 20 seconds, and as many left, which take 20 at most; and two leases.
    assert late(many(2.9)) == []
    assert late(many(3.1)) == [QUIET]
    assert late(dataclasses.replace(many(30.0), faults=())) == [], "without a fault nothing is measured"


def test_a_tally_counts_what_was_held_to_a_bound_and_tells_what_was_late():
    found = tally(many(3.1), [], took_s=1.0)
    found.add(tally(cancelled(0.5).history(), [], took_s=1.0))

    assert found.as_json()["held_to"] == {CANCEL: 1, QUIET: 1}
    assert found.as_json()["late"] == ["quiet : 24.10 s, and 24.00 s is allowed"]
    assert judged(timed(Index(cancelled(3.0).history())))[1] == ["cancel q:a: 3.00 s, and 1.00 s is allowed"]
