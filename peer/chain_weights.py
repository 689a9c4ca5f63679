"""What each counted contribution weighed, computed again from a chain of certificates.

From the first certificate of a swarm on, every ledger follows (`talkoot.averaging.succession`), and with it
every weight. A log that begins later says less: then weights are known where all contributors vote, or are
founders or listed, and no audits may leave one out.
"""

import msgspec

from talkoot.averaging.certificate import Certificate, CertificateError, Value
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.succession import ledger_after, weigh
from talkoot.peer.founding import first_ledger
from talkoot.peer.manifest import Manifest
from talkoot.peer.rules_of import founder_keys, rules_of

Weights = dict[bytes, float]


class ChainWeights:
    """Give it every certificate of a chain, in order."""

    def __init__(self, manifest: Manifest) -> None:
        """Raises ConfigError where the manifest is none to train by."""
        self._rules = rules_of(manifest)
        self._first = first_ledger(manifest, founder_keys(manifest))
        self._ledger: Ledger | None = None
        self._voters: tuple[bytes, ...] | None = None
        self.problem = ""
        """What does not follow from the rounds before, if anything."""

    def take(self, certificate: Certificate) -> Weights | None:
        """Shares of the aggregate by contributor, which sum to 1, or are all 0; None: not known from here."""
        value = certificate.value
        if certificate.kind == "genesis":
            self._ledger, self._voters = self._first, value.voters
            return {}
        weights = self._weights(value)
        if self._ledger is not None:
            try:
                self._ledger = ledger_after(value, self._ledger, self._rules)
            except CertificateError as error:
                self.problem, self._ledger = f"round {value.round}: {error}", None
        self._voters = value.voters
        return weights

    def gap(self) -> None:
        """Certificates are missing before the next one."""
        self._ledger = self._voters = None

    def _weights(self, value: Value) -> Weights | None:
        ledger = self._ledger
        if ledger is None:
            known = {*(self._voters or ()), *self._rules.founders, *self._rules.listed}
            if self._voters is None or self._rules.audits is not None:
                return None
            if not {item.key for item in value.cut} <= known:
                return None
            absent = (0,) * len(self._voters)
            ledger = msgspec.structs.replace(
                self._first, round=value.round, voters=self._voters, absent=absent
            )
        return {item.contribution.key: item.weight for item in weigh(value.cut, ledger, self._rules)}
