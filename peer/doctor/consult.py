"""All checks in their order, each told as soon as it is known, and the verdict. Ends in about a minute."""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import Any, Protocol

import msgspec
import psutil

from talkoot.dht.addresses import AddressBook
from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError
from talkoot.dht.multiaddr import parse_address
from talkoot.dht.port import FILE, check_port, remembered
from talkoot.peer import presets
from talkoot.peer.doctor import connection, place
from talkoot.peer.doctor.machine import Device, Speed, try_model
from talkoot.peer.doctor.report import Check, Conclusion, conclude
from talkoot.peer.doctor.trying import try_addresses
from talkoot.peer.invite import Invite, OtherProtocolError, decode
from talkoot.peer.manifest import Manifest, from_canonical
from talkoot.peer.probing.examine import Sighting
from talkoot.peer.small_files import read_small
from talkoot.peer.statedir import StateDir

log = logging.getLogger("talkoot.doctor")

STEPS_S = 8.0
"""For steps of the real trainer."""

MAX_BOOTSTRAP = 8
"""Addresses that are tried."""


class Daemon(Protocol):
    """A daemon that runs on the state directory, and answers."""

    def status(self) -> dict[str, Any]:
        """What it shows of itself."""

    def examine(self) -> list[dict[str, Any]]:
        """What other peers see of its connection, as `Sighting`s."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What the doctor is asked about."""

    paths: StateDir
    config: NetworkConfig
    """As `talkoot run` would have it, but for the peers to meet."""
    device: Device
    invite: Invite | None = None
    other_protocol: OtherProtocolError | None = None
    """The invite is for another version of the protocol."""
    relays: tuple[str, ...] = ()


@dataclass(slots=True)
class _Findings:
    """What later checks need of earlier ones."""

    manifest: Manifest | None = None
    real: bool = False
    """The manifest is a swarm's, no preset."""
    sightings: list[Sighting] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    """Of the swarm's trainers, steps/s."""
    met: bool = False
    """Somebody of the swarm was looked at."""


class Doctor:
    """One consultation. `run` once."""

    def __init__(self, question: Question, tell: Callable[[Check], None], daemon: Daemon | None) -> None:
        """`tell` gets each check as soon as it is known."""
        self._question = question
        self._tell = tell
        self._daemon = daemon
        self._found = _Findings()
        self.checks: list[Check] = []

    async def run(self) -> Conclusion:
        """Look at everything. Raises ConfigError for what is no answer but wrong usage."""
        self._look_at_place()
        if not any(check.cause in ("p2pd", "protocol", "state_of_other_swarm") for check in self.checks):
            await self._look_at_swarm()
        await self._look_at_machine()
        return conclude(self.checks, met=self._found.met)

    def _say(self, *checks: Check | None) -> None:
        for check in checks:
            if check is not None:
                self.checks.append(check)
                self._tell(check)

    # -- this machine --------------------------------------------------------------------------------

    def _look_at_place(self) -> None:
        question = self._question
        if question.other_protocol is not None:
            error = question.other_protocol
            self._say(connection.other_protocol(str(error), error.theirs))
        self._say(
            place.python(),
            place.state_directory(
                question.paths,
                daemon=self._daemon is not None,
                swarm=question.invite.swarm if question.invite is not None else None,
            ),
            place.key(question.paths),
        )
        if self._daemon is None:
            self._say(place.port(question.config, self._port()))
        else:
            self._say(Check(name="port", answer="yes", words="not tried: the running daemon listens"))
        addresses = question.invite.addresses if question.invite is not None else ()
        self._say(place.ipv6(needed=connection.only_ipv6(addresses)))

    def _port(self) -> int:
        """Where `talkoot run` would listen; 0: anywhere."""
        return self._question.config.port or remembered(self._question.paths.path / FILE)

    async def _look_at_machine(self) -> None:
        found, device = self._found, self._question.device
        manifest = found.manifest or _kept_manifest(self._question.paths)
        found.real = manifest is not None
        self._say(place.disk(self._question.paths, manifest))
        speed = Speed()
        if self._daemon is not None:
            self._say(*_of_status(await asyncio.to_thread(self._daemon.status), speed))
        else:
            async for check in try_model(manifest or _sample(), device, speed, seconds=STEPS_S):
                sample = check.name == "model" and manifest is None
                words = f"a sample, no swarm's model: {check.words}" if sample else check.words
                self._say(msgspec.structs.replace(check, words=words))
        if any(check.name == "model" and check.answer == "no" for check in self.checks):
            return
        from talkoot.peer.doctor import rounds  # imports torch

        known = manifest or _sample(speed.numel or 0)
        steps = rounds.training(known, found.speeds, speed.step_s, real=found.real)
        self._say(steps)
        if found.met and manifest is not None:
            links = rounds.line(manifest, len(found.speeds), *_rates(found.sightings))
            self._say(*links, rounds.whole(manifest, steps, links))

    # -- the swarm -----------------------------------------------------------------------------------

    async def _look_at_swarm(self) -> None:
        """Whether it can be reached, and what its peers see of us."""
        if self._daemon is not None:
            await self._ask_daemon(self._daemon)
        else:
            bootstrap, swarm = self._bootstrap()
            if swarm is None or not bootstrap:
                return
            await self._visit(bootstrap, swarm)
        found = self._found
        asked = [each for each in found.sightings if each.answered]
        self._say(
            connection.clock(asked),
            connection.protocol(asked),
            connection.version(asked, version("talkoot")),
            kind := connection.nat(asked, _own_addresses()),
        )
        behind = bool(kind.measured["seen_at"]) and kind.measured.get("kind") != "none"
        reachable = connection.reachable(asked, behind_nat=behind)
        self._say(reachable)
        self._say(connection.relays(await try_addresses(self._relays())))

    def _relays(self) -> list[str]:
        """Those that the operator, the invite or the manifest names."""
        question, manifest = self._question, self._found.manifest
        named = [*question.relays, *(question.invite.relays if question.invite is not None else ())]
        return _dialable([*named, *(manifest.swarm.relays if manifest is not None else ())])

    async def _ask_daemon(self, daemon: Daemon) -> None:
        status = await asyncio.to_thread(daemon.status)
        self._found.met = True
        self._found.speeds = [float(peer.get("speed") or 0) for peer in status.get("peers") or ()]
        answers = await asyncio.to_thread(daemon.examine)
        self._found.sightings = [msgspec.convert(answer, Sighting, strict=False) for answer in answers]

    async def _visit(self, bootstrap: Sequence[str], swarm: bytes) -> None:
        from talkoot.peer.doctor.visit import Seen, visit  # imports hivemind and torch

        outcomes = await try_addresses(bootstrap)
        self._say(connection.invited(outcomes))
        self._found.met = True
        if "reached" not in outcomes.values():
            return
        seen = Seen()
        await visit(self._config(bootstrap), swarm, seen)
        found = self._found
        found.sightings, found.manifest = seen.sightings, seen.manifest
        trainers = [each for each in seen.records.values() if each.role not in ("observer", "relay")]
        found.speeds = [record.speed for record in trainers]
        if seen.problem:
            log.info("%s", seen.problem)

    def _config(self, bootstrap: Sequence[str]) -> NetworkConfig:
        """As `talkoot run` would be on the network; at any port where its own is taken."""
        config = replace(self._question.config, bootstrap=tuple(bootstrap), port=self._port())
        try:
            check_port(config)
        except ConfigError:
            return replace(config, port=0)
        return config

    def _bootstrap(self) -> tuple[list[str], bytes | None]:
        """Addresses of peers to meet, and the swarm: the invite's, or what the state directory remembers."""
        given, paths = self._question.invite, self._question.paths
        if given is None and (text := read_small(paths.invite_file)) is not None:
            try:
                given = decode(text.decode("ascii", "replace"))
            except ValueError as error:
                log.info("the invite in %s is not read: %s", paths.path, error)
        if given is not None:
            return _dialable(given.addresses), given.swarm
        book = AddressBook()
        book.load(paths.peers_file)
        known = [str(replace(found[0], peer=peer)) for peer, found in book.newest().items()]
        return _dialable(known), paths.swarm_id


