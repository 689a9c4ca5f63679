"""What the ledger says of a peer's standing, and which of its changes are worth a line in the log."""

from statistics import median_low
from typing import Any

from msgspec import UNSET

from talkoot.averaging.certificate import Value
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reputation import audited, banned, left_out, on_probation, reputation
from talkoot.averaging.rules import Rules
from talkoot.averaging.verdicts import Verdict
from talkoot.dht.identity import peer_id_of


def standing_of(key: bytes, ledger: Ledger, rules: Rules) -> dict[str, Any]:
    """`standing`: banned, left_out, probation, voter or weighs; with audits also `reputation` (-1000 to 1000)
    and `audits_passed`, None of whom no audit has told anything."""
    known = next((item for item in audited(ledger).known if item.key == key), None)
    return {
        "standing": _word(key, ledger, rules),
        "reputation": reputation(known, ledger.voters) if known is not None else None,
        "audits_passed": known.passed if known is not None else None,
    }


def _word(key: bytes, ledger: Ledger, rules: Rules) -> str:
    if key in banned(ledger):
        return "banned"
    if left_out([key], ledger):
        return "left_out"
    if on_probation([key], ledger, rules):
        return "probation"
    return "voter" if key in ledger.voters else "weighs"


def verdicts_on(subject: bytes, value: Value) -> list[Verdict]:
    """Those in a certified value that are about one peer's contribution to the round before."""
    return [v for v in (value.verdicts if value.verdicts is not UNSET else ()) if v.subject == subject]


def news_of(value: Value, before: Ledger, after: Ledger, own: bytes) -> list[str]:
    """Lines for the log after a round: who loses its weight or is banned, and what was said of our own."""
    scores = [verdict.score for verdict in verdicts_on(own, value)]
    lines = []
    if scores and median_low(scores) < 0:
        lines.append(
            f"our contribution to round {value.round - 1} was judged harmful by "
            f"{sum(s < 0 for s in scores)} of {len(scores)} auditors: is the data what "
            "the manifest says, and the machine sound?"
        )
    if own in _invited(before) - _invited(after):
        lines.append("the invite that this peer came by was taken back: its work does not count any more")
    keys = [item.key for item in audited(after).known]
    out = banned(after) - banned(before)
    lines += [f"{_name(key, own)} banned: its contributions kept hurting" for key in sorted(out)]
    weightless = left_out(keys, after) - left_out(keys, before) - out
    lines += [f"{_name(key, own)} left out: its contributions hurt" for key in sorted(weightless)]
    return lines


def _invited(ledger: Ledger) -> set[bytes]:
    """Who came by an invite that holds."""
    return {use.peer for use in ledger.used}


def _name(key: bytes, own: bytes) -> str:
    return "this peer is" if key == own else f"peer {peer_id_of(key)} is"
