"""The files around the code: that they are valid, say what is true, and name nothing that is not there."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

ROOT = Path(__file__).parents[2]

# What of the compose specification the file uses, and not a word more: a misspelt key is an error.
TEXTS = {"type": "array", "items": {"type": "string"}, "minItems": 1}
DURATION = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
HEALTHCHECK = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "test": {**TEXTS, "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}]},
        "interval": DURATION,
        "timeout": DURATION,
        "start_period": DURATION,
        "retries": {"type": "integer", "minimum": 1},
        "disable": {"type": "boolean"},
    },
}
SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["image"],
    "properties": {
        "image": {"type": "string"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"context": {"type": "string"}, "dockerfile": {"type": "string"}},
        },
        "command": TEXTS,
        "entrypoint": TEXTS,
        "environment": {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}},
        "depends_on": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["condition"],
                "properties": {
                    "condition": {"enum": ["service_started", "service_healthy", "service_completed_successfully"]}
                },
            },
        },
        "healthcheck": HEALTHCHECK,
        "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
        "stop_grace_period": DURATION,
        "volumes": TEXTS,
    },
}
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["services"],
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": SERVICE},
        "volumes": {"type": "object"},
    },
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text())


def workers(compose: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: service for name, service in compose["services"].items() if service.get("command", [""])[0] == "start"
    }


def read_dockerfile() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, continuation lines joined and comments dropped."""
    lines = [
        line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")
    ]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def read_unit() -> configparser.ConfigParser:
    unit = configparser.ConfigParser(strict=False, interpolation=None, comment_prefixes=("#", ";"))
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "deploy/qworker.service")
    return unit


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def tracked() -> list[Path]:
    """Every file of the repository, also those that are not committed yet."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(command, capture_output=True, check=True, text=True).stdout.split("\0")
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


# docker-compose.yml


def test_the_compose_file_has_no_key_that_the_specification_does_not_know(compose):
    jsonschema.Draft202012Validator(COMPOSE).validate(compose)


def test_the_compose_check_would_notice_a_misspelt_key(compose):
    broken = json.loads(json.dumps(compose))
    broken["services"]["worker"]["heathcheck"] = {}

    with pytest.raises(jsonschema.ValidationError, match="heathcheck"):
        jsonschema.Draft202012Validator(COMPOSE).validate(broken)


def test_the_compose_file_has_a_server_two_kinds_of_worker_and_a_producer(compose):
    assert len(workers(compose)) == 2
    assert set(compose["services"]) - set(workers(compose)) == {"valkey", "producer"}
    for name, service in compose["services"].items():
        for other in service.get("depends_on", {}):
            assert other in compose["services"], f"{name} depends on {other}"
            assert "healthcheck" in compose["services"][other]
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert source in compose["volumes"] or (ROOT / source).exists(), volume


def test_each_worker_of_the_compose_file_is_checked_and_gets_the_time_for_a_whole_drain(compose):
    for name, service in workers(compose).items():
        assert service["healthcheck"]["test"][:3] == ["CMD", "qworker", "check"], name
        assert int(service["stop_grace_period"].removesuffix("s")) >= 28, name


def test_the_workers_of_the_compose_file_serve_every_queue_of_its_tasks(compose):
    served = {service["command"][service["command"].index("-q") + 1] for service in workers(compose).values()}
    used = set(re.findall(r'queue="([a-z]+)"', (ROOT / "deploy/example/tasks.py").read_text())) | {"default"}

    assert used <= served


# deploy/Dockerfile


def test_the_image_is_built_in_stages_and_does_not_run_as_root():
    instructions = read_dockerfile()
    last_stage = max(index for index, (word, _) in enumerate(instructions) if word == "FROM")
    final = dict(instructions[last_stage:])

    assert [word for word, _ in instructions].count("FROM") == 2
    assert final["USER"].split(":")[0] not in ("0", "root")
    assert final["STOPSIGNAL"] == "SIGTERM"


def test_the_image_starts_qworker_itself_so_that_it_gets_the_signals():
    final = dict(read_dockerfile())

    # The form with a shell would make /bin/sh PID 1, which passes no signal on.
    assert json.loads(final["ENTRYPOINT"]) == ["qworker"]
    assert json.loads(final["CMD"])[0] == "start"
    assert json.loads(final["HEALTHCHECK"].partition("CMD ")[2])[:2] == ["qworker", "check"]


def test_what_the_image_copies_is_there_and_not_ignored():
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    sources = [
        source
        for word, rest in read_dockerfile()
        if word == "COPY" and "--from" not in rest
        for source in rest.split()[:-1]
    ]

    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source.rstrip("/") == name or source.startswith(name + "/") for name in allowed), source


# deploy/qworker.service


def test_the_unit_lets_the_worker_drain_and_calls_that_a_success():
    service = read_unit()["Service"]

    assert shlex.split(service["ExecStart"])[0].endswith("/bin/qworker")
    assert service["KillMode"] == "mixed"
    assert int(service["TimeoutStopSec"]) > 28
    assert service["SuccessExitStatus"] == "4"
    assert service["OOMPolicy"] == "continue"
    assert service["User"] != "root"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    text = (ROOT / "deploy/qworker.service").read_text()
    unit = tmp_path / "qworker.service"
    unit.write_text(text.replace("/srv/app/.venv/bin/qworker", "/bin/true").replace("User=qworker", "User=daemon"))

    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    seen = subprocess.run(command, capture_output=True, check=False, text=True)

    # It also complains of other units of this machine, and of what it cannot ask without a running systemd.
    assert "qworker.service" not in seen.stderr, seen.stderr


# deploy/redis.conf


@pytest.mark.parametrize("kind", ["redis", pytest.param("valkey", marks=pytest.mark.valkey)])
def test_the_real_servers_take_the_configuration_for_a_queue(new_server, kind):
    server = new_server(kind, config=ROOT / "deploy/redis.conf")
    with redis.Redis.from_url(server.url) as client:
        settings = client.config_get("*")

    assert settings["appendonly"] == "yes"
    assert settings["appendfsync"] == "everysec"
    assert settings["maxmemory-policy"] == "noeviction"
    assert settings["save"] == ""


# Commands that the files give


def test_every_flag_that_the_files_give_to_the_command_line_exists(compose):
    given = [tuple(service["command"]) for service in workers(compose).values()]
    given += [tuple(service["healthcheck"]["test"][2:]) for service in workers(compose).values()]
    final = dict(read_dockerfile())
    given += [tuple(json.loads(final["CMD"])), tuple(json.loads(final["HEALTHCHECK"].partition("CMD ")[2])[1:])]
    given += [tuple(shlex.split(read_unit()["Service"]["ExecStart"])[1:])]
    run = "import sys; from qworker.cli import main; sys.exit(main())"

    for verb in {command[0] for command in given}:
        help_text = subprocess.run(
            [sys.executable, "-c", run, verb, "--help"],
            capture_output=True,
            check=True,
            text=True,
            env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "PYTHONPATH": str(ROOT / "src")},
        ).stdout
        known = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", help_text))
        flags = {word for command in given if command[0] == verb for word in command if word.startswith("-")}
        assert flags <= known, f"qworker {verb} has no {flags - known}"


def test_the_tasks_of_the_example_can_be_imported_and_called(tmp_path):
    code = (
        "import tasks, producer; assert len(tasks.stretch('x', rounds=1)) == 64; "
        "print(sorted(tasks.app.tasks), tasks.fetch(7))"
    )
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT / "deploy/example")])

    seen = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        check=False,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )

    assert seen.stdout == "['tasks.fetch', 'tasks.stretch'] page 7\n", seen.stderr


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_documents_mention_only_targets_that_make_knows(document):
    text = (ROOT / document).read_text()
    code = text if document == ".ci/run" else "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))

    mentioned = set(re.findall(r"(?:^|[`$;&] ?)make ([a-z][a-z-]*)", code, re.MULTILINE))

    assert mentioned <= make_targets(), f"{document} mentions {mentioned - make_targets()}"


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert phony is not None

    shown = subprocess.run(["make", "-s", "-C", str(ROOT), "help"], capture_output=True, check=True, text=True).stdout

    assert set(re.findall(r"make ([a-z-]+)", shown)) == set(phony[1].split()) == make_targets()


def test_setup_with_an_old_python_says_what_is_needed(tmp_path):
    old = tmp_path / "python2.7"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] || exit 1\necho Python 2.7.18\n')
    old.chmod(0o755)
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    seen = subprocess.run(
        ["make", "-C", str(tmp_path), "setup", f"PYTHON={old}"], capture_output=True, check=False, text=True
    )

    assert seen.returncode != 0
    assert f"qworker needs Python 3.11 or later; '{old}' is Python 2.7.18." in seen.stderr
    assert "make setup PYTHON=python3.13" in seen.stderr
    assert not (tmp_path / ".venv").exists()


# Everything


def test_no_file_names_a_path_of_somebodys_machine_or_a_package_registry():
    forbidden = re.compile(
        "|".join(
            [
                r"(?<![\w.])/(?:home|Users|work|root)/[\w.-]+",
                r"\bpypi\.(?:org|python\.org)",
                r"pythonhosted\.org",
                r"npmjs\.(?:org|com)",
                r"\b(?:docker|ghcr|quay)\.io\b",
                r"\bdeb\.debian\.org",
            ]
        )
    )
    found = []
    for path in tracked():
        if path == Path(__file__):
            continue
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            hit = forbidden.search(line)
            if hit:
                found.append(f"{path.relative_to(ROOT)}:{number}: {hit[0]}")

    assert not found, "\n".join(found)


def test_the_change_log_has_a_place_for_what_comes_next():
    text = (ROOT / "CHANGELOG.md").read_text()

    assert re.search(r"^## \[Unreleased\]$", text, re.MULTILINE)
    kinds = set(re.findall(r"^### (\w+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
