"""The contestants, and the virtual environment that each of them runs in.

A contestant is a file peers/peer_NAME.py. With a peers/requirements/NAME.txt it gets an environment of its own
(`python -m benchmarks setup NAME`); without one (qworker and the pools of the standard library) it runs in the
interpreter that runs the harness. A first line `# python >= 3.12` says which interpreters a contestant can have.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS = HERE / "peers"
REQUIREMENTS = PEERS / "requirements"
PLOTS = "plots"  # not a contestant: the environment that draws

Version = tuple[int, int]


class MissingError(Exception):
    """The environment is not there, or cannot be made; the text says why and what to do."""


def names() -> list[str]:
    """Return the contestants that there are, qworker first."""
    found = sorted(path.stem.removeprefix("peer_") for path in PEERS.glob("peer_*.py"))
    return sorted(found, key=lambda name: name != "qworker")


def adapter_of(name: str) -> Path:
    """Return the file that speaks for a contestant."""
    return PEERS / f"peer_{name}.py"


def home() -> Path:
    """Return the folder of all environments."""
    return Path(os.environ.get("BENCH_VENVS") or HERE / ".venvs").resolve()


def python_of(name: str) -> Path:
    """Return the interpreter of a contestant.

    Raises:
        MissingError: its environment was not made yet, could not be made, or is older than what it requires.
    """
    wanted = requirements_of(name)
    if not wanted.exists():
        return Path(sys.executable)
    if _failed(name).exists():
        raise MissingError(_failed(name).read_text())
    if not _is_ready(name, wanted.read_text()):
        raise MissingError(f"it has no environment, or an old one: run `python -m benchmarks setup {name}`")
    return home() / name / "bin" / "python"


def requirements_of(name: str) -> Path:
    """Return the file that lists what a contestant needs; there may be none."""
    return REQUIREMENTS / f"{name}.txt"


def make(name: str) -> str:
    """Make the environment of a contestant unless it is there and as its requirements say; return what was done.

    Raises:
        MissingError: no interpreter fits, or pip failed.
    """
    wanted = requirements_of(name)
    if not wanted.exists():
        return "needs no environment of its own"
    text = wanted.read_text()
    if _is_ready(name, text):
        return "is ready"
    folder = home() / name
    shutil.rmtree(folder, ignore_errors=True)
    _failed(name).unlink(missing_ok=True)
    try:
        python = choose(interpreters(), least=least_version(text))
        _run([str(python), "-m", "venv", str(folder)])
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([*pip, "--requirement", str(wanted)])
    except MissingError as error:
        home().mkdir(parents=True, exist_ok=True)
        _failed(name).write_text(str(error))  # the report says why this contestant takes no part
        raise
    _stamp(name).write_text(text)
    return f"made with {python}"


def _is_ready(name: str, requirements: str) -> bool:
    """Whether the environment was made, to its end, from these requirements."""
    return _stamp(name).exists() and _stamp(name).read_text() == requirements


def _stamp(name: str) -> Path:
    return home() / name / ".requirements"


def _failed(name: str) -> Path:
    return home() / f"{name}.failed"


def least_version(requirements: str) -> Version:
    """Return the oldest Python that the first line asks for: `# python >= 3.12`."""
    found = re.match(r"#\s*python\s*>=\s*3\.(\d+)", requirements)
    return (3, int(found[1])) if found else (3, 11)


def choose(found: Iterable[tuple[Version, Path]], least: Version) -> Path:
    """Return the oldest interpreter that is new enough, so that most contestants have the same one."""
    fitting = sorted(one for one in found if one[0] >= least)
    if not fitting:
        raise MissingError(f"no python{least[0]}.{least[1]} or later on PATH or in ~/.pyenv/versions")
    return fitting[0][1]


def interpreters() -> list[tuple[Version, Path]]:
    """Return the interpreters of this machine: those on PATH and those of pyenv, one per version."""
    folders = [Path(entry) for entry in os.environ.get("PATH", "").split(os.pathsep) if entry]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    found: dict[Version, Path] = {sys.version_info[:2]: Path(sys.executable)}
    for folder in folders:
        for minor in range(11, 15):
            path = folder / f"python3.{minor}"
            if (3, minor) not in found and os.access(path, os.X_OK) and _works(path):
                found[3, minor] = path
    return sorted(found.items())


def _works(python: Path) -> bool:
    """Whether it runs: a shim of pyenv is there also for versions that are not."""
    return subprocess.run([python, "-c", "import venv"], capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
        raise MissingError(f"`{' '.join(command)}` failed:\n{tail}")
