"""Each fault of a server under a running workload, judged by what the tasks wrote; named for what breaks and holds.

What runs: two workers with two slots each, and a producer that keeps a queue of tasks before them: short ones, retries,
failures, cancels, stops. The fault comes when a quarter of them have ended, while the rest is submitted. All have to
end, nothing is lost, and no fault of this page makes anything start twice. Marked slow: what others break, too.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from support.history import chaos, faults, workload
from support.history.client import Batch, Recorder
from support.history.executions import now
from support.history.judge import report
from support.history.records import Fault, save
from support.machine import fill, tmpfs
from support.proxy import Proxy
from support.servers import Server, any_kind, start_server
from support.waiting import wait_until

pytestmark = pytest.mark.timeout(120)  # some seconds each, and more on a machine that does other things

TASKS = 150
LEASE_S = 2.0
# What hangs or dies has its own faults.
CALM = {kind: 0 if kind in ("hangs", "timed out", "dies", "long") else share for kind, share in workload.SHARES.items()}

Break = Callable[[chaos.Fleet, Recorder], object]


@pytest.fixture
def suffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., chaos.Done]:
    """Run the workload, break something in the middle of it, and have the history judged."""
    monkeypatch.setattr(workload, "SHARES", CALM)

    def suffer(kind: str, break_it: Break, *, server: Server | None = None, **more: Any) -> chaos.Done:
        def scene(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
            producer = chaos.Producer(client, workload.plan(plan.seed, plan.tasks), fleet.log)
            producer.go_on_to(plan.tasks)
            producer.start()
            assert client.wait(lambda: client.done >= plan.tasks // 4, 30), "a quarter of the tasks have to end first"
            at = now()
            break_it(fleet, client)
            until = now()
            producer.join()
            if producer.error is not None:
                raise producer.error
            return [Fault(kind, at, until)]

        plan = chaos.Plan(21, TASKS, workers=2, slots="process=1,thread=1", lease_s=LEASE_S, **more)
        done = chaos.run(plan, tmp_path / "run", scene=scene, server=server)
        if done.violations:
            save(done.history, tmp_path / "history.jsonl")
        assert not done.violations, report(done.violations)
        # A full server refuses tasks for as long as it is full: of the others, what was accepted is nearly all.
        accepted = {submit.id for submit in done.history.submitted if submit.answer == "accepted"}
        asked = len(accepted) if kind == "full server" else TASKS
        assert len({line.id for line in done.history.lines}) > 0.8 * asked >= 0.2 * TASKS
        assert not [event for event in done.history.events if event.name in ("claim.lost", "tasks.rescued")]
        return done

    return suffer


def own(tmp_path: Path, *args: str, name: str = "server", **options: Any) -> Server:
    return start_server(any_kind(), tmp_path / name, *args, **options)


@contextlib.contextmanager
def admin_of(server: Server) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, socket_timeout=20) as admin:
        yield admin


def told(fleet: chaos.Fleet, name: str) -> list[dict[str, Any]]:
    return [event for worker in fleet.workers for event in worker.events(name)]


def wait_told(fleet: chaos.Fleet, name: str, count: int = 1) -> list[dict[str, Any]]:
    """Wait until workers have said it so often, together."""
    return wait_until(
        lambda: found if len(found := told(fleet, name)) >= count else [], timeout=15, description=f"{count} of {name}"
    )


# It is away


@pytest.mark.slow
def test_a_server_killed_with_its_append_only_file_loses_and_doubles_nothing(suffer) -> None:
    def kill(fleet: chaos.Fleet, client: Recorder) -> None:
        fleet.server.kill()
        wait_told(fleet, "redis.unreachable")
        fleet.server.start()
        wait_told(fleet, "redis.back")

    suffer("restart server", kill)


def test_a_server_that_takes_its_time_to_load_its_data_is_waited_for(suffer, tmp_path) -> None:
    """LOADING: it takes connections, and answers nearly everything with an error."""
    slow = ("--key-load-delay", "200", "--loading-process-events-interval-bytes", "1024")
    server = own(tmp_path, *slow)
    loading = threading.Event()
    back = threading.Event()

    def look() -> None:
        while not back.is_set():
            with contextlib.suppress(redis.ConnectionError), admin_of(server) as admin:
                try:
                    admin.get("x")
                except redis.BusyLoadingError:
                    loading.set()

    def restart(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(server) as admin, admin.pipeline(transaction=False) as pipe:
            for n in range(6_000):
                pipe.set(f"ballast:{n}", "x")
            pipe.execute()
        server.kill()
        thread = threading.Thread(target=look)
        thread.start()
        server.start()  # returns when it has loaded
        back.set()
        thread.join()
        wait_told(fleet, "redis.back", len({event["time"] for event in told(fleet, "redis.unreachable")[:1]}))

    suffer("restart server", restart, server=server)
    assert loading.is_set()


# It does not answer


@pytest.mark.parametrize(
    "all_commands",
    [pytest.param(True, id="all commands"), pytest.param(False, id="writes", marks=pytest.mark.slow)],
)
def test_a_server_paused_for_longer_than_the_lease_makes_nothing_start_twice(suffer, all_commands) -> None:
    def pause(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            admin.client_pause(int(1400 * LEASE_S), all=all_commands)
            wait_told(fleet, "redis.unreachable")
            admin.set("waits", "for the end of the pause")

    suffer("pause server", pause)


@pytest.mark.slow
def test_a_server_that_sleeps_for_longer_than_the_lease_makes_nothing_start_twice(suffer, tmp_path) -> None:
    def sleep(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            admin.execute_command("DEBUG", "SLEEP", str(1.4 * LEASE_S))
        wait_told(fleet, "redis.back")

    suffer("freeze server", sleep, server=own(tmp_path, "--enable-debug-command", "yes"))


# It forgets, or hangs up


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["kill clients", "flush scripts"])
def test_connections_killed_and_scripts_forgotten_again_and_again_cost_nothing(suffer, kind) -> None:
    def harass(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            for share in range(TASKS // 4, 3 * TASKS // 4, 6):
                assert client.wait(lambda share=share: client.done >= share, 20)
                faults.kill_clients(admin) if kind == "kill clients" else admin.script_flush()

    suffer(kind, harass)


# It refuses


def test_a_full_server_refuses_submits_and_what_it_has_drains(suffer, tmp_path) -> None:
    refused: list[str] = []

    def fill_up(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            admin.config_set("maxmemory", 1)
            client.submit(Batch("short", "nap", (0.0,), 3, ids=("full-1", "full-2", "full-3")))
            refused.extend(submit.id for submit in client.submitted if submit.answer == "refused")
            assert client.wait(lambda: not client.pending, 30), "everything that it has ends while it is full"
            admin.config_set("maxmemory", 0)

    done = suffer("full server", fill_up, server=own(tmp_path, "--maxmemory-policy", "noeviction"))

    assert {"default:full-1", "default:full-2", "default:full-3"} <= set(refused)
    assert not {line.id for line in done.history.lines} & set(refused)


def test_a_read_only_server_is_waited_for_and_costs_nothing(suffer) -> None:
    """READONLY, as after a failover that this server has not heard of yet."""

    def demote(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            admin.execute_command("REPLICAOF", "127.0.0.1", "1")
            for event in wait_told(fleet, "redis.unreachable"):
                assert "READONLY" in event["error"]
            admin.execute_command("REPLICAOF", "NO", "ONE")
        wait_told(fleet, "redis.back")

    suffer("refusing server", demote)


def test_a_server_without_the_replicas_that_it_wants_is_waited_for_and_costs_nothing(suffer) -> None:
    def demand(fleet: chaos.Fleet, client: Recorder) -> None:
        with admin_of(fleet.server) as admin:
            admin.config_set("min-replicas-to-write", 1)
            for event in wait_told(fleet, "redis.unreachable"):
                assert "NOREPLICAS" in event["error"]
            admin.config_set("min-replicas-to-write", 0)
        wait_told(fleet, "redis.back")

    suffer("refusing server", demand)


def test_a_server_whose_disk_is_full_is_waited_for_and_goes_on_when_there_is_room(suffer, tmp_path) -> None:
    """MISCONF: its append-only file cannot be written, so it takes no writes."""
    with tmpfs(tmp_path / "disk", "8m") as disk:
        server = start_server(
            any_kind(), disk / "server", "--save", "", "--appendonly", "yes", "--appendfsync", "everysec", durable=False
        )

        def fill_disk(fleet: chaos.Fleet, client: Recorder) -> None:
            ballast = fill(disk)
            for event in wait_told(fleet, "redis.unreachable"):
                assert "MISCONF" in event["error"]
                assert "refuses writes" in event["error"]
            ballast.unlink()
            wait_told(fleet, "redis.back")

        suffer("refusing server", fill_disk, server=server)


# Another one has its place


def test_a_replica_that_has_everything_takes_over_and_nothing_is_lost_or_doubled(suffer, tmp_path) -> None:
    primary, replica = own(tmp_path), own(tmp_path, name="replica")
    between = Proxy(primary.socket_path, tcp=True)
    try:
        with admin_of(replica) as other:
            other.execute_command("REPLICAOF", "127.0.0.1", str(between.port))
            wait_until(lambda: other.info("replication")["master_link_status"] == "up", description="the replica")

            def fail_over(fleet: chaos.Fleet, client: Recorder) -> None:
                with admin_of(primary) as admin:
                    admin.client_pause(5_000, all=False)  # what failovers in order do: nothing new is written
                    offset = admin.info("replication")["master_repl_offset"]
                    wait_until(
                        lambda: other.info("replication")["slave_repl_offset"] >= offset, description="the last bytes"
                    )
                other.execute_command("REPLICAOF", "NO", "ONE")
                primary.kill()
                for wire in fleet.wires.values():
                    wire.move(replica.socket_path)
                fleet.server = replica

            suffer("failover", fail_over, server=primary, wired=True)
    finally:
        between.close()
        primary.stop()
        replica.stop()
