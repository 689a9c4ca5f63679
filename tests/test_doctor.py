"""What the doctor says: three answers, the most important cause first, each with its fix."""

import asyncio
import fcntl
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest

from talkoot.dht.config import NetworkConfig
from talkoot.dht.dialback import Outcome
from talkoot.dht.identity import Identity
from talkoot.peer import presets
from talkoot.peer.doctor import connection, place, rounds
from talkoot.peer.doctor.machine import Device, Speed, try_model
from talkoot.peer.doctor.report import Check, conclude, problems
from talkoot.peer.manifest import Manifest, Model
from talkoot.peer.probing.examine import Sighting
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.statedir import StateDir

PEERS = [Identity.from_seed(bytes([number]) * 32).peer_id for number in range(3)]
HOME = "198.51.100.7"


def sighting(number: int = 0, **values: object) -> Sighting:
    """A peer to which nothing is strange."""
    usual: dict[str, object] = {
        "peer_id": PEERS[number],
        "address": f"/ip4/{HOME}/tcp/4001",
        "clock_offset_s": 0.1,
        "round_trip_s": 0.02,
        "version": "0.1.0",
        "protocol": PROTOCOL_VERSION,
        "dialled": {4001: "reached"},
    }
    return Sighting(**(usual | values))  # type: ignore[arg-type]


def check(name: str, answer: str = "yes", weight: str = "stop") -> Check:
    return Check(name=name, answer=answer, words=f"{name} words", fix="do it", weight=weight)  # type: ignore[arg-type]


# -- the verdict ---------------------------------------------------------------------------------------


def test_the_verdict_follows_the_heaviest_problem() -> None:
    fine = [check("a"), check("b", "no", "note")]
    assert conclude(fine, met=True).words == "you will be counted"
    assert conclude(fine, met=False).verdict == "machine_only"
    for weight, verdict, code in (
        ("warn", "counted", 0),
        ("client", "client", 0),
        ("slow", "too_slow", 1),
        ("stop", "not_yet", 1),
    ):
        fine.append(check(weight, "no", weight))
        conclusion = conclude(fine, met=True)
        assert (conclusion.verdict, conclusion.exit_code) == (verdict, code)
        assert conclusion.causes[0] == weight
    assert [each.name for each in problems(fine)] == ["stop", "slow", "client", "warn"]


def test_what_was_not_measured_is_said_and_is_no_problem() -> None:
    conclusion = conclude([check("upload", "unknown")], met=True)
    assert conclusion.words == "you will be counted (not measured: upload)"
    assert conclusion.causes == ()


# -- the connection ------------------------------------------------------------------------------------


def test_nothing_asked_is_unknown_and_never_no() -> None:
    for found in (
        connection.clock([]),
        connection.protocol([]),
        connection.version([], "0.1.0"),
        connection.nat([], []),
        connection.reachable([], behind_nat=False),
        *rounds.line(sealed(), 2, None, None),
        rounds.training(sealed(), [], None, real=True),
    ):
        assert found.answer == "unknown", found


def test_a_clock_is_judged_by_the_middle_of_what_peers_say() -> None:
    liar = sighting(1, clock_offset_s=9000.0)
    assert connection.clock([sighting(), liar, sighting(2)]).answer == "yes"
    wrong = connection.clock([sighting(clock_offset_s=-3600.0), sighting(1, clock_offset_s=-3601.0)])
    assert wrong.cause == "clock"
    assert "60 minutes ahead of 2 peers" in wrong.words
    assert wrong.measured["offset_s"] == 3600.5


@pytest.mark.parametrize(
    ("places", "own", "answer", "kind"),
    [
        ([f"/ip4/{HOME}/tcp/4001"] * 2, [HOME], "yes", "none"),
        ([f"/ip4/{HOME}/tcp/4001"] * 2, ["192.168.1.2"], "yes", "same"),
        ([f"/ip4/{HOME}/tcp/4001", f"/ip4/{HOME}/tcp/50123"], ["192.168.1.2"], "no", "differs"),
        ([f"/ip4/{HOME}/tcp/4001"], ["192.168.1.2"], "unknown", None),
        (["", ""], ["192.168.1.2"], "unknown", None),
    ],
)
def test_the_kind_of_a_nat_needs_two_opinions(
    places: list[str], own: list[str], answer: str, kind: str | None
) -> None:
    found = connection.nat([sighting(number, address=text) for number, text in enumerate(places)], own)
    assert (found.answer, found.measured.get("kind")) == (answer, kind)


