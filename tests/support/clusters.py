"""A cluster of three primaries, each with a replica if wanted: real processes on loopback.

cluster = Cluster("valkey", tmp_path, replicas=True)     # cluster.url is redis+cluster://…
cluster.primary_of("default").server.kill()              # the one that has this queue's keys
cluster.stop()

With `wired` each server is known to all by the port of a proxy: cluster.wires has them, in the order of the nodes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

from qworker.broker.cluster import slot_of
from qworker.broker.keys import QueueKeys
from support.proxy import Proxy
from support.replicas import Node, free_port
from support.servers import Kind, start_server
from support.waiting import wait_until

SLOTS = 16_384
_THIRDS = ((0, 5_460), (5_461, 10_922), (10_923, SLOTS - 1))
_DEAD_MS = 1_000  # a primary that is silent for so long is replaced
_KEYS = 64  # so many are moved in one call


class Cluster:
    """The servers of one cluster."""

    def __init__(self, kind: Kind, directory: Path, *, replicas: bool = False, wired: bool = False) -> None:
        self.nodes: list[Node] = []
        self.wires: list[Proxy] = []
        try:
            for number in range(6 if replicas else 3):
                if wired:
                    self.wires.append(Proxy("", tcp=True))  # the server has to be told its port
                self.nodes.append(self._start(kind, directory / f"node-{number}", self.wires[-1:]))
                for wire in self.wires[-1:]:
                    wire.move(self.nodes[-1].server.socket_path)
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
        return "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in self._ports[:3])

    @property
    def primaries(self) -> list[Node]:
        """Those that have slots, as those that live say."""
        with next(node for node in self.nodes if node.server.alive).client() as client:
            told = {int(port) for _, _, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS")}
        return [node for node, port in zip(self.nodes, self._ports, strict=True) if port in told]

    @property
    def _ports(self) -> list[int]:
        """By which the servers are known, in their order."""
        return [wire.port for wire in self.wires] or [node.port for node in self.nodes]

    def primary_of(self, queue: str, namespace: str = "default") -> Node:
        """The server that has the slot of a queue, as those that live say."""
        slot = slot_of(QueueKeys(namespace, queue).prefix)
        living = next(node for node in self.nodes if node.server.alive)
        with living.client() as client:
            for first, last, (_, port, *_), *_ in client.execute_command("CLUSTER", "SLOTS"):
                if first <= slot <= last:
                    return self.nodes[self._ports.index(int(port))]
        raise AssertionError(f"nobody has slot {slot}")

    def replica_of(self, primary: Node) -> Node:
        """The server that follows a primary."""
        return self.nodes[self.nodes.index(primary) + 3]

    def wait_replaced(self, dead: Node, queue: str) -> None:
        """Wait until another one has the slot of a queue, and all that live agree that the cluster is whole."""
        living = [node for node in self.nodes if node is not dead]
        wait_until(
            lambda: self.primary_of(queue) is not dead and all(map(self._says_ok, living)),
            timeout=30, description=f"another primary for {queue}",
        )  # fmt: skip

    def move_slot(self, slot: int, source: Node, target: Node, *, half_way: Callable[[], object] = lambda: None) -> int:
        """Give a slot to another server, with all that it holds; returns how many keys that were.

        `half_way` is called when some of them are here and some are there, if there are two.
        """
        moved = 0
        with source.client() as one, target.client() as other:
            to, of = other.execute_command("CLUSTER", "MYID"), one.execute_command("CLUSTER", "MYID")
            other.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", of)
            one.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", to)
            count = max(1, min(_KEYS, int(one.execute_command("CLUSTER", "COUNTKEYSINSLOT", slot)) // 2))
            while keys := one.execute_command("CLUSTER", "GETKEYSINSLOT", slot, count):
                one.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *keys)
                if not moved:
                    half_way()
                moved, count = moved + len(keys), _KEYS
            for node in (target, source, *self.nodes):
                with node.client() as client:
                    client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", to)
        return moved

    def stop(self) -> None:
        for wire in self.wires:
            wire.close()
        for node in self.nodes:
            node.server.stop()

    @staticmethod
    def _start(kind: Kind, directory: Path, wires: Sequence[Proxy]) -> Node:
        port = free_port()
        return Node(
            start_server(
                kind, directory, "--bind", "127.0.0.1", "--port", str(port), "--cluster-enabled", "yes",
                "--cluster-port", str(free_port()), "--cluster-node-timeout", str(_DEAD_MS),
                "--cluster-allow-replica-migration", "no", "--repl-diskless-sync-delay", "0",
                *(arg for wire in wires for arg in ("--cluster-announce-port", str(wire.port))),
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
            return self._says_ok(node) and len(self._nodes(client)) == len(self.nodes)

    @staticmethod
    def _says_ok(node: Node) -> bool:
        with node.client() as client:
            told = client.execute_command("CLUSTER", "INFO")
            state = told["cluster_state"] if isinstance(told, dict) else told.partition("cluster_state:")[2][:2]
            return bool(state == "ok")

    @staticmethod
    def _nodes(client: redis.Redis) -> set[str]:
        """The ids that a server knows; those with which it has not shaken hands yet have other ones."""
        told = client.execute_command("CLUSTER", "NODES")
        if isinstance(told, dict):  # as redis-py has read it
            return {facts["node_id"] for facts in told.values() if "handshake" not in facts["flags"]}
        return {line.split()[0] for line in told.splitlines() if "handshake" not in line}


class Primaries:
    """A cluster as faults have it: what is done is done to one of its first primaries, each in its turn.

    With replicas none of them is frozen or restarted: another one would be in its place.
    """

    socket_path = ""  # there is no wire to all of it

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._turns = itertools.cycle(cluster.nodes[:3])
        self._hit = cluster.nodes[0]
        self.url = cluster.url

    @property
    def urls(self) -> list[str]:
        return [node.server.url for node in self._cluster.primaries]

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
