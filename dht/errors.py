"""The kinds of failure that other packages see.

Exception
 +-- ValueError
 |    +-- ConfigError      the operator's: shown as one line, exit code 2
 +-- RemoteError           the other peer's: survivable, caught once at the connection boundary, counted
      +-- ChannelClosed    the other side ended the channel, or the connection died

A failed `assert` is ours, and goes up to the daemon.
"""

REASONS = frozenset(
    {
        "ended",  # the other side closed the channel in band
        "lost",  # the channel was cut without an end frame
        "closed",  # this side had closed the channel
        "oversized",  # a declared length above the protocol's limit
        "malformed",  # bytes that do not parse, or a checksum that does not match
        "unreachable",  # no connection to the peer could be made
        "unsupported",  # the peer does not serve the protocol
        "busy",  # a limit on channels was reached
        "flood",  # more than an honest peer ever sends; it is dealt with later
        "banned",  # from a peer that this node refuses
        "unauthenticated",  # the peer's identity is not an Ed25519 key
        "signature",  # a signature does not verify
        "stale",  # expired, or older than what is known
        "foreign",  # belongs to another swarm
        "refused",  # well-formed, but not acceptable for a reason of the layer above
        "timeout",  # the peer did not answer in time
    }
)
"""Closed list: a reason is a label of a counter. Layers above may extend it with their own lists."""


class ConfigError(ValueError):
    """The operator's mistake, in one line that says what to change."""


class RemoteError(Exception):
    """Another peer failed or lied; never ours to crash on.

    `peer` is its raw public key if known, `reason` a snake_case word of a closed list (counted),
    `detail` words for the log.
    """

    def __init__(self, peer: bytes | None, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.peer = peer
        self.reason = reason
        self.detail = detail


class ChannelClosed(RemoteError):  # noqa: N818 - a name that reads well where it is caught
    """A channel is over: reason `ended` (in band), `lost` (cut) or `closed` (by us)."""
