"""Parsers refuse what they should in the way they should, and every one of them is tried."""

import random

import pytest
from fuzz_targets import NOT_TRIED, TARGETS
from fuzzing import FACTOR, examples
from hypothesis import given
from hypothesis import strategies as st
from parser_sites import sites
from samples import changed


def test_every_parser_in_the_source_is_tried() -> None:
    """A new one goes into `fuzz_targets`, or with a reason into its list of those that need not be."""
    tried = [site for target in TARGETS.values() for site in target.sites]
    assert sorted({*tried, *NOT_TRIED}) == sorted(sites())
    assert len(tried) == len(set(tried))
    assert not NOT_TRIED.keys() & set(tried)


@pytest.mark.parametrize("name", TARGETS)
def test_what_is_valid_is_taken_to_pieces_and_put_together_again(name: str) -> None:
    target = TARGETS[name]
    rng = random.Random(name)
    for seed in target.seeds():
        target.try_(seed)
        data = seed
        for _ in range(20 * max(1, FACTOR)):
            data = changed(seed if rng.random() < 0.5 else data[:20_000], target.form, rng)
            target.try_(data)


@pytest.mark.parametrize("name", TARGETS)
def test_deep_nesting_is_refused(name: str) -> None:
    for nested in (b"[", b'{"x":', b"\x91", b"\x81\xa1x", b"a=["):
        TARGETS[name].try_(nested * 30_000)


@examples(60)
@given(name=st.sampled_from(sorted(TARGETS)), data=st.binary(max_size=200))
def test_garbage_is_refused_by_name(name: str, data: bytes) -> None:
    TARGETS[name].try_(data)
