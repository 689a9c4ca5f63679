"""Rounds with real aggregates on holdings on disk, with their records; the same bytes in every call."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from state_rig import FOUNDERS, MANIFEST, NUMEL, certify, found

from talkoot.averaging.aggregate import Source, aggregate_part, combine, decode_part
from talkoot.averaging.certificate import Certificate, PartDigest, Value
from talkoot.averaging.contribution import LocalContribution, encode_delta, sign_contribution
from talkoot.averaging.digest import root
from talkoot.averaging.encoded import Encoded
from talkoot.averaging.ledger import Ledger
from talkoot.averaging.parts import Part, assign_parts
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.source import source_of
from talkoot.averaging.succession import next_ledger, weigh
from talkoot.dht.identity import Identity
from talkoot.peer.holdings import Holdings
from talkoot.peer.manifest import Manifest
from talkoot.peer.recorder import write_record
from talkoot.peer.roundlog import limits_of

SPARSE = replace(
    MANIFEST,
    round=replace(MANIFEST.round, exchange="sparse"),
    compression=replace(MANIFEST.compression, codec="topk"),
)
"""The same swarm with a sparse exchange."""


def opened(path: Path, manifest: Manifest = MANIFEST, *, keep: bool = True) -> Holdings:
    """A founded swarm with a round log."""
    holdings = found(path, manifest)
    if keep:
        holdings.keep_records(limits_of(manifest))
    return holdings


def contribution(holdings: Holdings, by: Identity, seed: int) -> LocalContribution:
    rules, ledger = holdings.rules, holdings.ledger
    generator = torch.Generator().manual_seed(1000 * seed + by.key[0])
    index, chunks = encode_delta(
        0.01 * torch.randn(NUMEL, generator=generator),
        torch.zeros(NUMEL),
        torch.zeros(NUMEL),
        scale=1.0,
        codec=codec_of(ledger.codec, holdings.digest, by.key),
        rules=rules,
    )
    header = sign_contribution(
        index, ledger=ledger, prior=holdings.digest, steps=20, tokens=100, carried=0, carried_tokens=0,
        admission=b"", rules=rules, signer=by,
    )  # fmt: skip
    return LocalContribution(header, index, chunks)


def aggregate(
    holdings: Holdings, locals_: Sequence[LocalContribution]
) -> tuple[torch.Tensor, Encoded, tuple[PartDigest, ...]]:
    """What a round of these comes to, and what it was decoded from."""
    rules, ledger = holdings.rules, holdings.ledger
    out, encoded = torch.empty(NUMEL), Encoded(rules.num_chunks)
    weighed = weigh([local.header for local in locals_], ledger, rules)

    def sources(chunks: range) -> list[Source]:
        return [
            source_of(
                item,
                [local.chunks[chunk] for chunk in chunks],
                [local.index.entries[chunk] for chunk in chunks],
            )
            for local, item in zip(locals_, weighed, strict=True)
        ]

    if rules.exchange == "sparse":
        everything = sources(range(rules.num_chunks))
        combine(everything, rules=rules, out_P=out)
        encoded.combined(0, everything)
        return out, encoded, ()
    digests = []
    reducers = [(local.header.key, 0.0) for local in locals_]
    parts: tuple[Part, ...] = assign_parts(reducers, rules.num_chunks, len(locals_))
    for part in parts:
        codec = codec_of(ledger.aggregate_codec, holdings.digest, part.reducer)
        done = aggregate_part(part, sources(part.chunks), codec=codec, rules=rules, seed=holdings.digest)
        decode_part(part, done.chunks, codec=codec, rules=rules, out_P=out)
        encoded.decoded(0, part, done.chunks)
        digests.append(PartDigest(part.reducer, part.first_chunk, part.num_chunks, root(done.hashes)))
    return out, encoded, tuple(digests)


def play(
    holdings: Holdings,
    *,
    by: Sequence[Identity] = FOUNDERS,
    weak: bool = False,
    seed: int = 0,
    given: LocalContribution | None = None,
) -> Certificate:
    """One more round, recorded where the holdings have a round log."""
    certificate, before, encoded = commit_round(holdings, by=by, weak=weak, seed=seed, given=given)
    if holdings.records is not None:
        write_record(holdings.records, certificate.value, before, holdings.rules, encoded)
    return certificate


def commit_round(
    holdings: Holdings,
    *,
    by: Sequence[Identity] = FOUNDERS,
    weak: bool = False,
    seed: int = 0,
    given: LocalContribution | None = None,
) -> tuple[Certificate, Ledger, Encoded]:
    """The certificate, the ledger before, and what the aggregate was decoded from.

    `given` is the contribution of one of the peers; the others' are made up.
    """
    before = holdings.ledger
    signers = sorted(by, key=lambda one: one.key)
    made = [
        given
        if given is not None and given.header.key == one.key
        else contribution(holdings, one, 100 * seed + before.round)
        for one in signers
    ]
    delta, encoded, parts = aggregate(holdings, made)
    present = tuple(one.key for one in signers)
    cut = tuple(local.header for local in made)
    ledger = next_ledger(before, cut, present, holdings.rules)
    prior = holdings.digest
    digest = holdings.apply(delta, ledger)
    value = Value(
        swarm=ledger.swarm, round=before.round, prior=prior, cut=cut, present=present, parts=parts,
        digest=digest, voters=ledger.voters,
    )  # fmt: skip
    certificate = certify(value, signers, weak=weak)
    holdings.commit(certificate, ledger)
    return certificate, before, encoded
