"""Closed lists of label values, and how finer words are folded into them.

An operator's dashboard needs a handful of causes, not the name of every check; the exact word stands in the
log and in the node's status.
"""

from collections.abc import Mapping

from talkoot.dht.paths import Path
from talkoot.dht.relays import Fault

LEVELS = ("debug", "info", "warning", "error", "critical")
PARTS = ("daemon", "p2pd", "trainer")
PHASES = ("compute", "match", "exchange", "validate", "apply")
_ROUND_FAILURES: Mapping[str, tuple[str, ...]] = {
    "form": ("forming_timeout", "no_quorum", "nothing_to_average"),
    "exchange": (
        "exchanging_timeout",
        "nothing_arrived",
        "nothing_weighs",
        "reducer_lost",
        "reducer_silent",
        "unfair_cut",
        "voters_silent",
    ),
    "certify": ("certifying_timeout",),
    "diverged": ("different_value", "broken_chain", "wrong_branch", "wrong_cut", "wrong_hash"),
    "cancelled": ("leader_lost", "others_ahead"),
}
"""Why an attempt at a round ended, by its phase: too few voters in time; slow, silent or dying peers; no
quorum of votes; another value than the others'; its leader left, or the others were further."""
ROUND_FAILURE_OF: Mapping[str, str] = {
    fine: word for word, several in _ROUND_FAILURES.items() for fine in several
}
ROUND_FAILURES = (*_ROUND_FAILURES, "other")
CONTRIBUTION_REJECTION_OF: Mapping[str, str] = {"slices_missing": "late"}
"""Of those whose join the leader took: not all of it came in time."""
CONTRIBUTION_REJECTIONS = ("late", "other")
LIMITS = ("banned", "score", "unauthenticated", "peer", "prefix", "node")
VERIFICATION_FAILURES = ("chunk", "digest", "certificate")
DIAL_FAILURES = ("unreachable", "unsupported", "busy", "timeout", "banned", "lost", "other")
DISCONNECTIONS = ("ended", "lost", "closed", "other")
"""Why a connection ended: the other side said so; it was cut; we closed it; what came over it was refused."""
AGENTS = ("same", "older", "newer", "unknown")
BANDS = ("good", "neutral", "bad", "banned")
PROTOCOLS = ("control", "bulk", "state", "other")
WAYS: tuple[Path, ...] = ("direct", "punched", "relayed")
"""The ways of connections."""
_RELAY_FAULTS: Mapping[str, tuple[Fault, ...]] = {
    "unreachable": ("unreachable", "timeout"),
    "refused": ("refused", "full", "denied", "malformed"),
    "lost": ("lost",),
    "slow": ("late", "breaks"),
}
"""No answer; a no; its connection ended; late answers, or channels through it that broke."""
RELAY_FAULT_OF: Mapping[str, str] = {
    fine: word for word, several in _RELAY_FAULTS.items() for fine in several
}
RELAY_FAULTS = tuple(_RELAY_FAULTS)
STATE_REFUSALS = ("busy", "gone", "later", "unknown")

_REJECTIONS: Mapping[str, tuple[str, ...]] = {
    "malformed": ("malformed", "not_finite", "wrong_layout", "wrong_index"),
    "oversized": ("oversized",),
    "signature": ("signature", "unauthenticated"),
    "authority": (
        "not_a_founder",
        "not_a_voter",
        "not_the_leader",
        "not_issued",
        "ineligible",
        "revoked",
        "left_out",
    ),
    "vote": (
        "already_voted",
        "equivocation",
        "locked",
        "no_quorum",
        "objection",
        "repeated_vote",
        "weak",
        "wrong_draw",
    ),
    "stale": ("stale", "late", "wrong_round"),
    "early": ("too_early", "too_far", "too_often", "too_few_steps", "out_of_order", "unasked"),
    "foreign": ("foreign", "wrong_swarm", "wrong_genesis", "wrong_anchor"),
    "mismatch": ("different_value", "broken_chain", "wrong_branch", "wrong_cut", "wrong_hash"),
    "rate_limited": ("busy", "flood", "full"),
    "banned": ("banned",),
    "proof": ("lied", "two_claims", "unproven"),
    "connection": ("closed", "ended", "lost", "timeout", "unreachable", "unsupported"),
}
"""What operators tell apart of all for which something is refused: bytes that do not parse; too many of
them; a signature that does not verify; a word from somebody who may not say it; a vote against the rules;
too old; too soon; another swarm's; not what was computed or signed; more than a limit; of a banned peer; a
proven lie; a connection that ended."""

REJECTION_OF: Mapping[str, str] = {fine: word for word, several in _REJECTIONS.items() for fine in several}

REJECTIONS = (*_REJECTIONS, "other")
PENALTIES = (
    "malformed",
    "oversized",
    "signature",
    "authority",
    "vote",
    "foreign",
    "mismatch",
    "rate_limited",
    "proof",
    "other",
)

_MESSAGES: Mapping[str, tuple[str, ...]] = {
    "join": ("call", "ahead", "join"),
    "roster": ("roster",),
    "receipt": ("receipt",),
    "fetch": ("have", "want", "wait", "holding"),
    "cut": ("cut",),
    "aggregate": ("aggregate",),
    "vote": ("proposal", "vote", "lock"),
    "committed": ("committed",),
    "abort": ("abort",),
    "presence": ("ping", "pong", "leave"),
    "bulk": ("bulk",),
}

MESSAGE_OF: Mapping[str, str] = {tag: word for word, tags in _MESSAGES.items() for tag in tags}
MESSAGES = tuple(_MESSAGES)


def way_of(path: Path) -> Path:
    """One of `WAYS` for a peer that is connected: what was not looked at yet has no relay."""
    return path if path in WAYS else "direct"


def protocol_of(name: str) -> str:
    """One of `PROTOCOLS` for a protocol's name on the wire, which has a swarm in it."""
    parts = name.split("/")
    word = parts[-2] if len(parts) > 1 else ""
    return word if word in PROTOCOLS else "other"
