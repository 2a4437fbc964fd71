"""Fixtures: `qworker …` in this process, on the test's server; and a server that speaks TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qworker import cli
from support.servers import Server


@pytest.fixture
def run(
    url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """`run(*argv)`: its exit code, output and errors."""
    monkeypatch.setenv("QWORKER_URL", url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*argv: str) -> tuple[int, str, str]:
        code = cli.run(argv)
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def tls(one_server: Server, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """A port on which the server speaks TLS, and the certificate to be trusted: a TLS end before the unix socket."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    done = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip("no openssl here to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    loop = asyncio.new_event_loop()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_unix_connection(one_server.socket_path)
        try:
            await asyncio.wait(
                [
                    asyncio.ensure_future(pass_on(reader, to_writer)),
                    asyncio.ensure_future(pass_on(to_reader, writer)),
                ]
            )
        finally:
            writer.transport.abort()
            to_writer.transport.abort()

    made = loop.run_until_complete(asyncio.start_server(serve, "localhost", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield made.sockets[0].getsockname()[1], certificate

    async def end() -> None:
        made.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for _ in range(3):  # they end, and then their transports
            await asyncio.sleep(0)
        loop.stop()

    asyncio.run_coroutine_threadsafe(end(), loop)
    thread.join()
    loop.close()
