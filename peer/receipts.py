"""Receipts: the certificates of a state directory's log, checked offline, as proofs of contributions.

A certificate that groupmates signed names every contribution that its round counted, each signed by its peer.
Who holds the manifest and the log can check both without a network, also beside a running daemon. What no
certificate proves is said as plainly (`NOT_PROVEN`).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from talkoot.averaging.certificate import (
    Certificate,
    CertificateError,
    Contribution,
    check_chain,
    decode_certificate,
)
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import peer_id_of, verify
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.chain_weights import ChainWeights
from talkoot.peer.credit import Board, credits_of
from talkoot.peer.holdings import number_of
from talkoot.peer.log_reading import LogReader
from talkoot.peer.statedir import StateDir
from talkoot.peer.verify_chain import Check, Outcome, check_own_votes, origin_of
from talkoot.peer.verify_state import DamagedError, anchor_in, manifest_in

NOT_PROVEN = (
    "that tokens and steps are as many as the peer says: it signed the claim, and credit and weight bound it",
    "that the work was of use: audits and the swarm's loss say something of that, a receipt does not",
    "who the person is: a receipt is to a key, and a public name is what its owner chose",
)
"""What no receipt says, in words for people."""

WEAK = (
    "weak rounds that no final one follows ({}): those who were there signed them, which may have been one "
    "voter alone, and they may be rolled back"
)

MAX_TRIES = 3
"""How often the log is read while a daemon appends to it."""


class Receipt(msgspec.Struct, frozen=True):
    """One round that counted a peer's contribution."""

    round: int
    kind: str
    """`final` or `weak`."""
    proven: bool
    """Whether the chain of voters leads from here back to the founders, or to the invite that was used."""
    digest: str
    """Of the swarm's state after the round."""
    signed: int
    """Voters whose signatures it has."""
    voters: int | None
    """Out of so many; None where the certificate before is missing."""
    counted: int
    """Contributions that the round counted."""
    steps: int
    tokens: int
    carried_tokens: int
    """Tokens of earlier rounds, which had not counted them."""
    credit: int
    weight: float | None
    """Share of the aggregate; None where the log does not reach back far enough to tell."""
    root: str
    """Root of the hash tree over the contribution's bytes."""


@dataclass(frozen=True, slots=True)
class Link:
    """A certificate of the log whose signatures were checked."""

    certificate: Certificate
    proven: bool
    voters: tuple[bytes, ...] | None
    weights: dict[bytes, float] | None


class ReceiptBook:
    """The log of a state directory. Iterate over `links` to its end; then `checks` says what came of it."""

    def __init__(self, paths: StateDir) -> None:
        """Raises ConfigError where there is nothing to check."""
        try:
            self.manifest = manifest_in(paths)
        except DamagedError as error:
            raise ConfigError(f"{paths.path} holds no receipts: {error}") from error
        if not paths.round_log.exists():
            raise ConfigError(f"{paths.path} holds no receipts yet: no round was committed here")
        self._paths = paths
        self.log = paths.round_log
        self._origin: tuple[Outcome, str] = ("not checked", "the log is empty")
        self._weights = ChainWeights(self.manifest)
        self.checks: list[Check] = []
        self.last_final = -1
        """Number of the last final round."""

    @property
    def ok(self) -> bool:
        """Whether nothing failed; once `links` has ended."""
        return all(check.result != "failed" for check in self.checks)

    def links(self) -> Iterator[Link]:
        """Every certificate, in order, up to the first that does not hold. Raises OSError."""
        failure = ""
        try:
            yield from self._follow()
        except (CertificateError, ConfigError, LogCorruptError) as error:
            failure = str(error)
        words = f"every round's voters signed it and named the next, {self._origin[1]}"
        chain = Check("chain", "failed", failure) if failure else Check("chain", self._origin[0], words)
        self.checks = [self._log(), chain]
        if self._weights.problem:
            self.checks.append(Check("weights", "failed", self._weights.problem))

    def _follow(self) -> Iterator[Link]:
        """Raises CertificateError, ConfigError, LogCorruptError, OSError."""
        last: Certificate | None = None
        for number, content in LogReader(self.log):
            certificate = decode_certificate(content)
            if certificate.value.swarm != self.manifest.swarm_id or number != number_of(certificate):
                raise CertificateError("wrong_swarm", f"round {number - 1} of the log is of another")
            voters = last.value.voters if last is not None else None
            if last is None:
                self._origin = origin_of(certificate, self.manifest, anchor_in(self._paths))
                check_own_votes(certificate)
            elif number_of(last) + 1 == number:
                check_chain(last, [certificate], verify)
            else:
                check_own_votes(certificate)
                self._weights.gap()
                words = f"from round {certificate.value.round} on; there is a gap before it"
                voters, self._origin = None, ("not checked", words)
            last = certificate
            if certificate.kind == "final":
                self.last_final = certificate.value.round
            proven = voters is not None and self._origin[0] == "ok"
            yield Link(certificate, proven, voters, self._weights.take(certificate))

    def _log(self) -> Check:
        """Whether the log ends where a record does."""
        for _ in range(MAX_TRIES):  # a daemon may be appending
            reader = LogReader(self.log)
            count = sum(1 for _ in reader)
            if not reader.tail_bytes:
                return Check("log", "ok", f"{count} certificates")
        return Check("log", "failed", f"{reader.tail_bytes} bytes after {count} certificates are no record")


