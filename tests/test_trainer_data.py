"""Documents, held-out documents, token files, windows: what is read, and what nobody trains on."""

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from trainer_help import write_text

from talkoot.dht.errors import ConfigError
from talkoot.peer.manifest import Data
from talkoot.peer.trainer import documents, heldout, streaming, tokenizer
from talkoot.peer.trainer.data import Corpus, open_corpus
from talkoot.peer.trainer.windows import draws, even_starts, sequence_seed

TEXT = Data(source="text", paths=("*.txt",), sequence_length=16, held_out_percent=20)


def _open(data: Data, base: Path, **settings: Any) -> Corpus:
    words = tokenizer.load(data, base)
    own: dict[str, Any] = {"folder": base / "tokens", "vocab_size": words.vocab_size} | settings
    return open_corpus(data, words, base=base, **own)


def _substrings(corpus: Corpus, count: int) -> Iterator[bytes]:
    for window in corpus.training(7, 0, count):
        yield window.astype(np.uint8).tobytes()


# windows


def test_draws_are_a_function_of_seed_and_position() -> None:
    whole = draws(123, 0, 100, 1000)
    assert np.array_equal(np.concatenate([draws(123, 0, 37, 1000), draws(123, 37, 63, 1000)]), whole)
    assert whole.min() >= 0
    assert whole.max() < 1000
    assert not np.array_equal(draws(124, 0, 100, 1000), whole)


@examples(100)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**40), st.integers(1, 2**40))
def test_draws_are_split_mix_64(seed: int, position: int, bound: int) -> None:
    mask = 2**64 - 1
    state = (seed + (position + 1) * 0x9E3779B97F4A7C15) & mask
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
    assert draws(seed, position, 1, bound).tolist() == [(state ^ (state >> 31)) % bound]


def test_peers_and_rounds_have_sequences_of_their_own() -> None:
    seeds = {sequence_seed(b"s" * 32, bytes([peer]) * 32, r) for peer in range(4) for r in range(4)}
    assert len(seeds) == 16


@examples(100)
@given(st.integers(0, 500), st.integers(1, 50), st.integers(0, 40))
def test_even_starts_fit_and_do_not_overlap(length: int, window: int, count: int) -> None:
    starts = even_starts(length, window, count)
    assert len(starts) == min(count, length // window)
    assert all(0 <= s <= length - window for s in starts)
    assert all(b - a >= window for a, b in pairwise(starts))


# held-out documents


def test_held_out_documents_are_in_no_training_window(tmp_path: Path) -> None:
    write_text(tmp_path)
    corpus = _open(TEXT, tmp_path)
    files = [path.read_bytes() for path in tmp_path.glob("*.txt")]
    chosen = [f for f in files if heldout.is_held_out(heldout.document_hash(f), 20)]
    assert 0 < len(chosen) < len(files) / 2
    assert corpus.held_out_tokens == sum(len(f) + 1 for f in chosen)
    kept = b"\0".join(f for f in files if f not in chosen)
    for window in _substrings(corpus, 500):
        pieces = window.split(b"\0")
        assert all(piece in kept for piece in pieces)
        assert not any(len(piece) > 12 and any(piece in f for f in chosen) for piece in pieces)


def test_the_choice_depends_on_content_alone(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_text(tmp_path / "one")
    for number, path in enumerate(sorted((tmp_path / "one").glob("*.txt"), reverse=True)):
        (tmp_path / "two" / f"{number}.txt").write_bytes(path.read_bytes())
        (tmp_path / "two" / f"{number}-copy.txt").write_bytes(path.read_bytes())
    one, two = _open(TEXT, tmp_path / "one"), _open(TEXT, tmp_path / "two")
    assert one.hash == two.hash
    assert np.array_equal(one.held_out(50), two.held_out(50))
    assert one.train_tokens == two.train_tokens


def test_held_out_share_is_about_right() -> None:
    hashes = [heldout.document_hash(str(i).encode()) for i in range(4000)]
    assert 0.04 < sum(heldout.is_held_out(h, 5) for h in hashes) / 4000 < 0.06


# sources


def test_a_second_start_takes_the_token_files_and_a_change_makes_them_anew(tmp_path: Path) -> None:
    write_text(tmp_path)
    first = _open(TEXT, tmp_path)
    stamp = (tmp_path / "tokens" / "train.bin").stat().st_mtime_ns
    assert _open(TEXT, tmp_path).hash == first.hash
    assert (tmp_path / "tokens" / "train.bin").stat().st_mtime_ns == stamp
    (tmp_path / "doc-0.txt").write_text("something else")
    assert _open(TEXT, tmp_path).hash != first.hash
    (tmp_path / "tokens" / "train.bin").write_bytes(b"torn")
    assert _open(TEXT, tmp_path).train_tokens > 1000


def test_bad_utf8_and_empty_files_are_fine_for_bytes(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "odd.txt").write_bytes(b"\xff\xfe\x80" * 100)
    assert _open(TEXT, tmp_path).train_tokens > 1000


def test_a_huge_single_line_is_cut(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_bytes(b"x1y" * 300_000)
    pieces = list(documents.text([tmp_path / "line.txt"]))
    assert b"".join(pieces) == b"x1y" * 300_000
    assert max(map(len, pieces)) <= 2 * documents.PIECE_BYTES


def test_long_texts_are_cut_after_a_newline(tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_bytes(b"a line of some length\n" * 20_000)
    pieces = list(documents.text([tmp_path / "long.txt"]))
    assert len(pieces) > 4
    assert all(piece.endswith(b"\n") for piece in pieces)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "a"', "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b'["text"]', "object"),
        (b'{"body": "a"}', "'text'"),
        (b'{"text": 3}', "'text'"),
    ],
)
def test_a_corrupt_json_line_is_named(tmp_path: Path, line: bytes, words: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "fine"}\n\n' + line + b"\n")
    with pytest.raises(ConfigError, match=words) as caught:
        list(documents.json_lines([tmp_path / "a.jsonl"], "text"))
    assert "a.jsonl:3" in str(caught.value)


def test_a_json_line_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 30)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "' + b"x" * 50 + b'"}')
    with pytest.raises(ConfigError, match="more than 30 bytes"):
        list(documents.json_lines([tmp_path / "a.jsonl"], "text"))


