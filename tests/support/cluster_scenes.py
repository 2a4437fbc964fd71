"""What happens to a cluster in a judged run, while its queues are worked on: scenes for support.history.chaos.

wired(cluster)               faults of the plan; those of a wire are done to one server's after the other
moved(cluster, …)            the slots of queues go from server to server
failed_over(cluster, …)      a primary is killed with -9 and its replica takes over
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from qworker.broker import Broker
from qworker.broker.cluster import slot_of
from qworker.broker.keys import QueueKeys
from support.cluster_excuses import Gap
from support.clusters import Cluster
from support.history import chaos, workload
from support.history.client import Recorder
from support.history.executions import now
from support.history.records import Fault
from support.replicas import Node
from support.waiting import wait_until

LOST = 12  # tasks that end, after its replica has heard the last of it, before a primary is killed


@dataclass(frozen=True)
class OnCluster(chaos.Plan):
    """A plan for a cluster: whose servers have the wires, and not the workers and the producer."""

    @property
    def needs_wires(self) -> bool:
        return False


def wired(cluster: Cluster) -> chaos.Scene:
    """All that the plan draws."""

    def scene(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        turns = itertools.cycle(cluster.wires)

        def turn(_: str = "") -> None:
            fleet.wires[0] = next(turns)  # of nobody's own: everybody speaks to this server through it

        turn()
        return chaos.disturb(plan, fleet, client, tell=turn)

    return scene


def moved(cluster: Cluster, times: int, *, half_way_s: float = 0.0) -> chaos.Scene:
    """Move the slot of one queue after the other, while tasks run; one of them stays half-way for so long."""

    def scene(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        producer = _start(plan, fleet, client)
        done = []
        for number in range(times):
            _wait_done(client, (number + 1) * plan.tasks // (times + 2))
            queue = plan.queues[number % len(plan.queues)]
            pause_s = half_way_s if number == times // 2 else 0.0
            at = now()
            count = move_queue(cluster, queue, half_way=lambda pause_s=pause_s: time.sleep(pause_s))
            # To a server that has everything: nothing of that may cost a start, or anything else.
            done.append(Fault("failover", at, now()))
            assert count > 2, f"{queue} had {count} keys: nothing was under way"
        _join(producer)
        return done

    return scene


def move_queue(cluster: Cluster, queue: str, *, half_way: Callable[[], object] = lambda: None) -> int:
    """Move the slot of a queue to the next server; returns how many keys it has."""
    source = cluster.primary_of(queue)
    nodes = cluster.nodes[:3]
    target = nodes[(nodes.index(source) + 1) % 3]
    count = cluster.move_slot(slot_of(QueueKeys("default", queue).prefix), source, target, half_way=half_way)
    assert cluster.primary_of(queue) is target
    return count


def failed_over(cluster: Cluster, queue: str, gaps: list[Gap], *, lagging: bool = False) -> chaos.Scene:
    """Kill the primary of a queue; what its replica cannot know of goes to `gaps`, by measuring.

    Lagging: it hears nothing while some more tasks end.
    """

    def scene(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> list[Fault]:
        producer = _start(plan, fleet, client)
        _wait_done(client, plan.tasks // 3)
        dead = cluster.primary_of(queue)
        queues = frozenset(each for each in plan.queues if cluster.primary_of(each) is dead)
        replica = cluster.replica_of(dead)
        known = _known_until(dead, replica)
        if lagging:
            replica.server.freeze()
            with dead.client() as admin:
                admin.client_kill_filter(_type="replica")
            # What it had got and not read before it was frozen is read when it is thawed: the gap may be shorter.
            ended = sum(end.id.partition(":")[0] in queues for end in client.ended)
            _wait_ended(client, queues, ended + LOST)
        at = now()
        dead.server.kill()
        gaps.append(Gap(queues, known, now()))
        replica.server.thaw()
        cluster.wait_replaced(dead, queue)
        assert cluster.primary_of(queue) is replica
        done = [Fault("failover", at, now())]
        _join(producer)
        wait_idle(cluster, plan.queues, client)
        return done

    return scene


def wait_idle(cluster: Cluster, queues: Sequence[str], client: Recorder) -> None:
    """Wait until no server has anything to do: tasks whose outcome was lost run again, and nobody waits for them."""
    client.wait(lambda: not client.pending, chaos.QUIET_S)  # what has not ended is for the judge

    def idle() -> bool:
        with Broker(cluster.url, "default") as broker:
            stats = [broker.stats(queue) for queue in queues]
        return not any(each.ready + each.scheduled + each.claimed + each.suspects for each in stats)

    wait_until(idle, timeout=chaos.QUIET_S, description="all queues to be empty")


def _known_until(primary: Node, replica: Node) -> float:
    """An instant before which nothing is that the replica does not have by now."""
    with primary.client() as one, replica.client() as other:
        until = now()
        wanted = one.info("replication")["master_repl_offset"]
        wait_until(
            lambda: other.info("replication")["slave_repl_offset"] >= wanted, description="the replica to have it"
        )
    return until


def _start(plan: chaos.Plan, fleet: chaos.Fleet, client: Recorder) -> chaos.Producer:
    producer = chaos.Producer(client, workload.plan(plan.seed, plan.tasks, plan.queues), fleet.log)
    producer.go_on_to(plan.tasks)
    producer.start()
    return producer


def _join(producer: chaos.Producer) -> None:
    producer.join()
    if producer.error is not None:
        raise producer.error


def _wait_done(client: Recorder, count: int) -> None:
    assert client.wait(lambda: client.done >= count, 40), f"{client.done} tasks have ended, and {count} have to first"


def _wait_ended(client: Recorder, queues: frozenset[str], count: int) -> None:
    def ended() -> bool:
        return sum(end.id.partition(":")[0] in queues for end in list(client.ended)) >= count

    assert client.wait(ended, 20), f"{count} tasks of {queues} have to end first"