def receipt_of(link: Link, key: bytes) -> Receipt | None:
    """What a round owes this peer; None where it did not count it."""
    value = link.certificate.value
    item: Contribution | None = next((item for item in value.cut if item.key == key), None)
    if item is None:
        return None
    return Receipt(
        round=value.round,
        kind=link.certificate.kind,
        proven=link.proven,
        digest=value.digest.hex(),
        signed=len({vote.voter for vote in link.certificate.votes}),
        voters=None if link.voters is None else len(link.voters),
        counted=len(value.cut),
        steps=item.steps,
        tokens=item.tokens,
        carried_tokens=item.carried_tokens,
        credit=credits_of(value.cut)[key],
        weight=None if link.weights is None else link.weights.get(key, 0.0),
        root=item.root.hex(),
    )


class Receipts(msgspec.Struct, frozen=True):
    """All receipts of one peer, and what they come to."""

    peer_id: str
    swarm: str
    swarm_id: str
    receipts: list[Receipt]
    joined: int
    """Rounds of the log in whose roster the peer was, counted or not."""
    rounds: int
    """All rounds of the log."""
    checks: list[Check]
    proven: list[str]
    not_proven: list[str]
    ok: bool


def receipts_for(book: ReceiptBook, key: bytes) -> Receipts:
    """Check the whole log for one peer. Raises OSError."""
    found: list[Receipt] = []
    joined = rounds = 0
    for link in book.links():
        value = link.certificate.value
        rounds += value.round >= 0
        joined += value.round >= 0 and key in value.present
        receipt = receipt_of(link, key)
        if receipt is not None:
            found.append(receipt)
    return Receipts(
        peer_id=peer_id_of(key),
        swarm=book.manifest.swarm.name,
        swarm_id=book.manifest.swarm_id.hex(),
        receipts=found,
        joined=joined,
        rounds=rounds,
        checks=book.checks,
        proven=_proven(found),
        not_proven=_not_proven(found, book.last_final),
        ok=book.ok,
    )


def _proven(found: list[Receipt]) -> list[str]:
    proven = [item for item in found if item.proven]
    if not proven:
        return []
    final = sum(1 for item in proven if item.kind == "final")
    return [
        f"{len(proven)} rounds ({final} final) counted a contribution that this peer's key signed; their "
        "voters signed that, and follow from the founders or from the invite",
        f"it claimed {sum(item.steps for item in proven)} steps and "
        f"{sum(item.tokens + item.carried_tokens for item in proven)} tokens in them, of which "
        f"{sum(item.credit for item in proven)} are credited",
    ]


def _not_proven(found: list[Receipt], last_final: int) -> list[str]:
    words = list(NOT_PROVEN)
    loose = sum(1 for item in found if item.kind == "weak" and item.round > last_final)
    if loose:
        words.append(WEAK.format(loose))
    unknown = sum(1 for item in found if not item.proven)
    if unknown:
        words.insert(0, f"{unknown} of the rounds: nothing here says that their voters are the swarm's")
    weightless = sum(1 for item in found if item.weight is None)
    if weightless:
        words.append(f"the weight in {weightless} rounds: the log does not reach back far enough")
    return words


def board_of(book: ReceiptBook) -> Board:
    """The sums of every peer over a checked log. Raises OSError."""
    board = Board()
    for link in book.links():
        board.add(link.certificate)
    return board


def keys_in(paths: StateDir) -> set[bytes]:
    """Everybody who was in a round of the log; checks no signatures. Raises ConfigError, OSError."""
    book = ReceiptBook(paths)
    keys: set[bytes] = set()
    try:
        for _, content in LogReader(book.log):
            keys.update(decode_certificate(content).value.present)
    except (CertificateError, LogCorruptError) as error:
        raise ConfigError(f"{book.log} is damaged: {error}") from error
    return keys
