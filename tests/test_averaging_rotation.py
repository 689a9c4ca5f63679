"""Seeds of rotations: bound to the state before the round and to the peer, the same on every machine."""

import pytest
import torch
from averaging_help import PRIOR, make_contribution, make_rules, peers

from talkoot.averaging.aggregate import Source, aggregate_part, decode_part
from talkoot.averaging.contribution import encode_delta
from talkoot.averaging.parts import Part
from talkoot.averaging.rotation import codec_of, contribution_codec
from talkoot.compression import codec as codecs

NUMEL = 5000
RULES = make_rules(numel=NUMEL)
A, B = peers(2)
ROTATING = ("lloyd4", "lloyd2")


def test_seeds_are_the_first_8_bytes_of_a_hash_of_state_and_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    get = codecs.get

    def noting(name: str, seed: int = 0) -> codecs.Codec:
        seeds.append(seed)
        return get(name, seed)

    monkeypatch.setattr(codecs, "get", noting)
    for prior, key in ((PRIOR, bytes(32)), (PRIOR, bytes(31) + b"k"), (bytes(32), bytes(32))):
        codec_of("int8", prior, key)
    contribution_codec(make_contribution(A))
    codec_of("int8", PRIOR, A.key)
    assert len(set(seeds[:4])) == 4
    assert seeds[3] == seeds[4]
    assert seeds[0] == 17359289556904098187


@pytest.mark.parametrize("name", ROTATING)
@pytest.mark.parametrize("prior", [b"o" * 32, PRIOR])
def test_what_was_encoded_for_another_round_or_by_another_peer_counts_as_zeros(
    name: str, prior: bytes
) -> None:
    def aggregate(codec: codecs.Codec) -> torch.Tensor:
        delta = torch.randn(NUMEL, generator=torch.Generator().manual_seed(1))
        index, chunks = encode_delta(
            delta, torch.zeros(NUMEL), torch.zeros(NUMEL), scale=1.0, codec=codec, rules=RULES
        )
        source = Source(1.0, [chunks[0]], index.entries, codec_of(name, PRIOR, A.key))
        whole, fp32 = Part(A.key, 0, 1), codecs.get("fp32")
        part = aggregate_part(whole, [source], codec=fp32, rules=RULES)
        out = torch.empty(NUMEL)
        decode_part(whole, part.chunks, codec=fp32, rules=RULES, out_P=out)
        return out

    key = A.key if prior != PRIOR else B.key
    assert not aggregate(codec_of(name, prior, key)).any()
    assert aggregate(codec_of(name, PRIOR, A.key)).any()


def test_similar_vectors_lose_less_in_rotations_of_their_own() -> None:
    """The mean of 8 vectors with a cosine of 0.9."""
    generator = torch.Generator().manual_seed(0)
    common, *others = (torch.randn(2**16, generator=generator) for _ in range(9))
    vectors = [0.9**0.5 * common + 0.1**0.5 * other for other in others]

    def nmse(seeds: list[int]) -> float:
        pairs = [(codecs.get("lloyd2", seed), vector) for seed, vector in zip(seeds, vectors, strict=True)]
        exact = torch.stack(vectors).mean(0)
        mean = torch.stack([codec.decode(codec.encode(vector), 2**16) for codec, vector in pairs]).mean(0)
        return float(((mean - exact) ** 2).sum() / (exact**2).sum())

    assert 0.04 < nmse([7] * 8) < 0.06
    assert nmse(list(range(8))) < 0.03


@pytest.mark.parametrize("name", ROTATING)
def test_a_peer_alone_loses_nothing_a_second_time(name: str) -> None:
    codec = codec_of(name, PRIOR, A.key)
    once = codec.decode(codec.encode(torch.randn(4096, generator=torch.Generator().manual_seed(2))), 4096)
    assert torch.equal(codec.decode(codec.encode(once), 4096), once)
