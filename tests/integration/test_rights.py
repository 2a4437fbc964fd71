"""The ACL lines of docs/redis-rights.md: with them all works, and without any one of their words something does not."""

from __future__ import annotations

import pytest
import redis

from qworker import App
from qworker.broker import Broker
from qworker.errors import BrokerError, BrokerUnavailable, SubmitUnknown
from support.rights import NAMESPACE, ROLES, denied, grant, live, rules, url_of
from support.servers import Server

WORDS = [(role, word) for role, words in rules().items() for word in words]


def life(server: Server, role: str) -> None:
    with Broker(url_of(server, role), NAMESPACE) as mine, Broker(server.url, NAMESPACE) as helper:
        live(role, mine, helper)


@pytest.fixture(autouse=True)
def no_users_are_left(server: Server) -> object:
    yield
    with redis.Redis.from_url(server.url) as client:
        client.acl_deluser(*ROLES)


def test_the_page_has_a_line_for_each_role() -> None:
    assert tuple(rules()) == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_with_its_line_a_role_does_all_that_it_ever_does(server: Server, role: str) -> None:
    grant(server, role, *rules()[role])

    life(server, role)

    assert denied(server) <= {"config|get"}


@pytest.mark.parametrize(("role", "word"), WORDS, ids=[f"{role} {word}" for role, word in WORDS])
def test_without_any_word_of_its_line_it_does_not(server: Server, role: str, word: str) -> None:
    grant(server, role, *(other for other in rules()[role] if other != word))

    with pytest.raises((BrokerError, SubmitUnknown)):  # without +multi, what follows it is done by itself
        life(server, role)


def test_what_is_missing_is_named(server: Server) -> None:
    grant(server, "producer", *(word for word in rules()["producer"] if word != "+subscribe"))

    with (
        App(url_of(server, "producer"), namespace=NAMESPACE) as app,
        pytest.raises(BrokerError, match=r"cannot listen on .* does not allow it: .* Grant \+subscribe, or all that"),
    ):
        app.client()


def test_a_wrong_password_is_said_by_the_first_submit_and_not_taken_for_silence(server: Server) -> None:
    grant(server, "producer", *rules()["producer"])

    with (
        App(f"unix://producer:wrong@{server.socket_path}", namespace=NAMESPACE) as app,
        pytest.raises(BrokerError, match=r"does not allow it: WRONGPASS .* Check user, password") as caught,
    ):
        app.submit("t")

    assert not isinstance(caught.value, BrokerUnavailable)


def test_a_key_of_another_namespace_is_not_to_be_touched(server: Server) -> None:
    grant(server, "viewer", *rules()["viewer"])

    with (
        Broker(url_of(server, "viewer"), "other") as broker,
        pytest.raises(BrokerError, match=r"cannot list queues: .* does not allow it: NOPERM .*docs/redis-rights"),
    ):
        broker.queues()
