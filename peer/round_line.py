"""One round in one line of the log: who was counted, who was left out and why, and where the time went."""

from talkoot.averaging.certificate import Certificate
from talkoot.peer.history import RoundRecord

DIGEST_CHARS = 12
PEER_CHARS = 8
"""The end of a PeerID, which is where they differ."""

_OWN = {True: "counted", False: "not counted", None: "none"}


def round_fields(record: RoundRecord, certificate: Certificate) -> dict[str, object]:
    """The line's fields, on a terminal and in JSON; names are those of `talkoot rounds --json`."""
    fields: dict[str, object] = {
        "round": record.round,
        "kind": record.kind,
        "attempt": record.attempt,
        "group": len(certificate.value.present),
        "counted": len(record.counted),
        "left_out": [
            {"peer_id": item["peer_id"][-PEER_CHARS:], "reason": item["reason"]} for item in record.left_out
        ],
        "own": _OWN[record.own],
        "seconds": record.seconds,
        "phases": record.phases,
        "loss": None if record.loss is None else round(record.loss, 4),
        "digest": record.digest[:DIGEST_CHARS],
    }
    if record.failures:
        fields["failures"] = record.failures
    if record.catch_up is not None:
        fields["catch_up"] = record.catch_up["way"]
    return fields
