"""What docker-compose.yml starts, without the containers: two kinds of worker, one producer, one server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

from support.daemon import start_worker

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "deploy/example"


def test_the_workers_of_the_compose_file_give_its_producer_every_result(url, tmp_path):
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    commands = [services[name]["command"][1:] for name in ("worker", "worker-io")]
    path = os.pathsep.join([str(EXAMPLE), str(ROOT / "src")])
    env = {"QWORKER_URL": url, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path}
    workers = [start_worker(url, *command, log_dir=tmp_path, cwd=EXAMPLE, env=env) for command in commands]
    try:
        command = [sys.executable, "-W", "error", *services["producer"]["command"]]
        seen = subprocess.run(
            command, cwd=EXAMPLE, env={**os.environ, **env}, capture_output=True, check=False, text=True, timeout=50
        )
        assert seen.returncode == 0, seen.stderr
        assert seen.stderr == ""
        assert len(seen.stdout.splitlines()) == 80
        assert sum(" page " in line for line in seen.stdout.splitlines()) == 40

        for worker in workers:
            worker.term()
        assert [worker.wait() for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            worker.close()
