"""The ledger of error feedback: whatever is certified on whatever branch, nothing is lost or counts twice."""

import tempfile
from pathlib import Path

import pytest
import torch
from averaging_help import make_rules
from fuzzing import examples
from hypothesis import example, given
from hypothesis import strategies as st
from ledger_rig import Op, Peer, data_of, dyadic

from talkoot.averaging.rules import Feedback
from talkoot.compression import codec as codecs
from talkoot.compression.codec import CodecError
from talkoot.peer import contribution_log, residual_note

NUMEL = 300
"""Two chunks, the last one short."""

NUMBERS = st.integers(0, 2**16)
CALM = (*["work", "count", "branch"] * 2, "omit", "switch", "again", "restart", "kill", "die")


def ops(kinds: tuple[str, ...], most: int = 40) -> st.SearchStrategy[list[Op]]:
    return st.lists(st.tuples(st.sampled_from(kinds), NUMBERS), max_size=most)


def play(peer: Peer, kind: str, number: int, delta: torch.Tensor) -> None:
    """One thing that happens to a peer."""
    weak = number % 4 != 0
    match kind:
        case "work":
            peer.work(delta, steps=5 if number % 9 == 0 else 80, tokens=number)
        case "count" | "omit":
            peer.follow(peer.certify(peer.head, count=kind == "count", weak=weak))
        case "branch":
            places = peer.reachable()
            parent = places[number % len(places)]
            peer.certify(parent, count=number // 4 % 2 == 0, weak=weak)
        case "switch":
            places = peer.reachable()
            peer.follow(places[number % len(places)])
        case "again":
            peer.follow(peer.head)
        case "restart":
            peer.restart()
            places = peer.reachable()
            peer.follow(places[number % len(places)] if number % 2 else peer.head)
        case "kill":
            peer.kill()
            peer.follow(peer.head)
        case "die":
            peer.work(delta, dies=True)
        case "damage":
            (peer.path / residual_note.NAME).unlink(missing_ok=True)
            peer.kill()
            peer.follow(peer.head)


BACK_AND_FORTH: list[Op] = [("count", 1), ("work", 1), ("count", 1), ("switch", 0), ("switch", 2)]
"""Back from a weak branch to the final round before it, as from a damaged disk, and to the branch again."""


@given(ops(CALM))
@example(BACK_AND_FORTH)
@examples(150)
def test_what_was_made_is_counted_or_carried_bit_for_bit(happens: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), NUMEL)
        for kind, number in happens:
            play(peer, kind, number, dyadic(number, NUMEL))
            assert torch.equal(peer.made, peer.accounted()), kind
            units = sum(1 + item.carried for item in peer.counted_headers())
            assert peer.books.rounds == peer.units - units, kind
            counted = sum(item.tokens + item.carried_tokens for item in peer.counted_headers())
            assert peer.books.tokens == peer.tokens - counted, kind


@given(ops(CALM, most=30))
@examples(150)
def test_decay_takes_its_share_of_what_encodings_lost_and_of_nothing_else(happens: list[Op]) -> None:
    """Halves of halves stay exact: quarters that bf16 rounds, and at most 15 contributions that decay."""
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), NUMEL, codec="bf16", decay=0.5)
        for kind, number in happens:
            play(peer, kind, number, dyadic(number, NUMEL, unit=4))
            assert torch.equal(peer.made, peer.accounted() + peer.forgotten), kind


@pytest.mark.parametrize("codec", ["int4", "lloyd4", "lloyd2", "sign", "topk:64"])
@given(ops(CALM, most=30))
@examples(15)
def test_codecs_of_few_bits_keep_the_books_but_for_rounding(codec: str, happens: list[Op]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), NUMEL, codec=codec, decay=0.75)
        for kind, number in happens:
            play(peer, kind, number, dyadic(number, NUMEL))
            books = peer.accounted() + peer.forgotten
            torch.testing.assert_close(peer.made, books, rtol=0.0, atol=1e-4)


