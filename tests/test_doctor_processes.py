"""The doctor and ping against a real swarm on loopback, and against what people type wrong."""

import base64
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from swarm_help import daemons, small_manifest

from talkoot.cli.demo_node import TALKOOT
from talkoot.cli.doctor import _question
from talkoot.cli.local_api import Json
from talkoot.cli.ping import resolved
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer import invite
from talkoot.peer.doctor.machine import Device
from talkoot.peer.protocol import PROTOCOL_VERSION

pytestmark = pytest.mark.processes

ONE, TWO = (Identity.from_seed(bytes([number]) * 32).peer_id for number in (1, 2))


def talkoot(*arguments: str) -> subprocess.CompletedProcess[str]:
    """What a command says, and how it ends."""
    return subprocess.run([*TALKOOT, *arguments], capture_output=True, text=True, timeout=200, check=False)


def doctor(state_dir: Path, *arguments: str) -> Json:
    """Its report; the exit code goes with the verdict."""
    done = talkoot("doctor", *arguments, "--json", "--profile", "test", "--state-dir", str(state_dir))
    assert done.stderr == ""
    report: Json = json.loads(done.stdout)
    assert done.returncode == int(report["verdict"] in ("too_slow", "not_yet"))
    return report


@pytest.mark.trial
def test_a_swarm_says_what_it_sees(tmp_path: Path) -> None:
    manifest = small_manifest(peers=2, step_ms=20)
    manifest = replace(manifest, round=replace(manifest.round, min_interval_s=10.0))
    with daemons(tmp_path) as swarm:
        one = swarm.found(manifest)
        two = swarm.join()
        swarm.counted(one, two, since=1)
        text = one.invite()
        assert text is not None

        report = doctor(tmp_path / "visitor", text)
        checks = {check["name"]: check for check in report["checks"]}
        assert (report["verdict"], report["causes"]) == ("counted", []), report
        assert not (tmp_path / "visitor").exists()  # a doctor changes nothing
        assert [checks[name]["answer"] for name in ("invite", "clock", "protocol", "nat")] == ["yes"] * 4
        assert "2 of 2 peers dialled this machine" in checks["reachable"]["words"]
        assert checks["upload"]["measured"]["bytes_per_s"] > 1e5
        assert checks["steps"]["measured"]["step_s"] > 0.01

        own = doctor(two.state_dir)
        checks = {check["name"]: check for check in own["checks"]}
        assert own["verdict"] == "counted", own
        assert "a running daemon has it" in checks["state directory"]["words"]
        assert checks["reachable"]["answer"] == "yes"

        name = swarm.status(one)["peer_id"]
        for peer in (name, name[:20], name[-8:]):
            answer = talkoot("ping", peer, "-c", "2", "--json", "--state-dir", str(two.state_dir))
            assert answer.returncode == 0, answer.stderr
            pinged = json.loads(answer.stdout)
            assert (pinged["peer_id"], pinged["answered"]) == (name, 2)
            assert {probe["path"] for probe in pinged["probes"]} == {"direct"}
        gone = talkoot("ping", ONE, "-c", "1", "--state-dir", str(two.state_dir))
        assert gone.returncode == 1
        assert f"{ONE} does not answer" in gone.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("talkoot://AAAA",), "invite"),
        (("hello",), "must begin with talkoot://"),
        (("--port", "70000"), "port must be 0 to 65535"),
        (("--port", "x"), "valid integer"),
        (("--listen", "here"), "is no IP address"),
        (("--profile", "moon"), "profile must be one of"),
        (("--device", "abacus"), "--device: node.device must be auto, cpu, cuda"),
        (("--threads", "-1"), "--threads: limits.threads must be 0 to"),
        (("--memory-limit", "much"), "--memory-limit: limits.gpu_memory must be a size"),
        (("--relay", "/ip4/192.0.2.1/tcp/4001"), "relay"),
        (("a", "b"), "unexpected extra argument"),
    ],
)
def test_what_the_doctor_does_not_understand(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = talkoot("doctor", "--state-dir", str(tmp_path), *arguments)
    assert done.returncode == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_the_doctor_goes_by_the_settings_that_a_start_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.toml").write_text(
        '[node]\ndevice = "cpu"\nprofile = "test"\n[limits]\nthreads = 3\ngpu_memory = "6 GB"\n'
    )
    monkeypatch.setenv("TALKOOT_LIMITS_THREADS", "2")
    question = _question(None, tmp_path, {"limits.gpu_memory": ("--memory-limit", "5GB")})
    assert question.device == Device(device="cpu", threads=2, memory_limit_bytes=5 * 10**9)
    (tmp_path / "config.toml").write_text("[node]\ndevice = 3\n")
    with pytest.raises(ConfigError, match=r"config.toml:2: node.device must be auto, cpu"):
        _question(None, tmp_path, {})


def test_ping_needs_a_daemon_and_a_peer_that_is_meant(tmp_path: Path) -> None:
    assert talkoot("ping", ONE, "--state-dir", str(tmp_path)).returncode == 3
    assert talkoot("ping", ONE, "--count", "0", "--state-dir", str(tmp_path)).returncode == 2
    entries = [{"peer_id": ONE, "public_name": "a"}, {"peer_id": TWO, "public_name": "b"}]
    assert resolved("b", entries) == TWO
    assert resolved(ONE[-7:], entries) == ONE
    assert resolved(TWO, []) == TWO
    for text, words in (("12D3KooW", "fits 2 peers"), ("c", "is no peer"), (ONE[-3:], "is no peer")):
        with pytest.raises(ConfigError, match=words):
            resolved(text, entries)


@pytest.mark.trial
def test_an_invite_of_another_protocol_is_a_finding(tmp_path: Path) -> None:
    made = invite.encode(invite.Invite(bytes(32), (f"/ip4/192.0.2.1/tcp/4001/p2p/{ONE}",)))
    data = bytearray(invite._from_base64(made[len(invite.SCHEME) :]))
    data[0] = PROTOCOL_VERSION + 1
    text = invite.SCHEME + base64.urlsafe_b64encode(bytes(data)).decode()
    with pytest.raises(invite.OtherProtocolError):
        invite.decode(text)
    report = doctor(tmp_path / "s", text)
    assert (report["verdict"], report["causes"][0]) == ("not_yet", "protocol")
