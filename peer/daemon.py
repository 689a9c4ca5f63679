"""The daemon: one start of one peer. Everything that can be wrong with a start is said in one line.

Exit codes: 0 after an orderly stop, 1 when it could not go on, 2 for what the operator must change.
"""

import asyncio
import logging
import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import uvloop

from talkoot.averaging.ledger import voters_hash
from talkoot.dht.config import NetworkConfig
from talkoot.dht.errors import ConfigError
from talkoot.dht.host import P2PNetwork
from talkoot.dht.identity import Identity
from talkoot.peer import admission, invite, logs, manifest_file, status
from talkoot.peer.api import ApiServer
from talkoot.peer.founding import found
from talkoot.peer.holdings import number_of
from talkoot.peer.metrics import Metrics
from talkoot.peer.node import Membership, Node, load_manifest
from talkoot.peer.options import RunOptions
from talkoot.peer.statedir import StateDir
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.watch import LoopWatch, MemoryWatch

log = logging.getLogger("talkoot.daemon")

INVITE_DAYS = 30
"""How long an invite key lets a newcomer in."""

BASE_FILE = "data_base"
"""Remembers the folder of the manifest that this user founded or joined with."""

ADMISSION_FILE = "admission"
"""Our proof of invitation."""

INVITE_FILE = "invite"
"""The invite that we joined with: its anchor and addresses serve again after a restart."""


def run(options: RunOptions) -> int:
    """Run the daemon until it is stopped; returns the exit code. Raises ConfigError before it has begun."""
    paths = StateDir(options.state_dir)
    paths.prepare()
    metrics = Metrics()
    logs.configure(sys.stderr, verbose=options.verbose, count=metrics.log_messages.inc)
    torch.set_num_threads(1)  # heavy work is split over worker threads; the cores belong to the trainer
    with paths.lock():
        identity = Identity.load_or_create(paths.key_file)
        membership = _membership(options, paths, identity)
        failure: NodeFailed | None = None
        try:
            uvloop.run(_serve(options, paths, identity, membership, metrics))
        except* ConfigError as group:
            raise ConfigError(str(_first(group))) from None
        except* NodeFailed as group:
            failure = NodeFailed(str(_first(group)))
    if failure is not None:
        sys.stderr.write(f"talkoot: {failure}\n")
        return 1
    return 0


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


# -- which swarm -------------------------------------------------------------------------------------


def _membership(options: RunOptions, paths: StateDir, identity: Identity) -> Membership:
    if options.join is not None:
        return _joining(options, paths, identity)
    if options.manifest is not None:
        return _from_manifest(options, paths, identity)
    return _returning(options, paths)


def _from_manifest(options: RunOptions, paths: StateDir, identity: Identity) -> Membership:
    assert options.manifest is not None
    manifest, base = manifest_file.load(options.manifest)
    known = load_manifest(paths)
    if not manifest.sealed:
        if known is not None:
            _require_same_draft(manifest, known, paths)
            manifest = known
        else:
            log.info("founding a swarm from %s", options.manifest)
            manifest = found(manifest, base, paths, identity)
            manifest_file.save(manifest, paths.path / "swarm.toml")
            log.info(
                "swarm %s founded; its sealed manifest is %s",
                manifest.swarm_id.hex()[:12],
                paths.path / "swarm.toml",
            )
    paths.claim(manifest.swarm_id)
    paths.save_manifest(manifest.canonical())
    (paths.path / BASE_FILE).write_text(str(base.resolve()))
    return _returning(options, paths)


def _require_same_draft(draft: Any, sealed: Any, paths: StateDir) -> None:
    """A state directory that was founded from a draft goes on with it, but not with another one."""
    from dataclasses import replace

    as_draft = replace(
        sealed,
        swarm=replace(sealed.swarm, founders=draft.swarm.founders),
        model=replace(sealed.model, layout=draft.model.layout, numel=draft.model.numel),
        data=replace(sealed.data, tokenizer=draft.data.tokenizer, tokenizer_hash=draft.data.tokenizer_hash),
    )
    if as_draft != draft:
        raise ConfigError(
            f"{paths.path} holds a swarm that was founded from another manifest: choose another --state-dir, "
            "or leave the manifest as it was"
        )


def _joining(options: RunOptions, paths: StateDir, identity: Identity) -> Membership:
    assert options.join is not None
    try:
        text = invite.decode(options.join)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    paths.claim(text.swarm)
    if text.key is not None:
        proof = admission.prove(text.key.token, swarm=text.swarm, seed=text.key.seed, key=identity.key)
        _write_private(paths.path / ADMISSION_FILE, proof)
    _write_private(paths.path / INVITE_FILE, options.join.encode())
    return _returning(options, paths)


