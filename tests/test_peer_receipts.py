"""Receipts: what certificates prove of a peer's work, and the leaderboard that they make."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from state_rig import FOUNDERS, MANIFEST, NEWCOMER, advance, found, make_manifest
from typer.testing import CliRunner

from talkoot.averaging.certificate import Contribution, decode_certificate
from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import peer_id_of
from talkoot.peer.certlog import CertLog
from talkoot.peer.credit import Board, credits_of
from talkoot.peer.names import read_names
from talkoot.peer.receipts import ReceiptBook, board_of, receipts_for
from talkoot.peer.statedir import StateDir

ALICE = FOUNDERS[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three rounds: of all founders, of all, and a weak one of the first two. Tests leave it as it is."""
    paths = StateDir(tmp_path_factory.mktemp("receipts") / "state")
    holdings = found(paths.path)
    paths.claim(MANIFEST.swarm_id)
    paths.save_manifest(MANIFEST.canonical())
    advance(holdings)
    advance(holdings)
    advance(holdings, by=FOUNDERS[:2], weak=True)
    holdings.close()
    return paths.path


@pytest.fixture
def state(made: Path, tmp_path: Path) -> StateDir:
    """A copy to change, of what receipts need."""
    whole, copy = StateDir(made), StateDir(tmp_path)
    for file in (whole.swarm_file, whole.manifest_file, whole.round_log):
        shutil.copy(file, copy.path)
    return copy


def certificates(paths: StateDir) -> list[bytes]:
    with CertLog(paths.round_log) as log:
        return [content for _, content in log.read_range(0)]


def rewrite(paths: StateDir, first: int, contents: list[bytes]) -> None:
    paths.round_log.unlink()
    with CertLog(paths.round_log) as log:
        for number, content in enumerate(contents, first):
            log.append(number, content)


def test_receipts_of_a_founder(made: Path) -> None:
    found_ = receipts_for(ReceiptBook(StateDir(made)), ALICE.key)
    assert found_.ok
    assert [(item.round, item.kind, item.proven) for item in found_.receipts] == [
        (0, "final", True), (1, "final", True), (2, "weak", True),
    ]  # fmt: skip
    first, _, weak = found_.receipts
    assert (first.steps, first.tokens, first.credit, first.signed, first.voters) == (20, 100, 100, 3, 3)
    assert first.weight == pytest.approx(1 / 3)
    assert (weak.weight, weak.signed, weak.voters) == (0.5, 2, 3)
    assert "3 rounds (2 final) counted" in found_.proven[0]
    assert any("weak rounds that no final one follows (1)" in words for words in found_.not_proven)
    assert any("tokens and steps" in words for words in found_.not_proven)


def test_a_stranger_has_none(made: Path) -> None:
    found_ = receipts_for(ReceiptBook(StateDir(made)), NEWCOMER.key)
    assert found_.ok
    assert (found_.receipts, found_.joined, found_.rounds, found_.proven) == ([], 0, 3, [])


def test_a_log_that_begins_later_proves_less(state: StateDir) -> None:
    """Nothing vouches for its first certificate; weights are known all the same where all vote."""
    rewrite(state, 2, certificates(state)[2:])
    found_ = receipts_for(ReceiptBook(state), ALICE.key)
    assert found_.ok
    assert [(item.proven, item.weight) for item in found_.receipts] == [(False, None), (False, 0.5)]
    assert found_.proven == []
    assert found_.not_proven[0].startswith("2 of the rounds: nothing here says")


def test_a_gap_ends_what_is_proven(state: StateDir) -> None:
    all_ = certificates(state)
    state.round_log.unlink()
    with CertLog(state.round_log) as log:
        for number in (0, 1, 3):
            log.append(number, all_[number])
    found_ = receipts_for(ReceiptBook(state), ALICE.key)
    assert [(item.round, item.proven) for item in found_.receipts] == [(0, True), (2, False)]


def _more_tokens(certificate: bytes) -> bytes:
    value = decode_certificate(certificate)
    cut = tuple(msgspec.structs.replace(item, tokens=10**9) for item in value.value.cut)
    changed = msgspec.structs.replace(value.value, cut=cut)
    return msgspec.structs.replace(value, value=changed).encode()


def _without_votes(certificate: bytes) -> bytes:
    return msgspec.structs.replace(decode_certificate(certificate), votes=()).encode()


def _of_one_voter(certificate: bytes) -> bytes:
    value = decode_certificate(certificate)
    return msgspec.structs.replace(value, votes=value.votes[:1]).encode()


@pytest.mark.parametrize("forge", [_more_tokens, _without_votes, _of_one_voter])
@pytest.mark.parametrize("begins_with_it", [False, True])
def test_what_is_forged_is_no_receipt(state: StateDir, forge: object, begins_with_it: bool) -> None:
    assert callable(forge)
    all_ = certificates(state)
    forged = [*all_[:2], forge(all_[2]), all_[3]]
    rewrite(state, 2 if begins_with_it else 0, forged[2:] if begins_with_it else forged)
    found_ = receipts_for(ReceiptBook(state), ALICE.key)
    if begins_with_it and forge is _of_one_voter:  # how many had to sign is not known from there
        assert not any(item.proven for item in found_.receipts)
        return
    assert not found_.ok
    assert [item.round for item in found_.receipts] == ([] if begins_with_it else [0])