def test_json_lines_are_read(tmp_path: Path) -> None:
    rows = [{"text": f"row {i} " * 20} for i in range(50)]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    corpus = _open(replace(TEXT, source="jsonl", paths=("a.jsonl",)), tmp_path)
    assert corpus.train_tokens + corpus.held_out_tokens == sum(len(row["text"]) + 1 for row in rows)


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../x.txt", "~/x.txt", "a/../../x"])
def test_a_manifest_does_not_choose_among_private_files(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(ConfigError, match="--data"):
        _open(replace(TEXT, paths=(pattern,)), tmp_path)


def test_own_files_may_lie_anywhere(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    corpus = _open(TEXT, tmp_path / "elsewhere", own_paths=(str(tmp_path / "*.txt"),))
    assert corpus.train_tokens > 1000


def test_missing_and_empty_data_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="matches no file"):
        _open(TEXT, tmp_path)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        _open(TEXT, tmp_path)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ConfigError, match="more text is needed"):
        _open(TEXT, tmp_path)


def test_the_standard_library_is_there(tmp_path: Path) -> None:
    files = documents.stdlib_files()
    size = sum(path.stat().st_size for path in files)
    assert size > 5_000_000
    assert not any("test" in path.parts or "idlelib" in path.parts for path in files)


# token files


def _tokens(folder: Path, count: int, dtype: str = "<u2") -> Data:
    rng = np.random.default_rng(0)
    rng.integers(0, 256, count).astype(dtype).tofile(folder / "a.bin")
    return replace(TEXT, source="tokens", paths=("a.bin",), token_dtype="uint16")


def test_token_files_keep_held_out_blocks_apart(tmp_path: Path) -> None:
    data = _tokens(tmp_path, 40_000)
    corpus = _open(data, tmp_path)
    held_out = corpus.held_out(10_000)
    training = corpus.training(1, 0, 400)
    assert len(held_out) > 50
    secret = {row[:8].tobytes() for row in held_out}
    seen = {row[i : i + 8].tobytes() for row in training for i in range(9)}
    assert not secret & seen
    assert np.array_equal(np.concatenate([corpus.training(1, 0, 5), corpus.training(1, 5, 395)]), training)
    assert len(corpus.hash) == 32


