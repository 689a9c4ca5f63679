"""The daemon: one start of one peer. Everything that can be wrong with a start is said in one line.

Exit codes: 0 after an orderly stop, 1 when it could not go on, 2 for what the operator must change, 70 when
it stood still and a supervisor is to start it again, 130 when it was told to stop at once.
"""

import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from typing import Any

import torch
import uvloop

from talkoot.averaging.ledger import voters_hash
from talkoot.dht.errors import ConfigError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity, key_of_peer_id
from talkoot.peer import admission, invite, logs, peers, status
from talkoot.peer.api import ApiServer, BanOrder
from talkoot.peer.belonging import Membership
from talkoot.peer.config.live import Live
from talkoot.peer.disk import KINDS, WORDS, Disk, causes, fault_of
from talkoot.peer.guest import restarting
from talkoot.peer.guest.in_use import InUse
from talkoot.peer.guest.notify import Notifier
from talkoot.peer.guest.orders import PauseOrder
from talkoot.peer.guest.watchdog import Watchdog
from talkoot.peer.history import KEPT
from talkoot.peer.holdings import number_of
from talkoot.peer.issuing import issuing_of
from talkoot.peer.kept_log import kept
from talkoot.peer.leaderboard import Leaderboard
from talkoot.peer.lives import LOOK_S, Lives
from talkoot.peer.membership import membership_of
from talkoot.peer.metrics import Metrics
from talkoot.peer.network_options import network_config
from talkoot.peer.node import Node
from talkoot.peer.observing.services import targets_of
from talkoot.peer.options import RunOptions
from talkoot.peer.probing import asking
from talkoot.peer.probing.services import serve_probes
from talkoot.peer.sampling import Sample, SampleOrder, Sampler
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.watch import DiskWatch, LoopWatch, MemoryWatch

log = logging.getLogger("talkoot.daemon")

INVITE_DAYS = 30
"""How long an invite key lets a newcomer in."""

STOPPED_AT_ONCE = 130
"""Exit code after the second Ctrl-C, as shells have it."""

AT_ONCE_S = 3.0
"""How long the end may take after the second Ctrl-C."""


def run(options: RunOptions) -> int:
    """Run the daemon until it is stopped; returns the exit code. Raises ConfigError before it has begun."""
    paths = StateDir(options.state_dir)
    metrics = Metrics(options.role)
    logs.configure(
        sys.stderr, verbose=options.verbose, as_json=_as_json(options), count=metrics.log_messages.inc
    )
    torch.set_num_threads(1)  # heavy work is split over worker threads; the cores belong to the trainer
    with _interruptible(), ExitStack() as held:
        try:
            identity, membership = _when_the_disk_lets_us(options, paths, held)
            held.enter_context(kept(paths.logs))
            if (reason := restarting.why_again(paths.logs)) is not None:
                metrics.restarts.inc("daemon")
                log.warning("began again by itself: %s (%s)", reason, paths.logs / restarting.KEPT_NAME)
            uvloop.run(_serve(options, paths, identity, membership, metrics))
        except (KeyboardInterrupt, asyncio.CancelledError):
            return STOPPED_AT_ONCE
        except Exception as error:  # noqa: BLE001 - the last line of defence: logged in full, told in one line
            words = _explain(error, paths)
            with suppress(OSError):  # nobody may be reading any more
                sys.stderr.write(f"talkoot: {words}\n")
            return 1
    return 0


def _as_json(options: RunOptions) -> bool | None:
    return None if options.log_format == "auto" else options.log_format == "json"


def _when_the_disk_lets_us(
    options: RunOptions, paths: StateDir, held: ExitStack
) -> tuple[Identity, Membership]:
    """Lock the state directory until `held` ends, and read or write what a start needs.

    Where it holds a state, a fault of the disk that may pass is waited for. Raises ConfigError.
    """
    told = ""
    while True:
        with ExitStack() as until_ready:
            try:
                paths.prepare()
                until_ready.enter_context(paths.lock())
                identity = Identity.load_or_create(paths.key_file)
                membership = membership_of(options, paths, identity)
                held.push(until_ready.pop_all())
                return identity, membership
            except (ConfigError, OSError) as error:
                kind = fault_of(error)
                if kind is None or not OuterStore.exists(paths.outer):
                    raise
                if kind != told:
                    log.warning("%s: waiting until that is over (%s)", WORDS[kind], error)
                told = kind
        time.sleep(LOOK_S)


