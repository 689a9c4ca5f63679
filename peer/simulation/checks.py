"""What must hold in a simulated swarm at every step, whatever the faults.

Safety: no two final certificates of one round; no honest voter signs two values in one phase of one
attempt; no peer offers two contributions for one state, and no contribution is counted in two rounds of one
chain; no peer leaves a final round behind; what a peer holds after a commit is what its certificate says; no
honest peer is refused or banned by another.
Liveness is for the script to see, memory for `bounds`.
"""

from collections.abc import Callable

import msgspec

from talkoot.averaging.certificate import Certificate, Contribution, decode_certificate
from talkoot.averaging.digest import state_tree
from talkoot.averaging.messages import Join, Lock, Vote
from talkoot.averaging.wire import decode
from talkoot.peer.holdings import Holdings, number_of

_VOTE = b"talkoot vote\0"
_TAGS = (b"vote", b"lock", b"join")
_TAG_BYTES = 32
# Where the tag of a message stands.


class Safety:
    """Collects violations."""

    def __init__(self, fail: Callable[[str], None]) -> None:
        """`fail` hears of every violation once it happens."""
        self.violations: list[str] = []
        self._fail = fail
        self._votes: dict[tuple[object, ...], bytes] = {}
        self._signed: dict[tuple[object, ...], tuple[int, bytes]] = {}
        self._contributions: dict[tuple[bytes, bytes], bytes] = {}
        self._finals: dict[int, bytes] = {}
        self._counted: dict[tuple[bytes, bytes], bytes] = {}
        self._last_final: dict[int, Certificate] = {}
        self.max_final = -1
        self.commits = 0

    def violated(self, what: str) -> None:
        """Something must not have happened."""
        self.violations.append(what)
        self._fail(what)

    def signed(self, key: bytes, message: bytes) -> None:
        """For `SimIdentity`: everything that an honest peer signs. It counts once others can see it.

        Who is killed between signing and writing that down may sign something else later.
        """
        if message.startswith(_VOTE):
            _, number, prior, attempt, phase, _weak, value = msgspec.msgpack.decode(message[len(_VOTE) :])
            self._signed[key, attempt, phase, value] = (number, prior)

    def sent(self, sender: bytes, protocol: str, header: bytes) -> None:
        """For `MemoryHub.on_sent`."""
        if "/control/" not in protocol or not any(tag in header[:_TAG_BYTES] for tag in _TAGS):
            return
        match decode(header):
            case Vote(voter=voter, attempt=attempt, phase=phase, value_hash=value):
                self._voted(voter, attempt, phase, value)
            case Lock(prepared=prepared):
                for vote in prepared.votes:
                    self._voted(vote.voter, prepared.attempt, "prepare", prepared.value.hash)
            case Join(key=key, contribution=Contribution() as contribution) if key == sender:
                place = (key, contribution.prior)
                if self._contributions.setdefault(place, contribution.root) != contribution.root:
                    self.violated(f"{key.hex()[:8]} contributes twice to round {contribution.round}")

    def banned(self, node: bytes, peers: frozenset[bytes]) -> None:
        """For `MemoryHub.on_banned`: all peers are honest, whatever befalls them."""
        if peers:
            self.violated(f"{node.hex()[:8]} refuses {', '.join(peer.hex()[:8] for peer in sorted(peers))}")

    def _voted(self, key: bytes, attempt: int, phase: str, value: bytes) -> None:
        number, prior = self._signed[key, attempt, phase, value]
        if self._votes.setdefault((key, number, prior, attempt, phase), value) != value:
            self.violated(f"{key.hex()[:8]} {phase}s two values in round {number} attempt {attempt}")

    def head(self, number: int, holdings: Holdings | None, certificate: Certificate) -> None:
        """A peer has a new head."""
        value = certificate.value
        self.commits += 1
        if certificate.kind == "final":
            for vote in certificate.votes:
                self._voted(vote.voter, certificate.attempt, "commit", value.hash)
        if certificate.kind == "final":
            if self._finals.setdefault(value.round, value.digest) != value.digest:
                self.violated(f"two final certificates of round {value.round}")
            self.max_final = max(self.max_final, value.round)
        for item in value.cut:
            if self._counted.setdefault((item.key, item.root), value.prior) != value.prior:
                self.violated(f"{item.key.hex()[:8]} is counted again in round {value.round}")
        if holdings is not None:
            self._state(number, holdings)
        last = self._last_final.get(number)
        if last is not None and holdings is not None:
            data = holdings.log.read(number_of(last))
            if data is None or decode_certificate(data).value.hash != last.value.hash:
                self.violated(f"peer {number} left its final round {last.value.round} behind")
        if certificate.kind == "final":
            self._last_final[number] = certificate

    def _state(self, number: int, holdings: Holdings) -> None:
        """The bytes on disk are what the certificate says."""
        tree = state_tree(holdings.store.theta, holdings.store.momentum, holdings.ledger.encode())
        if tree.digest != holdings.head.value.digest:
            self.violated(f"peer {number} holds other bytes than its certificate says")
