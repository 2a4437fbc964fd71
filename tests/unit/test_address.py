"""Who is told which server is used where nobody gave a URL."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from qworker import context
from qworker.address import Address
from qworker.broker import embedded


@pytest.mark.parametrize("started", [True, False])
@pytest.mark.parametrize("child", [True, False])
def test_the_embedded_server_is_named_to_producers_and_not_among_what_a_task_logs(
    child: bool, started: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    server = embedded.Embedded("unix:///tmp/q.sock", tmp_path, "/bin/valkey-server", started)
    monkeypatch.setattr(embedded, "ensure", lambda: server)
    monkeypatch.setattr(context, "_in_child", child)
    monkeypatch.delenv("QWORKER_URL", raising=False)
    monkeypatch.chdir(tmp_path)

    with caplog.at_level(logging.INFO, "qworker"):
        address = Address(None, None)
        assert [address.find(), address.find()] == [server.url] * 2

    said = [record.getMessage() for record in caplog.records]
    assert said == ([] if child else [f"no server's URL is set: {server.line}"])
