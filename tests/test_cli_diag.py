"""`talkoot diag`: what helps is in the bundle, and no secret of any source."""

import base64
import io
import json
import secrets
import stat
import time
import zipfile
from pathlib import Path

import pytest
from state_rig import FOUNDERS, MANIFEST
from typer.testing import CliRunner

from talkoot.cli.main import app
from talkoot.dht.errors import ConfigError
from talkoot.dht.identity import Identity
from talkoot.peer import diag
from talkoot.peer.diag import CONTENTS, MAX_MEMBER_BYTES, Answers, bundle
from talkoot.peer.kept_log import FILE_NAME
from talkoot.peer.redact import Redactor
from talkoot.peer.statedir import StateDir

NOW = 1_800_000_000.0
OTHER = FOUNDERS[1]
GONE = FOUNDERS[2]
TOKEN = secrets.token_urlsafe(32)
INVITE = "talkoot://AbCdEf0123456789-_abcdef"
SEED = "5e" * 32
SECRETS = (
    TOKEN, INVITE, INVITE[10:], SEED, "203.0.113.77", "2001:db8::1:beef", "198.51.100.9", "hunter2",
    "anna@example.org", "Ada Lovelace", "node.example.net", "/srv/very/private", "very/private",
    "fe80:1:2:3:4:5:6:7", OTHER.peer_id, OTHER.peer_id[-8:], OTHER.key.hex(), GONE.peer_id[-8:],
)  # fmt: skip


@pytest.fixture
def paths(tmp_path: Path) -> StateDir:
    """A state directory with secrets wherever there may be some."""
    paths = StateDir(tmp_path / "home" / "state")
    paths.path.mkdir(parents=True)
    Identity.load_or_create(paths.key_file)
    paths.claim(MANIFEST.swarm_id)
    paths.save_manifest(MANIFEST.canonical())
    paths.token_file.write_text(TOKEN)
    paths.invite_file.write_text(INVITE)
    paths.names.write_text(json.dumps({OTHER.peer_id: "Ada Lovelace"}))
    paths.logs.mkdir()
    lines = [
        {"message": f"joined by {INVITE} from /ip4/203.0.113.77/tcp/4001/p2p/{OTHER.peer_id}"},
        {"message": f"token={TOKEN} password: hunter2 mail anna@example.org", "api_token": TOKEN},
        {"message": f"peer {OTHER.peer_id[-8:]} at 198.51.100.9:4001 or [2001:db8::1:beef] 05:41:34"},
        {
            "message": "also fe80:1:2:3:4:5:6:7",
            "left_out": [{"peer_id": GONE.peer_id[-8:], "reason": "late"}],
        },
        {"message": f"cannot write {paths.path}/outer: full; data in /srv/very/private/corpus.txt"},
        {"message": f"Authorization: Bearer {TOKEN}, key {OTHER.key.hex()}, seed {SEED}"},
    ]
    (paths.logs / FILE_NAME).write_text("\n".join(map(json.dumps, lines)) + "\n")
    return paths


def answers(paths: StateDir) -> Answers:
    own = Identity.load_or_create(paths.key_file).peer_id
    return Answers(
        status={
            "peer_id": own, "public_name": "Ada Lovelace", "state": "training", "round": 7,
            "addresses": ["/ip4/203.0.113.77/tcp/4001", "/dns4/node.example.net/tcp/1"],
            "digest": "ab" * 32, "swarm_id": "cd" * 32, "state_dir": str(paths.path),
            "steps_total": 1234, "swarm_name": "demo", "seed": SEED,
            "warning": f"the data folder /srv/very/private holds {TOKEN}",
        },
        peers=[{"peer_id": OTHER.peer_id, "public_name": "Ada Lovelace", "state": "training", "score": -1.5}],
        rounds=[{"round": 7, "digest": "ab" * 32, "counted": [own, OTHER.peer_id], "leader": OTHER.peer_id}],
        metrics=f'talkoot_round 7\ntalkoot_node_info{{peer_id="{own}",run="x"}} 1\n# {TOKEN}\n',
        problems=[f"metrics: no answer from 203.0.113.77 with {TOKEN}"],
    )  # fmt: skip


