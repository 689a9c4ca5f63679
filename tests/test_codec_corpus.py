"""What fuzzing found worth keeping, tried again each time, and the fuzzer's own parts."""

import random
from pathlib import Path

import pytest
from codec_fuzz import FRONT, examine, mutate, split, valid, variants

from talkoot.compression import codec, topk

CORPUS = Path(__file__).parent / "testdata" / "corpus"


def chain(kind: str, number: int) -> None:
    """Examine so many inputs, each made from the one before."""
    rng = random.Random(kind)
    data = b""
    for _ in range(number):
        data = mutate(kind, data, 4300, rng)
        examine(kind, data)


@pytest.mark.parametrize("kind", list(codec.KINDS))
def test_the_corpus_breaks_no_promise(kind: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / kind).iterdir())]
    decoded = [examine(kind, data) for data in inputs]
    assert any(decoded)
    assert not all(decoded)


@pytest.mark.parametrize("kind", list(codec.KINDS))
def test_mutations_break_no_promise(kind: str) -> None:
    chain(kind, 100)


@pytest.mark.parametrize("kind", list(codec.KINDS))
def test_valid_inputs_decode(kind: str) -> None:
    rng = random.Random(kind)
    assert all(examine(kind, valid(kind, rng)) for _ in range(20))


def test_a_decoder_that_checks_too_little_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topk, "_check_levels", lambda chunks, layout: None)
    with pytest.raises(AssertionError):
        chain("topk", 2_000)


def test_an_input_is_a_codec_and_its_bytes() -> None:
    assert [subject.name for subject in variants("topk")][:3] == ["topk", "topk:8", "topk:16"]
    subject, encoded, numel = split("topk", FRONT.pack(1, 0, 4096) + b"abc")
    assert (subject.name, numel) == ("topk:8", 4096)
    assert encoded == b"tc\x08\x03" + (4096).to_bytes(8, "little") + b"abc" + bytes(14)
    assert split("topk", FRONT.pack(1, 3, 4096) + b"abc")[1] == b"abc"
