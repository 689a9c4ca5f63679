"""A peer's books on a tree of certificates, beside a deliberately dumb account of what is counted where.

The tree stands for all that voters might certify; the peer moves about in it as the real one may: never
behind a final certificate.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from averaging_help import certify, make_contribution, make_ledger, make_rules, make_value, peers

from talkoot.averaging.certificate import Certificate, Contribution
from talkoot.averaging.contribution import LocalContribution
from talkoot.averaging.digest import content_hash
from talkoot.peer.files import ignore_step
from talkoot.peer.residual import Residual
from talkoot.peer.statedir import StateDir

CHUNK = 256
US, *OTHERS = peers(3)


@dataclass(eq=False)
class Place:
    """A certificate and the one before it."""

    certificate: Certificate
    parent: "Place | None"

    @property
    def digest(self) -> bytes:
        return self.certificate.value.digest

    @property
    def round(self) -> int:
        """Of the certificate."""
        return self.certificate.value.round

    @property
    def chain(self) -> "list[Place]":
        """From here back to the root."""
        found, place = [], self
        while True:
            found.append(place)
            if place.parent is None:
                return found
            place = place.parent

    @property
    def last_final(self) -> "Place":
        return next(place for place in self.chain if place.certificate.kind != "weak" or not place.parent)

    def counts(self, header: Contribution) -> bool:
        """Whether this chain has the contribution in a cut."""
        return any(header in place.certificate.value.cut for place in self.chain)


@dataclass
class Sent:
    """What the test remembers of one contribution."""

    header: Contribution
    data: bytes
    decoded: torch.Tensor
    """float64."""


@dataclass
class Peer:
    """The books under test."""

    path: Path
    numel: int
    codec: str = "int8"
    error_feedback: bool = True
    decay: float = 1.0
    sent: dict[bytes, Sent] = field(default_factory=dict)
    """By prior digest: all that was ever sent, also before a kill."""
    units: int = 0
    tokens: int = 0
    """Pieces of work made."""
    forgotten: torch.Tensor = field(init=False)
    """What decay took, float64."""

    def __post_init__(self) -> None:
        self.rules = make_rules(
            error_feedback=self.error_feedback,
            feedback_decay=self.decay,
            numel=self.numel,
            chunk_size=CHUNK,
        )
        self.paths = StateDir(self.path)
        self.paths.prepare()
        root = make_value(OTHERS, OTHERS, round=0, prior=bytes(32), digest=b"0" * 32)
        self.root = Place(certify(root, OTHERS), None)
        self.places = [self.root]
        self.head = self.root
        self.made = torch.zeros(self.numel, dtype=torch.float64)
        self.forgotten = torch.zeros(self.numel, dtype=torch.float64)
        self.books = Residual(self.paths, self.rules)
        self._was_killed = False

    def certificate_of(self, number: int) -> Certificate | None:
        return next((place.certificate for place in self.head.chain if place.round == number), None)

    # -- what happens ------------------------------------------------------------------------------------

    def work(
        self, delta: torch.Tensor, *, steps: int = 80, tokens: int = 100, dies: bool = False
    ) -> LocalContribution | None:
        """Make a contribution for the head, or get the one that there is: the same bytes.

        `dies`: before what was made is saved, so before anybody has it.
        """
        prior = self.head.digest
        made = self.books.made_for(prior)
        if made is not None:
            local = self.books.log.local(made)
            if local is not None:
                assert data_of(local) == self.sent[prior].data
                assert local.header == self.sent[prior].header
            return local
        if prior in self.sent:
            return None  # sent, and forgotten since: the journal says so
        kept = self.books.carry_P * (self.decay if self._all_counted else 1.0)
        if not dies:
            self.forgotten += self.books.carry_P.double() - kept
        local = self.books.encode(
            torch.zeros(self.numel),
            -delta,
            steps=steps,
            tokens=tokens,
            ledger=make_ledger((OTHERS[0].key,), round=self.head.round + 1, codec=self.codec),
            prior=prior,
            admission=b"",
            signer=US,
        )
        assert torch.equal(self.books.carry_P, kept + min(2, 80 / steps) * delta)
        if dies:
            self.kill()
            self.follow(self.head)
            return None
        self.books.save()
        self.made += min(2, 80 / steps) * delta.double()
        self.units += 1
        self.tokens += tokens
        if local is not None:
            self.sent[prior] = Sent(local.header, data_of(local), self._decode(local))
        return local

    def _decode(self, local: LocalContribution) -> torch.Tensor:
        out = torch.empty(self.numel)
        for chunk in range(self.rules.num_chunks):
            piece = out[chunk * CHUNK : chunk * CHUNK + self.rules.chunk_numel(chunk)]
            local.chunks.codec.decode_into(local.chunks[chunk], piece)
        return out.double()

    def certify(self, parent: Place, *, count: bool, weak: bool) -> Place:
        """Voters certify a round after `parent`, with our contribution for it or without."""
        ours = self.sent.get(parent.digest)
        number = parent.round + 1
        other = make_contribution(OTHERS[0], round=number, prior=parent.digest)
        cut = [other, ours.header] if ours is not None and count else [other]
        value = make_value(
            OTHERS,
            OTHERS,
            round=number,
            prior=parent.digest,
            digest=content_hash(b"%d" % len(self.places)),
            cut=tuple(sorted(cut, key=lambda item: item.key)),
        )
        self.places.append(Place(certify(value, OTHERS, weak=weak), parent))
        return self.places[-1]

    def reachable(self) -> list[Place]:
        """Where the peer may be moved to."""
        base = self.head.last_final
        return [place for place in self.places if base in place.chain]

    def follow(self, place: Place) -> None:
        """The peer holds another outer state now (or the same: nothing may change, unless it was killed and
        has yet to settle what it saved)."""
        before, counted = self.books.carry_P.clone(), self.counted_headers()
        self.head = place
        self.books.follow(place.certificate, self.certificate_of)
        settled, self._was_killed = not self._was_killed, False
        if settled and counted == self.counted_headers():
            assert torch.equal(before.view(torch.int32), self.books.carry_P.view(torch.int32))

    def restart(self) -> None:
        """An orderly stop and a start."""
        self.books.save()
        self.books = Residual(self.paths, self.rules)

    def kill(self, hook: Callable[[str], None] = ignore_step) -> None:
        """Without a word; and a start."""
        self.books = Residual(self.paths, self.rules, hook=hook)
        self._was_killed = True

    # -- the dumb account --------------------------------------------------------------------------------

    def counted_headers(self) -> list[Contribution]:
        return [sent.header for sent in self.sent.values() if self.head.counts(sent.header)]

    @property
    def _all_counted(self) -> bool:
        """Whether the chain counts all work: what is carried is only what encodings lost."""
        return self.units == sum(1 + header.carried for header in self.counted_headers())

    def counted(self) -> torch.Tensor:
        """All of ours that the chain counts, decoded, float64."""
        total = torch.zeros(self.numel, dtype=torch.float64)
        for sent in self.sent.values():
            if self.head.counts(sent.header):
                total += sent.decoded
        return total

    def accounted(self) -> torch.Tensor:
        """Counted and residual together, float64."""
        return self.counted() + self.books.carry_P.double()


def data_of(local: LocalContribution) -> bytes:
    return b"".join(bytes(local.chunks[chunk]) for chunk in range(len(local.index.entries)))


def dyadic(seed: int, numel: int, unit: int = 64) -> torch.Tensor:
    """Multiples of 1/64 (1 / `unit`) up to 1, with a 1 in each block, so that all sums in float32 are exact.

    Every block's scale is then at least 2**-7 and, as a bf16, a multiple of 2**-14; so is what is decoded.
    """
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randint(-unit, unit + 1, (numel,), generator=generator).float() / unit
    delta[::CHUNK] = 1.0
    return delta


Op = tuple[str, Any]