def members(data: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        return {
            info.filename.removeprefix("talkoot-diag/"): file.read(info).decode() for info in file.infolist()
        }


def test_no_secret_of_any_source_is_in_the_bundle(paths: StateDir) -> None:
    found = members(bundle(paths, answers(paths), now=NOW))
    assert set(found) == {"README.txt", *CONTENTS}
    key = paths.key_file.read_bytes()
    own = Identity.load_or_create(paths.key_file)
    seed = key[4:36]
    hidden = [
        *SECRETS, own.peer_id, own.peer_id[-8:], own.key.hex(), seed.hex(), base64.b64encode(seed).decode(),
        str(paths.path), str(Path.home()) + "/",
    ]  # fmt: skip
    for name, text in found.items():
        for secret in hidden:
            assert secret not in text, (name, secret)


def test_what_helps_is_in_it(paths: StateDir) -> None:
    found = members(bundle(paths, answers(paths), now=NOW))
    status = json.loads(found["status.json"])
    assert (status["peer_id"], status["state"], status["round"], status["steps_total"]) == (
        "peer-self", "training", 7, 1234,
    )  # fmt: skip
    assert status["digest"] == "ab" * 6
    (other,) = json.loads(found["peers.json"])
    assert other["peer_id"].startswith("peer-")
    (record,) = json.loads(found["rounds.json"])
    assert record["counted"] == ["peer-self", other["peer_id"]]
    assert f"peer {other['peer_id']} at [address]" in found["log.txt"]
    assert "05:41:34" in found["log.txt"]
    assert "cannot write [state]/outer: full" in found["log.txt"]
    assert "talkoot_round 7" in found["metrics.txt"]
    assert json.loads(found["versions.json"])["packages"]["msgspec"]
    assert json.loads(found["config.json"])["swarm"]["name"] == MANIFEST.swarm.name
    assert "identity.key" in {entry["name"] for entry in json.loads(found["files.json"])}
    for name in CONTENTS:
        assert name in found["README.txt"]


def test_two_bundles_cannot_be_compared(paths: StateDir) -> None:
    one, two = (json.loads(members(bundle(paths, answers(paths), now=NOW))["peers.json"]) for _ in range(2))
    assert one[0]["peer_id"] != two[0]["peer_id"]


def test_a_bundle_is_bounded(paths: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diag, "MAX_MEMBER_BYTES", 4000)
    rounds = [{"round": number, "words": "x" * 50} for number in range(1000)]
    found = members(bundle(paths, Answers(rounds=rounds, metrics="m 1\n" * 10_000), now=NOW))
    assert all(len(text) <= 4000 for name, text in found.items() if name != "README.txt")
    assert found["rounds.json"].endswith("[cut off here]\n")
    assert MAX_MEMBER_BYTES == 1 << 20


def test_it_works_without_a_daemon_and_says_so(paths: StateDir, tmp_path: Path) -> None:
    out = tmp_path / "bundle.zip"
    result = CliRunner().invoke(app, ["diag", "--state-dir", str(paths.path), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "note: no daemon runs" in result.output
    found = members(out.read_bytes())
    assert "status.json: not here" in found["README.txt"]
    assert "no daemon runs on [state]" in found["README.txt"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["bundle.zip"]


def test_what_is_there_is_not_written_over(paths: StateDir, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.write_text("precious")
    for given, words in ((out, "exists already"), (tmp_path / "no" / "x.zip", "is no folder")):
        result = CliRunner().invoke(app, ["diag", "--state-dir", str(paths.path), "--out", str(given)])
        assert isinstance(result.exception, ConfigError)
        assert words in str(result.exception)
    assert out.read_text() == "precious"


def test_a_folder_that_is_no_state_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no state directory"):
        bundle(StateDir(tmp_path), Answers(), now=time.time())


@pytest.mark.parametrize(
    "harmless",
    [
        "talkoot_checkpoint_last_success_timestamp_seconds_of_everything_and_more 1.5",
        "round 7 took 1.25 s at 2026-11-22T05:41:34.519276Z", "http://127.0.0.1:8080/api/v1/status",
        "tokens_total 12800, codec int8, version 1.2.3", "form 0.1/5.0 s",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(harmless: str) -> None:
    assert Redactor().text(harmless) == harmless