def _dialable(addresses: Iterable[str]) -> list[str]:
    """Those that this talkoot can dial, at most so many."""
    good = []
    for text in addresses:
        try:
            parse_address(text)
        except ValueError:
            continue
        good.append(text)
    return list(dict.fromkeys(good))[:MAX_BOOTSTRAP]


def _own_addresses() -> list[str]:
    """IP addresses of this machine's interfaces."""
    return [
        entry.address.partition("%")[0]
        for entries in psutil.net_if_addrs().values()
        for entry in entries
        if entry.family in (socket.AF_INET, socket.AF_INET6)
    ]


def _kept_manifest(paths: StateDir) -> Manifest | None:
    """That of the state directory, if it can be read."""
    try:
        data = paths.load_manifest()
        return from_canonical(data) if data is not None else None
    except ValueError as error:  # a ConfigError is one
        log.info("no manifest in %s: %s", paths.path, error)
        return None


def _sample(numel: int = 0) -> Manifest:
    """Of no swarm: the smallest preset, to see that this machine can train at all."""
    draft = presets.make("tiny", name="sample")
    return replace(draft, model=replace(draft.model, numel=numel))


def _of_status(status: dict[str, Any], speed: Speed) -> list[Check]:
    """What the running daemon says of its device, in place of a trial. Fills `speed`."""
    device, rate = status.get("device"), status.get("steps_per_second") or 0.0
    if not device:
        words = "not tried: the running daemon has the device, and does not train now"
        return [Check(name="model", answer="unknown", words=words)]
    speed.numel, speed.micro_batch = status.get("numel"), status.get("micro_batch")
    speed.step_s = 1 / rate if rate > 0 else None
    words = f"not tried: the running daemon trains on {device}, {speed.micro_batch} sequences at once"
    return [Check(name="model", answer="yes", words=words)]


def _rates(sightings: Sequence[Sighting]) -> tuple[float | None, float | None]:
    """The best of what was measured each way: a peer may be slower than this machine."""
    ups = [each.upload for each in sightings if each.upload is not None]
    downs = [each.download for each in sightings if each.download is not None]
    return max(ups, default=None), max(downs, default=None)