def _explain(error: Exception, paths: StateDir) -> str:
    """Why the daemon ended, in one line. Raises the operator's errors; logs what nobody foresaw."""
    reasons = list(causes(error))
    for cause in reasons:
        if isinstance(cause, ConfigError):
            raise ConfigError(str(cause)) from error
    for cause in reasons:
        if isinstance(cause, NodeFailed):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno in KINDS:
            return f"cannot write to {cause.filename or paths.path}: {cause.strerror}"
    log.error("this should not have happened", exc_info=error)
    return f"ended by a fault of its own ({type(reasons[0]).__name__}: {reasons[0]}); the log has it in full"


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP end a start as Ctrl-C does, until the event loop handles them.

    Afterwards all that is left to do is to exit, and a signal may cut that short without a word.
    """
    numbers = _stop_signals()
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def _stop_signals() -> list[signal.Signals]:
    """Those that ask us to stop; SIGHUP (the terminal is gone) is none under nohup."""
    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if nohup else [signal.SIGHUP])]


# -- the services ------------------------------------------------------------------------------------


class _View:
    """The node as the local API sees it."""

    def __init__(self, lives: Lives, live: Live, in_use: InUse) -> None:
        self._lives = lives
        self._live = live
        self._in_use = in_use
        self._sampler = Sampler(lives.node.paths.path)
        self._leaderboard = Leaderboard(lives.node.paths)
        self.http_port = 0

    @property
    def node(self) -> Node:
        return self._lives.node

    @property
    def metrics(self) -> Metrics:
        return self.node.metrics

    def status(self) -> dict[str, Any]:
        settings = self._in_use.of(self.node)
        return status.status(self.node, self.http_port) | {"settings": settings}

    def rounds(self, last: int = KEPT) -> list[dict[str, Any]]:
        return self.node.swarming.history.as_json(last) if self.node.swarming else []

    async def invite(self) -> str:
        return await make_invite(self.node)

    def invites(self) -> list[dict[str, Any]]:
        issuing, ledger = issuing_of(self.node)
        return issuing.as_json(ledger)

    async def revoke(self, name: str) -> list[dict[str, Any]]:
        issuing, ledger = issuing_of(self.node)
        return await issuing.revoke(name, ledger)

    async def apply_settings(self) -> dict[str, list[str]]:
        return await self._live.apply()

    def peers(self) -> list[dict[str, Any]]:
        return peers.listed(self.node)

    async def leaderboard(self) -> dict[str, Any]:
        return await self._leaderboard.now()

    def targets(self) -> list[dict[str, Any]]:
        return targets_of(self.node, self.http_port)

    async def peer_metrics(self, peer_id: str) -> bytes:
        return await self.node.observer.metrics(peer_id)

    async def ping(self, peer_id: str) -> dict[str, Any]:
        return await asking.ping(self.node, peer_id)

    async def sightings(self) -> list[dict[str, Any]]:
        return await asking.sightings(self.node)

    async def ban(self, order: BanOrder) -> dict[str, Any]:
        ban = await self.node.conduct.ban(key_of_peer_id(order.peer), order.reason, order.seconds)
        return next(entry for entry in self.peers() if entry["peer_id"] == ban.peer)

    async def unban(self, peer: str) -> bool:
        return await self.node.conduct.unban(key_of_peer_id(peer))

    async def sample(self, order: SampleOrder) -> Sample:
        if self.node.manifest is None or self.node.holdings is None:
            raise ValueError("there is no model yet: try again in a moment")
        return await self._sampler.sample(order, numel=self.node.manifest.model.numel)

    async def pause(self, order: PauseOrder) -> dict[str, Any]:
        await self.node.orders.pause(order)
        return status.state_of(self.node)

    async def resume(self) -> dict[str, Any]:
        await self.node.orders.resume()
        return status.state_of(self.node)

    async def finish(self) -> dict[str, Any]:
        await self.node.orders.finish()
        return status.state_of(self.node)

    async def leave(self) -> dict[str, Any]:
        self.node.stopping.set()
        return status.state_of(self.node) | {"state": "draining", "reason": "user", "detail": ""}


async def make_invite(node: Node) -> str:
    """A new invite to the node's swarm, with a key for one peer if we are a founder.

    Raises ValueError while there is nothing to join, or no address to give.
    """
    if node.state == "paused" and node.reason == "disk":
        raise ValueError(f"this peer is paused: {WORDS.get(node.disk.fault or '', 'its disk fails')}")
    if node.manifest is None or node.holdings is None or not node.network.addresses:
        raise ValueError("this peer is not in the swarm yet: try again in a moment")
    swarm = node.membership.swarm
    key = None
    if node.manifest.swarm.admission != "allowlist" and node.identity.key in node.holdings.rules.founders:
        seed = secrets.token_bytes(32)
        expires = int(time.time()) + INVITE_DAYS * 86400
        key = invite.InviteKey(seed, admission.issue(node.identity, swarm=swarm, seed=seed, expires=expires))
        if node.runner.issuing is not None:
            await node.runner.issuing.add(key.token)
    elif node.manifest.swarm.admission == "invite":
        raise ValueError("only a founder of this swarm can invite")
    final = node.holdings.last_final().value
    anchor = invite.Anchor(
        round=number_of(node.holdings.last_final()),
        digest=final.digest,
        voters=voters_hash(final.voters),
        date=int(time.time()),
    )
    made = invite.Invite(
        swarm=swarm,
        addresses=node.network.addresses[: invite.MAX_ADDRESSES],
        anchor=anchor,
        key=key,
        relays=node.network.relays.told()[: invite.MAX_RELAYS],
    )
    return invite.encode(made, protocol=node.manifest.protocol)


async def _serve(
    options: RunOptions, paths: StateDir, identity: Identity, membership: Membership, metrics: Metrics
) -> None:
    config = network_config(options, membership.bootstrap)
    live = Live(options, lambda: lives.node.settings)

    def make_node() -> Node:
        network = P2PNetwork(identity, config, swarm=membership.swarm, state_dir=paths.path)
        node = Node(live.options, paths, identity, network, membership, metrics)
        serve_probes(node)
        return node

    lives = Lives(make_node)
    memory = MemoryWatch(metrics, children=lambda: _children(lives.node))
    disk = DiskWatch(metrics, paths.path, limit=lambda: lives.node.settings.now.disk_bytes)
    view = _View(lives, live, InUse(live, memory, disk))
    notifier = Notifier()
    watchdog = Watchdog(
        paths.logs,
        notifier=notifier,
        state=lambda: ": ".join(filter(None, (lives.node.state_now, lives.node.reason))),
        leaving=lambda: lives.node.stopping.is_set(),
    )
    watchdog.begin()
    api = ApiServer(view, port=options.http_port, token=secrets.token_urlsafe(32))

    api_started = asyncio.get_running_loop().create_future()

    async def announce_api() -> None:
        view.http_port = port = await api_started
        log.info("talkoot %s, peer %s, http://127.0.0.1:%d/", version("talkoot"), identity.peer_id, port)
        api.set_token(await Disk(paths.path).run(paths.announce_api, port))
        notifier.ready()

    _handle_signals(lives)
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(watchdog.run()),
            group.create_task(api.run(started=api_started.set_result)),
            group.create_task(announce_api()),
            group.create_task(LoopWatch(metrics).run()),
            group.create_task(memory.run()),
            group.create_task(disk.run()),
        ]
        await lives.run()
        for helper in helpers:
            helper.cancel()


def _children(node: Node) -> dict[str, int | None]:
    """Process ids of those that run."""
    p2pd = node.network.p2pd_pid if isinstance(node.network, P2PNetwork) else None
    return {"trainer": node.training.pid, "p2pd": p2pd}


def _handle_signals(lives: Lives) -> None:
    """First Ctrl-C: finish the step, save, leave politely. Second: stop at once."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None

    def stop() -> None:
        node = lives.node
        if not node.stopping.is_set():
            log.info("stopping; once more to stop at once")
            node.stopping.set()
            return
        for pid in _children(node).values():
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        task.cancel()  # to remove what would be left behind
        loop.call_later(AT_ONCE_S, os._exit, STOPPED_AT_ONCE)

    for number in _stop_signals():
        loop.add_signal_handler(number, stop)
