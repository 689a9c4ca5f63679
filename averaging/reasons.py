"""Why what another peer says in a round is refused: a closed list, since each is a label of a counter.

Likewise what may be odd about a contribution.
"""

from typing import Literal, get_args

REASONS = {
    "already_voted": "a voter would have to sign two values in one phase of an attempt",
    "banned": "of a peer whose contributions kept hurting",
    "broken_chain": "certificates that do not follow one another",
    "different_value": "not what was computed here",
    "equivocation": "two statements about one thing",
    "full": "the group has no place left",
    "ineligible": "a new voter that has not earned it",
    "late": "after the roster was closed",
    "left_out": "a roster without us",
    "locked": "another value than the one that a voter is locked on",
    "malformed": "it does not parse, or contradicts itself",
    "no_quorum": "too few signatures",
    "not_a_founder": "a founder's word from somebody else",
    "not_a_voter": "a voter's word from somebody else",
    "not_finite": "a number that is none",
    "not_issued": "an invite that its founder did not issue",
    "not_the_leader": "a leader's word from somebody else, or to somebody else",
    "out_of_order": "before what it builds on",
    "objection": "a new voter that we do not vouch for",
    "oversized": "longer than a limit",
    "repeated_vote": "one voter's signature twice",
    "revoked": "an invite that its founder took back",
    "signature": "a signature that does not verify",
    "stale": "of a round or an attempt that is over",
    "too_early": "before its time",
    "too_far": "of an attempt far beyond ours",
    "too_often": "more often than it may move us in one round",
    "too_few_steps": "a contribution of less work than counts",
    "unasked": "nobody asked for it",
    "unproven": "a proof that proves nothing",
    "weak": "weak votes where only final ones will do",
    "wrong_anchor": "not the state that an invite vouches for",
    "wrong_branch": "of another branch",
    "wrong_cut": "of another cut",
    "wrong_draw": "a verdict on another contribution than the one that was drawn",
    "wrong_genesis": "a beginning that the manifest does not name",
    "wrong_hash": "bytes that do not have the hash that was stated",
    "wrong_index": "an index that is not the one that was signed",
    "wrong_layout": "of another size or codec",
    "wrong_round": "of another round, roster or peer",
    "wrong_swarm": "of another swarm",
}

Sign = Literal["norm", "direction", "copy"]
"""What is odd about a contribution (`talkoot.averaging.history`)."""

SIGNS: tuple[Sign, ...] = get_args(Sign)
