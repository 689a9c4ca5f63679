"""One peer of a swarm, from its start to its end: network, state, rounds, trainer, announcements.

Order of a start: network, manifest, trainer, outer state, rounds; the trainer loads while the state comes.
Everything runs under one TaskGroup and ends with it.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import Literal

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.compression.arithmetic import self_test
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.dht.network import Network
from talkoot.peer import clock, trust
from talkoot.peer.announcing import Announcing
from talkoot.peer.audits.services import begin_audits, proofs_of
from talkoot.peer.belonging import Membership
from talkoot.peer.checkpoints import Checkpoints, policy_of
from talkoot.peer.conduct import Conduct
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import WORDS, Disk
from talkoot.peer.founding import TOKENIZER_FILE
from talkoot.peer.guest.holds import Holds
from talkoot.peer.guest.orders import Orders
from talkoot.peer.guest.quota import Quota
from talkoot.peer.guest.resting import Resting
from talkoot.peer.guest.room import Room, require_limit
from talkoot.peer.guest.senses.service import Senses
from talkoot.peer.guest.services import begin_guest
from talkoot.peer.guest.settings import Current
from talkoot.peer.guest.words import Reason, State
from talkoot.peer.holdings import Holdings
from talkoot.peer.issuing import begin_issuing
from talkoot.peer.joining import Joiner
from talkoot.peer.judging.services import begin_judging, tell_news
from talkoot.peer.leaving import leave
from talkoot.peer.links import Links
from talkoot.peer.manifest import Manifest
from talkoot.peer.measuring import Measuring
from talkoot.peer.metrics import Metrics
from talkoot.peer.observing.services import observer_of
from talkoot.peer.obtaining import (
    FIRST_CONTACT_S,
    RETRY_PAUSE_S,
    bring_up_to_date,
    obtain_state,
    obtain_tokenizer,
    require_place,
)
from talkoot.peer.options import RunOptions
from talkoot.peer.protocol import PROTOCOL_VERSION
from talkoot.peer.reach import Reach
from talkoot.peer.recollection import Recollection, recollect
from talkoot.peer.requirements import require_admission, require_own_data, require_protocol
from talkoot.peer.rules_of import rules_of
from talkoot.peer.runner import Runner
from talkoot.peer.serving import Gate, serve_rate
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed, Swarming
from talkoot.peer.tensor_names import tensor_names
from talkoot.peer.trainer.handle import MakeTrainer
from talkoot.peer.trainer.process import TrainerProcess
from talkoot.peer.trainer_spec import trainer_spec
from talkoot.peer.training import Training
from talkoot.peer.transfer import StateServer
from talkoot.peer.uplink import UploadMeter
from talkoot.peer.watching import begin_watching

log = logging.getLogger("talkoot.node")

WARN_S = 60.0
"""A disk that refuses again within this time is no news."""


class Node:
    """One peer. `run` once."""

    def __init__(
        self,
        options: RunOptions,
        paths: StateDir,
        identity: Identity,
        network: Network,
        membership: Membership,
        metrics: Metrics,
        *,
        make_trainer: MakeTrainer = TrainerProcess,
        make_rules: Callable[[Manifest], Rules] = rules_of,
        on_head: Callable[[Certificate], None] = lambda _certificate: None,
    ) -> None:
        """Registers what it serves; nothing runs yet."""
        self.options = options
        self.paths = paths
        self.identity = identity
        self.network = network
        self.membership = membership
        self.metrics = metrics
        self.resting = Resting(self)
        self.holds = Holds(self.resting.changed)
        self.orders = Orders(self)
        self.settings = Current(options.guest)
        self.manifest = membership.manifest
        self._make_rules = make_rules
        self._on_head = on_head
        self.state: State = "starting"
        self.reason: Reason | Literal[""] = ""
        self.detail = ""
        """What there is to say of the reason, or of a state without one, for people."""
        self.until: float | None = None
        """When it goes on by itself, if that is known; Unix time."""
        self._meant: tuple[State, str] = "starting", ""
        """State and detail but for what holds it."""
        self._warned: dict[str, float] = {}
        """When it was last warned of a disk, by what was wrong with it."""
        self._told: Ledger | None = None
        """What audits had come to when it was last looked at."""
        self.started_s = clock.now()
        self.swarming: Swarming | None = None
        self.contributor: Contributor | None = None
        self.holdings: Holdings | None = None
        self.checkpoints: Checkpoints | None = None
        self.disk = Disk(paths.path, self._disk_changed)
        self.room = Room(self)
        self.training = Training(make_trainer, metrics, self.disk, self._enter, self._may_train)
        self.joiner = Joiner(network, membership.swarm, paths, membership.anchor, disk=self.disk)
        self.joiner.tell(metrics.follow_download, metrics.checkpoint_fetch_duration.observe)
        self.stopping = asyncio.Event()
        self.news = asyncio.Event()
        """The others' announcements were read, or there is a new outer state."""
        self.runner = Runner()
        self.links = Links(
            network,
            membership.swarm,
            on_control=self.runner.on_control,
            on_bulk=self.runner.on_bulk,
            on_change=self._links_changed,
            upload=UploadMeter(options.uplink),
        )
        self.announcing = Announcing(self)
        self.runner.attach(self.links)
        self.reach = Reach(self)
        self.gate = Gate(self._serve_rate, lambda: self.holds.costly)
        self.conduct = Conduct(network, paths.bans, metrics)
        self.proofs = proofs_of(self)
        self.observer = observer_of(self)
        StateServer(
            network,
            membership.swarm,
            manifest=lambda: self.manifest.canonical() if self.manifest else None,
            tokenizer=self._tokenizer,
            holdings=lambda: self.holdings,
            gate=self.gate,
        )
        self.quota = Quota(self)
        self.measuring = Measuring(self)
        metrics.source = self.measuring.look
        self.runner.pulse.on_round_trip = metrics.round_trips.observe
        self._group: asyncio.TaskGroup | None = None
        self.senses = Senses(self.holds, self.settings, self._device, gpu_file=options.gpu_readings)

    # -- life ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Be a peer until `stopping` is set. Raises ConfigError, NodeFailed (perhaps in a group)."""
        started = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                group.create_task(self.network.run(started=started.set))
                group.create_task(self._until_stopped())
                await started.wait()
                await self._begin(group)
        except* _Finished:
            pass
        finally:
            self._group = None
            self.measuring.look_now()  # what the next life in this process counts begins at 0

    async def _begin(self, group: asyncio.TaskGroup) -> None:
        """Obtain what is missing while the trainer loads, then take part in rounds."""
        self.conduct.begin(await self.disk.run(self.conduct.load))
        group.create_task(self.conduct.run())
        group.create_task(self.reach.run())
        await self.orders.load()
        begin_guest(self, group)
        await self._meet(self.membership.bootstrap)
        self._enter("syncing")
        manifest = await self._obtain_manifest()
        rules = self._make_rules(manifest)
        try:
            await asyncio.to_thread(_self_test_once)
        except ArithmeticError as error:
            raise NodeFailed(f"this machine computes differently, it cannot take part: {error}") from error
        require_place(self.paths, rules)
        require_limit(manifest, self.settings.now.disk_bytes)
        if not self.options.observes:
            make_spec = partial(trainer_spec, data_base=self.membership.data_base)
            spec = await self.disk.run(make_spec, manifest, self.options, self.paths, self.identity.key)
            self.training.begin(spec, group)
        self.runner.issuing = await begin_issuing(self, rules)
        holdings, contributor, recollection = await self._obtain_state(manifest, rules)
        self.swarming = Swarming(
            manifest,
            rules,
            self.identity,
            self.network,
            links=self.links,
            runner=self.runner,
            joiner=self.joiner,
            holdings=holdings,
            contributor=contributor,
            metrics=self.metrics,
            disk=self.disk,
            role=self.reach.role,
            on_head=self._head,
        )
        self.swarming.recollection = recollection
        view, key = self.swarming.view, self.identity.key
        self.joiner.standing = lambda number: view.standing({*self.links.connected, key}, number)
        self.swarming.hold(self.holds.rests)
        self.checkpoints = Checkpoints(
            self.paths.checkpoints,
            manifest,
            policy_of(manifest, self.options),
            self.metrics,
            names=lambda: tensor_names(manifest, self.paths.path),
            make_room=self.room.make,
        )
        self._head(holdings.head)
        self.runner.auditor = await begin_audits(self, rules, holdings, group)
        self.runner.watcher = begin_watching(self, rules, group)
        self.runner.judge = begin_judging(self, rules, holdings, group)
        self.runner.work_for(self.swarming)
        if self.options.observes:
            self._enter("observing")
            self.metrics.build(backend="none", protocol=PROTOCOL_VERSION)
        self.training.take_part()
        group.create_task(self.links.run())
        group.create_task(self.announcing.run())
        group.create_task(self.checkpoints.run())
        group.create_task(self.swarming.run())

    async def _obtain_state(
        self, manifest: Manifest, rules: Rules
    ) -> tuple[Holdings, Contributor, Recollection]:
        """The outer state of now. The trainer works from one that was fetched as soon as it is here."""
        expects_others = bool(self.membership.bootstrap)
        obtained = await obtain_state(
            self.paths,
            rules,
            manifest,
            self.joiner,
            anchor=self.membership.anchor,
            candidates=self._candidates,
            key=self.identity.key,
            expects_others=expects_others,
            disk=self.disk,
        )
        self.holdings = holdings = obtained.holdings
        self.contributor = contributor = await self.disk.run(
            Contributor,
            self.paths,
            holdings,
            self.identity,
            self.membership.admission,
            self.links.upload,
            self.disk,
        )
        if obtained.fetched:
            self.training.attach(contributor, manifest.round.eval_windows)
        await bring_up_to_date(
            obtained,
            contributor,
            self.joiner,
            candidates=self._candidates,
            key=self.identity.key,
            expects_others=expects_others,
            caught_up=self.metrics.caught_up,
        )
        await contributor.take_up()
        self.training.attach(contributor, manifest.round.eval_windows)
        recollection = await self.disk.run(recollect, holdings, self.identity.key, first=obtained.first)
        if self.identity.key in holdings.ledger.voters and recollection.memory != "whole":
            log.warning("what this peer signed before is lost: it votes again after the next final round")
        return holdings, contributor, recollection

    async def _until_stopped(self) -> None:
        await self.stopping.wait()
        self._enter("draining")
        await leave(self)
        raise _Finished

    def _enter(self, state: State, detail: str = "") -> None:
        if not self.leaves:
            self._meant = state, detail
            self.show()

    @property
    def leaves(self) -> bool:
        """Whether it is about to end, whatever happens."""
        return self._meant[0] == "draining"

    def show(self) -> None:
        """The state is as it is meant, but for what holds it."""
        before = (self.state, self.reason)
        (self.state, self.detail), self.until = self._meant, None
        self.reason = "user" if self.leaves else ""
        hold = self.holds.shown
        if hold is not None and not self.leaves:
            self.state, self.reason, self.detail, self.until = "paused", hold.reason, hold.words, hold.until
        if (self.state, self.reason) == before:
            return
        self.metrics.state(self.state, self.reason)
        reason, detail = f": {self.reason}" if self.reason else "", f" ({self.detail})" if self.detail else ""
        log.info("%s%s%s", self.state, reason, detail)
        if self.state == "training":
            self.announcing.soon()  # a round waits for the steps of those who say that they train

    def _disk_changed(self, kind: str | None) -> None:
        """The disk refuses what cannot wait (see `talkoot.peer.disk`), or takes it again."""
        if kind is not None:
            self.metrics.disk_faults.inc(kind)
            recent = clock.now() - self._warned.get(kind, -math.inf) < WARN_S
            log.log(
                logging.INFO if recent else logging.WARNING,
                "%s (%s): paused until that is over; nothing is lost",
                WORDS[kind],
                self.paths.path,
            )
            self._warned[kind] = clock.now()
        if self._group is not None:
            self.training.hold(kind is not None)
        if kind is not None:
            self.holds.put("disk", WORDS[kind])
        else:
            self.holds.lift("disk")
        self.announcing.soon()

    def pause(self, kind: str, why: Exception) -> None:
        """Show that the disk has ended this life, which is over."""
        self.training.ended()
        self.disk.refused(self, kind, why)

    def go_on_from(self, before: "Node") -> None:
        """Count on from where a node that ran in the same process has ended."""
        self.started_s = before.started_s
        self.training.go_on_from(before.training)

    @property
    def state_now(self) -> State:
        """The state as it is shown: while training, whether a round is being exchanged."""
        exchanging = self.state == "training" and self.swarming is not None and self.swarming.exchanging
        return "exchanging" if exchanging else self.state

    @property
    def announced_state(self) -> State:
        """What the others are told: who finishes a round with them before it rests or leaves is there."""
        exchanging = self.swarming is not None and self.swarming.exchanging
        return "exchanging" if exchanging and self.state in ("paused", "draining") else self.state_now

    def _device(self) -> str:
        return self.training.device or self.options.device

    def _serve_rate(self) -> float:
        exchanging = self.swarming is not None and self.swarming.exchanging
        return serve_rate(
            self.options.serve_rate,
            self.links.upload.rate,
            exchanging=exchanging,
            all_traffic=self.settings.now.upload,
        )

    def _head(self, certificate: Certificate) -> None:
        self.news.set()
        self.orders.round_over()
        if self.holdings is not None:
            self._told = tell_news(self, certificate.value, self._told, self.holdings.ledger)
        if self.checkpoints is not None and self.holdings is not None:
            self.checkpoints.news(self.holdings)
        self._on_head(certificate)

    def _links_changed(self, peers: frozenset[bytes]) -> None:
        if self.swarming is not None and peers - self.swarming.view.known:
            self.announcing.stranger()
        self.runner.links_changed(peers)

    # -- manifest and state --------------------------------------------------------------------------

    async def _meet(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            _, _, peer_id = address.rpartition("/p2p/")
            await self.network.add_addresses(key_of_peer_id(peer_id), [address])

    async def _candidates(self) -> list[bytes]:
        """Whom to ask: those whom we were told of, then everyone in the directory."""
        told = [key_of_peer_id(address.rpartition("/p2p/")[2]) for address in self.membership.bootstrap]
        announced = (await self.network.directory.peers()).items()
        return [*told, *(key for key, record in announced if record.role != "relay")]

    async def _obtain_manifest(self) -> Manifest:
        if self.manifest is None:
            deadline = clock.now() + FIRST_CONTACT_S
            while (manifest := await self.joiner.manifest(await self._candidates())) is None:
                if clock.now() > deadline:
                    raise NodeFailed(
                        "no peer of the invite can be reached: is one of them running, and is the network "
                        "between you open? Ask for a new invite if they have moved"
                    )
                await asyncio.sleep(RETRY_PAUSE_S)
            self.manifest = manifest
            self.paths.save_manifest(manifest.canonical())
            self.reach.follow(manifest)
        require_protocol(self.manifest)
        self.metrics.node(swarm_name=self.manifest.swarm.name)
        if not OuterStore.exists(self.paths.outer):
            if not self.options.observes:
                require_admission(self.manifest, self.identity, self.membership.admission)
            if self.membership.anchor is not None:
                trust.require_recent_invite(self.manifest, self.membership.anchor, time.time())
        await self._obtain_tokenizer(self.manifest)
        if not self.options.observes:
            require_own_data(self.manifest, self.membership.data_base, self.options.data_paths)
        return self.manifest

    async def _obtain_tokenizer(self, manifest: Manifest) -> None:
        expected = manifest.data.tokenizer_hash
        if expected:
            path = self.paths.path / TOKENIZER_FILE
            ask = partial(obtain_tokenizer, path, expected, self.joiner, candidates=self._candidates)
            await self.disk.until_done(ask)

    def _tokenizer(self) -> bytes | None:
        path = self.paths.path / TOKENIZER_FILE
        return path.read_bytes() if path.exists() else None

    async def _may_train(self) -> None:
        """Wait until the swarm is complete enough to begin at all."""
        assert self.manifest is not None
        assert self.holdings is not None
        needed = self.manifest.swarm.start_peers
        try:
            while self.holdings.ledger.round == 0:
                self.news.clear()
                if self.swarming is not None:
                    present = 1 + self.swarming.view.ready(self.swarming.holdings.digest)
                    if present >= needed:
                        break
                    self.holds.put("nothing_to_do", f"{present} of {needed} peers are here")
                await self.news.wait()
        finally:
            self.holds.lift("nothing_to_do")


class _Finished(Exception):  # noqa: N818 - ends the node's TaskGroup
    """An orderly stop is through."""


_self_test_once = cache(self_test)
