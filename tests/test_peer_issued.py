"""A founder's list of invites: what is kept, what is taken back by which name, what a join hands in."""

import asyncio
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from archive_rig import FOUNDERS, VOLUNTEERS, Archive, play
from averaging_help import certify, make_ledger, make_rules, make_value
from bad_input_rig import refused
from round_swarm import ToySigner
from typer.testing import CliRunner

from talkoot.averaging.ledger import Ledger, Used
from talkoot.averaging.revocations import MAX_REVOKED, NOBODY, check
from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity, verify
from talkoot.peer import admission, invite
from talkoot.peer.admission import UnknownInviteError, issued_rule
from talkoot.peer.daemon import make_invite
from talkoot.peer.issued import MAX_ISSUED, IssuedInvites
from talkoot.peer.issuing import Issuing, issuing_of
from talkoot.peer.small_files import MAX_SMALL_FILE_BYTES
from talkoot.peer.statedir import StateDir
from talkoot.peer.status import status

OWN, OTHER = Identity.from_seed(b"f" * 32), Identity.from_seed(b"o" * 32)
SWARM, NOW = b"s" * 32, 1000.0
LEDGER = make_ledger([OWN.key])


def made(number: int, by: Identity = OWN, expires: int = 2000) -> admission.Token:
    return admission.issue(by, swarm=SWARM, seed=number.to_bytes(32, "big"), expires=expires)


def text_of(number: int, by: Identity = OWN, swarm: bytes = SWARM) -> str:
    key = invite.InviteKey(number.to_bytes(32, "big"), made(number, by))
    address = f"/ip4/127.0.0.1/tcp/1/p2p/{OWN.peer_id}"
    return invite.encode(invite.Invite(swarm=swarm, addresses=(address,), key=key))


def filled(path: Path, count: int = 3, expires: int = 2000) -> IssuedInvites:
    invites = IssuedInvites(path)
    for number in range(count):
        invites.add(made(number, expires=expires), NOW + number)
    return invites


def revoke(invites: IssuedInvites, name: str, ledger: Ledger | None = LEDGER) -> list[bytes]:
    return invites.revoke(name, own=OWN.key, swarm=SWARM, ledger=ledger, now=NOW)


def test_all_that_are_open_and_only_those(tmp_path: Path) -> None:
    invites = filled(tmp_path / "issued")
    invites.add(made(7, expires=10), NOW)
    ledger = make_ledger([OWN.key], used=(Used(made(1).key, OTHER.key),))
    assert set(revoke(invites, "all", ledger)) == {made(0).key, made(2).key}
    with pytest.raises(UnknownInviteError, match="no invite"):
        revoke(invites, "all", ledger)
    with pytest.raises(UnknownInviteError, match="one by one"):
        revoke(invites, "all", None)
    invites.write(invites.encode())
    kept = IssuedInvites.load(tmp_path / "issued").as_json(ledger, NOW)
    states = {entry["token"]: entry["state"] for entry in kept}
    wanted = {0: "being revoked", 1: "used", 2: "being revoked", 7: "expired"}
    assert states == {made(number).key.hex(): state for number, state in wanted.items()}
    assert {entry["peer_id"] for entry in kept} == {None, OTHER.peer_id}


def test_what_is_handed_in_is_signed_and_ends_with_the_ledger(tmp_path: Path) -> None:
    invites = filled(tmp_path / "issued")
    name = made(1).key.hex()[:8].upper()
    assert revoke(invites, name) == [made(1).key]
    (revocation,) = invites.pending(LEDGER, OWN)
    assert check(revocation, swarm=LEDGER.swarm, verify=verify)
    issued = issued_rule(SWARM, (OWN.key, OTHER.key))
    assert issued(OWN.key, revocation.token, revocation.permission)
    assert not issued(OTHER.key, revocation.token, revocation.permission)
    assert not issued(OWN.key, made(2).key, revocation.permission)
    assert not issued_rule(SWARM, (OTHER.key,))(OWN.key, revocation.token, revocation.permission)
    after = make_ledger([OWN.key], used=(Used(made(1).key, NOBODY),))
    assert invites.pending(after, OWN) == ()
    assert invites.as_json(after, NOW)[1]["state"] == "revoked"


def test_so_many_at_once_and_those_that_need_a_majority_last(tmp_path: Path) -> None:
    invites = filled(tmp_path / "issued", 3 * MAX_REVOKED)
    revoke(invites, "all")
    used = tuple(Used(made(number).key, OTHER.key) for number in range(2 * MAX_REVOKED))
    ledger = make_ledger(sorted([OWN.key, OTHER.key]), used=used)
    tokens = [item.token for item in invites.pending(ledger, OWN)]
    assert tokens == sorted(made(number).key for number in range(2 * MAX_REVOKED, 3 * MAX_REVOKED))


def test_an_invite_that_was_pasted_need_not_be_known_but_ours(tmp_path: Path) -> None:
    invites = IssuedInvites(tmp_path / "issued")
    assert revoke(invites, text_of(5)) == [made(5).key]
    assert [item.token for item in invites.pending(LEDGER, OWN)] == [made(5).key]
    for name, words in (
        (text_of(6, OTHER), "only who made it"),
        (text_of(6, swarm=b"t" * 32), "another swarm"),
        (text_of(6)[:-9], "cut short|checksum"),
        (made(5).key.hex()[:7], "first 8"),
        ("f" * 64, "first 8"),
        ("", "first 8"),
    ):
        with pytest.raises(UnknownInviteError, match=words):
            revoke(invites, name)


