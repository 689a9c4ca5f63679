"""Where a state comes from, for its model card: rounds, tokens, who contributed; from what was certified."""

from dataclasses import dataclass
from pathlib import Path

from talkoot.averaging.certificate import Certificate, CertificateError, decode_certificate
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.reputation import audited
from talkoot.averaging.revocations import NOBODY
from talkoot.peer.certlog import LogCorruptError
from talkoot.peer.holdings import number_of
from talkoot.peer.log_reading import LogReader


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Of one outer state."""

    rounds: int
    tokens: int
    """In all counted contributions."""
    contributors: int
    """Peers that were counted."""
    all_known: bool
    """Whether `contributors` is exact; otherwise it is the least that is known."""
    digest: bytes
    certificate: str
    """genesis, final or weak."""

    @property
    def rows(self) -> dict[str, str | int]:
        """For people."""
        least = "" if self.all_known else "at least "
        return {
            "rounds": f"{self.rounds} ({self.certificate})",
            "training tokens": f"{self.tokens:,}",
            "contributors": f"{least}{self.contributors}",
            "digest": self.digest.hex(),
        }


def provenance(ledger: Ledger, certificate: Certificate, log: Path | None) -> Provenance:
    """`log` is a round log of the same swarm, if there is one. Raises OSError."""
    known, complete = _in_ledger(ledger, certificate), False
    if log is not None:
        try:
            logged, complete = _in_log(log, certificate)
            known |= logged
        except (FileNotFoundError, LogCorruptError, CertificateError):
            pass
    return Provenance(
        rounds=ledger.round,
        tokens=ledger.tokens,
        contributors=len(known),
        all_known=complete,
        digest=certificate.value.digest,
        certificate=certificate.kind,
    )


def _in_ledger(ledger: Ledger, certificate: Certificate) -> set[bytes]:
    """Those of whom the state itself knows that they were counted."""
    admitted = {use.peer for use in ledger.used} - {NOBODY}
    proven = {standing.key for standing in ledger.standings if standing.rounds}
    proven |= {repute.key for repute in audited(ledger).known}
    return admitted | proven | {item.key for item in certificate.value.cut}


def _in_log(log: Path, certificate: Certificate) -> tuple[set[bytes], bool]:
    """Those who were counted in the logged rounds up to this one, and whether these are all rounds."""
    found: set[bytes] = set()
    numbers = []
    for number, content in LogReader(log):
        if number > number_of(certificate):
            break
        numbers.append(number)
        found |= {item.key for item in decode_certificate(content).value.cut}
    return found, numbers == list(range(number_of(certificate) + 1))