def test_decay_leaves_uncounted_work_bit_for_bit_and_happens_once(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL, decay=0.75)
    generator = torch.Generator().manual_seed(3)
    deltas = [torch.randn(NUMEL, generator=generator) for _ in range(3)]
    peer.work(deltas[0])
    peer.follow(peer.certify(peer.head, count=True, weak=False))
    lost = peer.books.carry_P.clone()
    assert lost.any()
    peer.restart()
    peer.follow(peer.head)
    peer.work(deltas[1])  # `work` itself checks what is carried then
    assert torch.equal(peer.books.carry_P, lost * 0.75 + deltas[1])
    peer.follow(peer.certify(peer.head, count=False, weak=False))
    whole = peer.books.carry_P.clone()
    peer.work(deltas[2])
    assert torch.equal(peer.books.carry_P, whole + deltas[2])


def test_decay_is_not_taken_back_on_another_branch(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL, decay=0.5)
    first, second = (dyadic(number, NUMEL) for number in (1, 2))
    peer.work(first)
    without = peer.certify(peer.head, count=False, weak=True)
    peer.follow(peer.certify(peer.head, count=True, weak=True))
    lost = peer.books.carry_P.clone()
    peer.work(second)
    peer.follow(without)
    assert torch.equal(peer.books.carry_P, first + second - lost / 2)
    assert peer.books.rounds == 2


