"""The outer state with which a node begins: what its disk holds, put right and brought up to date."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from talkoot.averaging.rules import Rules
from talkoot.dht.errors import ConfigError
from talkoot.peer import clock, trust
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.choice import Choice
from talkoot.peer.contributor import Contributor
from talkoot.peer.disk import Disk
from talkoot.peer.files import atomic_write
from talkoot.peer.formats import require_formats
from talkoot.peer.head import StoreCorruptError
from talkoot.peer.holdings import Holdings, open_holdings
from talkoot.peer.invite import Anchor
from talkoot.peer.joining import Joiner, catch_up_at_start
from talkoot.peer.manifest import Manifest
from talkoot.peer.recollection import FORGOT
from talkoot.peer.residual import DISK_BYTES_PER_ELEMENT
from talkoot.peer.roundlog import limits_of, replayable_rounds
from talkoot.peer.statedir import StateDir
from talkoot.peer.store import OuterStore
from talkoot.peer.swarming import NodeFailed
from talkoot.peer.trainer.tokenizer import has_hash

log = logging.getLogger("talkoot.node")

FIRST_CONTACT_S = 60.0
"""How long a newcomer looks for anybody of its swarm before it says that nobody can be reached."""

RETURN_S = 8.0
"""How long a returning peer looks for others before it goes on with what it holds."""

RETRY_PAUSE_S = 1.0

Candidates = Callable[[], Awaitable[list[bytes]]]
"""Whom to ask, in this order."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """What a node begins with; `bring_up_to_date` is next."""

    holdings: Holdings
    first: bool
    """This peer has never held a state of the swarm."""
    fetched: bool
    """It has just come from the others, and is hardly behind theirs."""


def require_place(paths: StateDir, rules: Rules) -> None:
    """Refuse a state directory that cannot be used, before anything in it is touched. Raises ConfigError."""
    require_formats(paths)
    if not OuterStore.exists(paths.outer):
        outer = OuterStore.unallocated_bytes(paths.outer, rules.numel)
        paths.require_free(outer + DISK_BYTES_PER_ELEMENT * rules.numel)


async def obtain_state(
    paths: StateDir,
    rules: Rules,
    manifest: Manifest,
    joiner: Joiner,
    *,
    anchor: Anchor | None,
    candidates: Candidates,
    key: bytes,
    expects_others: bool,
    disk: Disk,
) -> Obtained:
    """`anchor` is the invite's, `key` ours; `expects_others`: we were told of peers. After `require_place`.

    Raises ConfigError, NodeFailed, OSError.
    """
    joiner.keep, joiner.replays = manifest.state, replayable_rounds(manifest)
    if not OuterStore.exists(paths.outer):
        holdings = await _first(joiner, rules, candidates, disk)
        return await _recorded(Obtained(holdings, first=True, fetched=True), manifest)
    try:
        holdings = await disk.run(open_holdings, paths, rules, manifest.state)
    except OSError as error:
        raise NodeFailed(f"cannot open the state in {paths.path}: {error.strerror}") from error
    except (ValueError, StoreCorruptError, LogCorruptError) as error:
        met = expects_others or paths.peers_file.exists()
        met = met and trust.remains_are_recent(manifest, paths.outer, anchor, time.time())
        repaired = await _repair(joiner, rules, candidates, disk, error) if met else None
        if repaired is None:
            raise ConfigError(
                f"the state in {paths.path} cannot be used: {error}; move {paths.outer} and "
                f"{paths.round_log.name} away to fetch it from other peers again"
            ) from error
        return await _recorded(Obtained(repaired, first=False, fetched=True), manifest)
    trust.require_recent_state(manifest, holdings, paths.outer, anchor, key, time.time())
    return await _recorded(Obtained(holdings, first=False, fetched=False), manifest)


async def _recorded(obtained: Obtained, manifest: Manifest) -> Obtained:
    """Keep records of rounds from now on."""
    await asyncio.to_thread(obtained.holdings.keep_records, limits_of(manifest))
    return obtained


async def bring_up_to_date(
    obtained: Obtained,
    contributor: Contributor,
    joiner: Joiner,
    *,
    candidates: Candidates,
    key: bytes,
    expects_others: bool,
    caught_up: Callable[[Choice], None],
) -> None:
    """Replay what was committed while a state came. A peer whose own lay on its disk asks around, and goes on
    with what it holds if it is alone.
    """
    holdings = obtained.holdings
    if obtained.fetched:
        await catch_up_at_start(joiner, await candidates(), holdings, contributor, caught_up)
        return
    looks = expects_others or holdings.journal.read(FORGOT) is not None  # others may know of later rounds
    deadline = clock.now() + RETURN_S
    while clock.now() < deadline:
        others = [peer for peer in await candidates() if peer != key]
        if others:
            await catch_up_at_start(joiner, others, holdings, contributor, caught_up)
            break
        if not looks:
            break
        await asyncio.sleep(RETRY_PAUSE_S)
    if not joiner.heard and (holdings.ledger.round or looks):
        log.info("nobody else can be reached: going on alone from round %d", holdings.ledger.round)


async def obtain_tokenizer(path: Path, expected: str, joiner: Joiner, *, candidates: Candidates) -> None:
    """Have the swarm's tokenizer file, with the hash that the manifest names, at `path`.

    Raises ConfigError, NodeFailed, OSError.
    """
    if await asyncio.to_thread(has_hash, path, expected):
        return
    damaged = await asyncio.to_thread(path.exists)
    if damaged:
        log.warning("%s is not the swarm's tokenizer any more: asking the others for it", path)
    data = await joiner.tokenizer(await candidates(), expected)
    if data is None and damaged:
        raise ConfigError(
            f"{path} is damaged, and nobody here gives it again: put the swarm's {path.name} in its place"
        )
    if data is None:
        raise NodeFailed("no peer could give the swarm's tokenizer")
    await asyncio.to_thread(atomic_write, path, data)


async def _first(joiner: Joiner, rules: Rules, candidates: Candidates, disk: Disk) -> Holdings:
    """A newcomer's."""
    deadline = clock.now() + FIRST_CONTACT_S
    while True:
        fetch = partial(joiner.first_state, await candidates(), rules, rules.founders)
        first = await disk.until_done(fetch)
        if first is not None:
            return first
        if clock.now() > deadline:
            raise NodeFailed("no peer could give the swarm's state; see the log for their answers")
        await asyncio.sleep(RETRY_PAUSE_S)


async def _repair(
    joiner: Joiner, rules: Rules, candidates: Candidates, disk: Disk, damage: Exception
) -> Holdings | None:
    """What is damaged is fetched from the others; None if nobody gives it."""
    log.warning("the state on disk is damaged (%s): asking the others for what is wrong with it", damage)
    deadline = clock.now() + FIRST_CONTACT_S
    while clock.now() < deadline:
        repaired = await disk.until_done(partial(joiner.repair, await candidates(), rules, rules.founders))
        if repaired is not None:
            log.info("the state is whole again, at round %d", repaired.ledger.round)
            return repaired
        await asyncio.sleep(RETRY_PAUSE_S)
    return None