def test_token_files_are_checked(tmp_path: Path) -> None:
    data = _tokens(tmp_path, 40_000)
    with pytest.raises(ConfigError, match="vocab_size is 100"):
        _open(data, tmp_path, vocab_size=100).training(0, 0, 20)
    (tmp_path / "a.bin").write_bytes(b"odd")
    with pytest.raises(ConfigError, match="whole number"):
        _open(data, tmp_path)
    (tmp_path / "a.bin").write_bytes(b"")
    with pytest.raises(ConfigError, match="more are needed"):
        _open(data, tmp_path)


# tokenizers


def _tokenizer_json(folder: Path) -> bytes:
    from tokenizers import Tokenizer, models, pre_tokenizers

    inner = Tokenizer(models.WordLevel({"<eos>": 0, "of": 1, "word0": 2, "?": 3}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(folder / "tokenizer.json"))
    return (folder / "tokenizer.json").read_bytes()


def test_a_tokenizer_file_is_used_and_its_hash_checked(tmp_path: Path) -> None:
    content = _tokenizer_json(tmp_path)
    write_text(tmp_path)
    data = replace(TEXT, tokenizer="tokenizer.json", tokenizer_hash=tokenizer.tokenizer_hash(content))
    corpus = _open(data, tmp_path)
    assert set(np.unique(corpus.training(0, 0, 50))) <= {0, 1, 2, 3}
    words = tokenizer.load(data, tmp_path)
    assert (words.separator, words.vocab_size) == (0, 4)
    with pytest.raises(ConfigError, match="vocab_size is 3"):
        tokenizer.require_fit(words, 3)
    with pytest.raises(ConfigError, match="another hash"):
        tokenizer.load(replace(data, tokenizer_hash="00"), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match="is no tokenizer"):
        tokenizer.load(replace(data, tokenizer_hash=""), tmp_path)
    with pytest.raises(ConfigError, match="cannot read"):
        tokenizer.load(replace(data, tokenizer="missing.json"), tmp_path)


# streams


class _Rows:
    """Stands for an iterable data set of the `datasets` library."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self._rows)

    def shuffle(self, *, seed: int, buffer_size: int) -> "_Rows":
        assert buffer_size > 1
        order = np.random.default_rng(seed).permutation(len(self._rows))
        return _Rows([self._rows[i] for i in order])


def _stream(rows: list[dict[str, Any]]) -> streaming.StreamedCorpus:
    opener = streaming.opener_of(_Rows(rows), "text")
    return streaming.StreamedCorpus(opener, tokenizer.ByteTokenizer(), TEXT, identity=b"set at revision")


def test_a_stream_keeps_held_out_documents_apart_and_never_ends() -> None:
    rows = [{"text": f"document {i}: " + "abc" * i} for i in range(50)]
    corpus, again = _stream(rows), _stream(rows)
    first = corpus.training(3, 0, 300)
    assert np.array_equal(np.concatenate([again.training(3, 0, 10), again.training(3, 10, 290)]), first)
    assert not np.array_equal(_stream(rows).training(4, 0, 300), first)
    text = first.astype(np.uint8).tobytes()
    names = [f"document {i}: ".encode() for i in range(50)]
    chosen = [
        heldout.is_held_out(heldout.document_hash(row["text"].encode()), TEXT.held_out_percent)
        for row in rows
    ]
    assert any(chosen)
    assert [name in text for name in names] == [not c for c in chosen]
    assert len(corpus.held_out(4)) == 4


def test_a_stream_taken_up_in_its_middle_is_deterministic() -> None:
    rows = [{"text": f"document {i} " * 5} for i in range(50)]
    assert np.array_equal(_stream(rows).training(3, 40, 20), _stream(rows).training(3, 40, 20))


@pytest.mark.parametrize(("rows", "words"), [([], "no documents"), ([{"body": "x"}], "'text'")])
def test_a_useless_stream_is_one_line(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        _stream(rows).training(0, 0, 1)


def test_the_extra_is_named_when_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    data = Data(source="huggingface", dataset="x/y", revision="0" * 40)
    with pytest.raises(ConfigError, match=r"talkoot\[huggingface\]"):
        streaming.huggingface(data, tokenizer.ByteTokenizer())
