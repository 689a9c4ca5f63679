"""The files for Docker: their schema, what is open to whom, and that they agree with each other.

There is no Docker engine where tests run: what the images do when they run is not tested.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prometheus_rig import ROOT, needs_prometheus, promtool

DOCKER = ROOT / "docker"


def compose(name: str = "compose.yaml") -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DOCKER / name).read_text())
    return found


SERVICES: dict[str, dict[str, Any]] = compose()["services"]


def test_compose_files_follow_the_compose_schema() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    files = [str(DOCKER / name) for name in ("compose.yaml", "compose.gpu.yaml")]
    done = subprocess.run([*check, *files], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_only_the_nodes_port_for_peers_is_open_to_others() -> None:
    assert SERVICES.keys() == {"node", "prometheus", "grafana"}
    assert all("ports" not in service for service in SERVICES.values())
    assert "--web.listen-address=127.0.0.1:9090" in SERVICES["prometheus"]["command"]
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert all(service["cap_drop"] == ["ALL"] for service in SERVICES.values())


def test_there_is_no_default_password_and_no_start_without_one() -> None:
    settings = SERVICES["grafana"]["environment"]
    assert re.fullmatch(r"\$\{GRAFANA_PASSWORD:\?[^}]+\}", settings["GF_SECURITY_ADMIN_PASSWORD"])
    assert settings["GF_AUTH_ANONYMOUS_ENABLED"] == settings["GF_USERS_ALLOW_SIGN_UP"] == "false"
    assert ".env" in (ROOT / ".gitignore").read_text().split()


def test_all_that_is_mounted_is_there() -> None:
    volumes = compose()["volumes"]
    for service in SERVICES.values():
        for mount in service["volumes"]:
            source = mount.split(":")[0]
            assert (DOCKER / source).exists() if source.startswith(".") else source in volumes


def test_the_parts_find_each_other() -> None:
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/talkoot.yaml").read_text())[
        "datasources"
    ]
    listens = SERVICES["prometheus"]["command"][-1].partition("=")[2]
    assert source["url"] == f"http://{listens}"
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/talkoot.yaml").read_text())[
        "providers"
    ]
    boards = [mount for mount in SERVICES["grafana"]["volumes"] if "/dashboards:" in mount]
    assert [mount.split(":")[1] for mount in boards] == [provider["options"]["path"]]
    command = SERVICES["node"]["command"]
    port = command[command.index("--http-port") + 1]
    config = yaml.safe_load((DOCKER / "prometheus/prometheus.yml").read_text())
    asked = [sd["url"] for job in config["scrape_configs"] for sd in job["http_sd_configs"]]
    assert asked == [f"http://127.0.0.1:{port}/sd"]
    assert 'CMD ["talkoot", "healthcheck"]' in (DOCKER / "Dockerfile").read_text()
    assert port
    assert [job["job_name"] for job in config["scrape_configs"]] == ["talkoot"]


@needs_prometheus
def test_promtool_accepts_the_shipped_configuration() -> None:
    promtool("check", "config", str(DOCKER / "prometheus" / "prometheus.yml"))


def stages() -> list[list[tuple[str, str]]]:
    """(instruction, arguments) of each stage of the Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").strip().splitlines()
    found: list[list[tuple[str, str]]] = []
    for line in filter(str.strip, lines):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        found[-1].append((word, rest.strip()))
    return found


def test_the_image_holds_the_package_and_runs_as_nobody_special() -> None:
    build, final = stages()
    copied = {shlex.split(rest)[0] for word, rest in build if word == "COPY" and len(shlex.split(rest)) == 2}
    assert copied >= {"peer", "dht", "averaging", "compression", "cli", "constraints.txt"}
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text().split("\n")
    assert all(f"!{name}" in ignored for name in copied), "nothing that is copied is ignored"
    words = [word for word, _ in final]
    assert dict(final)["USER"] == "talkoot"
    assert words.index("USER") > max(number for number, word in enumerate(words) if word == "RUN")
    assert "HEALTHCHECK" in words
    assert dict(final)["VOLUME"] == "/home/talkoot/.local/state/talkoot"


def test_shell_commands_of_the_image_parse(tmp_path: Path) -> None:
    for number, (word, rest) in enumerate(step for stage in stages() for step in stage):
        if word == "RUN":
            script = tmp_path / f"{number}.sh"
            script.write_text(rest)
            subprocess.run(["sh", "-n", str(script)], check=True)