def _write_private(path: Path, data: bytes) -> None:
    from talkoot.peer.files import atomic_write

    try:
        atomic_write(path, data)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _returning(options: RunOptions, paths: StateDir) -> Membership:
    """What the state directory says by now."""
    swarm = paths.swarm_id
    if swarm is None:
        raise ConfigError(f"{paths.path} holds no swarm yet: give a manifest or --join INVITE")
    manifest = load_manifest(paths)
    if manifest is not None and manifest.swarm_id != swarm:
        raise ConfigError(f"{paths.manifest_file} is not the manifest of swarm {swarm.hex()[:12]}")
    joined = _read(paths.path / INVITE_FILE)
    text = invite.decode(joined.decode()) if joined else None
    base = _read(paths.path / BASE_FILE)
    addresses = (*options.bootstrap, *(text.addresses if text else ()))
    return Membership(
        swarm=swarm,
        manifest=manifest,
        bootstrap=tuple(dict.fromkeys(addresses)),
        anchor=text.anchor if text else None,
        admission=_read(paths.path / ADMISSION_FILE) or b"",
        data_base=Path(base.decode()) if base else None,
    )


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


# -- the services ------------------------------------------------------------------------------------


def _network_config(options: RunOptions, bootstrap: tuple[str, ...]) -> NetworkConfig:
    presets = {"home": NetworkConfig.home, "lan": NetworkConfig.lan, "test": NetworkConfig.test}
    changes: dict[str, object] = {"port": options.port, "bootstrap": bootstrap, "announce": options.announce}
    if options.listen:
        changes["listen"] = options.listen
    return presets[options.profile](**changes)


class _View:
    """The node as the local API sees it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.http_port = 0

    @property
    def metrics(self) -> Metrics:
        return self.node.metrics

    def status(self) -> dict[str, Any]:
        return status.status(self.node, self.http_port)

    def rounds(self) -> list[dict[str, Any]]:
        return self.node.swarming.history.as_json() if self.node.swarming else []

    async def invite(self) -> str:
        return make_invite(self.node)

    async def leave(self) -> None:
        self.node.stopping.set()


def make_invite(node: Node) -> str:
    """A new invite to the node's swarm, with a key for one peer if we are a founder.

    Raises ValueError while there is nothing to join, or no address to give.
    """
    if node.manifest is None or node.holdings is None or not node.network.addresses:
        raise ValueError("this peer is not in the swarm yet: try again in a moment")
    swarm = node.membership.swarm
    key = None
    if node.identity.key in node.holdings.rules.founders:
        seed = secrets.token_bytes(32)
        expires = int(time.time()) + INVITE_DAYS * 86400
        key = invite.InviteKey(seed, admission.issue(node.identity, swarm=swarm, seed=seed, expires=expires))
    elif node.manifest.swarm.admission == "invite":
        raise ValueError("only a founder of this swarm can invite")
    final = node.holdings.last_final().value
    anchor = invite.Anchor(
        round=number_of(node.holdings.last_final()),
        digest=final.digest,
        voters=voters_hash(final.voters),
        date=int(time.time()),
    )
    made = invite.Invite(swarm=swarm, addresses=node.network.addresses[:8], anchor=anchor, key=key)
    return invite.encode(made)


async def _serve(
    options: RunOptions, paths: StateDir, identity: Identity, membership: Membership, metrics: Metrics
) -> None:
    config = _network_config(options, membership.bootstrap)
    network = P2PNetwork(identity, config, swarm=membership.swarm, state_dir=paths.path)
    node = Node(options, paths, identity, network, membership, metrics)
    view = _View(node)
    api = ApiServer(view, port=options.http_port, token=secrets.token_urlsafe(32))

    def api_started(port: int) -> None:
        view.http_port = port
        api.set_token(paths.announce_api(port))
        log.info("talkoot %s, peer %s, http://127.0.0.1:%d/", version("talkoot"), identity.peer_id, port)

    memory = MemoryWatch(
        metrics,
        children=lambda: {
            "trainer": node.trainer.pid if node.trainer else None,
            "p2pd": network.p2pd_pid,
        },
    )
    _handle_signals(node)
    async with asyncio.TaskGroup() as group:
        helpers = [
            group.create_task(api.run(started=api_started)),
            group.create_task(LoopWatch(metrics).run()),
            group.create_task(memory.run()),
        ]
        await node.run()
        for helper in helpers:
            helper.cancel()


def _handle_signals(node: Node) -> None:
    """First Ctrl-C: finish the step, save, leave politely. Second: stop at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        if node.stopping.is_set():
            with suppress(ProcessLookupError):
                if node.trainer is not None and node.trainer.pid is not None:
                    os.kill(node.trainer.pid, signal.SIGKILL)
            os._exit(130)
        log.info("stopping; once more to stop at once")
        node.stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