@pytest.mark.parametrize(
    ("outcomes", "behind", "answer", "cause"),
    [
        (["reached", "silent"], False, "yes", ""),
        (["refused", "refused"], False, "no", "port_blocked"),
        (["silent", "silent"], False, "no", "firewall_drops"),
        (["silent", "refused"], True, "no", "nat_unforwarded"),
        (["unknown", "unknown"], False, "unknown", ""),
    ],
)
def test_reachable_is_what_peers_found(
    outcomes: list[Outcome], behind: bool, answer: str, cause: str
) -> None:
    seen = [sighting(number, dialled={4001: outcome}) for number, outcome in enumerate(outcomes)]
    found = connection.reachable(seen, behind_nat=behind)
    assert (found.answer, found.cause) == (answer, cause)
    assert bool(found.fix) == (answer == "no")


def test_a_newer_version_of_most_peers_is_a_reason_to_update() -> None:
    newer = [sighting(0, version="0.10.0"), sighting(1, version="0.9.1"), sighting(2)]
    assert connection.version(newer, "0.1.0").cause == "old_version"
    assert "0.10.0" in connection.version(newer, "0.1.0").words
    assert connection.version([*newer[:1], sighting(1), sighting(2)], "0.1.0").answer == "yes"
    assert connection.version([sighting(version="x")], "0.1.0").answer == "yes"


def test_another_protocol_stops() -> None:
    found = connection.protocol([sighting(protocol=PROTOCOL_VERSION + 1)])
    assert (found.cause, found.weight) == ("protocol", "stop")
    assert "upgrade" in found.fix


def test_an_invite_whose_peers_are_gone() -> None:
    address = f"/ip4/{HOME}/tcp/4001/p2p/{PEERS[0]}"
    other = f"/ip6/2001:db8::7/tcp/4001/p2p/{PEERS[1]}"
    assert connection.invited({address: "silent", other: "reached"}).answer == "yes"
    gone = connection.invited({address: "refused", other: "other"})
    assert gone.cause == "dead_bootstrap"
    assert "[2001:db8::7]:4001 is somebody else by now" in gone.words
    assert connection.invited({address: "unroutable"}).cause == "no_route"
    assert connection.only_ipv6([other])
    assert not connection.only_ipv6([other, address])
    assert not connection.only_ipv6([])


# -- rounds --------------------------------------------------------------------------------------------


def sealed(**changes: object) -> Manifest:
    """The smallest preset with its size known."""
    draft = presets.make("tiny", name="t")
    values: dict[str, object] = {"model": replace(draft.model, numel=400_000)}
    return replace(draft, **(values | changes))  # type: ignore[arg-type]


def test_a_slow_line_is_too_slow_by_the_manifests_deadline() -> None:
    manifest = sealed()
    need = rounds.need_of(manifest, 3)
    allowed = rounds.deadline_s(manifest)
    assert 400_000 < need.up < 500_000
    assert allowed == manifest.round.exchange_s
    for factor, answer in ((1.1, "yes"), (0.9, "no")):
        up, down = rounds.line(manifest, 3, factor * need.up / allowed, 1e9)
        assert (up.answer, down.answer) == (answer, "yes")
    assert up.cause == "slow_uplink"
    steps = rounds.training(manifest, [], 0.1, real=True)
    assert rounds.whole(manifest, steps, [up, down]).answer == "no"