def test_expired_ones_make_room_and_the_file_stays_small(tmp_path: Path) -> None:
    invites = filled(tmp_path / "issued", MAX_ISSUED)
    with pytest.raises(ValueError, match="wait until some expire"):
        invites.add(made(MAX_ISSUED), NOW)
    invites.add(made(MAX_ISSUED, expires=9000), 2001.0)
    assert len(invites.as_json(None, NOW)) == MAX_ISSUED
    assert len(invites.encode()) < MAX_SMALL_FILE_BYTES


def test_a_damaged_file_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "issued").write_bytes(b"\x93")
    with pytest.raises(ConfigError, match="is damaged: move it away"):
        IssuedInvites.load(tmp_path / "issued")


# -- a founder that runs -----------------------------------------------------------------------------


def test_an_invite_is_on_disk_before_it_is_given_out(tmp_path: Path) -> None:
    issuing = Issuing(IssuedInvites(tmp_path / "issued"), OWN, SWARM)
    value = make_value((ToySigner(0),), (ToySigner(0),))
    node: Any = SimpleNamespace(
        state="training",
        identity=OWN,
        membership=SimpleNamespace(swarm=SWARM),
        manifest=SimpleNamespace(swarm=SimpleNamespace(admission="invite"), protocol=1),
        holdings=SimpleNamespace(
            rules=make_rules(founders=(OWN.key,)), last_final=lambda: certify(value, (ToySigner(0),))
        ),
        network=SimpleNamespace(
            addresses=[f"/ip4/127.0.0.1/tcp/1/p2p/{OWN.peer_id}"], relays=SimpleNamespace(told=tuple)
        ),
        runner=SimpleNamespace(issuing=issuing),
        swarming=SimpleNamespace(ledger=LEDGER),
    )
    text = asyncio.run(make_invite(node))
    (kept,) = IssuedInvites.load(tmp_path / "issued").as_json(None, NOW)
    key = invite.decode(text).key
    assert key is not None
    assert kept["token"] == key.token.key.hex()
    asyncio.run(issuing_of(node)[0].revoke("all", LEDGER))
    assert [item.token for item in issuing.pending(LEDGER)] == [key.token.key]
    assert IssuedInvites.load(tmp_path / "issued").as_json(None, NOW)[0]["state"] == "being revoked"
    node.runner.issuing = None
    with pytest.raises(ValueError, match="no founder"):
        issuing_of(node)


def test_a_volunteer_is_told_that_its_invite_was_taken_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """By its log and its status; until then it weighs, and afterwards others go on without it."""

    async def script(archive: Archive) -> None:
        founders = [archive.start(identity) for identity in FOUNDERS]
        await archive.together(*founders)
        proof = archive.invite(VOLUNTEERS[0], archive.anchor_of(founders[0]))
        volunteer = archive.start(VOLUNTEERS[0], invite=proof)
        key, token = volunteer.identity.key, archive.tokens[-1]
        await archive.until(lambda: volunteer.round > 0 and key in founders[0].head.value.voters)
        assert not status(volunteer.node, 0)["revoked"]
        issuing, ledger = issuing_of(founders[0].node)
        await issuing.add(token)
        await issuing.revoke(token.key.hex(), ledger)
        await archive.until(lambda: bool(status(volunteer.node, 0)["revoked"]))
        since = founders[0].round
        await archive.together(*founders, since=since + 2)
        for certificate in founders[0].heads[-2:]:
            assert key not in certificate.value.voters
            assert key not in {item.key for item in certificate.value.cut}

    with caplog.at_level(logging.WARNING, "talkoot.audit"):
        play(tmp_path, script)
    assert any("taken back" in record.getMessage() for record in caplog.records)


# -- the command, while no daemon runs ---------------------------------------------------------------


@pytest.fixture
def paths(tmp_path: Path) -> StateDir:
    paths = StateDir(tmp_path / "state")
    paths.prepare()
    Identity.load_or_create(paths.key_file)
    paths.claim(SWARM)
    return paths


def test_on_disk_for_the_next_start(paths: StateDir) -> None:
    own = Identity.load_or_create(paths.key_file)
    invites = IssuedInvites(paths.issued)
    for number in range(2):
        invites.add(made(number, own, expires=2**40), NOW)
    invites.write(invites.encode())
    where = ("--state-dir", str(paths.path))

    def talkoot(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["invite", *arguments, *where], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output

    name = made(1).key.hex()[:16]
    assert [line.split()[-1] for line in talkoot("--list").splitlines()] == ["open", "open"]
    assert f"{name} is being revoked" in talkoot("--revoke", name)
    shown = json.loads(talkoot("--list", "--json"))["invites"]
    assert {entry["token"][:16]: entry["state"] for entry in shown}[name] == "being revoked"
    (pending,) = IssuedInvites.load(paths.issued).pending(LEDGER, own)
    assert pending.token == made(1).key


def test_bad_orders_are_one_line(capsys: pytest.CaptureFixture[str], paths: StateDir, tmp_path: Path) -> None:
    where = ("--state-dir", paths.path)
    for arguments, words in (
        (("--revoke", "nonsense"), "first 8 or more characters"),
        (("--revoke", "all"), "one by one"),
        (("--revoke", "talkoot://x"), "cut short"),
        (("--revoke", text_of(6)), "only who made it"),
        (("--list", "--revoke", "all"), "not both"),
    ):
        outcome = refused(capsys, "invite", *arguments, *where)
        assert (outcome.code, words in outcome.line) == (2, True), outcome
    assert not paths.issued.exists()
    assert refused(capsys, "invite", "--list", "--state-dir", tmp_path / "none").code == 2
    with paths.lock():
        assert "is in use" in refused(capsys, "invite", "--revoke", "all", *where).line
    paths.issued.write_bytes(b"\x93")
    assert "is damaged" in refused(capsys, "invite", "--list", *where).line
