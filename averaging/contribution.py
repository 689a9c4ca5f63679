"""One peer's encoded pseudo-gradient: chunks that stand alone, an index of their hashes, a signed header.

Chunk c of the flat vector is encoded by itself, so that any reducer can decode, verify and aggregate its
part without the rest. The index lists for each chunk its content hash and the squared norm of its decoded
values; the root over the index is in the signed header.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import fsum

import msgspec
import torch

from talkoot.averaging.certificate import (
    MAX_CLAIM,
    MAX_MILLISECONDS,
    MAX_NORM2,
    MAX_UPLOAD,
    CertificateError,
    Contribution,
)
from talkoot.averaging.digest import HASH_BYTES, content_hash, root
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.rules import Rules
from talkoot.averaging.signing import Signer
from talkoot.compression import codec as codecs
from talkoot.compression.codec import Codec

ENTRY_BYTES = HASH_BYTES + 8
"""One index entry: content hash, then the squared norm as a little-endian float64."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says about one chunk."""

    hash: bytes
    norm2: float

    def encode(self) -> bytes:
        """40 bytes."""
        return self.hash + struct.pack("<d", self.norm2)


class Index:
    """Entries of all chunks of one contribution."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)

    @property
    def root(self) -> bytes:
        """Root over the entries' hashes: what the contributor signs."""
        return root([content_hash(entry.encode()) for entry in self.entries])

    @property
    def norm2(self) -> float:
        """Squared norm of the whole contribution, exactly rounded."""
        return fsum(entry.norm2 for entry in self.entries)

    def encode(self) -> bytes:
        """Entries one after the other."""
        return b"".join(entry.encode() for entry in self.entries)


def decode_index(data: bytes | memoryview, contribution: Contribution, num_chunks: int) -> Index:
    """Parse an index and hold it against the signed header. Raises CertificateError."""
    if len(data) != num_chunks * ENTRY_BYTES:
        raise CertificateError("malformed", f"index of {len(data)} bytes for {num_chunks} chunks")
    view = memoryview(data)
    norms = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(num_chunks, ENTRY_BYTES)
    values = norms[:, HASH_BYTES:].contiguous().view(torch.float64).flatten().tolist()
    starts = range(0, len(data), ENTRY_BYTES)
    index = Index(
        [Entry(bytes(view[at : at + HASH_BYTES]), value) for at, value in zip(starts, values, strict=True)]
    )
    if not all(0 <= entry.norm2 <= MAX_NORM2 for entry in index.entries):
        raise CertificateError("not_finite", "a chunk's norm is no number")
    if index.root != contribution.root or index.norm2 != contribution.norm2:
        raise CertificateError("wrong_index", "index does not match the signed contribution")
    return index


class Chunks:
    """Encoded chunks of one vector in one buffer; chunk sizes follow from the codec."""

    def __init__(self, rules: Rules, codec: Codec, buffer: bytearray | memoryview) -> None:
        self.codec = codec
        self._rules = rules
        self._view = memoryview(buffer)
        self._full = codec.encoded_size(rules.chunk_size)
        self._last = codec.encoded_size(rules.chunk_numel(rules.num_chunks - 1))

    @classmethod
    def allocate(cls, rules: Rules, codec: Codec) -> "Chunks":
        """Room for all chunks in memory."""
        return cls(rules, codec, bytearray(encoded_bytes(rules, codec.name)))

    def __getitem__(self, chunk: int) -> memoryview:
        """The bytes of one chunk, writable."""
        size = self._last if chunk == self._rules.num_chunks - 1 else self._full
        return self._view[chunk * self._full : chunk * self._full + size]

    def run(self, first: int, count: int) -> memoryview:
        """The bytes of consecutive chunks."""
        return self._view[first * self._full : (first + count) * self._full]

    @property
    def nbytes(self) -> int:
        """Bytes of all chunks."""
        return self._view.nbytes


def encoded_bytes(rules: Rules, codec_name: str) -> int:
    """Bytes of all chunks of one vector in a codec."""
    codec = codecs.get(codec_name)
    last = codec.encoded_size(rules.chunk_numel(rules.num_chunks - 1))
    return codec.encoded_size(rules.chunk_size) * (rules.num_chunks - 1) + last


@dataclass(frozen=True, slots=True)
class LocalContribution:
    """Our own contribution, ready to be sent: one for each prior digest, unchanged in retries."""

    header: Contribution
    index: Index
    chunks: Chunks


def step_scale(steps: int, reference_steps: int) -> float:
    """Factor that makes peers of unlike speed comparable: clamp(h_ref / h, 1/2, 2)."""
    return min(2.0, max(0.5, reference_steps / steps))


