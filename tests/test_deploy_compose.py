"""deploy/compose.yaml without a Docker engine: its schema, its promises, and the relay as it starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from relay.config.values import read_duration, read_size
from tests.deployed import COMPOSE, DEPLOY, SERVICES, dockerfile, example_env, mounts, shipped
from tests.redis_rig import RedisServer
from tests.rig import RelayProcess, scenario
from tests.rig.raw_client import chat, get
from tests.rig.relay_process import ROOT
from tests.rig.sdks import absent

ENV = example_env()
TEXT = (DEPLOY / "compose.yaml").read_text("utf-8")
RELAY = SERVICES["relay"]
PULLED = sorted(name for name in SERVICES if name != "relay")
ADDRESSES = {
    name: SERVICES[name]["networks"]["front"]["ipv4_address"] for name in ("relay", "nginx")
}


# --- the file ---------------------------------------------------------------------------------


def judged(file: Path) -> subprocess.CompletedProcess[str]:
    """What the schema of the Compose specification says of a file."""
    program = shutil.which("check-jsonschema", path=str(Path(sys.executable).parent))
    if program is None:
        absent("check-jsonschema is missing: it is in the development lock (`make .venv/.dev`)")
    assert program is not None
    return subprocess.run(
        [program, "--builtin-schema", "vendor.compose-spec", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_is_a_file_of_the_compose_specification(tmp_path: Path) -> None:
    misspelt = tmp_path / "compose.yaml"
    misspelt.write_text(TEXT.replace("mem_limit: 4g", "mem_limits: 4g"), "utf-8")

    shipped, wrong = judged(DEPLOY / "compose.yaml"), judged(misspelt)

    assert shipped.returncode == 0, shipped.stdout
    assert wrong.returncode == 1
    assert "mem_limits" in wrong.stdout


@pytest.mark.parametrize("service", SERVICES)
def test_what_a_service_mounts_is_there(service: str) -> None:
    missing = [str(source) for source in mounts(service).values() if not source.exists()]
    named = {
        volume.partition(":")[0]
        for volume in SERVICES[service].get("volumes", ())
        if not volume.startswith(".")
    }

    assert missing == []
    assert named <= set(COMPOSE["volumes"])
    assert all(
        volume.endswith(":ro") for volume in SERVICES[service]["volumes"] if volume[0] == "."
    )


def test_every_variable_is_in_the_example_and_the_other_way_round() -> None:
    used = set(re.findall(r"\$\{(\w+)", TEXT))
    passed = {name for name, value in RELAY["environment"].items() if value is None}

    assert used | passed == set(ENV)


def test_the_relay_gets_each_variable_that_its_configuration_names() -> None:
    named = set(re.findall(r"\$\{(\w+)", (DEPLOY / "relay" / "config.yaml").read_text("utf-8")))

    assert named == set(RELAY["environment"])


@pytest.mark.parametrize("service", PULLED)
def test_an_image_is_pinned_to_a_version(service: str) -> None:
    name, _, tag = SERVICES[service]["image"].rpartition(":")

    assert name
    assert re.match(r"v?\d", tag), tag


def test_the_image_of_the_relay_is_built_from_this_checkout() -> None:
    build = RELAY["build"]

    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"


# --- what it promises -------------------------------------------------------------------------


def test_only_nginx_is_reached_from_outside() -> None:
    open_to_all = {
        name
        for name, service in SERVICES.items()
        for port in service.get("ports", ())
        if not port.startswith("127.0.0.1:")
    }

    assert open_to_all == {"nginx"}
    assert COMPOSE["networks"]["quota"]["internal"] is True
    assert SERVICES["redis"]["networks"] == ["quota"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_do_no_more_than_it_must(service: str) -> None:
    said = SERVICES[service]
    user = dict(dockerfile())["USER"] if service == "relay" else said["user"]

    assert said["read_only"] is True
    assert said["cap_drop"] == ["ALL"]
    assert said["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9]\d*:\d+", user)
    assert said["restart"] == "unless-stopped"
    assert read_size(said["mem_limit"].replace("m", "MiB").replace("g", "GiB")) > 0
    assert set(said["logging"]["options"]) == {"max-size", "max-file"}
    assert service == "relay" or said["healthcheck"]["test"][0] == "CMD"


def test_secrets_are_files_since_containers_are_read_only() -> None:
    used = {name for service in SERVICES.values() for name in service.get("secrets", ())}

    assert used == set(COMPOSE["secrets"])
    assert all(set(secret) == {"file"} for secret in COMPOSE["secrets"].values())


@pytest.mark.parametrize("service", ["relay", "nginx"])
def test_whoever_carries_streams_may_take_longer_to_stop_than_a_drain(service: str) -> None:
    drain = shipped().server.drain

    assert read_duration(SERVICES[service]["stop_grace_period"]) > drain.delay + drain.timeout


def test_the_relay_and_nginx_know_each_other_by_fixed_addresses() -> None:
    (pool,) = COMPOSE["networks"]["front"]["ipam"]["config"]
    upstream = (DEPLOY / "nginx" / "compose-upstream.conf").read_text("utf-8")
    given = ip_network(pool["ip_range"])

    assert shipped().server.trusted_proxies == [ip_network(ADDRESSES["nginx"])]
    assert f"server {ADDRESSES['relay']}:8080;" in upstream
    for address in map(ip_address, ADDRESSES.values()):
        assert address in ip_network(pool["subnet"])
        assert address not in given, "another container could be given it first"


def test_redis_forgets_nothing() -> None:
    command = SERVICES["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))

    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--appendonly"] == "yes"
    assert "redis:/data" in SERVICES["redis"]["volumes"]


def test_redis_answers_other_containers_whoever_built_its_image() -> None:
    # Without a password it answers nobody but its own host, unless it is told.
    command = SERVICES["redis"]["command"]

    assert command[command.index("--protected-mode") + 1] == "no"
    assert "ports" not in SERVICES["redis"]


def test_nginx_may_take_a_low_port_without_root_and_without_a_capability() -> None:
    site = (DEPLOY / "nginx" / "relay.conf").read_text("utf-8")
    (port,) = re.findall(r"(?m)^    listen (\d+);", site)

    assert SERVICES["nginx"]["sysctls"] == {"net.ipv4.ip_unprivileged_port_start": 0}
    assert int(port) < 1024


def test_prometheus_asks_the_relay_with_the_token_it_is_given() -> None:
    written = (DEPLOY / "prometheus" / "prometheus.yaml").read_text("utf-8")

    assert SERVICES["prometheus"]["secrets"] == RELAY["secrets"] == ["relay_admin_token"]
    assert "credentials_file: /run/secrets/relay_admin_token" in written
    assert f"targets: [relay:{shipped().admin.listen.port}]" in written
    assert "targets: [alertmanager:9093]" in written
    for service in ("relay", "alertmanager"):
        assert set(SERVICES["prometheus"]["networks"]) <= set(SERVICES[service]["networks"])


def test_alertmanager_finds_its_secrets() -> None:
    written = (DEPLOY / "prometheus" / "alertmanager.yaml").read_text("utf-8")
    files = set(re.findall(r"_file: /run/secrets/(\w+)", written))

    assert files == set(SERVICES["alertmanager"]["secrets"])


def test_grafana_finds_prometheus_and_the_dashboards() -> None:
    folder = DEPLOY / "grafana" / "provisioning"
    sources = "".join(path.read_text("utf-8") for path in folder.glob("datasources/*.yaml"))
    boards = "".join(path.read_text("utf-8") for path in folder.glob("dashboards/*.yaml"))
    (path,) = re.findall(r"(?m)^\s*path: (\S+)", boards)

    assert "url: http://prometheus:9090" in sources
    assert mounts("grafana")[path] == DEPLOY / "grafana" / "dashboards"


# --- what it starts ---------------------------------------------------------------------------


def prepared(folder: Path) -> Path:
    """A copy of deploy/ after `sh prepare`, with secrets where this host has them."""
    deploy = folder / "deploy"
    shutil.copytree(DEPLOY, deploy, ignore=shutil.ignore_patterns(".env", "grafana", "prometheus"))
    for secret in (deploy / "secrets").iterdir():
        if secret.name != ".gitignore":
            secret.unlink()
    subprocess.run(["sh", str(deploy / "prepare")], check=True, capture_output=True, timeout=30)
    config = deploy / "relay" / "config.yaml"
    text = config.read_text("utf-8")
    for there, here in (
        ("file:/run/secrets/", "file:../secrets/"),
        ("path: /var/lib/relay", "path: ../state"),
        ("0.0.0.0:8080", "127.0.0.1:0"),
        ("0.0.0.0:8081", "127.0.0.1:0"),
    ):
        assert text.count(there) == 1, there
        text = text.replace(there, here)
    config.write_text(text, "utf-8")
    return deploy


def made_env(deploy: Path) -> dict[str, str]:
    lines = (deploy / ".env").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and line[0] != "#")


def checked(deploy: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "relay", "check", "-c", str(deploy / "relay" / "config.yaml")],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_configuration_is_valid_with_the_example_and_without_any_variable(
    tmp_path: Path,
) -> None:
    deploy = prepared(tmp_path)

    for env in (made_env(deploy), ENV, {}):
        check = checked(deploy, env)

        assert check.returncode == 0, check.stdout + check.stderr


def test_prepare_makes_each_secret_once(tmp_path: Path) -> None:
    deploy = prepared(tmp_path)
    made = {path.name: path.read_bytes() for path in (deploy / "secrets").iterdir()}
    env = (deploy / ".env").read_bytes()

    subprocess.run(["sh", str(deploy / "prepare")], check=True, timeout=30)

    named = {Path(secret["file"]).name for secret in COMPOSE["secrets"].values()}
    assert set(made) == named | {".gitignore"}
    assert {path.name: path.read_bytes() for path in (deploy / "secrets").iterdir()} == made
    assert (deploy / ".env").read_bytes() == env
    assert len(made["relay_admin_token"]) == 48
    assert re.fullmatch("sk-[0-9a-f]{48}", made_env(deploy)["RELAY_API_KEY"])
    # A container's user reads the file alone, and nobody here reads the folder.
    assert (deploy / "secrets").stat().st_mode & 0o777 == 0o700
    assert (deploy / "secrets" / "relay_admin_token").stat().st_mode & 0o777 == 0o644
    assert (deploy / ".env").stat().st_mode & 0o777 == 0o600


@scenario
async def test_the_relay_of_compose_streams_without_a_providers_key_and_counts_in_redis(
    tmp_path: Path,
) -> None:
    deploy = prepared(tmp_path)
    token = (deploy / "secrets" / "relay_admin_token").read_text("utf-8")
    with RedisServer(tmp_path / "redis", *SERVICES["redis"]["command"][1:]) as store:
        # Compose has it in a container of its own, under a name.
        env = made_env(deploy) | {"QUOTA_STORE": f"unix://{store.socket}?db=0"}
        async with RelayProcess(deploy / "relay" / "config.yaml", tmp_path, env) as relay:
            answer = await chat(relay.address, model="deepseek-chat", key=env["RELAY_API_KEY"])
            page = await get(relay.admin, "/metrics", key=token)
            unasked = await get(relay.admin, "/metrics", key=None)
            counted = store.client().keys("{relay}*")

    assert answer.events[-1] == b"data: [DONE]\n\n"
    assert answer.headers["x-ratelimit-limit-requests"] == ENV["RATE_LIMIT"]
    assert b'relay_store_up{store="redis"} 1' in page.body
    assert counted
    assert unasked.status == 401
