"""`talkoot peers`, `ban` and `unban` without a daemon, and what they say with one."""

import json
from pathlib import Path

import pytest
from bad_input_rig import refused
from typer.testing import CliRunner

from talkoot.cli import conduct
from talkoot.cli.main import app
from talkoot.dht.identity import Identity
from talkoot.peer.statedir import StateDir

PEER = Identity.from_seed(b"p" * 32).peer_id
OTHER = Identity.from_seed(b"o" * 32).peer_id


@pytest.fixture
def state(tmp_path: Path) -> Path:
    paths = StateDir(tmp_path / "state")
    paths.prepare()
    Identity.load_or_create(paths.key_file)
    return paths.path


def talkoot(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_bans_are_kept_on_disk_while_no_daemon_runs(state: Path) -> None:
    where = ("--state-dir", state)
    assert "nobody is banned" in talkoot("peers", *where)
    assert "until lifted" in talkoot("ban", PEER, "--reason", "too loud", *where)
    entry = json.loads(talkoot("ban", OTHER, "--for", "2h", "--json", *where))
    assert entry["ban"]["until"] - entry["ban"]["since"] == pytest.approx(7200)
    shown = json.loads(talkoot("peers", "--json", *where))
    assert shown["running"] is False
    assert {item["peer_id"]: item["ban"]["reason"] for item in shown["peers"]} == {
        PEER: "too loud",
        OTHER: "",
    }
    text = talkoot("peers", *where)
    assert "until lifted, by you: too loud" in text
    assert "for 2 h 00 min, by you: no reason given" in text
    assert "may connect again" in talkoot("unban", PEER[-8:], *where)
    assert PEER not in talkoot("peers", *where)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("ban", "nonsense"), "no PeerID"),
        (("ban", PEER, "--for", "2 fortnights"), "no length of time"),
        (("ban", PEER, "--for", "0h"), "no length of time"),
        (("ban", PEER, "--reason", "x" * 99), "at most 80 characters"),
        (("ban", PEER, "--for", "99999w"), "a hundred years"),
        (("unban", PEER[-8:]), "no PeerID"),
    ],
)
def test_bad_orders_are_one_line(
    capsys: pytest.CaptureFixture[str], state: Path, arguments: tuple[str, ...], words: str
) -> None:
    outcome = refused(capsys, *arguments, "--state-dir", state)
    assert (outcome.code, words in outcome.line) == (2, True), outcome
    assert not (state / "bans.json").exists()


def test_what_cannot_be_is_one_line(capsys: pytest.CaptureFixture[str], state: Path, tmp_path: Path) -> None:
    own = Identity.load_or_create(state / "identity.key").peer_id
    assert "itself" in refused(capsys, "ban", own, "--state-dir", state).line
    outcome = refused(capsys, "unban", PEER, "--state-dir", state)
    assert (outcome.code, "is not banned" in outcome.line) == (1, True)
    assert refused(capsys, "peers", "--state-dir", tmp_path / "none").code == 2
    assert not (tmp_path / "none").exists()
    with StateDir(state).lock():
        assert "is in use" in refused(capsys, "ban", PEER, "--state-dir", state).line
    (state / "bans.json").write_text("[{")
    for command in (("peers",), ("ban", PEER), ("unban", PEER)):
        outcome = refused(capsys, *command, "--state-dir", state)
        assert (outcome.code, "bans.json is damaged" in outcome.line) == (2, True)
    assert (state / "bans.json").read_text() == "[{"


def test_the_table_shows_scores_and_why() -> None:
    peer = {"peer_id": PEER, "state": "training", "role": "full", "round": 7, "score": -12.5}
    banned = {"reason": "flood", "by": "score", "since": 0.0, "until": None}
    watch = {"suspected": False, "signs": [], "norm_score": 0.3}
    entries = [
        {**peer, "score_reason": "wrong_hash", "ban": None, "watch": watch},
        {**peer, "state": "banned", "score": 0.0, "score_reason": "", "ban": banned},
    ]
    lines = conduct._text(entries, running=True).splitlines()
    assert lines[0].split() == ["peer", "name", "state", "role", "path", "round", "score", "watch", "banned"]
    assert lines[1].split() == [
        PEER,
        *["-", "training", "full", "-", "7", "-12.5", "as", "usual", "no", "(wrong", "hash)"],
    ]
    assert "until lifted, by its score: flood" in lines[2]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "as usual"),
        ({"norm_score": None}, "new"),
        ({"signs": ["norm"]}, "odd: norm"),
        ({"suspected": True, "signs": ["norm", "copy"]}, "suspected: norm, copy"),
        ({"suspected": True}, "suspected"),
    ],
)
def test_what_contributions_look_like_is_said_in_a_word(changes: dict[str, object], words: str) -> None:
    watch = {"suspected": False, "signs": [], "norm_score": 0.3} | changes
    assert conduct._watch_words({"watch": watch}) == words
    assert conduct._watch_words({"watch": None}) == "-"
