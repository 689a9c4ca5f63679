"""Each kind of place in the laboratory translates addresses as its name says, seen from two hosts outside."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from nat_lab import Kind, Lab, why_not
from nat_sockets import PORTS, Behaviour, bound, of_tcp, of_udp, reaches

from talkoot.cli.demo_chaos_network import run_tool
from talkoot.cli.demo_leftovers import NAMESPACES

OPEN = Behaviour("independent", "open")
CONE = Behaviour("independent", "restricted")
SYMMETRIC = Behaviour("dependent", "restricted")

NAMED = {
    Kind.OPEN: (OPEN, OPEN),
    Kind.FULL_CONE: (OPEN, OPEN),
    Kind.CONE: (CONE, CONE),
    Kind.SYMMETRIC: (SYMMETRIC, SYMMETRIC),
    Kind.DOUBLE: (CONE, CONE),
    Kind.NO_UDP: (CONE, None),
    Kind.IPV6: (OPEN, OPEN),
    Kind.HAIRPIN: (OPEN, OPEN),
}
"""What is to be measured of TCP and UDP; None: nothing gets out."""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """One place of each kind, a second behind the same router as `hairpin`, and two observers."""
    reason = why_not()
    if reason:
        print(f"SKIPPED: {reason}", file=sys.stderr)
        pytest.skip(reason)
    kinds = {kind.value: kind for kind in Kind}
    with Lab(kinds | {"mate": Kind.HAIRPIN, "one": Kind.OPEN, "other": Kind.OPEN}) as made:
        yield made


@pytest.mark.parametrize("kind", list(Kind))
def test_a_place_translates_as_it_is_named(lab: Lab, kind: Kind) -> None:
    observers = lab["one"], lab["other"]
    assert (of_tcp(lab[kind], observers), of_udp(lab[kind], observers)) == NAMED[kind]


def test_only_a_hairpin_is_reached_by_its_own_kind_from_inside(lab: Lab) -> None:
    """By the address that the world sees; a neighbour behind a usual router comes by the one inside."""
    mate, spot = lab["mate"], lab[Kind.HAIRPIN]
    assert mate.outside == spot.outside
    assert mate.address != spot.address
    with bound(mate, socket.SOCK_STREAM, mate.port) as listener:
        listener.listen()
        assert reaches(spot, (mate.outside, mate.port), mate, listener)
    with bound(lab[Kind.CONE], socket.SOCK_STREAM, PORTS[0]) as listener:
        listener.listen()
        assert not reaches(lab[Kind.CONE], (lab[Kind.CONE].outside, PORTS[0]), lab[Kind.CONE], listener)


def test_ipv6_alone_does_not_reach_ipv4(lab: Lab) -> None:
    with lab[Kind.IPV6].inside(), socket.socket() as ours:
        ours.settimeout(5.0)
        with pytest.raises(OSError, match="unreachable"):
            ours.connect((lab["one"].address, PORTS[0]))


def test_nothing_leads_outside(lab: Lab) -> None:
    for spot in lab.spots.values():
        shown = run_tool("ip", "-n", spot.namespace, "-brief", "link")
        names = {line.split()[0].split("@")[0] for line in shown.splitlines()}
        assert names <= {"lo", "wan", "eth0"}


def test_what_a_killed_laboratory_left_is_removed_by_the_next(lab: Lab) -> None:
    code = (
        "import os, signal; from nat_lab import Kind, Lab\n"
        "with Lab({'a': Kind.DOUBLE}): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment) as killed:
        assert killed.wait(60) == -9
    left = list(NAMESPACES.glob(f"talkoot-{killed.pid}-nat*"))
    assert len(left) == 4
    with Lab({"b": Kind.OPEN}):
        assert not any(path.exists() for path in left)
    assert all((NAMESPACES / spot.namespace).exists() for spot in lab.spots.values())
