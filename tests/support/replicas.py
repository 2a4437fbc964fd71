"""Servers that follow one another: a primary on a TCP port, and its replicas.

primary = start_primary("valkey", tmp_path / "a")       # primary.server, primary.port, primary.url
replica = start_replica(primary, tmp_path / "b")        # follows it when this returns
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

import redis

from support.servers import Kind, Server, start_server
from support.waiting import wait_until


@dataclass
class Node:
    """A server that others can reach."""

    server: Server
    port: int

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """Speaks to it by its unix socket."""
        return redis.Redis.from_url(self.server.url, decode_responses=True)


def free_port() -> int:
    """A TCP port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_primary(kind: Kind, directory: Path, *args: str, durable: bool = True) -> Node:
    """Start a server that others may follow."""
    port = free_port()
    return Node(
        start_server(
            kind, directory, "--bind", "127.0.0.1", "--port", str(port), "--repl-diskless-sync-delay", "0",
            "--repl-timeout", "60", *args, durable=durable,
        ),
        port,
    )  # fmt: skip


def start_replica(primary: Node, directory: Path, *args: str, durable: bool = True) -> Node:
    """Start one that follows the primary; returns when it does."""
    node = start_primary(
        primary.server.kind, directory, "--replicaof", f"127.0.0.1 {primary.port}", *args, durable=durable
    )
    with node.client() as client, primary.client() as above:
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", description="the link")
        wait_until(lambda: above.wait(1, 100), timeout=20, description="the replica's first acknowledgement")
    return node


def wait_replicated(primary: Node) -> None:
    """Wait until a replica has all that the primary has now. WAIT alone is for what its own connection wrote."""
    with primary.client() as client:
        wanted = client.info("replication")["master_repl_offset"]
        wait_until(
            lambda: any(
                isinstance(told, dict) and told["offset"] >= wanted for told in client.info("replication").values()
            ),
            description="a replica to have all",
        )
