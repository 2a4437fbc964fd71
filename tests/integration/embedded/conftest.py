"""What the tests of the embedded server share: a project, a runtime directory, and users of both."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qworker.broker import embedded
from qworker.errors import ConfigError
from support.embedded_users import LONG_S, User, processes_of


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A runtime directory of this test's own, with a short name."""
    directory = Path(tempfile.mkdtemp(prefix="qw-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    root.mkdir()
    (root / "pyproject.toml").touch()
    return root


@pytest.fixture
def user(project: Path, runtime: Path) -> Iterator[Callable[..., User]]:
    """`user(cwd=project, grace_s=…, *flags, env={})` starts a user; at the end no process of any of them is left."""
    try:
        embedded.find_binary()
    except ConfigError as error:
        pytest.skip(str(error))
    users: list[User] = []
    roots: set[Path] = set()

    def make(cwd: Path = project, *flags: str, grace_s: float = LONG_S, env: dict[str, str] | None = None) -> User:
        users.append(User(cwd, grace_s, *flags, env={"XDG_RUNTIME_DIR": str(runtime), **(env or {})}))
        roots.add(embedded.find_root(cwd))
        return users[-1]

    yield make
    for each in users:
        each.kill()
    for root in roots:
        embedded.stop(root)
        assert not processes_of(root), f"processes of {root} are left"