@given(ops((*CALM, "damage")), st.booleans(), st.booleans())
@examples(150)
def test_no_piece_of_work_counts_twice_whatever_is_lost(
    happens: list[Op], error_feedback: bool, crowded: bool
) -> None:
    """Each piece of work has an element of its own: on every chain it is there once, or lost."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        if crowded:
            patch.setattr(contribution_log, "MAX_KEPT", 2)
            patch.setattr(contribution_log, "MAX_HEADERS", 3)
        peer = Peer(Path(folder), NUMEL, codec="fp32", error_feedback=error_feedback)
        for kind, number in happens:
            piece = torch.zeros(NUMEL)
            piece[peer.units] = 1.0
            play(peer, kind, number, piece)
            there = peer.accounted() / torch.where(peer.made > 0, peer.made, 1.0)
            assert bool(((there == 0) | (there == 1)).all()), kind


def test_an_uncounted_contribution_stays_bit_for_bit(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL)
    delta = torch.randn(NUMEL, generator=torch.Generator().manual_seed(3))
    peer.work(delta)
    peer.follow(peer.certify(peer.head, count=False, weak=False))
    assert torch.equal(peer.books.carry_P.view(torch.int32), delta.view(torch.int32))
    local = peer.work(torch.zeros(NUMEL))
    assert local is not None
    assert local.header.carried == 1
    assert local.header.carried_tokens == 100


@given(NUMBERS)
@examples(30)
def test_with_int8_a_return_to_the_old_branch_is_exact_for_any_numbers(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(NUMEL, generator=generator) * torch.rand(NUMEL, generator=generator) ** 8
    with tempfile.TemporaryDirectory() as folder:
        peer = Peer(Path(folder), NUMEL)
        peer.work(delta)
        without = peer.certify(peer.head, count=False, weak=True)
        peer.follow(peer.certify(peer.head, count=True, weak=True))
        left = peer.books.carry_P.clone()
        there = peer.head
        peer.follow(without)
        assert torch.equal(peer.books.carry_P.view(torch.int32), delta.view(torch.int32))
        peer.follow(there)
        assert torch.equal(peer.books.carry_P.view(torch.int32), left.view(torch.int32))


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_contribution_survives_an_orderly_stop_and_is_sent_again_unchanged(
    tmp_path: Path, codec: str
) -> None:
    peer = Peer(tmp_path, NUMEL, codec=codec)
    first = peer.work(dyadic(1, NUMEL))
    peer.restart()
    peer.follow(peer.head)
    again = peer.work(dyadic(2, NUMEL))
    assert first is not None
    assert again is not None
    assert again is not first
    assert (again.header, data_of(again)) == (first.header, data_of(first))


@pytest.mark.parametrize("codec", codecs.NAMES)
def test_a_killed_process_leaves_all_but_what_it_had_not_saved(tmp_path: Path, codec: str) -> None:
    peer = Peer(tmp_path, NUMEL, codec=codec)
    peer.work(dyadic(1, NUMEL))
    peer.follow(peer.certify(peer.head, count=False, weak=True))
    sent = peer.work(dyadic(2, NUMEL))
    carried = peer.books.carry_P.clone()
    peer.kill()
    peer.follow(peer.head)
    assert torch.equal(peer.books.carry_P, carried)
    again = peer.work(dyadic(3, NUMEL))
    assert sent is not None
    assert again is not None
    assert (again.header, data_of(again)) == (sent.header, data_of(sent))
    peer.follow(peer.certify(peer.head, count=True, weak=False))
    carried = peer.books.carry_P.clone()
    peer.work(dyadic(4, NUMEL), dies=True)
    assert torch.equal(peer.books.carry_P, carried)


def test_bytes_stay_on_the_disk_as_long_as_what_was_saved_names_them(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    peer.follow(peer.certify(peer.head, count=True, weak=False))
    assert not peer.books.log.entries
    carried = peer.books.carry_P.clone()
    peer.kill()  # the file says that nothing is counted yet
    peer.follow(peer.head)
    assert torch.equal(peer.books.carry_P, carried)
    peer.restart()
    assert not list((tmp_path / "contributions").iterdir())


@pytest.mark.parametrize("step", ["written", "renamed"])
def test_a_save_that_is_cut_short_leaves_what_was_saved_before(tmp_path: Path, step: str) -> None:
    class CutError(Exception):
        pass

    def cut(at: str) -> None:
        if at == f"{residual_note.NAME} {step}":
            raise CutError

    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    peer.follow(peer.certify(peer.head, count=True, weak=False))
    carried = peer.books.carry_P.clone()
    peer.kill(cut)
    peer.follow(peer.head)
    with pytest.raises(CutError):
        peer.books.save()
    peer.kill()
    peer.follow(peer.head)
    assert torch.equal(peer.books.carry_P, carried)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damaged_bytes_are_not_given_back(tmp_path: Path, damage: str) -> None:
    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    without = peer.certify(peer.head, count=False, weak=True)
    peer.follow(peer.certify(peer.head, count=True, weak=True))
    left = peer.books.carry_P.clone()
    (path,) = (tmp_path / "contributions").iterdir()
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data if damage == "flip" else data[:-1])
    if damage == "remove":
        path.unlink()
    peer.follow(without)
    assert torch.equal(peer.books.carry_P, left)  # lost, and said so; not guessed
    peer.follow(peer.places[2])
    assert torch.equal(peer.books.carry_P, left)


def test_an_unknown_history_voids_the_books(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    later = peer.certify(peer.certify(peer.head, count=True, weak=False), count=True, weak=False)
    peer.head = later
    peer.books.follow(later.certificate, lambda number: None)
    assert not peer.books.carry_P.any()
    assert "whether round 1 counted our work is not known" in caplog.text


def test_work_that_is_not_finite_is_thrown_away_alone(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    peer.follow(peer.certify(peer.head, count=False, weak=False))
    kept = peer.books.carry_P.clone()
    with pytest.raises(CodecError):
        peer.work(torch.full((NUMEL,), float("nan")))
    assert torch.equal(peer.books.carry_P, kept)
    peer.work(dyadic(2, NUMEL))
    assert torch.equal(peer.made, peer.accounted())


def test_what_is_kept_is_bounded(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL)
    for number in range(2 * contribution_log.MAX_KEPT):
        peer.work(dyadic(number, NUMEL))
        peer.follow(peer.certify(peer.head, count=True, weak=True))
    assert len(list((tmp_path / "contributions").iterdir())) == contribution_log.MAX_KEPT
    assert all(entry.local is None for entry in peer.books.log.entries)
    peer.follow(peer.certify(peer.head, count=True, weak=False))
    assert not peer.books.log.entries
    peer.restart()
    assert not list((tmp_path / "contributions").iterdir())


def test_fp32_contributions_are_bounded_by_their_bytes(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL, codec="fp32")
    for number in range(4):
        peer.work(dyadic(number, NUMEL))
        peer.follow(peer.certify(peer.head, count=True, weak=True))
    size = sum(path.stat().st_size for path in (tmp_path / "contributions").iterdir())
    assert 0 < size <= contribution_log.MAX_BYTES_PER_ELEMENT * NUMEL + 200


@pytest.mark.parametrize("damage", ["flip", "cut", "header", "empty"])
def test_what_is_damaged_is_none(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str) -> None:
    peer = Peer(tmp_path, NUMEL)
    peer.work(dyadic(1, NUMEL))
    file = tmp_path / residual_note.NAME
    data = file.read_bytes()
    spoiled = {
        "flip": data[:-1] + bytes([data[-1] ^ 1]),
        "cut": data[:-1],
        "header": data[:60] + bytes([data[60] ^ 1]) + data[61:],
        "empty": b"",
    }
    file.write_bytes(spoiled[damage])
    peer.kill()
    assert not peer.books.carry_P.any()
    assert not peer.books.log.entries
    assert "what was carried over is lost" in caplog.text


def piece_of(number: int) -> torch.Tensor:
    piece = torch.zeros(NUMEL)
    piece[number] = 1.0
    return piece


def test_a_late_count_without_bytes_voids_what_was_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contribution_log, "MAX_KEPT", 1)
    peer = Peer(tmp_path, NUMEL, codec="fp32")
    peer.work(piece_of(0))
    counted = peer.certify(peer.head, count=True, weak=True)
    peer.follow(peer.certify(peer.head, count=False, weak=True))
    peer.work(piece_of(1))  # the bytes of the first are forgotten now
    peer.follow(counted)
    assert not peer.books.carry_P.any()
    assert peer.accounted()[:2].tolist() == [1, 0]


def test_a_fork_further_back_than_the_log_voids_what_was_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contribution_log, "MAX_HEADERS", 2)
    peer = Peer(tmp_path, NUMEL, codec="fp32")
    peer.work(piece_of(0))
    counted = peer.certify(peer.head, count=True, weak=True)
    for number in range(1, 5):
        peer.follow(peer.certify(peer.head, count=False, weak=True))
        peer.work(piece_of(number))
    peer.follow(peer.certify(peer.head, count=False, weak=True))
    assert len(peer.books.log.entries) == 2
    assert peer.accounted()[:5].tolist() == [1] * 5
    peer.restart()
    peer.follow(counted)
    assert peer.accounted()[:5].tolist() == [1, 0, 0, 0, 0]


def test_without_feedback_a_late_count_takes_only_what_it_had(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL, codec="fp32", error_feedback=False)
    peer.work(piece_of(0))
    counted = peer.certify(peer.head, count=True, weak=True)
    peer.follow(peer.certify(peer.head, count=False, weak=True))
    peer.work(piece_of(1))
    peer.follow(counted)
    assert peer.accounted()[:2].tolist() == [1, 1]
    assert peer.books.rounds == 1


def test_without_feedback_a_count_takes_all(tmp_path: Path) -> None:
    peer = Peer(tmp_path, NUMEL, error_feedback=False)
    peer.work(torch.randn(NUMEL, generator=torch.Generator().manual_seed(1)))
    peer.follow(peer.certify(peer.head, count=True, weak=True))
    assert not peer.books.carry_P.any()
    assert peer.books.rounds == 0


@pytest.mark.parametrize(
    ("setting", "codec", "keeps"),
    [
        ("auto", "int8", False),
        ("auto", "int8:64", False),
        ("auto", "bf16", False),
        ("auto", "lloyd2", True),
        ("auto", "topk:64", True),
        (True, "int8", True),
        (False, "topk:64", False),
    ],
)
def test_feedback_can_follow_the_codec(setting: Feedback, codec: str, keeps: bool) -> None:
    assert make_rules(error_feedback=setting).feeds_back(codec) is keeps
