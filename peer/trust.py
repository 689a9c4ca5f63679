"""How old may be what a peer starts to trust from.

Voters that left the swarm long ago can sign whatever they like with their old keys, and nobody can tell
from signatures alone that it is not the past (long-range attack). So trust has to start at something recent:
an invite made within the manifest's `trust_days`, or a state that was brought up to date within them. The
founders' keys in a manifest that the user was given are trusted as long as it is (weak subjectivity).
"""

import time
from pathlib import Path

from talkoot.dht.errors import ConfigError
from talkoot.peer.head import HEAD
from talkoot.peer.holdings import Holdings, number_of
from talkoot.peer.invite import Anchor
from talkoot.peer.manifest import Manifest

DAY_S = 86_400.0


def require_recent_invite(manifest: Manifest, anchor: Anchor, now: float) -> None:
    """A newcomer's anchor must not be too old at `now`, Unix time in seconds. Raises ConfigError."""
    if _is_old(manifest, anchor.date, now):
        raise ConfigError(
            f"the invite is of {_day(anchor.date)}, and this swarm trusts none after "
            f"{manifest.swarm.trust_days} days: ask for a new one (or is this machine's clock wrong?)"
        )


def require_recent_state(
    manifest: Manifest, holdings: Holdings, outer: Path, anchor: Anchor | None, own_key: bytes, now: float
) -> None:
    """The state in `outer` must not have been left alone for too long; a recent invite leads on from any.

    A swarm in which nobody but us votes has nobody to be deceived by. Raises ConfigError.
    """
    if anchor is not None:
        _require_same_past(holdings, anchor)
    since = (outer / HEAD).stat().st_mtime
    alone = holdings.ledger.voters == (own_key,)
    invited = anchor is not None and not _is_old(manifest, anchor.date, now)
    if _is_old(manifest, since, now) and not alone and not invited:
        raise ConfigError(
            f"this peer was up to date last on {_day(since)}, and this swarm trusts nothing that is older "
            f"than {manifest.swarm.trust_days} days: ask for an invite and give it with --join (or is this "
            "machine's clock wrong?)"
        )


def require_recent_checkpoint(
    manifest: Manifest, path: Path, anchor: Anchor | None, *, alone: bool, now: float
) -> None:
    """A checkpoint's date is that of its file, as a state's is that of its HEAD; a recent invite leads on
    from any, and who votes `alone` has nobody to be deceived by. Raises ConfigError, OSError."""
    since = path.stat().st_mtime
    invited = anchor is not None and not _is_old(manifest, anchor.date, now)
    if _is_old(manifest, since, now) and not alone and not invited:
        raise ConfigError(
            f"{path} is of {_day(since)}, and this swarm trusts nothing that is older than "
            f"{manifest.swarm.trust_days} days: give an invite of these days with --join, too; or, where you "
            "know for yourself that the swarm was at this state last, date the file anew (touch)"
        )


def remains_are_recent(manifest: Manifest, outer: Path, anchor: Anchor | None, now: float) -> bool:
    """Whether trust may start at what a damaged state in `outer` still says of itself, or at the invite."""
    dates = [(outer / HEAD).stat().st_mtime, *([anchor.date] if anchor is not None else [])]
    return any(not _is_old(manifest, since, now) for since in dates)


def _require_same_past(holdings: Holdings, anchor: Anchor) -> None:
    """Raise ConfigError where our final rounds are not those that the invite vouches for."""
    if number_of(holdings.last_final()) < anchor.round:
        return
    certificate = holdings.certificate_of(anchor.round - 1)
    if certificate is not None and certificate.value.digest != anchor.digest:
        raise ConfigError(
            f"the invite vouches for another round {anchor.round} than the one that this peer holds: one of "
            "the two is not what it seems; ask another peer for an invite, or start with a new --state-dir"
        )


def _is_old(manifest: Manifest, since: float, now: float) -> bool:
    return now - since > manifest.swarm.trust_days * DAY_S


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))