def encode_delta(
    start_P: torch.Tensor,
    local_P: torch.Tensor,
    carry_P: torch.Tensor,
    *,
    scale: float,
    codec: Codec,
    rules: Rules,
) -> tuple[Index, Chunks]:
    """Encode m = carry + scale * (start - local), chunk by chunk; m replaces `carry_P`.

    All three are flat fp32 of `rules.numel` elements. `carry_P` holds what earlier rounds left over, and
    afterwards what this round must send: the caller turns it into the residual once it knows whether the
    contribution was counted (`settle`). Raises CodecError on non-finite input.
    """
    chunks = Chunks.allocate(rules, codec)
    entries = []
    for chunk in range(rules.num_chunks):
        start = chunk * rules.chunk_size
        stop = start + rules.chunk_numel(chunk)
        x = torch.sub(start_P[start:stop], local_P[start:stop])
        torch.mul(x, scale, out=x)
        m = carry_P[start:stop]
        torch.add(m, x, out=m)
        view = chunks[chunk]
        codec.encode_into(m, view)
        entries.append(Entry(content_hash(view), codec.squared_norm(view, stop - start)))
    return Index(entries), chunks


def settle(carry_P: torch.Tensor, chunks: Chunks, *, counted: bool, rules: Rules) -> None:
    """Turn what was to be sent into the residual: what quantisation lost, nothing, or all of it.

    Counted with error feedback: `m - decode(sent)`. Counted without: 0. Not counted: m stays, bit for bit.
    """
    if not counted:
        return
    if rules.feeds_back(chunks.codec.name):
        take_out(carry_P, chunks, rules=rules)
    else:
        carry_P.zero_()


def take_out(carry_P: torch.Tensor, chunks: Chunks, *, rules: Rules) -> None:
    """carry - decode(sent), in place: others have it now."""
    _combine(torch.sub, carry_P, chunks, rules)


def give_back(carry_P: torch.Tensor, chunks: Chunks, *, rules: Rules) -> None:
    """carry + decode(sent), in place: what others had is not part of the chain any more.

    Undoes `take_out` bit for bit where m and decode(sent) were within a factor of 2 of each other or
    decode(sent) was 0 (Sterbenz), as they are with an int8 codec.
    """
    _combine(torch.add, carry_P, chunks, rules)


def _combine(
    operation: Callable[..., torch.Tensor], carry_P: torch.Tensor, chunks: Chunks, rules: Rules
) -> None:
    sent = torch.empty(rules.chunk_size)
    for chunk in range(rules.num_chunks):
        start = chunk * rules.chunk_size
        numel = rules.chunk_numel(chunk)
        chunks.codec.decode_into(chunks[chunk], sent[:numel])
        m = carry_P[start : start + numel]
        operation(m, sent[:numel], out=m)


def chunk_error(m_P: torch.Tensor, chunks: Chunks, chunk: int, *, rules: Rules) -> float:
    """Relative L2 error of one encoded chunk of `m_P`; 0 for zeros. For people: no consensus arithmetic."""
    start, numel = chunk * rules.chunk_size, rules.chunk_numel(chunk)
    m, sent = m_P[start : start + numel], torch.empty(numel)
    chunks.codec.decode_into(chunks[chunk], sent)
    norm = float(torch.linalg.vector_norm(m))
    return float(torch.linalg.vector_norm(torch.sub(m, sent, out=sent))) / norm if norm else 0.0


def sign_contribution(
    index: Index,
    *,
    ledger: Ledger,
    prior: bytes,
    steps: int,
    tokens: int,
    carried: int,
    carried_tokens: int,
    admission: bytes,
    rules: Rules,
    signer: Signer,
    upload: float = 0.0,
    seconds: float = 0.0,
) -> Contribution:
    """The signed header for an encoded delta; `upload` in bytes/s, 0: not known, `seconds` of the steps."""
    header = Contribution(
        swarm=rules.swarm,
        round=ledger.round,
        prior=prior,
        key=signer.key,
        root=index.root,
        norm2=index.norm2,
        steps=steps,
        tokens=tokens,
        numel=rules.numel,
        codec=ledger.codec,
        carried=carried,
        carried_tokens=min(carried_tokens, MAX_CLAIM),
        upload=min(MAX_UPLOAD, int(upload)),
        milliseconds=min(MAX_MILLISECONDS, int(1000 * seconds)),
        admission=admission,
    )
    return msgspec.structs.replace(header, signature=signer.sign(header.unsigned()))
