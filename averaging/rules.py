"""The rules of a swarm as rounds see them: the part of the manifest that arithmetic and voting depend on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from talkoot.averaging.audits import Audits
from talkoot.averaging.robustness import Robustness

Admit = Callable[[bytes, bytes], bytes | None]
"""(peer key, admission proof) -> the invite key that admits this peer, or None."""

Door = Callable[[bytes, bytes], str | None]
"""(peer key, admission proof) -> why this newcomer is not let in now, or None. It may ask a clock, so the
answers of two peers may differ: nothing that goes into a ledger may depend on it."""

Issued = Callable[[bytes, bytes, bytes], bool]
"""(founder, invite key, permission) -> whether this founder issued this key, on any clock."""


def _none_issued(_founder: bytes, _token: bytes, _permission: bytes) -> bool:
    return False


CHUNK_NUMEL = 1 << 18
"""Elements in one chunk of a real swarm's vector: the unit of encoding, hashing and sharing out."""


Feedback = bool | Literal["auto"]
"""Whether what encoding loses is added to the next contribution; auto: with codecs that lose much."""

NEARLY_LOSSLESS = ("fp32", "fp16", "bf16", "int8")
"""Kinds of codec that lose so little that feeding it back changes nothing."""

PIECE_BYTES = 256 * 1024
EAGER_BYTES = 256 * 1024


Rung = tuple[str, str]
"""Codec of contributions, codec of aggregates."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Adaptive:
    """How the codecs of a round follow from the round before (`talkoot.averaging.ladder`)."""

    rungs: tuple[Rung, ...]
    """From dense to sparse."""
    share: float
    """Part of a round that its exchange may take."""
    warm_rounds: int
    """First rounds, in which it may take more."""
    exchange_ms: int
    """Deadline for contributions, milliseconds."""
    certify_ms: int
    """Deadline for aggregates, milliseconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """What every peer of a swarm must agree on to get the same bits."""

    swarm: bytes
    """Swarm id."""
    numel: int
    """P: elements of the flat parameter vector."""
    founders: tuple[bytes, ...]
    """Keys of the founders: always entitled to vote."""
    invited_vote: bool
    """True: peers with an invite weigh at once and vote from their next round on. False: newcomers are
    on probation for `probation_rounds` and do not vote."""
    admit: Admit
    """Checks proofs of invitation."""
    inner_steps: int
    """H."""
    outer_learning_rate: float
    outer_momentum: float
    error_feedback: Feedback
    max_absent_rounds: int
    """A voter absent for more rounds in a row may be removed by a majority of the voters."""
    feedback_decay: float = 1.0
    """What earlier encodings lost is multiplied with this before each new contribution."""
    adaptive: Adaptive | None = None
    """None: the codecs of the first round are those of all rounds."""
    probation_rounds: int = 3
    """Counted rounds after which a newcomer of an open swarm weighs."""

    exchange: Literal["dense", "sparse"] = "dense"
    """dense: parts of the vector have reducers. sparse: every peer fetches every contribution whole."""

    robustness: Robustness = field(default_factory=Robustness)
    """How contributions are aggregated; rules that a sparse exchange cannot follow are refused in the
    manifest."""

    listed: tuple[bytes, ...] = ()
    """Peers that need no invite; where there are any, invites admit nobody."""

    audits: Audits | None = None
    """What audits of trainers earn; None: there are none."""

    issued: Issued = _none_issued
    """Checks which founder issued an invite key, and so may take it back."""

    piece_bytes: int = PIECE_BYTES
    """A piece of a sparse exchange has as many chunks as fit into this, and at least one."""

    eager_bytes: int = EAGER_BYTES
    """In a sparse exchange a peer uploads its blob to everybody itself when that is no more than this in
    all: having it passed on would cost time and save nothing."""

    chunk_size: int = CHUNK_NUMEL
    """Elements in one chunk; simulations of small vectors have smaller ones."""

    def feeds_back(self, codec_name: str) -> bool:
        """Whether a counted contribution in this codec leaves to the next one what its encoding lost."""
        if self.error_feedback == "auto":
            return codec_name.partition(":")[0] not in NEARLY_LOSSLESS
        return self.error_feedback

    @property
    def num_chunks(self) -> int:
        """Chunks of the vector; the last one may be short."""
        return -(-self.numel // self.chunk_size)

    def chunk_numel(self, chunk: int) -> int:
        """Elements of one chunk."""
        return min(self.chunk_size, self.numel - chunk * self.chunk_size)


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """How long the phases of an attempt may take at most, in seconds; all double with each attempt.

    Measured deadlines (`talkoot.averaging.deadlines`) lie between these and the floor.
    """

    form_s: float
    """A leader waits so long for peers to join."""
    exchange_s: float
    """From the roster to the cut."""
    certify_s: float
    """From the complete aggregates to the certificate."""
    floor_s: float = 1.0
    """No phase is cut off earlier."""
    slack_s: float = 0.0
    """How much later than ours a leader's own reckoning may close the round."""
    max_doublings: int = 4
    """No phase gets longer than 2 ** max_doublings times its base."""
    max_attempts: int = 6
    """Attempts in a row after which a round is given up for now."""
    weak_after: int = 2
    """First attempt that may be certified without a quorum of all voters."""

    def scaled(self, base_s: float, attempt: int) -> float:
        """A phase's length in the given attempt."""
        return base_s * float(2 ** min(attempt, self.max_doublings))
