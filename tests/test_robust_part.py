"""Parts by robust rules: those over plain tensors, in two readings of encoded chunks; and whole rounds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import pytest
import torch
from averaging_help import make_rules
from replay_rig import LoggedSwarm, check_replay
from robust_rig import vectors
from round_swarm import Node
from state_rig import MANIFEST

from talkoot.averaging import aggregate
from talkoot.averaging.aggregate import Source, aggregate_part, decode_part
from talkoot.averaging.contribution import Chunks, Entry, Index, encode_delta
from talkoot.averaging.parts import Part
from talkoot.averaging.robustness import Before, Robustness, Rule, sparse_problem
from talkoot.compression import codec as codecs
from talkoot.peer.manifest import Compression
from talkoot.peer.presets import PUBLIC
from talkoot.peer.rules_of import rules_of

CHUNK = 2**16
NUMEL = CHUNK + 500
WHOLE = Part(b"r" * 32, 0, 2)
SEED = b"digest"
PLAIN = make_rules(numel=NUMEL, chunk_size=CHUNK)
INT8, FP32 = codecs.get("int8"), codecs.get("fp32")
WEIGHTS = [0.2, 0.1, 0.15, 0.25, 0.2, 0.05, 0.05]


def encoded(delta: torch.Tensor) -> tuple[Index, Chunks]:
    zeros = torch.zeros(NUMEL)
    return encode_delta(delta, zeros, zeros.clone(), scale=1.0, codec=INT8, rules=PLAIN)


CONTRIBUTIONS = [encoded(row) for row in vectors(7, NUMEL, 3, spread=2.0)]


def sources(clips: Sequence[float] = (1.0,) * 7, part: Part = WHOLE) -> list[Source]:
    return [
        Source(weight, [chunks[c] for c in part.chunks], [index.entries[c] for c in part.chunks], INT8, clip)
        for weight, clip, (index, chunks) in zip(WEIGHTS, clips, CONTRIBUTIONS, strict=True)
    ]


def decoded(of: Sequence[Source]) -> list[torch.Tensor]:
    """Their values, capped."""
    return [
        source.clip * torch.cat([INT8.decode(source.chunks[c], PLAIN.chunk_numel(c)) for c in range(2)])
        for source in of
    ]


def armed(of: Sequence[Source], robustness: Robustness) -> int:
    rules = replace(PLAIN, robustness=robustness)
    return aggregate_part(WHOLE, of, codec=FP32, rules=rules, seed=SEED).armed


def result(of: Sequence[Source], robustness: Robustness, part: Part = WHOLE) -> torch.Tensor:
    rules = replace(PLAIN, robustness=robustness)
    done = aggregate_part(part, of, codec=FP32, rules=rules, seed=SEED)
    out = torch.zeros(NUMEL)
    decode_part(part, done.chunks, codec=FP32, rules=rules, out_P=out)
    return out


def by_hand(rows: list[torch.Tensor], how: Robustness) -> torch.Tensor:
    """The same by the functions that users import."""
    center = aggregate.coordinate_median(rows, WEIGHTS) if how.clip_center != "zero" else "zero"
    weights: Sequence[float] = WEIGHTS
    if how.before == "nearest_neighbors":
        rows, weights = aggregate.nearest_neighbor_mixing(rows, weights, num_byzantine=1)
    elif how.before == "buckets":
        rows, weights = aggregate.bucketing(rows, weights, size=2, seed=SEED)
    if how.rule == "trimmed_mean":
        return aggregate.trimmed_mean(rows, weights, trim=1)
    if how.rule == "krum":
        f = min(1, (len(rows) - 3) // 2)
        return aggregate.krum(rows, weights, num_byzantine=f, num_selected=len(rows) - f)
    if how.rule == "centered_clip":
        return aggregate.centered_clip(rows, weights, center=center)  # type: ignore[arg-type]
    rule = {
        "mean": aggregate.mean,
        "coordinate_median": aggregate.coordinate_median,
        "geometric_median": aggregate.geometric_median,
    }[how.rule]
    return rule(rows, weights)


@pytest.mark.parametrize("before", get_args(Before))
@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_part_is_what_the_rule_makes_of_what_was_sent(rule: Rule, before: Before) -> None:
    of = sources(clips=(1.0, 0.5, 1.0, 1.0, 0.9, 1.0, 0.25))
    for how in (
        Robustness(rule=rule, before=before),
        Robustness(rule=rule, before=before, clip_center="coordinate_median"),
    ):
        ours, theirs = result(of, how), by_hand(decoded(of), how)
        if before == "none" and rule in ("coordinate_median", "trimmed_mean"):
            assert torch.equal(ours, theirs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("arms_at", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("rule", get_args(Rule))
def test_what_is_not_what_was_signed_counts_as_zeros(rule: Rule, arms_at: float) -> None:
    of, how = sources(), Robustness(rule=rule, arms_at=arms_at)
    lies = replace(of[2], entries=[of[2].entries[0], Entry(bytes(32), of[2].entries[1].norm2 * 1.001)])
    torn = replace(of[5], chunks=[of[5].chunks[0], b"torn"])
    nothing, silence = INT8.encode(torch.zeros(500)), Entry(b"", 0.0)
    blank, blank_too = (
        replace(source, chunks=[source.chunks[0], nothing], entries=[source.entries[0], silence])
        for source in (of[2], of[5])
    )
    broken = [*of[:2], lies, *of[3:5], torn, of[6]]
    zeroed = [*of[:2], blank, *of[3:5], blank_too, of[6]]
    assert torch.equal(result(broken, how), result(zeroed, how))


@pytest.mark.parametrize("rule", get_args(Rule))
def test_who_weighs_nothing_is_not_even_decoded(rule: Rule) -> None:
    of = sources()
    silent = [Source(0.0, [b"garbage", b""], [Entry(bytes(32), 1e9)] * 2, INT8) for _ in range(4)]
    for how in (
        Robustness(rule=rule),
        Robustness(rule=rule, norm_cap="part", before="buckets"),
        Robustness(rule=rule, arms_at=0.5),
    ):
        assert torch.equal(result([*silent[:2], *of, *silent[2:]], how), result(of, how))
        assert not result(silent, how).any()


CHUNKS = (Part(b"a" * 32, 0, 1), Part(b"b" * 32, 1, 1))
WHERE = (slice(0, CHUNK), slice(CHUNK, NUMEL))


@pytest.mark.parametrize("before", get_args(Before))
@pytest.mark.parametrize("rule", get_args(Rule))
def test_a_chunk_is_the_plain_mean_where_the_rule_is_near_it(rule: Rule, before: Before) -> None:
    """Of all contributions as they came, whatever the rule does to them; each chunk by itself."""
    of = sources(clips=(1.0, 0.5, 1.0, 1.0, 0.9, 1.0, 0.25))
    robust = result(of, Robustness(rule=rule, before=before, arms_at=1e-9))
    torch.testing.assert_close(robust, result(of, Robustness(rule=rule, before=before)), rtol=1e-6, atol=1e-6)
    rows = decoded(sources())
    plain = result(sources(), Robustness(norm_cap="none"))
    for arms_at in (0.01, 0.3, 10.0):
        ours = result(of, Robustness(rule=rule, before=before, arms_at=arms_at))
        for at in WHERE:
            here = aggregate.mean_unless_far([row[at] for row in rows], WEIGHTS, robust[at], arms_at=arms_at)
            torch.testing.assert_close(ours[at], here, rtol=1e-6, atol=1e-6)
            assert torch.equal(ours[at], robust[at]) or torch.equal(ours[at], plain[at])


def test_one_lie_arms_only_the_chunk_it_is_in() -> None:
    how, of = Robustness(rule="trimmed_mean", norm_cap="chunk", arms_at=0.5), sources()
    plain = result(of, Robustness(norm_cap="none"))
    assert torch.equal(result(of, how), plain)
    lie = torch.cat([INT8.decode(of[3].chunks[0], CHUNK), -50 * INT8.decode(of[3].chunks[1], NUMEL - CHUNK)])
    index, chunks = encoded(lie)
    spoiled = [*of[:3], replace(of[3], chunks=[chunks[0], chunks[1]], entries=index.entries), *of[4:]]
    ours, robust = result(spoiled, how), result(spoiled, replace(how, arms_at=0.0))
    assert torch.equal(ours[WHERE[0]], plain[WHERE[0]])
    assert torch.equal(ours[WHERE[1]], robust[WHERE[1]])
    assert not torch.equal(robust[WHERE[0]], plain[WHERE[0]])
    assert [armed(of, how), armed(spoiled, how), armed(spoiled, replace(how, arms_at=0.0))] == [0, 1, 2]
    assert armed(spoiled, Robustness()) == 0, "a sum is no rule that arms"
    for part, at in zip(CHUNKS, WHERE, strict=True):  # and none depends on the others
        of_part = [
            replace(s, chunks=[s.chunks[c] for c in part.chunks], entries=[s.entries[c] for c in part.chunks])
            for s in spoiled
        ]
        assert torch.equal(result(of_part, how, part)[at], ours[at])


def test_what_no_mean_can_hold_arms_the_defence() -> None:
    """Contributions of the largest numbers there are, in a codec that holds them: their sum does not fit."""
    most = torch.full((NUMEL,), torch.finfo(torch.float32).max)
    index, chunks = encode_delta(
        most, torch.zeros(NUMEL), torch.zeros(NUMEL), scale=1.0, codec=FP32, rules=PLAIN
    )
    loud = [Source(w, [chunks[0], chunks[1]], index.entries, FP32) for w in (0.5, 0.6)]  # more than all
    how = Robustness(rule="trimmed_mean", norm_cap="none", arms_at=10.0)
    assert torch.isfinite(result([*loud, *sources()], how)).all()


@pytest.mark.parametrize("cap", ["part", "chunk"])
def test_a_poisoned_piece_is_capped_at_the_median_for_it(cap: str) -> None:
    of = sources()
    honest = decoded(of)
    poison = torch.zeros(NUMEL)
    poison[CHUNK:] = honest[0].norm() / 500**0.5  # all of a normal norm in the last 500 values
    index, chunks = encoded(poison)
    liar = replace(of[0], chunks=[chunks[0], chunks[1]], entries=index.entries)
    last = Part(b"r" * 32, 1, 1)
    alone = [replace(s, chunks=s.chunks[1:], entries=s.entries[1:]) for s in [liar, *of[1:]]]
    usual = sorted(row[CHUNK:].norm().item() for row in honest[1:])[-1]
    loud = result(alone, Robustness(norm_cap="whole"), last)[CHUNK:].norm().item()
    quiet = result(alone, Robustness(norm_cap=cap), last)[CHUNK:].norm().item()  # type: ignore[arg-type]
    assert loud > 2 * usual
    assert quiet <= usual * (1 + 1e-6)


def test_chunk_caps_do_not_depend_on_the_parts() -> None:
    whole = result(sources(), Robustness(norm_cap="chunk"))
    for part, at in ((Part(b"a" * 32, 0, 1), slice(0, CHUNK)), (Part(b"b" * 32, 1, 1), slice(CHUNK, NUMEL))):
        assert torch.equal(result(sources(part=part), Robustness(norm_cap="chunk"), part)[at], whole[at])


# -- rounds ------------------------------------------------------------------------------------------------

HOW = [
    Robustness(rule="centered_clip", norm_cap="part", clip_center="coordinate_median"),
    Robustness(rule="geometric_median", before="buckets"),
    Robustness(rule="krum", before="nearest_neighbors", norm_cap="none"),
    Robustness(rule="trimmed_mean", norm_cap="chunk"),
    PUBLIC,
    Robustness(rule="mean", norm_cap="part", arms_at=0.5),
]


class LyingSwarm(LoggedSwarm):
    """The first peer sends its work a million times as large, the wrong way round."""

    def __init__(self, robustness: Robustness, **options: object) -> None:
        super().__init__(5, numel=5000, chunk_size=1024, robustness=robustness, **options)
        liar: Node = next(iter(self.nodes.values()))
        self.honest = torch.stack([n.theta - n.local for n in self.nodes.values() if n is not liar])
        liar.local = liar.theta + 1e6 * (liar.theta - liar.local)


@pytest.mark.parametrize(
    "how", HOW, ids=lambda how: f"{how.rule}, {how.before}, {how.norm_cap}, {how.arms_at}"
)
def test_a_round_with_a_liar_ends_on_the_same_bits_and_near_the_honest_ones(how: Robustness) -> None:
    swarm = LyingSwarm(how)
    swarm.play()
    records = [kept for (kept,) in swarm.kept.values()]
    assert len({kept.data for kept in records}) == 1
    assert len({kept.certificate.value.digest for kept in records}) == 1
    assert len(records[0].certificate.value.cut) == 5
    check_replay(records[0], swarm.rules)
    off = (records[0].aggregate - swarm.honest.mean(0)).norm()
    assert off <= 2 * swarm.honest.norm(dim=1).max()


def test_without_any_defence_the_liar_wins() -> None:
    swarm = LyingSwarm(Robustness(norm_cap="none"))
    swarm.play()
    ((kept,), *_) = swarm.kept.values()
    assert kept.aggregate.norm() > 1e4 * swarm.honest.norm(dim=1).max()


def test_a_sparse_round_with_chunk_caps_replays() -> None:
    swarm = LyingSwarm(Robustness(norm_cap="chunk"), exchange="sparse", codec="topk", aggregate_codec="int8")
    swarm.play()
    records = [kept for (kept,) in swarm.kept.values()]
    assert len({kept.certificate.value.digest for kept in records}) == 1
    check_replay(records[0], swarm.rules)
    assert records[0].aggregate.norm() <= 2 * swarm.honest.norm(dim=1).max()


# -- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("hostile_share", (-0.01, 0.5, float("nan"))),
        ("bucket_size", (0, 65)),
        ("clip_iterations", (0, 65)),
        ("clip_radius", (0.0, 1001.0, float("nan"))),
        ("arms_at", (-0.1, 10.5, float("nan"))),
    ],
)
def test_settings_have_bounds(name: str, values: tuple[float, ...]) -> None:
    for value in values:
        with pytest.raises(ValueError, match=f"^robustness.{name} must be "):
            Robustness(**{name: value})  # type: ignore[arg-type]


def test_an_adaptive_swarm_with_such_a_rule_never_gets_to_sparse_codecs() -> None:
    auto = replace(MANIFEST, compression=Compression(codec="auto"))
    clipping = rules_of(replace(auto, robustness=Robustness(rule="centered_clip")))
    assert clipping.robustness.rule == "centered_clip"
    plain = rules_of(auto)
    assert plain.adaptive is not None
    assert clipping.adaptive is not None
    assert clipping.adaptive.rungs == tuple(r for r in plain.adaptive.rungs if not r[0].startswith("topk"))
    assert clipping.adaptive.rungs != plain.adaptive.rungs


def test_rules_that_compare_are_refused_where_contributions_are_sparse() -> None:
    for rule in get_args(Rule):
        how = Robustness(rule=rule)
        dense = sparse_problem(how, exchange="dense", codec="int8")
        topk = sparse_problem(how, exchange="dense", codec="topk:64")
        sparse = sparse_problem(how, exchange="sparse", codec="int8")
        assert dense is None
        assert (topk is None, sparse is None) == (rule == "mean",) * 2
        for problem in (topk, sparse):
            assert problem is None or (problem.startswith("robustness.rule must be") and "\n" not in problem)
    mixed = Robustness(before="buckets")
    assert "robustness.before" in (sparse_problem(mixed, exchange="dense", codec="topk") or "")
    armed = Robustness(norm_cap="chunk", arms_at=0.5)
    assert sparse_problem(armed, exchange="dense", codec="int8") is None
    for exchange, codec in (("dense", "topk"), ("sparse", "int8")):
        assert "robustness.arms_at must be 0" in (sparse_problem(armed, exchange=exchange, codec=codec) or "")  # type: ignore[arg-type]
    by_part = Robustness(norm_cap="part")
    assert sparse_problem(by_part, exchange="dense", codec="topk") is None
    assert "norm_cap" in (sparse_problem(by_part, exchange="sparse", codec="int8") or "")
