"""A release takes part in swarms of its own protocol and of the one before: both together in one swarm."""

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from next_talkoot import NEXT_RELEASE
from swarm_help import Daemons, daemons, small_manifest

from talkoot.cli.demo_node import DemoNode
from talkoot.cli.reading import status_text
from talkoot.dht.errors import ConfigError
from talkoot.peer import invite, manifest_file, protocol
from talkoot.peer.guest.releases import newer_release
from talkoot.peer.invite import Invite, OtherProtocolError
from talkoot.peer.protocol import PROTOCOL_VERSION

NEXT = (sys.executable, str(Path(__file__).with_name("next_talkoot.py")))

SOMEWHERE = "/ip4/192.0.2.1/tcp/4001/p2p/12D3KooWDGLtZDaDbh4tqGD9RUwTaGxfSxDHroPdWQQRaW7VSTrR"


@pytest.fixture
def newer(monkeypatch: pytest.MonkeyPatch) -> int:
    """This is a later release, with two protocols behind it."""
    monkeypatch.setattr(protocol, "PROTOCOL_VERSION", PROTOCOL_VERSION + 2)
    return PROTOCOL_VERSION + 2


def test_a_release_speaks_two_protocols(newer: int) -> None:
    spoken = [version for version in range(10) if protocol.speaks(version)]
    assert spoken == [newer - 1, newer]
    assert protocol.spoken() == f"{newer - 1} and {newer}"


def test_the_first_protocol_has_none_before_it() -> None:
    assert [version for version in range(-1, 10) if protocol.speaks(version)] == [1]


def test_invites_are_for_the_protocol_of_the_swarm(newer: int) -> None:
    made = Invite(swarm=bytes(32), addresses=(SOMEWHERE,))
    for number in (newer - 1, newer):
        assert invite.decode(invite.encode(made, protocol=number)) == made
    for number, advice in ((newer - 2, "ask for a new invite"), (newer + 1, "update talkoot")):
        with pytest.raises(OtherProtocolError, match=f"speaks {newer - 1} and {newer}; {advice}"):
            invite.decode(invite.encode(made, protocol=number))


def test_so_are_manifests(newer: int, tmp_path: Path) -> None:
    path = tmp_path / manifest_file.FILE_NAME
    for number in range(newer - 2, newer + 2):
        manifest_file.save(replace(small_manifest(peers=1), protocol=number), path)
        if number in (newer - 1, newer):
            assert manifest_file.load(path)[0].protocol == number
        else:
            with pytest.raises(ConfigError, match=f"made for protocol {number}; this version of talkoot"):
                manifest_file.load(path)


# -- releases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("announced", "found"),
    [
        ([], None),
        (["1.2.3"], None),
        (["1.2.4"], "1.2.4"),
        (["1.10.0 (Ada)", "1.2.3"], None),  # one of two may be wrong
        (["1.10.0 (Ada)", "1.9.0"], "1.9.0"),
        (["2.0.0", "1.3.0", "1.3.0", "1.2.3", "1.2.3", "1.2.3"], "1.3.0"),
        (["99.0.0"] * 3 + ["1.2.3"] * 8, None),  # fewer than a third
        (["1.2.4"] * 4 + ["1.2.3"] * 8, "1.2.4"),
        (["1.3.0rc1", "1.3.0rc1", "nonsense", "99999.0.0", "1.3"], None),
        (["1.2.2", "0.9.9"], None),
    ],
)
def test_a_newer_release_is_one_that_enough_of_the_others_run(
    announced: list[str], found: str | None
) -> None:
    assert newer_release("1.2.3", announced) == found


def test_a_build_between_releases_counts_as_the_release_before_it() -> None:
    assert newer_release("1.2.3.dev4+gabc", ["1.2.4"]) == "1.2.4"
    assert newer_release("unknown", ["1.2.4"]) is None


# -- together ----------------------------------------------------------------------------------------


@pytest.fixture
def swarm(tmp_path: Path) -> Iterator[Daemons]:
    with daemons(tmp_path) as made:
        yield made


@pytest.mark.processes
def test_the_next_release_and_this_one_train_together(swarm: Daemons) -> None:
    ours = swarm.found(small_manifest(peers=2))
    theirs = swarm.join(DemoNode("peer-1", swarm.folder, NEXT))
    swarm.counted(ours, theirs, since=0)
    status, other = swarm.status(ours), swarm.status(theirs)
    assert (status["protocol"], other["protocol"]) == (PROTOCOL_VERSION, PROTOCOL_VERSION + 1)
    assert (status["newer_release"], other["newer_release"]) == (NEXT_RELEASE, None)
    assert f"others run talkoot {NEXT_RELEASE}" in status_text(status)


@pytest.mark.processes
@pytest.mark.trial
def test_a_peer_of_this_release_joins_a_swarm_that_the_next_one_founded(swarm: Daemons) -> None:
    theirs = swarm.found(small_manifest(peers=2), DemoNode("peer-0", swarm.folder, NEXT))
    ours = swarm.join()
    swarm.counted(ours, theirs, since=0)
