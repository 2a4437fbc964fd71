"""What a client says when the server is gone."""

from __future__ import annotations

import logging

import pytest

from qworker.broker.broker import Subscription
from qworker.broker.listening import Listening


def test_what_the_client_sees_to_itself_is_not_advised_to_its_user(caplog: pytest.LogCaptureFixture) -> None:
    subscription = object.__new__(Subscription)
    subscription._channel, subscription._server = "qw:default:inbox:1", "redis://box:6379"
    error = subscription._lost(ConnectionError("closed"))
    ear = object.__new__(Listening)
    ear._subscription, ear._failures = None, 0

    with caplog.at_level(logging.WARNING, "qworker.client"):
        ear.lost(error)

    [said] = [record.getMessage() for record in caplog.records]
    assert said.startswith("the server is gone; results are late until it is back: cannot listen on ")
    assert said.endswith("failed: ConnectionError: closed")
