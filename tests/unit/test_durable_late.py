"""A durable submit whose connection broke: until when it is submitted again; no server here."""

from __future__ import annotations

import time

import pytest

from qworker.broker import Broker
from qworker.broker.connection import RESEND_S
from qworker.broker.durable import Durable


@pytest.fixture
def durable() -> Durable:
    """One that has submitted something on a connection that is lost."""
    with Broker("unix:///none/here", "t", timeout_s=200) as broker:
        made = Durable(broker)
    made._via = 1
    return made


def test_what_may_have_ended_and_be_forgotten_is_not_submitted_again(durable: Durable) -> None:
    """What tells a repetition is kept for 60 s: after that it would be a second run."""
    durable._kept_at = time.monotonic() - RESEND_S
    durable._sent.append(lambda: pytest.fail("it was submitted again"))

    assert durable.confirm() == ("the connection that wrote it is lost, and it is too late to submit it again unseen")


def test_before_that_it_is_submitted_again_and_given_no_longer(
    durable: Durable, monkeypatch: pytest.MonkeyPatch
) -> None:
    durable._kept_at = time.monotonic() - RESEND_S + 20
    monkeypatch.setattr(durable, "check", lambda: None)
    monkeypatch.setattr(durable, "_wait", lambda _: "")
    given: list[float] = []
    durable._sent.append(lambda: given.append(durable.timeout_s))

    assert durable.confirm() == ""
    assert 0 < given[0] <= 20
