"""What others see of this machine's connection, put into checks. Pure."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address

from talkoot.dht.dialback import Outcome
from talkoot.dht.multiaddr import Address, parse_address
from talkoot.dht.records import MAX_SKEW_S
from talkoot.peer.doctor.report import Check
from talkoot.peer.probing.examine import Sighting
from talkoot.peer.protocol import PROTOCOL_VERSION, speaks

FINE_S = 1.0
"""A clock that is off by less needs no word."""

WORDS: Mapping[Outcome, str] = {
    "reached": "answers",
    "refused": "refuses",
    "silent": "does not answer",
    "unroutable": "has no route",
    "other": "is somebody else by now",
    "unknown": "was not tried",
}


def invited(outcomes: Mapping[str, Outcome]) -> Check:
    """Whether any address of the invite leads to its peer."""
    listed = ", ".join(f"{_place(address)} {WORDS[outcome]}" for address, outcome in outcomes.items())
    counts = Counter(outcomes.values())
    measured = {"addresses": dict(outcomes)}
    if counts["reached"]:
        words = f"{counts['reached']} of {len(outcomes)} addresses lead to a peer of the swarm"
        return Check(name="invite", answer="yes", words=words, measured=measured)
    if outcomes and set(outcomes.values()) == {"unroutable"}:
        fix = "connect this machine to the Internet: ping -c 1 " + _host(next(iter(outcomes)))
        return Check(name="invite", answer="no", words=listed, fix=fix, cause="no_route", measured=measured)
    return Check(
        name="invite",
        answer="no",
        words=f"no peer of the invite can be reached: {listed}",
        fix="ask for a new invite (its peers are gone or have moved): talkoot invite, run by who invited you",
        cause="dead_bootstrap",
        measured=measured,
    )


def relays(outcomes: Mapping[str, Outcome]) -> Check | None:
    """Whether relays answer; None where there are none."""
    if not outcomes:
        return None
    good = sum(outcome == "reached" for outcome in outcomes.values())
    measured = {"addresses": dict(outcomes)}
    if good:
        words = f"{good} of {len(outcomes)} can be reached"
        return Check(name="relays", answer="yes", words=words, measured=measured)
    listed = ", ".join(f"{_place(address)} {WORDS[outcome]}" for address, outcome in outcomes.items())
    return Check(
        name="relays",
        answer="no",
        words=f"no relay can be reached: {listed}",
        fix="name another one with --relay ADDR, or ask the relay's operator whether it runs",
        weight="warn",
        cause="relay_unreachable",
        measured=measured,
    )


def clock(sightings: Sequence[Sighting]) -> Check:
    """Whether this machine's clock is the others'."""
    offsets = [each.clock_offset_s for each in sightings if each.clock_offset_s is not None]
    if not offsets:
        return Check(name="clock", answer="unknown", words="no peer could be asked for the time")
    offset = statistics.median(offsets)
    direction = "behind" if offset > 0 else "ahead of"
    words = f"{_seconds(abs(offset))} {direction} {len(offsets)} peer{'s' * (len(offsets) != 1)}"
    measured = {"offset_s": -offset, "peers": len(offsets)}
    if abs(offset) <= MAX_SKEW_S:
        return Check(name="clock", answer="yes", words=words, measured=measured)
    return Check(
        name="clock",
        answer="no",
        words=f"the clock is {words}, {MAX_SKEW_S:.0f} s are allowed",
        fix="sudo timedatectl set-ntp true",
        cause="clock",
        measured=measured,
    )


def protocol(sightings: Sequence[Sighting]) -> Check:
    """Whether the others speak this version of the protocol."""
    spoken = Counter(each.protocol for each in sightings if each.protocol is not None)
    if not spoken:
        return Check(name="protocol", answer="unknown", words="no peer said which version it speaks")
    common = spoken.most_common(1)[0][0]
    if speaks(common):
        return Check(name="protocol", answer="yes", words=f"version {common}, as the others")
    return other_protocol(f"the swarm speaks version {common}, this talkoot {PROTOCOL_VERSION}", common)


def other_protocol(words: str, theirs: int | None) -> Check:
    """The swarm's protocol is another one."""
    newer = theirs is None or theirs > PROTOCOL_VERSION
    update = "python -m pip install --upgrade talkoot"
    return Check(
        name="protocol",
        answer="no",
        words=words,
        fix=update if newer else "ask for an invite of a swarm that has been updated, or install its version",
        cause="protocol",
        measured={"ours": PROTOCOL_VERSION, "theirs": theirs},
    )


