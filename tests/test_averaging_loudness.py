"""What an aggregate can be at most: never less than what honest reducers make, never much more."""

from dataclasses import replace
from typing import get_args

import msgspec
import pytest
import torch
from averaging_help import PRIOR, make_contribution, make_ledger, make_rules, peers
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from talkoot.averaging.aggregate import aggregate_part, decode_part
from talkoot.averaging.contribution import encode_delta
from talkoot.averaging.inputs import Input, sources_of
from talkoot.averaging.loudness import FINE_SLACK, is_louder, loudest
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import Before, ClipCenter, NormCap, Robustness, Rule
from talkoot.averaging.rotation import codec_of
from talkoot.averaging.rules import Rules

NUMEL, CHUNK = 3 * 64 - 20, 64
PARTS = (Part(b"r" * 32, 0, 1), Part(b"r" * 32, 1, 2))
PEERS = peers(5)
LEDGER = make_ledger([peer.key for peer in PEERS])


class Cut:
    """Contributions with all that reducers hold of them."""

    def __init__(self, rows: list[torch.Tensor], carried: list[int]) -> None:
        self.rules = make_rules(numel=NUMEL, chunk_size=CHUNK)
        self.made = []
        self.headers = []
        self.indexes = {}
        for peer, row, rounds in zip(PEERS, rows, carried, strict=False):
            zeros, codec = torch.zeros(NUMEL), codec_of("int8", PRIOR, peer.key)
            index, chunks = encode_delta(row, zeros, zeros.clone(), scale=1.0, codec=codec, rules=self.rules)
            header = make_contribution(
                peer, root=index.root, norm2=index.norm2, numel=NUMEL, carried=rounds, tokens=8000 + rounds
            )
            self.made.append((header, index, chunks))
            self.headers.append(header)
            self.indexes[peer.key] = index

    def aggregate(self, part: Part, codec_name: str, rules: Rules) -> torch.Tensor:
        inputs = [
            Input(header, [index.entries[c] for c in part.chunks], [chunks[c] for c in part.chunks])
            for header, index, chunks in self.made
        ]
        codec = codec_of(codec_name, PRIOR, part.reducer)
        done = aggregate_part(part, sources_of(inputs, LEDGER, rules), codec=codec, rules=rules, seed=PRIOR)
        out_P = torch.zeros(NUMEL)
        decode_part(part, done.chunks, codec=codec, rules=rules, out_P=out_P)
        return out_P


@examples(150)
@given(
    how=st.builds(
        Robustness,
        rule=st.sampled_from(get_args(Rule)),
        norm_cap=st.sampled_from(get_args(NormCap)),
        before=st.sampled_from(get_args(Before)),
        hostile_share=st.sampled_from((0.0, 0.25, 0.49)),
        clip_center=st.sampled_from(get_args(ClipCenter)),
        clip_radius=st.sampled_from((0.5, 2.0)),
        arms_at=st.sampled_from((0.0, 0.5, 2.0)),
    ),
    aggregate_codec=st.sampled_from(("fp32", "bf16", "int8", "int4", "lloyd4", "lloyd2")),
    num=st.integers(1, 5),
    seed=st.integers(0, 2**16),
    scales=st.lists(st.sampled_from((0.0, 1e-6, 1.0, 1e4)), min_size=5, max_size=5),
    carried=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    alike=st.booleans(),
)
def test_no_honest_part_is_louder_than_it_can_be(
    how: Robustness,
    aggregate_codec: str,
    num: int,
    seed: int,
    scales: list[float],
    carried: list[int],
    alike: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(NUMEL, generator=generator)
    common[seed % NUMEL] = 100.0
    rows = [
        (common if alike else torch.randn(NUMEL, generator=generator) ** 3) * scale for scale in scales[:num]
    ]
    cut = Cut(rows, carried)
    rules = replace(cut.rules, robustness=how)
    for part in PARTS:
        out_P = cut.aggregate(part, aggregate_codec, rules)
        for indexes in (cut.indexes, {}):
            ledger = msgspec.structs.replace(LEDGER, aggregate_codec=aggregate_codec)
            assert not is_louder(out_P, part, rules, loudest(part, cut.headers, indexes, ledger, rules))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_the_bound_is_near_what_it_bounds_and_liars_do_not_lift_it(rule: Rule) -> None:
    """Five alike, then one of them ten thousand times as loud: the caps are the median's."""
    row = torch.ones(NUMEL)
    rules = replace(
        make_rules(numel=NUMEL, chunk_size=CHUNK), robustness=Robustness(rule=rule, norm_cap="part")
    )
    limits = []
    for loud in (1.0, 1e4):
        cut = Cut([row, row, row, row, row * loud], [0] * 5)
        limits.append(loudest(PARTS[0], cut.headers, cut.indexes, LEDGER, rules))
    assert limits[0] == pytest.approx(limits[1], rel=1e-3)
    assert limits[0] <= FINE_SLACK * 5**0.5 * CHUNK**0.5 * 1.01
    out_P = torch.zeros(NUMEL)
    out_P[0] = 2 * limits[0]
    assert is_louder(out_P, PARTS[0], rules, limits[0])
    assert not is_louder(out_P, PARTS[1], rules, limits[0])
    out_P[0] = float("nan")
    assert is_louder(out_P, PARTS[0], rules, limits[0])


@pytest.mark.parametrize("part", PARTS)
def test_a_defence_at_need_lets_no_more_pass_than_one_that_is_always_on_where_all_are_alike(
    part: Part,
) -> None:
    """And where a liar is ten thousand times as loud, twice that and a median norm at most."""
    row, always = torch.ones(NUMEL), Robustness(rule="trimmed_mean", norm_cap="part")
    at_need = replace(always, arms_at=0.5)
    limits = {}
    for loud in (1.0, 1e4):
        cut = Cut([row, row, row, row, row * loud], [0] * 5)
        for how in (always, at_need):
            rules = replace(cut.rules, robustness=how)
            limits[loud, how] = loudest(part, cut.headers, cut.indexes, LEDGER, rules)
    assert limits[1.0, at_need] == pytest.approx(limits[1.0, always], rel=1e-6)
    assert limits[1e4, always] < limits[1e4, at_need] <= 2 * limits[1e4, always]
