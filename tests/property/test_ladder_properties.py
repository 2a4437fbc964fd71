"""The ladder against any course of events: each attempt is asked once, on time, and forced once, on time."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from qworker.pool.ladder import NEVER, Ladder, Seen
from qworker.worker.drain import GRACE_CAP_S

instants = st.floats(0, 100, allow_nan=False)
reasons = st.sampled_from(["timeout", "deadline", "stop", "drain", "fenced", "recycle"])


@st.composite
def attempts(draw):
    return Seen(
        number=draw(st.integers(1, 6)),
        started=draw(st.none() | instants),
        timeout_s=draw(st.none() | st.floats(0.01, 50)),
        grace_s=draw(st.floats(0, 20)),
        deadline=draw(st.just(NEVER) | instants),
    )


def limit_of(seen):
    by_time = NEVER if seen.started is None or seen.timeout_s is None else seen.started + seen.timeout_s
    return min(by_time, seen.deadline)


def run_through(ladder, running, until=500.0):
    """Scan whenever the ladder says, from 0 on; returns [(instant, step)]."""
    told, now = [], 0.0
    while now < until:
        steps, wake = ladder.scan(now, running)
        told += [(now, step) for step in steps]
        assert wake > now, "a ladder that wants to be woken now would keep the worker busy for ever"
        now = wake
    return told


@given(attempts())
def test_an_attempt_left_alone_is_asked_at_its_limit_and_forced_when_its_grace_is_over(seen):
    told = run_through(Ladder(), [seen])

    limit = limit_of(seen)
    if limit == NEVER:
        assert told == []
    else:
        asked_at, asked = told[0]
        forced_at, forced = told[1]
        assert len(told) == 2
        assert (asked.what, asked.number) == ("ask", seen.number)
        assert asked_at == max(limit, 0.0)
        assert forced.what == "force"
        assert forced_at == asked_at + seen.grace_s
        assert forced.reason == asked.reason


@given(st.lists(attempts(), unique_by=lambda seen: seen.number))
def test_attempts_do_not_disturb_one_another(running):
    together = run_through(Ladder(), running)

    alone = [told for seen in running for told in run_through(Ladder(), [seen])]
    assert sorted(together) == sorted(alone)


@given(attempts(), st.lists(st.tuples(instants, reasons, st.floats(0, 30)), min_size=1, max_size=5))
def test_however_often_it_is_asked_an_attempt_is_forced_once_and_never_later_than_the_earliest_grace(seen, asks):
    ladder = Ladder()
    earliest = NEVER
    forced = []
    now = 0.0
    plan = sorted(asks)
    while True:
        while plan and plan[0][0] <= now:
            _, reason, grace_s = plan.pop(0)
            asked = ladder.ask(now, seen.number, reason, grace_s)
            earliest = min(earliest, now + grace_s)
            assert asked.force_at <= earliest
        steps, wake = ladder.scan(now, [seen])
        forced += [now for step in steps if step.what == "force"]
        following = min(wake, plan[0][0] if plan else NEVER)
        if following == NEVER:
            break
        now = following

    assert len(forced) == 1
    assert forced[0] <= min(earliest, max(limit_of(seen), 0.0) + seen.grace_s)


@given(attempts(), instants, st.sampled_from(["timeout", "stop", "drain", "fenced"]))
def test_force_waits_for_a_shield_but_not_without_end(seen, until, reason):
    seen = seen._replace(timeout_s=None, deadline=NEVER, shielded_until=until)
    ladder = Ladder()
    asked = ladder.ask(0.0, seen.number, reason, seen.grace_s)

    ((forced_at, step),) = run_through(ladder, [seen])

    assert step.what == "force"
    longest = {"drain": 5.0 if seen.grace_s else 0.0, "fenced": 0.0}.get(reason, seen.grace_s + 60.0)
    if min(until, longest) <= seen.grace_s:
        assert forced_at == seen.grace_s
    else:  # it gets a moment to end by itself, but no more than patience lasts
        assert min(until, longest) <= forced_at <= min(until + 0.5, longest)
    waited = asked.shielded_s(forced_at + 1.0)
    assert waited == (forced_at - seen.grace_s if forced_at > seen.grace_s else None)


@settings(deadline=None)  # it looks up to some thousand times, and the machine may be busy
@given(attempts(), st.floats(0.1, 50), st.floats(0.1, 20))
def test_a_shield_that_is_left_early_lets_force_through_soon(seen, left_at, grace_s):
    ladder = Ladder()
    seen = seen._replace(timeout_s=None, deadline=NEVER)
    ladder.ask(0.0, seen.number, "stop", grace_s)
    now, steps = 0.0, []
    while not steps:
        steps, wake = ladder.scan(now, [seen._replace(shielded_until=60.0 if now < left_at else 0.0)])
        forced_at, now = now, wake

    assert max(grace_s, left_at) <= forced_at <= max(grace_s, left_at + 0.5)


@settings(deadline=None)
@given(attempts(), st.lists(st.tuples(instants, reasons, st.floats(0, 30)), min_size=1, max_size=5))
def test_whatever_a_page_says_of_shields_force_comes_within_a_minute_after_the_grace(seen, asks):
    ladder = Ladder()
    seen = seen._replace(timeout_s=None, deadline=NEVER, shielded_until=1e9)
    plan = sorted(asks)
    latest = min(at + grace_s for at, _, grace_s in plan) + 60.0
    for at, reason, grace_s in plan:
        ladder.ask(at, seen.number, reason, grace_s)

    now = plan[-1][0]
    steps, wake = ladder.scan(now, [seen])
    while not steps:
        now = wake
        steps, wake = ladder.scan(now, [seen])

    assert now <= max(latest, plan[-1][0])


@given(reasons, reasons)
def test_the_stronger_reason_stays_whatever_the_order(first, second):
    strength = {"recycle": 0, "drain": 1, "timeout": 2, "deadline": 2, "stop": 3, "fenced": 4}
    ladder = Ladder()

    ladder.ask(1.0, 1, first, 5.0)
    asked = ladder.ask(2.0, 1, second, 5.0)

    assert asked.reason == (second if strength[second] > strength[first] else first)
    assert asked.at == 1.0


def test_a_shield_prolongs_no_drain():
    ladder = Ladder()
    ladder.ask(0.0, 1, "drain", GRACE_CAP_S)

    ((forced_at, _),) = run_through(ladder, [Seen(1, 0.0, None, 0.0, NEVER, shielded_until=1e9)])

    assert forced_at <= GRACE_CAP_S


def test_an_attempt_that_is_gone_is_forgotten():
    ladder = Ladder()
    ladder.ask(1.0, 1, "stop", 2.0)

    assert ladder.gone(1).reason == "stop"

    assert ladder.gone(1) is None
    assert len(ladder) == 0
    assert ladder.scan(10.0, []) == ([], NEVER)


def test_an_attempt_that_could_not_be_forced_is_due_again():
    ladder = Ladder()
    seen = Seen(1, 0.0, 1.0, 1.0, NEVER)
    run_through(ladder, [seen])
    assert ladder.scan(10.0, [seen]) == ([], NEVER)

    ladder.try_again(1)

    steps, _ = ladder.scan(11.0, [seen])
    assert [step.what for step in steps] == ["force"]


def test_a_shield_that_held_up_an_end_holds_up_none_once_the_lease_is_lost():
    ladder = Ladder()
    seen = Seen(number=1, started=0.0, timeout_s=None, grace_s=0.0, deadline=NEVER, shielded_until=100.0)
    ladder.ask(10.0, 1, "stop", 0.0)
    assert ladder.scan(10.0, [seen])[0] == []

    ladder.ask(10.1, 1, "fenced", 0.0)

    assert [step.what for step in ladder.scan(10.1, [seen])[0]] == ["force"]
