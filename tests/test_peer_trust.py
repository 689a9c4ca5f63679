"""What is too old to be trusted: invites, and states that were left alone."""

import os
from pathlib import Path

import msgspec
import pytest
from state_rig import FOUNDERS, KEYS, MANIFEST, World, advance, blamed, found, keys, run

from talkoot.averaging.certificate import Certificate
from talkoot.averaging.ledger import voters_hash
from talkoot.dht.errors import ConfigError
from talkoot.peer import trust
from talkoot.peer.head import HEAD
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor

DAY = 86_400
NOW = 2_000_000_000.0
LIMIT = MANIFEST.swarm.trust_days * DAY
OURS = FOUNDERS[0].key


def anchor_of(certificate: Certificate, *, age_s: float = 0.0) -> Anchor:
    value = certificate.value
    return Anchor(number_of(certificate), value.digest, voters_hash(value.voters), int(NOW - age_s))


@pytest.fixture
def held(tmp_path: Path) -> Holdings:
    """Two final rounds of a swarm of three founders."""
    holdings = found(tmp_path / "held")
    for _ in range(2):
        advance(holdings)
    return holdings


def require(holdings: Holdings, *, age_s: float, anchor: Anchor | None = None, own: bytes = OURS) -> None:
    outer = holdings.store.path
    os.utime(outer / HEAD, (NOW - age_s, NOW - age_s))
    trust.require_recent_state(MANIFEST, holdings, outer, anchor, own, NOW)


def test_an_invite_is_trusted_for_so_many_days(held: Holdings) -> None:
    trust.require_recent_invite(MANIFEST, anchor_of(held.head, age_s=LIMIT - 1), NOW)
    trust.require_recent_invite(MANIFEST, anchor_of(held.head, age_s=-DAY), NOW)
    with pytest.raises(ConfigError, match="the invite is of 2033-03-19, and this swarm trusts none after 60"):
        trust.require_recent_invite(MANIFEST, anchor_of(held.head, age_s=LIMIT + 1), NOW)


def test_a_state_is_trusted_for_so_many_days(held: Holdings) -> None:
    require(held, age_s=LIMIT - 1)
    with pytest.raises(ConfigError, match=r"up to date last on 2033-03-19.*give it with --join"):
        require(held, age_s=LIMIT + 1)


def test_a_recent_invite_leads_on_from_an_old_state(held: Holdings) -> None:
    require(held, age_s=LIMIT + 1, anchor=anchor_of(held.head))
    with pytest.raises(ConfigError, match="up to date last"):
        require(held, age_s=LIMIT + 1, anchor=anchor_of(held.head, age_s=LIMIT + 1))


def test_who_votes_alone_may_come_back_whenever_it_likes(held: Holdings) -> None:
    held.ledger = msgspec.structs.replace(held.ledger, voters=(OURS,))
    require(held, age_s=1000 * LIMIT)
    with pytest.raises(ConfigError, match="up to date last"):
        require(held, age_s=1000 * LIMIT, own=FOUNDERS[1].key)


def test_an_invite_for_another_past_is_refused(held: Holdings) -> None:
    vouched = anchor_of(held.head)
    require(held, age_s=0, anchor=vouched)
    require(held, age_s=0, anchor=msgspec.structs.replace(vouched, round=3, digest=b"x" * 32))  # lies ahead
    with pytest.raises(ConfigError, match="vouches for another round 2"):
        require(held, age_s=0, anchor=msgspec.structs.replace(vouched, digest=b"x" * 32))


def test_the_way_on_has_to_pass_the_invites_anchor(tmp_path: Path) -> None:
    """Departed voters continue our old state; the invite vouches for what the swarm made of it."""
    ours, forged, honest = (found(tmp_path / name) for name in ("ours", "forged", "honest"))
    for _ in range(3):
        advance(forged, step=0.5)
    anchor = anchor_of([advance(honest) for _ in range(3)][1])

    async def main(made: World) -> None:
        await made.serve(forged)
        await made.serve(honest)
        joiner = await made.joiner(tmp_path / "new", anchor)
        installed = await joiner.update(keys(2), ours, KEYS)
        assert installed is not None
        assert ours.digest == honest.digest
        assert blamed(joiner) == {"wrong_anchor": 1}

    run(main)


def test_a_source_that_has_not_come_to_the_anchor_is_not_blamed(tmp_path: Path) -> None:
    ours, behind, honest = (found(tmp_path / name) for name in ("ours", "behind", "honest"))
    advance(behind)
    anchor = anchor_of([advance(honest) for _ in range(2)][1])

    async def main(made: World) -> None:
        await made.serve(behind)
        joiner = await made.joiner(tmp_path / "new", anchor)
        assert await joiner.update(keys(1), ours, KEYS) is None
        assert number_of(ours.head) == 0
        assert blamed(joiner) == {}

    run(main)
