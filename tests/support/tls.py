"""Servers that speak TLS, and the certificates for it: made by openssl, good for a day, trusted by nobody else.

    papers = Papers(tmp_path)                        # a CA; what it signed for the server `localhost`, and for a client
    server = start_tls("redis", tmp_path, papers)
    server.url, server.admin                         # rediss://localhost:…, trusting that CA; the unix socket's

A binary that was built without TLS raises NoTls: a test that needs it is skipped, visibly.
"""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

from support.servers import Kind, Server, start_server


class NoTls(RuntimeError):
    """There is no openssl here, or the server was built without TLS."""


class Papers:
    """A certificate authority, and what it has signed."""

    def __init__(self, directory: Path, name: str = "test") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.ca = directory / f"{name}-ca.pem"
        self._ca_key = directory / f"{name}-ca.key"
        self._openssl(
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", f"/CN={name} CA",
            "-keyout", self._ca_key, "-out", self.ca,
        )  # fmt: skip
        self.server = self._sign(directory / f"{name}-server", "localhost")
        self.client = self._sign(directory / f"{name}-client", "client")

    def _sign(self, stem: Path, host: str) -> tuple[Path, Path]:
        """Return certificate and key for a host."""
        certificate, key, request, names = (stem.with_suffix(end) for end in (".pem", ".key", ".csr", ".ext"))
        names.write_text(f"subjectAltName=DNS:{host}\n")
        self._openssl(
            "req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={host}", "-keyout", key, "-out", request
        )  # fmt: skip
        self._openssl(
            "x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self._ca_key, "-CAcreateserial", "-days", "1",
            "-extfile", names, "-out", certificate,
        )  # fmt: skip
        return certificate, key

    @staticmethod
    def _openssl(*args: str | Path) -> None:
        try:
            done = subprocess.run(["openssl", *map(str, args)], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise NoTls("no openssl here to make a certificate with") from None
        if done.returncode:
            raise NoTls(f"openssl {args[0]} failed: {done.stderr}")


class TlsServer:
    """A server with a port that speaks TLS beside its unix socket."""

    def __init__(self, server: Server, port: int, papers: Papers) -> None:
        self.server, self.port, self.papers = server, port, papers
        self.admin = server.url
        self.url = self.trusting(papers)

    def trusting(self, papers: Papers, host: str = "localhost") -> str:
        """The URL by which one connects who trusts that CA."""
        return f"rediss://{host}:{self.port}/0?ssl_ca_certs={papers.ca}"


def start_tls(kind: Kind, directory: Path, papers: Papers, *, clients: bool = False) -> TlsServer:
    """Start one; `clients`: they have to show a certificate, too."""
    certificate, key = papers.server
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        server = start_server(
            kind, directory, "--bind", "127.0.0.1", "--tls-port", str(port), "--tls-cert-file", str(certificate),
            "--tls-key-file", str(key), "--tls-ca-cert-file", str(papers.ca), "--tls-auth-clients",
            "yes" if clients else "no",
        )  # fmt: skip
    except RuntimeError as error:
        if "TLS support" in str(error) or "Bad directive" in str(error):
            raise NoTls(f"the {kind}-server here was built without TLS") from None
        raise
    return TlsServer(server, port, papers)
