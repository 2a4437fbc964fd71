"""The broker against real servers that break, stall, fill up and forget their scripts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
import redis

from qworker.broker import Broker, SubmitItem
from qworker.errors import BrokerError, BrokerUnavailable, ConfigError, ServerFull, ServerUnfit, SubmitUnknown
from qworker.lifecycle import State
from qworker.model import Line, Release
from qworker.views import WorkerRecord
from support.blobs import make_blob
from support.brokers import QUEUE, counters, end, ids, item, name, record, seed, state, stop, take
from support.proxy import Proxy
from support.servers import Server
from support.waiting import wait_until

MakeServer = Callable[..., Server]


@pytest.fixture
def proxy(one_server: Server) -> Iterator[Proxy]:
    made = Proxy(one_server.socket_path)
    yield made
    made.close()


@pytest.fixture
def broker(proxy: Proxy) -> Iterator[Broker]:
    with Broker(proxy.url, "t", timeout_s=3.0) as made:
        yield made


def test_a_submit_whose_answers_are_lost_is_sent_again_and_queued_once(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "first")
    proxy.cut_answers(2, after=b"EVALSHA")

    answer = broker.submit(QUEUE, Line(), [item("a"), item("b")], given=False)

    assert proxy.commands == 3
    assert answer.codes == ("same", "same")
    assert counters(broker)["submitted"] == 3


def test_a_resent_submit_of_what_has_ended_meanwhile_does_not_run_it_again(broker: Broker, proxy: Proxy) -> None:
    """The answer was lost, and a worker was quicker than the second sending."""
    seed(broker, "a", given=False)
    take(broker, "c1")
    broker.settle(QUEUE, [end("a", "c1")])
    proxy.cut_answers(1, after=b"EVALSHA")

    answer = broker.submit(QUEUE, Line(), [item("a")], given=False, resend=True)

    assert answer.codes == ("ended",)


def test_a_claim_whose_answer_is_lost_brings_its_window_when_it_is_sent_again(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c0", 1)
    proxy.cut_answers(1, after=name("c1").encode())

    window = take(broker, "c1", 1)

    assert proxy.commands == 2
    assert ids(window) == ["b"]
    assert counters(broker)["claimed"] == 2


def test_a_settle_whose_answer_is_lost_is_known_again_and_not_counted_as_refused(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "a", "b", "c")
    take(broker, "c1")
    broker.settle(QUEUE, [end("c", "c1")])
    proxy.cut_answers(1, after=b"EVALSHA")

    reply = broker.settle(QUEUE, [end("a", "c1"), Release("b", name("c1"))])

    assert reply.codes == ("again", "again")
    assert "refused_late" not in counters(broker)


def test_a_submit_without_any_answer_is_unknown_and_names_its_ids(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "first")
    proxy.cut_answers(1_000, after=b"EVALSHA")
    begun = time.monotonic()

    with pytest.raises(SubmitUnknown, match=r"cannot submit 1 task\(s\) to queue 'q': .* again with the same ids"):
        broker.submit(QUEUE, Line(), [item("a")], given=False)

    assert time.monotonic() - begun < 3.5


def test_an_unknown_submit_tells_the_ids(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "first")
    proxy.cut_answers(1_000, after=b"EVALSHA")

    with pytest.raises(SubmitUnknown) as caught:
        broker.submit(QUEUE, Line(), [item("a"), item("b")], given=False)

    assert caught.value.ids == ("q:a", "q:b")
    proxy.cut_answers(0, after=b"")
    assert broker.submit(QUEUE, Line(), [item("a"), item("b")], given=True).codes == ("same", "same")


def test_a_silent_server_is_given_up_at_the_deadline(broker: Broker, proxy: Proxy) -> None:
    seed(broker, "a")
    proxy.hold()
    begun = time.monotonic()

    with pytest.raises(BrokerUnavailable, match=r"cannot look up 1 task\(s\) in queue 'q': no .* within 3 s"):
        broker.peek(QUEUE, ["a"])

    assert time.monotonic() - begun < 3.5
    proxy.release()
    assert broker.peek(QUEUE, ["a"])[0].alive


def test_a_server_that_is_not_there_is_unavailable_and_nothing_was_queued(tmp_path: object) -> None:
    broker = Broker(f"unix://{tmp_path}/none", "t", timeout_s=0.3)

    with pytest.raises(BrokerUnavailable, match="Check that it runs and that the URL is right"):
        broker.submit(QUEUE, Line(), [item("a")], given=False)


def test_a_connection_that_was_killed_is_replaced(server: Server) -> None:
    with Broker(server.url, "t") as broker, redis.Redis.from_url(server.url) as admin:
        seed(broker, "a")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

        assert ids(take(broker, "c1")) == ["a"]


def test_a_server_that_forgot_its_scripts_is_taught_again(server: Server) -> None:
    with Broker(server.url, "t") as broker:
        seed(broker, "a")
        broker.client.script_flush()

        assert ids(take(broker, "c1")) == ["a"]
        broker.client.script_flush()
        assert broker.settle(QUEUE, [end("a", "c1")]).codes == ("ok",)


def test_a_restart_with_its_append_only_file_loses_nothing(new_server: MakeServer) -> None:
    server = new_server()
    with Broker(server.url, "t") as broker:
        seed(broker, "a", "b", "c")
        take(broker, "c1", 2)
        broker.settle(QUEUE, [end("a", "c1")])
        server.kill()
        server.restart()

        assert broker.peek(QUEUE, ["a"])[0].outcome == end("a", "c1").value
        assert broker.settle(QUEUE, [end("b", "c1")]).codes == ("ok",)
        assert ids(take(broker, "c2")) == ["c"]


@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_a_full_server_refuses_submits_whole_and_drains(new_server: MakeServer, kind: str) -> None:
    server = new_server(kind, "--maxmemory-policy", "noeviction", durable=False)
    with Broker(server.url, "t") as broker:
        seed(broker, *[f"t{n}" for n in range(20)], size=2_000)
        window = take(broker, "c1", 6)
        broker.client.config_set("maxmemory", "1mb")

        with pytest.raises(ServerFull, match=r"cannot submit 2 task\(s\) to queue 'q': .* refused the call whole"):
            seed(broker, "x", "y")
        with pytest.raises(ServerFull, match="refused the call whole"):
            seed(broker, "x", given=False, size=5_000)

        assert (broker.memory().is_full, broker.memory().limit) == (True, 1 << 20)
        assert [found.alive for found in broker.peek(QUEUE, ["x", "y"])] == [False, False]
        assert broker.renew(QUEUE, claims=[name("c1")], lease_ms=15_000).lost == ()
        assert stop(broker, "t0", "t10")[0].code == "requested"
        large = end("t0", "c1", text=b"." * 5_000)
        codes = broker.settle(QUEUE, [large, end("t1", "c1", state=State.FAILED), Release("t2", name("c1"))])
        assert codes.codes == ("ok", "ok", "ok")
        assert broker.outcomes(QUEUE, ["t0"]) == (large.value,)
        assert len(window.tasks) == 6
        assert ids(take(broker, "c2", 3)) == ["t2", "t6", "t7"]
        assert broker.rescue_worker(QUEUE, "host:1:aaaa").tasks == 6
        broker.beat(worker_record())
        assert [found.id for found in broker.workers()] == ["w1"]
        assert (broker.stats(QUEUE).ready, broker.inspect(QUEUE, "t9").state) == (17, "queued")
        assert broker.show_group("never").state == ""
        assert broker.claim("new", claim=name("c9"), worker="w", rooms=[(("default",), 1)], lease_ms=1_000).tasks == ()


def worker_record() -> WorkerRecord:
    return WorkerRecord("w1", "h", 1, "b", "n", 1, (QUEUE,), "running", 1, {})


def test_a_server_that_may_evict_tasks_is_refused(new_server: MakeServer) -> None:
    server = new_server(None, "--maxmemory-policy", "allkeys-lru", durable=False)
    with Broker(server.url, "t") as broker:
        with pytest.raises(ServerUnfit, match=r"its eviction policy is allkeys-lru, .* deletes queued tasks"):
            broker.check_fit()

        assert broker.check_fit(allow_eviction=True).eviction_policy == "allkeys-lru"
        assert (broker.memory().deletes_tasks, broker.memory().is_full) == (True, False)


def test_a_server_that_forbids_questions_is_taken_as_it_is(new_server: MakeServer) -> None:
    server = new_server(None, durable=False)
    with Broker(server.url, "t") as admin:
        admin.client.execute_command("ACL", "SETUSER", "default", "-config", "-info")
        facts = admin.check_fit()

    assert facts.withheld == ("INFO", "CONFIG GET")
    assert facts.eviction_policy is None
    assert facts.now_ms > 0


def test_the_facts_of_a_server(server: Server) -> None:
    with Broker(server.url, "t") as broker:
        facts = broker.server_facts()

    assert facts.software == server.kind
    assert facts.version.count(".") == 2
    assert (facts.eviction_policy, facts.append_only) == ("noeviction", False)
    assert (facts.role, facts.cluster) == ("master", False)
    assert facts.withheld == ()


def test_a_queue_of_another_schema_is_refused_before_anything_is_written(url: str) -> None:
    with Broker(url, "t") as broker:
        broker.client.hset("qw:{t.q}:meta", mapping={"schema": 2, "epoch": "x"})

        with pytest.raises(ServerUnfit, match=r"queue 'q' of namespace 't': .* has schema 2, .* reads 1"):
            seed(broker, "a")
        with pytest.raises(ServerUnfit):
            take(broker, "c1")

        assert state(broker, "a") is None


def test_rights_that_are_missing_are_said_at_once(new_server: MakeServer) -> None:
    server = new_server(None, durable=False)
    with Broker(server.url, "t") as broker:
        broker.client.execute_command("ACL", "SETUSER", "default", "-@scripting")

        with pytest.raises(BrokerError, match=r"does not allow it: .* Grant \+evalsha, or all that"):
            broker.peek(QUEUE, ["a"])


def test_a_replica_is_refused_as_a_place_to_work(new_server: MakeServer) -> None:
    server = new_server("redis", durable=False)
    with Broker(server.url, "t", timeout_s=0.5) as broker:
        broker.client.execute_command("REPLICAOF", "127.0.0.1", "1")

        with pytest.raises(ServerUnfit, match="it is a read-only replica"):
            broker.check_fit()
        with pytest.raises(BrokerUnavailable, match="read only replica"):
            seed(broker, "a")


def test_an_error_names_the_server_without_its_password() -> None:
    broker = Broker("redis://user:secret@127.0.0.1:1/0", timeout_s=0.2)

    with pytest.raises(BrokerUnavailable) as caught:
        broker.peek(QUEUE, ["a"])

    assert "redis://user:***@127.0.0.1:1/0" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_url_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"url='amqp://box': expected redis://host:port/0, rediss://"):
        Broker("amqp://box")


def test_connections_carry_the_role_in_their_names(url: str) -> None:
    with Broker(url, "t", role="doctor", instance="me") as broker:
        assert "qw:doctor:me" in {client["name"] for client in broker.client.client_list()}


def test_a_subscription_that_lost_its_connection_says_so(url: str) -> None:
    with Broker(url, "t") as broker, broker.subscribe("abcdefghijkl") as inbox:
        assert broker.publish("abcdefghijkl", b"hello") == 1
        assert inbox.next(5) == b"hello"
        broker.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

        said = r"^cannot listen on qw:t:inbox:abcdefghijkl: the connection to the server at .* failed: Connection"
        with pytest.raises(BrokerUnavailable, match=said):
            inbox.next(5)


def test_many_threads_may_use_one_broker(url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with Broker(url, "t") as broker, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda n: broker.submit(QUEUE, Line(), [SubmitItem(f"t{n}", make_blob())]
                                                           , given=True).codes, range(64)))  # fmt: skip

        assert answers == [("ok",)] * 64
        assert len(take(broker, "c1", 100).tasks) == 64
        assert record(broker, "t1") is not None
        wait_until(lambda: broker.client.ping(), description="an answer on the shared pool")


def test_a_submit_whose_answer_was_lost_is_unknown_when_its_second_sending_is_refused(new_server: MakeServer) -> None:
    """Connections that were there before go on without the new password; the one that replaces them does not."""
    server = new_server(None, durable=False)
    proxy = Proxy(server.socket_path)
    with Broker(proxy.url, "t", timeout_s=3.0) as broker, redis.Redis.from_url(server.url) as admin:
        seed(broker, "first")
        admin.config_set("requirepass", "secret")
        proxy.cut_answers(1, after=b"EVALSHA")

        with pytest.raises(SubmitUnknown, match=r"NOAUTH .* Check user, password .*\. The tasks may have been queued"):
            broker.submit(QUEUE, Line(), [item("a")], given=False)

        assert admin.hexists("qw:{t.q}:bodies", "a")
    proxy.close()


@pytest.mark.parametrize(("lacks", "error"), [("multi", SubmitUnknown), ("exec", BrokerError)])
def test_a_large_submit_without_the_rights_of_a_transaction_tells_the_truth(
    new_server: MakeServer, lacks: str, error: type[Exception]
) -> None:
    """Without MULTI, each command behind it is done by itself; without EXEC none is."""
    server = new_server(None, durable=False)
    with Broker(server.url, "t") as broker, redis.Redis.from_url(server.url) as admin:
        seed(broker, "first")
        admin.execute_command("ACL", "SETUSER", "default", f"-{lacks}")

        with pytest.raises(error, match=rf"does not allow it: .* Grant \+{lacks}, or all that"):
            broker.submit(QUEUE, Line(), [item("large", size=20_000)], given=False)

        assert admin.hexists("qw:{t.q}:bodies", "large") is (error is SubmitUnknown)


@pytest.mark.parametrize("size", [0, 30_000])
def test_a_password_that_is_missing_is_told_whatever_the_size_of_what_is_sent(
    new_server: MakeServer, size: int
) -> None:
    server = new_server(None, durable=False)
    with Broker(server.url, "t") as broker, redis.Redis.from_url(server.url) as admin:
        seed(broker, "first")
        admin.config_set("requirepass", "secret")
        admin.client_kill_filter(_type="normal", skipme=True)

        with pytest.raises(BrokerError, match=r"does not allow it: NOAUTH .*Check user, password"):
            broker.submit(QUEUE, Line(), [item("a", size=size)], given=False)


def test_a_time_limit_longer_than_a_socket_can_wait_is_taken(url: str) -> None:
    with Broker(url, "t", timeout_s=3e9) as broker, broker.subscribe("abcdefghijkl") as inbox:
        assert broker.queues() == ()
        broker.publish("abcdefghijkl", b"hello")
        assert inbox.next(3e9) == b"hello"