def test_another_swarms_log_gives_nothing(state: StateDir) -> None:
    other = make_manifest("another")
    state.swarm_file.unlink()
    state.claim(other.swarm_id)
    state.save_manifest(other.canonical())
    found_ = receipts_for(ReceiptBook(state), ALICE.key)
    assert not found_.ok
    assert found_.receipts == []


def test_a_directory_without_receipts_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no receipts"):
        ReceiptBook(StateDir(tmp_path))


# -- the leaderboard ---------------------------------------------------------------------------------


def test_the_same_rounds_give_the_same_leaderboard_everywhere(made: Path, state: StateDir) -> None:
    boards = [board_of(ReceiptBook(paths)) for paths in (StateDir(made), state)]
    assert boards[0].rows() == boards[1].rows()
    assert boards[0].fingerprint == boards[1].fingerprint
    rows = boards[0].rows()
    keys = sorted(one.key for one in FOUNDERS)
    weak = {one.key for one in FOUNDERS[:2]}
    assert [row.key for row in rows] == [
        *(key for key in keys if key in weak), *(key for key in keys if key not in weak),
    ]  # fmt: skip
    assert [(row.rounds, row.weak, row.credit) for row in rows] == [(3, 1, 300), (3, 1, 300), (2, 0, 200)]


@examples(40)
@given(
    claims=st.lists(st.integers(0, 10**15), min_size=1, max_size=8),
    carried=st.lists(st.integers(0, 3), min_size=8, max_size=8),
)
def test_no_claim_earns_more_than_the_weight_would(claims: list[int], carried: list[int]) -> None:
    cut = [_claim(bytes([n]) * 32, tokens, carried[n]) for n, tokens in enumerate(claims)]
    earned = credits_of(cut)
    median = max(1, sorted(claims)[(len(claims) - 1) // 2])
    assert credits_of(reversed(cut)) == earned
    for item in cut:
        assert 0 <= earned[item.key] <= min(item.tokens + item.carried_tokens, 4 * median)
        assert item.carried or earned[item.key] == min(item.tokens, 2 * median)


def _claim(key: bytes, tokens: int, carried: int) -> Contribution:
    return Contribution(
        swarm=bytes(32), round=0, prior=bytes(32), key=key, root=bytes(32), norm2=1.0, steps=1, tokens=tokens,
        numel=1, codec="int8", carried=carried, carried_tokens=carried * tokens,
    )  # fmt: skip


def test_a_board_of_nothing() -> None:
    board = Board()
    assert board.rows() == []
    assert len(board.fingerprint) == 32


# -- the commands ------------------------------------------------------------------------------------


def say(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(words))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_receipts_on_a_terminal_and_as_json(made: Path) -> None:
    where = ("--state-dir", str(made))
    code, text = say("receipts", "--peer", ALICE.peer_id[-8:], *where)
    assert code == 0
    assert "counted in 3 of 3 rounds that it joined" in text
    assert "not proven   who the person is" in text
    code, text = say("receipts", "--peer", ALICE.peer_id, "--json", *where)
    assert [item["round"] for item in json.loads(text)["receipts"]] == [0, 1, 2]


def test_the_leaderboard_shows_names_that_peers_gave(state: StateDir) -> None:
    state.names.write_text(json.dumps({ALICE.peer_id: "Ada", FOUNDERS[1].peer_id: "\x1b[31mMallory"}))
    code, text = say("leaderboard", "--state-dir", str(state.path))
    assert code == 0
    assert f"{ALICE.peer_id[-8:]}  Ada" in text
    assert "Mallory" not in text
    code, text = say("leaderboard", "--json", "--state-dir", str(state.path))
    values = json.loads(text)
    assert {row["peer_id"]: row["public_name"] for row in values["peers"]}[ALICE.peer_id] == "Ada"
    assert values["digest"] == decode_certificate(certificates(state)[-1]).value.digest.hex()


def test_a_damaged_log_is_told_with_exit_code_1(state: StateDir) -> None:
    all_ = certificates(state)
    rewrite(state, 0, [*all_[:2], _without_votes(all_[2]), all_[3]])
    for command in ("receipts --peer " + ALICE.peer_id, "leaderboard"):
        code, text = say(*command.split(), "--state-dir", str(state.path))
        assert code == 1
        assert "failed       chain: no_quorum" in text


@pytest.mark.parametrize(
    ("peer", "words"),
    [("abc", "no PeerID, nor the last 6"), ("zzzzzzzz", "no peer whose PeerID ends in zzzzzzzz")],
)
def test_whose_receipts_must_be_clear(made: Path, peer: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        say("receipts", "--peer", peer, "--state-dir", str(made))


def test_names_on_disk_are_read_with_care(tmp_path: Path) -> None:
    path = tmp_path / "names.json"
    assert read_names(path) == {}
    for damaged in (b"", b"[]", b'{"x": "Ada"}', b"\xff", b"[" * 50_000):
        path.write_bytes(damaged)
        assert read_names(path) == {}
    path.write_text(json.dumps({peer_id_of(ALICE.key): "x" * 17}))
    assert read_names(path) == {}