def test_a_sparse_exchange_fetches_what_all_others_give() -> None:
    manifest = sealed()
    manifest = replace(
        manifest,
        round=replace(manifest.round, exchange="sparse"),
        compression=replace(manifest.compression, codec="topk"),
    )
    one, four = rounds.need_of(manifest, 1), rounds.need_of(manifest, 4)
    assert four.down == 4 * one.down
    assert one.up == four.up


def test_who_makes_fewer_than_an_eighth_of_the_steps_is_too_slow() -> None:
    manifest = sealed()  # H = 30
    fast = [10.0, 10.0]
    assert rounds.training(manifest, fast, 0.1, real=True).answer == "yes"
    slow = rounds.training(manifest, fast, 1.3, real=True)
    assert (slow.answer, slow.cause) == ("no", "slow_device")
    assert rounds.training(manifest, fast, 1.3, real=False).answer == "yes"
    assert rounds.training(manifest, [], 100.0, real=True).answer == "no"  # a round has its longest time


# -- this machine --------------------------------------------------------------------------------------


def test_a_locked_directory_names_who_holds_it(tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    assert place.state_directory(paths, daemon=False).answer == "yes"
    with paths.lock_file.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        os.pwrite(file.fileno(), b"4321\n", 0)
        found = place.state_directory(paths, daemon=False)
        assert (found.cause, found.fix.split("#")[0].strip()) == ("state_locked", "kill 4321")
        assert place.state_directory(paths, daemon=True).answer == "yes"
    paths.claim(bytes(32))
    assert place.state_directory(paths, daemon=False, swarm=bytes(32)).answer == "yes"
    assert place.state_directory(paths, daemon=False, swarm=b"s" * 32).cause == "state_of_other_swarm"
    paths.swarm_file.unlink()
    assert list(tmp_path.iterdir()) == [paths.lock_file]


def test_a_key_is_private_and_whole(tmp_path: Path) -> None:
    paths = StateDir(tmp_path)
    assert place.key(paths).answer == "yes"
    assert not paths.key_file.exists()  # a doctor makes nothing
    Identity.load_or_create(paths.key_file)
    assert place.key(paths).answer == "yes"
    paths.key_file.chmod(0o644)
    found = place.key(paths)
    assert (found.cause, found.fix) == ("key_readable", f"chmod 600 {paths.key_file}")
    paths.key_file.chmod(0o600)
    paths.key_file.write_bytes(b"\x08\x00")
    assert place.key(paths).cause == "key_damaged"


def test_a_disk_must_hold_the_model(tmp_path: Path) -> None:
    paths = StateDir(tmp_path / "not" / "there")
    assert place.disk(paths, None).answer == "yes"
    huge = sealed(model=Model(numel=10**12))
    found = place.disk(paths, huge)
    assert (found.cause, found.answer) == ("disk_full", "no")
    assert found.measured["needed_bytes"] > 10**13
    assert not paths.path.exists()


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        found = place.port(NetworkConfig.test(port=number), number)
    assert (found.answer, found.cause) == ("no", "port")
    assert "--port" in found.fix


def test_ipv6_is_a_problem_only_where_nothing_else_leads_to_the_swarm() -> None:
    assert not place.ipv6(needed=False).is_problem


async def tried(manifest: Manifest, device: Device) -> tuple[dict[str, Check], Speed]:
    speed = Speed()
    return {each.name: each async for each in try_model(manifest, device, speed, seconds=60.0)}, speed


@pytest.mark.processes
def test_the_model_is_tried_on_the_device() -> None:
    draft = presets.make("tiny", name="t")
    checks, speed = asyncio.run(tried(draft, Device(device="cpu", threads=1)))
    assert {each.answer for name, each in checks.items() if name != "gpu"} == {"yes"}
    assert speed.numel is not None
    assert speed.step_s is not None
    assert 300_000 < speed.numel < 400_000
    assert 0 < speed.step_s < 60
    known = replace(draft, model=replace(draft.model, numel=speed.numel))
    checks, speed = asyncio.run(tried(known, Device(device="cpu", memory_limit_bytes=10**6)))
    assert checks["model"].cause == "no_memory"
    assert "--memory-limit" in checks["model"].fix
    assert speed.step_s is None