def version(sightings: Sequence[Sighting], ours: str) -> Check:
    """Whether most of the others run something newer."""
    theirs = [each.version for each in sightings if each.version]
    if not theirs:
        return Check(name="version", answer="unknown", words=f"talkoot {ours}; no peer said what it runs")
    newer = [each for each in theirs if _release(each) > _release(ours)]
    if 2 * len(newer) <= len(theirs):
        return Check(name="version", answer="yes", words=f"talkoot {ours}")
    return Check(
        name="version",
        answer="no",
        words=f"talkoot {ours}, and {len(newer)} of {len(theirs)} peers run {max(newer, key=_release)}",
        fix="python -m pip install --upgrade talkoot",
        weight="warn",
        cause="old_version",
        measured={"ours": ours, "theirs": theirs},
    )


def nat(sightings: Sequence[Sighting], own: Iterable[str]) -> Check:
    """What stands between this machine and the others. `own`: IP addresses of this machine's interfaces."""
    seen = [parse_address(each.address) for each in sightings if each.address]
    seen = [address for address in seen if address.kind == "ip4"] or seen
    places = sorted({f"{address.host}:{address.port}" for address in seen})
    mine = {ip_address(text) for text in own}
    measured = {"seen_at": places}
    if not seen:
        words = "no peer could say where it sees this machine"
        return Check(name="nat", answer="unknown", words=words, measured=measured)
    if all(ip_address(address.host) in mine for address in seen):
        words = f"none: peers see this machine's own address {seen[0].host}"
        return Check(name="nat", answer="yes", words=words, measured={**measured, "kind": "none"})
    if len(seen) < 2:
        words = f"behind a NAT, seen at {places[0]}; its kind needs a second peer"
        return Check(name="nat", answer="unknown", words=words, measured={**measured, "kind": None})
    if len({(address.host, address.port) for address in seen}) == 1:
        words = f"behind a NAT that maps alike for all ({places[0]}): holes can be punched"
        return Check(name="nat", answer="yes", words=words, measured={**measured, "kind": "same"})
    return Check(
        name="nat",
        answer="no",
        words=f"the router gives each peer another port (symmetric NAT: {', '.join(places[:3])}), so nobody "
        "can dial this machine and no hole can be punched: a relay carries it",
        fix="nothing to do where the swarm has a relay; else forward one TCP port PORT in the router to this "
        "machine: talkoot run --port PORT --announce /ip4/PUBLIC_IP/tcp/PORT",
        weight="client",
        cause="symmetric_nat",
        measured={**measured, "kind": "differs"},
    )


def reachable(sightings: Sequence[Sighting], *, behind_nat: bool) -> Check:
    """Whether others can dial this machine, as they themselves found."""
    asked = [each for each in sightings if each.dialled]
    tried = {port for each in asked for port in each.dialled}
    best = [_best(each.dialled.values()) for each in asked]
    told = [outcome for outcome in best if outcome != "unknown"]
    measured = {"peers": {each.peer_id: {str(k): v for k, v in each.dialled.items()} for each in asked}}
    if not told:
        words = "no peer could try to dial this machine"
        return Check(name="reachable", answer="unknown", words=words, measured=measured)
    good = told.count("reached")
    port = min(tried)
    if good:
        ports = sorted(
            {number for each in asked for number, what in each.dialled.items() if what == "reached"}
        )
        words = f"{good} of {len(told)} peers dialled this machine at TCP port {ports[0]}"
        return Check(name="reachable", answer="yes", words=words, measured=measured)
    silent = told.count("silent") >= told.count("refused")
    how = "nothing comes back, as from a firewall that drops" if silent else "it is refused"
    cause = "firewall_drops" if silent else "port_blocked"
    fix = f"sudo ufw allow {port}/tcp    # or: sudo nft insert rule inet filter input tcp dport {port} accept"
    if behind_nat:
        cause = "nat_unforwarded"
        fix = (
            f"nothing to do where the swarm has a relay; else forward TCP port {port} in the router to this "
            f"machine: talkoot run --port {port}"
        )
    return Check(
        name="reachable",
        answer="no",
        words=f"none of {len(told)} peers can dial this machine at TCP port {port}: {how}",
        fix=fix,
        weight="client",
        cause=cause,
        measured=measured,
    )


def _best(outcomes: Iterable[Outcome]) -> Outcome:
    order: tuple[Outcome, ...] = ("reached", "refused", "other", "silent", "unroutable", "unknown")
    return min(outcomes, key=order.index, default="unknown")


def only_ipv6(addresses: Iterable[str]) -> bool:
    """Whether addresses can be dialled by IPv6 alone."""
    kinds = {_parsed(address).kind for address in addresses}
    return bool(kinds) and kinds <= {"ip6", "dns6"}


def _parsed(text: str) -> Address:
    return parse_address(text)


def _place(text: str) -> str:
    address = _parsed(text)
    host = f"[{address.host}]" if ":" in address.host else address.host
    return f"{host}:{address.port}"


def _host(text: str) -> str:
    return _parsed(text).host


def _seconds(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.2g} s"


def _release(text: str) -> tuple[int, ...]:
    """The numbers at the beginning of a version."""
    numbers = []
    for part in text.split(" ")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits[:9]))
    return tuple(numbers)
