"""A cluster of three primaries, each with a replica if wanted: real processes on loopback.

cluster = Cluster("valkey", tmp_path, replicas=True)     # cluster.url is redis+cluster://…
cluster.primary_of("default").server.kill()              # the one that has this queue's keys
cluster.stop()
"""

from __future__ import annotations

import itertools
from pathlib import Path

import redis

from qworker.broker.cluster import slot_of
from qworker.broker.keys import QueueKeys
from support.replicas import Node, free_port
from support.servers import Kind, start_server
from support.waiting import wait_until

SLOTS = 16_384
_THIRDS = ((0, 5_460), (5_461, 10_922), (10_923, SLOTS - 1))
_DEAD_MS = 1_000  # a primary that is silent for so long is replaced


class Cluster:
    """The servers of one cluster."""

    def __init__(self, kind: Kind, directory: Path, *, replicas: bool = False) -> None:
        self.nodes: list[Node] = []
        try:
            for number in range(6 if replicas else 3):
                self.nodes.append(self._start(kind, directory / f"node-{number}"))
            self._join()
            if replicas:
                for primary, replica in zip(self.nodes[:3], self.nodes[3:], strict=True):
                    with primary.client() as above, replica.client() as client:
                        of = str(above.execute_command("CLUSTER", "MYID"))
                        wait_until(lambda client=client, of=of: of in self._nodes(client), description="to be known")
                        client.execute_command("CLUSTER", "REPLICATE", of)
                        wait_until(lambda above=above: above.wait(1, 100), timeout=20, description="the replica")
        except BaseException:
            self.stop()
            raise

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes[:3])

    def primary_of(self, queue: str, namespace: str = "default") -> Node:
        """The server that has the slot of a queue, as those that live say."""
        slot = slot_of(QueueKeys(namespace, queue).prefix)
        living = next(node for node in self.nodes if node.server.alive)
        with living.client() as client:
            for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return next(node for node in self.nodes if node.port == int(port))
        raise AssertionError(f"nobody has slot {slot}")

    def move_slot(self, slot: int, source: Node, target: Node) -> None:
        """Give a slot that holds nothing to another server."""
        with source.client() as one, target.client() as other:
            to, of = other.execute_command("CLUSTER", "MYID"), one.execute_command("CLUSTER", "MYID")
            other.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
            one.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
            for node in (target, source, *self.nodes):
                with node.client() as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to)

    def stop(self) -> None:
        for node in self.nodes:
            node.server.stop()

    @staticmethod
    def _start(kind: Kind, directory: Path) -> Node:
        port = free_port()
        return Node(
            start_server(
                kind, directory, "--bind", "127.0.0.1", "--port", str(port), "--cluster-enabled", "yes",
                "--cluster-port", str(free_port()), "--cluster-node-timeout", str(_DEAD_MS),
                "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0",
            ),
            port,
        )  # fmt: skip

    def _join(self) -> None:
        first = self.nodes[0]
        for node, part in zip(self.nodes, _THIRDS, strict=False):
            with node.client() as client:
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", *part)
        for number, node in enumerate(self.nodes):
            with node.client() as client:
                client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        with first.client() as client:
            buses = [each.server.args[each.server.args.index("--cluster-port") + 1] for each in self.nodes]
            for node, bus in zip(self.nodes[1:], buses[1:], strict=True):
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(lambda: all(map(self._is_whole, self.nodes)), timeout=20, description="the cluster")

    def _is_whole(self, node: Node) -> bool:
        with node.client() as client:
            told = client.execute_command("CLUSTER", "INFO")
            state = told["cluster_state"] if isinstance(told, dict) else told.partition("cluster_state:")[2][:2]
            return state == "ok" and len(self._nodes(client)) == len(self.nodes)

    @staticmethod
    def _nodes(client: redis.Redis) -> set[str]:
        """The ids that a server knows; those with which it has not shaken hands yet have other ones."""
        told = client.execute_command("CLUSTER", "NODES")
        if isinstance(told, dict):  # as redis-py has read it
            return {facts["node_id"] for facts in told.values() if "handshake" not in facts["flags"]}
        return {line.split()[0] for line in told.splitlines() if "handshake" not in line}


class Primaries:
    """A cluster without replicas as faults have it: what is done is done to one of its primaries, each in its turn."""

    socket_path = ""  # there is no wire to all of it

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turns = itertools.cycle(cluster.nodes)
        self._hit = cluster.nodes[0]
        self.url = cluster.url

    @property
    def urls(self) -> list[str]:
        return [node.server.url for node in self._cluster.nodes]

    def kill(self) -> None:
        self._hit = next(self._turns)
        self._hit.server.kill()

    def start(self) -> None:
        self._hit.server.start()

    def freeze(self) -> None:
        self._hit = next(self._turns)
        self._hit.server.freeze()

    def thaw(self) -> None:
        self._hit.server.thaw()

    def stop(self) -> None:
        self._cluster.stop()
