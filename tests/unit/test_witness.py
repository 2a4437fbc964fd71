"""What a worker has seen of a server, and to which queues it still has to tell that the server was away."""

from __future__ import annotations

import pytest

from qworker.worker.witness import Witness


def test_the_servers_time_is_followed_between_replies() -> None:
    witness = Witness(10)
    assert witness.expected_ms(1.0) is None

    witness.answered("q", sent=5.0, now=5.1, server_ms=1_000_000, told=False)

    assert witness.expected_ms(7.1) == 1_002_000


@pytest.mark.parametrize(
    ("server_ms", "step_s"),
    [
        (1_012_000, 0.0),  # as expected
        (1_015_900, 0.0),  # the reply before may have been on its way for the four seconds that it took
        (1_009_900, 0.0),  # this one may have, for its two
        (1_016_100 + 5_000, 5.1),
        (1_016_000 + 3_600_000, 3600.0),
        (1_010_000 - 3_600_000, -3600.0),
    ],
)
def test_a_step_of_the_servers_clock_is_what_no_delay_explains(server_ms: int, step_s: float) -> None:
    witness = Witness(10)
    assert witness.answered("q", sent=1.0, now=5.0, server_ms=1_000_000, told=False) == 0.0

    assert witness.answered("q", sent=15.0, now=17.0, server_ms=server_ms, told=False) == pytest.approx(step_s)


def test_a_call_unanswered_for_half_a_lease_is_a_witness_of_a_stall() -> None:
    witness = Witness(10)
    witness.asked(100.0)

    assert not witness.stalled("q", 104.9)
    assert witness.stalled("q", 105.1)


def test_after_an_unanswered_call_the_server_counts_as_away_since_its_last_answer() -> None:
    witness = Witness(10)
    witness.answered("q", sent=90.0, now=90.0, server_ms=1, told=False)
    witness.asked(95.0)
    assert not witness.stalled("q", 95.5), "it may just be on its way"

    witness.unanswered()

    assert witness.stalled("q", 95.5)


def test_who_has_just_come_knows_nothing_of_the_servers_clock_before() -> None:
    witness = Witness(10)
    assert witness.is_newcomer(100.0)

    witness.answered("q", sent=100.0, now=100.0, server_ms=1, told=False)

    assert witness.is_newcomer(101.4)
    assert not witness.is_newcomer(101.6)


def test_who_stood_still_itself_knows_as_little_as_who_has_just_come() -> None:
    """The server may have been away meanwhile: an outage that this worker has not seen."""
    witness = Witness(10)
    witness.answered("q", sent=100.0, now=100.0, server_ms=1, told=False)
    assert not witness.is_newcomer(105.0)
    assert witness.is_newcomer(105.1)

    witness.answered("q", sent=105.1, now=105.1, server_ms=5101, told=False)

    assert witness.is_newcomer(106.5)
    witness.answered("q", sent=106.5, now=106.5, server_ms=6501, told=False)
    assert not witness.is_newcomer(106.7)


@pytest.mark.parametrize("lease_s", [1.0, 2.0, 12.0])
def test_who_heard_nothing_for_half_a_lease_knows_nothing_of_an_outage_in_it(lease_s: float) -> None:
    """A second and a half, whatever the lease, would be longer than the shortest one."""
    witness = Witness(lease_s)
    for at in (100.0, 100.0 + 0.4 * lease_s, 100.0 + 0.8 * lease_s, 102.0 + 0.8 * lease_s):
        witness.answered("q", sent=at, now=at, server_ms=int(at * 1000), told=False)
    assert witness.is_newcomer(at) == (lease_s < 4), "two seconds of silence"

    witness = Witness(lease_s)
    for n in range(10):
        at = 100.0 + 0.2 * lease_s * n  # as often as an idle worker of such a lease asks, at least
        witness.answered("q", sent=at, now=at, server_ms=int(at * 1000), told=False)
    assert not witness.is_newcomer(at + 0.49 * lease_s)
    assert witness.is_newcomer(at + 0.51 * lease_s)


def test_a_late_reply_lets_the_next_call_carry_the_witness_once() -> None:
    witness = Witness(10)
    witness.asked(100.0)
    witness.answered("q", sent=100.0, now=106.0, server_ms=1, told=False)

    assert witness.stalled("q", 106.1)

    witness.asked(106.1)
    witness.answered("q", sent=106.1, now=106.2, server_ms=102, told=True)
    assert not witness.stalled("q", 106.3)


def test_an_outage_that_ends_while_a_call_tries_again_is_told_by_the_next_one() -> None:
    """Neither the call that was given up nor the one that was answered was under way for half a lease."""
    witness = Witness(10)
    witness.answered("q", sent=90.0, now=90.0, server_ms=90_000, told=False)
    witness.asked(91.0)
    witness.unanswered()
    assert not witness.stalled("q", 94.5)

    witness.asked(94.5)
    witness.answered("q", sent=94.5, now=95.5, server_ms=95_500, told=False)

    assert witness.stalled("q", 95.6)


def test_silence_alone_is_no_witness() -> None:
    witness = Witness(10)
    witness.asked(100.0)
    witness.answered("q", sent=100.0, now=100.1, server_ms=1, told=False)

    assert not witness.stalled("q", 1000.0)


def away(witness: Witness) -> None:
    """The server was away from 90 to 100, and a call to q was the first to be answered, and said so."""
    witness.answered("q", sent=90.0, now=90.0, server_ms=90_000, told=False)
    witness.asked(91.0)
    witness.unanswered()
    assert witness.stalled("q", 100.0)
    witness.answered("q", sent=100.0, now=100.1, server_ms=100_000, told=True)


def test_every_queue_is_told_of_an_outage_once() -> None:
    """An amnesty is one of a queue: those of others would be rescued, though their workers live."""
    witness = Witness(10)
    away(witness)

    assert not witness.stalled("q", 100.2)
    assert witness.stalled("other", 100.2)
    witness.answered("other", sent=100.2, now=100.3, server_ms=100_200, told=True)
    assert not witness.stalled("other", 100.4)


def test_an_outage_that_is_long_over_is_told_to_nobody() -> None:
    """By then all who live have renewed, and what lapsed is to be rescued."""
    witness = Witness(10)
    away(witness)

    assert witness.stalled("other", 104.9)
    assert not witness.stalled("other", 105.0)


def test_a_step_of_the_clock_is_told_to_every_queue() -> None:
    """To the one where it was met, too: of a newcomer's call its script does not ask what the call expected."""
    witness = Witness(10)
    witness.answered("q", sent=90.0, now=90.0, server_ms=90_000, told=False)

    assert witness.answered("q", sent=91.0, now=91.0, server_ms=3_691_000, told=False) == 3600.0

    assert witness.stalled("q", 91.1)
    assert witness.stalled("other", 91.1)
    witness.answered("q", sent=91.1, now=91.2, server_ms=3_691_100, told=True)
    assert not witness.stalled("q", 91.3)
