"""A primary, its replicas, and three sentinels that watch them: real processes on loopback.

    watched = Watched("valkey", tmp_path)       # watched.url is redis+sentinel://…
    watched.primary.server.kill()
    watched.wait_failover()                     # another one is primary; watched.primary is that one
    watched.stop()

The sentinels of a run find a primary dead after half a second.
"""

from __future__ import annotations

from pathlib import Path

from support.replicas import Node, free_port, start_primary, start_replica
from support.servers import Kind, Server, start_server
from support.waiting import wait_until

SERVICE = "mymaster"
_DOWN_MS = 500


class Watched:
    """The servers and the sentinels of one test."""

    def __init__(self, kind: Kind, directory: Path, *, replicas: int = 1) -> None:
        self.nodes: list[Node] = []
        self.sentinels: list[Node] = []
        try:
            # The embedded one's settings: what was answered survives a kill -9.
            self.nodes.append(start_primary(kind, directory / "node-0", "--replica-priority", "100"))
            for number in range(replicas):
                self.nodes.append(start_replica(self.nodes[0], directory / f"node-{number + 1}"))
            for number in range(3):
                self.sentinels.append(self._start_sentinel(kind, directory / f"sentinel-{number}"))
            wait_until(self._all_know, timeout=20, description="the sentinels to know each other and the replicas")
        except BaseException:
            self.stop()
            raise
        self.primary = self.nodes[0]

    @property
    def url(self) -> str:
        members = ",".join(f"127.0.0.1:{node.port}" for node in self.sentinels)
        return f"redis+sentinel://{members}/{SERVICE}/0"

    @property
    def urls(self) -> tuple[str, ...]:
        """Of the primary, as it was last known here."""
        return (self.primary.server.url,)

    @property
    def pid(self) -> int:
        return self.primary.server.pid

    def wait_failover(self) -> Node:
        """Wait until all sentinels name another primary, and it is one."""
        before = self.primary.port
        wait_until(
            lambda: len(ports := {self._named(each) for each in self.sentinels}) == 1 and before not in ports,
            timeout=30, description="a failover",
        )  # fmt: skip
        port = self._named(self.sentinels[0])
        self.primary = next(node for node in self.nodes if node.port == port)
        with self.primary.client() as client:
            wait_until(lambda: client.role()[0] == "master", timeout=10, description="the promotion")
        return self.primary

    def stop(self) -> None:
        for node in [*self.sentinels, *self.nodes]:
            node.server.stop()

    def _start_sentinel(self, kind: Kind, directory: Path) -> Node:
        directory.mkdir(parents=True)
        port, config = free_port(), directory / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.nodes[0].port} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {_DOWN_MS}\n"
            f"sentinel failover-timeout {SERVICE} 5000\n"
        )
        server: Server = start_server(
            kind, directory, "--port", str(port), "--bind", "127.0.0.1", "--sentinel", config=config
        )
        return Node(server, port)

    def _all_know(self) -> bool:
        for each in self.sentinels:
            with each.client() as client:
                told = client.execute_command("SENTINEL", "MASTER", SERVICE)
                facts = told if isinstance(told, dict) else dict(zip(told[0::2], told[1::2], strict=True))
                if int(facts["num-other-sentinels"]) != 2 or int(facts["num-slaves"]) != len(self.nodes) - 1:
                    return False
        return True

    @staticmethod
    def _named(sentinel: Node) -> int:
        with sentinel.client() as client:
            found = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
            return int(found[1])
